"""Configs of the Titans models. No weights were published, so every field is ours; the names are the paper's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ttbench.errors import CheckpointError
from ttbench.kernels.neural_memory import READS, layer_shapes
from ttbench.models.base import Description, WorkTerm
from ttbench.models.stack_config import HeadedConfig, require_at_least, require_one_of, require_positive

STARTS = ("learned", "zero")
UNIT_NORMS = ("qkv", "qk", "none")
MOST_LAYERS = 8  # of a memory; the paper has 1 to 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TitansConfig(HeadedConfig):
    """The memory alone. Choices that the paper leaves open are fields, and the main ones in every row's kernel path."""

    model_type: ClassVar[str] = "titans-lmm"
    chunk_size: int  # tokens whose errors are taken at the same weights
    memory_layers: int  # L_M: 1 is a matrix, more an MLP
    memory_expansion: int  # width of the memory's hidden layers, in head dims
    memory_read: str  # token: weights after the token; chunk: weights of the chunk's start
    memory_init: str  # learned | zero (only for one layer: a deeper one could never leave zero)
    max_step: float  # bound of a chunk's sum of theta; with damped_step and a steady eta, of all it adds with momentum
    num_persistent: int  # N_p, learned vectors in front of the sequence of every layer
    conv_kernel: int = 4  # tokens; of the convolutions on q, k and v of the memory; 0: none
    unit_norm: str = "qkv"  # which of them have length 1 in each head; the paper's section 4.4 says qk
    damped_step: bool = True  # whether theta carries 1 - eta; not in the paper

    def check(self) -> None:
        HeadedConfig.check(self)
        require_one_of("memory_read", self.memory_read, READS)
        require_one_of("memory_init", self.memory_init, STARTS)
        require_one_of("unit_norm", self.unit_norm, UNIT_NORMS)
        for name in ("chunk_size", "memory_layers", "memory_expansion"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("num_persistent", "conv_kernel"):
            require_at_least(name, getattr(self, name), 0)
        if self.memory_init == "zero" and self.memory_layers > 1:
            raise CheckpointError(
                f"config.json has memory_init='zero' with memory_layers={self.memory_layers}; every gradient of a deep "
                "memory of zeros is zero, so it would never learn; use 'learned'"
            )
        require_positive("max_step", self.max_step)
        if self.memory_layers > MOST_LAYERS:
            raise CheckpointError(
                f"config.json has memory_layers={self.memory_layers}; at most {MOST_LAYERS} have names in a checkpoint"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MACConfig(TitansConfig):
    """Memory as context: `chunk_size` is also the segment that attention sees."""

    model_type: ClassVar[str] = "titans-mac"
    rope_theta: float = 10000.0

    def check(self) -> None:
        TitansConfig.check(self)
        require_positive("rope_theta", self.rope_theta)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig(TitansConfig):
    """Memory beside attention over a window."""

    window: int  # tokens that attention sees, the query's own among them
    rope_theta: float = 10000.0

    def check(self) -> None:
        TitansConfig.check(self)
        require_at_least("window", self.window, 2)
        require_positive("rope_theta", self.rope_theta)


@dataclass(frozen=True, slots=True, kw_only=True)
class MAGConfig(WindowConfig):
    """Memory as gate."""

    model_type: ClassVar[str] = "titans-mag"


@dataclass(frozen=True, slots=True, kw_only=True)
class MALConfig(WindowConfig):
    """Memory as layer."""

    model_type: ClassVar[str] = "titans-mal"


def _weights(c: Any) -> list[int]:
    return [i * o for i, o in _shapes(c)]


def _shapes(c: Any) -> list[tuple[int, int]]:
    return layer_shapes(c.head_dim, num_layers=c.memory_layers, expansion=c.memory_expansion)


def memory_description(
    *, section: str, projections: str, keys: str | None = None, kept_channels: str = "3 W", **work: WorkTerm
) -> Description:
    """What docs/architectures.md says of a variant: the memory's formulas, and those of what stands beside it.

    Args:
        section: its words.
        projections: FLOP of a token and layer in its matrices.
        keys: elements of keys and values that its attention keeps; None: it has none.
        kept_channels: channels of its convolutions.
        work: what it does beside the memory.
    """
    memory = "H (2 P + C E + 3 C)"
    return Description(
        section=section,
        published="none",
        state=memory if keys is None else f"{memory} + {keys}",
        keys=keys,
        work={
            "projections": WorkTerm(formula=projections),
            "gates": WorkTerm(formula="6 W H"),
            "memory": WorkTerm(formula="12 P - 2 P_1 + E (C + 1) + (C + 1) (C + 2) / 3", times="H"),
            **work,
        },
        letters={
            **{"C": "chunk_size", "N": "num_persistent"},
            "P": lambda c, T: sum(_weights(c)),
            "P_1": lambda c, T: _weights(c)[0],
            "E": lambda c, T: sum(map(sum, _shapes(c))),
            "window": lambda c, T: min(T, c.window),
        },
        kept_channels=kept_channels,
    )
