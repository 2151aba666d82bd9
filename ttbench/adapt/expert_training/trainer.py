"""Experts are trained here: AdamW with a cosine over a few hundred steps, one expert at a time, on `train` items.

Departures from the paper: no early stopping; nats or right answers on `valid` items before and after are in the card.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn

from ttbench.adapt.decompositions import DecompositionCache
from ttbench.adapt.domains import DOMAINS, Item, draw_items
from ttbench.adapt.expert_training.lessons import Lesson
from ttbench.adapt.expert_training.objectives import Check, LessonOutcome, is_answer, next_token, reinforce
from ttbench.adapt.expert_training.trainable import Trainable, trainable_lora, trainable_svf
from ttbench.adapt.experts import DISPATCH, Expert, Method
from ttbench.adapt.matrices import choose_matrices
from ttbench.adapt.strategies import label_ids, question_ids
from ttbench.adapt.svf import Form
from ttbench.checkpoints.tokenizer import Tokenizer
from ttbench.engines.engine import Engine
from ttbench.errors import UsageError
from ttbench.types import Checkpoint

VALID_ITEMS = 16


class Draw(Protocol):
    """Items `first` to `first + count` of a split, the same at every call."""

    def __call__(self, *, split: str, first: int, count: int) -> Sequence[Item]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a running training tells."""

    name: str
    step: int
    num_steps: int
    shown: float  # see LessonOutcome.shown
    seconds: float  # since the beginning


def train_expert(
    engine: Engine,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    lesson: Lesson,
    *,
    cache: DecompositionCache,
    draw: Draw | None = None,
    check: Check = is_answer,
    report: Callable[[Step], None] = lambda step: None,
) -> Expert:
    """Train one expert over the engine's model, which is afterwards what it was.

    Args:
        draw: the items of any task with answers, in place of those of the lesson's domain, which then is but a word.
        check: for `reinforce`, whether a written answer is right.

    Raises:
        UsageError: the matrices are not there, peft is needed and missing, or the loss is not finite.
    """
    model = engine.model
    weights = choose_matrices(model, lesson.matrices)
    began, cpu = time.monotonic(), time.process_time()
    draw = partial(lesson_items, tokenizer, lesson) if draw is None else draw
    before = _valid_nats(model, draw)
    with _trainable(model, list(weights), lesson, cache) as made:
        losses = _train(model, made, draw, lesson, check, report)
        after = _valid_nats(model, draw)
        tensors = made.tensors()
    return Expert(
        name=lesson.name,
        method=cast(Method, lesson.method),
        form=lesson.form if lesson.method == "svf" else None,
        objective=lesson.objective,
        domain=lesson.domain,
        base=checkpoint.name,
        base_digest=checkpoint.weights_digest,
        scale=lesson.scale if lesson.method == "lora" else None,
        tensors=tensors,
        shapes={name: (weight.shape[0], weight.shape[1]) for name, weight in weights.items()},
        training={
            "recipe": dataclasses.asdict(lesson),
            "train_shown": [round(value, 4) for value in losses],
            "valid_nats_before": round(before, 4),
            "valid_nats_after": round(after, 4),
            "wall_s": round(time.monotonic() - began, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
        },
    )


def lesson_items(tokenizer: Tokenizer, lesson: Lesson, *, split: str, first: int, count: int) -> list[Item]:
    """Items of a lesson: its domain's; for the classifier prompts of all domains with the question and its answer."""
    sizes: Mapping[str, Any] = {
        "seed": lesson.seed,
        "split": split,
        "context_len": lesson.context_len,
        "answer_tokens": lesson.answer_tokens,
    }
    if lesson.domain != DISPATCH:
        return draw_items(DOMAINS[lesson.domain], tokenizer, **sizes, first=first, count=count)
    names = list(DOMAINS)
    items = []
    for index in range(first, first + count):
        domain = names[index % len(names)]
        (item,) = draw_items(DOMAINS[domain], tokenizer, **sizes, first=index // len(names), count=1)
        items.append(
            dataclasses.replace(item, prompt=question_ids(item.prompt, tokenizer), answer=label_ids(domain, tokenizer))
        )
    return items


def _trainable(
    model: nn.Module, names: Sequence[str], lesson: Lesson, cache: DecompositionCache
) -> AbstractContextManager[Trainable]:
    if lesson.method == "svf":
        return trainable_svf(model, names, form=cast(Form, lesson.form), cache=cache, dtype=torch.float32)
    return trainable_lora(model, names, rank=lesson.rank, scale=lesson.scale)


def _train(
    model: nn.Module,
    made: Trainable,
    draw: Draw,
    lesson: Lesson,
    check: Check,
    report: Callable[[Step], None],
) -> list[float]:
    optimizer = torch.optim.AdamW(made.parameters, lr=lesson.lr, weight_decay=0.0)
    rng = torch.Generator().manual_seed(lesson.seed)
    began, shown = time.monotonic(), []
    for step in range(lesson.steps):
        for group in optimizer.param_groups:
            group["lr"] = lesson.lr * 0.5 * (1 + math.cos(math.pi * step / lesson.steps))
        items = draw(split="train", first=step * lesson.batch_size, count=lesson.batch_size)
        outcome = _outcome(model, made, items, lesson, rng, check)
        if not math.isfinite(outcome.loss.item()):
            raise UsageError(f"training expert '{lesson.name}' diverged at step {step}; lower its lr, now {lesson.lr}")
        optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters, lesson.clip)
        optimizer.step()
        shown.append(outcome.shown)
        report(
            Step(
                name=lesson.name,
                step=step + 1,
                num_steps=lesson.steps,
                shown=outcome.shown,
                seconds=time.monotonic() - began,
            )
        )
    tenth = max(1, len(shown) // 10)
    return [float(np.mean(shown[at : at + tenth])) for at in range(0, len(shown), tenth)]


def _outcome(
    model: nn.Module, made: Trainable, items: Sequence[Item], lesson: Lesson, rng: torch.Generator, check: Check
) -> LessonOutcome:
    if lesson.objective == "next-token":
        return next_token(model, items)
    return reinforce(model, items, base=made.off, kl=lesson.kl, rng=rng, check=check)


@torch.no_grad()
def _valid_nats(model: nn.Module, draw: Draw) -> float:
    return next_token(model, draw(split="valid", first=0, count=VALID_ITEMS)).shown
