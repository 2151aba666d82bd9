"""Titans, memory as context: attention inside a segment, which also sees what the memory recalls of the past.

For segment t of C tokens, with W_R the memory's query of the context:

    h_j = norm(M_{t-1}(r_j))     r = unit(silu(conv(x W_R)))      recalled from the weights of the segment's start
    y_i = norm(attention(x_i; P, h_j and x_j for j <= i))         P, the persistent vectors, from everywhere
    M_t = M_{t-1} after reading y                                 the memory learns what attention made of the segment
    o_i = W_o (y_i * silu(norm(M(y_i))))                          by the memory's own read convention

Source: Behrouz et al., arXiv 2501.00663v1, section 4.1. Read token by token as the equations stand, two of them see the
future: h_j depends on token j, so that an h seen by the whole segment (equation 22) leaks, and M_t has learned from all
of y (equations 24 and 25), so that reading it inside the segment leaks. Here h_j is seen from j on, and y_i is read
with the weights after token i or of the segment's start, as `memory_read` says. The segment is the memory's chunk.
Ours, as the paper says nothing: an own query W_R with its own convolution, of length 1 in each head whatever
`unit_norm` says; h normed before attention, and y behind it, before the memory reads it; positions of h that are those
of its tokens; P not rotated and not written to the memory; the form of the gate.

State per layer: that of the memory, K - 1 inputs of the recall's convolution, and the 2 (2 C + N_p) W keys and values
of a segment and of P; constant in the context.
Letters: B batch, T tokens, H heads, D head dim, W width, C segment, N_p persistent vectors, K conv kernel, S = K - 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ttbench.kernels import attention, neural_memory
from ttbench.kernels.cached_attention import segment_attention_step
from ttbench.models.base import WorkTerm
from ttbench.models.layers import RMSNorm, ShortConv, project
from ttbench.models.stack import At, Part, Slot, StackWork, own_dialect
from ttbench.models.titans.memory_layer import MemoryLayer
from ttbench.models.titans.titans import ATTENTION_KEYS, MIXER_KEYS, Pair, Titans, TitansAttention, TitansMixer
from ttbench.models.titans.titans_config import MACConfig, memory_description


def spans(read: int, num_tokens: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, tokens in the segment before) of the pieces of T tokens that lie in one segment each."""
    start = 0
    while start < num_tokens:
        offset = (read + start) % size
        stop = min(num_tokens, start + size - offset)
        yield start, stop, offset
        start = stop


def visible(*, offset: int, num_tokens: int, num_always: int, device: torch.device) -> Bool[Tensor, "T S"]:
    """What the tokens after `offset` others of a segment see of the keys [P, h_0, x_0, h_1, x_1, ...]."""
    tokens = torch.arange(offset, offset + num_tokens, device=device)[:, None]
    keys = torch.arange(num_always + 2 * (offset + num_tokens), device=device)
    return keys < num_always + 2 * (tokens + 1)


