"""The stack that every architecture is built on, so that a new one is a mixer, a config and a few lines.

    x = x + mixer(norm(x))        x = x + SwiGLU(norm(x))        then norm, then a tied or untied head

A mixer says which tensors a sequence carries in one layer (`Mixer.slots`) and what a token costs (`Mixer.work`). From
that the stack allocates, resets and counts the state, and hands each layer its part of it, to be written in place.
Layers may have mixers of several kinds (`Stack.mixers`), and no MLP (`mlp_size` 0).

Letters: B batch, T tokens, W width, L layers, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ttbench.errors import UnsupportedError
from ttbench.kernels.dispatch.choice import takes_twins
from ttbench.models.base import Dialect, SequenceModel, State, require_no_grad
from ttbench.models.layers import RMSNorm, SwiGLU, init_weights_, join_, rotary_angles
from ttbench.models.stack_config import StackConfig
from ttbench.types import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One tensor that a sequence carries in one layer."""

    shape: tuple[int, ...]  # of one sequence; 1 at `length_dim`
    length_dim: int | None = None  # dimension of `shape` that grows by one with each token
    wide: bool = False  # float32 at least, whatever the model's dtype
    whole: bool = False  # int64, whatever the model's dtype

    def dtype(self, model: torch.dtype) -> torch.dtype:
        """Of the tensor, in a model of dtype `model`."""
        if self.whole:
            return torch.int64
        return torch.promote_types(model, torch.float32) if self.wide else model

    def nbytes(self, dtype_bytes: int) -> int:
        """Bytes of one sequence, or of one of its tokens when it grows."""
        each = 8 if self.whole else max(4, dtype_bytes) if self.wide else dtype_bytes
        return math.prod(self.shape) * each


# One layer's state: slot name -> [B, *shape], a view that is written in place.
Part = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StackWork:
    """FLOP of one token in one layer's mixer; see `Cost` for what counts."""

    flops: float
    flops_per_context_token: float = 0.0
    local_flops_per_context_token: float = 0.0
    local_window: int = 0  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where the tokens of a call stand in the sequence."""

    positions: Int[Tensor, "T"]  # on the device; the only position that the maths reads
    turns: Any  # what the mixers rotate by, mostly cosines and sines [T, R]; None: no rotation
    place: Int[Tensor, "1"] | None = None  # of a step: of the token in its mini-batch or chunk, where there are any


class Mixer(nn.Module, ABC):
    """What moves information between tokens in one layer. Built from the config."""

    o_proj: nn.Linear  # writes to the stream; a mixer that calls it otherwise says so in `to_stream`

    @classmethod
    @abstractmethod
    def slots(cls, config: Any) -> dict[str, Slot]:
        """The state of one sequence in one layer, by name."""

    @classmethod
    @abstractmethod
    def work(cls, config: Any) -> StackWork:
        """What one token costs."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        """Mix `x`, which follows `read` tokens held in `part`; None: nothing is before, and nothing is kept."""

    def last(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B 1 W"]:
        """As `forward`, of the last token alone; a mixer may leave out what only the others' outputs need."""
        return self(x, part, at=at, read=read)[:, -1:]

    @abstractmethod
    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        """One token: no host sync, no allocation of state, no branch on a tensor."""

    def to_stream(self) -> nn.Linear:
        """The map whose output is added to the stream."""
        return self.o_proj

    def variant(self, num_tokens: int) -> int:
        """Which graph the step after `num_tokens` tokens needs; 0 where every step is the same."""
        return 0

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """Which graph a chunk of `chunk_len` tokens after `num_tokens` needs; as `SequenceModel.forward_variant`."""
        return None

    def maps_of_one_input(self) -> Sequence[Sequence[nn.Linear]]:
        """Maps that a step gives to `layers.project`, each group without biases."""
        return ()

    def start_weights_(self) -> None:
        """Start values of parameters that `init_weights_` leaves alone or sets differently; called after it."""

    def start_state(self, part: Part) -> None:
        """Write the state before the first token into `part`, which is zeros, of batch 1."""


