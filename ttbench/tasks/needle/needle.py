"""Needle in a haystack: retrieval of a hidden sentence, by length of the text and depth of the needle.

Measured, for each haystack (a trial) and each depth, with the tasks and templates of RULER (`ruler.py`):

    ... Abraham begat Isaac. One of the special magic numbers for calm-otter is: 5093817. And Isaac begat ...
    What is the special magic number for calm-otter mentioned in the provided text? The special ... text is

    generate   share of the values that the greedy tokens contain, whatever the case: RULER's string_match_all
    loglik     nats of the value after the question, and whether each of its tokens is the likeliest (teacher forcing)
    choice     recognition: of N values of equal length, the true one loses the most nats against the same prompt
               without the needle; a tie of k is 1/k of a hit. A blind model scores 1/N. It can be passed without being
               able to write the value, by small checkpoints too

Protocols are RULER's tasks. In depth mode `grid` a needle stands at each of the depths in turn, and base models are
asked by beginning the needle's sentence again (cloze); in mode `ruler` depths are drawn, the question is RULER's, and
128 tokens are kept for the answer. The answer's tokens count inside the context in both.

A share holds for the wording it was asked in: others can lose a third of the hits. With `wording: drawn`, as the suite
`needle` has it, each trial is in one of ten (`wordings.py`), RULER's among them, and trials in one wording
are one cluster, so that the interval is over wordings and, within them, haystacks. By default it is RULER's alone.

A prompt is as long as asked (up to a line where a haystack has lines, and to the few tokens by which two spellings of
a needle differ), never cut: what does not fit ends the cell as too_long or too_short. Haystacks come from the corpus's
test documents, prose (kjv) by default, in tokens; the same key, value and place in the corpus at every length.

Control: every trial is read once without what is asked for. A model that then writes the value, or gives it more than
even odds, cannot have it from the prompt: its state leaks, or it was told; the cell is refused (LeakError).
D evenly spread depths cost about D/2 + 1 prefills, control included; `prefilled_tokens` counts what was really read
(by a trial, with the stretch of shared text it added; the control's own are counted in the haystack's last trial).

Statistic: share of hits, Wilson interval; trials with one haystack, or in one drawn wording, are one cluster. Not
measured: reasoning, paraphrase. Traps: a prompt cut at the front loses shallow needles; a random depth hides where a
model forgets; a value that a model likes anyway (hence the control); more room for the answer than the question needs.
`comparable_to_published` says whether a row may stand beside RULER's table, and `not_comparable_because` why not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int

from ttbench.declare import ColumnDeclaration, parameter, real, text, truth, whole
from ttbench.errors import TooLongError, UnknownNameError, UnsupportedError, UsageError
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.base import Bench, Task
from ttbench.tasks.card_scores import CardScore
from ttbench.tasks.needle import needle_card
from ttbench.tasks.needle.answers import PromptReader
from ttbench.tasks.needle.haystack import gather
from ttbench.tasks.needle.judge import Judge, view_evidence
from ttbench.tasks.needle.prompts import prepare
from ttbench.tasks.needle.riddle import answer_ids, draw_candidates, draw_riddle, draw_wording
from ttbench.tasks.needle.ruler import ANSWER_TOKENS, VARIANTS, RulerTask, departures
from ttbench.tasks.view import EvidencePart
from ttbench.types import Cell, Figure, Metric, Sample

SCORERS: Mapping[str, frozenset[str]] = {
    "both": frozenset({"generate", "choice"}),
    "all": frozenset({"generate", "loglik", "choice"}),
    **{name: frozenset({name}) for name in ("generate", "loglik", "choice")},
}
CANDIDATE_TOKENS = 8  # of a value, for plans
GRID_DEPTHS = "0,0.25,0.5,0.75,1"
GRID_ANSWER_TOKENS = {"numbers": 32, "uuids": 64}  # by kind of value; a byte is a token for some


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedleParams:
    """Parameters of the needle task; None stands for what suits the depth mode, and is filled in by the plan."""

    limit: int = parameter(10, "trials: haystacks, each with a needle at every depth", "trials")
    protocol: str = parameter("niah_single_2", "one of RULER's tasks")
    depth_mode: Literal["grid", "ruler"] = parameter("grid", "grid: depths in turn; ruler: drawn for each needle")
    depths: str | None = parameter(None, "grid: shares of the haystack before the needle, separated by commas")
    scorer: Literal["both", "generate", "loglik", "choice", "all"] | None = parameter(
        None, "how an answer is judged; both: generate and choice"
    )
    wording: Literal["ruler", "drawn"] = parameter("ruler", "drawn: each trial in one of ten wordings; ruler: its own")
    question: Literal["ruler", "cloze"] | None = parameter(
        None, "cloze: the needle's sentence begun again, for base models"
    )
    candidates: int = parameter(10, "choice: values to choose from, the true one included")
    answer_tokens: int | None = parameter(None, "generate: room for the answer, inside the context", "tokens")
    share_prefixes: bool = parameter(True, "false reads every prompt from its start: slower, equal answers")


def settled(params: NeedleParams) -> NeedleParams:
    """The parameters with every None filled in. Raises UnknownNameError for a protocol that RULER has not."""
    if params.protocol not in VARIANTS:
        raise UnknownNameError("needle protocol", params.protocol, known=VARIANTS)
    if params.depth_mode == "ruler":
        filled: dict[str, Any] = {"scorer": "generate", "question": "ruler", "answer_tokens": ANSWER_TOKENS}
    else:
        answer_tokens = GRID_ANSWER_TOKENS[VARIANTS[params.protocol].value]
        filled = {"depths": GRID_DEPTHS, "scorer": "both", "question": "cloze", "answer_tokens": answer_tokens}
    return dataclasses.replace(
        params, **{name: value for name, value in filled.items() if getattr(params, name) is None}
    )


def _metric(name: str, label: str, numerator: str, *axes: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="share",
        better="higher",
        statistic="proportion",
        numerator=numerator,
        denominator="num_trials",
        counts="trial",
        cluster="draw",
        axes=axes,
        # a drawn depth is no axis: trials of a cell lie all over it
        where={"param_depth_mode": "grid"} if "depth" in axes else {},
    )


class Needle(Task):
    """Hits by length and depth."""

    name: ClassVar[str] = "needle"
    version: ClassVar[int] = 3
    Params: ClassVar[type[Any]] = NeedleParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "haystack": text("the trial: its haystack, key and value"),
        "wording": text("wording of the needle and of the question"),
        "draw": text("what a row shares with others: its haystack, or its wording where wordings are drawn"),
        "recipe": text("JSON from which the prompt can be made again"),
        "not_comparable_because": text("why the row may not stand beside RULER's table; null: it may"),
        "num_trials": whole("trials of the row: 1", "trials"),
        "loglik_tokens": whole("loglik: tokens of the value", "tokens"),
        "needle_index": whole("place of the needle's first token in the prompt", "tokens"),
        "prompt_tokens": whole("tokens of the prompt, without the room for the answer", "tokens"),
        "prompt_bytes": whole("bytes of the prompt", "bytes"),
        "prefilled_tokens": whole("tokens that were really read; the control's are in the trial's last row", "tokens"),
        "depth": real("share of the haystack before the needle, as asked; null where it is drawn"),
        "hits_generate": real("generate: share of the values that the written answer contains", "trials"),
        "hits_choice": real("choice: 1 where the true value is recognised, 1/k in a tie of k", "trials"),
        "hits_loglik": real("loglik: 1 where each token of the value is the likeliest", "trials"),
        "loglik_nats": real("loglik: negative log-likelihood of the value", "nats"),
        "actual_depth": real("share of the haystack before the first needle, as it came to stand"),
        "value_nats": real("negative log-likelihood of the value after the prompt", "nats"),
        "value_control_nats": real("the same after the prompt without the needle", "nats"),
        "comparable_to_published": truth("whether the row may stand beside RULER's table"),
    }
    figures: ClassVar[tuple[Figure, ...] | None] = (
        Figure(name="needle", title="Needles retrieved against context", metric="retrieval"),
        Figure(
            name="needle_by_depth",
            title="Needles retrieved, by context and depth",
            metric="retrieval_by_depth",
            kind="heatmap",
        ),
        Figure(name="recognition", title="Needles recognised against context", metric="recognition"),
        Figure(
            name="recognition_by_depth",
            title="Needles recognised, by context and depth",
            metric="recognition_by_depth",
            kind="heatmap",
        ),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = True
    default_corpus: ClassVar[str] = "kjv"
    default_ctx: ClassVar[str] = "512..4k"
    metrics: ClassVar[tuple[Metric, ...]] = (
        _metric("retrieval", "needles retrieved (generate)", "hits_generate", "context_len"),
        _metric("recognition", "needles recognised (choice)", "hits_choice", "context_len"),
        _metric("likeliest", "needles likeliest (loglik)", "hits_loglik", "context_len"),
        Metric(
            name="value_nats",
            label="nats a token of the value (loglik)",
            unit="nats",
            better="lower",
            statistic="ratio",
            numerator="loglik_nats",
            denominator="loglik_tokens",
            counts="token",
            cluster="draw",
        ),
        _metric("retrieval_by_depth", "needles retrieved (generate)", "hits_generate", "context_len", "depth"),
        _metric("recognition_by_depth", "needles recognised (choice)", "hits_choice", "context_len", "depth"),
    )

    def check(self, params: NeedleParams) -> None:
        """Raise UsageError on depths outside 0 to 1, counts that mean nothing, or answers that no scorer can judge."""
        params = settled(params)
        if params.depth_mode == "ruler" and params.depths is not None:
            raise UsageError(f"needle depths are '{params.depths}', and depth_mode ruler draws its own; leave one out")
        if params.depths is not None:
            read_depths(params.depths)
        for name, least in (("limit", 1), ("candidates", 2), ("answer_tokens", 1)):
            if getattr(params, name) < least:
                raise UsageError(f"needle parameter {name} is {getattr(params, name)}; it must be at least {least}")
        num_answers = VARIANTS[params.protocol].num_answers
        if num_answers > 1 and params.wording != "ruler":
            raise UsageError(
                f"needle protocol {params.protocol} asks for {num_answers} values, which is worded as RULER words it "
                f"only; got wording {params.wording}"
            )
        for name, wanted in (("depth_mode", "ruler"), ("question", "ruler"), ("scorer", "generate")):
            if num_answers > 1 and getattr(params, name) != wanted:
                raise UsageError(
                    f"needle protocol {params.protocol} asks for {num_answers} values in any order, which goes with "
                    f"{name} {wanted} only; got {name} {getattr(params, name)}"
                )

    def settle(self, params: NeedleParams, context_lens: tuple[int, ...]) -> NeedleParams:
        """Fill in what suits the depth mode."""
        return settled(params)

    def tokens(self, params: NeedleParams, context_len: int) -> int:
        """Tokens of prompts and controls, with what depths share counted once."""
        params = settled(params)
        depths = (0.0,) if params.depths is None else read_depths(params.depths)
        passes = sum(1 - depth for depth in depths) + 1 if params.share_prefixes else len(depths) + 1
        return params.limit * (round(passes * context_len) + (len(depths) + 1) * 256)

    def work(self, params: NeedleParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        """Prompts and controls, of which only what depths do not share is read again, and answers token by token."""
        params = settled(params)
        depths = (0.0,) if params.depths is None else read_depths(params.depths)
        shared = params.share_prefixes
        reads = [Calls(num=params.limit, num_tokens=context_len * (1 if shared else len(depths) + 1))]
        if shared:
            reads += [Calls(num=params.limit, num_tokens=(1 - d) * context_len, after=d * context_len) for d in depths]
        answers = params.limit * (len(depths) + 1)
        scorers = _scorers(params)
        if "generate" in scorers:
            length = params.answer_tokens or 0
            reads.append(Calls(num=answers, num_tokens=length, after=context_len, steps=True))
        if "choice" in scorers or "loglik" in scorers:
            each = params.candidates if "choice" in scorers else 1
            candidate = Calls(num=answers * each, num_tokens=CANDIDATE_TOKENS, after=context_len)
            reads.append(dataclasses.replace(candidate, scored=CANDIDATE_TOKENS))
        return Work(calls=tuple(reads))

    @classmethod
    def view(cls, evidence: Mapping[str, Any]) -> Iterator[EvidencePart]:
        return view_evidence(evidence)

    @classmethod
    def card(cls, kinds: Sequence[str], *, context_len: int, share: float) -> Iterator[CardScore]:
        return needle_card.scores(kinds, context_len=context_len, share=share)

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per haystack and depth.

        Raises:
            UnsupportedError: the context has no room for a haystack, or the answer none for the values.
            TooShortError: the corpus is shorter than the haystack.
            TooLongError: the checkpoint cannot take the context.
            LeakError: the engine knows a value that it was not shown.
        """
        cell = bench.cell
        params = settled(self.Params(**cell.params))
        self.check(params)
        _require_room(bench)
        variant, drawn = VARIANTS[params.protocol], params.wording == "drawn"
        hay = gather(bench.corpus, bench.tokenizer) if variant.haystack == "essay" else None
        for trial in range(params.limit):
            if drawn:
                variant = variant.worded(draw_wording(seed=cell.seed, trial=trial))
            riddle = draw_riddle(variant, seed=cell.seed, trial=trial)
            values, candidates = _candidates(riddle.asked(variant), variant, params, bench, trial=trial)
            made = prepare(
                variant,
                riddle,
                hay,
                bench.tokenizer,
                depth_mode=params.depth_mode,
                depths=() if params.depths is None else read_depths(params.depths),
                context_len=cell.context_len,
                answer_len=max(params.answer_tokens or 0, candidates.shape[1]),
                question=params.question or "ruler",
                seed=cell.seed,
                trial=trial,
            )
            prompts = [prompt for _, prompt in made]
            reader = _reader(bench, params, candidates)
            readings = reader.read_shared(prompts) if params.share_prefixes else reader.read_apart(prompts)
            judge = Judge(
                checkpoint=cell.checkpoint.name,
                tokenizer=bench.tokenizer,
                scorers=_scorers(params),
                answer_tokens=params.answer_tokens or 0,
                candidates=values,
                control=readings.control,
                departures=_departures(variant, params, cell),
                words_drawn=drawn,
            )
            judge.refuse_leaks(made[0][0])
            for index, ((recipe, prompt), answer) in enumerate(zip(made, readings.answers, strict=True)):
                yield judge.sample(recipe, prompt, answer, last=index + 1 == len(made))
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


