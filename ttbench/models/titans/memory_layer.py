"""The neural long-term memory as a layer: projections, gates and learned start around `kernels.neural_memory`.

    q, k, v = silu(conv(x W))                           those of `unit_norm` of length 1 in each head
    eta, keep = sigmoid(.), sigmoid(.)                  from x, per head and token
    theta = max_step / C (1 - eta) sigmoid(.)           without 1 - eta unless `damped_step`
    out = norm(M(q))                                    per head

Source: Behrouz et al., arXiv 2501.00663v1, sections 3.1 and 4.4. Not printed there and ours: gates per head, kernel
size, the norm's place (per head, as in the linear-attention models that the paper compares with), and three bounds.
Without them a memory of two layers grew beyond all numbers within a text of repeated bytes, and training ended in NaN:
- a chunk's errors are all taken at the same weights, so it is their sum that must stay small: theta is divided by C;
- a steady momentum repeats a step 1 / (1 - eta) times in all, so theta carries 1 - eta (`damped_step`);
- the larger the values, the larger the weights and so the curvature of the loss: v too is of length 1 (`unit_norm`;
  "qk" is the paper's).
Letters: B batch, T tokens, H heads, D head dim, W width, K conv kernel, S = K - 1 tokens, C chunk, P all weights of the
memory, E widths in and out of all its layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.kernels import neural_memory
from ttbench.kernels.inner_inputs import memory_inputs
from ttbench.kernels.neural_memory import MemoryState, layer_shapes
from ttbench.kernels.norm import gated_norm, memory_gate
from ttbench.models.layers import RMSNorm, ShortConv, convolve, project
from ttbench.models.stack import Part, Slot
from ttbench.models.titans.titans_config import TitansConfig

# Start of the gate that keeps: sigmoid(8) = 0.9997. A deep memory that has faded to zero has no gradient to come back
# by; with sigmoid(4) = 0.98 the first layer's was at 1e-32 after a thousand tokens.
KEEP_BIAS = 8.0


class MemoryLayer(nn.Module):
    """See the module docstring. `x` may have any number of tokens; a state continues."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.config = config
        self.shapes = layer_shapes(config.head_dim, num_layers=config.memory_layers, expansion=config.memory_expansion)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.gates_proj = nn.Linear(width, 3 * heads)
        self.convs = nn.ModuleDict()
        if config.conv_kernel:
            self.convs.update({part: ShortConv(width, config.conv_kernel, bias=False) for part in "qkv"})
        self.norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.start = nn.ParameterList()
        if config.memory_init == "learned":
            starts = (torch.empty(heads, *shape).normal_().mul_(shape[0] ** -0.5) for shape in self.shapes)
            self.start.extend(nn.Parameter(start) for start in starts)

    def start_weights_(self) -> None:
        """Start values of the gates' biases: half a step, half the momentum, nearly everything kept."""
        with torch.no_grad():
            bias = self.gates_proj.bias.view(-1, 3)
            bias.zero_()
            bias[:, 2] = KEEP_BIAS

    @property
    def maps(self) -> list[nn.Linear]:
        """Those of q, k and v."""
        return [self.q_proj, self.k_proj, self.v_proj]

    @property
    def inner_dtype(self) -> torch.dtype:
        return torch.promote_types(self.norm.weight.dtype, torch.float32)

    def start_weights(self) -> list[Float[Tensor, "H I O"]]:
        """M_0."""
        if len(self.start):
            return [weight.to(self.inner_dtype) for weight in self.start]
        like, heads = self.norm.weight, self.config.num_attention_heads
        return [like.new_zeros(heads, *shape, dtype=self.inner_dtype) for shape in self.shapes]

    @staticmethod
    def slots(config: TitansConfig) -> dict[str, Slot]:
        """All weights flat, their momentum, what the chunk has pending, and the convolutions' last inputs."""
        heads, chunk_size = config.num_attention_heads, config.chunk_size
        shapes = layer_shapes(config.head_dim, num_layers=config.memory_layers, expansion=config.memory_expansion)
        size = sum(rows * columns for rows, columns in shapes)
        return {
            "memory": Slot(shape=(heads, size), wide=True),
            "momentum": Slot(shape=(heads, size), wide=True),
            "pending": Slot(shape=(heads, chunk_size, sum(map(sum, shapes))), wide=True),
            "gates": Slot(shape=(heads, chunk_size, 3), wide=True),
            "tail": Slot(shape=(max(config.conv_kernel - 1, 0), 3 * config.hidden_size)),
        }

    def empty_tail(self, x: Float[Tensor, "B T W"]) -> Float[Tensor, "B S 3*W"]:
        """The convolutions' last inputs before the first token, to be advanced."""
        return x.new_zeros(len(x), max(self.config.conv_kernel - 1, 0), 3 * x.shape[2])

    def start_state(self, part: Part) -> None:
        """Write M_0."""
        for view, weight in zip(self.view(part).M, self.start_weights(), strict=True):
            view.copy_(weight)

    def view(self, part: Part) -> MemoryState:
        """The op's state: views of a layer's flat one."""
        sizes = [rows * columns for rows, columns in self.shapes]
        M, S = (
            tuple(part.unflatten(-1, shape) for part, shape in zip(flat.split(sizes, -1), self.shapes, strict=True))
            for flat in (part["memory"], part["momentum"])
        )
        columns = part["pending"].split([width for shape in self.shapes for width in shape], -1)
        return MemoryState(M=M, S=S, X=columns[0::2], D=columns[1::2], gates=part["gates"])

    def store(self, final: MemoryState, part: Part) -> None:
        """Write what `run` left back in place."""
        into = self.view(part)
        for name in ("M", "S", "X", "D"):
            for old, new in zip(getattr(into, name), getattr(final, name), strict=True):
                old.copy_(new)
        into.gates.copy_(final.gates)

    def project(
        self, x: Float[Tensor, "B T W"], tail: Float[Tensor, "B S 3*W"] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [B, T, H, D] and gates [B, T, H, 3] as the op takes them; `tail` is advanced IN PLACE."""
        q, k, v = project(x, self.maps)
        if len(self.convs):
            q, k, v = convolve((q, k, v), [self.convs[name] for name in "qkv"], tail, silu=True)
        else:
            q, k, v = F.silu(q), F.silu(k), F.silu(v)
        config = self.config
        return memory_inputs(
            q,
            k,
            v,
            self.gates_proj(x),
            num_heads=config.num_attention_heads,
            unit_norm=config.unit_norm,
            step_scale=config.max_step / config.chunk_size,
            damped_step=config.damped_step,
        )

    def initial(self, batch_size: int) -> MemoryState:
        """The op's state before the first token, differentiable."""
        return MemoryState.initial(self.start_weights(), batch_size=batch_size, chunk_size=self.config.chunk_size)

    def run(
        self,
        x: Float[Tensor, "B T W"],
        state: MemoryState,
        tail: Float[Tensor, "B S 3*W"] | None,
        *,
        offset: int,
    ) -> tuple[Float[Tensor, "B T H D"], MemoryState]:
        """Read and write all of `x`, with `offset` tokens in the chunk so far; `tail` is advanced IN PLACE."""
        choice = {"read": self.config.memory_read, "operands": self.norm.weight.dtype}
        return neural_memory.chunked(*self.project(x, tail), state, offset=offset, **choice)

    def gate(
        self, out: Float[Tensor, "B T H D"], y: Float[Tensor, "B T W"], norm: RMSNorm | None
    ) -> Float[Tensor, "B T W"]:
        """silu of the normed heads side by side, times `y`, which is normed before where there is a norm."""
        weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
        return memory_gate(out, y, self.norm.weight, weight, head_eps=self.norm.eps, eps=eps)

    def gated(self, out: Float[Tensor, "B T H D"], gate: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """The normed heads side by side, times silu(gate)."""
        return gated_norm(
            out.flatten(-2),
            gate,
            self.norm.weight,
            None,
            eps=self.norm.eps,
            num_groups=out.shape[2],
            kind="rms",
            activation="silu",
            gate_first=False,
            narrow=True,
        )

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, offset: int) -> Float[Tensor, "B T H D"]:
        """As `run`; `part` is advanced in place, and without it the memory starts anew."""
        if part is None:
            return self.run(x, self.initial(len(x)), None, offset=offset)[0]
        out, final = self.run(x, self.view(part), part["tail"], offset=offset)
        self.store(final, part)
        return out

    def step(
        self, x: Float[Tensor, "B 1 W"], part: Part, *, place: Int[Tensor, "1"], last: bool
    ) -> Float[Tensor, "B 1 H D"]:
        """One token; `part` is advanced in place."""
        choice = {"read": self.config.memory_read, "operands": self.norm.weight.dtype}
        inputs = self.project(x, part["tail"])
        return neural_memory.step(*inputs, self.view(part), place=place, last=last, **choice)

    @staticmethod
    def flops(config: TitansConfig) -> float:
        """FLOP of one token, matrix products only."""
        width, heads = config.hidden_size, config.num_attention_heads
        shapes = layer_shapes(config.head_dim, num_layers=config.memory_layers, expansion=config.memory_expansion)
        inner = heads * neural_memory.flops(shapes, config.chunk_size, read=config.memory_read)
        return 2 * width * (3 * width + 3 * heads) + 2 * 3 * config.conv_kernel * width + inner