class MACMixer(TitansMixer):
    """See the module docstring."""

    def __init__(self, config: MACConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.attention = TitansAttention(config)
        self.r_proj = nn.Linear(width, width, bias=False)
        self.r_conv = ShortConv(width, config.conv_kernel, bias=False) if config.conv_kernel else None
        self.recall_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.norm = RMSNorm(width, eps=config.rms_norm_eps)

    @classmethod
    def slots(cls, config: MACConfig) -> dict[str, Slot]:
        heads, dim = config.num_attention_heads, config.head_dim
        return MemoryLayer.slots(config) | {
            "recall_tail": Slot(shape=(max(config.conv_kernel - 1, 0), config.hidden_size)),
            **{
                f"{where}_{what}": Slot(shape=(heads, size, dim))
                for where, size in (("segment", 2 * config.chunk_size), ("sink", config.num_persistent))
                for what in ("keys", "values")
            },
        }

    @classmethod
    def work(cls, config: MACConfig) -> StackWork:
        width, dim = config.hidden_size, config.head_dim
        shapes = neural_memory.layer_shapes(dim, num_layers=config.memory_layers, expansion=config.memory_expansion)
        recall = 2 * config.num_attention_heads * sum(rows * columns for rows, columns in shapes)
        # q, k, v of tokens, k and v of what is recalled, W_R and W_o
        projections = 7 * 2 * width**2 + 2 * config.conv_kernel * width
        # of a segment, on average half
        attended = 4 * width * (config.num_persistent + config.chunk_size + 1)
        return StackWork(flops=MemoryLayer.flops(config) + recall + projections + attended)

    @staticmethod
    def num_before(config: MACConfig) -> int:
        return 0

    def read_persistent(self, prefix: Float[Tensor, "1 N W"], part: Part) -> None:
        for name, sinks in zip(("sink_keys", "sink_values"), self.attention.pair(prefix, None), strict=True):
            part[name].copy_(sinks)

    def maps_of_one_input(self) -> list[list[nn.Linear]]:
        return [self.memory.maps, [self.r_proj, *self.attention.maps]]

    def cues(self, r: Float[Tensor, "B T W"], tail: Float[Tensor, "B S W"] | None) -> Float[Tensor, "B T W"]:
        """What the memory is asked, not yet of length 1; `tail` is advanced IN PLACE."""
        return F.silu(r) if self.r_conv is None else self.r_conv(r, tail, silu=True)

    def context(self, h: Float[Tensor, "B T W"], own: Pair, turns: Pair) -> Pair:
        """Keys and values [B, H, 2 T, D] in the order h_0, x_0, h_1, x_1, ..."""
        recalled = self.attention.pair(h, turns)
        keys, values = (torch.stack(parts, 3).flatten(2, 3) for parts in zip(recalled, own, strict=True))
        return keys, values

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        assert at.turns is not None
        size, outs = self.config.chunk_size, []
        q, own = self.attention.queries(x, at.turns), self.attention.pair(x, at.turns)
        cues, norm = self.cues(self.r_proj(x), None if part is None else part["recall_tail"]), self.recall_norm
        if part is None:
            memory, tail = self.memory.initial(len(x)), self.memory.empty_tail(x)
            rows = x.new_zeros(len(x), 0, x.shape[2]) if self.persistent is None else self.persistent[None]
            sinks = [sink.expand(len(x), -1, -1, -1) for sink in self.attention.pair(rows, None)]
            segment = None
        else:
            memory, tail = self.memory.view(part), part["tail"]
            sinks = [part["sink_keys"], part["sink_values"]]
            segment = part["segment_keys"], part["segment_values"]
        pieces = list(spans(read, x.shape[1], size))
        # Split and not sliced: the gradient of a slice is as long as the text, and there is one for each segment.
        sizes = [stop - start for start, stop, _ in pieces]
        inputs = zip(cues.split(sizes, 1), q.split(sizes, 2), *(each.split(sizes, 2) for each in own), strict=True)
        for (start, stop, offset), (cue, query, *pair) in zip(pieces, inputs, strict=True):
            turns = at.turns[0][start:stop], at.turns[1][start:stop]
            h = neural_memory.recall(cue, memory.M, norm.weight, eps=norm.eps)
            new = self.context(h, (pair[0], pair[1]), turns)
            keys_values = []
            for i, piece in enumerate(new):
                seen = [sinks[i], piece]
                if segment is not None:
                    seen.insert(1, segment[i][:, :, : 2 * offset])
                    segment[i][:, :, 2 * offset : 2 * (offset + stop - start)] = piece
                keys_values.append(torch.cat(seen, 2))
            mask = visible(offset=offset, num_tokens=stop - start, num_always=sinks[0].shape[2], device=x.device)
            y = attention.masked("attention", query, keys_values[0], keys_values[1], mask)
            y = self.norm(y.transpose(1, 2).flatten(-2))
            m, memory = self.memory.run(y, memory, tail, offset=offset)
            outs.append(self.o_proj(self.memory.gate(m, y, None)))
        if part is not None:
            self.memory.store(memory, part)
        return torch.cat(outs, 1)

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        assert at.place is not None
        r, q, k, v = project(x, [self.r_proj, *self.attention.maps])
        norm, weights = self.recall_norm, self.memory.view(part).M
        h = neural_memory.recall_step(self.cues(r, part["recall_tail"]), weights, norm.weight, eps=norm.eps)
        h_k, h_v = project(h, [self.attention.k_proj, self.attention.v_proj])
        segment, sinks = (part["segment_keys"], part["segment_values"]), (part["sink_keys"], part["sink_values"])
        y = self.norm(segment_attention_step(q, k, v, (h_k, h_v), at.turns, segment, sinks, place=at.place))
        return self.o_proj(self.memory.gate(self.answer(y, part, at=at, variant=variant), y, None))


_SECTION = """
Memory as context: attention inside a segment of C tokens, in front of which stand the persistent vectors and
what the memory recalls of the past.

    r = silu(conv(W_r x)) of length 1 in each head        h_j = norm(M_{t-1}(r_j))
    y_i = norm(attention(x_i; P, h_j and x_j for j <= i))
    m_i = norm(M(y_i)), M as in titans-lmm over y        o = W_o (y silu(m))

State: that of the memory; $keys keys and values of a segment and of N persistent vectors; K - 1 inputs of the
recall's convolution. Cost: $projections for projections, $recall a head for the recall, $attention for
attention, and the rest as `titans-lmm`. Faithful: the order of section 4.1, recall before update, update with
attention's output. **Two of its equations leak the future as they stand**, and tests show both: h_j depends on
token j, so here it is seen from j on only; M_t has learned from the whole segment, so here y_i is read with the
weights after token i, or of the segment's start. Our reading: the recall's own query, the norm of y before the
memory reads it, the gate, positions of h, P unrotated and not in the memory.
"""


class TitansMAC(Titans):
    """Titans, memory as context: attention inside a segment, which also sees what the memory recalls of the past."""

    DESCRIPTION = memory_description(
        section=_SECTION,
        projections="20 W²",
        keys="2 W (2 C + N)",
        kept_channels="4 W",
        recall=WorkTerm(formula="2 P", times="H"),
        attention=WorkTerm(formula="4 W (N + C + 1)"),
    )
    config_class = MACConfig
    mixer_class = MACMixer
    rotary = True
    ATTENTION = ("sdpa",)
    attention_backend = "sdpa"
    DIALECTS = (
        own_dialect(
            MACConfig,
            mixer_keys=(
                *MIXER_KEYS,
                *ATTENTION_KEYS,
                *("r_proj.weight", "r_conv.weight", "recall_norm.weight", "norm.weight"),
            ),
        ),
    )
