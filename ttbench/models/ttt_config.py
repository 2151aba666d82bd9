"""The configuration of TTT checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ttbench.errors import CheckpointError
from ttbench.models.known_fields import require_known_fields
from ttbench.models.stack_config import HeadedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TTTConfig(HeadedConfig):
    """Sizes and switches, in the names of the authors' TTTConfig."""

    model_type: ClassVar[str] = "ttt"
    ttt_layer_type: str  # linear | mlp
    ttt_base_lr: float  # inner step size before gating; the authors train linear with 1.0 and mlp with 0.1
    mini_batch_size: int = 16  # tokens
    use_gate: bool = False
    share_qk: bool = False
    pre_conv: bool = False
    conv_kernel: int = 4  # tokens
    rope_theta: float = 10000.0
    initializer_range: float = 0.02  # of the authors' start weights; kept, not used
    tie_word_embeddings: bool = True
    # training only: parts whose mini-batches are computed again in the backward pass
    scan_checkpoint_group_size: int = 0

    def check(self) -> None:
        HeadedConfig.check(self)
        for field in dataclasses.fields(self):
            _checked(field.name, getattr(self, field.name), kind=str(field.type))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a TTT config.json.

        Raises CheckpointError on a missing or an unknown field, or a variant that is not built.
        """
        own = [field.name for field in dataclasses.fields(cls)]
        require_known_fields(data, read=(*own, "hidden_act"), model="ttt")
        required = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        missing = [key for key in required if data.get(key) is None]
        if missing:
            raise CheckpointError(f"config.json lacks {', '.join(missing)}; a TTT config must state them")
        if data.get("ttt_base_lr") is None:
            raise CheckpointError(
                "config.json lacks ttt_base_lr, the inner step size; add it with the value used in training (the "
                "authors use 1.0 for 'linear' and 0.1 for 'mlp'): a default would silently be wrong tenfold for one"
            )
        if data.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"config.json has hidden_act={data['hidden_act']!r}; TTT reads only 'silu'")
        known = {field.name: data[field.name] for field in dataclasses.fields(cls) if data.get(field.name) is not None}
        known.setdefault("ttt_layer_type", "linear")
        for field in dataclasses.fields(cls):
            if field.name in known:
                known[field.name] = _checked(field.name, known[field.name], kind=str(field.type))
        config = cls(**known)
        config.check()
        return config

    def to_json(self) -> dict[str, Any]:
        """config.json as the authors' code reads it."""
        return {
            "architectures": ["TTTForCausalLM"],
            "model_type": "ttt",
            "hidden_act": "silu",
            **dataclasses.asdict(self),
        }


def _checked(name: str, value: Any, *, kind: str) -> Any:
    """`value` in the type of its field. Raises CheckpointError when it is of another type or out of range."""
    least = 0 if name == "scan_checkpoint_group_size" else 1
    if kind == "int" and type(value) is int and value >= least:
        return value
    if kind == "bool" and type(value) is bool:
        return value
    if kind == "float" and type(value) in (int, float) and 0 < value < float("inf"):
        return float(value)
    if kind == "str" and value in ("linear", "mlp"):
        return value
    allowed = {"int": f"an integer from {least} on", "bool": "true or false", "str": "'linear' or 'mlp'"}
    raise CheckpointError(f"config.json has {name}={value!r}; allowed: {allowed.get(kind, 'a finite positive number')}")
