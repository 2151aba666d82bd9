"""Needle in a haystack: does a checkpoint find one sentence again, by length of the text and depth in it?

Measured, for each haystack (a trial) and each depth, with the wording of `ttbench.tasks.haystack`:

    ... Abraham begat Isaac. One of the special magic numbers for calm-otter is: 5093817. And Isaac begat ...
    What is the special magic number for calm-otter mentioned in the provided text? The special ... text is

    generate   greedy tokens contain the value (RULER's match: containment, whatever the case)
    choice     recognition: of N values of equal length, the true one loses the most nats against the same prompt
               without the needle; a tie of k is 1/k of a hit. A blind model scores 1/N. It can be passed without being
               able to write the value, by small checkpoints too

The answer's tokens count inside the context, as in RULER, which keeps 128 for it; `answer_tokens` are enough for seven
digits and a few words. A prompt is exactly as long as asked (up to the few tokens by which two spellings of the needle
differ), never cut: what does not fit ends the cell as too_long or too_short. Haystacks come from the corpus's test
documents, prose (kjv) by default, in tokens; the same key, value and place in the corpus at every length.

    one haystack, D depths   shared  |--------d1--------d2--------d3| question     <- the control, without needle
                             d1                 N-------------------| question
                             d2                           N---------| question
                             d3                                     N question

What stands before the needle is read once: a snapshot is taken at each depth, the needle and the rest are read, and
the state goes back. D evenly spread depths cost about D/2 + 1 prefills, control included, instead of D + 1;
`prefilled_tokens` counts what was really read (by a trial, with the stretch of shared text it added; the control's
own tokens are counted in the haystack's last trial).

Statistic: share of hits, Wilson interval; trials with one haystack are one cluster. Not measured: several
needles, reasoning. Traps: a prompt cut at the front loses shallow needles; a random depth hides where a model forgets;
a value that a model likes anyway (hence the control); more room for the answer than the question needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from ttbench.errors import TooLongError, UsageError
from ttbench.tasks.base import Bench, Task
from ttbench.tasks.haystack import Hay, Prompt, Recipe, draw_candidates, draw_riddle, gather, lay_prompt, write_recipes
from ttbench.types import Metric, Sample

if TYPE_CHECKING:
    from ttbench.harness.engine import Engine

# Sums that differ by less are ties: float32 rounding of the same logits, far below what a needle changes.
TIE_NATS = 1e-4
# Bytes of the prompt's end kept as evidence.
EVIDENCE_BYTES = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedleParams:
    """Parameters of the needle task."""

    limit: int = 10  # trials: haystacks, each with a needle at every depth
    depths: str = "0,0.25,0.5,0.75,1"  # shares of the haystack before the needle
    scorer: Literal["both", "generate", "choice"] = "both"
    question: Literal["ruler", "cloze"] = "cloze"  # cloze: the needle's sentence begun again, for base models
    candidates: int = 10  # choice: values to choose from, the true one included
    answer_tokens: int = 32  # generate: tokens written, kept free inside the context
    share_prefixes: bool = True  # False reads every prompt from its start: slower, equal answers


def _metric(name: str, label: str, numerator: str, *axes: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="share",
        better="higher",
        statistic="proportion",
        numerator=numerator,
        denominator="num_trials",
        cluster="haystack",
        axes=axes,
    )


class Needle(Task):
    """Hits by length and depth."""

    name: ClassVar[str] = "needle"
    version: ClassVar[int] = 1
    Params: ClassVar[type[Any]] = NeedleParams
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = True
    default_corpus: ClassVar[str] = "kjv"
    default_ctx: ClassVar[str] = "512..4k"
    metrics: ClassVar[tuple[Metric, ...]] = (
        _metric("retrieval", "needles retrieved (generate)", "hits_generate", "context_len"),
        _metric("recognition", "needles recognised (choice)", "hits_choice", "context_len"),
        _metric("retrieval_by_depth", "needles retrieved (generate)", "hits_generate", "context_len", "depth"),
        _metric("recognition_by_depth", "needles recognised (choice)", "hits_choice", "context_len", "depth"),
    )

    def check(self, params: NeedleParams) -> None:
        """Raise UsageError on depths outside 0 to 1, or counts that mean nothing."""
        read_depths(params.depths)
        for name, least in (("limit", 1), ("candidates", 2), ("answer_tokens", 1)):
            if getattr(params, name) < least:
                raise UsageError(f"needle parameter {name} is {getattr(params, name)}; it must be at least {least}")

    def tokens(self, params: NeedleParams, context_len: int) -> int:
        """Tokens of prompts and controls, with what depths share counted once."""
        depths = read_depths(params.depths)
        passes = sum(1 - depth for depth in depths) + 1 if params.share_prefixes else len(depths) + 1
        return params.limit * (round(passes * context_len) + len(depths) * 256)

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per haystack and depth.

        Raises:
            UnsupportedError: the context has no room for a haystack.
            TooShortError: the corpus is shorter than the haystack.
            TooLongError: the checkpoint cannot take the context.
        """
        cell = bench.cell
        params: NeedleParams = self.Params(**cell.params)
        self.check(params)
        depths, tokenizer = read_depths(params.depths), bench.tokenizer
        _require_room(bench)
        hay = gather(bench.corpus, tokenizer)
        for trial in range(params.limit):
            riddle = draw_riddle(seed=cell.seed, trial=trial)
            values, candidates = draw_candidates(
                riddle.value, tokenizer, count=params.candidates, seed=cell.seed, trial=trial
            )
            recipes = write_recipes(
                hay,
                tokenizer,
                riddle,
                depths=depths,
                context_len=cell.context_len,
                answer_len=max(params.answer_tokens, candidates.shape[1]),
                question=params.question,
                seed=cell.seed,
                trial=trial,
            )
            prompts = [lay_prompt(recipe, hay, tokenizer) for recipe in recipes]
            reader = Reader(bench.engine, params, candidates, max_len=cell.context_len)
            read = reader.read_shared(prompts) if params.share_prefixes else reader.read_apart(prompts)
            for recipe, prompt, reading in zip(recipes, prompts, read, strict=True):
                yield _sample(recipe, prompt, reading, hay=hay, bench=bench, values=values)
            bench.progress(trial + 1, params.limit)


