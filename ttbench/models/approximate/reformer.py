"""Reformer in a strictly causal, streaming form: OUR VARIANT, not the paper's sorted chunks.

    q = W_q x (+ conv)    v = W_v x (+ conv)    bucket_r = hash_r(q), r = 1 .. R    o = W_o LSHAttention(rotate(q), v)

Keys are the queries at length one; in each round a token attends to the last M tokens of its bucket
(`kernels.lsh_attention` has the formulas). The paper's form sorts a whole sequence and cuts the order into chunks: what
a token reads then depends on tokens after it, and no state of one size continues it. transformers' own Reformer, which
reads published weights, runs through `--engine hf`.

Source: Kitaev et al. 2020, arXiv 2001.04451; google/trax, layers/research/efficient_attention.py (scale of q . k,
shared q and k). Faithful: shared queries and keys, angular hashing by random rotations that are drawn per head and
round and never trained, several rounds by their log-sum-exp with keys of several rounds counted once, no attention to
oneself where there is anything else. Ours:

- The last M of a bucket rather than a chunk of the sorted sequence and the one before; N buckets at any length.
- Positions: rotary, on queries and keys after hashing. The paper adds axial position embeddings to the input, which end
  at a largest length. Hashed before rotation, equal content meets in one bucket at any distance, and the position of
  two tokens cannot move their buckets; how far apart they are still counts in the score.
- All of a bucket may be far away, and published models put layers of local attention between those of LSH. Here a short
  convolution of q and v may do it (`conv_kernel`, 0 by default: none), with which a hash can tell n-grams apart.
- Reversible residuals save memory in training and nothing at inference; they are not built. Nor is the feed-forward in
  chunks, which changes no number; the feed-forward is SwiGLU, as in every stack here.

State per layer, elements: H R N M (2 D floats + R int64) + H R N int64, constant in the context, and K - 1 inputs of
the convolutions. Rotations are a buffer that checkpoints hold: `hash_seed` says how they were drawn.
Letters: B batch, T tokens, H heads, D head dim, W width, R rounds, N buckets, M keys kept of a bucket, K conv kernel.
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
from ttbench.kernels import lsh_attention
from ttbench.kernels.lsh_attention import LSHState
from ttbench.kernels.rotary import rotate_half
from ttbench.models.base import Description, WorkTerm
from ttbench.models.layers import ShortConv, convolve
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, own_dialect
from ttbench.models.stack_config import HeadedConfig, require_at_least, require_one_of, require_positive, require_seed
from ttbench.types import Scalar

FORMS = ("streaming",)
MOST_BUCKETS = 1 << 20  # so that codes of a bucket's places fit 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class ReformerConfig(HeadedConfig):
    """Not transformers' `reformer`: that is another model."""

    model_type: ClassVar[str] = "reformer-streaming"
    lsh_form: str  # streaming: our variant, a token reads its bucket's last keys
    num_hashes: int  # rounds
    num_buckets: int  # of a round; even, or 1: no hashing
    bucket_keys: int  # keys kept of each bucket, and read by a token of it
    hash_seed: int  # of the rotations, when a model is made
    conv_kernel: int = 0  # tokens; of convolutions added to q and v; 0: none
    rope_theta: float = 10000.0

    def check(self) -> None:
        HeadedConfig.check(self)
        require_one_of("lsh_form", self.lsh_form, FORMS)
        for name in ("num_hashes", "num_buckets", "bucket_keys"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("conv_kernel", self.conv_kernel, 0)
        require_seed("hash_seed", self.hash_seed)
        require_positive("rope_theta", self.rope_theta)
        if (self.num_buckets != 1 and self.num_buckets % 2) or self.num_buckets > MOST_BUCKETS:
            raise CheckpointError(
                f"config.json has num_buckets={self.num_buckets}; a rotation has two buckets for each direction, so it "
                f"must be even and at most {MOST_BUCKETS}, or 1 for no hashing"
            )


class ReformerMixer(Mixer):
    """See the module docstring."""

    rotations: Float[Tensor, "H R D P"]

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.q_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.convs = nn.ModuleDict()
        if config.conv_kernel:
            self.convs.update({part: ShortConv(width, config.conv_kernel, bias=False) for part in "qv"})
        shape = (config.num_attention_heads, config.num_hashes, config.head_dim, config.num_buckets // 2)
        self.register_buffer("rotations", torch.empty(shape))

    @classmethod
    def slots(cls, config: ReformerConfig) -> dict[str, Slot]:
        shapes = LSHState.shapes(
            num_heads=config.num_attention_heads,
            num_rounds=config.num_hashes,
            num_buckets=config.num_buckets,
            num_kept=config.bucket_keys,
            dim=config.head_dim,
        )
        rings = {name: Slot(shape=shape, whole=name in LSHState.WHOLE) for name, shape in shapes.items()}
        return {**rings, "tail": Slot(shape=(max(config.conv_kernel - 1, 0), 2 * config.hidden_size))}

    @classmethod
    def work(cls, config: ReformerConfig) -> StackWork:
        """Full rings: a step reads their slots whether they hold something or not."""
        width, dim, rounds = config.hidden_size, config.head_dim, config.num_hashes
        head = lsh_attention.flops(dim, num_rounds=rounds, num_kept=config.bucket_keys)
        head += lsh_attention.hash_flops(dim, num_rounds=rounds, num_buckets=config.num_buckets)
        return StackWork(
            flops=2 * 3 * width**2 + 2 * 2 * config.conv_kernel * width + config.num_attention_heads * head
        )

    def project(
        self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Int[Tensor, "B H R T"]]:
        """Rotated queries and values, as the op takes them, and buckets; the next tail is written to `part`."""
        q, v = self.q_proj(x), self.v_proj(x)
        if len(self.convs):
            convs = [self.convs[name] for name in "qv"]
            q, v = convolve((q, v), convs, None if part is None else part["tail"], residual=True)
        wide = torch.promote_types(self.q_proj.weight.dtype, torch.float32)
        q, v = (y.to(wide).unflatten(-1, (self.config.num_attention_heads, -1)).transpose(1, 2) for y in (q, v))
        buckets = lsh_attention.hash_vectors(q, self.rotations)
        assert at.turns is not None
        return rotate_half(q, *(turn.to(wide) for turn in at.turns)), v, buckets

    def merge(self, out: Float[Tensor, "B H T D"], like: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        return self.o_proj(out.transpose(1, 2).flatten(-2).to(like.dtype))

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        q, v, buckets = self.project(x, part, at=at)
        if part is None:
            sizes = {"num_buckets": self.config.num_buckets, "num_kept": self.config.bucket_keys}
            return self.merge(lsh_attention.whole(q, v, buckets, **sizes), x)
        rings = LSHState.of(part)
        out, final = lsh_attention.chunked(q, v, buckets, rings)
        for name in LSHState.NAMES:
            part[name].copy_(getattr(final, name))
        return self.merge(out, x)

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        return self.merge(lsh_attention.step(*self.project(x, part, at=at), LSHState.of(part)), x)

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        return 0  # the position is on the device, in the rotations and in the counts of the buckets


_SECTION = """
Reformer's LSH attention (Kitaev et al. 2020, arXiv 2001.04451) in a strictly causal, streaming form. **It is
our variant, not the paper's sorted chunks**, and says so in `lsh_form` of its config and in `choice_lsh_form`
of its rows. Queries and keys are one projection; random rotations hash it into N buckets, in R rounds; a token
attends to the last m tokens of its bucket in each round, and to itself only where no round has another. The
paper sorts the whole sequence by bucket, cuts it into chunks, and lets each chunk see itself and the one
before: what a token reads then depends on how many later tokens fell into other buckets. transformers' own
Reformer, which reads published weights, does that and runs through `--engine hf --unchecked`, flagged with its
leak (0.24 of the greatest logit on our tiny model).

    q = W_q x (+ conv)        v = W_v x (+ conv)        h_r(q) = argmax([q R_r, -q R_r])        q' = rotate(q)
    k = q' / |q'|
    P_r(i) = the last m tokens j < i with h_r(q_j) = h_r(q_i)
    N(i, j) = number of rounds whose P_r(i) holds j
    z_r(i) = log sum_{j in P_r(i)} exp(q'_i . k_j - log N(i, j))       o_r(i) = the softmax mean of v_j
    out_i = sum_r exp(z_r(i) - log sum_s exp z_s(i)) o_r(i)            then W_o

State: $state, of it $int64 int64, and K - 1 inputs of the convolutions; in the zoo's recipe 5.6 MB over all
layers, as much as the transformer's at about 1,090 tokens. Cost: $projections for projections, $hash for the
hash, $attention for attention; a whole text costs a stable sort by bucket and products of blocks in that order,
so work and memory grow with T R m, not T². Faithful: shared queries and keys, keys of length one; angular
hashing with rotations that are not trained; rounds joined by their log-sum-exp; a key that several rounds share
counted once; the rule for oneself; no gradient through the hash. Our reading: the last m of a bucket; N fixed
at any length; rotary positions after hashing instead of axial embeddings; an optional short convolution on q
and v where published models interleave local attention; SwiGLU. Not built: reversible residuals (at inference
they save nothing) and the feed-forward in chunks (it changes no number). Hashing jumps: in float64 steps,
pieces and whole agree to 1e-14, in float32 a vector on the border of two buckets can fall to either side when
rounding differs; in 1,000 tokens of the recipe's model none did.
"""


class Reformer(Stack):
    """Streaming LSH attention in every layer: our variant."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="of another form, `--engine hf`",
        state="H R N (2 m D + m R + 1)",
        int64="H R N (m R + 1)",
        work={
            "projections": WorkTerm(formula="6 W²"),
            "hash": WorkTerm(formula="R W N"),
            "attention": WorkTerm(formula="4 R m W"),
        },
        letters={"R": "num_hashes", "N": "num_buckets", "m": "bucket_keys"},
        kept_channels="2 W",
    )
    discrete_choices = True  # of buckets, which rounding can turn (ttbench.engines.probes)
    mixer_class = ReformerMixer
    config_class = ReformerConfig
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {
        "lsh_form": text(
            "Reformer: the form of its attention, in words; streaming is ours, sorted chunks are the paper's"
        ),
        "num_hashes": whole("Reformer: rounds of hashing", "rounds"),
        "num_buckets": whole("Reformer: buckets of a round", "buckets"),
        "bucket_keys": whole("Reformer: keys that are kept of a bucket", "keys"),
    }
    TINY: ClassVar[Mapping[str, Any]] = {
        "lsh_form": "streaming",
        "num_hashes": 2,
        "num_buckets": 4,
        "bucket_keys": 5,
        "hash_seed": 0,
        "conv_kernel": 4,
    }
    rotary = True
    DIALECTS = (
        own_dialect(
            ReformerConfig,
            mixer_keys=(
                *(f"{part}_proj.weight" for part in "qvo"),
                *(f"convs.{part}.weight" for part in "qv"),
                "rotations",
            ),
        ),
    )

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__(config)
        draw = torch.Generator("cpu").manual_seed(config.hash_seed)
        for mixer in (block.mixer for block in self.blocks()):
            mixer.rotations.normal_(generator=draw)

    @property
    def choices(self) -> dict[str, Scalar]:
        return {**super().choices, "lsh_form": "streaming variant, not the paper's sorted chunks"}
