"""Needle prompts: recipes of a few fields, and the tokens that each of them stands for.

    BOS  [introduction]  haystack ... NEEDLE ... haystack  question        -> value
         ruler only      |<---- depth 0 to 1 of its tokens ---->|          tokens kept free for it

    depth mode grid    one needle is asked for and stands at each depth in turn; what else is hidden stays in place
    depth mode ruler   every needle at one of 40 depths, drawn without repetition (essay), or before a drawn line

In the grid a needle goes in at the place nearest to its depth. In mode ruler a depth counts sentences, as in RULER's
code. Letters: T tokens, H of the head, Q of the question.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int

from ttbench.corpora.corpus import Corpus
from ttbench.errors import UnsupportedError, UsageError
from ttbench.tasks.draw import generator
from ttbench.tasks.needle.haystack import Hay, Haystack, cut_essay, gather, put_in, stack_lines
from ttbench.tasks.needle.riddle import Riddle, draw_lines, draw_riddle
from ttbench.tasks.needle.ruler import DEPTHS, NOISE, VARIANTS, Question, RulerTask
from ttbench.tasks.needle.wordings import RULER
from ttbench.types import canonical_json

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

# Fewer tokens than this hide nothing.
MIN_HAYSTACK_LEN = 64

DepthMode = Literal["grid", "ruler"]
Piece = tuple[int, Int[np.ndarray, "_"]]  # tokens of the haystack before it, and its ids


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecipe:
    """All that is needed, beside the corpus and the tokenizer, to rebuild a prompt."""

    protocol: str  # the variant
    depth_mode: DepthMode
    question: Question
    seed: int
    trial: int
    corpus: str | None  # digest; None: the haystack is no text of a corpus
    tokenizer: str  # digest
    document: str | None  # that the haystack begins in
    offset: int | None  # tokens; of the haystack's first token in the corpus's test documents
    haystack_len: int  # tokens without any needle
    keys: tuple[str, ...]  # asked for
    values: tuple[str, ...]  # the answer
    depth: float | None  # asked for; None: drawn
    insert_at: tuple[int, ...]  # tokens of the haystack, other needles included, before each needle asked for
    wording: str = RULER  # of statement and question

    def to_text(self) -> str:
        """JSON, as rows carry it."""
        return canonical_json(asdict(self))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> PromptRecipe:
        lists = {name: tuple(fields[name]) for name in ("keys", "values", "insert_at")}
        return cls(**{**fields, **lists})

    @property
    def haystack(self) -> str:
        """A name for the haystack: trials that share it are not independent. Noise is drawn anew for each trial."""
        if self.offset is None:
            return f"{VARIANTS[self.protocol].haystack}@{self.trial}"
        return f"{self.document}@{self.offset}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The parts of a prompt, in tokens."""

    head: Int[np.ndarray, "H"]  # BOS and the introduction
    haystack: Int[np.ndarray, "T"]  # with the needles that nobody asks for
    needles: tuple[Piece, ...]  # asked for, by ascending place
    question: Int[np.ndarray, "Q"]

    @property
    def needle_index(self) -> int:
        """Index of the first needle's first token in the prompt."""
        return len(self.head) + self.needles[0][0]

    @property
    def ids(self) -> Int[np.ndarray, "T"]:
        return np.concatenate([self.head, put_in(self.haystack, self.needles), self.question])

    @property
    def control_ids(self) -> Int[np.ndarray, "T"]:
        """The same prompt without what is asked for."""
        return np.concatenate([self.head, self.haystack, self.question])


