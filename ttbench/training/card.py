"""The card of a trained checkpoint: how it was made, and what the shipped file scores.

Every score is measured on the folder as it will be shipped, through the same tasks as any user's run; nothing is
taken from the trainer's memory but the loss curve and the hours. Scoring uses as many threads as training did: two
processes with more threads than cores wait for each other most of the time.
"""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.folder import whole_folder
from ttbench.checkpoints.loading import save_checkpoint
from ttbench.machine import measure
from ttbench.registry import TASKS
from ttbench.runs.sweep import run_task
from ttbench.store.files import write_whole
from ttbench.training.recipe import Recipe, Trainee, recipe_digest, recipe_json
from ttbench.training.replay import RECORD, to_record
from ttbench.training.train import Training
from ttbench.types import Checkpoint

BRIEFLY = 0.2  # share of what is scored for a model trained on a share of a recipe, whose scores are no result
CURVE_POINTS = 24
CARD = "card.md"
NO_FORMULA = "the architecture has no formula"


def ship(
    training: Training,
    recipe: Recipe,
    trainee: Trainee,
    folder: Path,
    *,
    command: Sequence[str] | None = None,
    brief: bool = False,
) -> Path:
    """Write a finished training as a checkpoint folder with its card: both, or nothing.

    `brief` scores a fifth of the documents and needles, which the card says with each score.

    Raises CheckpointError when the folder holds something already, and what the tasks raise.
    """
    recipe = recipe.seeded(trainee)
    extra = {
        "train_ctx": recipe.context_len,
        "train_kinds": recipe.kinds(trainee),
        "train_recipe": recipe_digest(recipe, trainee),
        "train_seed": recipe.seed,
        "tokenizer": "bytes",
    }
    with whole_folder(folder) as building:
        save_checkpoint(training.model, building, dtype="bfloat16", extra=extra)
        write_whole(building / RECORD, to_record(training, recipe, trainee))
        write_card(training, recipe, trainee, building, command=command or sys.argv, brief=brief)
    return folder


def write_card(
    training: Training, recipe: Recipe, trainee: Trainee, folder: Path, *, command: Sequence[str], brief: bool = False
) -> None:
    """Score the checkpoint in `folder` and write its card there, over an earlier one."""
    checkpoint = resolve(str(folder))
    parts = [
        f"# {trainee.name}\n\nA checkpoint of ttbench's zoo. Every score below is of the shipped file.\n",
        _facts(training, recipe, checkpoint, command),
        _scores(checkpoint, recipe.kinds(trainee), context_len=recipe.context_len, share=BRIEFLY if brief else 1.0),
        _curve(training, recipe),
        f"## Settings\n\n```json\n{recipe_json(recipe, trainee)}\n```\n",
    ]
    write_whole(folder / CARD, "\n".join(parts).encode())


def _facts(training: Training, recipe: Recipe, checkpoint: Checkpoint, command: Sequence[str]) -> str:
    cost, ctx = checkpoint.cost, recipe.context_len
    environment = measure.environment()
    rows = {
        "command": f"`{shlex.join(['ttbench', *command[1:]])}`",
        "architecture": f"`{checkpoint.architecture}` (version {checkpoint.architecture_version})",
        "parameters": f"{checkpoint.num_params:,}; without embedding and head {checkpoint.num_params_non_embedding:,}",
        "training context": f"{ctx:,} tokens (bytes, vocabulary {checkpoint.vocab_size})",
        "seed": f"{recipe.seed}: first weights, and which rows in which order",
        "training tokens": f"{recipe.num_tokens:,} in {recipe.num_steps:,} steps",
        "data order digest": f"`{training.data_digest}`",
        "time": f"{training.cpu_s / 3600:.2f} CPU hours, {training.wall_s / 3600:.2f} hours",
        "machine": f"{environment.processor}, torch {environment.packages.get('torch', '?')}",
        "FLOPs per token": NO_FORMULA
        if cost is None
        else f"{cost.decode_flops(0):,.0f} at position 0, {cost.decode_flops(ctx):,.0f} at {ctx:,}",
        "state": NO_FORMULA
        if cost is None
        else f"{cost.state_nbytes(0):,} bytes at position 0, {cost.state_nbytes(ctx):,} at {ctx:,} (float32)",
        "weights digest": f"`{checkpoint.weights_digest}`, {checkpoint.weight_bytes:,} bytes",
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _scores(checkpoint: Checkpoint, kinds: Sequence[str], *, context_len: int, share: float) -> str:
    """What each task says on a card of a model that was trained on rows of these kinds."""
    lines = ["## Scores\n\n| what | this checkpoint | to compare |\n|---|---|---|\n"]
    with tempfile.TemporaryDirectory() as out:
        for name, task in TASKS.usable():
            for score in task.card(kinds, context_len=context_len, share=share):
                given = {**score.options, "threads": torch.get_num_threads()}
                rows = run_task(name, checkpoints=[checkpoint], out=out, **given)
                for what, ours, other in score.lines(rows):
                    lines.append(f"| {what} | {ours} | {f'{other} ' if other else ''}|\n")
    return "".join(lines)


def _curve(training: Training, recipe: Recipe) -> str:
    """The loss curve, thinned; each value is a mean since the point before it in the trainer's own record."""
    stride = max(1, math.ceil(len(training.curve) / CURVE_POINTS))
    points = training.curve[stride - 1 :: stride]
    if training.curve and points[-1] != training.curve[-1]:
        points.append(training.curve[-1])
    lines = ["## Loss\n\nWeighted mean nats per target; the mix of rows changes with the phase.\n\n"]
    lines.append("| step | phase | nats |\n|---|---|---|\n")
    lines += [f"| {step} | {recipe.locate(step - 1)[0] + 1} | {nats:.4f} |\n" for step, nats in points]
    return "".join(lines)
