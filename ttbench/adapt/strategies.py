"""Pass 1: which experts a prompt, or a task, is answered with. Pass 2 is any use of the engine afterwards.

    prompt       the model is asked what kind of text it read; base weights          paper, section 3.2 A
    classifier   the same question under an SVF expert that was trained on it        B
    few-shot     shares of all experts by CEM on held-out prompts, once per task     C
    oracle       told the domain: what the best dispatch would give; no pass 1

A strategy sees prompts without answers (`choose`) and examples of the `valid` split (`learn`); what is scored is of
the `test` split, and `learn` refuses it. Departures: base models do not follow instructions, so the answer to the
question is not written and parsed but read off as the label that the prompt makes likelier, against the question
alone (Holtzman et al. 2021, PMI); the classifier was trained to write the label, and its likeliest is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from ttbench.adapt.cem import CemSettings, Found, cross_entropy_search
from ttbench.adapt.domains import DOMAINS, Item
from ttbench.adapt.experts import OTHER
from ttbench.adapt.item_answers import label_nats, read_answers
from ttbench.adapt.switch import BASE, Choice, Switch
from ttbench.engines.engine import Engine
from ttbench.errors import UsageError

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

QUESTION = "\n\nThe text above is"
HELD_OUT = "valid"  # the split that adaptation may look at


def question_ids(prompt: Int[np.ndarray, "T"], tokenizer: Tokenizer) -> Int[np.ndarray, "_"]:
    """A prompt with the dispatch question after it."""
    return np.concatenate([prompt, tokenizer.encode(QUESTION.encode())])


def label_ids(domain: str, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
    """The answer to the question that names a domain."""
    return tokenizer.encode(f" {DOMAINS[domain].label}.".encode())


class Strategy(ABC):
    """Pass 1 of one strategy over one task, the items of one domain."""

    def learn(self, examples: Sequence[Item]) -> None:
        """Look at held-out items of the task, once, before any prompt. The default looks at none.

        Raises UsageError for an item of another split than `valid`.
        """
        for item in examples:
            if item.split != HELD_OUT:
                raise UsageError(
                    f"'{item.name}' is of split {item.split}; adaptation may look at {HELD_OUT} items only"
                )

    @abstractmethod
    def choose(self, prompt: Int[np.ndarray, "T"]) -> Choice:
        """Experts for one prompt."""


class Dispatch(Strategy):
    """Asks the model what kind of text the prompt is, under its base weights or under a classifier expert."""

    def __init__(
        self,
        engine: Engine,
        switch: Switch,
        tokenizer: Tokenizer,
        *,
        experts: Mapping[str, str],
        classifier: str | None,
    ) -> None:
        """`experts` maps a domain to its expert; `classifier` is an expert, or None for the base weights."""
        self._engine, self._switch, self._tokenizer, self._experts = engine, switch, tokenizer, experts
        self._asked: Choice = BASE if classifier is None else {classifier: 1.0}
        self._calibrated = classifier is None
        self.labels = [*experts, OTHER]
        self._label_ids = [label_ids(label, tokenizer) for label in self.labels]
        self._alone: np.ndarray | None = None  # nats of the labels after the question alone

    def choose(self, prompt: Int[np.ndarray, "T"]) -> Choice:
        """The expert of the label that the model gives; the base for "other"."""
        self._switch.to(self._asked)
        nats = label_nats(self._engine, question_ids(prompt, self._tokenizer), self._label_ids)
        if self._calibrated:
            if self._alone is None:
                empty = np.asarray([] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id], dtype=np.int64)
                self._alone = label_nats(self._engine, question_ids(empty, self._tokenizer), self._label_ids)
            nats = nats - self._alone
        label = self.labels[int(nats.argmin())]
        return {self._experts[label]: 1.0} if label in self._experts else BASE


class FewShot(Strategy):
    """Shares of the experts, searched by CEM on held-out items: their tokens hit, ties by the answers' likelihood."""

    def __init__(
        self, engine: Engine, switch: Switch, *, experts: Sequence[str], settings: CemSettings, seed: int
    ) -> None:
        self._engine, self._switch, self._experts = engine, switch, tuple(experts)
        self._settings, self._seed = settings, seed
        self.found: Found | None = None

    def learn(self, examples: Sequence[Item]) -> None:
        super().learn(examples)
        if not examples:
            raise UsageError("few-shot adaptation needs at least one held-out item")

        def score(shares: np.ndarray) -> tuple[float, float]:
            self._switch.to(self._named(shares))
            answers = read_answers(self._engine, examples)
            hits = sum(answer.num_hits for answer in answers) / sum(answer.num_tokens for answer in answers)
            return hits, -sum(answer.nats for answer in answers)

        rng = np.random.default_rng((self._seed, len(self._experts)))
        self.found = cross_entropy_search(score, num_dims=len(self._experts), settings=self._settings, rng=rng)

    def choose(self, prompt: Int[np.ndarray, "T"]) -> Choice:
        """The same for every prompt. Raises UsageError before `learn`."""
        if self.found is None:
            raise UsageError("few-shot adaptation chooses after learn() only")
        return self._named(self.found.shares)

    def _named(self, shares: np.ndarray) -> Choice:
        return dict(zip(self._experts, map(float, shares), strict=True))


class Fixed(Strategy):
    """One choice for every prompt: the base, or the expert of a domain that is told."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def choose(self, prompt: Int[np.ndarray, "T"]) -> Choice:
        return self._choice
