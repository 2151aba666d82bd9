"""What the ops say of themselves names the functions that really run, of a text and of one token."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

from ttbench.kernels.dispatch.running import watching
from ttbench.registry import ARCHITECTURES

WAYS = {"reference", "chunked", "step", "whole"}
# These name the kernel of torch that they end in, not a function of ours.
BY_BACK_END = {"attention"}


def _is_between(frame: FrameType) -> bool:
    """Whether a frame chooses the implementation of an op, is the op around its recurrence, or is none of ours."""
    name = frame.f_globals.get("__name__", "")
    ours = name.startswith(("ttbench.m", "ttbench.k")) and name != "ttbench.kernels.dispatch.choice"
    return not ours or frame.f_code.co_name == "gated_step"


def ran(call: Callable[[], object]) -> dict[str, set[str]]:
    """Op -> ways of it that a model itself called, as the interpreter saw it."""
    found: dict[str, set[str]] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if event != "call" or name not in WAYS or not module.startswith("ttbench.kernels."):
            return
        caller = frame.f_back
        # not what chooses, and not what checks the shapes in tests
        while caller is not None and _is_between(caller):
            caller = caller.f_back
        if caller is not None and caller.f_globals["__name__"].startswith("ttbench.models."):
            found.setdefault(module.rpartition(".")[2], set()).add(name)

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {op: ways for op, ways in found.items() if op not in BY_BACK_END}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_what_is_named_is_what_runs(name: str) -> None:
    model = ARCHITECTURES.load(name).tiny().eval()
    ids = torch.randint(0, 250, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), watching() as reading:
        if not model.strictly_causal:
            read, stepped, stepping = ran(lambda: model(ids)), {}, {}
        else:
            state = model.new_state(2, 64)
            read = ran(lambda: model.prefill(ids, state))
            state.num_tokens += 40
            with watching() as stepping:
                stepped = ran(lambda: model.step(ids[:, 0], state, model.step_variant(40)))
    ours = {op: ways for op, ways in reading.items() if op.removesuffix("_step") != "attention"}
    steps = {f"{op}_step": way for op, (way,) in stepped.items()}
    assert ours == {op: way for op, (way,) in read.items()} | steps
    assert {op for op in stepping if op.removesuffix("_step") not in BY_BACK_END} == steps.keys()
    assert reading, "every architecture says what it runs"


@pytest.mark.parametrize(
    ("back_end", "reads"), [("sdpa", "sdpa + flash_cpu"), ("eager", "eager"), ("flash", "flash_cpu")]
)
def test_the_kernel_of_attention_that_ran_is_named(back_end: str, reads: str) -> None:
    model = ARCHITECTURES.load("transformer").tiny().eval()
    model.use_attention(back_end)
    ids = torch.randint(0, 250, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), watching() as seen:
        state = model.new_state(1, 64)
        for part in (ids, ids[:, :10]):
            model(part, state)
            state.num_tokens += part.shape[1]
        model.step(ids[:, 0], state, model.step_variant(50))
    assert seen == {"attention": reads, "attention_step": reads}
