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
convolution. Letters: B batch, T tokens, H heads, D head dim, M model width, C mini-batch, K conv kernel, L layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ttbench.errors import CheckpointError
from ttbench.kernels import ttt_linear, ttt_mlp
from ttbench.models.base import Dialect, SequenceModel, State, layout, require_no_grad
from ttbench.models.layers import RMSNorm, ShortConv, SwiGLU, init_weights_, rotary_angles
from ttbench.models.ttt_config import TTTConfig
from ttbench.types import Cost


@dataclass(kw_only=True)
class TTTLinearState(State):
    """`kernels.ttt_linear.LinearState` of every layer, and the tails of the convolutions."""

    W1: Float[Tensor, "L B H D D"] = layout(batch_dim=1)
    b1: Float[Tensor, "L B H 1 D"] = layout(batch_dim=1)
    K: Float[Tensor, "L B H C D"] = layout(batch_dim=1)
    G: Float[Tensor, "L B H C D"] = layout(batch_dim=1)
    pre_tail: Float[Tensor, "L B S M"] = layout(batch_dim=1)  # last inputs of the convolution before the layer
    qk_tail: Float[Tensor, "L B S M"] = layout(batch_dim=1)  # last inputs of the convolutions that make q and k


@dataclass(kw_only=True)
class TTTMLPState(State):
    """`kernels.ttt_mlp.MLPState` of every layer, and the tails of the convolutions."""

    W1: Float[Tensor, "L B H D 4*D"] = layout(batch_dim=1)
    b1: Float[Tensor, "L B H 1 4*D"] = layout(batch_dim=1)
    W2: Float[Tensor, "L B H 4*D D"] = layout(batch_dim=1)
    b2: Float[Tensor, "L B H 1 D"] = layout(batch_dim=1)
    K: Float[Tensor, "L B H C D"] = layout(batch_dim=1)
    G1: Float[Tensor, "L B H C 4*D"] = layout(batch_dim=1)
    X2: Float[Tensor, "L B H C 4*D"] = layout(batch_dim=1)
    G2: Float[Tensor, "L B H C D"] = layout(batch_dim=1)
    pre_tail: Float[Tensor, "L B S M"] = layout(batch_dim=1)
    qk_tail: Float[Tensor, "L B S M"] = layout(batch_dim=1)


