"""A stage: what it is about, its share of the time, and what it is tried on. Torch-free."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ttbench.gpu.lines import Lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Models and sizes that stages run on one kind of device."""

    device: str
    dtype: str
    checkpoints: tuple[str, ...]  # what says most comes first: time may end before the last
    decode: tuple[tuple[int, int], ...]  # (context, batch size)
    prefill: tuple[tuple[int, int], ...]  # likewise
    memory_context: int  # tokens
    proof_context: int  # tokens that engines are compared after
    steps: int  # decoding steps of one timed block
    repeats: int  # blocks of each engine
    smoke: str  # the smallest checkpoint


# Published sizes, since models of the zoo are too small to keep a GPU busy.
GPU = Subject(
    device="cuda",
    dtype="bfloat16",
    checkpoints=(
        *("random:ttt-linear-1.3b", "random:transformer-1.3b", "random:mamba2-1.3b", "random:mamba-1.4b"),
        *("random:ttt-mlp-1.3b", "random:titans-lmm-350m"),
    ),
    decode=((512, 1), (8192, 1), (512, 64), (8192, 64)),
    prefill=((2048, 1), (8192, 1), (2048, 16), (32768, 1), (8192, 16)),
    memory_context=8192,
    proof_context=512,
    steps=32,
    repeats=5,
    smoke="random:ttt-linear-125m",
)
# For tests of the stages themselves; the numbers mean nothing.
CPU = Subject(
    device="cpu",
    dtype="float32",
    checkpoints=("ttt-linear", "transformer"),
    decode=((32, 1), (32, 2)),
    prefill=((64, 1),),
    memory_context=64,
    proof_context=16,
    steps=4,
    repeats=2,
    smoke="ttt-linear",
)
SUBJECTS = {"cuda": GPU, "cpu": CPU}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One process of the report."""

    name: str
    about: str
    seconds: float  # of a budget of `TOTAL_S`; other budgets stretch or shrink it
    target: str  # "module:function" that runs it

    def run(self, subject: Subject, lines: Lines) -> None:
        """Run it in this process. Raises whatever it does not expect."""
        module, _, name = self.target.partition(":")
        function: Callable[[Subject, Lines], Any] = getattr(importlib.import_module(module), name)
        function(subject, lines)


STAGES = (
    Stage(name="facts", about="imports, GPU, driver, clocks, power", seconds=15, target="ttbench.gpu.facts:facts"),
    Stage(
        name="ceilings",
        about="bandwidths, matrix products, cost of a graph node",
        seconds=30,
        target="ttbench.gpu.facts:ceilings",
    ),
    Stage(name="kernels", about="fused kernels against references", seconds=90, target="ttbench.gpu.proof:kernels"),
    Stage(
        name="graphs", about="no waits, fixed addresses, equal logits", seconds=60, target="ttbench.gpu.proof:graphs"
    ),
    Stage(name="decode", about="seconds of a decoding step", seconds=110, target="ttbench.gpu.speed:decode"),
    Stage(name="prefill", about="seconds to read a prompt", seconds=70, target="ttbench.gpu.speed:prefill"),
    Stage(name="peers", about="kernels that others wrote", seconds=60, target="ttbench.gpu.peers:peers"),
    Stage(name="bytes", about="bytes of the GPU by phase", seconds=25, target="ttbench.gpu.weight:by_phase"),
    Stage(name="sanitizer", about="accesses outside of memory", seconds=20, target="ttbench.gpu.sanitizer:sanitizer"),
)
TOTAL_S = sum(stage.seconds for stage in STAGES)
BY_NAME = {stage.name: stage for stage in STAGES}
