"""The configurations of Mamba and Mamba-2 checkpoints, as transformers and as mamba_ssm write them.

Fields carry transformers' names. mamba_ssm is the authors' own code, whose config.json has no model_type: sizes at the
top (`d_model`, `n_layer`), the mixer's arguments in `ssm_cfg`, and a table of tokens that is rounded up to a multiple
of `pad_vocab_size_multiple`. Here `vocab_size` is what the table has: padding is part of the softmax in both.

Sources: state-spaces/mamba mamba_ssm/models/config_mamba.py and modules/mamba2.py @ 03a38fb; transformers 5.23.0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ttbench.errors import CheckpointError
from ttbench.models.known_fields import require_known_fields
from ttbench.models.stack_config import StackSizes

SSM_EPSILON = 1e-5  # of every norm in mamba_ssm, which has no field for it

# ours -> mamba_ssm's, at the top and in ssm_cfg
_SSM_TOP = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layer",
    "residual_in_fp32": "residual_in_fp32",
    "tie_word_embeddings": "tie_embeddings",
}
_SSM_MIXER = {
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "expand": "expand",
    "use_bias": "bias",
    "use_conv_bias": "conv_bias",
}
_SSM_MIXER_1 = {**_SSM_MIXER, "time_step_rank": "dt_rank"}
_SSM_MIXER_2 = {
    **_SSM_MIXER,
    "head_dim": "headdim",
    "n_groups": "ngroups",
    "norm_before_gate": "norm_before_gate",
    "time_step_limit": "dt_limit",
}
# Start weights and speed: no effect on what a checkpoint computes.
_SSM_NO_EFFECT = ("dt_min", "dt_max", "dt_init_floor")
_SSM_NO_EFFECT_1 = (*_SSM_NO_EFFECT, "dt_init", "dt_scale", "use_fast_path")
_SSM_NO_EFFECT_2 = (*_SSM_NO_EFFECT, "conv_init", "A_init_range", "chunk_size", "use_mem_eff_path")
# Of transformers' config.json, beside our fields: start weights, speed, and the authors' own names for sizes.
_FREE_TRANSFORMERS = (
    *("rescale_prenorm_residual", "time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min"),
    *("time_step_scale", "time_step_rank", "use_associative_scan", "use_mambapy", "chunk_size", "fused_add_norm"),
    *("d_inner", "d_model", "n_layer", "ssm_cfg", "pad_vocab_size_multiple"),
)
_FREE_SSM = ("ssm_cfg", "attn_cfg", "pad_vocab_size_multiple", "fused_add_norm")
# Variants that are not built: the one value that is.
_ONLY_TRANSFORMERS = {"hidden_act": "silu", "rms_norm": True}
_ONLY_TOP = {"rms_norm": True, "d_intermediate": 0, "attn_layer_idx": []}
_ONLY_MIXER_2 = {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True}


class MambaSizes(StackSizes):
    """What both have: an inner width, no MLP, and a norm under transformers' name."""

    __slots__ = ()
    expand: Any
    hidden_size: Any
    layer_norm_epsilon: Any

    @property
    def inner_dim(self) -> int:
        """Channels E of the mixer."""
        return self.expand * self.hidden_size

    @property
    def mlp_size(self) -> int:
        """There is no MLP."""
        return 0

    @property
    def norm_eps(self) -> float:
        return self.layer_norm_epsilon


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaConfig(MambaSizes):
    """Sizes and switches of Mamba. `time_step_rank` "auto" becomes ceil(hidden_size / 16)."""

    vocab_size: int  # tokens, padding included
    hidden_size: int
    num_hidden_layers: int
    time_step_rank: int
    state_size: int = 16
    expand: int = 2
    conv_kernel: int = 4  # tokens
    use_bias: bool = False  # of in_proj and out_proj
    use_conv_bias: bool = True
    layer_norm_epsilon: float = 1e-5
    residual_in_fp32: bool = True
    tie_word_embeddings: bool = True
    written_by: str = "transformers"  # or mamba_ssm: whose config.json and names of weights

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises CheckpointError when a size is impossible or fields contradict each other."""
        _check(self)

    @classmethod
    def from_transformers(cls, data: Mapping[str, Any]) -> Self:
        """Read a config.json with model_type mamba. Raises CheckpointError as `_check` and `_given` do."""
        found = _given(cls, data)
        if found.get("time_step_rank", "auto") == "auto":
            found["time_step_rank"] = math.ceil(found["hidden_size"] / 16)
        return _same_width(cls(**found), data)

    @classmethod
    def from_mamba_ssm(cls, data: Mapping[str, Any]) -> Self:
        """Read mamba_ssm's config.json. Raises CheckpointError as `_check` and `_given_by_ssm` do."""
        found = _given_by_ssm(data, names=_SSM_MIXER_1, no_effect=_SSM_NO_EFFECT_1, only={})
        if found.get("time_step_rank", "auto") == "auto":
            found["time_step_rank"] = math.ceil(found["hidden_size"] / 16)
        return cls(**found, written_by="mamba_ssm")

    def to_json(self) -> dict[str, Any]:
        """config.json as transformers or mamba_ssm reads it."""
        if self.written_by == "mamba_ssm":
            return _ssm_json(self, "Mamba1", _SSM_MIXER_1)
        return _transformers_json(self, "MambaForCausalLM", "mamba")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Config(MambaSizes):
    """Sizes and switches of Mamba-2; defaults are transformers', which are Codestral Mamba's."""

    vocab_size: int  # tokens, padding included
    hidden_size: int
    num_hidden_layers: int
    num_heads: int = 128
    head_dim: int = 64
    n_groups: int = 8
    state_size: int = 128
    expand: int = 2
    conv_kernel: int = 4  # tokens
    use_bias: bool = False  # of in_proj and out_proj
    use_conv_bias: bool = True
    layer_norm_epsilon: float = 1e-5
    norm_before_gate: bool = False  # mamba_ssm only: transformers always gates first
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    residual_in_fp32: bool = True
    tie_word_embeddings: bool = False
    written_by: str = "transformers"  # or mamba_ssm: whose config.json and names of weights

    @property
    def conv_dim(self) -> int:
        """Channels of x, B and C together."""
        return self.inner_dim + 2 * self.n_groups * self.state_size

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises CheckpointError when a size is impossible or fields contradict each other."""
        _check(self)
        if self.num_heads * self.head_dim != self.inner_dim or self.num_heads % self.n_groups:
            raise CheckpointError(
                f"config.json has hidden_size={self.hidden_size}, expand={self.expand}, num_heads={self.num_heads}, "
                f"head_dim={self.head_dim}, n_groups={self.n_groups}; num_heads * head_dim must equal "
                "expand * hidden_size, and the groups must divide the heads"
            )
        low, high = self.time_step_limit
        if not 0 <= low <= high:
            raise CheckpointError(f"config.json has time_step_limit={self.time_step_limit}; allowed: 0 <= low <= high")

    @classmethod
    def from_transformers(cls, data: Mapping[str, Any]) -> Self:
        """Read a config.json with model_type mamba2. Raises CheckpointError as `_check` and `_given` do.

        `norm_before_gate`, which older files carry and Codestral Mamba's sets, is dropped: no version of transformers
        normalises first in inference, whatever it says.
        """
        found = _given(cls, {key: value for key, value in data.items() if key != "norm_before_gate"})
        if "time_step_limit" in found:
            found["time_step_limit"] = _limit(found["time_step_limit"])
        return _same_width(cls(**found), data)

    @classmethod
    def from_mamba_ssm(cls, data: Mapping[str, Any]) -> Self:
        """Read mamba_ssm's config.json. Raises CheckpointError as `_check` and `_given_by_ssm` do."""
        found = _given_by_ssm(data, names=_SSM_MIXER_2, no_effect=_SSM_NO_EFFECT_2, only=_ONLY_MIXER_2)
        found = {"state_size": 128, "head_dim": 64, "n_groups": 1, "tie_word_embeddings": True, "expand": 2, **found}
        found["num_heads"], rest = divmod(found["expand"] * found["hidden_size"], found["head_dim"])
        if rest:
            raise CheckpointError(f"config.json has headdim={found['head_dim']}; it must divide expand * d_model")
        if "time_step_limit" in found:
            found["time_step_limit"] = _limit(found["time_step_limit"])
        return cls(**found, written_by="mamba_ssm")

    def to_json(self) -> dict[str, Any]:
        """config.json as transformers or mamba_ssm reads it."""
        if self.written_by == "mamba_ssm":
            return _ssm_json(self, "Mamba2", _SSM_MIXER_2)
        data = _transformers_json(self, "Mamba2ForCausalLM", "mamba2")
        del data["norm_before_gate"]
        return data


