"""Skyformer: a Transformer whose attention weighs by a Gaussian kernel of queries and keys, without softmax.

    o = W_o sum_s exp(-|q[t] - k[s]|^2 / (2 sqrt(D))) v[s] / Z[t]        q, k rotated; Z: `normalisation`

Source: Chen et al. 2021, arXiv 2111.00035; code at github.com/pkuzengqi/Skyformer, 1a677cb. Theirs is an encoder for
classification; there are no published language models. So ours has two forms, by `approximation` of the config:

    none       the kernel itself, over the tokens up to t: causal, exact, and of the cost of softmax attention
    nystrom    the paper's low-rank form, for which the method is named. Its landmarks are drawn from all queries and
               keys of the text, so every output has seen the whole text: it is declared not strictly causal, has no
               state and no step, is refused by whatever scores or writes the next token, and reads whole texts only

Normalisation: the paper needs none (Z = 1), since the kernel is at most 1, and its texts have at most 4,096 tokens. A
causal sum over 32k tokens may reach 32k times a value, and its size tells how many tokens are before it, which no
shorter training has shown. `mean` (Z = t + 1) and `rows` (Z = the row's sum) keep it within the largest value at any
context. With `mean` a query far from all keys still reads nothing, as in the paper, but what one token says fades with
the context; with `rows` it does not, so that is what the zoo's recipe takes. See `kernels.gaussian_attention`.

Departures: rotary positions, RMSNorm and SwiGLU in place of learned positions, LayerNorm and GELU, as in every other
model here; no biases. Landmarks are drawn without repetition (the paper: with), by `landmark_seed`, the same for all
rows, heads and layers of a text and whenever it is read; the authors' code draws anew at every call, in evaluation too.
That code scales by 32^(-1/4) whatever the width of a head; D^(-1/4) here, as the paper.

State per layer, elements: 2 W a token (keys and values); none with `nystrom`.
Letters: B batch, T tokens, S keys, H heads, D head dim, W width, M landmarks, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.declare import ColumnDeclaration, text, whole
from ttbench.errors import CheckpointError
from ttbench.kernels import gaussian_attention, nystrom_attention
from ttbench.kernels.rotary import rotate_half
from ttbench.models import kv_cache as cache
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, own_dialect
from ttbench.models.stack_config import HeadedConfig, require_at_least, require_one_of, require_positive, require_seed

APPROXIMATIONS = ("none", "nystrom")


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyformerConfig(HeadedConfig):
    """Sizes and choices; all of them are in the config digest of every row."""

    model_type: ClassVar[str] = "skyformer"
    normalisation: str  # none (the paper's) | mean | rows
    approximation: str = "none"  # none: exact and causal | nystrom: not causal
    num_landmarks: int = 0  # nystrom: M at most, of the 2 T queries and keys; the paper's experiments: 128
    landmark_seed: int = 0  # nystrom
    ridge: float = 0.1  # nystrom: added to the diagonal before the inverse; the authors' code: 0.1
    inverse_steps: int = 6  # nystrom: iterations of the inverse; the authors' code: 6
    rope_theta: float = 10000.0

    def check(self) -> None:
        HeadedConfig.check(self)
        require_one_of("normalisation", self.normalisation, gaussian_attention.NORMALISATIONS)
        require_one_of("approximation", self.approximation, APPROXIMATIONS)
        require_positive("rope_theta", self.rope_theta)
        if self.approximation == "none":
            if self.num_landmarks:
                raise CheckpointError(
                    f"config.json has num_landmarks={self.num_landmarks} with approximation='none', which has no "
                    "landmarks; state approximation='nystrom' (not causal), or leave num_landmarks out"
                )
            return
        require_at_least("num_landmarks", self.num_landmarks, 1)
        require_seed("landmark_seed", self.landmark_seed)
        require_at_least("inverse_steps", self.inverse_steps, 1)
        require_positive("ridge", self.ridge)
        if self.normalisation == "rows":
            raise CheckpointError(
                "config.json has normalisation='rows' with approximation='nystrom'; approximate row sums can be zero "
                "or negative, so they are not divided by; use 'none' (the paper's) or 'mean'"
            )


def draw_landmarks(num_tokens: int, config: SkyformerConfig) -> Int[Tensor, "M"]:
    """Places of the landmarks among the 2 T points [Q; K]: uniform, without repetition, the same at every call."""
    draw = torch.Generator().manual_seed(config.landmark_seed)
    return torch.randperm(2 * num_tokens, generator=draw)[: config.num_landmarks]


class GaussianMixer(Mixer):
    """Gaussian-kernel attention of several heads."""

    def __init__(self, config: SkyformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    @classmethod
    def slots(cls, config: SkyformerConfig) -> dict[str, Slot]:
        if config.approximation == "nystrom":
            return {}
        return cache.slots(num_heads=config.num_attention_heads, head_dim=config.head_dim)

    @classmethod
    def work(cls, config: SkyformerConfig) -> StackWork:
        """Matrix products only. With `nystrom` also without the inverse, 8 H M^3 a step, which is once for a text."""
        width = config.hidden_size
        projections = 4 * 2 * width * width
        if config.approximation == "nystrom":
            return StackWork(flops=projections + 4 * 2 * config.num_landmarks * width)
        return StackWork(flops=projections + 4 * width, flops_per_context_token=4 * width)

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        q, k, v = self._project(x, at)
        if self.config.approximation == "nystrom":
            return self._merge(self._approximate(q, k, v))
        kept = cache.extend(part, k, v, read=read)
        return self._merge(gaussian_attention.chunked(q, *kept, normalisation=self.config.normalisation))

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        q, k, v = self._project(x, at)
        kept = cache.extend_step(part, k, v, at=at, seen_len=variant)
        return self._merge(gaussian_attention.step(q, *kept, normalisation=self.config.normalisation))

    def variant(self, num_tokens: int) -> int:
        """Keys that the step reads."""
        return cache.variant(num_tokens)

    def _approximate(
        self, q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T D"]
    ) -> Float[Tensor, "B H T D"]:
        config, num_tokens = self.config, q.shape[2]
        landmarks = draw_landmarks(num_tokens, config).to(q.device)
        out = nystrom_attention.chunked(q, k, v, landmarks, ridge=config.ridge, steps=config.inverse_steps)
        return out / num_tokens if config.normalisation == "mean" else out

    def _project(
        self, x: Float[Tensor, "B T W"], at: At
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """Queries and keys, rotated, and values."""
        assert at.turns is not None
        heads = (self.config.num_attention_heads, -1)
        q, k, v = (proj(x).unflatten(-1, heads).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return rotate_half(q, *at.turns), rotate_half(k, *at.turns), v

    def _merge(self, out: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T W"]:
        return self.o_proj(out.transpose(1, 2).flatten(-2))


class Skyformer(Stack):
    """Language model over Gaussian-kernel attention. See the module docstring."""

    mixer_class = GaussianMixer
    config_class = SkyformerConfig
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {
        "normalisation": text("Skyformer: what sums of weights are divided by: none, mean or rows"),
        "approximation": text("Skyformer: none, or nystrom, which is not causal"),
        "num_landmarks": whole("Skyformer: landmarks of nystrom", "landmarks"),
    }
    TINY: ClassVar[Mapping[str, Any]] = {"normalisation": "none"}
    rotary = True
    DIALECTS = (own_dialect(SkyformerConfig, mixer_keys=tuple(f"{part}_proj.weight" for part in "qkvo")),)

    def __init__(self, config: SkyformerConfig) -> None:
        super().__init__(config)
        self.strictly_causal = config.approximation == "none"
