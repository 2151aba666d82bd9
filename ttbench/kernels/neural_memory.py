"""Neural long-term memory: an MLP whose weights are trained, token by token, on the keys and values that it reads.

Per head, the memory M is an MLP of L layers without biases (GELU between them), its loss |M(k) - v|^2. With u_t the
gradient of the token's loss with respect to the weights, taken at the weights of the start of its chunk of C tokens:

    S_t = eta_t S_{t-1} - theta_t u_t          momentum ("surprise")
    M_t = keep_t M_{t-1} + S_t                 keep_t = 1 - alpha_t, forgetting
    out_t = M_t(q_t)                           `read` "token"
    out_t = M_0(q_t)                           `read` "chunk": the weights of the chunk's start

With C = 1 these are equations 9 to 15 of the paper; C > 1 is its section 3.2. C changes the model, not only the speed.
Unrolled, M_j = B_j M_0 + f_j S_0 - sum_{i <= j} A_ji u_i with coefficients that the gates alone decide
(`kernels.gating`). u_i of a layer is the outer product of its input X_i and its back-propagated error D_i, so reading
is a masked product of queries and inputs: no copy of the weights is made for a token.

Source: Behrouz et al., arXiv 2501.00663v1, section 3; the closed forms are derived from it.
Letters: B batch, T tokens, H heads, D head dim, C chunk, L memory layers, I and O in and out dim of a memory layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.kernels.dispatch.choice import op
from ttbench.kernels.gating import Mixes, mix
from ttbench.kernels.inner_inputs import NORM_EPS
from ttbench.kernels.norm import residual_norm
from ttbench.kernels.ttt_linear import refill

READS = ("chunk", "token")
BLOCK = 64  # chunks whose gate matrices are made at once


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryState:
    """Weights and momentum at the start of the current chunk, and what its tokens so far have to add to them.

    Rows of X, D and gates from the number of tokens in the chunk on are not read.
    """

    M: tuple[Float[Tensor, "B H _ _"], ...]  # [B, H, I, O]; one of each for every memory layer
    S: tuple[Float[Tensor, "B H _ _"], ...]  # [B, H, I, O]
    X: tuple[Float[Tensor, "B H C _"], ...]  # [B, H, C, I]: inputs of the layer
    D: tuple[Float[Tensor, "B H C _"], ...]  # [B, H, C, O]: gradients with respect to its outputs
    gates: Float[Tensor, "B H C 3"]  # theta, log eta, log keep

    @classmethod
    def initial(cls, weights: Sequence[Float[Tensor, "H _ _"]], *, batch_size: int, chunk_size: int) -> MemoryState:
        """State before the first token, from weights that are broadcast, not copied."""
        M = tuple(w.expand(batch_size, *w.shape) for w in weights)
        nothing = weights[0].new_zeros(1)

        def rows(width: int) -> Tensor:
            return nothing.expand(batch_size, weights[0].shape[0], chunk_size, width)

        return cls(
            M=M,
            S=tuple(nothing.expand(w.shape) for w in M),
            X=tuple(rows(w.shape[-2]) for w in M),
            D=tuple(rows(w.shape[-1]) for w in M),
            gates=rows(3),
        )


def layer_shapes(dim: int, *, num_layers: int, expansion: int) -> list[tuple[int, int]]:
    """[(I, O)] of the memory's layers: D to D through hidden layers of `expansion` times D."""
    widths = [dim, *[expansion * dim] * (num_layers - 1), dim]
    return list(pairwise(widths))


def state_size(shapes: Sequence[tuple[int, int]], chunk_size: int) -> int:
    """Elements of state of one head."""
    return sum(2 * rows * columns + chunk_size * (rows + columns) for rows, columns in shapes) + 3 * chunk_size


def flops(shapes: Sequence[tuple[int, int]], chunk_size: int, *, read: str) -> float:
    """FLOP of one token in one head by the closed forms, matrix products only, and of triangles what is not zero.

    Single steps take more: each that needs them makes the products of its chunk's gates anew, 2 C^3. With `read`
    "chunk" that is the last of a chunk.
    """
    size = sum(rows * columns for rows, columns in shapes)
    errors = sum(rows * columns for rows, columns in shapes[1:])
    triangle = (chunk_size + 1) / 2
    # a triangle times a triangle has C (C + 1) (C + 2) / 6 products, once for a chunk
    gates = (chunk_size + 1) * (chunk_size + 2) / 3
    write = 2 * size + 2 * errors + 2 * 2 * size  # forward, errors backward, M and S
    if read == "chunk":
        return write + gates + 2 * size
    within = sum(2 * (rows + columns) * triangle for rows, columns in shapes)
    return write + gates + 2 * 2 * size + within


