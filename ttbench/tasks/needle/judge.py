"""What the answers to needle prompts are worth: hits, the control, the evidence, and whether RULER's table compares.

Letters: T tokens, N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from ttbench.checkpoints.special_tokens import before_end
from ttbench.errors import LeakError
from ttbench.tasks.ends import prompt_ends
from ttbench.tasks.needle.answers import Answer
from ttbench.tasks.needle.prompts import Prompt, PromptRecipe
from ttbench.tasks.needle.riddle import answer_ids
from ttbench.tasks.needle.ruler import match
from ttbench.types import Sample

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

# Sums that differ by less are ties: float32 rounding of the same logits, far below what a needle changes.
TIE_NATS = 1e-4
# Nats below which a value is known: no random value has even odds.
KNOWN_NATS = math.log(2)


def score_choice(nats: Float[np.ndarray, "N"], control_nats: Float[np.ndarray, "N"]) -> float:
    """1 when the first candidate gains most from the needle, 1/k when k tie for it, else 0."""
    change = nats - control_nats
    best = change <= change.min() + TIE_NATS
    return 1 / int(best.sum()) if best[0] else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Scores the answers of one trial against its control."""

    checkpoint: str
    tokenizer: Tokenizer
    scorers: frozenset[str]  # generate, loglik, choice
    answer_tokens: int  # that count of what was generated
    candidates: Sequence[str]  # values scored, the true one first
    control: Answer
    departures: Sequence[str]  # from what is published, as far as the parameters tell
    words_drawn: bool  # trials in one wording are not independent of each other then

    def refuse_leaks(self, recipe: PromptRecipe) -> None:
        """Raise LeakError when the control's answer shows a value that stands nowhere in its prompt."""
        written = match(self.tokenizer.decode(self.control.generated), recipe.values)
        known = len(self.control.nats) and self.control.sums[0] < KNOWN_NATS
        if written or known:
            how = "is written" if written else f"costs {self.control.sums[0]:.2f} nats"
            raise LeakError(
                f"trial {recipe.trial}: the value {recipe.values[0]} {how} after the prompt without its needle, so "
                f"scores of '{self.checkpoint}' mean nothing; a state that is not restored would do "
                "that: run ttbench check, and report it"
            )

    def sample(self, recipe: PromptRecipe, prompt: Prompt, answer: Answer, *, last: bool) -> Sample:
        """One row; the control's tokens are counted in the last of a haystack."""
        tokenizer = self.tokenizer
        ids, sums, control = prompt.ids, answer.sums, self.control.sums
        text = self._text(answer.generated[: self.answer_tokens]) if "generate" in self.scorers else None
        value_ids = answer_ids(recipe.values[0], tokenizer)
        greedy = np.array_equal(answer.generated[: len(value_ids)], value_ids)
        because = self._not_comparable(ids)
        return Sample(
            keys={
                "haystack": recipe.haystack,
                "wording": recipe.wording,
                # what is drawn anew: trials that share it belong together in an interval
                "draw": f"wording {recipe.wording}" if self.words_drawn else recipe.haystack,
                "depth": recipe.depth,
                "recipe": recipe.to_text(),
                "comparable_to_published": not because,
                "not_comparable_because": because,
            },
            values={
                "num_trials": 1,
                "hits_generate": None if text is None else match(text, recipe.values),
                "hits_choice": score_choice(sums, control) if "choice" in self.scorers else None,
                "hits_loglik": float(greedy) if "loglik" in self.scorers else None,
                "loglik_nats": float(sums[0]) if "loglik" in self.scorers else None,
                "loglik_tokens": len(value_ids) if "loglik" in self.scorers else None,
                "needle_index": prompt.needle_index,
                "actual_depth": recipe.insert_at[0] / len(prompt.haystack),
                "prompt_tokens": len(ids),
                "prompt_bytes": int(tokenizer.byte_lengths(ids).sum()),
                "prefilled_tokens": answer.prefilled_tokens + (self.control.prefilled_tokens if last else 0),
                "value_nats": float(sums[0]) if len(sums) else None,
                "value_control_nats": float(control[0]) if len(control) else None,
            },
            evidence=self._evidence(recipe, ids, answer, text),
        )

    def _text(self, ids: Int[np.ndarray, "T"]) -> bytes:
        """An answer as text: up to the first token that ends one."""
        return self.tokenizer.decode(before_end(ids, self.tokenizer.end_ids))

    def _evidence(
        self, recipe: PromptRecipe, ids: Int[np.ndarray, "T"], answer: Answer, text: bytes | None
    ) -> dict[str, Any]:
        tokenizer, scored = self.tokenizer, len(answer.nats) > 0
        return {
            **prompt_ends(ids, tokenizer),
            "value": ", ".join(recipe.values),
            "value_ids": answer_ids(recipe.values[0], tokenizer).tolist(),
            "value_token_nats": _rounded(answer.nats[0]) if scored else None,
            "value_token_control_nats": _rounded(self.control.nats[0]) if scored else None,
            "answer": None if text is None else text.decode(errors="replace"),
            "answer_ids": answer.generated.tolist() if len(answer.generated) else None,
            "control_answer": (
                self._text(self.control.generated).decode(errors="replace") if text is not None else None
            ),
            "candidates": list(self.candidates) if "choice" in self.scorers else None,
            "nats": _rounded(answer.sums) if scored else None,
            "control_nats": _rounded(self.control.sums) if scored else None,
        }

    def _not_comparable(self, ids: Int[np.ndarray, "T"]) -> str | None:
        """Why RULER's published table does not compare, in words; None: it does."""
        tokenizer, found = self.tokenizer, list(self.departures)
        if tokenizer.byte_lengths(ids).max() <= 1:
            found.append("tokenizer: lengths are counted in bytes")
        elif not found and not _is_whole(ids, tokenizer):
            found.append("tokenizer: the text in one piece gives other tokens than its parts")
        return "; ".join(found) or None


def _is_whole(ids: Int[np.ndarray, "T"], tokenizer: Tokenizer) -> bool:
    own = ids[1:] if tokenizer.bos_id is not None else ids
    return np.array_equal(tokenizer.encode(tokenizer.decode(own)), own)


def _rounded(nats: Float[np.ndarray, "N"]) -> list[float]:
    return [round(float(value), 5) for value in nats]
