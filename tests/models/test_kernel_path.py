"""`kernel_path` of every architecture names the functions that really run, of a text and of one token."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

from ttbench.registry import ARCHITECTURES

WAYS = {"reference", "chunked", "step", "whole"}
# These name the kernel of torch that they end in, not a function of ours.
BY_BACK_END = {"attention", "window_attention"}


def ran(call: Callable[[], object]) -> dict[str, set[str]]:
    """Op -> ways of it that a model itself called, as the interpreter saw it."""
    found: dict[str, set[str]] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if event != "call" or name not in WAYS or not module.startswith("ttbench.kernels."):
            return
        caller = frame.f_back
        while caller is not None and not caller.f_globals.get("__name__", "").startswith("ttbench."):
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
    path = model.kernel_path
    with torch.inference_mode():
        if not model.strictly_causal:
            read = ran(lambda: model(ids))
            assert read == {op: {path[op]} for op in read}
            return
        state = model.new_state(2, 64)
        read = ran(lambda: model.prefill(ids, state))
        state.num_tokens += 40
        stepped = ran(lambda: model.step(ids[:, 0], state, model.step_variant(40)))
    assert {op: {path[op]} for op in read} == read
    assert {op: {path[f"{op}_step"]} for op in stepped} == stepped
    # and nothing is named that did not run
    named = {op.removesuffix("_step") for op, way in path.items() if way in WAYS}
    assert named <= read.keys() | stepped.keys()
