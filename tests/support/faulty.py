"""Plug-ins with one fault each, as a stranger might write them, by mistake or to win. All are Transformers beneath.

Letters: B batch, T tokens, D width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttbench.models.base import Snapshot, State, layout
from ttbench.models.transformer import Transformer


def place(state: State | None) -> int:
    return 0 if state is None else int(state.position)


class Ahead(Transformer):
    """Adds the embedding of a later token to what the head reads, where `peeks` says so."""

    distance = 1
    strength = 1.0

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        """Bool [B, T]: where the token `distance` ahead is seen."""
        return torch.ones_like(ids, dtype=torch.bool)

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        start = place(state)
        out = super().forward(ids, state)
        later = self.embed(ids.roll(-self.distance, 1))
        seen = self.peeks(ids, start) & (torch.arange(ids.shape[1]) < ids.shape[1] - self.distance)
        return out + self.strength * later * seen[..., None]


class AheadFrom600(Ahead):
    """From token 600 on."""

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        return (torch.arange(ids.shape[1]) + start >= 600).expand_as(ids)


class AheadFrom6000(Ahead):
    """From token 6,000 on."""

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        return (torch.arange(ids.shape[1]) + start >= 6000).expand_as(ids)


class AheadWhenLong(Ahead):
    """Only when more than 700 tokens are given at once."""

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        return torch.full_like(ids, ids.shape[1] > 700, dtype=torch.bool)


class AheadByForty(Ahead):
    """Sees the token forty places on."""

    distance = 40


class AheadAtEnds(Ahead):
    """Only at the last token of each block of 64, which sees the first of the next."""

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        return ((torch.arange(ids.shape[1]) + start) % 64 == 63).expand_as(ids)


class FaintlyAheadInHalf(Ahead):
    """Everywhere, as little as rounding moves bfloat16, and not in float64; makes discrete choices, it says."""

    discrete_choices = True
    strength = 0.04

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        return torch.full_like(ids, self.embed.weight.dtype != torch.float64, dtype=torch.bool)


class FaintlyAheadByTenInHalf(FaintlyAheadInHalf):
    """The token ten places on."""

    distance = 10


class FaintlyAheadInHalfFrom6000(FaintlyAheadInHalf):
    """From token 6,000 on."""

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        return super().peeks(ids, start) & (torch.arange(ids.shape[1]) + start >= 6000)


class SeldomAhead(Transformer):
    """Makes discrete choices, it says: one token in 200 feels the last one that is read with it, a little."""

    discrete_choices = True
    spacing = 200
    beyond = 0  # tokens before which none does

    def feels(self, ids: Tensor) -> bool:
        """Whether it looks ahead at all."""
        return ids.shape[1] > 1

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        start = place(state)
        out = super().forward(ids, state)
        if not self.feels(ids):
            return out
        places = torch.arange(ids.shape[1]) + start
        feeling = (places % self.spacing == 150 % self.spacing) & (places >= self.beyond)
        return out + 0.1 * feeling[:, None] * self.embed(ids[:, -1:])


class Turning(SeldomAhead):
    """Does so in less than float64 alone: as where rounding, which other shapes change, turns a choice."""

    def feels(self, ids: Tensor) -> bool:
        return super().feels(ids) and self.embed.weight.dtype != torch.float64


class SeldomAheadFrom6000(SeldomAhead):
    """From token 6,000 on."""

    beyond = 6000


class TurningFrom6000(Turning):
    """From token 6,000 on."""

    beyond = 6000


class TurningOften(Turning):
    """At every second token, which rounding does not do."""

    spacing = 2


class AheadOnText(Ahead):
    """Behaves on random ids, and so on every probe of random ids: looks ahead where eight bytes are text."""

    def peeks(self, ids: Tensor, start: int) -> Tensor:
        text = ((ids >= 32) & (ids < 127)).float()
        share = torch.nn.functional.avg_pool1d(text[:, None], 9, stride=1, padding=4, count_include_pad=False)[:, 0]
        return share > 0.99


class Remembering(Transformer):
    """Adds the mean of all it has read, which it keeps in a list on the module and not in its state."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.history: list[Tensor] = []

    def remember(self, ids: Tensor, start: int) -> Tensor:
        """What is added, [B, T, D]."""
        new = self.embed(ids)
        kept = [each for each in self.history if each.shape == new[:, 0].shape]
        seen = torch.stack([*kept, *new.unbind(1)], dim=1)
        self.history = list(seen.unbind(1))
        count = torch.arange(1, seen.shape[1] + 1)[:, None]
        return (seen.cumsum(1) / count)[:, -ids.shape[1] :]

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        start = place(state)
        out = super().forward(ids, state)
        if state is None:
            return out + self.embed(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return out + self.remember(ids, start)

    def step(self, ids: Tensor, state: State, variant: int) -> Tensor:
        start = place(state)
        return super().step(ids, state, variant) + self.remember(ids[:, None], start)[:, 0]


class RememberingReset(Remembering):
    """Clears its list at `reset`, so that texts do not mix; a saved state still lacks it."""

    def new_state(self, batch_size: int, max_len: int) -> State:
        self.history = []
        return super().new_state(batch_size, max_len)

    def reset(self, state: State) -> None:
        self.history = []
        super().reset(state)


class RememberingPlaces(RememberingReset):
    """Cuts its list to the place that the state is at, so that going back is right until another text was read."""

    def remember(self, ids: Tensor, start: int) -> Tensor:
        del self.history[start:]
        return super().remember(ids, start)


class Deniers(Transformer):
    """Says that its state does not grow."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.state_grows = False


@dataclass(kw_only=True)
class WideState(State):
    """Room for every token at once, which counts as used from the first token on."""

    ids: Tensor = layout(batch_dim=0)


class DenierByRoom(Deniers):
    """Keeps all tokens in a tensor as long as the text may be, and reads everything again."""

    def new_state(self, batch_size: int, max_len: int) -> Any:
        zeros = torch.zeros(batch_size, max_len, dtype=torch.int64)
        return WideState(position=torch.zeros(1, dtype=torch.int64), ids=zeros, max_len=max_len)

    def reset(self, state: Any) -> None:
        state.position.zero_()
        state.num_tokens = 0

    def forward(self, ids: Tensor, state: Any = None) -> Tensor:
        if state is None:
            return super().forward(ids)
        start = place(state)
        end = start + ids.shape[1]
        state.ids[:, start:end] = ids
        state.position += ids.shape[1]
        return super().forward(state.ids[:, :end])[:, start:]

    def step(self, ids: Tensor, state: Any, variant: int) -> Tensor:
        return self.forward(ids[:, None], state)[:, 0]


class HalfSaved(Transformer):
    """Its state saves all but the last token's keys and values."""

    def new_state(self, batch_size: int, max_len: int) -> State:
        state = super().new_state(batch_size, max_len)
        whole = state.save

        def save() -> Snapshot:
            saved = whole()
            tensors = {name: tensor.clone() for name, tensor in saved.tensors.items()}
            for name, (_, _, length_dim) in state.tensors().items():
                if length_dim is not None:
                    tensors[name].narrow(length_dim, saved.num_tokens - 1, 1).zero_()
            return dataclasses.replace(saved, tensors=tensors)

        state.save = save
        return state


class Left(Transformer):
    """`reset` leaves the convolutions' inputs of the last text."""

    def reset(self, state: State) -> None:
        state.position.zero_()
        state.num_tokens = 0


class Mixing(Transformer):
    """Rows listen to each other."""

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        out = super().forward(ids, state)
        return out + out.mean(0, keepdim=True)


class Stretching(Transformer):
    """Scales by the longest text so far, as dynamic rotary tables do, and keeps the scale."""

    longest = 64

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        self.longest = max(self.longest, place(state) + ids.shape[1] if state is not None else 0)
        return super().forward(ids, state) * (self.longest / 64) ** -0.5


class StretchingLate(Stretching):
    """The same beyond 200 tokens only, and for the texts that come after."""

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        scale = 1.0 if self.longest <= 200 else 0.5
        self.longest = max(self.longest, place(state) + ids.shape[1] if state is not None else 0)
        return Transformer.forward(self, ids, state) * scale


class Flat(Transformer):
    """Forgets the dimension of tokens."""

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        return super().forward(ids, state).flatten(0, 1)


class Raising(Transformer):
    """Cannot take a length that is not a multiple of sixteen."""

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        assert ids.shape[1] % 16 == 0, "T must be a multiple of 16\nand nothing else"
        return super().forward(ids, state)


FAULTS: dict[type[Transformer], tuple[str, str]] = {
    AheadFrom600: ("later_tokens", "looks ahead"),
    AheadWhenLong: ("later_tokens", "looks ahead"),
    AheadByForty: ("later_tokens", "looks ahead"),
    AheadAtEnds: ("pieces", "of"),
    Remembering: ("read_again", "the same text read twice"),
    RememberingReset: ("saved_state", "restored"),
    RememberingPlaces: ("saved_state", "once another text was read"),
    Deniers: ("state_growth", "state_grows is false"),
    DenierByRoom: ("saved_state", "the model raised RuntimeError: The size of tensor"),
    HalfSaved: ("saved_state", "restored"),
    Left: ("read_again", "the same text read twice"),
    Mixing: ("rows", "in a batch of 3"),
    Stretching: ("saved_state", "single steps against one forward"),
    StretchingLate: ("read_again", "the same text read twice"),
    Flat: ("interface", "expected [1, 9, 257]"),
    Raising: ("interface", "AssertionError: T must be a multiple of 16"),
}
