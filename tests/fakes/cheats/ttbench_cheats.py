"""A plug-in whose models look ahead, or raise, as a stranger might install one."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ttbench.models.base import State
from ttbench.models.transformer import Transformer


class LooksAhead(Transformer):
    """From token 600 on, what the head reads is the embedding of the next token, so that a tied head knows it."""

    DIALECTS = tuple(
        dataclasses.replace(dialect, name="looks-ahead", matches=lambda config: config["model_type"] == "looks-ahead")
        for dialect in Transformer.DIALECTS[:1]
    )

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        start = 0 if state is None else int(state.position)
        out = super().forward(ids, state)
        seen = torch.arange(start, start + ids.shape[1]) >= 600
        seen[-1] = False
        return torch.where(seen[:, None], 100 * self.embed(ids.roll(-1, 1)), out)


class Raises(LooksAhead):
    """Does not take what it is given."""

    DIALECTS = tuple(
        dataclasses.replace(dialect, name="raises", matches=lambda config: config["model_type"] == "raises")
        for dialect in Transformer.DIALECTS[:1]
    )

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        raise TypeError("unsupported operand\nwith forty lines of traceback")