class TTTLayer(nn.Module):
    """Projections, step sizes and learned initial weights of the inner model around one of the two ops."""

    def __init__(self, config: TTTConfig, op: ModuleType, weights: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        width, num_heads, dim = config.hidden_size, config.num_attention_heads, config.head_dim
        self.config, self.op, self.weight_names = config, op, tuple(weights)
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
        for name, shape in weights.items():
            start = torch.zeros(num_heads, *shape)
            is_bias = shape[0] == 1
            self.register_parameter(name, nn.Parameter(start if is_bias else start.normal_(std=0.02)))

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Learned initial weights of the inner model."""
        return {name: getattr(self, name).to(dtype) for name in self.weight_names}

    def inputs(
        self, h: Float[Tensor, "B T M"], turns: Tensor, tail: Float[Tensor, "B S M"] | None
    ) -> tuple[Tensor, ...]:
        """All that the ops take before the state, in the inner model's dtype; `tail` is advanced in place."""
        dtype, num_heads = torch.promote_types(h.dtype, torch.float32), self.config.num_attention_heads
        q, v = self.q_proj(h), self.v_proj(h)
        if self.k_proj is not None:
            k = self.k_proj(h)
        else:
            assert self.conv_q is not None
            assert self.conv_k is not None
            (k, _), (q, next_tail) = self.conv_k(q, tail), self.conv_q(q, tail)
            if tail is not None:
                tail.copy_(next_tail)
        q, k, v = (x.to(dtype).unflatten(-1, (num_heads, -1)) for x in (q, k, v))
        gate = F.linear(h, self.learnable_ttt_lr_weight[:, 0], self.learnable_ttt_lr_bias[:, 0])
        lam = gate.to(dtype).sigmoid() * (self.config.ttt_base_lr / self.config.head_dim)
        tau = self.learnable_token_idx.to(dtype)
        tau = (1 / torch.arange(1, len(tau) + 1, dtype=dtype, device=tau.device) + tau).clamp_min(0)
        norm = self.ttt_norm_weight.to(dtype), self.ttt_norm_bias.to(dtype)
        return _rotate(q, turns), _rotate(k, turns), v, lam, tau, *norm

    def output(self, out: Float[Tensor, "B T H D"], h: Float[Tensor, "B T M"]) -> Float[Tensor, "B T M"]:
        out = self.post_norm(out.flatten(-2).to(h.dtype))
        if self.g_proj is not None:
            out = F.gelu(self.g_proj(h), approximate="tanh") * out
        return self.o_proj(out)


class PreConv(nn.Module):
    """conv(norm(x))."""

    def __init__(self, config: TTTConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.conv = ShortConv(config.hidden_size, config.conv_kernel, bias=True)

    def forward(self, x: Float[Tensor, "B T M"], tail: Float[Tensor, "B S M"] | None) -> Float[Tensor, "B T M"]:
        out, next_tail = self.conv(self.norm(x), tail)
        if tail is not None:
            tail.copy_(next_tail)
        return out


class Block(nn.Module):
    """Convolution, TTT layer and SwiGLU, each added to the stream."""

    def __init__(self, config: TTTConfig, op: ModuleType, weights: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.conv = PreConv(config) if config.pre_conv else None
        self.seq_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.seq_modeling_block = TTTLayer(config, op, weights)
        self.ffn_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)


def _dialect(kind: str, inner: type[Any]) -> Dialect:
    """The authors' names: their modules are ours below `layers`, so most keys only lose "model."."""
    layer = [f"{part}_proj.weight" for part in "qkvog"]
    layer += [f"conv_{part}.{name}" for part in "qk" for name in ("weight", "bias")]
    layer += [f"learnable_{name}" for name in ("token_idx", "ttt_lr_weight", "ttt_lr_bias")]
    layer += ["ttt_norm_weight", "ttt_norm_bias", "post_norm.weight", "post_norm.bias", *inner.weight_shapes(1)]
    parts = [f"seq_modeling_block.{name}" for name in layer]
    parts += ["conv.norm.weight", "conv.conv.weight", "conv.conv.bias", "seq_norm.weight", "ffn_norm.weight"]
    parts += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    buffers = [f"model.layers.{{i}}.seq_modeling_block.{name}" for name in ("token_idx", "rotary_emb.inv_freq")]
    weights: dict[str, str | None] = {
        "model.embed_tokens.weight": "embed.weight",
        "model.norm.weight": "norm.weight",
        "lm_head.weight": "lm_head.weight",
        **{f"model.layers.{{i}}.{part}": f"layers.{{i}}.{part}" for part in parts},
        **dict.fromkeys(buffers),
    }
    return Dialect(
        name=f"ttt-{kind}",
        matches=lambda data: data.get("model_type") == "ttt" and data.get("ttt_layer_type", "linear") == kind,
        config=TTTConfig.from_json,
        weights=weights,
        optional=frozenset(buffers),
    )


class TTT(SequenceModel):
    """What the two models share; they differ in the inner model only."""

    version = 1
    state_grows = False
    op: ClassVar[ModuleType]
    kind: ClassVar[str]
    inner_state: ClassVar[type[Any]]  # state of the op
    # state of the model: the op's fields with a dimension L in front, and tails
    layers_state: ClassVar[type[TTTLinearState] | type[TTTMLPState]]

    def __init__(self, config: TTTConfig) -> None:
        super().__init__()
        if config.ttt_layer_type != self.kind:
            raise CheckpointError(
                f"{type(self).__name__} got ttt_layer_type={config.ttt_layer_type!r}; expected {self.kind!r}"
            )
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        weights = self.inner_state.weight_shapes(config.head_dim)
        self.layers = nn.ModuleList(Block(config, self.op, weights) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.inner_names = tuple(field.name for field in dataclasses.fields(self.inner_state))
        outputs = [part for block in self._blocks() for part in (block.seq_modeling_block.o_proj, block.mlp.down_proj)]
        init_weights_(self, residual=outputs, num_branches=len(outputs))
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = TTTConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            ttt_layer_type=cls.kind,
            ttt_base_lr=1.0 if cls.kind == "linear" else 0.1,
            use_gate=True,
            share_qk=True,
            pre_conv=True,
        )
        return cls(replace(config, **overrides))

    @classmethod
    def cost(cls, config: TTTConfig, *, dtype_bytes: int) -> Cost:
        width, layers = config.hidden_size, config.num_hidden_layers
        projections = 3 + (not config.share_qk) + config.use_gate
        num_convs = 2 * config.share_qk + config.pre_conv
        layer = 2 * width * (projections * width + config.num_attention_heads)
        layer += 2 * num_convs * config.conv_kernel * width
        layer += config.num_attention_heads * cls.op.flops(config.head_dim, config.mini_batch_size)
        layer += SwiGLU.flops(width, config.intermediate_size)
        inner = config.num_attention_heads * cls.op.state_size(config.head_dim, config.mini_batch_size)
        tails = (config.share_qk + config.pre_conv) * (config.conv_kernel - 1) * width
        return Cost(
            flops_per_token=layers * layer + 2 * width * config.vocab_size,
            flops_per_context_token=0,
            state_bytes=layers * (inner * max(4, dtype_bytes) + tails * dtype_bytes),
            state_bytes_per_token=0,
        )

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def _inner_dtype(self) -> torch.dtype:
        return torch.promote_types(self.norm.weight.dtype, torch.float32)

    def new_state(self, batch_size: int, max_len: int) -> State:
        config, like, dtype = self.config, self.norm.weight, self._inner_dtype()
        layers, tail_len = config.num_hidden_layers, config.conv_kernel - 1
        shapes = self.inner_state.shapes(
            batch_size=batch_size,
            num_heads=config.num_attention_heads,
            dim=config.head_dim,
            mini_batch_size=config.mini_batch_size,
        )
        inner: dict[str, Any] = {name: like.new_zeros(layers, *shape, dtype=dtype) for name, shape in shapes.items()}
        state = self.layers_state(
            position=torch.zeros(1, dtype=torch.int64, device=like.device),
            max_len=max_len,
            pre_tail=like.new_zeros(layers, batch_size, tail_len * config.pre_conv, config.hidden_size),
            qk_tail=like.new_zeros(layers, batch_size, tail_len * config.share_qk, config.hidden_size),
            **inner,
        )
        self.reset(state)
        return state

    @torch.no_grad()
    def reset(self, state: State) -> None:
        assert isinstance(state, TTTLinearState | TTTMLPState)
        for name in (*self.inner_names, "pre_tail", "qk_tail", "position"):
            getattr(state, name).zero_()
        for i, block in enumerate(self._blocks()):
            for name, start in block.seq_modeling_block.weights(self._inner_dtype()).items():
                getattr(state, name)[i].copy_(start)
        state.num_tokens = 0

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T M"]:
        require_no_grad(state)
        x = self.embed(ids)
        places = torch.arange(ids.shape[1], device=ids.device)
        offset = 0
        if state is not None:
            assert isinstance(state, TTTLinearState | TTTMLPState)
            places = places + state.position
            offset = state.num_tokens % self.config.mini_batch_size
        turns = self._turns(places)
        for i, block in enumerate(self._blocks()):
            layer = block.seq_modeling_block
            if state is None:
                before = self.inner_state.initial(
                    **layer.weights(self._inner_dtype()),
                    batch_size=ids.shape[0],
                    mini_batch_size=self.config.mini_batch_size,
                )
                pre_tail = qk_tail = None
            else:
                before = self._inner(state, i)
                pre_tail, qk_tail = state.pre_tail[i], state.qk_tail[i]
            if block.conv is not None:
                x = x + block.conv(x, pre_tail)
            h = block.seq_norm(x)
            out, after = self._read(layer.inputs(h, turns, qk_tail), before, offset)
            if state is not None:
                for name in self.inner_names:
                    getattr(state, name)[i].copy_(getattr(after, name))
            x = x + layer.output(out, h)
            x = x + block.mlp(block.ffn_norm(x))
        if state is not None:
            state.position += ids.shape[1]
        return self.norm(x)

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B M"]:
        require_no_grad(state)
        assert isinstance(state, TTTLinearState | TTTMLPState)
        x = self.embed(ids)[:, None]
        place = state.position % self.config.mini_batch_size
        turns = self._turns(place)
        for i, block in enumerate(self._blocks()):
            layer = block.seq_modeling_block
            if block.conv is not None:
                x = x + block.conv(x, state.pre_tail[i])
            h = block.seq_norm(x)
            inputs = layer.inputs(h, turns, state.qk_tail[i])
            out = self.op.step(*inputs, self._inner(state, i), place=place, last=bool(variant))
            x = x + layer.output(out, h)
            x = x + block.mlp(block.ffn_norm(x))
        state.position += 1
        return self.norm(x[:, 0])

    def step_variant(self, num_tokens: int) -> int:
        """1 for the last token of a mini-batch, which writes the weights; else 0."""
        return int((num_tokens + 1) % self.config.mini_batch_size == 0)

    @property
    def kernel_path(self) -> dict[str, str]:
        return {f"ttt_{self.kind}": "chunked"}

    def _inner(self, state: Any, layer: int) -> Any:
        """The op's state of one layer: views, not copies."""
        return self.inner_state(**{name: getattr(state, name)[layer] for name in self.inner_names})

    def _read(self, inputs: tuple[Tensor, ...], before: Any, offset: int) -> tuple[Tensor, Any]:
        """The op; in training, in parts that keep only their ends when `scan_checkpoint_group_size` is not 0."""
        num_parts, size, num_tokens = (
            self.config.scan_checkpoint_group_size,
            self.config.mini_batch_size,
            inputs[0].shape[1],
        )
        if not num_parts or not torch.is_grad_enabled():
            return self.op.chunked(*inputs, before, offset=offset)
        part_len = max(1, num_tokens // size // num_parts) * size
        outs = []
        for start in range(0, num_tokens, part_len):
            part = tuple(x[:, start : start + part_len] for x in inputs[:4])
            out, before = checkpoint(self.op.chunked, *part, *inputs[4:], before, offset=0, use_reentrant=False)
            outs.append(out)
        return torch.cat(outs, 1), before

    def _turns(self, places: Int[Tensor, "T"]) -> Tensor:
        """Rotations as unit complex numbers [T, 1, D / 2], the same for every head."""
        config = self.config
        cos, sin = rotary_angles(
            places % config.mini_batch_size, dim=config.head_dim, theta=config.rope_theta, dtype=self._inner_dtype()
        )
        return torch.complex(cos, sin)[:, None]


def _rotate(x: Float[Tensor, "B T H D"], turns: Tensor) -> Float[Tensor, "B T H D"]:
    """Rotary embedding on neighbours (x[2i], x[2i + 1]); as a complex product it needs no strided reads."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)


class TTTLinear(TTT):
    """TTT-Linear: the hidden state is a linear model that is trained on the sequence it reads."""

    op, kind, inner_state, layers_state = ttt_linear, "linear", ttt_linear.LinearState, TTTLinearState
    DIALECTS = (_dialect("linear", ttt_linear.LinearState),)


class TTTMLP(TTT):
    """TTT-MLP: the hidden state is an MLP of two layers that is trained on the sequence it reads."""

    op, kind, inner_state, layers_state = ttt_mlp, "mlp", ttt_mlp.MLPState, TTTMLPState
    DIALECTS = (_dialect("mlp", ttt_mlp.MLPState),)
