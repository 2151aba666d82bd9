"""TTT-MLP's kernels: tokens one after another, and faults that the cases must catch. Parity is in test_fused.py."""

# pyright: reportCallIssue=false

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ttbench.kernels import ttt_mlp
from ttbench.kernels.dispatch.proof import prove
from ttbench.kernels.dispatch.running import using
from ttbench.kernels.dispatch.trees import copied, difference
from ttbench.kernels.dispatch.twin import interpreted

twins = pytest.importorskip("ttbench.kernels.fused.ttt_mlp_twin", reason="Triton is not installed")
if not interpreted():
    pytest.skip("kernels are compiled in this process", allow_module_level=True)

CPU = torch.device("cpu")
SIZES = {"B": 2, "H": 2, "D": 8, "C": 4}


def drawn(num_tokens: int, *, offset: int) -> tuple[tuple[torch.Tensor, ...], ttt_mlp.MLPState]:
    return twins.draw(torch.Generator().manual_seed(3), CPU, torch.float32, T=num_tokens, offset=offset, **SIZES)


def part(inputs: tuple[torch.Tensor, ...], t: int) -> list[torch.Tensor]:
    return [x[:, t : t + 1] for x in inputs[:4]] + list(inputs[4:])


def test_the_device_alone_decides_which_token_writes_the_weights():
    inputs, state = drawn(6, offset=1)
    exact, _ = copied((inputs, state), torch.float64)
    before = copied(state, torch.float64)
    for x in (before.K, before.G1, before.X2, before.G2):
        x.nan_to_num_(0.0)
    wanted, after = ttt_mlp.chunked.__wrapped__(*exact, before, offset=1)
    outs = []
    with torch.inference_mode(), using("fused"):
        for t in range(6):
            # the host says every time that the token is not the last
            outs.append(ttt_mlp.step(*part(inputs, t), state, place=torch.tensor([(1 + t) % 4]), last=False))
    kept = [(getattr(state, name), getattr(after, name)) for name in ("W1", "b1", "W2", "b2")]
    rows = [(getattr(state, name)[:, :, :3], getattr(after, name)[:, :, :3]) for name in ("K", "G1", "X2", "G2")]
    got, expected = zip((torch.cat(outs, 1), wanted), *kept, *rows, strict=True)
    assert difference(got, expected) < 2e-5


def test_what_is_not_given_is_not_changed():
    inputs, state = drawn(5, offset=2)
    before = copied((inputs, state))
    with torch.inference_mode(), using("fused"):
        ttt_mlp.chunked(*inputs, state, offset=2)
    assert difference((inputs, state), before) == 0


@pytest.fixture(scope="module")
def case() -> Any:
    sound = twins._case(**SIZES, T=5, offset=2)
    assert prove(twins.PREFILL, sound, device=CPU, dtype=torch.float32).holds
    return sound


def _tau_of_the_first_token(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return run(*args[:4], args[4][:1].expand(4).contiguous(), *args[5:], **kwargs)


def _step_sizes_of_the_query(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return run(*args[:3], args[3].roll(1, 1), *args[4:], **kwargs)


def _tail_left_out(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    out, state = run(*(x[:, :-1] for x in args[:4]), *args[4:], **kwargs)
    return torch.cat((out, out[:, -1:]), 1), state


def _pending_row_left_out(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    state = dataclasses.replace(args[7], X2=args[7].X2.nan_to_num(0.0) * 0)
    return run(*args[:7], state, **kwargs)


def _second_layer_not_written(run: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    out, state = run(*args, **kwargs)
    return out, dataclasses.replace(state, W2=args[7].W2)


@pytest.mark.parametrize(
    "fault",
    [
        _tau_of_the_first_token,
        _step_sizes_of_the_query,
        _tail_left_out,
        _pending_row_left_out,
        _second_layer_not_written,
    ],
)
def test_a_planted_fault_is_caught(fault: Callable[..., Any], case: Any):
    wrong = dataclasses.replace(twins.PREFILL, run=lambda *args, **kwargs: fault(twins.prefill, list(args), kwargs))
    assert not prove(wrong, case, device=CPU, dtype=torch.float32).holds


def test_what_it_does_not_take_is_refused_with_a_reason():
    inputs, state = drawn(1, offset=0)
    assert twins.STEP.refuses(*inputs, state) is None
    apart = dataclasses.replace(state, K=state.K.transpose(0, 1).contiguous().transpose(0, 1))
    assert twins.STEP.refuses(*inputs, apart) == "the state is not contiguous"
    assert twins.PREFILL.refuses(*inputs, apart) is None
    double = dataclasses.replace(state, W1=state.W1.double())
    assert twins.PREFILL.refuses(*inputs, double) == "no twin for float64"
    assert twins.PREFILL.refuses(inputs[0].repeat(1, 1, 1, 32), *inputs[1:], state) == "head dim 256 is over 128"
    assert twins.PREFILL.refuses(*inputs[:4], torch.ones(65), *inputs[5:], state) == "mini-batch 65 is over 64"
