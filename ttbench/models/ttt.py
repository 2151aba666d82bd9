"""TTT-Linear and TTT-MLP: language models whose hidden state is itself a model, trained on the sequence it reads.

    x = x + conv(norm(x))                      only with `pre_conv`
    x = x + o(gate(h) * post_norm(TTT(h)))     h = norm(x); the gate, gelu(g(h)), only with `use_gate`
    x = x + SwiGLU(norm(x))                    then norm, then a tied or untied head

TTT(h) splits q, k, v into heads, rotates q and k by their place in the mini-batch of C tokens (neighbouring pairs;
there is no position signal beyond it) and runs `kernels.ttt_linear` or `kernels.ttt_mlp` with the step sizes

    lam_s = ttt_base_lr * sigmoid(w_head . h_s + c_head) / D      tau_t = max(0, 1 / (t + 1) + learnable[t]), t < C

With `share_qk`, q and k are two causal convolutions of one projection. `use_gate`, `share_qk` and `pre_conv` are all
off in the authors' transformer backbone and all on in their Mamba backbone, the paper's default.

Source: Sun et al., arXiv 2407.04620; test-time-training/ttt-lm-pytorch ttt.py @ cd831db, whose names the weights keep.
Departures, none of which changes the numbers: the inner model is float32 at least; any split of the tokens is
allowed, where theirs refuses most; a mini-batch under way is kept as pairs of a key and a scaled gradient, not as
matrices of gradients; `pretraining_tp`, `use_cache` and `max_position_embeddings` have no effect.

State per layer, elements: TTT-Linear H (D D + D + 2 C D); TTT-MLP H (8 D D + 5 D + 10 C D); and K - 1 inputs of each
convolution. Letters: B batch, T tokens, H heads, D head dim, M model width, C mini-batch, K conv kernel, L layers,
P = D / 2 rotated pairs, S = K - 1 tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ttbench.declare import ColumnDeclaration, real, whole
from ttbench.errors import CheckpointError
from ttbench.kernels import ttt_linear, ttt_mlp
from ttbench.kernels.inner_inputs import ttt_inputs
from ttbench.kernels.norm import gated_norm
from ttbench.models.base import Description, Dialect, WorkTerm
from ttbench.models.layers import RMSNorm, ShortConv, convolve, rotary_angles
from ttbench.models.stack import At, Block, Mixer, Part, Slot, Stack, StackWork, Stream, stack_weights
from ttbench.models.ttt_config import TTTConfig


class TTTMixer(Mixer):
    """Projections, step sizes and learned initial weights of the inner model around one of the two ops."""

    op: ClassVar[ModuleType]
    inner_state: ClassVar[type[Any]]  # state of the op

    def __init__(self, config: TTTConfig) -> None:
        super().__init__()
        width, num_heads, dim = config.hidden_size, config.num_attention_heads, config.head_dim
        self.config = config
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = None if config.share_qk else nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.g_proj = nn.Linear(width, width, bias=False) if config.use_gate else None
        self.conv_q = ShortConv(width, config.conv_kernel, bias=True) if config.share_qk else None
        self.conv_k = ShortConv(width, config.conv_kernel, bias=True) if config.share_qk else None
        self.learnable_token_idx = nn.Parameter(torch.zeros(config.mini_batch_size))
        self.learnable_ttt_lr_weight = nn.Parameter(torch.empty(num_heads, 1, width).normal_(std=0.02))
        self.learnable_ttt_lr_bias = nn.Parameter(torch.zeros(num_heads, 1))
        self.ttt_norm_weight = nn.Parameter(torch.ones(num_heads, dim))
        self.ttt_norm_bias = nn.Parameter(torch.zeros(num_heads, dim))
        self.post_norm = nn.LayerNorm(width, eps=1e-6)
        for name, shape in self.inner_state.weight_shapes(dim).items():
            start = torch.zeros(num_heads, *shape)
            is_bias = shape[0] == 1
            self.register_parameter(name, nn.Parameter(start if is_bias else start.normal_(std=0.02)))

    @classmethod
    def slots(cls, config: TTTConfig) -> dict[str, Slot]:
        """The op's state, and the last inputs of the convolutions: before the layer, and those that make q and k."""
        shapes = cls.inner_state.shapes(
            batch_size=1,
            num_heads=config.num_attention_heads,
            dim=config.head_dim,
            mini_batch_size=config.mini_batch_size,
        )
        tail_len, width = config.conv_kernel - 1, config.hidden_size
        return {
            **{name: Slot(shape=shape[1:], wide=True) for name, shape in shapes.items()},
            "pre_tail": Slot(shape=(tail_len * config.pre_conv, width)),
            "qk_tail": Slot(shape=(tail_len * config.share_qk, width)),
        }

    @classmethod
    def work(cls, config: TTTConfig) -> StackWork:
        width, num_heads = config.hidden_size, config.num_attention_heads
        projections = 3 + (not config.share_qk) + config.use_gate
        num_convs = 2 * config.share_qk + config.pre_conv
        flops = 2 * width * (projections * width + num_heads) + 2 * num_convs * config.conv_kernel * width
        return StackWork(flops=flops + num_heads * cls.op.flops(config.head_dim, config.mini_batch_size))

    def weights(self) -> dict[str, Tensor]:
        """Learned initial weights of the inner model, in its dtype."""
        dtype = torch.promote_types(self.q_proj.weight.dtype, torch.float32)
        return {name: getattr(self, name).to(dtype) for name in self.inner_state.weight_shapes(self.config.head_dim)}

    def start_state(self, part: Part) -> None:
        for name, start in self.weights().items():
            part[name].copy_(start)

    def forward(self, x: Float[Tensor, "B T M"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T M"]:
        inputs, size = self.inputs(x, part, at.turns), self.config.mini_batch_size
        if part is None:
            before = self.inner_state.initial(**self.weights(), batch_size=len(x), mini_batch_size=size)
        else:
            before = self._inner(part)
        out, after = self._read(inputs, before, offset=read % size)
        if part is not None:
            for field in dataclasses.fields(self.inner_state):
                part[field.name].copy_(getattr(after, field.name))
        return self.output(out, x)

    def step(self, x: Float[Tensor, "B 1 M"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 M"]:
        inputs = self.inputs(x, part, at.turns)
        choice = {"place": at.place, "last": bool(variant), "operands": self.q_proj.weight.dtype}
        return self.output(self.op.step(*inputs, self._inner(part), **choice), x)

    def variant(self, num_tokens: int) -> int:
        """1 for the last token of a mini-batch, which writes the weights; else 0."""
        return int((num_tokens + 1) % self.config.mini_batch_size == 0)

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """Tokens of the current mini-batch before the chunk, of whole mini-batches; None of others."""
        size = self.config.mini_batch_size
        return num_tokens % size if chunk_len % size == 0 else None

    def _inner(self, part: Part) -> Any:
        """The op's state: views, not copies."""
        return self.inner_state(**{field.name: part[field.name] for field in dataclasses.fields(self.inner_state)})

    def _read(self, inputs: tuple[Tensor, ...], before: Any, *, offset: int) -> tuple[Tensor, Any]:
        """The op; in training, in parts that keep only their ends when `scan_checkpoint_group_size` is not 0."""
        num_parts, size = self.config.scan_checkpoint_group_size, self.config.mini_batch_size
        num_tokens = inputs[0].shape[1]
        if not num_parts or not torch.is_grad_enabled():
            return self.op.chunked(*inputs, before, offset=offset, operands=self.q_proj.weight.dtype)
        part_len = max(1, num_tokens // size // num_parts) * size
        outs = []
        for start in range(0, num_tokens, part_len):
            part = tuple(x[:, start : start + part_len] for x in inputs[:4])
            out, before = checkpoint(self.op.chunked, *part, *inputs[4:], before, offset=0, use_reentrant=False)
            outs.append(out)
        return torch.cat(outs, 1), before

    def inputs(
        self, h: Float[Tensor, "B T M"], part: Part | None, turns: Float[Tensor, "T 1 P 2"]
    ) -> tuple[Tensor, ...]:
        """All that the ops take before the state, in the inner model's dtype; the next tail is written to `part`."""
        q, v = self.q_proj(h), self.v_proj(h)
        if self.k_proj is not None:
            k = self.k_proj(h)
        else:
            assert self.conv_q is not None
            assert self.conv_k is not None
            k, q = convolve((q,), (self.conv_k, self.conv_q), None if part is None else part["qk_tail"])
        rate = F.linear(h, self.learnable_ttt_lr_weight[:, 0], self.learnable_ttt_lr_bias[:, 0])
        scale = self.config.ttt_base_lr / self.config.head_dim
        norm = self.ttt_norm_weight, self.ttt_norm_bias
        return ttt_inputs(q, k, v, rate, turns, self.learnable_token_idx, *norm, rate_scale=scale)

    def output(self, out: Float[Tensor, "B T H D"], h: Float[Tensor, "B T M"]) -> Float[Tensor, "B T M"]:
        norm, out = self.post_norm, out.flatten(-2)
        if self.g_proj is None:
            return self.o_proj(norm(out.to(h.dtype)))
        gated = gated_norm(
            out,
            self.g_proj(h),
            norm.weight,
            norm.bias,
            eps=norm.eps,
            num_groups=1,
            kind="layer",
            activation="gelu",
            gate_first=False,
            narrow=True,
        )
        return self.o_proj(gated)


class PreConv(nn.Module):
    """conv(norm(x))."""

    def __init__(self, config: TTTConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.conv = ShortConv(config.hidden_size, config.conv_kernel, bias=True)

    def forward(self, stream: Stream, tail: Float[Tensor, "B S M"] | None) -> Stream:
        """`tail` is advanced IN PLACE."""
        x, h = self.norm.read(*stream)
        return x, self.conv(h, tail)


class TTTBlock(Block):
    """With `pre_conv`, a convolution before the TTT layer, added to the stream."""

    def __init__(self, mixer: Mixer, config: TTTConfig) -> None:
        super().__init__(mixer, config)
        self.conv = PreConv(config) if config.pre_conv else None

    def before(self, stream: Stream, part: Part | None) -> Stream:
        return stream if self.conv is None else self.conv(stream, None if part is None else part["pre_tail"])


def _dialect(kind: str, inner: type[Any]) -> Dialect:
    """The authors' names."""
    mixer = [f"{part}_proj.weight" for part in "qkvog"]
    mixer += [f"conv_{part}.{name}" for part in "qk" for name in ("weight", "bias")]
    mixer += [f"learnable_{name}" for name in ("token_idx", "ttt_lr_weight", "ttt_lr_bias")]
    mixer += ["ttt_norm_weight", "ttt_norm_bias", "post_norm.weight", "post_norm.bias", *inner.weight_shapes(1)]
    same = ["conv.norm.weight", "conv.conv.weight", "conv.conv.bias"]
    same += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    names = {"seq_norm.weight": "mixer_norm.weight", "ffn_norm.weight": "mlp_norm.weight"}
    names |= {name: name for name in same} | {f"seq_modeling_block.{name}": f"mixer.{name}" for name in mixer}
    buffers = [f"seq_modeling_block.{name}" for name in ("token_idx", "rotary_emb.inv_freq")]
    return Dialect(
        name=f"ttt-{kind}",
        matches=lambda data: data.get("model_type") == "ttt" and data.get("ttt_layer_type", "linear") == kind,
        config=TTTConfig.from_json,
        weights=stack_weights(
            embed="model.embed_tokens.weight",
            norm="model.norm.weight",
            layer="model.layers.{i}",
            names=names,
            dropped=buffers,
        ),
        optional=frozenset(f"model.layers.{{i}}.{name}" for name in buffers),
    )


class LinearMixer(TTTMixer):
    """Around `kernels.ttt_linear`."""

    op, inner_state = ttt_linear, ttt_linear.LinearState


class MLPMixer(TTTMixer):
    """Around `kernels.ttt_mlp`."""

    op, inner_state = ttt_mlp, ttt_mlp.MLPState


class TTT(Stack):
    """What the two models share; they differ in the inner model only."""

    kind: ClassVar[str]
    config_class = TTTConfig
    block_class = TTTBlock
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {
        "mini_batch_size": whole("tokens whose gradients are taken at the same inner weights", "tokens"),
        "ttt_base_lr": real("inner step size before gating"),
    }

    def __init__(self, config: TTTConfig) -> None:
        if config.ttt_layer_type != self.kind:
            raise CheckpointError(
                f"{type(self).__name__} got ttt_layer_type={config.ttt_layer_type!r}; expected {self.kind!r}"
            )
        super().__init__(config)

    def turns(self, positions: Int[Tensor, "T"]) -> Float[Tensor, "T 1 P 2"]:
        """Cosines and sines of the rotations by the place in the mini-batch, the same for every head."""
        config, dtype = self.config, torch.promote_types(self.norm.weight.dtype, torch.float32)
        places = positions % config.mini_batch_size
        cos, sin = rotary_angles(places, dim=config.head_dim, theta=config.rope_theta, dtype=dtype)
        return torch.stack((cos, sin), -1)[:, None]

    def place(self, position: Int[Tensor, "1"]) -> Int[Tensor, "1"]:
        return position % self.config.mini_batch_size


_TINY: Mapping[str, Any] = {"use_gate": True, "share_qk": True, "pre_conv": True, "tie_word_embeddings": True}


_LINEAR = """
The hidden state is itself a linear model, trained by gradient descent on the sequence that it reads (Sun et al.
2024, arXiv 2407.04620).

    f(x) = x + LN(x W1 + b1)        loss = 1/2 |LN(k W1 + b1) - (v - k)|²
    gradients of C tokens at the weights of the mini-batch's start
    W1_t = W1 - tau_t sum_{s <= t} lam_s k_sᵀ g_s        out_t = q_t + LN(q_t W1_t + b1_t)

State: $state, of it H (D² + D) weights and 2 C D a head for the mini-batch under way, and K - 1 inputs of the
convolutions (q and k share theirs). Cost: $projections for projections ($gates less without the gate, $gates
more with keys of their own), $steps for the step sizes, and $inside inside. Faithful: by goldens from the
authors' PyTorch code at all their switches (`use_gate`, `share_qk`, `pre_conv`); the authors' JAX checkpoints
convert. Departures, none of which changes a number: the inner model is float32 at least, and any split of the
tokens is allowed. C is part of the model, not of its speed.
"""
_MLP = """
As `ttt-linear`, with two inner layers of hidden width 4 D and a tanh GELU.

    f(x) = x + LN(gelu(x W1 + b1) W2 + b2)

State: $state, of it H (8 D² + 5 D) weights and 10 C D a head for the mini-batch. Cost: $inside inside, the rest
as `ttt-linear`. Faithful and departures: as there. Its fast path is the dual form under autograd, without a
scan written by hand; training it costs about three times `ttt-linear`.
"""
_WORK = {
    "projections": WorkTerm(formula="8 W²"),
    "gates": WorkTerm(formula="2 W²", times=lambda c: (not c.share_qk) - (not c.use_gate)),
    "steps": WorkTerm(formula="2 W H"),
}
_DESCRIPTION: Mapping[str, Any] = {
    "letters": {"C": "mini_batch_size", "S": "share_qk", "B": "pre_conv"},
    # two convolutions of q and k read the one projection that they share
    "kept_channels": "(S + B) W",
    "convolved": "(2 S + B) W",
}


class TTTLinear(TTT):
    """TTT-Linear: the hidden state is a linear model that is trained on the sequence it reads."""

    DESCRIPTION = Description(
        section=_LINEAR,
        published="yes, by `ttbench convert`",
        state="H (D² + D + 2 C D)",
        work={**_WORK, "inside": WorkTerm(formula="6 W D + 2 W (C + 1)")},
        **_DESCRIPTION,
    )
    kind, mixer_class = "linear", LinearMixer
    TINY: ClassVar[Mapping[str, Any]] = {**_TINY, "ttt_layer_type": "linear", "ttt_base_lr": 1.0}
    DIALECTS = (_dialect("linear", ttt_linear.LinearState),)


class TTTMLP(TTT):
    """TTT-MLP: the hidden state is an MLP of two layers that is trained on the sequence it reads."""

    DESCRIPTION = Description(
        section=_MLP,
        published="none known to us",
        state="H (8 D² + 5 D + 10 C D)",
        work={**_WORK, "inside": WorkTerm(formula="56 W D + 10 W (C + 1)")},
        **_DESCRIPTION,
    )
    kind, mixer_class = "mlp", MLPMixer
    TINY: ClassVar[Mapping[str, Any]] = {**_TINY, "ttt_layer_type": "mlp", "ttt_base_lr": 0.1}
    DIALECTS = (_dialect("mlp", ttt_mlp.MLPState),)
