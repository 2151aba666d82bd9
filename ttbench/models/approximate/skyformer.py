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
from ttbench.models.base import Description, WorkTerm
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


_SECTION = """
A Transformer whose attention weighs by a Gaussian kernel of queries and keys instead of a softmax of their
products (Chen et al. 2021, arXiv 2111.00035). A token attends to what is near its query, and a query that is
near nothing reads nothing. The paper's Skyformer is an encoder for classification that approximates this kernel
by landmarks; no language models of it are published. Here the kernel itself is computed, exactly and causally,
and the approximation is a second form that is not causal.

    C[t, s] = exp(-|q_t - k_s|² / (2 sqrt(D)))                     q, k rotated by position
    o_t        = W_o sum_{s <= t} C[t, s] v_s / Z_t        Z: none 1 | mean t + 1 | rows sum_{s <= t} C[t, s]
    nystrom:  o = W_o C[Q, L] (C[L, L] + ridge)^-1 C[L, K] V / Z
    L: M landmarks among all 2 T queries and keys; Z: 1 or T

State: $state a token, as the Transformer's; `nystrom` has none. Cost: $projections for projections and $reading
for each token that is seen, its own among them; `nystrom` 8 W² + 8 M W, and 8 H M³ once for a text and step of
the inverse, which `cost` does not count. Without gradients memory does not grow with T². Faithful: the kernel
and its bandwidth (equation 3), `normalisation: none`; in `nystrom` the completion of the kernel matrix to that
of [Q; K] (equations 4 to 6), the normalised matrix that is inverted by matrix products (section 4.4), and the
authors' ridge of 0.1 and 6 steps as defaults. Our reading: causal; rotary positions; `mean` and `rows`. Without
normalisation the sum grows with the context (bounded by T values, not by one), and its size at 32k tokens is
one that no shorter training has shown. With `rows` the query's length cancels and what is left is softmax
attention over (q . k - |k|² / 2) / sqrt(D); the zoo's recipe takes it. Landmarks are drawn once from a seed in
the config (the authors' code draws anew at each call), and the iteration starts from each matrix alone, so that
a text does not depend on its neighbours in a batch. Approximate row sums can be zero or negative, so `nystrom`
with `rows` is refused.

**Not causal**: with `approximation: nystrom` every output has seen the whole text. Causal tasks answer
`unsupported` with that reason, `generate` and `train` refuse it, and `ttbench check` says NOT CAUSAL and
measures the leak.
"""


class Skyformer(Stack):
    """Language model over Gaussian-kernel attention. See the module docstring."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="none",
        state="2 W",
        work={"projections": WorkTerm(formula="8 W²"), "reading": WorkTerm(formula="4 W", times="T")},
    )
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
