"""Short trials of learning rates, judged on rows that no training reads.

A trial follows the recipe with a share of its tokens. Text, and the hay around needles, comes from the valid split;
synthetic rows come from a seed of their own. The test split is never opened. Choosing stays with whoever writes the
recipe: the table has no single score.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from ttbench.corpora.training_rows.mixture import Mixture
from ttbench.models.base import SequenceModel
from ttbench.training.recipe import Recipe, Trainee
from ttbench.training.train import TrainingProgress, train

SHARE = 0.12  # of the recipe's tokens
VALID_SEED = 20_000
# name -> kind of row, tokens a row, rows
ROWS: Mapping[str, tuple[str, int, int]] = {
    "recall_128": ("recall", 128, 64),
    "needle_512": ("needle", 512, 48),
    "needle_1024": ("needle", 1024, 48),
    "languages_1024": ("languages", 1024, 16),
    "code_1024": ("code", 1024, 16),
    "prose_1024": ("prose", 1024, 16),
}
TEXTS = ("languages", "code", "prose")
ROWS_AT_ONCE = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One model at one learning rate after a short training."""

    model: str
    lr: float  # peak
    num_tokens: int
    cpu_s: float
    data_digest: str
    scores: Mapping[str, float]  # name of ROWS -> bits per byte of text, or share of asked bytes that are right

    def to_json(self) -> dict[str, object]:
        values = {**dataclasses.asdict(self), **{key: round(score, 4) for key, score in self.scores.items()}}
        del values["scores"]
        return {**values, "cpu_s": round(self.cpu_s, 1)}


def run_trials(
    trainee: Trainee,
    recipe: Recipe,
    rates: Sequence[float],
    *,
    share: float = SHARE,
    cache: Path | None = None,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
) -> Iterator[Trial]:
    """Train `trainee` at each rate, on the same rows in the same order, and score it. Cut short, it goes on."""
    short = recipe.scaled(share)
    for lr in rates:
        trained = train(dataclasses.replace(trainee, lr=lr), short, cache=cache, report=report)
        yield Trial(
            model=trainee.name,
            lr=lr,
            num_tokens=short.num_tokens,
            cpu_s=trained.cpu_s,
            data_digest=trained.data_digest,
            scores=validate(trained.model, answer_weight=recipe.answer_weight),
        )


@torch.no_grad()
def validate(model: SequenceModel, *, answer_weight: float) -> dict[str, float]:
    """Bits per byte of valid text, and greedy accuracy on the asked bytes of synthetic rows, by name of ROWS."""
    mixture = Mixture(seed=VALID_SEED, answer_weight=answer_weight, split="valid")
    scores: dict[str, float] = {}
    for name, (kind, context_len, num_rows) in ROWS.items():
        total, count = 0.0, 0
        for step in range(num_rows // ROWS_AT_ONCE):
            rows = mixture.batch({kind: 1.0}, stream=0, step=step, batch_size=ROWS_AT_ONCE, num_tokens=context_len)
            weights = torch.from_numpy(rows.weights)
            # Of a needle row, whose text weighs too, what is asked for alone.
            asked = weights == (answer_weight if kind == "needle" else 1.0)
            targets = torch.from_numpy(rows.targets)[asked]
            logits = model.head(model(torch.from_numpy(rows.inputs)))[asked].float()
            if kind in TEXTS:
                total += F.cross_entropy(logits, targets, reduction="sum").item() / math.log(2)
            else:
                total += (logits.argmax(-1) == targets).sum().item()
            count += len(targets)
        scores[name] = total / count
    return scores
