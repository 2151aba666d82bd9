"""Config of the Titans models. No weights were published, so every field is ours; the names are the paper's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ttbench.errors import CheckpointError
from ttbench.kernels.neural_memory import READS

VARIANTS = ("lmm", "mac", "mag", "mal")


@dataclass(frozen=True, slots=True, kw_only=True)
class TitansConfig:
    """Sizes, and the choices that the paper leaves open; they are in every row through the config's digest."""

    variant: str  # lmm | mac | mag | mal
    vocab_size: int  # tokens
    hidden_size: int
    intermediate_size: int  # of the SwiGLU after the mixer
    num_hidden_layers: int
    num_attention_heads: int  # of the memory, and of the attention where there is one
    chunk_size: int  # tokens whose errors are taken at the same weights; in MAC also the segment
    memory_layers: int  # L_M: 1 is a matrix, more an MLP
    memory_expansion: int  # width of the memory's hidden layers, in head dims
    memory_read: str  # token: weights after the token; chunk: weights of the chunk's start
    memory_init: str  # learned | zero (only for one layer: a deeper one could never leave zero)
    max_step: float  # upper bound of theta; the gate is a sigmoid times this
    num_persistent: int  # N_p, learned vectors in front of the sequence of every layer
    conv_kernel: int = 4  # tokens; of the convolutions on q, k and v of the memory; 0: none
    window: int = 0  # tokens that sliding-window attention sees, itself included; mag and mal only
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read config.json. Raises CheckpointError on a missing field or an impossible value."""
        fields = dataclasses.fields(cls)
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in data]
        if missing:
            raise CheckpointError(
                f"config.json lacks {', '.join(missing)}; the Titans paper prints no sizes, so a checkpoint must state "
                "them all"
            )
        config = cls(**{f.name: data[f.name] for f in fields if f.name in data})
        config.check()
        return config

    def check(self) -> None:
        """Raises CheckpointError when fields contradict each other."""
        for name, value, allowed in (
            ("variant", self.variant, VARIANTS),
            ("memory_read", self.memory_read, READS),
            ("memory_init", self.memory_init, ("learned", "zero")),
        ):
            if value not in allowed:
                raise CheckpointError(f"config.json has {name}={value!r}; available: {', '.join(allowed)}")
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise CheckpointError(
                f"config.json has hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}; the "
                "width of a head must be a whole, even number"
            )
        if self.memory_init == "zero" and self.memory_layers > 1:
            raise CheckpointError(
                f"config.json has memory_init='zero' with memory_layers={self.memory_layers}; every gradient of a deep "
                "memory of zeros is zero, so it would never learn; use 'learned'"
            )
        if (self.window > 0) != (self.variant in ("mag", "mal")):
            raise CheckpointError(
                f"config.json has window={self.window} for variant '{self.variant}'; mag and mal need a window of at "
                "least 1 token, lmm and mac have none"
            )
        for name in ("chunk_size", "memory_layers", "memory_expansion"):
            if getattr(self, name) < 1:
                raise CheckpointError(f"config.json has {name}={getattr(self, name)}; it must be at least 1")
        if not self.max_step > 0:
            raise CheckpointError(f"config.json has max_step={self.max_step}; it must be positive")

    def to_json(self) -> dict[str, Any]:
        """config.json."""
        return {"architectures": [], "model_type": "titans", **dataclasses.asdict(self)}
