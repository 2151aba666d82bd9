"""What an expert is trained for, on items with a checkable answer.

    next-token   mean nats of the answers' tokens
    reinforce    J = E[log p'(y | x) r(y)] - kl * KL(p' || p)    y written by the model, r = +1 if right, -1 if not

Source: Sun, Cetin and Tang 2025, equation 1. KL is taken exactly over the vocabulary at each token written, in the
paper's direction; the authors' repository computes KL(p || p'). No baseline, as there.
Letters: B items, T tokens, S = T - 1, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ttbench.adapt.domains import Item, pad
from ttbench.models.base import SequenceModel

Check = Callable[[Item, Int[np.ndarray, "T"]], bool]


def is_answer(item: Item, written: Int[np.ndarray, "T"]) -> bool:
    """Whether what was written is the item's answer, token for token."""
    return bool(np.array_equal(written, item.answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonOutcome:
    """A loss to go down, and what to tell about it."""

    loss: Float[Tensor, ""]
    shown: float  # next-token: mean nats of a token; reinforce: share of right answers


def forward(model: nn.Module, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
    """All logits with gradients, float32 or better, of a native model or of one of transformers."""
    if isinstance(model, SequenceModel):
        return model.head(model(ids))
    logits = model(input_ids=ids, use_cache=False).logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def answer_places(items: Sequence[Item], device: torch.device) -> tuple[Bool[Tensor, "B S"], Int[Tensor, "B T"]]:
    """Ids of prompts and answers side by side without their last, and where the next token is of the answer."""
    rows = [np.concatenate([item.prompt, item.answer]) for item in items]
    ids = torch.from_numpy(pad(rows))
    where = torch.zeros(ids.shape[0], ids.shape[1] - 1, dtype=torch.bool)
    for place, item in enumerate(items):
        first = len(item.prompt) - 1
        where[place, first : first + len(item.answer)] = True
    return where.to(device), ids.to(device)


def next_token(model: nn.Module, items: Sequence[Item]) -> LessonOutcome:
    """Mean nats of the answers' tokens."""
    where, ids = answer_places(items, _device(model))
    loss = F.cross_entropy(forward(model, ids[:, :-1])[where], ids[:, 1:][where])
    return LessonOutcome(loss=loss, shown=loss.item())


@torch.no_grad()
def write_answers(model: nn.Module, items: Sequence[Item], *, rng: torch.Generator) -> list[Item]:
    """The items with answers that the model wrote, as long as the true ones, each token drawn from its distribution."""
    device = _device(model)
    ids = torch.from_numpy(pad([np.concatenate([item.prompt, item.answer]) for item in items])).to(device)
    starts = torch.tensor([len(item.prompt) for item in items], device=device)
    lengths = torch.tensor([len(item.answer) for item in items], device=device)
    rows = torch.arange(len(items), device=device)
    for offset in range(int(lengths.max())):
        # a row that is full stays at its end, and what is drawn for it goes nowhere
        at = starts + torch.minimum(lengths, torch.tensor(offset, device=device)) - 1
        logits = forward(model, ids[:, : int(at.max()) + 1])[rows, at]
        drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=rng)[:, 0].to(device)
        still = offset < lengths
        ids[rows[still], (starts + offset)[still]] = drawn[still]
    written = ids.cpu().numpy()
    return [
        Item(
            name=item.name,
            domain=item.domain,
            split=item.split,
            source=item.source,
            prompt=item.prompt,
            answer=written[place, len(item.prompt) : len(item.prompt) + len(item.answer)].copy(),
            answer_bytes=item.answer_bytes,
        )
        for place, item in enumerate(items)
    ]


def reinforce(
    model: nn.Module,
    items: Sequence[Item],
    *,
    base: Callable[[], AbstractContextManager[None]],
    kl: float,
    rng: torch.Generator,
    check: Check = is_answer,
) -> LessonOutcome:
    """Policy gradient over one written answer an item.

    Args:
        base: inside it the model computes with its base weights.
        kl: weight of the divergence from the base, nats of an answer; 0 leaves it out.
        check: whether a written answer is right.
    """
    written = write_answers(model, items, rng=rng)
    right = [check(item, made.answer) for item, made in zip(items, written, strict=True)]
    where, ids = answer_places(written, _device(model))
    log_probs = forward(model, ids[:, :-1]).log_softmax(-1)
    chosen = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    rewards = torch.tensor([1.0 if each else -1.0 for each in right], device=chosen.device)
    loss = -(rewards * (chosen * where).sum(1)).mean()
    if kl:
        with torch.no_grad(), base():
            reference = forward(model, ids[:, :-1]).log_softmax(-1)
        divergence = (log_probs.exp() * (log_probs - reference)).sum(-1)
        loss = loss + kl * (divergence * where).sum(1).mean()
    return LessonOutcome(loss=loss, shown=sum(right) / len(right))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
