"""Latency: seconds to read a prompt, and seconds per token to continue it.

Measured, for one checkpoint and one context length c, in a process of its own per round:

    load        opening the checkpoint in a process that has imported all it needs           once
    first_call  the first prefill of c tokens: first-touch memory, kernel choice, caches     once
    prefill     [reset] PREFILL c tokens -> logits of the last                               repeats
    decode      [restore the state after c tokens] STEP STEP STEP ... -> depths c, c+1, ...  repeats of num_calls steps
                (square brackets are outside the clock; so are making ids, moving them to the device, capturing graphs)

Roofline: FLOP and bytes that a call needs at least (`ttbench.machine.roofline`) stand beside what this machine can do
at best (`ttbench.machine.ceilings`), both in each timed row; `ceiling_s` is the least time that a call can take by
them. The ceilings are measured, or recalled, after everything that is timed.

Not measured: tokenisation, sampling, detokenisation, batching, a server's queue. Decode is timed by stepping a
prepared state, never by subtracting a prefill from a generation. It starts each block from depth c, so the depth
stays within c .. c + decode_tokens - 1; `decode_tokens` is a multiple of TTT's inner mini-batch (16) by default,
because its last step of 16 costs more than the others.

Warm-up: until the median of the last five times is within 2 % of that of the five before, or `warm_up_s` seconds have
passed (a prefill that takes longer is warmed up by its first call alone); `steady` says which. Clock:
`time.perf_counter` around the calls and one `synchronize`, processor seconds beside it. Every repeat is a row.
Statistic: median over the repeats of a round, then the geometric mean over rounds; the round is the unit of the
interval, since repeats in one process share its memory layout and the neighbours of that moment.

Traps: repeated prompts are served from a cache (ids are fresh in each repeat, and the same for every checkpoint with
the same vocabulary); a static KV cache makes all depths cost the same (engines attend over the used part only);
a lone warm-up call; a parent that polls; denormals (flushed, and `denormals_flushed` says whether it worked); random
weights have no load time, since nothing is read.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int

from ttbench.declare import ColumnDeclaration, parameter, real, text, truth, whole
from ttbench.errors import TooLongError, UsageError
from ttbench.machine import measure, roofline
from ttbench.machine.measure import Stopwatch, WarmUp
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.base import Bench, Task
from ttbench.types import RANDOM, Figure, Metric, Sample, Scalar

if TYPE_CHECKING:
    from ttbench.engines.engine import Engine

PHASES = ("prefill", "decode")
GPU_BATCH_SIZES = (1, 16, 64)  # sequences; a GPU is bound by weights at the first, and by states at the last
# streams of random ids, apart from each other
_FIRST_CALL, _WARM_UP, _TIMED = range(3)


WARM_UP_CALLS = 10  # that `measure.warm_up` takes where times are steady at once


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyParams:
    """Parameters of the latency task."""

    phases: str = parameter("prefill,decode", "which phases are timed, separated by commas")
    decode_tokens: int = parameter(32, "steps in one timed block", "tokens")
    min_repeats: int = parameter(3, "timed repeats of each phase, in each round, at least")
    min_seconds: float = parameter(1.0, "timed repeats of each phase, in each round, last at least", "s")
    warm_up_s: float = parameter(1.0, "warm-up of each phase lasts at most; the first prefill counts", "s")
    rounds: int = parameter(5, "fresh processes for each point")


def _median(name: str, label: str, unit: str, numerator: str, phase: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit=unit,
        better="lower",
        statistic="median",
        numerator=numerator,
        cluster="round",
        where={"phase": phase},
    )


def _speed(name: str, label: str, phase: str, *, restates: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="tokens/s",
        better="higher",
        statistic="median",
        numerator="num_tokens",
        denominator="wall_s",
        cluster="round",
        where={"phase": phase},
        restates=restates,
    )


def _roof(name: str, label: str, unit: str, numerator: str, denominator: str | None, *, scale: float = 1.0) -> Metric:
    """A number of the roofline. None of them ranks checkpoints: arithmetic that another does without is no merit."""
    return Metric(
        name=name,
        label=label,
        unit=unit,
        better="neither",
        statistic="median",
        numerator=numerator,
        denominator=denominator,
        scale=scale,
        cluster="round",
        axes=("context_len",) if denominator is None else ("context_len", "phase"),
    )


class Latency(Task):
    """Prefill and decode times at each context length; see the module's docstring."""

    name: ClassVar[str] = "latency"
    version: ClassVar[int] = 2
    Params: ClassVar[type[Any]] = LatencyParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "phase": text("what was timed: load, first_call, prefill or decode"),
        "repeat": whole("number of the repeat within its phase and round, from 0"),
        "num_calls": whole("calls of the model inside the timed block"),
        "num_tokens": whole("tokens that the timed block read or stepped, over the batch", "tokens"),
        "wall_s": real("wall time of the timed block", "s"),
        "cpu_s": real("processor time of the timed block, over all threads", "s"),
        "call_s": real("wall time of one call: wall_s / num_calls", "s"),
        "call_cpu_s": real("processor time of one call: cpu_s / num_calls", "s"),
        "load": real("load average of the machine over one minute, when the block began"),
        "steal_s": real("time that the hypervisor gave to other guests while the block ran", "s"),
        "throttled_s": real("time that the control group held the process back while the block ran", "s"),
        "warm_up_calls": whole("calls of the warm-up before the phase; null for load and first_call"),
        "warm_up_s": real("wall time of the warm-up before the phase; null for load and first_call", "s"),
        "steady": truth("whether the warm-up ended because its times were steady; false: its time was over"),
        **roofline.COLUMNS,
    }
    figures: ClassVar[tuple[Figure, ...] | None] = (
        Figure(name="prefill", title="Time to read the context", metric="prefill_s", log_y=True),
        Figure(
            name="decode", title="Time for the next token, after the context", metric="decode_s_per_token", log_y=True
        ),
        Figure(
            name="roofline",
            title="Arithmetic against the machine's ceilings",
            metric="flops_per_s",
            kind="roofline",
            x_axis="bytes_per_s",
            references=("ceiling_bytes_per_s", "ceiling_flops_per_s"),
        ),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "cell"
    needs_corpus: ClassVar[bool] = False
    any_weights: ClassVar[bool] = True
    default_ctx: ClassVar[str] = "512,2k,8k"
    metrics: ClassVar[tuple[Metric, ...]] = (
        _median("prefill_s", "prefill", "s", "call_s", "prefill"),
        _speed("prefill_tokens_per_s", "prefill speed", "prefill", restates="prefill_s"),
        _median("prefill_cpu_s", "prefill, processor time", "s", "call_cpu_s", "prefill"),
        _median("decode_s_per_token", "decode, per token", "s", "call_s", "decode"),
        _speed("decode_tokens_per_s", "decode speed", "decode", restates="decode_s_per_token"),
        _median("decode_cpu_s_per_token", "decode, processor time per token", "s", "call_cpu_s", "decode"),
        _median("first_call_s", "first prefill", "s", "call_s", "first_call"),
        _median("load_s", "load", "s", "call_s", "load"),
        _roof("of_ceiling", "share of the machine's ceiling", "%", "ceiling_s", "call_s", scale=100.0),
        _roof("flops_per_s", "arithmetic", "FLOP/s", "call_flops", "call_s"),
        _roof("bytes_per_s", "weights and state moved", "bytes/s", "call_bytes", "call_s"),
        _roof("ceiling_flops_per_s", "ceiling of arithmetic", "FLOP/s", "ceiling_flops_per_s", None),
        _roof("ceiling_bytes_per_s", "ceiling of memory", "bytes/s", "ceiling_bytes_per_s", None),
    )

    def default_batch_sizes(self, device: str) -> tuple[int, ...]:
        """One sequence on a CPU; on a GPU those at which weights, both, and states decide."""
        return (self.default_batch_size,) if device == "cpu" else GPU_BATCH_SIZES

    def num_rounds(self, params: LatencyParams) -> int:
        return params.rounds

    def check(self, params: LatencyParams) -> None:
        unknown = sorted(set(_phases(params)) - set(PHASES))
        if unknown or not _phases(params):
            raise UsageError(
                f"latency phases must be among {', '.join(PHASES)}, comma-separated; got {params.phases!r}"
            )
        for name in ("decode_tokens", "min_repeats", "rounds"):
            if getattr(params, name) < 1:
                raise UsageError(f"latency {name} must be at least 1; got {getattr(params, name)}")
        for name in ("min_seconds", "warm_up_s"):
            if not 0 <= getattr(params, name) < float("inf"):
                raise UsageError(f"latency {name} must be 0 or more seconds; got {getattr(params, name)}")

    def tokens(self, params: LatencyParams, context_len: int) -> int:
        # first call, ten calls of warm-up, repeats; short contexts are bound by min_seconds instead
        return (11 + params.min_repeats) * (context_len + params.decode_tokens)

    def work(self, params: LatencyParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        """The first call; then of each phase a warm-up until it is steady, and repeats until both minima are met."""
        prefill = Calls(num=1, num_tokens=context_len, batch_size=batch_size)
        decode = Calls(num=1, num_tokens=params.decode_tokens, batch_size=batch_size, after=context_len, steps=True)
        calls = [prefill]
        for phase in _phases(params):
            one = prefill if phase == "prefill" else decode
            if params.warm_up_s > 0:
                calls.append(dataclasses.replace(one, num=WARM_UP_CALLS, most_s=params.warm_up_s))
            calls.append(dataclasses.replace(one, num=params.min_repeats, least_s=params.min_seconds))
        return Work(calls=tuple(calls))

    def measure(self, bench: Bench) -> Iterator[Sample]:
        cell = bench.cell
        params: LatencyParams = self.Params(**cell.params)
        measure.prepare_process()
        with Stopwatch() as watch:
            engine = bench.engine
        _require_room(engine, cell.context_len + params.decode_tokens)
        samples = [] if cell.checkpoint.provenance == RANDOM else [_sample("load", 0, watch, num_calls=1, num_tokens=0)]

        timer = _Timer(engine=engine, bench=bench, params=params)
        first = timer.prefill(_FIRST_CALL, 0)
        samples.append(_sample("first_call", 0, first, num_calls=1, num_tokens=timer.prefill_tokens))
        if "prefill" in _phases(params):
            samples += timer.repeats("prefill", timer.prefill, cap_s=params.warm_up_s - first.wall_s)
        if "decode" in _phases(params):
            timer.keep_state()
            samples += timer.repeats("decode", timer.decode, cap_s=params.warm_up_s)
        # The ceilings' buffers take the place of the state.
        timer.forget()
        roofs = roofline.columns_by_phase(cell, engine.model, num_steps=params.decode_tokens)
        for sample in samples:
            mine = roofs.get(str(sample.keys["phase"]), roofline.NOTHING)
            yield dataclasses.replace(sample, values={**sample.values, **mine})


def _phases(params: LatencyParams) -> tuple[str, ...]:
    return tuple(phase.strip() for phase in params.phases.split(",") if phase.strip())


def _require_room(engine: Engine, num_tokens: int) -> None:
    if engine.max_context is not None and num_tokens > engine.max_context:
        raise TooLongError(
            f"{num_tokens} tokens are needed (context and decoded tokens); the model takes at most {engine.max_context}"
        )


def random_ids(rng: np.random.Generator, shape: tuple[int, ...], vocab_size: int) -> Int[np.ndarray, "..."]:
    """Uniform token ids, int64: equal for equal vocabularies, and at the same place of any other vocabulary."""
    return (rng.random(shape) * vocab_size).astype(np.int64)


def _sample(
    phase: str, repeat: int, watch: Stopwatch, *, num_calls: int, num_tokens: int, warm_up: WarmUp | None = None
) -> Sample:
    keys: dict[str, Scalar] = {"phase": phase, "repeat": repeat}
    return Sample(
        keys=keys,
        values={
            "wall_s": watch.wall_s,
            "cpu_s": watch.cpu_s,
            "num_calls": num_calls,
            "num_tokens": num_tokens,
            "call_s": watch.wall_s / num_calls,
            "call_cpu_s": watch.cpu_s / num_calls,
            "load": watch.load,
            "steal_s": watch.steal_s,
            "throttled_s": watch.throttled_s,
            "warm_up_calls": None if warm_up is None else warm_up.num_calls,
            "warm_up_s": None if warm_up is None else warm_up.seconds,
            "steady": None if warm_up is None else warm_up.steady,
        },
    )


class _Timer:
    """The timed calls of one cell, with fresh ids for each."""

    def __init__(self, *, engine: Engine, bench: Bench, params: LatencyParams) -> None:
        self.engine, self.bench, self.params = engine, bench, params
        self.batch_size, self.context_len = bench.cell.batch_size, bench.cell.context_len
        self.prefill_tokens = self.batch_size * self.context_len
        self.num_samples = 0
        self.after_context: Any = None

    def _ids(self, stream: int, call: int, *shape: int) -> Int[np.ndarray, "..."]:
        # keyed by call, so that the ids of a timed repeat do not depend on how long a checkpoint took to warm up;
        # not by round, so that rounds repeat the same work
        rng = np.random.default_rng([self.bench.cell.seed, self.context_len, self.batch_size, stream, call])
        return random_ids(rng, shape, self.engine.vocab_size)

    def prefill(self, stream: int, call: int) -> Stopwatch:
        """One prefill of the whole context from an empty state."""
        ids = self.engine.place(self._ids(stream, call, self.batch_size, self.context_len))
        self.engine.reset(self.batch_size, self.context_len + self.params.decode_tokens)
        if stream != _FIRST_CALL:
            self.engine.prepare(prompt_len=self.context_len)
        self.engine.synchronize()
        with Stopwatch() as watch:
            self.engine.prefill(ids)
            self.engine.synchronize()
        assert self.engine.num_tokens == self.context_len
        return watch

    def keep_state(self) -> None:
        """Keep the state that the last prefill left; every block of steps starts from it."""
        self.after_context = self.engine.snapshot()

    def forget(self) -> None:
        """Let the state's memory go, and the copy of it."""
        self.after_context = None
        self.engine.forget()

    def decode(self, stream: int, call: int) -> Stopwatch:
        """One block of steps from depth `context_len`."""
        ids = list(self.engine.place(self._ids(stream, call, self.params.decode_tokens, self.batch_size)))
        self.engine.restore(self.after_context)
        self.engine.prepare(num_steps=self.params.decode_tokens)
        self.engine.synchronize()
        decode = self.engine.decode
        with Stopwatch() as watch:
            for step_ids in ids:
                decode(step_ids)
            self.engine.synchronize()
        return watch

    def repeats(self, phase: str, call: Callable[[int, int], Stopwatch], *, cap_s: float) -> list[Sample]:
        """Warm up, then time calls until both minima are met; returned together, so nothing runs between them."""
        counter = itertools.count()
        warm_up = measure.warm_up(lambda: call(_WARM_UP, next(counter)).wall_s, cap_s=cap_s)
        num_calls = 1 if phase == "prefill" else self.params.decode_tokens
        num_tokens = self.prefill_tokens if phase == "prefill" else num_calls * self.batch_size
        samples: list[Sample] = []
        seconds, minimum = 0.0, self.params.min_repeats
        while len(samples) < minimum or seconds < self.params.min_seconds:
            watch = call(_TIMED, len(samples))
            seconds += watch.wall_s
            samples.append(
                _sample(phase, len(samples), watch, num_calls=num_calls, num_tokens=num_tokens, warm_up=warm_up)
            )
            done = self.num_samples + min(len(samples), minimum)
            self.bench.progress(done, minimum * len(_phases(self.params)))
        self.num_samples += minimum
        return samples