@dataclass(kw_only=True)
class StackState(State):
    """The slots of every layer. A slot that some layers lack has a row for each of the others only."""

    slots: Mapping[str, Slot]
    held: Mapping[str, Shaped[Tensor, "L B ..."]]
    rows: Sequence[Mapping[str, int]]  # of each layer: slot name -> its row in `held`

    def tensors(self) -> dict[str, tuple[Tensor, int | None, int | None]]:
        found: dict[str, tuple[Tensor, int | None, int | None]] = {"position": (self.position, None, None)}
        for name, slot in self.slots.items():
            found[name] = (self.held[name], 1, None if slot.length_dim is None else slot.length_dim + 2)
        return found

    def layer(self, i: int) -> Part:
        """Views of one layer."""
        return {name: self.held[name][row] for name, row in self.rows[i].items()}


# The residual stream, and what is still to be added to it: the next norm does both in one kernel. None: nothing is.
Stream = tuple[Float[Tensor, "B T W"], Float[Tensor, "B T W"] | None]
LastOfStream = tuple[Float[Tensor, "B 1 W"], Float[Tensor, "B 1 W"] | None]


class Block(nn.Module):
    """A mixer and, unless `mlp_size` is 0, a SwiGLU, each after a norm and added to the stream."""

    mixer: Any  # a Mixer

    def __init__(self, mixer: Mixer, config: Any) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        self.mixer_norm = RMSNorm(width, eps=eps)
        self.mixer = mixer
        self.mlp_norm = RMSNorm(width, eps=eps) if config.mlp_size else None
        self.mlp = SwiGLU(width, config.mlp_size, bias=config.mlp_bias) if config.mlp_size else None

    def outputs(self) -> list[nn.Linear]:
        """What writes to the stream."""
        return [self.mixer.to_stream(), *([] if self.mlp is None else [self.mlp.down_proj])]

    def before(self, stream: Stream, part: Part | None) -> Stream:
        """What a subclass does with the stream before the mixer reads it."""
        return stream

    def forward(self, stream: Stream, part: Part | None, *, at: At, read: int) -> Stream:
        """Any number of tokens; arguments as `Mixer.forward`."""
        x, h = self.mixer_norm.read(*self.before(stream, part))
        return self._after(x, self.mixer(h, part, at=at, read=read))

    def last(self, stream: Stream, part: Part | None, *, at: At, read: int) -> LastOfStream:
        """As `forward`, of the last token alone."""
        x, h = self.mixer_norm.read(*self.before(stream, part))
        return self._after(x[:, -1:], self.mixer.last(h, part, at=at, read=read))

    def step(self, stream: Stream, part: Part, *, at: At, variant: int) -> Stream:
        """One token; arguments as `Mixer.step`."""
        x, h = self.mixer_norm.read(*self.before(stream, part))
        return self._after(x, self.mixer.step(h, part, at=at, variant=variant))

    def _after(self, x: Tensor, delta: Tensor) -> Stream:
        if self.mlp is None or self.mlp_norm is None:
            return x, delta
        x, h = self.mlp_norm.read(x, delta)
        return x, self.mlp(h)


