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

import numpy as np
import pandas as pd
import torch

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.folder import whole_folder
from ttbench.checkpoints.loading import save_checkpoint
from ttbench.corpora.training_rows.puzzles import PUZZLES
from ttbench.machine import measure
from ttbench.runs.sweep import run_task
from ttbench.store.store import write_whole
from ttbench.training.recipe import Recipe, Trainee, recipe_json
from ttbench.training.train import Training
from ttbench.types import Checkpoint

NEEDLE_CTX = 512  # tokens, beside the training context
NEEDLE_TRIALS = 20
NUM_DOCUMENTS = 10  # of each corpus, the first in the task's seeded order
BRIEFLY = 0.2  # share of both for a model trained on a share of a recipe, whose scores are no result
PUZZLE_LENGTHS = (1, 2, 4)  # times the training context
PUZZLE_SEQUENCES = 16  # for each length and number of pairs
# Kind of row -> kind of the recall task.
PUZZLE_TASKS = {"mqar": "mqar", "copying": "copy", "parity": "parity", "s5": "s5"}
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
    extra = {"train_ctx": recipe.context_len, "train_kinds": recipe.kinds(trainee), "tokenizer": "bytes"}
    with whole_folder(folder) as building:
        save_checkpoint(training.model, building, dtype="bfloat16", extra=extra)
        write_card(training, recipe, trainee, building, command=command or sys.argv, brief=brief)
    return folder


def write_card(
    training: Training, recipe: Recipe, trainee: Trainee, folder: Path, *, command: Sequence[str], brief: bool = False
) -> None:
    """Score the checkpoint in `folder` and write its card there, over an earlier one."""
    checkpoint = resolve(str(folder))
    kinds, ctx = recipe.kinds(trainee), recipe.context_len
    share = BRIEFLY if brief else 1.0
    if set(kinds) <= set(PUZZLES):
        scores = _puzzle_scores(checkpoint, kinds, context_len=ctx, share=share)
    else:
        scores = _scores(checkpoint, kinds, context_len=ctx, share=share)
    parts = [
        f"# {trainee.name}\n\nA checkpoint of ttbench's zoo. Every score below is of the shipped file.\n",
        _facts(training, recipe, checkpoint, command),
        scores,
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
    """Text and needles; of a model that was trained on DNA alone, DNA."""
    dna_only = set(kinds) == {"dna"}
    lines = ["## Scores\n\n| what | this checkpoint | to compare |\n|---|---|---|\n"]
    with tempfile.TemporaryDirectory() as out:
        texts = (*(["languages"] if "languages" in kinds else []), "kjv", "code")
        for corpus in ("genomes", "genomes-strain") if dna_only else texts:
            limit = _at_least_one(NUM_DOCUMENTS, share)
            lines.append(_text_score(checkpoint, corpus, context_len=context_len, limit=limit, out=out))
        for ctx in () if dna_only else (NEEDLE_CTX, context_len):
            lines += _needle_scores(checkpoint, context_len=ctx, limit=_at_least_one(NEEDLE_TRIALS, share), out=out)
    return "".join(lines)


def _at_least_one(count: int, share: float) -> int:
    return max(1, round(count * share))


def _puzzle_scores(checkpoint: Checkpoint, kinds: Sequence[str], *, context_len: int, share: float) -> str:
    """What a model trained on puzzles alone answers, at its training context and beyond."""
    lines = ["## Scores\n\n| what | this checkpoint | to compare |\n|---|---|---|\n"]
    with tempfile.TemporaryDirectory() as out:
        for kind in kinds:
            rows = run_task(
                "recall",
                checkpoints=[checkpoint],
                ctx=",".join(str(context_len * times) for times in PUZZLE_LENGTHS),
                params={"kind": PUZZLE_TASKS[kind], "form": "symbols"},
                limit=_at_least_one(PUZZLE_SEQUENCES, share),
                threads=torch.get_num_threads(),
                out=out,
            )
            for ctx, part in rows.groupby("context_len"):
                hits, blind, questions = (
                    np.asarray(part[name], dtype=np.float64).sum() for name in ("hits", "chance_hits", "num_questions")
                )
                share, chance = hits / questions, blind / questions
                lines.append(f"| questions of {kind} answered at {ctx} | {share:.3f} | chance: {chance:.3f} |\n")
    return "".join(lines)


def _text_score(checkpoint: Checkpoint, corpus: str, *, context_len: int, limit: int, out: str) -> str:
    rows = run_task(
        "perplexity",
        checkpoints=[checkpoint],
        ctx=context_len,
        corpus=corpus,
        protocol="packed",
        out=out,
        limit=limit,
        threads=torch.get_num_threads(),
    )
    ours, bzip2 = document_bits(rows)
    return (
        f"| bits per byte on the median of {len(ours)} test documents of `{corpus}`, blocks of {context_len} |"
        f" {np.median(ours):.3f} | `bzip2 -9`: {np.median(bzip2):.3f} |\n"
    )


def _needle_scores(checkpoint: Checkpoint, *, context_len: int, limit: int, out: str) -> list[str]:
    rows = run_task(
        "needle",
        checkpoints=[checkpoint],
        ctx=context_len,
        corpus="kjv",
        limit=limit,
        threads=torch.get_num_threads(),
        out=out,
    )
    statuses = set(rows["status"].tolist())
    if statuses != {"ok"}:
        # a short training context has no room for the question
        return [f"| needles at {context_len}, in `kjv` | {', '.join(sorted(statuses))} | |\n"]
    trials = float(np.asarray(rows["num_trials"], dtype=np.float64).sum())
    lines = []
    for column, words, chance in (
        ("hits_generate", "retrieved", "chance: 0"),
        ("hits_choice", "recognised", "chance: 0.1"),
    ):
        share = float(np.asarray(rows[column], dtype=np.float64).sum()) / trials
        lines.append(f"| needles {words} at {context_len}, of {trials:.0f} in `kjv` | {share:.2f} | {chance} |\n")
    return lines


def document_bits(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Bits per byte of each document from perplexity rows, by name: the checkpoint's, and those of `bzip2 -9`.

    Raises ValueError when a row is not ok.
    """
    statuses = set(rows["status"].tolist())
    if statuses != {"ok"}:
        raise ValueError(f"perplexity ended {sorted(statuses)}: {rows['reason'].dropna().tolist()}")
    _, document = np.unique(np.asarray(rows["document"], dtype=str), return_inverse=True)

    def sums(column: str) -> np.ndarray:
        return np.bincount(document, weights=np.nan_to_num(np.asarray(rows[column], dtype=np.float64)))

    bits = sums("nats") / sums("num_bytes") / math.log(2)
    return bits, 8 * sums("bzip2_bytes") / sums("document_bytes")


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
