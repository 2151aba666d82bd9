"""Performer: a Transformer whose softmax is estimated by random features, so that its past is a sum of fixed size.

    o = W_o favor(rotary(q), rotary(k), v)        q, k, v = x W        favor: `kernels.favor`, causal FAVOR+

Source: Choromanski et al., arXiv 2009.14794. The orthogonal features of a layer are shared by its heads, drawn from
`feature_seed` when the model is built, and saved with it. Of `num_features`, D ln D is customary.

Ours: RMSNorm, SwiGLU and rotary positions as in the transformer here (performer-pytorch, too, rotates q and k before
their features). Not built: drawing new features while training, so that what was trained is what is measured;
features of other kernels than softmax's; the published code's maximum over all positions, which `kernels.favor`
replaces.

With independent features the estimate's relative variance is (exp(|q + k|^2 / sqrt(D)) - 1) / F (Lemma 2): far from
softmax attention where queries and keys are long. A model learns with the features that it has; weights of a
Transformer are not weights of a Performer.

State per layer, elements: H R (D + 2) with R = F, or F + 1 with `feature_eps`; float32 at least, constant in the
context. Letters: B batch, T tokens, H heads, D head dim, W width, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.declare import ColumnDeclaration, real, whole
from ttbench.errors import CheckpointError
from ttbench.kernels import favor
from ttbench.kernels.favor import FavorState
from ttbench.kernels.rotary import rotate_half
from ttbench.models.base import Description, WorkTerm
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, own_dialect
from ttbench.models.stack_config import HeadedConfig, require_at_least, require_positive, require_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformerConfig(HeadedConfig):
    """Features are fixed by `feature_seed` when a model is new; a checkpoint brings its own."""

    model_type: ClassVar[str] = "performer"
    num_features: int  # F, of each head
    feature_seed: int
    feature_eps: float = 0.0  # floor of the features, relative to the stabilisers; published code: 1e-4
    rope_theta: float = 10000.0

    def check(self) -> None:
        HeadedConfig.check(self)
        require_at_least("num_features", self.num_features, 1)
        require_seed("feature_seed", self.feature_seed)
        require_positive("rope_theta", self.rope_theta)
        if not 0 <= self.feature_eps < 1:
            raise CheckpointError(f"config.json has feature_eps={self.feature_eps}; it must be at least 0 and below 1")


class PerformerMixer(Mixer):
    """Causal FAVOR+ attention with rotary positions."""

    features: Float[Tensor, "F D"]

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.register_buffer("features", torch.zeros(config.num_features, config.head_dim))

    @classmethod
    def slots(cls, config: PerformerConfig) -> dict[str, Slot]:
        heads, rows = config.num_attention_heads, favor.num_rows(config.num_features, eps=config.feature_eps)
        return {
            "sums": Slot(shape=(heads, rows, config.head_dim + 1), wide=True),
            "peak": Slot(shape=(heads, rows), wide=True),
        }

    @classmethod
    def work(cls, config: PerformerConfig) -> StackWork:
        inner = favor.flops(config.head_dim, config.num_features, eps=config.feature_eps)
        return StackWork(flops=2 * 4 * config.hidden_size**2 + config.num_attention_heads * inner)

    def start_state(self, part: Part) -> None:
        part["peak"].fill_(-math.inf)

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        q, k, v, features = self._inputs(x, at)
        eps, heads = self.config.feature_eps, self.config.num_attention_heads
        if part is None:
            before = FavorState.initial(features, batch_size=len(x), num_heads=heads, eps=eps)
        else:
            before = FavorState(sums=part["sums"], peak=part["peak"])
        out, after = favor.chunked(q, k, v, features, before, eps=eps)
        if part is not None:
            before.sums.copy_(after.sums)
            before.peak.copy_(after.peak)
        return self.o_proj(out.flatten(-2).to(x.dtype))

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        q, k, v, features = self._inputs(x, at)
        state = FavorState(sums=part["sums"], peak=part["peak"])
        out = favor.step(q[:, 0], k[:, 0], v[:, 0], features, state, eps=self.config.feature_eps)
        return self.o_proj(out.flatten(-2).to(x.dtype)[:, None])

    def _inputs(self, x: Float[Tensor, "B T W"], at: At) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [B, T, H, D] and the features, in float32 at least."""
        assert at.turns is not None
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (
            proj(x).unflatten(-1, (-1, self.config.head_dim)) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = (turn[:, None] for turn in at.turns)  # [T, 1, D / 2], over the heads
        q, k = (rotate_half(y, cos, sin) for y in (q, k))
        return q.to(wide), k.to(wide), v.to(wide), self.features.to(wide)


_SECTION = """
A Transformer whose softmax kernel is estimated by F positive random features, so that the past is a sum of
fixed size (FAVOR+, Choromanski et al., arXiv 2009.14794).

    q, k rotated by position        x' = x / D^(1/4)        phi_f(x) = exp(w_f . x' - |x'|² / 2) / sqrt(F)
    E[phi(q) . phi(k)] = exp(q . k / sqrt(D))
    out_t = sum_{s <= t} (phi(q_t) . phi(k_s)) v_s / sum_{s <= t} phi(q_t) . phi(k_s)

The w of each block of D are orthogonal, and each is normally distributed. State: $state: for each head, F rows
of sum phi(k) [v, 1] and F running maxima of exponents, in float32 at least (one more row with a floor). Cost:
$projections for projections, $features a head, whatever the context. Faithful: positive, orthogonal, unbiased
features and causal prefix sums; equal to performer-pytorch 1.1.4 without a floor, and with a floor
(`feature_eps`) equal to its last output on an input that ends at each token. Our reading: each feature's row is
kept relative to its own largest exponent so far and rescaled when a larger one comes, so scores of any size
stay finite and nothing looks ahead; the published code takes one maximum over all positions, which with its
default floor of 1e-4 lets later keys move earlier outputs. Its second floor, 1e-6 on the sums of keys, is not
built. The QR factor's signs are corrected; without that, as in performer-pytorch, the rows are not Gaussian and
the estimate is biased. Features are drawn once from `feature_seed` and saved with the weights; redrawing while
training is not built, so what was trained is what is measured. The estimate's relative variance with
independent features is (exp(|q + k|² / sqrt(D)) - 1) / F, so with long queries and keys it is far from softmax
attention: a Performer learns with its features and does not inherit a Transformer's weights.
"""


class Performer(Stack):
    """Language model of FAVOR+ layers."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="none of note",
        state="H F (D + 2)",
        work={
            "projections": WorkTerm(formula="8 W²"),
            "features": WorkTerm(formula="4 F D + 5 F (D + 1)", times="H"),
        },
        letters={"F": "num_features"},
    )
    mixer_class = PerformerMixer
    config_class = PerformerConfig
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {
        "num_features": whole("Performer: random features of each head", "features"),
        "feature_eps": real("Performer: floor of the features"),
    }
    TINY: ClassVar[Mapping[str, Any]] = {"num_features": 20, "feature_seed": 0}
    rotary = True
    DIALECTS = (
        own_dialect(
            PerformerConfig, mixer_keys=("features", *(f"{part}_proj.weight" for part in ("q", "k", "v", "o")))
        ),
    )

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__(config)
        draw = torch.Generator("cpu").manual_seed(config.feature_seed)
        for mixer in (block.mixer for block in self.blocks()):
            # a model without memory (meta device) has nothing to fill, and its sizes may be absurd
            if not mixer.features.is_meta:
                mixer.features.copy_(favor.draw_features(config.num_features, config.head_dim, draw=draw))