def gelu_grad(x: Tensor) -> Tensor:
    """Derivative of the exact GELU, x Phi(x)."""
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def apply(weights: Sequence[Float[Tensor, "... _ _"]], x: Float[Tensor, "... T D"]) -> Float[Tensor, "... T D"]:
    """M(x)."""
    for weight in weights[:-1]:
        x = F.gelu(x @ weight)
    return x @ weights[-1]


def reference(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    gates: Float[Tensor, "B T H 3"],
    initial_state: MemoryState,
    *,
    offset: int,
    read: str,
) -> tuple[Float[Tensor, "B T H D"], MemoryState]:
    """Token by token, with whole weights and momentum, and gradients by automatic differentiation.

    Args:
        q, k, v: queries, keys and values.
        gates: theta >= 0, log eta <= 0, log keep <= 0 of each token.
        initial_state: what the tokens before left; not changed.
        offset: tokens of the current chunk that `initial_state` holds, 0 <= offset < C.
        read: "token" or "chunk".
    """
    chunk_size = initial_state.gates.shape[2]
    q, k, v, gates = (x.transpose(1, 2) for x in (q, k, v, gates))  # [B, H, T, D]
    start = start_M, start_S = initial_state.M, initial_state.S
    rows = [[*initial_state.X[i][:, :, :offset].unbind(2)] for i in range(len(start_M))]
    errors = [[*initial_state.D[i][:, :, :offset].unbind(2)] for i in range(len(start_M))]
    kept = [*initial_state.gates[:, :, :offset].unbind(2)]
    M, S = start
    for j in range(offset):
        grads = [x[j][..., :, None] * d[j][..., None, :] for x, d in zip(rows, errors, strict=True)]
        M, S = _advance(M, S, grads, kept[j])
    outs = []
    for t in range(q.shape[2]):
        k_t, v_t, gates_t = k[:, :, t, None], v[:, :, t, None], gates[:, :, t]
        grads, xs, ds = _token_grads(start_M, k_t, v_t)
        for store, new in ((rows, xs), (errors, ds)):
            for kept_rows, row in zip(store, new, strict=True):
                kept_rows.append(row.squeeze(2))
        kept.append(gates_t)
        M, S = _advance(M, S, grads, gates_t)
        outs.append(apply(start_M if read == "chunk" else M, q[:, :, t, None]).squeeze(2))
        if len(kept) == chunk_size:
            start_M, start_S, kept = M, S, []
            rows, errors = [[] for _ in M], [[] for _ in M]
    return torch.stack(outs, 1), MemoryState(
        M=tuple(start_M),
        S=tuple(start_S),
        X=tuple(refill(like, r) for like, r in zip(initial_state.X, rows, strict=True)),
        D=tuple(refill(like, r) for like, r in zip(initial_state.D, errors, strict=True)),
        gates=refill(initial_state.gates, kept),
    )