def read_depths(text: str) -> tuple[float, ...]:
    """Depths in ascending order, each from 0 to 1 and named once. Raises UsageError."""
    try:
        depths = tuple(float(part) for part in text.split(","))
    except ValueError:
        depths = ()
    if not depths or not all(0 <= depth <= 1 for depth in depths) or len(set(depths)) != len(depths):
        raise UsageError(f"needle depths are '{text}'; give different numbers from 0 to 1, such as 0,0.25,0.5,0.75,1")
    return tuple(sorted(depths))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a checkpoint made of one prompt."""

    generated: Int[np.ndarray, "T"] | None
    nats: Float[np.ndarray, "N"] | None  # of each candidate after the prompt
    control_nats: Float[np.ndarray, "N"] | None  # of each candidate after the prompt without needle
    prefilled_tokens: int


class Reader:
    """Puts the prompts of one haystack through an engine and counts the tokens read; the state is the engine's."""

    def __init__(
        self, engine: Engine, params: NeedleParams, candidates: Int[np.ndarray, "N T"], *, max_len: int
    ) -> None:
        self._engine, self._candidates, self._max_len = engine, candidates, max_len
        self._num_generated = 0 if params.scorer == "choice" else params.answer_tokens
        self._choice = params.scorer != "generate"
        self._prefilled = 0

    def read_apart(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """Each prompt from an empty state, and the control once."""
        answers = []
        for prompt in prompts:
            self._engine.reset(1, self._max_len)
            answers.append(self._answer(prompt.ids))
        control = None
        if self._choice:
            self._engine.reset(1, self._max_len)
            control = self._control(prompts[0].control_ids)
        return self._readings(answers, control)

    def read_shared(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """What stands before a needle once for all prompts, which share a haystack and come by ascending depth."""
        engine = self._engine
        engine.reset(1, self._max_len)
        shared = np.concatenate([prompts[0].head, prompts[0].haystack])
        done, answers = 0, []
        for index, prompt in enumerate(prompts):
            self._prefill(shared[done : prompt.needle_index])
            done = prompt.needle_index
            more = self._choice or index + 1 < len(prompts)
            before = engine.snapshot() if more else None
            answers.append(self._answer(prompt.ids[done:]))
            if more:
                engine.restore(before)
        control = self._control(prompts[0].control_ids[done:]) if self._choice else None
        return self._readings(answers, control)

    def _prefill(self, ids: Int[np.ndarray, "T"]) -> None:
        if len(ids):
            self._engine.prefill(ids[None])
            self._prefilled += len(ids)

    def _answer(self, ids: Int[np.ndarray, "T"]) -> tuple[np.ndarray | None, np.ndarray | None, int]:
        """Read the rest of a prompt; what is generated, the candidates' nats, and tokens read since the last call."""
        # The last token is read together with what follows it, so that it is predicted from here.
        self._prefill(ids[:-1])
        end = self._engine.snapshot() if self._choice else None
        generated = self._engine.generate(ids[None, -1:], self._num_generated)[0] if self._num_generated else None
        nats = None
        if self._choice:
            if self._num_generated:
                self._engine.restore(end)
            nats = self._score_candidates(ids[-1], end)
        prefilled, self._prefilled = self._prefilled, 0
        return generated, nats, prefilled

    def _control(self, ids: Int[np.ndarray, "T"]) -> tuple[Float[np.ndarray, "N"], int]:
        self._prefill(ids[:-1])
        nats = self._score_candidates(ids[-1], self._engine.snapshot())
        prefilled, self._prefilled = self._prefilled, 0
        return nats, prefilled

    def _score_candidates(self, last_id: int, start: Any) -> Float[np.ndarray, "N"]:
        """Nats of each candidate from the snapshot `start`, where the state is now.

        One after the other: N states at once would cost N times the memory.
        """
        nats = np.zeros(len(self._candidates))
        for index, candidate in enumerate(self._candidates):
            if index:
                self._engine.restore(start)
            inputs = np.concatenate([[last_id], candidate[:-1]])
            nats[index] = self._engine.score(inputs[None], candidate[None]).sum()
        return nats

    def _readings(
        self,
        answers: Sequence[tuple[np.ndarray | None, np.ndarray | None, int]],
        control: tuple[Float[np.ndarray, "N"], int] | None,
    ) -> list[Reading]:
        control_nats, control_tokens = (None, 0) if control is None else control
        return [
            Reading(
                generated=generated,
                nats=nats,
                control_nats=control_nats,
                prefilled_tokens=prefilled + (control_tokens if index + 1 == len(answers) else 0),
            )
            for index, (generated, nats, prefilled) in enumerate(answers)
        ]


def score_choice(nats: Float[np.ndarray, "N"], control_nats: Float[np.ndarray, "N"]) -> float:
    """1 when the first candidate gains most from the needle, 1/k when k tie for it, else 0."""
    change = nats - control_nats
    best = change <= change.min() + TIE_NATS
    return 1 / int(best.sum()) if best[0] else 0.0


def _sample(
    recipe: Recipe, prompt: Prompt, reading: Reading, *, hay: Hay, bench: Bench, values: Sequence[str]
) -> Sample:
    ids, tokenizer = prompt.ids, bench.tokenizer
    answer = None if reading.generated is None else tokenizer.decode(reading.generated)
    nats, control_nats = reading.nats, reading.control_nats
    choice = None if nats is None or control_nats is None else score_choice(nats, control_nats)
    return Sample(
        keys={
            "haystack": f"{recipe.document}@{recipe.offset}",
            "depth": recipe.depth,
            "recipe": recipe.to_text(),
        },
        values={
            "num_trials": 1,
            "hits_generate": None if answer is None else float(recipe.value.encode().lower() in answer.lower()),
            "hits_choice": choice,
            "needle_index": prompt.needle_index,
            "actual_depth": recipe.insert_at / recipe.haystack_len,
            "prompt_tokens": len(ids),
            "prompt_bytes": int(tokenizer.byte_lengths(ids).sum()),
            "prefilled_tokens": reading.prefilled_tokens,
            "value_nats": None if nats is None else float(nats[0]),
            "value_control_nats": None if control_nats is None else float(control_nats[0]),
        },
        evidence={
            "prompt_end": tokenizer.decode(ids[-EVIDENCE_BYTES:])[-EVIDENCE_BYTES:].decode(errors="replace"),
            "value": recipe.value,
            "answer": None if answer is None else answer.decode(errors="replace"),
            "candidates": list(values),
            "nats": None if nats is None else [round(float(value), 5) for value in nats],
            "control_nats": None if control_nats is None else [round(float(value), 5) for value in control_nats],
        },
    )


def _require_room(bench: Bench) -> None:
    most = bench.engine.max_context
    if most is not None and bench.cell.context_len > most:
        raise TooLongError(
            f"a prompt and its answer fill {bench.cell.context_len:,} tokens; checkpoint "
            f"'{bench.cell.checkpoint.name}' takes at most {most:,}"
        )
