"""Whether a checkpoint's card tells the truth: its first steps run again, from nothing but what the folder says.

`training.json` in the folder of a trained checkpoint holds its recipe and settings, the loss of each of its first 200
steps, and the digest of the rows that were read, every 50 steps. Rows must be the same to the byte on any machine. So
must losses be where the machine, torch and the number of threads are the same; elsewhere sums are taken in another
order, and what differs in the last digit grows with every step. In the first 100 steps it is too little to see, and
that is where another recipe shows most; after them two trainings may part.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ttbench.checkpoints.checkpoint import CONFIG, read_config
from ttbench.errors import CheckpointError, UsageError
from ttbench.training.recipe import Recipe, Trainee, recipe_digest
from ttbench.training.train import DIGEST_EVERY, FIRST_STEPS, Training, begin, built_config, learn

__all__ = [
    "DIGEST_EVERY",
    "FIRST_STEPS",
    "RECORD",
    "Replay",
    "TrainingRecord",
    "read_record",
    "replay",
    "require_own",
    "to_record",
]

RECORD = "training.json"
# Shares by which the mean loss of 50 steps may differ on another machine: in the first `EARLY_STEPS`, and after them.
# Measured on the zoo, recorded on another make of processor: mamba2 differed by less than 0.000001 within 100 steps and
# by 0.004 within 200, ttt-linear by 0.0001 within 200. With a learning rate a tenth too high they differed by 0.012 and
# 0.010 within 50 steps, with one that was 1 % too high ttt-linear by 0.0012.
EARLY_STEPS = 100
EARLY_TOLERANCE, LATE_TOLERANCE = 0.0005, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord:
    """What `training.json` holds."""

    recipe: Recipe
    model: Trainee
    losses: tuple[float, ...]  # nats, one a step from the first
    data_digests: Mapping[int, str]  # step -> digest of all rows up to it
    threads: int
    torch: str
    processor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A training's first steps, run again, beside what was written down."""

    name: str
    num_steps: int
    losses: tuple[float, ...]  # nats, of this run
    recorded: tuple[float, ...]  # nats, of the training
    other_rows: int | None  # step by which the rows differ; None: they are the same
    early: float  # largest share by which the mean loss of 50 steps differs, of the first `EARLY_STEPS`
    late: float  # the same after them; 0: there are none

    @property
    def identical(self) -> bool:
        """Whether every loss is the same to the bit."""
        return self.losses == self.recorded

    @property
    def holds(self) -> bool:
        return self.other_rows is None and self.early <= EARLY_TOLERANCE and self.late <= LATE_TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """What is not finite is None."""
        found = {**dataclasses.asdict(self), "identical": self.identical, "holds": self.holds}
        found["losses"] = [_finite(loss) for loss in self.losses]
        return {**found, "early": _finite(self.early), "late": _finite(self.late)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def to_record(training: Training, recipe: Recipe, trainee: Trainee) -> bytes:
    """`training.json` of a finished training."""
    found = TrainingRecord(
        recipe=recipe,
        model=trainee,
        losses=tuple(training.first_losses),
        data_digests=training.first_digests,
        threads=int(training.begun["threads"]),
        torch=training.begun["torch"],
        processor=training.begun["processor"],
    )
    return (json.dumps(dataclasses.asdict(found), indent=1, allow_nan=False) + "\n").encode()


def read_record(folder: Path) -> TrainingRecord:
    """What a checkpoint's folder says of its training. Raises CheckpointError."""
    path = folder / RECORD
    if not path.is_file():
        raise CheckpointError(f"'{folder}' has no {RECORD}; only what `ttbench train` wrote can be run again")
    try:
        return TypeAdapter(TrainingRecord).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"'{path}' is not what `ttbench train` writes: {str(error).splitlines()[0]}") from error


def require_own(record: TrainingRecord, folder: Path) -> None:
    """Refuse a record that is not of the checkpoint in whose folder it lies, by what its config.json says.

    Whether the weights came out of this training only training it to its end can show. Raises CheckpointError.
    """
    config = read_config(folder)
    recipe = record.recipe.seeded(record.model)
    # What the record leaves out has its default; a folder that was written before a field existed lacks it.
    known = json.loads(json.dumps(built_config(record.model)))
    built = {name: value for name, value in known.items() if name in config}
    wanted = {
        **built,
        **record.model.config,
        "train_recipe": recipe_digest(recipe, record.model),
        "train_seed": recipe.seed,
        "train_ctx": recipe.context_len,
    }
    unlike = [
        f"{name} {config.get(name)!r}, not {value!r}" for name, value in wanted.items() if config.get(name) != value
    ]
    if unlike:
        raise CheckpointError(
            f"'{folder}' has the {RECORD} of another training: {CONFIG} says {'; '.join(unlike)}; copy the "
            "whole folder that `ttbench train` wrote"
        )


def replay(
    record: TrainingRecord, *, num_steps: int, report: Callable[[int, float], None] = lambda step, nats: None
) -> Replay:
    """Run the first steps of a training again, and compare.

    Raises UsageError where so many steps were not written down, or too few to compare.
    """
    known = len(record.losses)
    if not DIGEST_EVERY <= num_steps <= known:
        raise UsageError(
            f"--steps {num_steps}: '{record.model.name}' has {known} steps written down, of which {DIGEST_EVERY} to "
            f"{known} can be compared"
        )
    training, mixture = begin(record.model, record.recipe)
    other_rows = None
    while training.step < num_steps and other_rows is None:
        report(training.step + 1, learn(training, mixture, record.recipe, record.model))
        recorded = record.data_digests.get(training.step)
        if training.step % DIGEST_EVERY == 0 and recorded != training.data_digest:
            other_rows = training.step
    return Replay(
        name=record.model.name,
        num_steps=training.step,
        losses=tuple(training.first_losses),
        recorded=record.losses[: training.step],
        other_rows=other_rows,
        early=_worst(training.first_losses[:EARLY_STEPS], record.losses[:EARLY_STEPS]),
        late=_worst(training.first_losses[EARLY_STEPS:], record.losses[EARLY_STEPS:]),
    )


def _worst(ours: Sequence[float], recorded: Sequence[float]) -> float:
    """The largest relative difference of means over 50 steps; what is left at the end is part of the last.

    The second sequence may go on; 0 where there are no steps, infinite where a loss is not finite.
    """
    num_blocks = min(len(ours), max(1, len(ours) // DIGEST_EVERY))
    shares = []
    for number in range(num_blocks):
        end = len(ours) if number == num_blocks - 1 else (number + 1) * DIGEST_EVERY
        block = slice(number * DIGEST_EVERY, end)
        one, other = sum(ours[block]), sum(recorded[block])
        share = abs(one - other) / other
        shares.append(share if math.isfinite(share) else math.inf)
    return max(shares, default=0.0)