def _given(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that transformers' config.json states. Raises CheckpointError on a missing size or a variant not built."""
    missing = [key for key in ("vocab_size", "hidden_size", "num_hidden_layers") if data.get(key) is None]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}; a Mamba config must state them")
    _refuse(data, _ONLY_TRANSFORMERS)
    known = {field.name for field in dataclasses.fields(cls)} - {"written_by"}
    read = (*known, *_ONLY_TRANSFORMERS, *_FREE_TRANSFORMERS, "intermediate_size")
    require_known_fields(data, read=read, model=str(data.get("model_type")))
    return {key: value for key, value in data.items() if key in known and value is not None}


def _given_by_ssm(
    data: Mapping[str, Any], *, names: Mapping[str, str], no_effect: tuple[str, ...], only: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields that mamba_ssm's config.json states, under our names; the vocabulary is padded.

    Raises CheckpointError on a missing size, a variant that is not built, or an unknown field in ssm_cfg.
    """
    missing = [_SSM_TOP[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers") if _SSM_TOP[key] not in data]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}; a Mamba config must state them")
    require_known_fields(data, read=(*_SSM_TOP.values(), *_ONLY_TOP, *_FREE_SSM), model="mamba_ssm")
    mixer = data.get("ssm_cfg") or {}
    unknown = sorted(mixer.keys() - {"layer", *names.values(), *no_effect, *only})
    if unknown:
        raise CheckpointError(
            f"config.json has ssm_cfg with {', '.join(unknown)}, which is not known; reading the weights without it "
            "could give wrong numbers"
        )
    _refuse(data, _ONLY_TOP)
    _refuse(mixer, only)
    found = {ours: data[theirs] for ours, theirs in _SSM_TOP.items() if theirs in data}
    found |= {ours: mixer[theirs] for ours, theirs in names.items() if theirs in mixer}
    multiple = data.get("pad_vocab_size_multiple", 8)
    for key, value in (("pad_vocab_size_multiple", multiple), ("vocab_size", found["vocab_size"])):
        if type(value) is not int or value < 1:
            raise CheckpointError(f"config.json has {key}={value!r}; allowed: an integer from 1 on")
    found["vocab_size"] = -(-found["vocab_size"] // multiple) * multiple
    return found


def _refuse(data: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    for key, allowed in only.items():
        if data.get(key, allowed) != allowed:
            raise CheckpointError(f"config.json has {key}={data[key]!r}; only {allowed!r} is built")


def _limit(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(x) in (int, float) for x in value):
        raise CheckpointError(f"config.json has a time step limit of {value!r}; allowed: two numbers, low and high")
    return float(value[0]), float(value[1])


def _same_width(config: Any, data: Mapping[str, Any]) -> Any:
    """`config`, unless the file states an inner width that is not expand * hidden_size, which transformers ignores."""
    stated = data.get("intermediate_size", config.inner_dim)
    if stated != config.inner_dim:
        raise CheckpointError(
            f"config.json has intermediate_size={stated}; expand * hidden_size is {config.inner_dim}, and "
            "nothing else is built"
        )
    return config


def _check(config: Any) -> None:
    """Every field has its type and range. Raises CheckpointError."""
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), str(field.type)
        fits = {
            "int": type(value) is int and value >= 1,
            "bool": type(value) is bool,
            "float": type(value) in (int, float) and 0 < value < math.inf,
            "str": value in ("transformers", "mamba_ssm"),
        }.get(kind, True)
        if not fits:
            allowed = {"int": "an integer from 1 on", "bool": "true or false", "float": "a finite positive number"}
            theirs = {**_SSM_TOP, **_SSM_MIXER_1, **_SSM_MIXER_2} if config.written_by == "mamba_ssm" else {}
            raise CheckpointError(
                f"config.json has {theirs.get(field.name, field.name)}={value!r}; "
                f"allowed: {allowed.get(kind, 'transformers or mamba_ssm')}"
            )
    if config.written_by == "mamba_ssm" and config.layer_norm_epsilon != SSM_EPSILON:
        raise CheckpointError(f"mamba_ssm has layer_norm_epsilon {SSM_EPSILON} only; got {config.layer_norm_epsilon}")
    if config.written_by == "transformers" and getattr(config, "norm_before_gate", False):
        raise CheckpointError("transformers has no norm_before_gate; write the checkpoint as mamba_ssm")


def _transformers_json(config: Any, name: str, model_type: str) -> dict[str, Any]:
    data = dataclasses.asdict(config)
    del data["written_by"]
    data["intermediate_size"] = config.inner_dim
    return {"architectures": [name], "model_type": model_type, "hidden_act": "silu", **data}


def _ssm_json(config: Any, layer: str, names: Mapping[str, str]) -> dict[str, Any]:
    mixer = {theirs: getattr(config, ours) for ours, theirs in names.items()}
    return {
        **{theirs: getattr(config, ours) for ours, theirs in _SSM_TOP.items()},
        "ssm_cfg": {"layer": layer, **mixer},
        "rms_norm": True,
        "fused_add_norm": True,
        # the table is padded already
        "pad_vocab_size_multiple": 1,
    }