class Stack(SequenceModel):
    """Language model of stacked mixers. Subclasses name the mixer, its config and their dialects."""

    version = 1
    mixer_class: ClassVar[type[Any]]  # a Mixer; of every layer, unless `mixers` says otherwise
    config_class: ClassVar[type[Any]]  # a StackConfig
    block_class: ClassVar[type[Block]] = Block
    TINY: ClassVar[Mapping[str, Any]] = {}  # what `tiny` needs beside sizes
    rotary: ClassVar[bool] = False  # whether the mixer is given rotary angles, of config.rope_theta

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.state_grows = any(slot.length_dim is not None for slot in _slots(self.mixers(config), config).values())
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(self.block_class(mixer(config), config) for mixer in self.mixers(config))
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if not self.embed.weight.is_meta:  # else there is no memory to fill, and torch would import its compiler for it
            outputs = [part for block in self.blocks() for part in block.outputs()]
            init_weights_(self, residual=outputs, num_branches=len(outputs))
            for block in self.blocks():
                block.mixer.start_weights_()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    @classmethod
    def mixers(cls, config: Any) -> Sequence[type[Any]]:
        """The kind of mixer of each layer."""
        return [cls.mixer_class] * config.num_hidden_layers

    @classmethod
    def from_config(cls, config: Any) -> Self:
        config.check()
        return cls(config)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        sizes["num_attention_heads"] = 4
        known = {field.name for field in dataclasses.fields(cls.config_class)}
        sizes = {name: size for name, size in sizes.items() if name in known}
        return cls.from_config(cls.config_class(**{**sizes, **cls.TINY, **overrides}))

    @classmethod
    def cost(cls, config: Any, *, dtype_bytes: int) -> Cost:
        mixers = cls.mixers(config)
        works = [mixer.work(config) for mixer in mixers]
        sizes = {grows: 0 for grows in (False, True)}
        for mixer in mixers:
            for slot in mixer.slots(config).values():
                sizes[slot.length_dim is not None] += slot.nbytes(dtype_bytes)
        mlps = len(mixers) * SwiGLU.flops(config.hidden_size, config.mlp_size)
        head = 2 * config.hidden_size * config.vocab_size
        return Cost(
            flops_per_token=sum(work.flops for work in works) + mlps + head,
            head_flops=head,
            flops_per_context_token=sum(work.flops_per_context_token for work in works),
            local_flops_per_context_token=sum(work.local_flops_per_context_token for work in works),
            local_window=max((work.local_window for work in works), default=0),
            state_bytes=sizes[False],
            state_bytes_per_token=sizes[True],
        )

    def blocks(self) -> Iterator[Block]:
        """The layers, each with its mixer."""
        return iter(cast("list[Block]", list(self.layers)))

    def new_state(self, batch_size: int, max_len: int) -> StackState:
        """Allocate a state. Raises UnsupportedError where the model is not causal: it reads whole texts only."""
        if not self.strictly_causal:
            name = type(self).__name__
            raise UnsupportedError(f"this {name} is not causal and has no state; it reads whole texts only")
        like, mixers = self.norm.weight, self.mixers(self.config)
        if takes_twins(like):
            for group in (group for block in self.blocks() for group in block.mixer.maps_of_one_input()):
                join_(group)
        slots, rows, counts = _slots(mixers, self.config), [], dict[str, int]()
        for mixer in mixers:
            rows.append({name: counts.get(name, 0) for name in mixer.slots(self.config)})
            counts |= {name: row + 1 for name, row in rows[-1].items()}
        held = {}
        for name, slot in slots.items():
            shape = [max_len if dim == slot.length_dim else size for dim, size in enumerate(slot.shape)]
            held[name] = like.new_zeros(counts[name], batch_size, *shape, dtype=slot.dtype(like.dtype))
        position = torch.zeros(1, dtype=torch.int64, device=like.device)
        state = StackState(position=position, max_len=max_len, slots=slots, held=held, rows=rows)
        self.reset(state)
        return state

    @torch.no_grad()
    def reset(self, state: State) -> None:
        assert isinstance(state, StackState)
        state.position.zero_()
        state.num_tokens = 0
        for i, block in enumerate(self.blocks()):
            # what grows is never read beyond num_tokens, so it needs no clearing
            part = {name: tensor for name, tensor in state.layer(i).items() if state.slots[name].length_dim is None}
            for tensor in part.values():
                tensor.zero_()
            # One sequence, then the same for all: the start does not depend on the batch size.
            block.mixer.start_state({name: tensor[:1] for name, tensor in part.items()})
            for tensor in part.values():
                tensor[1:] = tensor[:1]

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T W"]:
        return self._read(ids, state, last=False)

    def prefill(self, ids: Int[Tensor, "B T"], state: State) -> Float[Tensor, "B W"]:
        """As `forward`, of the last token alone: nothing reads what the last layer writes for the tokens before."""
        return self._read(ids, state, last=True)[:, -1]

    def _read(self, ids: Int[Tensor, "B T"], state: State | None, *, last: bool) -> Float[Tensor, "B _ W"]:
        """Hidden states of all tokens, or of the `last` one."""
        require_no_grad(state)
        assert state is None or isinstance(state, StackState)
        positions, read = torch.arange(ids.shape[1], device=ids.device), 0
        stream: Stream = self._stream(ids), None
        if state is not None:
            positions, read = positions + state.position, state.num_tokens
        at = At(positions=positions, turns=self.turns(positions))
        for i, block in enumerate(self.blocks()):
            run = block.last if last and i + 1 == len(self.layers) else block
            stream = run(stream, None if state is None else state.layer(i), at=at, read=read)
        if state is not None:
            state.position += ids.shape[1]
        return self.norm.read(*stream)[1]

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B W"]:
        require_no_grad(state)
        assert isinstance(state, StackState)
        stream: Stream = self._stream(ids[:, None]), None
        at = At(positions=state.position, turns=self.turns(state.position), place=self.place(state.position))
        for i, block in enumerate(self.blocks()):
            stream = block.step(stream, state.layer(i), at=at, variant=variant)
        state.position += 1
        return self.norm.read(*stream)[1][:, 0]

    def step_variant(self, num_tokens: int) -> int:
        """The largest that a layer asks for; 0 where every step is the same."""
        return max(block.mixer.variant(num_tokens) for block in self.blocks())

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """The largest that a layer asks for; None where one of them cannot be replayed."""
        found = [block.mixer.forward_variant(num_tokens, chunk_len) for block in self.blocks()]
        return None if None in found else max(found)

    def turns(self, positions: Int[Tensor, "T"]) -> Any:
        """What the mixers rotate by at these positions: cosines and sines [T, R], or None."""
        if not self.rotary or self.config.rope_theta is None:
            return None
        config, dtype = self.config, self.norm.weight.dtype
        return rotary_angles(positions, dim=config.head_dim, theta=config.rope_theta, dtype=dtype)

    def place(self, position: Int[Tensor, "1"]) -> Int[Tensor, "1"] | None:
        """Place of the token at a position in its mini-batch or chunk, for all layers; None: there are none."""
        return None

    def _stream(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T W"]:
        x = self.embed(ids)
        return x.to(torch.promote_types(x.dtype, torch.float32)) if self.config.residual_in_fp32 else x


def _slots(mixers: Iterable[type[Any]], config: Any) -> dict[str, Slot]:
    """The slots of all layers by name; mixers that share a name share the tensor's shape."""
    return {name: slot for mixer in dict.fromkeys(mixers) for name, slot in mixer.slots(config).items()}


def stack_weights(
    *,
    embed: str,
    norm: str,
    layer: str,
    names: Mapping[str, str],
    dropped: Iterable[str] = (),
) -> dict[str, str | None]:
    """The names of a stack's checkpoint, theirs -> ours; the head is `lm_head` in all of them.

    Args:
        embed, norm: of the table of embeddings and of the last norm.
        layer: what stands before a layer's names, with `{i}`.
        names: theirs below `layer` -> ours below `layers.{i}`.
        dropped: theirs that are knowingly not read.
    """
    return {
        embed: "embed.weight",
        norm: "norm.weight",
        "lm_head.weight": "lm_head.weight",
        **{f"{layer}.{theirs}": f"layers.{{i}}.{ours}" for theirs, ours in names.items()},
        **dict.fromkeys(f"{layer}.{name}" for name in dropped),
    }


def own_dialect(config: type[StackConfig], *, mixer_keys: Iterable[str]) -> Dialect:
    """Our own naming of a stack's checkpoints: the modules' names. `mixer_keys`: those below `mixer.`."""
    names = ["mixer_norm.weight", "mlp_norm.weight", *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))]
    names += [f"mixer.{key}" for key in mixer_keys]
    return Dialect(
        name=config.model_type,
        matches=lambda data: data.get("model_type") == config.model_type,
        config=config.from_json,
        weights=stack_weights(
            embed="embed.weight", norm="norm.weight", layer="layers.{i}", names={name: name for name in names}
        ),
    )
