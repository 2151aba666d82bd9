"""The stage that weighs: bytes of a GPU by phase, of one model after another in one process.

The memory task measures each in a process of its own and is what to quote; this says in seconds whether its counters
tell anything here.
"""

from __future__ import annotations

import gc

import torch

from ttbench.checkpoints.checkpoint import resolve
from ttbench.engines.engine import Engine
from ttbench.engines.kinds import load_engine
from ttbench.gpu.lines import Lines
from ttbench.gpu.proof import engines_for
from ttbench.gpu.speed import Runner
from ttbench.gpu.stage import Subject
from ttbench.machine import measure
from ttbench.machine.gpu.device_memory import Allocator, allocator


def by_phase(subject: Subject, lines: Lines) -> None:
    """Peaks while loading, reading and decoding, what graphs keep, and the state that the engine tells."""
    counters = allocator(subject.device)
    if counters is None:
        lines.write("absent", "allocator", why="no GPU; resident bytes of the process stand for it", rss=measure.rss())
    for name in subject.checkpoints:
        for engine_name in engines_for(subject):
            if lines.left <= 0:
                return
            try:
                _weigh(name, engine_name, subject, counters, lines)
            except Exception as error:  # a kernel, its compiler or the driver may raise anything
                lines.failed("bytes", error, checkpoint=name, engine=engine_name)
            gc.collect()
            if subject.device == "cuda":
                torch.cuda.empty_cache()


def _weigh(name: str, engine_name: str, subject: Subject, counters: Allocator | None, lines: Lines) -> None:
    checkpoint = resolve(name, dtype=subject.dtype)

    def tell(phase: str, engine: Engine) -> None:
        engine.synchronize()
        held = {"state_bytes": engine.state_bytes, "weight_bytes": engine.weight_bytes}
        lines.write("measured", "bytes", checkpoint=name, engine=engine_name, phase=phase, **held, **_told(counters))
        if counters is not None:
            counters.reset_peaks()

    if counters is not None:
        counters.reset_peaks()
    engine = load_engine(checkpoint, device=subject.device, dtype=subject.dtype, attention=None, engine=engine_name)
    tell("load", engine)
    runner = Runner(checkpoint, engine, subject)
    engine.reset(1, subject.memory_context + subject.steps)
    engine.prepare(prompt_len=subject.memory_context)
    engine.prefill(runner.ids(1, subject.memory_context))
    tell("prefill", engine)
    for ids in runner.ids(subject.steps, 1):
        engine.decode(ids)
    tell("decode", engine)


def _told(counters: Allocator | None) -> dict[str, int]:
    if counters is None:
        return {"peak_rss_bytes": measure.peak_rss()}
    return {
        "peak_allocated_bytes": counters.peak_allocated(),
        "peak_reserved_bytes": counters.peak_reserved(),
        "graph_pool_bytes": counters.graph_pool(),
    }
