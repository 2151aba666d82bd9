"""Configs of stacks: frozen fields, read strictly from config.json and checked in one place.

A subclass adds its mixer's fields and calls `StackConfig.check(self)` in its own check.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ttbench.errors import CheckpointError
from ttbench.models.known_fields import require_known_fields


class StackSizes:
    """What a stack asks of any config, from the usual fields; a config that differs has its own field or property."""

    __slots__ = ()
    intermediate_size: Any
    rms_norm_eps: Any

    @property
    def mlp_size(self) -> int:
        """Width of the SwiGLU in every layer; 0: none."""
        return self.intermediate_size

    @property
    def mlp_bias(self) -> bool:
        """Whether the SwiGLU's three maps have biases."""
        return False

    @property
    def norm_eps(self) -> float:
        """Of the norms before mixer, MLP and head."""
        return self.rms_norm_eps

    @property
    def residual_in_fp32(self) -> bool:
        """Whether the stream between layers is float32 at least, whatever the model's dtype."""
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig(StackSizes):
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
        config = cls(**{f.name: data[f.name] for f in fields if f.name in data})
        config.check()
        return config

    def to_json(self) -> dict[str, Any]:
        """config.json."""
        return {"architectures": [], "model_type": self.model_type, **dataclasses.asdict(self)}

    def check(self) -> None:
        """Raises CheckpointError on a wrong type, an impossible size, or fields that contradict each other."""
        require_types(self)
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


def require_types(config: Any) -> None:
    """Raises CheckpointError when a field of a config holds a value of another type than it declares."""
    for field in dataclasses.fields(config):
        value, wanted = getattr(config, field.name), str(field.type)
        kind = {"int": int, "float": (int, float), "bool": bool, "str": str}.get(wanted)
        if kind and (not isinstance(value, kind) or isinstance(value, bool) != (wanted == "bool")):
            raise CheckpointError(f"config.json has {field.name}={value!r}; expected a value of type {wanted}")


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
