"""Commonsense: any task of lm-eval (PIQA, Social IQa, LAMBADA ...) on any checkpoint, question by question.

Measured, by lm-eval's own code (prompts, choices, metrics), with log-likelihoods from the Engine:

    Q: Ann found a ring. Why?\\nA:| it was lost       each choice's log-likelihood after the question;
                              | she is glad       the greatest one is the answer (acc), or the greatest one per
                              | they are lost     character of the choice (acc_norm)

    question  |-- shared by all choices, read once --|  choice

A cell is one task: `task` is lm-eval's id. The set that papers on recurrent models report is the suite
`suites/commonsense.yaml`: wikitext, lambada_openai, piqa, hellaswag, winogrande, arc_easy, arc_challenge, social_iqa,
boolq. They need the hub or its cache; `social_iqa_evals` needs neither (`ttbench.lmeval.social_iqa`).

The context length is the most that is read of a question: what is longer loses its beginning, as in lm-eval, and
`cut_tokens` says how much. A checkpoint with attention is cut at the length it was trained on besides, which is
lm-eval's rule for models that state one; one without attention never at lm-eval's 2,048. Texts of wikitext are read in
windows of that length.

Statistic: rows are questions. Shares have Wilson intervals; `lm_eval_value` and `lm_eval_stderr` on rows with
`lm_eval_metric` are lm-eval's own aggregate and standard error. Not measured: instruction following, chat templates.
Traps: a limit takes the first questions, not a sample; acc of three choices starts at a third (`chance`); one
tokenizer's loss per token is not another's, words and bytes are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ttbench.declare import ColumnDeclaration, parameter, real, text, truth, whole
from ttbench.errors import UsageError
from ttbench.tasks.base import Bench, Limit, Task
from ttbench.tasks.ends import ENDS_BYTES
from ttbench.tasks.view import EvidencePart, EvidenceTable, NamedValues, rest
from ttbench.types import Metric, Sample, Scalar

if TYPE_CHECKING:
    from ttbench.lmeval.evaluation import Aggregate, TaskOutcome
    from ttbench.lmeval.model import EngineLM, Extent

# For plans only: questions of a task, tokens of one with its choices.
TYPICAL_QUESTIONS, TYPICAL_LEN = 2_000, 256
# lm-eval's names of numbers that are sums over a text, and the units that its ratios divide by.
TEXT_METRICS = {"word_perplexity": "num_words", "byte_perplexity": "num_bytes"}
OTHER_SPLITS = {"social_iqa_evals": "the test questions of Social IQa; lm-eval and the papers score the validation set"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonsenseParams:
    """Parameters of the commonsense task."""

    task: str = parameter("social_iqa_evals", "lm-eval's id of one task")
    num_fewshot: int | None = parameter(None, "worked examples before each question; None: the task's own number")
    limit: Limit = parameter(None, "the first so many questions; None: all", "questions")


def _accuracy(name: str, label: str, numerator: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="share",
        better="higher",
        statistic="proportion",
        numerator=numerator,
        denominator="num_questions",
        counts="question",
        cluster="question",
    )


def _text(name: str, label: str, unit: str, denominator: str, *, bits: bool = False) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit=unit,
        better="lower",
        statistic="ratio" if bits else "exp_ratio",
        numerator="nats",
        denominator=denominator,
        counts={"num_words": "word", "num_bytes": "byte"}.get(denominator, ""),
        scale=1 / math.log(2) if bits else 1.0,
        cluster="question",
        smallest_effect=0.005 if bits else 0.01,
        restates="bits_per_byte" if denominator == "num_words" else None,
    )


class Commonsense(Task):
    """One task of lm-eval."""

    name: ClassVar[str] = "commonsense"
    version: ClassVar[int] = 1
    Params: ClassVar[type[Any]] = CommonsenseParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "lm_eval_task": text("lm-eval's id of the task"),
        "lm_eval_version": text("the task's version in lm-eval"),
        "lm_eval_release": text("release of lm-eval that measured"),
        "dataset": text("data set of the questions"),
        "data_digest": text("digest of the questions as they were asked"),
        "not_comparable_because": text("why the row may not stand beside published numbers; null: it may"),
        "filter": text("lm-eval's filter of the answers, such as none"),
        "lm_eval_metric": text("name of a number as lm-eval reports it; null on rows of questions"),
        "num_fewshot": whole("worked examples before each question"),
        "max_length": whole("the most that is read of a question", "tokens"),
        "question": whole("number of the question in its data set, from 0"),
        "num_questions": whole("questions of the row: 1", "questions"),
        "num_words": whole("words of a text", "words"),
        "num_bytes": whole("bytes of a text", "bytes"),
        "num_targets": whole("continuations that nats are of: 1", "targets"),
        "num_tokens": whole("tokens of the question with its longest choice", "tokens"),
        "cut_tokens": whole("tokens that were cut from the question's beginning", "tokens"),
        "cut_at_2048": whole("tokens that lm-eval would cut at its default length of 2,048", "tokens"),
        "num_windows": whole("windows that a text was read in", "windows"),
        "acc": real("1 where the likeliest choice is the right one", "questions"),
        "acc_norm": real("1 where the likeliest choice per character is the right one", "questions"),
        "chance": real("share that guessing would score: one over the number of choices"),
        "nats": real("negative log-likelihood of a text or of a continuation", "nats"),
        "lm_eval_value": real("the number that lm-eval reports, in lm-eval's unit"),
        "lm_eval_stderr": real("lm-eval's standard error of it"),
        "comparable_to_published": truth("whether the row may stand beside published numbers"),
        "beyond_train_ctx": truth("whether the question is longer than the training context; null: unknown"),
    }
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = False
    default_ctx: ClassVar[str] = "32k"
    default_batch_size: ClassVar[int] = 8
    imports: ClassVar[tuple[str, ...]] = ("ttbench.lmeval.evaluation",)
    metrics: ClassVar[tuple[Metric, ...]] = (
        _accuracy("accuracy", "right answers (acc)", "acc"),
        _accuracy("accuracy_norm", "right answers, by length (acc_norm)", "acc_norm"),
        _text("word_perplexity", "perplexity per word", "1", "num_words"),
        _text("bits_per_byte", "bits per byte", "bit/byte", "num_bytes", bits=True),
        _text("target_perplexity", "perplexity of the last word", "1", "num_targets"),
    )

    def check(self, params: CommonsenseParams) -> None:
        """Raise UsageError on a count that means nothing."""
        for name, least in (("num_fewshot", 0), ("limit", 1)):
            value = getattr(params, name)
            if value is not None and value < least:
                raise UsageError(f"commonsense parameter {name} is {value}; it must be at least {least}")
        if not params.task:
            raise UsageError("commonsense parameter task is empty; give lm-eval's id of a task, such as piqa")

    def tokens(self, params: CommonsenseParams, context_len: int) -> int:
        """A guess: the questions are counted when they are read."""
        return (params.limit or TYPICAL_QUESTIONS) * self.reach(params, context_len)

    def reach(self, params: CommonsenseParams, context_len: int) -> int:
        """A typical question; `num_tokens` and `beyond_train_ctx` of each row are the truth."""
        return min(context_len, TYPICAL_LEN)

    @classmethod
    def view(cls, evidence: Mapping[str, Any]) -> Iterator[EvidencePart]:
        """What lm-eval asked, each with the model's answer: a log-likelihood and whether it is greedy, or a text."""
        contexts = list(dict.fromkeys(request[0] for request in evidence["arguments"]))
        for number, context in enumerate(contexts, 1):
            ends = {"prompt start": context[:ENDS_BYTES], "prompt end": context[ENDS_BYTES:][-ENDS_BYTES:]}
            title = "prompt" if len(contexts) == 1 else f"prompt {number}"
            yield NamedValues(title=title, rows=tuple((name, end) for name, end in ends.items() if end))
        rows = []
        for request, answers in zip(evidence["arguments"], evidence["responses"], strict=True):
            asked, number = request[1] if len(request) > 1 else None, contexts.index(request[0]) + 1
            rows += [(number, asked, *(answer if isinstance(answer, list) else [answer])) for answer in answers]
        if rows:
            answer = "answer text" if isinstance(rows[0][2], str) else "log-likelihood"
            heads = ("prompt", "text asked for", answer, "greedy")[: len(rows[0])]
            yield EvidenceTable(title="requests", heads=heads, rows=tuple(rows))
        yield rest(evidence, ("arguments", "responses"))

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per question (and filter), then one per number that lm-eval reports.

        Raises:
            MissingDataError: the task's data are not on this machine.
            UnsupportedError: the checkpoint has no tokenizer.
            TooLongError: the checkpoint cannot take a choice.
        """
        # Late: lm-eval takes seconds, and a plan needs none of it.
        from ttbench.lmeval.evaluation import evaluate, load_task

        params: CommonsenseParams = self.Params(**bench.cell.params)
        self.check(params)
        # Before the engine: missing data must not cost the loading of weights.
        task = load_task(params.task)
        model = _model(bench)
        outcome = evaluate(task, model, num_fewshot=params.num_fewshot, limit=params.limit)
        shared = _shared_keys(outcome, model, params)
        for sample in outcome.samples:
            yield _question(sample, outcome, model.extents, shared, train_ctx=bench.cell.checkpoint.train_ctx)
        for aggregate in outcome.aggregates:
            yield _aggregate(aggregate, shared)


def _model(bench: Bench) -> EngineLM:
    from ttbench.lmeval.model import EngineLM, identity
    from ttbench.lmeval.opening import reading_limit
    from ttbench.lmeval.text import read_text

    cell = bench.cell
    text = read_text(Path(cell.checkpoint.path))
    allowed = reading_limit(cell.checkpoint, bench.engine)
    limit = cell.context_len if allowed is None else min(cell.context_len, allowed)
    return EngineLM(
        bench.engine,
        text,
        max_length=limit,
        batch_size=cell.batch_size,
        identity=identity(cell.checkpoint, bench.engine, limit=limit),
        progress=bench.progress,
    )


def _shared_keys(outcome: TaskOutcome, model: EngineLM, params: CommonsenseParams) -> dict[str, Scalar]:
    """What is the same for every row of a cell."""
    reasons = [OTHER_SPLITS[outcome.task]] if outcome.task in OTHER_SPLITS else []
    if params.limit is not None and params.limit < outcome.num_questions:
        reasons.append(f"the first {params.limit} of {outcome.num_questions} questions")
    return {
        "lm_eval_task": outcome.task,
        "lm_eval_version": outcome.version,
        "lm_eval_release": outcome.release,
        "dataset": outcome.dataset,
        "data_digest": outcome.data_digest,
        "num_fewshot": outcome.num_fewshot,
        "max_length": model.max_length,
        "comparable_to_published": not reasons,
        "not_comparable_because": "; ".join(reasons) or None,
    }


NO_AGGREGATE: dict[str, Scalar] = {"lm_eval_metric": None}
NO_QUESTION: dict[str, Scalar] = {"question": None}
NO_NUMBERS: dict[str, Any] = dict.fromkeys(
    (
        *("num_questions", "acc", "acc_norm", "chance", "nats", "num_words", "num_bytes", "num_targets"),
        *("num_tokens", "cut_tokens", "cut_at_2048", "num_windows", "beyond_train_ctx"),
        *("lm_eval_value", "lm_eval_stderr"),
    )
)


def _question(
    sample: Mapping[str, Any],
    outcome: TaskOutcome,
    extents: Mapping[tuple[str | None, int | None, int], Extent],
    shared: Mapping[str, Scalar],
    *,
    train_ctx: int | None,
) -> Sample:
    """A question's row: what was right, what it cost in nats, how long its longest choice was."""
    number = int(sample["doc_id"])
    mine = [extents[outcome.task, number, place] for place in range(len(sample["arguments"]))]
    longest = max(extent.num_tokens for extent in mine)
    return Sample(
        keys={**shared, "question": number, "filter": str(sample["filter"]), **NO_AGGREGATE},
        values={
            **NO_NUMBERS,
            "num_questions": 1,
            **_numbers(sample),
            "num_tokens": longest,
            "cut_tokens": max(extent.cut_tokens for extent in mine),
            "cut_at_2048": max(extent.cut_at_2048 for extent in mine),
            "num_windows": max(extent.num_windows for extent in mine),
            "beyond_train_ctx": None if train_ctx is None else longest > train_ctx,
        },
        evidence={
            "doc_hash": sample["doc_hash"],
            "arguments": [[str(part) for part in arguments] for arguments in sample["arguments"]],
            "responses": [[_plain(each) for each in answers] for answers in sample["resps"]],
            "target": str(sample["target"]),
        },
    )


def _numbers(sample: Mapping[str, Any]) -> dict[str, Any]:
    """lm-eval's numbers of one question, raw: shares as 0 or 1, log-likelihoods as nats with what they are over."""
    found: dict[str, Any] = {}
    for name in ("acc", "acc_norm"):
        if name in sample:
            found[name] = float(sample[name])
    if "acc" in found and len(sample["arguments"]) > 1:
        found["chance"] = 1 / len(sample["arguments"])
    for name, unit in TEXT_METRICS.items():
        if name in sample:
            log_likelihood, size = sample[name]
            found |= {"nats": -float(log_likelihood), unit: int(size)}
    if "perplexity" in sample:
        found |= {"nats": -float(sample["perplexity"]), "num_targets": 1}
    return found


def _aggregate(aggregate: Aggregate, shared: Mapping[str, Scalar]) -> Sample:
    """A row with a number as lm-eval reports it."""
    return Sample(
        keys={**shared, **NO_QUESTION, "filter": aggregate.filter, "lm_eval_metric": aggregate.metric},
        values={**NO_NUMBERS, "lm_eval_value": aggregate.value, "lm_eval_stderr": aggregate.stderr},
    )


def _plain(value: Any) -> Any:
    """A response as JSON holds it."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
