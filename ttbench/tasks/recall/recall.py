"""Recall and state tracking: recall of stated pairs, copying, parity and permutations, by length.

    kind     a question                                          chance, blind   state that solves it
    mqar     the value stated with this key                      1/128           all pairs
    copy     the string read before the bar, letter by letter    1/26 (*)        the string
    parity   whether the ones so far are odd                     1/2             one bit
    s5       the product of the permutations of five so far      1/120           seven bits

    (*) and a bar at the end, which of a string of less than 26 letters is the best single answer

Form `symbols` is the papers': one token a symbol, and the answer is not read, so state must be carried and cannot be
looked up (`ttbench.corpora.training_rows.puzzles` has the definitions and sources). It is a test of architectures: a
model is trained on such sequences (`ttbench/zoo/recipe-synthetic.yaml`) and tested there and beyond its length. A model
that never saw them scores chance, which says nothing about what it could learn. Form `text` asks a pretrained model
without any training: key/value sentences stated once and asked for once (mqar), random strings repeated (copy), as in
the rows that the zoo was trained on. Both fill the context in the checkpoint's own tokens, mqar with sentences that
nobody asks for; `sequence_tokens` is what was really read, and `extrapolated` follows it. Parity and S5 have no such
form: no text poses them. `trained_format` says whether the checkpoint was trained on rows of the cell's kind and form;
null where its config.json does not tell.

Measured, in one pass: a question is answered when each token of its answer is the likeliest of the whole vocabulary,
given those before it (teacher forcing; one token in form symbols). Parity and S5 are asked after every symbol, and the
questions of the second half count, so that contexts of a doubling sweep share no positions.

Statistic: share answered, clustered Wilson interval; a sequence is the cluster. `chance` is what always giving the same
best answer is worth, blind to what was read; `chance_stated` (mqar) what naming a stated value at random is. State
bytes are those of one sequence when all is read. Not measured: free generation. Traps: without a trained model 0 %
means "not trained"; one training at one learning rate is no proof that an architecture cannot; a growing cache holds
everything, so compare at equal `state_bytes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ttbench.corpora.training_rows.puzzles import KEYS, LETTERS, PERMUTATIONS, VALUES, most_pairs
from ttbench.declare import ColumnDeclaration, parameter, real, text, truth, whole
from ttbench.errors import TooLongError, UnsupportedError, UsageError
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.base import Bench, Task
from ttbench.tasks.card_scores import CardScore
from ttbench.tasks.recall import recall_card
from ttbench.tasks.recall.questions import questions_text
from ttbench.tasks.recall.sequences import ROW_KINDS, TEXT_PAIR_LEN, Form, Kind, SequenceRecipe, make
from ttbench.tasks.recall.sequences import Sequence as Tokens
from ttbench.tasks.view import RebuiltText, TextSource
from ttbench.types import Checkpoint, Figure, Metric, Sample

FEWEST_TOKENS = 16  # of a context
FEWEST_PAIRS = 4  # of the numbers of pairs that are asked when none are named
TITLES: dict[Kind, str] = {"mqar": "MQAR", "copy": "copying", "parity": "parity", "s5": "S5"}
# Of the best single answer. Text: a value of three digits (0.6 x 1/6 of all), a string of six digits (1/3 x 1/19).
CHANCE: dict[Form, dict[str, float]] = {
    "symbols": {"mqar": 1 / len(VALUES), "parity": 1 / 2, "s5": 1 / len(PERMUTATIONS)},
    "text": {"mqar": 1e-4, "copy": 1 / 57e4},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallParams:
    """Parameters of the recall task; the plan fills in the form."""

    kind: Kind = parameter("mqar", "what is asked")
    form: Form | None = parameter(None, "symbols or text; None: text where the kind has it")
    pairs: str | None = parameter(None, "mqar: numbers of pairs, separated by commas; None: what fits")
    limit: int = parameter(32, "sequences for each number of pairs", "sequences")


def settled(params: RecallParams) -> RecallParams:
    """The parameters with the form filled in."""
    return dataclasses.replace(params, form=params.form or ("text" if params.kind in ROW_KINDS["text"] else "symbols"))


def _metric(name: str, label: str, numerator: str, *axes: str, **fields: Any) -> Metric:
    given = {"unit": "share", "better": "higher", "statistic": "proportion", "cluster": "sequence", **fields}
    return Metric(name=name, label=label, numerator=numerator, axes=("context_len", *axes), **given)


def _answered(kind: Kind) -> Metric:
    label = f"{TITLES[kind]}: questions answered"
    return _metric(kind, label, "hits", denominator="num_questions", counts="question", where={"param_kind": kind})


def _chance(kind: Kind) -> Metric:
    fields = {"better": "neither", "statistic": "ratio", "cluster": None, "where": {"param_kind": kind}}
    return _metric(f"{kind}_chance", "chance", "chance_hits", denominator="num_questions", counts="question", **fields)


def _curve(kind: Kind, title: str) -> Figure:
    return Figure(name=kind, title=f"{title} against context", metric=kind, references=(f"{kind}_chance",))


class Recall(Task):
    """Questions answered, by length and number of pairs."""

    name: ClassVar[str] = "recall"
    version: ClassVar[int] = 3
    Params: ClassVar[type[Any]] = RecallParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "sequence": text("the sequence: its number of pairs and its number"),
        "recipe": text("JSON from which the sequence can be made again"),
        "pairs": whole("mqar: pairs of keys and values that are stated", "pairs"),
        "num_questions": whole("questions of the sequence", "questions"),
        "hits": whole("questions whose every token is the likeliest", "questions"),
        "answer_tokens": whole("tokens of all answers of the sequence", "tokens"),
        "sequence_tokens": whole("tokens of the sequence as it was read", "tokens"),
        "state_bytes": whole("state of one sequence when all is read", "bytes"),
        "chance": real("share that always giving the same best answer would score"),
        "chance_hits": real("questions that always giving the same best answer would score", "questions"),
        "chance_stated": real("mqar: share that naming one of the stated values at random would score"),
        "nats": real("negative log-likelihood of the answers", "nats"),
        "trained_format": truth("whether the checkpoint was trained on rows of this kind and form; null: unknown"),
    }
    figures: ClassVar[tuple[Figure, ...] | None] = (
        Figure(
            name="mqar_by_pairs",
            title="MQAR: questions answered, by context and number of pairs",
            metric="mqar_by_pairs",
            kind="heatmap",
            y_axis="pairs",
        ),
        _curve("mqar", "MQAR: questions answered"),
        _curve("copy", "Copying: questions answered"),
        _curve("parity", "Parity of what was read"),
        _curve("s5", "Products in S5 of what was read"),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = False
    default_ctx: ClassVar[str] = "256..2k"
    default_batch_size: ClassVar[int] = 8
    metrics: ClassVar[tuple[Metric, ...]] = (
        *(_answered(kind) for kind in TITLES),
        *(_chance(kind) for kind in TITLES),
        _metric(
            "mqar_by_pairs",
            f"{TITLES['mqar']}: questions answered",
            "hits",
            "pairs",
            denominator="num_questions",
            counts="question",
            where={"param_kind": "mqar"},
        ),
        _metric(
            "answer_nats",
            "nats an answer",
            "nats",
            denominator="num_questions",
            counts="question",
            unit="nats",
            better="lower",
            statistic="ratio",
        ),
        _metric(
            "sequence_state_bytes",
            "state after a sequence",
            "state_bytes",
            unit="bytes",
            better="lower",
            statistic="count",
            cluster=None,
        ),
    )

    def check(self, params: RecallParams) -> None:
        """Raise UsageError on counts that mean nothing, or a form that the kind has not."""
        params = settled(params)
        if params.limit < 1:
            raise UsageError(f"recall parameter limit is {params.limit}; it must be at least 1")
        if params.pairs is not None:
            read_pairs(params.pairs)
            if params.kind != "mqar":
                raise UsageError(f"recall kind {params.kind} has no pairs, and pairs is '{params.pairs}'; leave it out")
        if params.kind not in ROW_KINDS[params.form or "symbols"]:
            raise UsageError(
                f"recall kind {params.kind} has no form {params.form}: the zoo was trained on "
                f"{' and '.join(ROW_KINDS['text'])} only; use form symbols"
            )

    def settle(self, params: RecallParams, context_lens: tuple[int, ...]) -> RecallParams:
        """Fill in the form."""
        return settled(params)

    def tokens(self, params: RecallParams, context_len: int) -> int:
        """Tokens of all sequences, as if each filled its context."""
        return context_len * params.limit * len(_asked_pairs(settled(params), context_len))

    def work(self, params: RecallParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        num = params.limit * len(_asked_pairs(settled(params), context_len))
        at_once = max(1, min(batch_size, num))
        return Work(calls=(Calls(num=num / at_once, num_tokens=context_len, batch_size=at_once),))

    @classmethod
    def rebuild(cls, sample: Sample, source: TextSource) -> RebuiltText | None:
        return questions_text(sample, source)

    @classmethod
    def card(cls, kinds: Sequence[str], *, context_len: int, share: float) -> Iterator[CardScore]:
        return recall_card.scores(kinds, context_len=context_len, share=share)

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per sequence.

        Raises:
            UnsupportedError: the context has no room for the pairs or the sentences, or the tokenizer no symbols.
            TooLongError: the checkpoint cannot take the context.
        """
        cell = bench.cell
        params = settled(self.Params(**cell.params))
        self.check(params)
        _require_room(bench)
        recipes = [
            SequenceRecipe(
                kind=params.kind,
                form=params.form or "symbols",
                context_len=cell.context_len,
                pairs=pairs,
                seed=cell.seed,
                trial=trial,
                tokenizer=bench.tokenizer.digest,
            )
            for pairs in _all_pairs(params, cell.context_len)
            for trial in range(params.limit)
        ]
        for start in range(0, len(recipes), cell.batch_size):
            batch = recipes[start : start + cell.batch_size]
            yield from _read(bench, batch)
            bench.progress(start + len(batch), len(recipes))


