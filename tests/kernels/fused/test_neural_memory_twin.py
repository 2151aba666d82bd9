"""The neural memory's kernels: tokens one after another, states laid out as the models keep them, and faults that the
cases must catch. Parity is in test_fused.py.
"""

# pyright: reportCallIssue=false

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ttbench.kernels import neural_memory
from ttbench.kernels.dispatch.proof import prove
from ttbench.kernels.dispatch.running import using, watching
from ttbench.kernels.dispatch.trees import copied, difference, mapped, tensors
from ttbench.kernels.dispatch.twin import interpreted
from ttbench.kernels.neural_memory import MemoryState
from ttbench.models.titans.titans import TitansLMM

twins = pytest.importorskip("ttbench.kernels.fused.neural_memory_twin", reason="Triton is not installed")
if not interpreted():
    pytest.skip("kernels are compiled in this process", allow_module_level=True)

CPU = torch.device("cpu")
SIZES = {"B": 2, "H": 2, "D": 8, "C": 4}


def drawn(num_tokens: int, *, num_layers: int, offset: int) -> tuple[tuple[torch.Tensor, ...], MemoryState]:
    draw = torch.Generator().manual_seed(3)
    return twins.draw(draw, CPU, torch.float32, T=num_tokens, L=num_layers, offset=offset, **SIZES)


def as_a_model_keeps_it(state: MemoryState) -> MemoryState:
    """The same values as views of one tensor of weights, one of momenta and one of pending rows."""

    def views(parts: tuple[torch.Tensor, ...], start: int) -> list[torch.Tensor]:
        flat = torch.cat([part.flatten(start) for part in parts], -1)
        sizes = [part.flatten(start).shape[-1] for part in parts]
        return [x.unflatten(-1, part.shape[start:]) for x, part in zip(flat.split(sizes, -1), parts, strict=True)]

    rows = views(tuple(x for pair in zip(state.X, state.D, strict=True) for x in pair), 3)
    return MemoryState(
        M=tuple(views(state.M, 2)),
        S=tuple(views(state.S, 2)),
        X=tuple(rows[::2]),
        D=tuple(rows[1::2]),
        gates=state.gates,
    )


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("read", neural_memory.READS)
def test_the_device_alone_decides_which_token_writes_the_weights(read: str, num_layers: int):
    inputs, state = drawn(6, num_layers=num_layers, offset=1)
    exact, before = copied((inputs, state), torch.float64)
    before = mapped(before, lambda x: x.nan_to_num(0.0))
    wanted, after = neural_memory.chunked.__wrapped__(*exact, before, offset=1, read=read)
    outs, state = [], as_a_model_keeps_it(state)
    with torch.inference_mode(), using("fused"):
        for t in range(6):
            place = torch.tensor([(1 + t) % 4])
            # the host says every time that the token is not the last
            outs.append(
                neural_memory.step(*(x[:, t : t + 1] for x in inputs), state, place=place, last=False, read=read)
            )
    rows = [(x[:, :, :3], y[:, :, :3]) for x, y in zip(tensors(state), tensors(after), strict=True)][2 * num_layers :]
    kept = [*zip((*state.M, *state.S), (*after.M, *after.S), strict=True), *rows, (torch.cat(outs, 1), wanted)]
    assert difference([x for x, _ in kept], [y for _, y in kept]) < 2e-5


@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_is_not_given_is_not_changed(num_layers: int):
    inputs, state = drawn(5, num_layers=num_layers, offset=2)
    before = copied((inputs, state))
    with torch.inference_mode(), using("fused"):
        neural_memory.chunked(*inputs, state, offset=2, read="token")
    for now, then in zip(tensors((inputs, state)), tensors(before), strict=True):
        assert torch.equal(now.view(torch.int32), then.view(torch.int32))


@pytest.mark.parametrize("overrides", [{"memory_layers": 1, "memory_read": "chunk"}, {"memory_layers": 2}], ids=str)
def test_a_model_says_the_same_with_it(overrides: dict[str, Any]):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TitansLMM.tiny(chunk_size=4, num_persistent=3, num_hidden_layers=1, **overrides).eval()
    ids = torch.randint(0, 257, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), watching() as ran:
        wanted = copy.deepcopy(model).double()(ids)
        with using("fused"):
            state, hidden = model.new_state(2, 9), []
            for part in ids.split((2, 3, 1, 1, 1, 1), 1):
                one = part.shape[1] == 1
                # variant 0 at every token: the device decides which is the last of a chunk
                hidden.append(model.step(part[:, 0], state, 0)[:, None] if one else model(part, state))
                state.num_tokens += part.shape[1]
    assert difference(torch.cat(hidden, 1), wanted) < 2e-5
    assert ran["neural_memory"] == "chunked + triton, interpreted, float32"
    assert ran["neural_memory_step"] == "triton, interpreted, float32"


@functools.cache
def sound_case(num_layers: int) -> Any:
    case = twins._case(read="token", **SIZES, T=5, L=num_layers, offset=2)
    assert prove(twins.PREFILL, case, device=CPU, dtype=torch.float32).holds
    return case


def _gates_one_token_late(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return run(*args[:3], args[3].roll(1, 1), args[4], **kwargs)


def _other_read(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return run(*args, **{**kwargs, "read": "chunk"})


def _tail_left_out(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    out, state = run(*(x[:, :-1] for x in args[:4]), args[4], **kwargs)
    return torch.cat((out, out[:, -1:]), 1), state


def _pending_rows_left_out(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    rows = tuple(x.nan_to_num(0.0) * 0 for x in args[4].D)
    return run(*args[:4], dataclasses.replace(args[4], D=rows), **kwargs)


def _momentum_not_written(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    out, state = run(*args, **kwargs)
    return out, dataclasses.replace(state, S=args[4].S)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize(
    "fault", [_gates_one_token_late, _other_read, _tail_left_out, _pending_rows_left_out, _momentum_not_written]
)
def test_a_planted_fault_is_caught(fault: Callable[..., Any], num_layers: int):
    case = sound_case(num_layers)
    wrong = dataclasses.replace(twins.PREFILL, run=lambda *args, **kwargs: fault(twins.prefill, list(args), kwargs))
    assert not prove(wrong, case, device=CPU, dtype=torch.float32).holds


def test_what_it_does_not_take_is_refused_with_a_reason():
    inputs, state = drawn(1, num_layers=2, offset=0)
    assert twins.STEP.refuses(*inputs, state) is None
    assert twins.STEP.refuses(*inputs, as_a_model_keeps_it(state)) is None
    apart = tuple(x.transpose(0, 1).contiguous().transpose(0, 1) for x in state.M)
    assert twins.STEP.refuses(*inputs, dataclasses.replace(state, M=apart)) == "the state has no flat view"
    assert twins.PREFILL.refuses(*inputs, dataclasses.replace(state, M=apart)) is None
    deep = dataclasses.replace(state, M=(*state.M, state.M[1]))
    assert twins.PREFILL.refuses(*inputs, deep) == "a memory of 3 layers is over 2"
    double = dataclasses.replace(state, gates=state.gates.double())
    assert twins.PREFILL.refuses(*inputs, double) == "no twin for float64"
    assert twins.PREFILL.refuses(inputs[0].repeat(1, 1, 1, 32), *inputs[1:], state) == "head dim 256 is over 128"
    _, long = twins.draw(torch.Generator(), CPU, torch.float32, T=1, L=1, offset=0, **{**SIZES, "C": 128})
    assert twins.PREFILL.refuses(*inputs, long) == "chunk 128 is over 64"
