"""Which implementation runs, what is said of it, and that a kernel which fails its proof is not used."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ttbench.kernels.dispatch import catalogue, choice
from ttbench.kernels.dispatch.choice import op
from ttbench.kernels.dispatch.running import note, proving, unwatched, using, watching
from ttbench.kernels.dispatch.twin import Twin


@op("doubled", "chunked")
def doubled(x: Tensor, *, operands: torch.dtype | None = None) -> Tensor:
    return x * 2


def twin(run: Callable[..., Any], *, refuses: str | None = None) -> Twin:
    return Twin(
        name="doubled",
        plain=f"{__name__}:doubled",
        run=run,
        refuses=lambda *args, **kwargs: refuses,
        label=lambda *args, **kwargs: "triton",
        cases=(),
        builds=lambda target: (),
    )


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Twin], None]:
    """Makes a twin the one of `doubled`."""

    def give(made: Twin) -> None:
        monkeypatch.setattr(choice, "FUSED", {"doubled": "here:TWIN"})
        monkeypatch.setattr(choice, "load_twin", lambda name: made)
        monkeypatch.setattr(choice, "absent", lambda: None)
        monkeypatch.setattr(choice, "_PROVED", set())
        monkeypatch.setattr(choice, "_FAILED", {})

    return give


def test_what_ran_is_told_to_every_watcher() -> None:
    with watching() as outer:
        doubled(torch.ones(2))
        with watching() as inner:
            note("doubled", "step")
    assert outer == {"doubled": "chunked + step"}
    assert inner == {"doubled": "step"}
    with watching() as seen, unwatched():
        note("doubled", "in a probe")
    assert seen == {}
    note("doubled", "again")
    assert outer == {"doubled": "chunked + step"}


def test_plain_torch_runs_on_a_cpu_and_wherever_gradients_are_needed(offer: Callable[[Twin], None]) -> None:
    offer(twin(lambda x, **_: x * 2 + 1000))
    with watching() as ran, torch.inference_mode():
        assert doubled(torch.ones(1)).item() == 2
    with using("fused"):
        assert doubled(torch.ones(1)).item() == 2
    assert ran == {"doubled": "chunked"}


@torch.inference_mode()
def test_the_twin_runs_where_it_is_asked_for(offer: Callable[[Twin], None]) -> None:
    offer(twin(lambda x, **_: x * 2 + 1000))
    with using("fused"), watching() as ran:
        assert doubled(torch.ones(1)).item() == 1002
        with using("torch"):
            assert doubled(torch.ones(1)).item() == 2
    assert ran == {"doubled": "triton + chunked"}


@torch.inference_mode()
def test_what_a_twin_does_not_take_is_said(offer: Callable[[Twin], None], monkeypatch: pytest.MonkeyPatch) -> None:
    offer(twin(lambda x, **_: x, refuses="head dim 256 is over 128"))
    with using("fused"), watching() as ran:
        assert doubled(torch.ones(1)).item() == 2
    assert ran == {"doubled": "chunked (no fused kernel: head dim 256 is over 128)"}
    monkeypatch.setattr(choice, "absent", lambda: "Triton is not installed")
    with using("fused"), watching() as ran:
        doubled(torch.ones(1))
    assert ran == {"doubled": "chunked (no fused kernel: Triton is not installed)"}


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda x, **_: x * 2 * (1 + 1e-2), "off by 1.0e-02 here, more than"),
        (lambda x, **_: torch.empty_like(x), "off by inf here"),
        (lambda x, **_: x.mul_(2), "off by 1.0e+00 here"),
        (lambda x, **_: (x * 2)[:1], "a tensor of shape (1,)"),
        (lambda x, **_: 1 / 0, "failed here: ZeroDivisionError"),
    ],
    ids=["wrong number", "not written", "writes to its input", "wrong shape", "does not start"],
)
@torch.inference_mode()
def test_a_kernel_that_fails_its_proof_is_not_used_and_that_is_said(
    offer: Callable[[Twin], None], run: Callable[..., Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    offer(twin(run))
    x = torch.arange(1.0, 4.0)
    with caplog.at_level(logging.WARNING, "ttbench"), proving(on_any_device=True), watching() as ran:
        assert torch.equal(doubled(x), x * 2)
        doubled(x)
    assert torch.equal(x, torch.arange(1.0, 4.0)), "the arguments were changed"
    assert said in ran["doubled"]
    assert len(caplog.records) == 1, "said once"
    # and afterwards, in a timed cell, at the same shapes
    with using("fused"), watching() as ran:
        assert torch.equal(doubled(x), x * 2)
    assert said in ran["doubled"]


@op("twice", None)
def twice(x: Tensor) -> Tensor:
    return doubled(x)


@torch.inference_mode()
def test_what_a_proof_runs_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch, offer: Callable[[Twin], None]) -> None:
    made = twin(lambda x: x * 2)
    offer(dataclasses.replace(made, name="twice", plain=f"{__name__}:twice"))
    monkeypatch.setattr(choice, "FUSED", {"twice": "here:TWIN"})
    with proving(on_any_device=True), watching() as ran:
        twice(torch.ones(3))
    assert ran == {"twice": "triton"}, "the plain form of the proof called another op"


@torch.inference_mode()
def test_a_kernel_that_holds_is_used_after_its_proof(offer: Callable[[Twin], None]) -> None:
    calls = []
    offer(twin(lambda x, **_: (calls.append(1), x * 2)[1]))
    with proving(on_any_device=True), watching() as ran:
        doubled(torch.ones(3))
        proved = len(calls)
        doubled(torch.ones(3))
        assert len(calls) == proved + 1, "proved once for each shape"
        doubled(torch.ones(4))
        assert len(calls) > proved + 2
    assert ran == {"doubled": "triton"}


def test_every_twin_is_declared_under_the_name_that_it_is_found_by() -> None:
    for name in catalogue.FUSED:
        made = catalogue.load_twin(name)
        assert made.name == name
        assert dataclasses.is_dataclass(made)
        assert made.cases
