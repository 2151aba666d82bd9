"""The stack that most architectures share, so that a new one is a mixer, a config and a few lines.

    x = x + mixer(norm(x))        x = x + SwiGLU(norm(x))        then norm, then a tied or untied head

A mixer says which tensors a sequence carries in one layer (`Mixer.slots`) and what a token costs (`Mixer.work`). From
that the stack allocates, resets and counts the state, and hands each layer its part of it, to be written in place.

Letters: B batch, T tokens, W width, R rotary angles of a head, L layers, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ttbench.errors import CheckpointError
from ttbench.models.base import Dialect, SequenceModel, State, require_no_grad
from ttbench.models.known_fields import require_known_fields
from ttbench.models.layers import RMSNorm, SwiGLU, init_weights_, rotary_angles
from ttbench.types import Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """What every stack has. A subclass adds its mixer's fields and calls `StackConfig.check(self)` in its own check."""

    model_type: ClassVar[str]  # in config.json
    vocab_size: int  # tokens
    hidden_size: int
    intermediate_size: int  # of the SwiGLU
    num_hidden_layers: int
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read config.json.

        Raises CheckpointError on a missing or an unknown field, a wrong type or an impossible value.
        """
        fields = dataclasses.fields(cls)
        known = [f.name for f in fields]
        require_known_fields(data, read=known, model=cls.model_type)
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in data]
        if missing:
            raise CheckpointError(
                f"config.json of a {cls.model_type} lacks {', '.join(missing)}; nothing is guessed, so state them"
            )
        for field in fields:
            value, wanted = data.get(field.name, field.default), str(field.type)
            kind = {"int": int, "float": (int, float), "bool": bool, "str": str}.get(wanted)
            if kind and (not isinstance(value, kind) or isinstance(value, bool) != (wanted == "bool")):
                raise CheckpointError(f"config.json has {field.name}={value!r}; expected a value of type {wanted}")
        config = cls(**{f.name: data[f.name] for f in fields if f.name in data})
        config.check()
        return config

    def to_json(self) -> dict[str, Any]:
        """config.json."""
        return {"architectures": [], "model_type": self.model_type, **dataclasses.asdict(self)}

    def check(self) -> None:
        """Raises CheckpointError when a size is impossible or fields contradict each other."""
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
            require_at_least(name, getattr(self, name), 1)
        require_positive("rms_norm_eps", self.rms_norm_eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadedConfig(StackConfig):
    """A stack whose mixers have heads, all of the same width."""

    num_attention_heads: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def check(self) -> None:
        StackConfig.check(self)
        require_at_least("num_attention_heads", self.num_attention_heads, 1)
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise CheckpointError(
                f"config.json has hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}; the "
                "width of a head must be a whole, even number"
            )


def require_at_least(name: str, value: float, least: float) -> None:
    """Raises CheckpointError when a config's number is too small."""
    if not value >= least:
        raise CheckpointError(f"config.json has {name}={value}; it must be at least {least}")


def require_positive(name: str, value: float) -> None:
    """Raises CheckpointError when a config's number is not positive and finite."""
    if not 0 < value < math.inf:
        raise CheckpointError(f"config.json has {name}={value}; it must be positive and finite")


def require_seed(name: str, value: int) -> None:
    """Raises CheckpointError when no generator takes a config's seed."""
    if not 0 <= value < 1 << 63:
        raise CheckpointError(f"config.json has {name}={value}; it must be at least 0 and below 2^63")


