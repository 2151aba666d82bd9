"""`python -m ttbench.runs.times.calibrate`: how fast this machine runs some checkpoints, in a process as a worker's.

Reads a request from stdin as JSON, and writes one JSON line per thing measured: that the process is up, each module,
corpus and compressor, then each checkpoint. A checkpoint is loaded and reads random tokens in calls of growing length
until its share of the time is spent; then it scores some and decodes some steps. The first call of a kind is not timed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ttbench.errors import TtbenchError
from ttbench.machine import measure
from ttbench.types import Cell

if TYPE_CHECKING:
    from ttbench.engines.engine import Engine

LENGTHS = (32, 128, 512, 2048, 8192)  # tokens; the longest ones only where they are quick
SCORED_LENGTHS = 2  # of these, the longest is also scored
STEPS, WARM_STEPS = 8, 2
SAMPLE_BYTES = 128 * 1024  # of text, for the compressors


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)

    def tell(kind: str, **fields: Any) -> None:
        os.write(out, (json.dumps({"kind": kind, **fields}) + "\n").encode())

    spec = json.load(sys.stdin)
    # What every worker imports sooner or later: it belongs to the start of a process.
    importlib.import_module("ttbench.runs.worker")
    from ttbench.engines.kinds import load_engine
    from ttbench.packages import import_packages

    measure.pin_threads(spec["threads"])
    measure.flush_denormals()
    tell("ready")
    for name in spec["modules"]:
        began = time.perf_counter()
        importlib.import_module(name)
        tell("module", name=name, seconds=time.perf_counter() - began)
    for name in spec["corpora"]:
        tell("corpus", name=name, seconds=corpus_seconds(name))
    if spec["compress"]:
        tell("compress", seconds=compress_seconds())
    for job in spec["jobs"]:
        cell, began = Cell.from_json(job["cell"]), time.perf_counter()
        try:
            import_packages(cell.imports)
            engine = load_engine(
                cell.checkpoint,
                device=cell.device,
                dtype=cell.dtype,
                attention=cell.attention,
                engine=cell.engine,
                device_map=cell.device_map,
            )
            tell("load", key=job["key"], seconds=time.perf_counter() - began)
            for key, batch_size in job["batch_sizes"].items():
                rates = pace(engine, batch_size=batch_size, budget_s=job["budget_s"])
                tell("pace", key=key, reading=reading(engine), **rates)
        # What cannot run here will say so in its cell; its time is not known.
        except TtbenchError:
            continue
        del engine


def reading(engine: Engine) -> Mapping[str, Any]:
    """How the engine reads, as far as the probes before a first score depend on it."""
    return {
        "max_context": engine.max_context,
        "forward_len": engine.forward_len,
        "batched": engine.batched,
        "causal": getattr(engine.model, "strictly_causal", True),
    }


def corpus_seconds(name: str) -> float:
    """Seconds to open a corpus."""
    from ttbench.corpora.corpus import open_corpus

    began = time.perf_counter()
    open_corpus(name)
    return time.perf_counter() - began


def compress_seconds() -> float:
    """Seconds of the compressors for a byte of text: this package's own sources, again and again."""
    from pathlib import Path

    from ttbench.tasks import compressors

    sources = b"".join(path.read_bytes() for path in sorted(Path(compressors.__file__).parent.rglob("*.py")))
    began = time.perf_counter()
    compressors.compressed_sizes(sources[:SAMPLE_BYTES])
    return (time.perf_counter() - began) / len(sources[:SAMPLE_BYTES])


def pace(engine: Engine, *, batch_size: int, budget_s: float) -> Mapping[str, Any]:
    """Seconds of calls, of losses and of steps.

    Returns:
        times: tokens of a sequence -> seconds of a call, the lower of two where there is time.
        score_s: seconds that the loss of a token of one sequence adds.
        step_s: seconds of one decoding step of the batch.
    """
    rng, times, spent = np.random.default_rng(0), {}, 0.0
    most = min(engine.max_context or LENGTHS[-1], LENGTHS[-1])

    def read(size: int, *, scored: bool = False) -> float:
        ids = rng.integers(0, engine.vocab_size, size=(batch_size, size))
        engine.reset(batch_size, size + STEPS + WARM_STEPS if size + STEPS + WARM_STEPS <= most else size)
        engine.synchronize()
        with measure.Stopwatch() as watch:
            engine.score(ids, ids) if scored else engine.prefill(ids)
            engine.synchronize()
        return quiet_seconds(engine, watch)

    first = read(min(LENGTHS[0], most))
    for size in (length for length in LENGTHS if length <= most):
        # A longer call takes at least as much more time as it has more tokens.
        expected = times[max(times)] * size / max(times) if times else first
        if len(times) >= 2 and spent + expected > budget_s:
            break
        times[size] = read(size)
        spent += times[size]
        if spent + times[size] <= budget_s / 4:
            again = read(size)
            times[size], spent = min(times[size], again), spent + again
    size = sorted(times)[:SCORED_LENGTHS][-1]
    score_s = max(0.0, min(read(size, scored=True) for _ in range(2)) - times[size]) / (batch_size * size)
    step_s = _step_seconds(engine, read, batch_size=batch_size, size=min(LENGTHS[0], most // 2))
    return {"times": times, "score_s": score_s, "step_s": step_s}


def quiet_seconds(engine: Engine, watch: measure.Stopwatch) -> float:
    """Wall seconds without waits for other programs: on a processor, no more than its threads computed in all."""
    return min(watch.wall_s, watch.cpu_s) if engine.device == "cpu" else watch.wall_s


def _step_seconds(engine: Engine, read: Any, *, batch_size: int, size: int) -> float:
    read(size)
    seconds = []
    for _ in range(WARM_STEPS + STEPS):
        with measure.Stopwatch() as watch:
            engine.decode(np.zeros(batch_size, dtype=np.int64))
            engine.synchronize()
        seconds.append(quiet_seconds(engine, watch))
    return float(np.median(seconds[WARM_STEPS:]))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
