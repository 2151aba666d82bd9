"""RULER's eight needle tasks as data: templates, haystacks, keys and values, and when a number is not RULER's.

    niah_single_1     noise     word   number   1 needle                  passkey
    niah_single_2     essay     word   number   1 needle                  the vanilla needle; the default here
    niah_single_3     essay     word   uuid     1 needle
    niah_multikey_1   essay     word   number   1 of 4 keys is asked for
    niah_multikey_2   needle    word   number   all of the haystack are needles with other keys
    niah_multikey_3   needle    uuid   uuid     the same
    niah_multivalue   essay     word   number   4 values of one key
    niah_multiquery   essay     word   number   4 keys, all asked for

Source: Hsieh et al. 2024 (RULER, arXiv:2404.06654); hsiehjackson/RULER @ 56f7e8e, scripts/data/synthetic/niah.py and
constants.py; the same strings stand in lm-eval 0.4.13, tasks/ruler. The strings below are the definition, letter by
letter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ttbench.tasks.needle.wordings import WORDINGS, Wording

TEMPLATE = (
    "Some special magic {type_needle_v} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {type_needle_v} afterwards.\n{context}\n"
    "What are all the special magic {type_needle_v} for {query} mentioned in the provided text?"
)
ANSWER_PREFIX = " The special magic {type_needle_v} for {query} mentioned in the provided text are"
# Done to both where one value is asked for, in this order.
SINGULAR = (("Some", "A"), ("are all", "is"), ("are", "is"))
NEEDLE = "One of the special magic {type_needle_v} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NUM_DIGITS = 7
# Per cent of the sentences before a needle; one of them is drawn for each needle, none twice in a prompt.
DEPTHS = tuple(round(100 * step / 39) for step in range(40))
ANSWER_TOKENS = 128
LENGTHS = tuple(1024 * size for size in (4, 8, 16, 32, 64, 128))  # tokens; of the published table

Question = Literal["ruler", "cloze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RulerTask:
    """One of RULER's needle tasks."""

    name: str
    haystack: Literal["essay", "noise", "needle"]
    key: Literal["words", "uuids"]
    value: Literal["numbers", "uuids"]
    num_keys: int = 1
    num_values: int = 1  # of each key
    num_queries: int = 1  # keys asked for
    wording: Wording | None = None  # None: RULER's

    def worded(self, name: str) -> RulerTask:
        """The same in another wording."""
        return dataclasses.replace(self, wording=WORDINGS.get(name))

    @property
    def num_answers(self) -> int:
        """Values asked for."""
        return self.num_queries * self.num_values

    def needle(self, key: str, value: str) -> str:
        """A needle's sentence."""
        if self.wording is not None:
            return self.wording.needle.format(noun=self.value.removesuffix("s"), key=key, value=value)
        return NEEDLE.format(type_needle_v=self.value, key=key, value=value)

    def around(self, question: Question, keys: Sequence[str]) -> tuple[str, str]:
        """What stands before the haystack and what after it, when these keys are asked for."""
        if question == "cloze":
            return "", "\n" + self.needle(keys[0], "\0").split(" \0")[0]
        if self.wording is not None:
            asked = self.wording.question.format(noun=self.value.removesuffix("s"), key=keys[0])
            return f"{self.wording.before}\n", f"\n{asked}"
        query = keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"
        template, noun = TEMPLATE + ANSWER_PREFIX, str(self.value)
        if self.num_answers == 1:
            noun = noun.removesuffix("s")
            for plural, singular in SINGULAR:
                template = template.replace(plural, singular)
        before, after = template.split("{context}")
        return before.format(type_needle_v=noun), after.format(type_needle_v=noun, query=query)


_VARIANTS = (
    RulerTask(name="niah_single_1", haystack="noise", key="words", value="numbers"),
    RulerTask(name="niah_single_2", haystack="essay", key="words", value="numbers"),
    RulerTask(name="niah_single_3", haystack="essay", key="words", value="uuids"),
    RulerTask(name="niah_multikey_1", haystack="essay", key="words", value="numbers", num_keys=4),
    RulerTask(name="niah_multikey_2", haystack="needle", key="words", value="numbers"),
    RulerTask(name="niah_multikey_3", haystack="needle", key="uuids", value="uuids"),
    RulerTask(name="niah_multivalue", haystack="essay", key="words", value="numbers", num_values=4),
    RulerTask(name="niah_multiquery", haystack="essay", key="words", value="numbers", num_keys=4, num_queries=4),
)
VARIANTS: Mapping[str, RulerTask] = {variant.name: variant for variant in _VARIANTS}


def departures(
    variant: RulerTask,
    *,
    depth_mode: str,
    question: str,
    answer_tokens: int,
    context_len: int,
    corpus: str,
) -> list[str]:
    """Why a share of values found is not to be put beside RULER's published table, as far as the parameters tell."""
    found = []
    if variant.haystack == "essay":
        found.append(f"haystack: {corpus}, white space kept, for Paul Graham's essays")
    if "words" in (variant.key, variant.value):
        found.append("data: keys of this package's word lists for those of wonderwords")
    if depth_mode != "ruler":
        found.append("depth: set for random")
    if variant.wording is not None:
        found.append(f"wording: {variant.wording.name} for RULER's sentences")
    if question != "ruler":
        found.append("question: the needle's sentence begun again")
    if answer_tokens != ANSWER_TOKENS:
        found.append(f"answer: {answer_tokens} tokens for {ANSWER_TOKENS}")
    if context_len not in LENGTHS:
        found.append("length: RULER has 4k, 8k, 16k, 32k, 64k, 128k")
    return found


def match(answer: bytes, values: Sequence[str]) -> float:
    """RULER's string_match_all of one answer: the share of the values that it contains, whatever the case."""
    return sum(value.lower().encode() in answer.lower() for value in values) / len(values)
