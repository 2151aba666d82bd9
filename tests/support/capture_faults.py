"""A small model that can be captured, and faults planted in it, each of which the lint or a tape must find.

    total <- 0.9 total + embedding        out = total (1 + position / 100)

Every fourth token leaves a fourth of the total, so that its step is a variant of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ttbench.engines.graph.graph_engine import Captured, GraphEngine
from ttbench.models.base import SequenceModel, State, layout
from ttbench.types import Cost

VOCAB, WIDTH, PERIOD = 17, 6, 4


@dataclass(kw_only=True)
class SumState(State):
    """What the model carries."""

    total: Tensor = layout(batch_dim=0)  # [B, D]
    history: Tensor = layout(batch_dim=0, length_dim=1)  # [B, T, D]; only `GrowingShape` reads it


class Sum(SequenceModel):
    """The sound model."""

    DIALECTS = ()
    version = 1
    state_grows = True

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=VOCAB)
        draw = torch.Generator().manual_seed(5)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))

    @classmethod
    def tiny(cls, **overrides: Any) -> Sum:
        return cls()

    @classmethod
    def cost(cls, config: Any, *, dtype_bytes: int) -> Cost:
        return Cost(flops_per_token=0, flops_per_context_token=0, state_bytes=0, state_bytes_per_token=0)

    def new_state(self, batch_size: int, max_len: int) -> SumState:
        like = self.embed.weight
        return SumState(
            position=torch.zeros(1, dtype=torch.int64, device=like.device),
            max_len=max_len,
            total=like.new_zeros(batch_size, WIDTH),
            history=like.new_zeros(batch_size, max_len, WIDTH),
        )

    def reset(self, state: State) -> None:
        assert isinstance(state, SumState)
        state.num_tokens = 0
        state.position.zero_()
        state.total.zero_()

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        state = self.new_state(*ids.shape) if state is None else state
        before, outs = state.num_tokens, []
        for t in range(ids.shape[1]):
            outs.append(self.step(ids[:, t], state, self.step_variant(before + t)))
            state.num_tokens += 1
        state.num_tokens = before
        return torch.stack(outs, 1)

    def step(self, ids: Tensor, state: State, variant: int) -> Tensor:
        assert isinstance(state, SumState)
        self.add(self.embed(ids), state)
        if variant:
            state.total.mul_(0.25)
        state.position += 1
        return self.read(state)

    def step_variant(self, num_tokens: int) -> int:
        return int((num_tokens + 1) % PERIOD == 0)

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        return num_tokens % PERIOD

    # what the faults replace

    def add(self, x: Tensor, state: SumState) -> None:
        state.total.mul_(0.9).add_(x)

    def read(self, state: SumState) -> Tensor:
        return state.total * (1 + state.position / 100)


class HostPosition(Sum):
    """The position as a Python int."""

    def read(self, state: SumState) -> Tensor:
        return state.total * (1 + (state.num_tokens + 1) / 100)


class StateAnew(Sum):
    """The state is not written in place."""

    def add(self, x: Tensor, state: SumState) -> None:
        state.total = 0.9 * state.total + x


class HiddenItem(Sum):
    """A branch on a value of the device."""

    def add(self, x: Tensor, state: SumState) -> None:
        if state.total.abs().max().item() > 100:
            state.total.zero_()
        super().add(x, state)


class GrowingShape(Sum):
    """What is read grows with every token, within one variant."""

    def add(self, x: Tensor, state: SumState) -> None:
        state.history[:, state.num_tokens] = x
        super().add(state.history[:, : state.num_tokens + 1].mean(1), state)


class SkippedTail(Sum):
    """A kernel whose blocks are of four columns, of which there are six: the rest of its output is never written."""

    def read(self, state: SumState) -> Tensor:
        # past `torch.empty`, which fills memory in tests
        out = torch.ops.aten.empty.memory_format(list(state.total.shape), dtype=state.total.dtype)
        out[:, :4] = super().read(state)[:, :4]
        return out


class TableInPool(Sum):
    """A table that is made again at every fourth call, so in a capture, and then read by whoever comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.table = 0, torch.ones(WIDTH)

    def read(self, state: SumState) -> Tensor:
        self.calls += 1
        if self.calls % 4 == 0:
            self.table = torch.ones(WIDTH, dtype=state.total.dtype)
        return super().read(state) * self.table


class MaskedStore(Sum):
    """Values are written where a mask holds."""

    def add(self, x: Tensor, state: SumState) -> None:
        super().add(x, state)
        state.total[state.total > 100] = 100.0


class HostConstant(Sum):
    """A number of Python's becomes a tensor on the device in every step."""

    def read(self, state: SumState) -> Tensor:
        return super().read(state) * torch.tensor([1.0], device=state.total.device)


class CopyToHost(Sum):
    """A step that goes by way of the host."""

    def read(self, state: SumState) -> Tensor:
        return super().read(state).cpu().to(state.total.device)


class FrozenForward(Sum):
    """A forward that says that it may be replayed anywhere, and knows where it stands."""

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        return 0


class WrongVariant(GraphEngine):
    """Replays one graph whatever the step needs."""

    def _step(self, variant: int) -> Captured:
        return super()._step(0)


class AliasedCapture(Captured):
    """Returns its buffer."""

    def __call__(self, ids: Tensor) -> Tensor:
        Captured.__call__(self, ids)
        return self.result


class AliasedLogits(GraphEngine):
    """Returns the buffer that the next replay writes."""

    def _step(self, variant: int) -> Captured:
        found = super()._step(variant)
        return AliasedCapture(graph=found.graph, ids=found.ids, result=found.result, ran={})


class StaleGraphs(GraphEngine):
    """Keeps the graphs of a state that is gone."""

    def _drop(self) -> None:
        pass
