"""The neural memory's fused twin, for memories of one and of two layers and both reads.

The kernels are in `neural_memory_matrix` (one layer) and `neural_memory_network` (two); here are the operators, which
take flat tensors, and the twin's cases and builds. Any number of tokens is two launches: the coefficients of all chunks
in parallel, then the chunks one after another.

Letters: B batch, T tokens, H heads, D head dim, E hidden units, C chunk, N chunks, Z = B * H, L memory layers.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ttbench.kernels.dispatch.twin import Build, Case, Twin
from ttbench.kernels.fused.launch import build_at, pick, target_of
from ttbench.kernels.fused.neural_memory_gates import gates_kernel
from ttbench.kernels.fused.neural_memory_matrix import matrix_kernel, matrix_step_kernel
from ttbench.kernels.fused.neural_memory_network import network_kernel, network_step_kernel
from ttbench.kernels.fused.operands import dot_constants, exact_precision, operands_name
from ttbench.kernels.fused.shared.inner_models import inner_case, operands_label, scaled_normal, too_large
from ttbench.kernels.neural_memory import MemoryState, layer_shapes

MAX_LAYERS = 2


@torch.library.custom_op("ttbench::neural_matrix_step", mutates_args=("M", "S", "X", "D", "pending"))
def _matrix_step(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, place: Tensor,
    M: Tensor, S: Tensor, X: Tensor, D: Tensor, pending: Tensor, token: bool,
) -> Tensor:  # fmt: skip
    num_rows, dim = q.shape[0] * q.shape[2], q.shape[3]
    target = target_of(q.device)
    settings = pick("neural_matrix_step", size=dim, target=target)
    out = torch.empty_like(q)
    matrix_step_kernel[(num_rows, triton.cdiv(dim, settings.tile))](
        q, k, v, gates, place, M, S, X, D, pending, out, M.stride(0), S.stride(0), X.stride(0), D.stride(0),
        **_sizes(dim, len(pending) // num_rows), TILE=settings.tile, TOKEN=token, PRECISION=exact_precision(target),
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    return out


@_matrix_step.register_fake
def _(q, k, v, gates, place, M, S, X, D, pending, token) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op(
    "ttbench::neural_network_step", mutates_args=("M1", "S1", "M2", "S2", "X1", "D1", "X2", "D2", "pending")
)
def _network_step(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, place: Tensor, M1: Tensor, S1: Tensor, M2: Tensor, S2: Tensor,
    X1: Tensor, D1: Tensor, X2: Tensor, D2: Tensor, pending: Tensor, token: bool,
) -> Tensor:  # fmt: skip
    num_rows, dim, hidden = q.shape[0] * q.shape[2], q.shape[3], D1.shape[1]
    target = target_of(q.device)
    settings = pick("neural_network_step", size=dim, target=target)
    out, weights, rows = torch.empty_like(q), (M1, S1, M2, S2), (X1, D1, X2, D2)
    network_step_kernel[(num_rows,)](
        q, k, v, gates, place, *weights, *rows, pending, out, *(x.stride(0) for x in (*weights, *rows)),
        triton.cdiv(hidden, settings.tile), **_sizes(dim, len(pending) // num_rows), E=hidden,
        BN=_num_tiles(hidden, settings.tile), TILE=settings.tile, TOKEN=token, PRECISION=exact_precision(target),
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    return out


@_network_step.register_fake
def _(q, k, v, gates, place, M1, S1, M2, S2, X1, D1, X2, D2, pending, token) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("ttbench::neural_memory", mutates_args=())
def _prefill(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, pending: Tensor,
    weights: list[Tensor], rows: list[Tensor], offset: int, token: bool, operands: str,
) -> list[Tensor]:  # fmt: skip
    """`weights`: M, S of every layer; `rows`: X, D of every layer. Returns the outputs, those after it, and pending."""
    batch_size, num_tokens, num_heads, dim = q.shape
    num_rows, chunk_size, target = batch_size * num_heads, pending.shape[2], target_of(q.device)
    num_chunks = -(-(offset + num_tokens) // chunk_size)
    sizes = _sizes(dim, chunk_size)
    settings = pick("neural_gates", size=chunk_size, target=target)
    A = q.new_empty(num_rows, num_chunks, chunk_size, chunk_size) if token else q.new_empty(1)
    coefficients = q.new_empty(num_rows, num_chunks, 5, chunk_size)
    gates_kernel[(num_rows * num_chunks,)](
        gates, pending, A, coefficients, num_tokens, num_heads, num_chunks, offset,
        C=sizes["C"], BC=sizes["BC"], TOKEN=token,
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    out, weights = torch.empty_like(q), [x.clone() for x in weights]
    new_rows, new_pending = [torch.empty_like(x) for x in rows], torch.empty_like(pending)
    arguments = [
        q, k, v, gates, A, coefficients, *rows, pending, out, *weights, *new_rows, new_pending,
        num_tokens, num_heads, num_chunks, offset,
    ]  # fmt: skip
    constants = {**sizes, "TOKEN": token, **dot_constants(operands)}
    if len(rows) == 2:
        settings = pick("neural_matrix", size=dim, target=target)
        kernel, grid = matrix_kernel, (num_rows, triton.cdiv(dim, settings.tile))
    else:
        settings = pick("neural_network", size=dim, target=target)
        kernel, grid, constants["E"] = network_kernel, (num_rows,), rows[1].shape[-1]
        arguments.append(triton.cdiv(constants["E"], settings.tile))
    kernel[grid](
        *arguments, **constants, TILE=settings.tile, num_warps=settings.num_warps, num_stages=settings.num_stages
    )
    return [out, *weights, *new_rows, new_pending]


@_prefill.register_fake
def _(q, k, v, gates, pending, weights, rows, offset, token, operands) -> list[Tensor]:
    return [torch.empty_like(x) for x in (q, *weights, *rows, pending)]


def _sizes(dim: int, chunk_size: int) -> dict[str, Any]:
    """Constants of all kernels."""
    return {
        "D": dim,
        "C": chunk_size,
        "BD": max(16, triton.next_power_of_2(dim)),
        "BC": max(16, triton.next_power_of_2(chunk_size)),
    }


def _num_tiles(hidden: int, tile: int) -> int:
    return 1 << (-(-hidden // tile) - 1).bit_length()


def step(q, k, v, gates, state: MemoryState, *, place, last, read: str, operands=None) -> Tensor:
    """As `neural_memory.step`; `last` is not read: the device knows."""
    inputs = (x.contiguous() for x in (q, k, v, gates))
    run = _matrix_step if len(state.M) == 1 else _network_step
    return run(*inputs, place, *_flat(state), read == "token")


def _flat(state: MemoryState) -> list[Tensor]:
    """Weights and momenta [Z, I * O], pending rows [Z * C, I or O]: views whose rows may lie apart.

    Raises:
        RuntimeError: the state is laid out so that there is no such view.
    """
    num_rows, chunk_size = state.gates.shape[0] * state.gates.shape[1], state.gates.shape[2]
    weights = [x.view(num_rows, -1) for pair in zip(state.M, state.S, strict=True) for x in pair]
    rows = [x.view(num_rows * chunk_size, -1) for pair in zip(state.X, state.D, strict=True) for x in pair]
    return [*weights, *rows, state.gates.view(num_rows * chunk_size, 3)]


def prefill(
    q, k, v, gates, initial_state: MemoryState, *, offset: int, read: str, operands=None
) -> tuple[Tensor, MemoryState]:
    """As `neural_memory.chunked`."""
    before, num_layers = initial_state, len(initial_state.M)
    inputs = (x.contiguous() for x in (q, k, v, gates, before.gates))
    weights = [x.contiguous() for pair in zip(before.M, before.S, strict=True) for x in pair]
    rows = [x.contiguous() for pair in zip(before.X, before.D, strict=True) for x in pair]
    name = operands_name(operands or q.dtype)
    out, *after, pending = _prefill(*inputs, weights, rows, offset, read == "token", name)
    weights, rows = after[: 2 * num_layers], after[2 * num_layers :]
    return out, MemoryState(
        M=tuple(weights[::2]), S=tuple(weights[1::2]), X=tuple(rows[::2]), D=tuple(rows[1::2]), gates=pending
    )


def refuses(q, k, v, gates, initial_state: MemoryState, **rest) -> str | None:
    """Why the kernels cannot take these arguments; None: they can."""
    if len(initial_state.M) > MAX_LAYERS:
        return f"a memory of {len(initial_state.M)} layers is over {MAX_LAYERS}"
    return too_large(q, initial_state.gates, chunk_len=initial_state.gates.shape[2], noun="chunk")


def _refuses_step(q, k, v, gates, state: MemoryState, **rest) -> str | None:
    try:
        flat = _flat(state)
    except RuntimeError:
        return "the state has no flat view"
    # the last operand is contiguous, and so are the elements of every row
    if flat[-1].stride(0) != 3 or any(x.stride(1) != 1 for x in flat if x.shape[1] > 1):
        return "the state has no flat view"
    return refuses(q, k, v, gates, state)


def draw(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, *,
    B: int, T: int, H: int, D: int, C: int, L: int, offset: int,
) -> tuple[tuple[Tensor, ...], MemoryState]:  # fmt: skip
    """Inputs as a model's layer gives them, and a state of which `offset` tokens are pending and the rest is NaN.

    Among the gates are a momentum and a memory that are lost (0, the logarithm -inf) and ones that are kept whole.
    """

    normal = scaled_normal(generator, device)

    def gates(*shape: int) -> Tensor:
        theta = torch.rand(shape, generator=generator, dtype=torch.float64).to(device, torch.float32) / C
        eta, keep = F.logsigmoid(normal(*shape, scale=2.0)), F.logsigmoid(normal(*shape) + 2)
        eta[..., 5::11, :], keep[..., 7::13, :], eta[..., 1::7, :] = -torch.inf, -torch.inf, 0.0
        return torch.stack((theta, eta, keep), -1)

    q, k, v = (F.normalize(normal(B, T, H, D), dim=-1).to(dtype).float() for _ in range(3))
    shapes = layer_shapes(D, num_layers=L, expansion=2)
    state = MemoryState(
        M=tuple(normal(B, H, *shape, scale=shape[0] ** -0.5) for shape in shapes),
        S=tuple(normal(B, H, *shape, scale=0.1 * shape[0] ** -0.5) for shape in shapes),
        X=tuple(normal(B, H, C, rows, scale=rows**-0.5) for rows, _ in shapes),
        D=tuple(normal(B, H, C, columns, scale=columns**-0.5) for _, columns in shapes),
        gates=gates(B, C, H).transpose(1, 2).contiguous(),
    )
    for pending in (*state.X, *state.D, state.gates):
        pending[:, :, offset:] = torch.nan
    return (q, k, v, gates(B, T, H)), state


def _case(*, read: str, **given: Any) -> Case:
    return inner_case(draw, options={"read": read}, **given)


def _build(kernel: Any, name: str, target: str, *, dim: int, chunk_size: int, operands: str, most: int) -> Build:
    settings = pick(name, size=chunk_size if name == "neural_gates" else dim, target=target)
    constants = {**_sizes(dim, chunk_size), "E": 2 * dim, "TILE": settings.tile, "TOKEN": True}
    constants |= {"BN": _num_tiles(2 * dim, settings.tile or dim), **dot_constants(operands, interpret=False)}
    if "OPERANDS" not in kernel.arg_names:
        constants["PRECISION"] = exact_precision(target, interpret=False)
    label = f"D {dim}, C {chunk_size}, {operands}"
    return build_at(kernel, label, settings, constants, kinds={"place_ptr": "*i64"}, max_spilled=most)


def _step_builds(target: str) -> tuple[Build, ...]:
    sizes = {"dim": 64, "chunk_size": 64, "operands": "tf32", "most": 0}
    found = [_build(network_step_kernel, "neural_network_step", target, **sizes)]
    if target == "sm_90":
        found.append(_build(matrix_step_kernel, "neural_matrix_step", target, **sizes))
    return tuple(found)


def _builds(target: str) -> tuple[Build, ...]:
    # Two matrices, their momenta and a chunk of tokens: what is left over is the least of a dozen settings.
    most = {"sm_80": 192, "sm_90": 64, "gfx942": 0}[target]
    sizes = {"dim": 64, "chunk_size": 32, "operands": "bf16", "most": most}
    found = [_build(network_kernel, "neural_network", target, **sizes)]
    if target == "sm_90":
        sizes = {"dim": 64, "chunk_size": 64}
        found.append(_build(matrix_kernel, "neural_matrix", target, **sizes, operands="bf16", most=32))
        found.append(_build(gates_kernel, "neural_gates", target, **sizes, operands="tf32", most=0))
    return tuple(found)


STEP = Twin(
    name="neural_memory_step",
    plain="ttbench.kernels.neural_memory:step",
    run=step,
    refuses=_refuses_step,
    label=operands_label,
    cases=(
        _case(step=True, read="token", B=2, T=1, H=3, D=8, C=4, L=1, offset=0),
        _case(step=True, read="token", B=2, T=1, H=3, D=20, C=7, L=1, offset=3),
        _case(step=True, read="chunk", B=2, T=1, H=3, D=20, C=7, L=1, offset=6),
        _case(step=True, read="token", B=2, T=1, H=3, D=20, C=7, L=1, offset=6),
        _case(step=True, read="token", B=2, T=1, H=3, D=20, C=7, L=2, offset=0),
        _case(step=True, read="token", B=2, T=1, H=3, D=20, C=7, L=2, offset=6),
        _case(step=True, read="chunk", B=2, T=1, H=3, D=20, C=7, L=2, offset=3),
        _case(step=True, read="chunk", B=2, T=1, H=3, D=20, C=7, L=2, offset=6),
        _case(step=True, read="token", B=1, T=1, H=2, D=64, C=64, L=2, offset=63),
        _case(step=True, read="token", B=1, T=1, H=2, D=96, C=32, L=2, offset=31),
        _case(step=True, read="token", large=True, B=64, T=1, H=24, D=64, C=64, L=2, offset=33),
    ),
    builds=_step_builds,
)
PREFILL = Twin(
    name="neural_memory",
    plain="ttbench.kernels.neural_memory:chunked",
    run=prefill,
    refuses=refuses,
    label=operands_label,
    cases=(
        _case(read="token", B=2, T=1, H=3, D=8, C=4, L=1, offset=1),
        _case(read="token", B=2, T=37, H=2, D=20, C=7, L=1, offset=3),
        _case(read="chunk", B=2, T=18, H=3, D=20, C=7, L=1, offset=3),
        _case(read="token", B=2, T=15, H=2, D=20, C=7, L=2, offset=3),
        _case(read="chunk", B=2, T=15, H=2, D=20, C=7, L=2, offset=2),
        _case(read="token", B=1, T=3, H=2, D=20, C=7, L=2, offset=2),
        _case(read="token", B=1, T=128, H=2, D=64, C=64, L=2, offset=0),
        _case(read="token", B=1, T=70, H=2, D=96, C=32, L=2, offset=5),
        _case(read="token", large=True, B=16, T=2048, H=24, D=64, C=64, L=2, offset=0),
        _case(read="chunk", large=True, B=1, T=2050, H=16, D=64, C=32, L=2, offset=7),
        _case(read="token", large=True, B=1, T=2050, H=16, D=96, C=64, L=1, offset=7),
    ),
    builds=_builds,
    launches=2,
)
