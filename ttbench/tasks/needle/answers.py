"""Prompts through an engine: what it writes after them, and what the values cost it, with and without the needle.

    one haystack, D depths   shared  |--------d1--------d2--------d3| question     <- the control, without needle
                             d1                 N-------------------| question
                             d2                           N---------| question
                             d3                                     N question

What stands before the needle is read once: a snapshot is taken at each depth, the needle and the rest are read, and
the state goes back. Letters: T tokens, G that are generated, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ttbench.tasks.needle.prompts import Prompt

if TYPE_CHECKING:
    from ttbench.engines.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What stands after one prompt."""

    generated: Int[np.ndarray, "G"]  # empty when nothing was to be written
    nats: Float[np.ndarray, "N T"]  # of each token of each candidate, the true one first; N = 0: not scored
    prefilled_tokens: int  # read since the answer before

    @property
    def sums(self) -> Float[np.ndarray, "N"]:
        """Nats of each candidate."""
        return self.nats.sum(axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """The answers to the prompts of one haystack, and to the same without what is asked for."""

    answers: tuple[Answer, ...]
    control: Answer


class PromptReader:
    """Puts the prompts of one haystack through an engine and counts the tokens read; the state is the engine's."""

    def __init__(
        self, engine: Engine, candidates: Int[np.ndarray, "N T"], *, num_generated: int, num_scored: int, max_len: int
    ) -> None:
        self._engine, self._candidates, self._max_len = engine, candidates[:num_scored], max_len
        self._num_generated = num_generated
        self._prefilled = 0

    def read_apart(self, prompts: Sequence[Prompt]) -> Readings:
        """Each prompt from an empty state, and the control once."""
        answers = []
        for ids in (*(prompt.ids for prompt in prompts), prompts[0].control_ids):
            self._engine.reset(1, self._max_len)
            answers.append(self._answer(ids))
        return Readings(answers=tuple(answers[:-1]), control=answers[-1])

    def read_shared(self, prompts: Sequence[Prompt]) -> Readings:
        """What stands before a needle once for all prompts, which share a haystack and come by ascending depth."""
        engine = self._engine
        engine.reset(1, self._max_len)
        shared = np.concatenate([prompts[0].head, prompts[0].haystack])
        done, answers = 0, []
        for prompt in prompts:
            self._prefill(shared[done : prompt.needle_index])
            done = prompt.needle_index
            before = engine.snapshot()
            answers.append(self._answer(prompt.ids[done:]))
            engine.restore(before)
        return Readings(answers=tuple(answers), control=self._answer(prompts[0].control_ids[done:]))

    def _prefill(self, ids: Int[np.ndarray, "T"]) -> None:
        if len(ids):
            self._engine.prefill(ids[None])
            self._prefilled += len(ids)

    def _answer(self, ids: Int[np.ndarray, "T"]) -> Answer:
        """Read the rest of a prompt; what is generated, and the candidates' nats."""
        engine, empty = self._engine, np.zeros(0, dtype=np.int64)
        # The last token is read together with what follows it, so that it is predicted from here.
        self._prefill(ids[:-1])
        end = engine.snapshot() if len(self._candidates) else None
        generated = engine.generate(ids[None, -1:], self._num_generated)[0] if self._num_generated else empty
        if self._num_generated and len(self._candidates):
            engine.restore(end)
        nats = self._score_candidates(int(ids[-1]), end)
        prefilled, self._prefilled = self._prefilled, 0
        return Answer(generated=np.asarray(generated), nats=nats, prefilled_tokens=prefilled)

    def _score_candidates(self, last_id: int, start: Any) -> Float[np.ndarray, "N T"]:
        """Nats of each candidate from the snapshot `start`, where the state is now.

        One after the other: N states at once would cost N times the memory.
        """
        nats = np.zeros(self._candidates.shape)
        for index, candidate in enumerate(self._candidates):
            if index:
                self._engine.restore(start)
            inputs = np.concatenate([[last_id], candidate[:-1]])
            nats[index] = self._engine.score(inputs[None], candidate[None])[0]
        return nats
