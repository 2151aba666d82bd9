"""What the mixers of Mamba and Mamba-2 share: a scan's state and a convolution's tail, dialects, start values.

Their stacks have no MLP: x = x + mixer(norm(x)), then norm, then a tied or untied head. The stream is float32 at least
when `residual_in_fp32`; every norm reads it in the model's own dtype, as both sources do. State per layer: what the
mixer says, in float32 at least, and the last K - 1 inputs of its convolution.

Letters: B batch, T tokens, M model width, C channels of the convolution, S = K - 1 tokens.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.models.base import Dialect
from ttbench.models.layers import ShortConv
from ttbench.models.stack import At, Mixer, Part, Slot, stack_weights


class ScanMixer(Mixer):
    """A convolution, then a scan whose state is zeros before the first token. Subclasses say what both are made of."""

    conv1d: ShortConv
    out_proj: nn.Linear

    @classmethod
    @abstractmethod
    def shapes(cls, config: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Of the scan's state and of the convolution's tail, of one sequence."""

    @abstractmethod
    def scan(
        self, x: Float[Tensor, "B T M"], tail: Float[Tensor, "B S C"] | None, state: Tensor | None
    ) -> tuple[Float[Tensor, "B T M"], Tensor]:
        """Output and the next state of the scan; `tail` is advanced IN PLACE, `state` is not changed."""

    @abstractmethod
    def scan_step(self, x: Float[Tensor, "B 1 M"], tail: Float[Tensor, "B S C"], state: Tensor) -> Tensor:
        """Output of one token; both `tail` and `state` are advanced IN PLACE."""

    def to_stream(self) -> nn.Linear:
        return self.out_proj

    @classmethod
    def slots(cls, config: Any) -> dict[str, Slot]:
        state_shape, tail_shape = cls.shapes(config)
        return {"ssm": Slot(shape=state_shape, wide=True), "tail": Slot(shape=tail_shape)}

    def forward(self, x: Float[Tensor, "B T M"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T M"]:
        if part is None:
            return self.scan(x, None, None)[0]
        out, final = self.scan(x, part["tail"], part["ssm"])
        part["ssm"].copy_(final)
        return out

    def step(self, x: Float[Tensor, "B 1 M"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 M"]:
        return self.scan_step(x, part["tail"], part["ssm"])

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        return 0  # the position is nowhere in it


def dialects(
    name: str, *, layer: str, config: type[Any], mixer_keys: Iterable[str], default_layer: bool
) -> tuple[Dialect, Dialect]:
    """transformers' naming and mamba_ssm's, which differ in the embedding's name and in config.json.

    Args:
        name: transformers' model_type.
        layer: what mamba_ssm calls it in ssm_cfg.
        mixer_keys: names below `mixer.`, the same in both and in ours.
        default_layer: whether an ssm_cfg without `layer` means this one.
    """

    def weights(embedding: str) -> Mapping[str, str | None]:
        names = {f"mixer.{key}": f"mixer.{key}" for key in mixer_keys}
        return stack_weights(
            embed=f"backbone.{embedding}.weight",
            norm="backbone.norm_f.weight",
            layer="backbone.layers.{i}",
            names={"norm.weight": "mixer_norm.weight", **names},
        )

    def of_mamba_ssm(data: Mapping[str, Any]) -> bool:
        mixer = data.get("ssm_cfg") or {}
        if "model_type" in data or "d_model" not in data or not isinstance(mixer, Mapping):
            return False
        return mixer.get("layer", layer if default_layer else None) == layer

    of_transformers: Callable[[Mapping[str, Any]], bool] = lambda data: data.get("model_type") == name  # noqa: E731
    return (
        Dialect(
            name=f"{name}-hf", matches=of_transformers, config=config.from_transformers, weights=weights("embeddings")
        ),
        Dialect(name=f"{name}-ssm", matches=of_mamba_ssm, config=config.from_mamba_ssm, weights=weights("embedding")),
    )


@torch.no_grad()
def start_time_steps_(bias: Float[Tensor, "C"], *, low: float = 1e-3, high: float = 0.1, floor: float = 1e-4) -> None:
    """Write the biases whose softplus is log-uniform between `low` and `high`. Source: both papers' code."""
    dt = torch.empty_like(bias).uniform_(math.log(low), math.log(high))
    dt = dt.exp().clamp_min(floor)
    # the inverse of softplus
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))