def require_one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raises CheckpointError when a config's choice is none of those allowed."""
    if value not in allowed:
        raise CheckpointError(f"config.json has {name}={value!r}; available: {', '.join(allowed)}")


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
class Work:
    """FLOP of one token in one layer's mixer; see `Cost` for what counts."""

    flops: float
    flops_per_context_token: float = 0.0
    local_flops_per_context_token: float = 0.0
    local_window: int = 0  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where the tokens of a call stand in the sequence."""

    positions: Int[Tensor, "T"]  # on the device; the only position that the maths reads
    turns: tuple[Float[Tensor, "T R"], Float[Tensor, "T R"]] | None  # rotary cosines and sines; None: no rotation


class Mixer(nn.Module, ABC):
    """What moves information between tokens in one layer."""

    o_proj: nn.Linear  # the one that writes to the stream

    @classmethod
    @abstractmethod
    def slots(cls, config: Any) -> dict[str, Slot]:
        """The state of one sequence in one layer, by name."""

    @classmethod
    @abstractmethod
    def work(cls, config: Any) -> Work:
        """What one token costs."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        """Mix `x`, which follows `read` tokens held in `part`; None: nothing is before, and nothing is kept."""

    @abstractmethod
    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        """One token: no host sync, no allocation of state, no branch on a tensor."""

    def start_weights_(self) -> None:
        """Start values of parameters that `init_weights_` leaves alone or sets differently; called after it."""

    def start_state(self, part: Part) -> None:
        """Write the state before the first token into `part`, which is zeros, of batch 1."""


@dataclass(kw_only=True)
class StackState(State):
    """The slots of every layer."""

    slots: Mapping[str, Slot]
    held: Mapping[str, Shaped[Tensor, "L B ..."]]

    def tensors(self) -> dict[str, tuple[Tensor, int | None, int | None]]:
        found: dict[str, tuple[Tensor, int | None, int | None]] = {"position": (self.position, None, None)}
        for name, slot in self.slots.items():
            found[name] = (self.held[name], 1, None if slot.length_dim is None else slot.length_dim + 2)
        return found

    def layer(self, i: int) -> Part:
        """Views of one layer."""
        return {name: tensor[i] for name, tensor in self.held.items()}


class Block(nn.Module):
    """A mixer and SwiGLU, each after a norm and added to the stream."""

    def __init__(self, mixer: Mixer, config: StackConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mixer = mixer
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)


class Stack(SequenceModel):
    """Language model of one kind of mixer. Subclasses name it, its config and their dialects."""

    version = 1
    mixer_class: ClassVar[type[Any]]  # a Mixer that is built from the config
    config_class: ClassVar[type[Any]]  # a StackConfig
    TINY: ClassVar[Mapping[str, Any]] = {}  # what `tiny` needs beside sizes
    rotary: ClassVar[bool] = False  # whether the mixer is given rotary angles, of config.rope_theta

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.state_grows = any(slot.length_dim is not None for slot in self.mixer_class.slots(config).values())
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(self.mixer_class(config), config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        outputs = [part for _, mixer, block in self.parts() for part in (mixer.o_proj, block.mlp.down_proj)]
        init_weights_(self, residual=outputs, num_branches=len(outputs))
        for _, mixer, _ in self.parts():
            mixer.start_weights_()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    @classmethod
    def from_config(cls, config: Any) -> Self:
        config.check()
        return cls(config)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        if issubclass(cls.config_class, HeadedConfig):
            sizes["num_attention_heads"] = 4
        return cls.from_config(cls.config_class(**{**sizes, **cls.TINY, **overrides}))

    @classmethod
    def cost(cls, config: Any, *, dtype_bytes: int) -> Cost:
        layers, work, slots = config.num_hidden_layers, cls.mixer_class.work(config), cls.mixer_class.slots(config)
        sizes = {grows: 0 for grows in (False, True)}
        for slot in slots.values():
            sizes[slot.length_dim is not None] += layers * slot.nbytes(dtype_bytes)
        mlp = SwiGLU.flops(config.hidden_size, config.intermediate_size)
        return Cost(
            flops_per_token=layers * (work.flops + mlp) + 2 * config.hidden_size * config.vocab_size,
            flops_per_context_token=layers * work.flops_per_context_token,
            local_flops_per_context_token=layers * work.local_flops_per_context_token,
            local_window=work.local_window,
            state_bytes=sizes[False],
            state_bytes_per_token=sizes[True],
        )

    def parts(self) -> Iterator[tuple[int, Any, Block]]:
        """Every layer's number, its mixer, and itself."""
        for i, block in enumerate(cast("list[Block]", list(self.layers))):
            yield i, block.mixer, block

    def new_state(self, batch_size: int, max_len: int) -> StackState:
        like, slots = self.norm.weight, self.mixer_class.slots(self.config)
        held = {}
        for name, slot in slots.items():
            shape = [max_len if dim == slot.length_dim else size for dim, size in enumerate(slot.shape)]
            held[name] = like.new_zeros(len(self.layers), batch_size, *shape, dtype=slot.dtype(like.dtype))
        position = torch.zeros(1, dtype=torch.int64, device=like.device)
        state = StackState(position=position, max_len=max_len, slots=slots, held=held)
        self.reset(state)
        return state

    @torch.no_grad()
    def reset(self, state: State) -> None:
        assert isinstance(state, StackState)
        state.position.zero_()
        state.num_tokens = 0
        # what grows is never read beyond num_tokens, so it needs no clearing
        fixed = [name for name, slot in state.slots.items() if slot.length_dim is None]
        for i, mixer, _ in self.parts():
            # One sequence, then the same for all: the start does not depend on the batch size.
            part = state.layer(i)
            for name in fixed:
                part[name].zero_()
            mixer.start_state({name: tensor[:1] for name, tensor in part.items()})
            for name in fixed:
                part[name][1:] = part[name][:1]

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T W"]:
        require_no_grad(state)
        assert state is None or isinstance(state, StackState)
        x, positions, read = self.embed(ids), torch.arange(ids.shape[1], device=ids.device), 0
        if state is not None:
            positions, read = positions + state.position, state.num_tokens
        at = self._at(positions)
        for i, mixer, block in self.parts():
            part = None if state is None else state.layer(i)
            x = x + mixer(block.mixer_norm(x), part, at=at, read=read)
            x = x + block.mlp(block.mlp_norm(x))
        if state is not None:
            state.position += ids.shape[1]
        return self.norm(x)

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B W"]:
        require_no_grad(state)
        assert isinstance(state, StackState)
        x, at = self.embed(ids)[:, None], self._at(state.position)
        for i, mixer, block in self.parts():
            x = x + mixer.step(block.mixer_norm(x), state.layer(i), at=at, variant=variant)
            x = x + block.mlp(block.mlp_norm(x))
        state.position += 1
        return self.norm(x[:, 0])

    def step_variant(self, num_tokens: int) -> int:
        """Always 0: every step is the same. A mixer whose steps differ overrides it."""
        return 0

    def _at(self, positions: Int[Tensor, "T"]) -> At:
        if not self.rotary:
            return At(positions=positions, turns=None)
        config, dtype = self.config, self.norm.weight.dtype
        return At(
            positions=positions,
            turns=rotary_angles(positions, dim=config.head_dim, theta=config.rope_theta, dtype=dtype),
        )


def own_dialect(config: type[StackConfig], *, mixer_keys: Iterable[str]) -> Dialect:
    """Our own naming of a stack's checkpoints: the modules' names. `mixer_keys`: those below `mixer.`."""
    layer = ["mixer_norm.weight", "mlp_norm.weight", *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))]
    layer += [f"mixer.{key}" for key in mixer_keys]
    return Dialect(
        name=config.model_type,
        matches=lambda data: data.get("model_type") == config.model_type,
        config=config.from_json,
        weights={
            **{name: name for name in ("embed.weight", "norm.weight", "lm_head.weight")},
            **{f"layers.{{i}}.{name}": f"layers.{{i}}.{name}" for name in layer},
        },
    )