def _scorers(params: NeedleParams) -> frozenset[str]:
    return SCORERS[params.scorer or "both"]


def _candidates(
    asked: Sequence[tuple[str, str]], variant: RulerTask, params: NeedleParams, bench: Bench, *, trial: int
) -> tuple[list[str], Int[np.ndarray, "N T"]]:
    """Values to score, the true one first; the true one alone where nothing is chosen.

    Raises UnsupportedError when the answer has no room for the values asked for.
    """
    tokenizer, value = bench.tokenizer, asked[0][1]
    needed = sum(len(answer_ids(value, tokenizer)) for _, value in asked)
    if "generate" in _scorers(params) and needed > (params.answer_tokens or 0):
        raise UnsupportedError(
            f"the values asked for are {needed} tokens long in tokenizer '{tokenizer.name}', and answer_tokens is "
            f"{params.answer_tokens}; ask for at least {needed}"
        )
    if "choice" in _scorers(params):
        return draw_candidates(
            value, tokenizer, variant=variant, count=params.candidates, seed=bench.cell.seed, trial=trial
        )
    return [value], answer_ids(value, tokenizer)[None]


def _reader(bench: Bench, params: NeedleParams, candidates: Int[np.ndarray, "N T"]) -> PromptReader:
    written = (params.answer_tokens or 0) if "generate" in _scorers(params) else 0
    return PromptReader(
        bench.engine,
        candidates,
        # the likeliest tokens, as many as the value has, are what greedy decoding writes
        num_generated=max(written, candidates.shape[1] if "loglik" in _scorers(params) else 0),
        num_scored=len(candidates) if "choice" in _scorers(params) else int("loglik" in _scorers(params)),
        max_len=bench.cell.context_len,
    )


def _departures(variant: RulerTask, params: NeedleParams, cell: Cell) -> tuple[str, ...]:
    found = departures(
        variant,
        depth_mode=params.depth_mode,
        question=params.question or "ruler",
        answer_tokens=params.answer_tokens or 0,
        context_len=cell.context_len,
        corpus=cell.corpus or "none",
    )
    return (*found, *(() if "generate" in _scorers(params) else ("scorer: RULER has generate alone",)))


def _require_room(bench: Bench) -> None:
    most = bench.engine.max_context
    if most is not None and bench.cell.context_len > most:
        raise TooLongError(
            f"a prompt and its answer fill {bench.cell.context_len:,} tokens; checkpoint "
            f"'{bench.cell.checkpoint.name}' takes at most {most:,}"
        )
