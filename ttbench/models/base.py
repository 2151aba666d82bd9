"""The interface of an architecture: SequenceModel, its State, and the dialects its checkpoints are written in.

Letters: B batch, T tokens, D model width, V vocabulary, L layers.
"""

from __future__ import annotations

import dataclasses
import re
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.declare import ColumnDeclaration
from ttbench.errors import UnsupportedError, UsageError
from ttbench.types import ATTENTION, NO_ATTENTION, Cost, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A copy of the used part of a state; immutable by convention."""

    num_tokens: int
    tensors: Mapping[str, Tensor]


@dataclass(kw_only=True)
class State:
    """What a sequence carries from one chunk of tokens to the next: tensors at fixed addresses.

    Subclasses are dataclasses whose tensor fields all carry `layout(...)` metadata. `position` is the only
    position the maths reads. `forward` and `step` advance it in place; the Engine alone advances `num_tokens`,
    its host mirror, which `step` never reads.
    """

    position: Int[Tensor, "1"] = field(metadata={"batch_dim": None, "length_dim": None})
    num_tokens: int = 0
    max_len: int = 0  # tokens this state has room for

    def tensors(self) -> dict[str, tuple[Tensor, int | None, int | None]]:
        """Every tensor by name, with its batch dimension and the one that grows with tokens, if any."""
        found = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                found[item.name] = (value, item.metadata["batch_dim"], item.metadata["length_dim"])
        return found

    @property
    def batch_size(self) -> int:
        return next(t.shape[b] for t, b, _ in self.tensors().values() if b is not None)

    def _used(self, tensor: Tensor, length_dim: int | None, num_tokens: int) -> Tensor:
        return tensor if length_dim is None else tensor.narrow(length_dim, 0, min(num_tokens, tensor.shape[length_dim]))

    def save(self) -> Snapshot:
        """Copy the used part. The copy does not alias the state."""
        used = {name: self._used(t, n, self.num_tokens).clone() for name, (t, _, n) in self.tensors().items()}
        return Snapshot(num_tokens=self.num_tokens, tensors=used)

    def load(self, snapshot: Snapshot) -> None:
        """Write a snapshot back in place. A snapshot of batch 1 is broadcast to any batch size.

        Raises ValueError when the snapshot holds more tokens than this state has room for, or another batch size.
        """
        if snapshot.num_tokens > self.max_len:
            raise ValueError(f"snapshot holds {snapshot.num_tokens} tokens; this state has room for {self.max_len}")
        for name, (tensor, batch_dim, length_dim) in self.tensors().items():
            saved = snapshot.tensors[name]
            if batch_dim is not None and saved.shape[batch_dim] not in (1, tensor.shape[batch_dim]):
                raise ValueError(
                    f"snapshot has batch size {saved.shape[batch_dim]}; expected 1 or {tensor.shape[batch_dim]}"
                )
            self._used(tensor, length_dim, snapshot.num_tokens).copy_(saved)
        self.num_tokens = snapshot.num_tokens

    @property
    def nbytes_used(self) -> int:
        """Bytes that hold state now; the position counter is not counted."""
        return sum(
            self._used(t, n, self.num_tokens).numel() * t.element_size()
            for name, (t, _, n) in self.tensors().items()
            if name != "position"
        )

    @property
    def nbytes_allocated(self) -> int:
        """Bytes allocated for state; the position counter is not counted."""
        return sum(t.numel() * t.element_size() for name, (t, _, _) in self.tensors().items() if name != "position")


def layout(*, batch_dim: int | None, length_dim: int | None = None) -> Any:
    """Field of a State tensor: where its batch is, and the dimension (if any) that grows with tokens."""
    return field(metadata={"batch_dim": batch_dim, "length_dim": length_dim})


class Config(Protocol):
    """What every architecture's frozen config dataclass has."""

    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One published naming of one architecture's checkpoints.

    `weights` maps a checkpoint key to a model key, with `{i}` for a layer number on both sides; a target of None
    means knowingly dropped. Keys in `optional` may be absent (tied heads, buffers).
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    config: Callable[[Mapping[str, Any]], Any]  # raises CheckpointError on a missing or impossible field
    weights: Mapping[str, str | None]
    optional: frozenset[str] = frozenset()

    def target(self, key: str) -> tuple[bool, str | None]:
        """Whether `key` is known, and the model key it maps to (None: dropped)."""
        for pattern, target in self.weights.items():
            match = re.fullmatch(re.escape(pattern).replace(r"\{i\}", r"(\d+)"), key)
            if match:
                layer = match.group(1) if match.groups() else ""
                return True, None if target is None else target.replace("{i}", layer)
        return False, None

    def source(self, target: str) -> str | None:
        """The checkpoint key that is written for a model key; None when this dialect has none."""
        for pattern, mapped in self.weights.items():
            if mapped is None:
                continue
            match = re.fullmatch(re.escape(mapped).replace(r"\{i\}", r"(\d+)"), target)
            if match:
                return pattern.replace("{i}", match.group(1) if match.groups() else "")
        return None


