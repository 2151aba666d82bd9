"""The stages that time: decoding steps and prompts, of every engine in turn, so that a slow spell falls on all of them.

Every block is a line. What a call needs at least, by the architecture's formula, stands beside its seconds; the table
at the end divides by the ceilings that this GPU showed in stage `ceilings`.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from ttbench.checkpoints.checkpoint import resolve
from ttbench.engines.engine import Engine
from ttbench.engines.kinds import load_engine
from ttbench.gpu.lines import Lines
from ttbench.gpu.proof import engines_for
from ttbench.gpu.stage import Subject
from ttbench.kernels.dispatch.catalogue import absent
from ttbench.kernels.dispatch.running import Way, using, watching
from ttbench.machine.ceilings import streamed_bytes
from ttbench.machine.devices import placed
from ttbench.machine.measure import Stopwatch
from ttbench.machine.roofline import Demand, decode_demand, prefill_demand
from ttbench.types import Checkpoint


def decode(subject: Subject, lines: Lines) -> None:
    """Seconds of a step after a context, at each batch size."""
    _each(subject, lines, subject.decode, _decode_blocks)


def prefill(subject: Subject, lines: Lines) -> None:
    """Seconds of reading a prompt."""
    _each(subject, lines, subject.prefill, _prefill_blocks)


# Implementations of the operations as they are asked for, and as lines call them.
WORDS: Mapping[Way, str] = {"torch": "torch", "auto": "fused"}


def ways(device: str) -> tuple[Way, ...]:
    """The implementations that can be told apart on a device: a CPU runs no fused kernel."""
    return tuple(WORDS) if device == "cuda" and absent() is None else ("torch",)


Blocks = Callable[["Runner", int, int], tuple[Callable[[int], float], int, Demand | None]]


class Runner:
    """One checkpoint under one engine, with one implementation of its operations."""

    def __init__(self, checkpoint: Checkpoint, engine: Engine, subject: Subject, way: Way = "torch") -> None:
        self.checkpoint, self.engine, self.subject = checkpoint, engine, subject
        self.way: Way = way
        self.weight_bytes = streamed_bytes(engine.model)
        self._rng = np.random.default_rng(0)

    def ids(self, *shape: int) -> torch.Tensor:
        """Fresh ids on the device."""
        return placed(self._rng.integers(0, self.engine.vocab_size, size=shape), self.subject.device)


def _each(subject: Subject, lines: Lines, points: tuple[tuple[int, int], ...], blocks: Blocks) -> None:
    for number, name in enumerate(subject.checkpoints):
        # Each checkpoint gets an equal share of what is left, so that the last one is not always the one without time.
        until = lines.left * (1 - 1 / (len(subject.checkpoints) - number))
        try:
            runners = _open(name, subject, lines)
            for context_len, batch_size in points:
                if lines.left <= until:
                    lines.write("absent", lines.stage, checkpoint=name, context_len=context_len, why="no time left")
                    break
                _point(runners, context_len, batch_size, blocks, lines, until=until)
        except Exception as error:  # a kernel, its compiler or the driver may raise anything
            lines.failed(lines.stage, error, checkpoint=name)
        runners = []
        _release(subject)


def _open(name: str, subject: Subject, lines: Lines) -> list[Runner]:
    checkpoint, found = resolve(name, dtype=subject.dtype), []
    for engine_name, way in itertools.product(engines_for(subject), ways(subject.device)):
        # An engine for each way: what a graph has captured stays what it is.
        try:
            engine = load_engine(
                checkpoint, device=subject.device, dtype=subject.dtype, attention=None, engine=engine_name
            )
        except Exception as error:  # a kernel, its compiler or the driver may raise anything
            lines.failed("engine", error, checkpoint=name, engine=engine_name)
            continue
        found.append(Runner(checkpoint, engine, subject, way))
    return found


def _point(
    runners: list[Runner], context_len: int, batch_size: int, blocks: Blocks, lines: Lines, *, until: float
) -> None:
    """Time one context and batch size; what does not fit in memory is told and leaves the rest.

    Each engine has one block at least; further ones as long as more than `until` seconds of the stage are left.
    """
    ready = []
    for runner in runners:
        words = _words(runner, context_len, batch_size)
        try:
            with using(runner.way), watching() as ran:
                block, calls, demand = blocks(runner, context_len, batch_size)
                first_s = block(0)
            words["kernel_path"] = {**runner.engine.choices, **ran}
        except Exception as error:  # a kernel, its compiler or the driver may raise anything
            lines.failed(lines.stage, error, **words)
            _release(runner.subject)
            continue
        lines.write("measured", "first_call", seconds=first_s / calls, **words)
        ready.append((runner.way, block, calls, demand, words))
    repeats = max((runner.subject.repeats for runner in runners), default=0)
    for repeat in range(1, repeats + 1):
        for way, block, calls, demand, words in ready:
            if lines.left <= (max(until, 0) if repeat > 1 else 0):
                break
            with using(way):
                seconds = block(repeat) / calls
            needed = {} if demand is None else asdict(demand)
            lines.write("measured", lines.stage, repeat=repeat, seconds=seconds, **needed, **words)
    for runner in runners:
        runner.engine.forget()
        _release(runner.subject)


def _words(runner: Runner, context_len: int, batch_size: int) -> dict[str, Any]:
    return {
        "checkpoint": runner.checkpoint.name,
        "engine": runner.engine.name,
        "kernels": WORDS[runner.way],
        "dtype": runner.subject.dtype,
        "context_len": context_len,
        "batch_size": batch_size,
    }


def _release(subject: Subject) -> None:
    gc.collect()
    if subject.device == "cuda":
        torch.cuda.empty_cache()


def _decode_blocks(
    runner: Runner, context_len: int, batch_size: int
) -> tuple[Callable[[int], float], int, Demand | None]:
    """Blocks of steps from a state after one prompt, which every sequence of the batch has."""
    engine, steps = runner.engine, runner.subject.steps
    engine.reset(1, context_len + steps)
    engine.prefill(runner.ids(1, context_len))
    after = engine.snapshot()
    engine.reset(batch_size, context_len + steps)

    def block(number: int) -> float:
        ids = list(runner.ids(steps, batch_size))
        engine.restore(after)
        engine.synchronize()
        with Stopwatch() as watch:
            for step_ids in ids:
                engine.decode(step_ids)
            engine.synchronize()
        return watch.wall_s

    cost = runner.checkpoint.cost
    sizes = {"context_len": context_len, "batch_size": batch_size, "weight_bytes": runner.weight_bytes}
    return block, steps, None if cost is None else decode_demand(cost, num_steps=steps, **sizes)


def _prefill_blocks(
    runner: Runner, context_len: int, batch_size: int
) -> tuple[Callable[[int], float], int, Demand | None]:
    """Whole prompts from an empty state."""
    engine = runner.engine

    def block(number: int) -> float:
        ids = runner.ids(batch_size, context_len)
        engine.reset(batch_size, context_len)
        engine.prepare(prompt_len=context_len)  # else a graph engine reads prompts eagerly
        engine.synchronize()
        with Stopwatch() as watch:
            engine.prefill(ids)
            engine.synchronize()
        return watch.wall_s

    cost = runner.checkpoint.cost
    sizes = {"context_len": context_len, "batch_size": batch_size, "weight_bytes": runner.weight_bytes}
    return block, 1, None if cost is None else prefill_demand(cost, **sizes)
