"""Memory: how many bytes a checkpoint needs to be loaded, to read a prompt and to continue it.

Measured, for one checkpoint and one context length c, in a process of its own:

    phase      what happens                          peak since                resident
    baseline   torch and ttbench are imported        the process started       before load
    load       the checkpoint is opened              the load began            after load
    prefill    a state is made, c tokens are read    the prefill began         after prefill
    decode     decode_tokens steps                   the decoding began        after decode

`peak_rss_bytes` is the kernel's own high-water mark (VmHWM), reset at the start of each phase, so no spike is missed
as it is by a sampler. `working_peak_bytes` is a phase's peak above what was resident after load: activations,
workspace and the state. State bytes are told by the engine (used, allocated) and by the architecture's formula
(analytic); on the eager engine in float32 the two must agree, or the cell is an error.

Not measured: memory of other processes, page cache, swap, fragmentation over hours, a second prefill (the first call
is measured, since it is the one that runs out of memory). With a device other than `cpu` these are the host's bytes.

Statistic: the peak of a round (for `peak_rss_bytes` the highest of its phases), then the geometric mean over rounds;
state and weights are counts, and exact. Traps: `ru_maxrss` is inherited from the parent; a forked worker inherits VmHWM
too, so the process is exec'd; resident size grows with the number of malloc arenas, so that number is fixed and
recorded; a static KV cache is allocated for its longest use, so used and allocated are both told.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ttbench.declare import ColumnDeclaration, parameter, text, truth, whole
from ttbench.errors import TooLongError, UsageError
from ttbench.machine import measure
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.base import Bench, Task
from ttbench.types import Cell, Figure, Metric, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParams:
    """Parameters of the memory task."""

    decode_tokens: int = parameter(32, "steps of the decode phase", "tokens")
    rounds: int = parameter(3, "fresh processes for each point")


def _peak(name: str, label: str, numerator: str, phase: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="bytes",
        better="lower",
        statistic="median",
        numerator=numerator,
        cluster="round",
        where={"phase": phase},
        valid="peak_reset",
        invalid="the peak of this phase could not be told from an earlier one: the system does not reset its counter",
    )


def _exact(name: str, label: str, phase: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="bytes",
        better="lower",
        statistic="count",
        numerator=name,
        cluster="round",
        where={"phase": phase},
    )


class Memory(Task):
    """Peak resident bytes by phase, and bytes of state; see the module's docstring."""

    name: ClassVar[str] = "memory"
    version: ClassVar[int] = 1
    Params: ClassVar[type[Any]] = MemoryParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "phase": text("what was done: baseline, load, prefill or decode"),
        "method": text("counter that the peak was read from: vmhwm, or peak_wset or ru_maxrss, which cannot be reset"),
        "peak_rss_bytes": whole("highest resident memory of the process during the phase", "bytes"),
        "rss_bytes": whole("resident memory of the process after the phase", "bytes"),
        "working_peak_bytes": whole("peak of the phase above what was resident after load", "bytes"),
        "weight_bytes": whole("weights as the engine holds them; on the row of phase load", "bytes"),
        "state_bytes": whole("state in use after the phase, over the batch", "bytes"),
        "state_allocated_bytes": whole("state that is allocated after the phase, over the batch", "bytes"),
        "state_bytes_analytic": whole("state by the formula of the architecture; null without one", "bytes"),
        "peak_reset": truth("whether the system reset its peak counter when the phase began"),
    }
    figures: ClassVar[tuple[Figure, ...] | None] = (
        Figure(name="state", title="State carried after the context", metric="state_bytes", log_y=True),
        Figure(
            name="working_memory",
            title="Memory to read the context, above the loaded model",
            metric="prefill_working_bytes",
        ),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "cell"
    needs_corpus: ClassVar[bool] = False
    default_ctx: ClassVar[str] = "512,2k,8k"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="peak_rss_bytes",
            label="peak memory",
            unit="bytes",
            better="lower",
            statistic="max",
            numerator="peak_rss_bytes",
            cluster="round",
        ),
        _peak("load_peak_bytes", "peak while loading", "peak_rss_bytes", "load"),
        _peak("prefill_peak_bytes", "peak while reading", "peak_rss_bytes", "prefill"),
        _peak("decode_peak_bytes", "peak while decoding", "peak_rss_bytes", "decode"),
        _peak("prefill_working_bytes", "reading, above the loaded model", "working_peak_bytes", "prefill"),
        _exact("weight_bytes", "weights", "load"),
        _exact("state_bytes", "state in use", "prefill"),
        _exact("state_allocated_bytes", "state allocated", "prefill"),
    )

    def num_rounds(self, params: MemoryParams) -> int:
        return params.rounds

    def check(self, params: MemoryParams) -> None:
        for name in ("decode_tokens", "rounds"):
            if getattr(params, name) < 1:
                raise UsageError(f"memory {name} must be at least 1; got {getattr(params, name)}")

    def tokens(self, params: MemoryParams, context_len: int) -> int:
        return context_len + params.decode_tokens

    def work(self, params: MemoryParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        return Work(
            calls=(
                Calls(num=1, num_tokens=context_len, batch_size=batch_size),
                Calls(num=1, num_tokens=params.decode_tokens, batch_size=batch_size, after=context_len, steps=True),
            )
        )

    def measure(self, bench: Bench) -> Iterator[Sample]:
        cell = bench.cell
        params: MemoryParams = self.Params(**cell.params)
        measure.prepare_process()
        yield _sample("baseline", cell, reset=False)

        reset = measure.reset_peak_rss()
        engine = bench.engine
        gc.collect()
        yield _sample("load", cell, reset=reset, values={"weight_bytes": engine.weight_bytes})
        bench.progress(1, 3)

        num_tokens = cell.context_len + params.decode_tokens
        if engine.max_context is not None and num_tokens > engine.max_context:
            raise TooLongError(
                f"{num_tokens} tokens are needed (context and decoded tokens); "
                f"the model takes at most {engine.max_context}"
            )
        rng = np.random.default_rng([cell.seed, cell.context_len, cell.batch_size])
        ids = rng.integers(0, engine.vocab_size, size=(cell.batch_size, cell.context_len))
        steps = rng.integers(0, engine.vocab_size, size=(params.decode_tokens, cell.batch_size))
        gc.collect()

        loaded, reset = measure.rss(), measure.reset_peak_rss()
        engine.reset(cell.batch_size, num_tokens)
        engine.prefill(ids)
        engine.synchronize()
        yield _sample("prefill", cell, reset=reset, loaded=loaded, values=_state(bench, cell.context_len))
        bench.progress(2, 3)

        reset = measure.reset_peak_rss()
        for step_ids in steps:
            engine.decode(step_ids)
        engine.synchronize()
        yield _sample("decode", cell, reset=reset, loaded=loaded, values=_state(bench, num_tokens))
        bench.progress(3, 3)


_NOTHING: Mapping[str, int | None] = dict.fromkeys(
    ("weight_bytes", "state_bytes", "state_allocated_bytes", "state_bytes_analytic")
)


def _sample(
    phase: str,
    cell: Cell,
    *,
    reset: bool,
    loaded: int | None = None,
    values: Mapping[str, int | None] = _NOTHING,
) -> Sample:
    peak = measure.peak_rss()
    return Sample(
        keys={"phase": phase, "method": measure.peak_rss_method()},
        values={
            "peak_rss_bytes": peak,
            "rss_bytes": measure.rss(),
            "peak_reset": reset,
            "working_peak_bytes": peak - loaded if reset and loaded is not None else None,
            **_NOTHING,
            **values,
        },
    )


def _state(bench: Bench, num_tokens: int) -> dict[str, int | None]:
    """State bytes used, allocated and analytic after `num_tokens` tokens. Raises RuntimeError when they disagree."""
    engine, cell = bench.engine, bench.cell
    cost = cell.checkpoint.cost
    analytic = None if cost is None else cost.state_nbytes(num_tokens) * cell.batch_size
    exact = cell.engine == "eager" and cell.dtype == "float32"
    if exact and analytic is not None and engine.state_bytes != analytic:
        raise RuntimeError(
            f"state of {cell.checkpoint.architecture} after {num_tokens} tokens at batch size {cell.batch_size}: "
            f"the engine holds {engine.state_bytes} bytes, its formula says {analytic}; correct `cost` or the State"
        )
    return {
        "state_bytes": engine.state_bytes,
        "state_allocated_bytes": engine.state_allocated_bytes,
        "state_bytes_analytic": analytic,
    }
