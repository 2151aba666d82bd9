"""Every fused kernel is what its op says, interpreted on a CPU; and a kernel that is not is caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ttbench.kernels.dispatch.catalogue import FUSED, absent, load_twin
from ttbench.kernels.dispatch.proof import prove
from ttbench.kernels.dispatch.twin import Case, Twin, interpreted

if absent() is not None:
    pytest.skip(f"{absent()}", allow_module_level=True)

CPU = torch.device("cpu")


def cases() -> list[Any]:
    found = []
    for name in FUSED:
        twin = load_twin(name)
        found += [pytest.param(twin, case, id=f"{name}: {case.label}") for case in twin.cases if not case.large]
    return found


@pytest.mark.skipif(not interpreted(), reason="kernels are compiled in this process")
@pytest.mark.parametrize(("twin", "case"), cases())
def test_it_equals_the_reference_in_float64(twin: Twin, case: Case) -> None:
    proof = prove(twin, case, device=CPU, dtype=torch.float32)
    assert proof.holds, proof


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUSED)
def test_it_equals_the_reference_on_a_gpu(name: str, dtype: torch.dtype) -> None:
    for case in load_twin(name).cases:
        proof = prove(load_twin(name), case, device=torch.device("cuda"), dtype=dtype)
        assert proof.holds, proof


def spoiled(name: str, spoil: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Twin:
    """A twin whose results are changed after it ran."""
    good = load_twin(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        return spoil(good.run(*args, **kwargs), args, kwargs)

    return dataclasses.replace(good, run=run)


_calls = iter(range(1, 1000))


def _tail_left_out(got: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out, state = got
    out[:, -1] = torch.nan
    return out, state


def _pending_rows_left_out(got: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out, state = got
    return out, dataclasses.replace(state, G=torch.zeros_like(state.G))


def _other_bits_each_time(got: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out, state = got
    return out * (1 + 1e-6 * next(_calls)), state


def _write_left_out(got: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    args[7].b1.add_(1)
    return got


@pytest.mark.skipif(not interpreted(), reason="kernels are compiled in this process")
@pytest.mark.parametrize(
    ("name", "spoil", "number"),
    [
        ("ttt_linear", _tail_left_out, 2),
        ("ttt_linear", _pending_rows_left_out, 1),
        ("ttt_linear", _other_bits_each_time, 2),
        ("ttt_linear_step", _write_left_out, 2),
    ],
)
def test_a_kernel_that_does_not_equal_it_is_caught(name: str, spoil: Callable[..., Any], number: int) -> None:
    twin = spoiled(name, spoil)
    assert prove(load_twin(name), twin.cases[number], device=CPU, dtype=torch.float32).holds
    assert not prove(twin, twin.cases[number], device=CPU, dtype=torch.float32).holds


def test_what_it_does_not_take_is_refused_with_a_reason() -> None:
    twin = load_twin("ttt_linear")
    args, kwargs = twin.cases[0].make(torch.Generator().manual_seed(0), CPU, torch.float32)
    assert twin.refuses(*args, **kwargs) is None
    assert twin.refuses(*args[:7], initial_state=args[7], **kwargs) is None, "the op's own name of its state"
    state = dataclasses.replace(args[7], W1=args[7].W1.double())
    assert twin.refuses(*args[:7], state, **kwargs) == "no twin for float64"
    wide = [x.repeat_interleave(32, -1) if x.ndim == 4 else x for x in args[:7]]
    assert twin.refuses(*wide, args[7], **kwargs) == "head dim 256 is over 128"