def _token_grads(weights: Sequence[Tensor], k: Tensor, v: Tensor) -> tuple[tuple[Tensor, ...], list, list]:
    """Gradient of one token's loss by weight, and the layers' inputs and errors, all by automatic differentiation."""

    def loss(weights: tuple[Tensor, ...], nudges: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        x, inputs = k, []
        for i, (weight, nudge) in enumerate(zip(weights, nudges, strict=True)):
            inputs.append(x)
            x = x @ weight + nudge
            x = F.gelu(x) if i < len(weights) - 1 else x
        return (x - v).square().sum(), inputs

    nudges = tuple(k.new_zeros(*k.shape[:-1], weight.shape[-1]) for weight in weights)
    (grads, errors), inputs = torch.func.grad(loss, argnums=(0, 1), has_aux=True)(tuple(weights), nudges)
    return grads, inputs, list(errors)


def _advance(
    M: Sequence[Tensor], S: Sequence[Tensor], grads: Sequence[Tensor], gates: Float[Tensor, "B H 3"]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Equations 13 and 14: one token's momentum and weights."""
    theta, eta, keep = gates[..., 0], gates[..., 1].exp(), gates[..., 2].exp()
    S = tuple(eta[..., None, None] * s - theta[..., None, None] * u for s, u in zip(S, grads, strict=True))
    return tuple(keep[..., None, None] * m + s for m, s in zip(M, S, strict=True)), S


@op("neural_memory", "chunked")
def chunked(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    gates: Float[Tensor, "B T H 3"],
    initial_state: MemoryState,
    *,
    offset: int,
    read: str,
    operands: torch.dtype | None = None,
) -> tuple[Float[Tensor, "B T H D"], MemoryState]:
    """The same numbers as `reference`, a chunk at a time by the closed forms.

    Arguments as in `reference`; `operands` as in `ttt_linear.chunked`.
    """
    chunk_size, num_tokens = initial_state.gates.shape[2], q.shape[1]
    q, k, v, gates = (x.transpose(1, 2) for x in (q, k, v, gates))  # [B, H, T, D]
    head = min(num_tokens, (chunk_size - offset) % chunk_size)
    body = (num_tokens - head) // chunk_size * chunk_size
    rest = num_tokens - head - body
    sizes = [size for size in (head, *[chunk_size] * (body // chunk_size), rest) if size]

    def mixes() -> Iterator[Mixes | None]:
        """Those of each chunk, of BLOCK whole ones at once."""
        if head:
            yield None
        for start in range(head, head + body, BLOCK * chunk_size):
            block = gates[:, :, start : min(start + BLOCK * chunk_size, head + body)].unflatten(2, (-1, chunk_size))
            made = mix(block)
            yield from (made.chunk(n) for n in range(block.shape[2]))
        if rest:
            yield None

    state, outs = initial_state, []
    # Split and not sliced: the gradient of a slice is as long as the text, and there is one for each chunk.
    parts = zip(*(x.split(sizes, 2) for x in (q, k, v, gates)), strict=True)
    for (q_n, k_n, v_n, gates_n), mixed in zip(parts, mixes(), strict=True):
        out, state = chunk(q_n, k_n, v_n, gates_n, state, offset=offset, read=read, mixes=mixed)
        outs.append(out)
        offset = 0
    return torch.cat(outs, 2).transpose(1, 2), state


def chunk(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    gates: Float[Tensor, "B H T 3"],
    state: MemoryState,
    *,
    offset: int,
    read: str,
    mixes: Mixes | None = None,
) -> tuple[Float[Tensor, "B H T D"], MemoryState]:
    """Tokens that lie within one chunk, of which `offset` came before. `mixes`: those of a whole chunk, if at hand."""
    chunk_size, stop = state.gates.shape[2], offset + q.shape[2]
    X, D = errors(state.M, k, v)
    if offset:
        X, D = (
            [torch.cat((old[:, :, :offset], new), 2) for old, new in zip(olds, news, strict=True)]
            for olds, news in ((state.X, X), (state.D, D))
        )
        gates = torch.cat((state.gates[:, :, :offset], gates), 2)
    mixes = mixes or mix(gates)
    out = apply(state.M, q) if read == "chunk" else _read(q, state, X, D, mixes, offset)
    if stop < chunk_size:
        rest = (0, 0, 0, chunk_size - stop)
        return out, MemoryState(
            M=state.M,
            S=state.S,
            X=tuple(F.pad(x, rest) for x in X),
            D=tuple(F.pad(d, rest) for d in D),
            gates=F.pad(gates, rest),
        )
    M, S = _commit(state, X, D, mixes)
    nothing = q.new_zeros(1)
    return out, MemoryState(
        M=M,
        S=S,
        X=tuple(nothing.expand(x.shape) for x in X),
        D=tuple(nothing.expand(d.shape) for d in D),
        gates=nothing.expand(gates.shape),
    )


def errors(weights: Sequence[Tensor], k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs X and errors D of each layer: the gradient of |M(k) - v|^2 by layer l is X_l^T D_l, token by token."""
    x, X, Z = k, [], []
    for weight in weights[:-1]:
        X.append(x)
        Z.append(x @ weight)
        x = F.gelu(Z[-1])
    X.append(x)
    d = 2 * (x @ weights[-1] - v)
    D = [d]
    for weight, z in zip(reversed(weights[1:]), reversed(Z), strict=True):
        d = (d @ weight.mT) * gelu_grad(z)
        D.insert(0, d)
    return X, D


def _read(q: Tensor, state: MemoryState, X: list[Tensor], D: list[Tensor], mixes: Mixes, offset: int) -> Tensor:
    """M_j(q_j) layer by layer, each as B_j M_0 + f_j S_0 - sum_i A_ji X_i^T D_i applied to the layer's input."""
    A, B, f = mixes.A[:, :, offset:], mixes.B[:, :, offset:], mixes.f[:, :, offset:]
    x = q
    for i, (m, s, inputs, deltas) in enumerate(zip(state.M, state.S, X, D, strict=True)):
        x = B * (x @ m) + f * (x @ s) - (A * (x @ inputs.mT)) @ deltas
        x = F.gelu(x) if i < len(X) - 1 else x
    return x


def _commit(
    state: MemoryState, X: Sequence[Tensor], D: Sequence[Tensor], mixes: Mixes
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights and momentum after the last token of a full chunk."""
    B, f, a = mixes.B[:, :, -1:], mixes.f[:, :, -1:], mixes.A[:, :, -1, :, None]
    M = tuple(B * m + f * s - x.mT @ (a * d) for m, s, x, d in zip(state.M, state.S, X, D, strict=True))
    S = tuple(mixes.last_decay * s - x.mT @ (mixes.last_momentum * d) for s, x, d in zip(state.S, X, D, strict=True))
    return M, S


@op("neural_memory_step", "step")
def step(
    q: Float[Tensor, "B 1 H D"],
    k: Float[Tensor, "B 1 H D"],
    v: Float[Tensor, "B 1 H D"],
    gates: Float[Tensor, "B 1 H 3"],
    state: MemoryState,
    *,
    place: Int[Tensor, "1"],
    last: bool,
    read: str,
    operands: torch.dtype | None = None,
) -> Float[Tensor, "B 1 H D"]:
    """One token; `state` is CHANGED IN PLACE: its pending rows always, weights and momentum when `last`.

    Args:
        place: index of the token in its chunk, on the device.
        last: whether it is the last of its chunk, known to the host.
        read: "token" or "chunk".
        operands: as in `ttt_linear.chunked`.
    """
    q, k, v, gates = (x.transpose(1, 2) for x in (q, k, v, gates))  # [B, H, 1, D]
    for pending, rows in zip((state.X, state.D), errors(state.M, k, v), strict=True):
        for kept, row in zip(pending, rows, strict=True):
            kept.index_copy_(2, place, row)
    state.gates.index_copy_(2, place, gates)
    # Rows after `place` are left from the chunk before: finite, and no coefficient up to `place` holds them.
    mixes = mix(state.gates) if last or read == "token" else None
    if mixes is None or read == "chunk":
        out = apply(state.M, q)
    else:
        at = Mixes(
            A=mixes.A.index_select(2, place),
            B=mixes.B.index_select(2, place),
            f=mixes.f.index_select(2, place),
            last_momentum=mixes.last_momentum,
            last_decay=mixes.last_decay,
        )
        out = _read(q, state, list(state.X), list(state.D), at, 0)
    if last:
        assert mixes is not None
        M, S = _commit(state, state.X, state.D, mixes)
        for olds, news in ((state.M, M), (state.S, S)):
            for old, new in zip(olds, news, strict=True):
                old.copy_(new)
    return out.transpose(1, 2)


def recall(
    r: Float[Tensor, "B T _"],
    weights: Sequence[Float[Tensor, "B H _ _"]],
    norm_weight: Float[Tensor, "D"],
    *,
    eps: float,
) -> Float[Tensor, "B T _"]:
    """norm(M(r)), where r is brought to length 1 in each head first; in and out, heads stand side by side.

    Args:
        r: what the memory is asked.
        weights: M.
        norm_weight, eps: of an RMSNorm of each head's answer.
    """
    heads = r.to(weights[0].dtype).unflatten(-1, (weights[0].shape[1], -1)).transpose(1, 2)
    answer = apply(weights, F.normalize(heads, dim=-1, eps=NORM_EPS))
    normed = residual_norm(answer, None, norm_weight, eps=eps, narrow=False)[1]
    return normed.transpose(1, 2).flatten(-2).to(r.dtype)


@op("memory_recall_step", None)
def recall_step(
    r: Float[Tensor, "B 1 _"],
    weights: Sequence[Float[Tensor, "B H _ _"]],
    norm_weight: Float[Tensor, "D"],
    *,
    eps: float,
) -> Float[Tensor, "B 1 _"]:
    """As `recall`, of one token."""
    return recall(r, weights, norm_weight, eps=eps)