def prepare(
    variant: RulerTask,
    riddle: Riddle,
    hay: Hay | None,
    tokenizer: Tokenizer,
    *,
    depth_mode: DepthMode,
    depths: tuple[float, ...],
    context_len: int,
    answer_len: int,
    question: Question,
    seed: int,
    trial: int,
) -> list[tuple[PromptRecipe, Prompt]]:
    """One haystack that fills `context_len` together with needles, question and answer; a prompt for each depth.

    `hay` is needed by the variants in a corpus. In depth mode ruler there is one prompt, and `depths` do not count.

    Raises:
        UnsupportedError: the context has no room for a haystack beside them.
        TooShortError: the corpus has fewer tokens than the haystack.
    """
    joint = hay.joint if hay is not None else "\n"
    head, ask = _frame(variant, riddle, question, tokenizer)
    fixed = len(head) + len(ask) + answer_len
    for needle in (*riddle.asked(variant), *riddle.others(variant)):
        text = variant.needle(*needle)
        fixed += max(len(tokenizer.encode(piece.encode())) for piece in (joint + text, text + joint))
    room = context_len - fixed
    offset = None
    if room >= MIN_HAYSTACK_LEN and hay is not None:
        offset = hay.offset(riddle.share, room)
    haystack = _lay_haystack(variant, riddle, hay, tokenizer, room=room, offset=offset, seed=seed, trial=trial)
    # RULER hides more than one needle in essays only; a haystack of lines needs one of them.
    if room < MIN_HAYSTACK_LEN or not haystack.num_units:
        raise UnsupportedError(
            f"a context of {context_len} tokens has no room for a haystack: needles, question and answer take {fixed}; "
            f"ask for at least {_least(variant, riddle, tokenizer, fixed=fixed, seed=seed, trial=trial)}"
        )
    base, drawn = _hide(variant, riddle, haystack, tokenizer, depth_mode=depth_mode, seed=seed, trial=trial)
    made = []
    for depth in (None,) if depth_mode == "ruler" else depths:
        needles = drawn if depth is None else _at_depth(variant, riddle, base, depth, tokenizer)
        recipe = PromptRecipe(
            protocol=variant.name,
            depth_mode=depth_mode,
            question=question,
            seed=seed,
            trial=trial,
            corpus=None if hay is None else hay.corpus_digest,
            tokenizer=tokenizer.digest,
            document=None if hay is None or offset is None else hay.document_of(offset),
            offset=offset,
            haystack_len=len(haystack.ids),
            keys=tuple(dict.fromkeys(key for key, _ in riddle.asked(variant))),
            values=tuple(value for _, value in riddle.asked(variant)),
            depth=depth,
            insert_at=tuple(place for place, _ in needles),
            wording=RULER if variant.wording is None else variant.wording.name,
        )
        made.append((recipe, Prompt(head=head, haystack=base.ids, needles=needles, question=ask)))
    return made


def rebuild(
    recipe: PromptRecipe | Mapping[str, Any] | str, corpus: Corpus | None, tokenizer: Tokenizer
) -> Int[np.ndarray, "T"]:
    """The ids of a scored prompt, from the recipe in its row (JSON text, its content, or a Recipe).

    Raises:
        UsageError: the corpus or the tokenizer is not the one that the prompt was made from.
    """
    if isinstance(recipe, str):
        recipe = PromptRecipe.from_fields(json.loads(recipe))
    if not isinstance(recipe, PromptRecipe):
        recipe = PromptRecipe.from_fields(recipe)
    given = None if corpus is None or recipe.corpus is None else corpus.digest
    for noun, wanted, found in (("corpus", recipe.corpus, given), ("tokenizer", recipe.tokenizer, tokenizer.digest)):
        if wanted != found:
            raise UsageError(f"the recipe was made with the {noun} of digest {wanted}; this one has {found}")
    variant, seed, trial = VARIANTS[recipe.protocol].worded(recipe.wording), recipe.seed, recipe.trial
    riddle = draw_riddle(variant, seed=seed, trial=trial)
    hay = gather(corpus, tokenizer) if given is not None and corpus is not None else None
    haystack = _lay_haystack(
        variant, riddle, hay, tokenizer, room=recipe.haystack_len, offset=recipe.offset, seed=seed, trial=trial
    )
    base, drawn = _hide(variant, riddle, haystack, tokenizer, depth_mode=recipe.depth_mode, seed=seed, trial=trial)
    needles = drawn if recipe.depth is None else _at_depth(variant, riddle, base, recipe.depth, tokenizer)
    head, ask = _frame(variant, riddle, recipe.question, tokenizer)
    return Prompt(head=head, haystack=base.ids, needles=needles, question=ask).ids