# Letters of docs/architectures.md for the fields that most configs have. T is the number of tokens that can be read.
COMMON_LETTERS: Mapping[str, str] = {
    **{"W": "hidden_size", "H": "num_attention_heads", "G": "num_key_value_heads", "D": "head_dim"},
    **{"I": "intermediate_size", "K": "conv_kernel"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTerm:
    """A part of the work of one token in one layer."""

    formula: str  # FLOP
    times: str | Callable[[Any], float] = "1"  # a formula, or a function of the config


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What docs/architectures.md says of an architecture; its formulas are checked against `cost` and the states.

    Formulas are in the notation of that page, where neighbours are multiplied: `4 W (H + G) D`. A letter is one of
    COMMON_LETTERS or of `letters`: the name of a field, or a function of the config and of the tokens that can be read.
    """

    section: str  # Markdown; `$name` stands for a formula: one of `work`, or `state`, `keys`, `int64`
    published: str  # whether weights are, and how they are read
    state: str | None  # elements of one layer and sequence, convolutions left out; None: a mixture of others
    work: Mapping[str, WorkTerm]  # of a token and layer, by name; without convolutions, SwiGLU and head
    letters: Mapping[str, str | Callable[[Any, float], float]] = field(default_factory=dict)
    keys: str | None = None  # the part of the state that is keys and values, where the section names it
    grows: str | None = None  # what the state grows with, in words; None: every token, or nothing, as the class says
    int64: str | None = None  # how many elements of the state are int64 and not of the model's dtype
    kept_channels: str = "0"  # of convolutions, whose K - 1 last inputs are in the state
    convolved: str | None = None  # channels that are convolved; None: those that are kept
    swiglu: bool = True  # whether one follows the mixer

    def text(self) -> str:
        """The section with its formulas in it. Raises KeyError for a name that stands for none."""
        work = {name: term.formula for name, term in self.work.items()}
        named = {"state": self.state or "", "keys": self.keys or "", "int64": self.int64 or ""}
        return string.Template(self.section).substitute(work | named).strip()


class SequenceModel(nn.Module, ABC):
    """An architecture: `forward` over any number of tokens, `step` over one, both on the same state."""

    DIALECTS: ClassVar[tuple[Dialect, ...]]
    version: ClassVar[int]
    strictly_causal: bool = True  # False: reads whole texts only; of the class, unless the config decides
    float32_inside: ClassVar[bool] = False  # parts of it compute in float32 whatever the dtype, and it cannot be helped
    state_grows: bool  # with context; of the class, unless the config decides (docs/decisions/0006)
    undecayed: ClassVar[frozenset[str]] = frozenset()  # last names of matrices that weight decay leaves alone
    ATTENTION: ClassVar[tuple[str, ...]] = ()  # back ends it can attend with, the default first; empty: no attention
    attention_backend: str = NO_ATTENTION  # the one in use
    # fields of the config that make it another function where the architecture leaves them open: columns of rows
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {}
    DESCRIPTION: ClassVar[Description | None] = None  # for docs/architectures.md, which has all that are built in
    config: Any

    lm_head: nn.Linear

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A shortcut to the end of another forward is none to the end of one's own.
        if "forward" in vars(cls) and "prefill" not in vars(cls):
            cls.prefill = SequenceModel.prefill

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Build with freshly initialised weights (torch's global generator)."""
        return cls(config)

    @classmethod
    @abstractmethod
    def tiny(cls, **overrides: Any) -> Self:
        """A model of some thousand parameters for tests."""

    @classmethod
    @abstractmethod
    def cost(cls, config: Any, *, dtype_bytes: int) -> Cost:
        """Analytic work and state of one sequence; `dtype_bytes` is the size of an activation.

        Raises UnsupportedError, with the reason, where there is no such formula.
        """

    @abstractmethod
    def new_state(self, batch_size: int, max_len: int) -> State:
        """Allocate a state on the model's device, reset."""

    @abstractmethod
    def reset(self, state: State) -> None:
        """Write the (learned) initial state in place; position and num_tokens become 0."""

    @abstractmethod
    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T D"]:
        """Hidden states before the head. Continues `state` in place; None: stateless (training)."""

    def prefill(self, ids: Int[Tensor, "B T"], state: State) -> Float[Tensor, "B D"]:
        """Continue `state` in place as `forward` does; the last token's hidden state alone.

        The default computes those of all tokens. An architecture may leave out what nobody reads: what its last layer
        writes for the tokens before.
        """
        return self(ids, state)[:, -1]

    @abstractmethod
    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B D"]:
        """One token: no host sync, no allocation of state, no branch on a tensor."""

    @abstractmethod
    def step_variant(self, num_tokens: int) -> int:
        """Which graph the step after `num_tokens` tokens needs."""

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """Which graph the forward of `chunk_len` tokens after `num_tokens` needs; None: no graph may replay it.

        A forward may be replayed where its operations, shapes and numbers are those of every other forward with the
        same variant and length. The default is None: a position that the host knows, or keys that grow, forbid it.
        """
        return None

    def head(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits in float32 (float64 for a float64 model), apart so that scoring goes slice by slice."""
        logits = self.lm_head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def use_attention(self, name: str | None) -> None:
        """Attend with the back end `name` from now on; None takes the default.

        An architecture without attention has nothing to choose: every known name is taken, and
        `attention_backend` stays "none".

        Raises:
            UsageError: no back end has this name.
            UnsupportedError: the architecture cannot attend with it.
        """
        if name not in (None, NO_ATTENTION, *ATTENTION):
            raise UsageError(f"unknown attention back end '{name}'; available: {', '.join(ATTENTION)}")
        if self.ATTENTION:
            name = name or self.ATTENTION[0]
            if name not in self.ATTENTION:
                raise UnsupportedError(
                    f"{type(self).__name__} cannot attend with '{name}'; available: {', '.join(self.ATTENTION)}"
                )
            self.attention_backend = name

    @property
    def choices(self) -> dict[str, Scalar]:
        """What the config says where the architecture leaves it open, by the names of `CHOICES`."""
        return {name: getattr(self.config, name) for name in self.CHOICES}

    def num_params(self) -> tuple[int, int]:
        """Parameters in all, and without embedding and head; tied weights counted once."""
        total = sum(p.numel() for p in self.parameters())
        tables = {id(p): p.numel() for name, p in self.named_parameters() if name.split(".")[0] in ("embed", "lm_head")}
        return total, total - sum(tables.values())


def require_no_grad(state: State | None) -> None:
    """States are updated in place and cannot be differentiated through. Raises RuntimeError when grad is enabled."""
    if state is not None and torch.is_grad_enabled():
        raise RuntimeError("a state cannot be used while grad is enabled; use torch.inference_mode() or state=None")