def read_pairs(text: str) -> tuple[int, ...]:
    """Numbers of pairs in ascending order, each named once. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    numbers = {int(part) for part in parts if part.isdecimal()}
    if len(numbers) < len(parts) or min(numbers) < 1:
        raise UsageError(f"recall pairs are '{text}'; give different whole numbers of at least 1, such as 4,8,16")
    return tuple(sorted(numbers))


def _asked_pairs(params: RecallParams, context_len: int) -> tuple[int | None, ...]:
    """Numbers of pairs that a cell is asked for, whether they fit or not; (None,) for other kinds."""
    if params.kind != "mqar":
        return (None,)
    if params.pairs is not None:
        return read_pairs(params.pairs)
    most = _most_pairs(params, context_len)
    if params.form == "text":
        return (max(most, 1),)
    return tuple(2**power for power in range(2, max(most, FEWEST_PAIRS).bit_length()))


def _most_pairs(params: RecallParams, context_len: int) -> int:
    return context_len // TEXT_PAIR_LEN if params.form == "text" else most_pairs(context_len)


def _all_pairs(params: RecallParams, context_len: int) -> tuple[int | None, ...]:
    """Numbers of pairs that a cell asks; (None,) for other kinds. Raises UnsupportedError where some do not fit."""
    wanted = _asked_pairs(params, context_len)
    largest, most = wanted[-1], _most_pairs(params, context_len)
    if largest is not None and largest > most:
        limit = f"; there are {len(KEYS)} keys" if params.form == "symbols" else f"; each takes {TEXT_PAIR_LEN} tokens"
        advice = "ask for fewer, or for a longer context" if params.pairs is not None else "ask for a longer context"
        raise UnsupportedError(
            f"a context of {context_len} tokens has room for {most} pairs in form {params.form}{limit}; got "
            f"{largest}: {advice}"
        )
    return wanted


def _require_room(bench: Bench) -> None:
    most, context_len, name = bench.engine.max_context, bench.cell.context_len, bench.cell.checkpoint.name
    if context_len < FEWEST_TOKENS:
        raise UnsupportedError(f"recall needs a context of {FEWEST_TOKENS} tokens or more; got {context_len}")
    if most is not None and context_len > most:
        raise TooLongError(f"a sequence fills {context_len:,} tokens; checkpoint '{name}' takes at most {most:,}")


def _read(bench: Bench, recipes: Sequence[SequenceRecipe]) -> Iterator[Sample]:
    """Read sequences side by side, and judge each."""
    engine, made = bench.engine, [make(recipe, bench.tokenizer) for recipe in recipes]
    lengths = np.array([len(tokens.ids) for tokens in made])
    ids = np.zeros((len(made), lengths.max()), dtype=np.int64)
    targets = np.full_like(ids, -1)
    for row, tokens in enumerate(made):
        ids[row, : lengths[row]], targets[row, : lengths[row]] = tokens.ids, tokens.targets
    engine.reset(len(made), int(lengths.max()))
    nats, top = engine.score_top(ids, targets, lengths)
    state_bytes = engine.state_bytes // len(made)
    for row, (recipe, tokens) in enumerate(zip(recipes, made, strict=True)):
        used = slice(lengths[row])
        yield _judge(recipe, tokens, nats[row, used], top[row, used], state_bytes, bench)


def _judge(
    recipe: SequenceRecipe, tokens: Tokens, nats: np.ndarray, top: np.ndarray, state_bytes: int, bench: Bench
) -> Sample:
    """One row: the questions whose every token is the likeliest."""
    asked, number = tokens.questions >= 0, tokens.num_questions
    missed = np.bincount(tokens.questions[asked], weights=~top[asked], minlength=number)
    answers = np.bincount(tokens.questions[asked], weights=nats[asked], minlength=number)
    chance = chance_of(recipe, num_questions=number)
    return Sample(
        keys={
            "sequence": f"{recipe.pairs or 0} pairs, {recipe.trial}",
            "pairs": recipe.pairs,
            "trained_format": trained_format(recipe, bench.cell.checkpoint),
            "recipe": recipe.to_text(),
        },
        values={
            "num_questions": number,
            "hits": int((missed == 0).sum()),
            "chance": chance,
            "chance_hits": chance * number,
            "chance_stated": None if tokens.num_stated is None else 1 / tokens.num_stated,
            "nats": float(answers.sum()),
            "answer_tokens": int(asked.sum()),
            "sequence_tokens": len(tokens.ids),
            "state_bytes": state_bytes,
        },
        evidence={
            "ids": tokens.ids.tolist(),
            "asked_after": [int(place) for place in np.flatnonzero(asked)],
            "question": tokens.questions[asked].tolist(),
            "target_ids": tokens.targets[asked].tolist(),
            "token_nats": [round(float(value), 4) for value in nats[asked]],
            "answered": [int(count == 0) for count in missed],
        },
    )


def chance_of(recipe: SequenceRecipe, *, num_questions: int) -> float:
    """What always giving the same best answer is worth, blind to what was read."""
    if recipe.form == "symbols" and recipe.kind == "copy":
        # the last question is the bar's: of short strings that one hit is worth more than a letter
        return max(1, (num_questions - 1) / len(LETTERS)) / num_questions
    return CHANCE[recipe.form][recipe.kind]


def trained_format(recipe: SequenceRecipe, checkpoint: Checkpoint) -> bool | None:
    """Whether the checkpoint was trained on rows of this kind and form; None: unknown."""
    if checkpoint.train_kinds is not None:
        return ROW_KINDS[recipe.form][recipe.kind] in checkpoint.train_kinds
    # trained before checkpoints told, by the zoo's recipe: it has both kinds of text, and no symbols
    return recipe.form == "text" if checkpoint.provenance == "zoo" else None