def _frame(
    variant: RulerTask, riddle: Riddle, question: Question, tokenizer: Tokenizer
) -> tuple[Int[np.ndarray, "H"], Int[np.ndarray, "Q"]]:
    before, after = variant.around(question, riddle.keys[: variant.num_queries])
    bos = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=np.int64)
    return np.concatenate([bos, tokenizer.encode(before.encode())]), tokenizer.encode(after.encode())


def _lay_haystack(
    variant: RulerTask,
    riddle: Riddle,
    hay: Hay | None,
    tokenizer: Tokenizer,
    *,
    room: int,
    offset: int | None,
    seed: int,
    trial: int,
) -> Haystack:
    """At most `room` tokens of haystack, without a needle that has a depth."""
    if variant.haystack == "essay":
        if hay is None or offset is None:
            return Haystack(ids=np.zeros(0, dtype=np.int64), places=np.zeros(1, dtype=np.int64), joint=" ")
        return cut_essay(hay, offset=offset, haystack_len=room)
    lines = repeat(NOISE) if variant.haystack == "noise" else draw_lines(variant, riddle, seed=seed, trial=trial)
    return stack_lines(lines, tokenizer, haystack_len=max(room, 0))


def _hide(
    variant: RulerTask,
    riddle: Riddle,
    haystack: Haystack,
    tokenizer: Tokenizer,
    *,
    depth_mode: DepthMode,
    seed: int,
    trial: int,
) -> tuple[Haystack, tuple[Piece, ...]]:
    """The haystack with the needles that nobody asks for; and in depth mode ruler those asked for, at their places."""
    asked = riddle.asked(variant) if depth_mode == "ruler" else ()
    needles = [*((needle, True) for needle in asked), *((needle, False) for needle in riddle.others(variant))]
    rng = generator(seed, "needle", variant.name, depth_mode, "places", trial)
    if variant.haystack == "essay":
        shares = rng.choice(DEPTHS, size=len(needles), replace=False) / 100
        units = (haystack.num_units * shares).astype(np.int64)
    else:
        units = rng.choice(haystack.num_units, size=len(needles), replace=False)
    others: list[Piece] = []
    mine: list[Piece] = []
    shift = 0
    for index in np.argsort(units, kind="stable"):
        needle, is_asked = needles[index]
        place = int(haystack.places[units[index]])
        ids = haystack.piece(variant.needle(*needle), place, tokenizer)
        if is_asked:
            mine.append((place + shift, ids))
        else:
            others.append((place, ids))
            shift += len(ids)
    return haystack.with_pieces(others), tuple(mine)


def _at_depth(
    variant: RulerTask, riddle: Riddle, base: Haystack, depth: float, tokenizer: Tokenizer
) -> tuple[Piece, ...]:
    """The one needle asked for, at the place nearest to a depth."""
    place = base.nearest(depth)
    return tuple((place, base.piece(variant.needle(*needle), place, tokenizer)) for needle in riddle.asked(variant))


def _least(variant: RulerTask, riddle: Riddle, tokenizer: Tokenizer, *, fixed: int, seed: int, trial: int) -> int:
    """A context with room for the shortest haystack."""
    if variant.haystack == "essay":
        return fixed + MIN_HAYSTACK_LEN
    lines = _lay_haystack(variant, riddle, None, tokenizer, room=1024, offset=None, seed=seed, trial=trial)
    return fixed + max(int(lines.places[1]), MIN_HAYSTACK_LEN)
