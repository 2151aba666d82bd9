"""FAVOR+, causal attention by positive random features, with sums over the past that never overflow or look ahead.

With x' = x / D^(1/4) and features w_f ~ N(0, I):

    phi_f(x) = exp(w_f . x' - |x'|^2 / 2) / sqrt(F)          E[phi(q) . phi(k)] = exp(q . k / sqrt(D))
    out_t = sum_{s <= t} (phi(q_t) . phi(k_s)) v_s / sum_{s <= t} phi(q_t) . phi(k_s)

`draw_features` makes the w of a block of D orthogonal and leaves each of them normally distributed: unbiased as before,
with a smaller error.

Stabilisers. The state is the sum of phi(k) [v, 1], the row of each feature divided by exp(peak), where peak is the
largest exponent that the feature has had in a key; when a larger one comes, the row is rescaled. A query's exponents
and the peaks are added before the largest sum is taken off. So the denominator is at least 1 whatever the scores, and
all of this cancels. The published code takes one maximum over all positions of the input instead. At eps = 0 that
cancels too, but a later key can push all earlier ones below the smallest float, and with eps > 0 (its default is 1e-4)
it moves earlier outputs: tests/golden/performer_floor.json records by how much.

eps > 0 is that code's floor, which it adds to each feature relative to its stabiliser: exp(. - B_t) + eps in a query,
B_t the maximum of w_f . q'_t over f, and exp(. - C) + eps in a key. Here C is C_t, the maximum of w_f . k'_s over f and
s <= t, so that output t is the last output of the published code for an input that ends at t. This takes one further
row: a feature that is the same for every key, whose weight in a query is eps exp(C_t) times the sum of the query's
features; its place among the peaks holds C_t. That code's second floor, 1e-6 on its sums of keys, is not built:
nothing is divided by zero.

The stabilisers are constants to the gradient, as in the published code; at eps = 0 the gradient is exact.

Source: Choromanski et al., arXiv 2009.14794, section 2 (Lemma 1 has phi) and, for the sums, appendix B. The published
code is google-research's performer/fast_attention; here its port performer-pytorch 1.1.4 was read and run
(`softmax_kernel`, `causal_linear_attention_noncuda`).
Letters: B batch, T tokens, H heads, D head dim, F features, R rows of the state: F, or F + 1 with eps; K tokens of a
chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels.dispatch.choice import op

CHUNK_LEN = 64  # tokens, at most; fewer where exponents rise by more than MAX_RISE
MAX_RISE = 30.0  # exponents of a chunk above its first token's: the products of float32 stay far from its limits


@dataclass(frozen=True, slots=True, kw_only=True)
class FavorState:
    """What the tokens so far left; see the module docstring."""

    sums: Float[Tensor, "B H R _"]  # [B, H, R, D + 1], of phi(k) [v, 1], each row without its exp(peak)
    peak: Float[Tensor, "B H R"]  # largest exponent of each feature; last with eps: C_t

    @classmethod
    def initial(cls, features: Float[Tensor, "F D"], *, batch_size: int, num_heads: int, eps: float) -> FavorState:
        """Before the first token."""
        rows, dim = num_rows(len(features), eps=eps), features.shape[1]
        return cls(
            sums=features.new_zeros(batch_size, num_heads, rows, dim + 1),
            peak=features.new_full((batch_size, num_heads, rows), -math.inf),
        )


def num_rows(num_features: int, *, eps: float) -> int:
    """R."""
    return num_features + (1 if eps else 0)


def flops(head_dim: int, num_features: int, *, eps: float) -> int:
    """FLOP of one token in one head by the recurrence: both projections; rescale, add phi(k) [v, 1], and read."""
    return 4 * num_features * head_dim + 5 * num_rows(num_features, eps=eps) * (head_dim + 1)


def draw_features(num_features: int, head_dim: int, *, draw: torch.Generator) -> Float[Tensor, "F D"]:
    """Rows distributed as N(0, I), in float64; those of each block of D are orthogonal, and their lengths independent.

    Q of a QR factorisation is uniform over rotations only with the signs of R's diagonal (Mezzadri 2006,
    arXiv math-ph/0609050). The published code leaves them out: its rows are not normally distributed, so that the
    estimate of a given pair is biased.
    """
    blocks = []
    for _ in range(math.ceil(num_features / head_dim)):
        Q, R = torch.linalg.qr(_normal(head_dim, head_dim, draw=draw))
        blocks.append((Q * R.diagonal().sign()).mT)
    lengths = _normal(num_features, head_dim, draw=draw).norm(dim=1, keepdim=True)
    return lengths * torch.cat(blocks)[:num_features]


def _normal(*shape: int, draw: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64, device=draw.device)


def reference(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    features: Float[Tensor, "F D"],
    initial_state: FavorState,
    *,
    eps: float,
) -> tuple[Float[Tensor, "B T H D"], FavorState]:
    """Token by token.

    Args:
        q, k, v: queries, keys and values.
        features: w, the same for all heads.
        initial_state: what the tokens before left; not changed.
        eps: floor of the features, relative to the stabilisers; 0: none, and the estimate is unbiased.
    """
    state, outs = initial_state, []
    for t in range(q.shape[1]):
        out, state = _token(q[:, t], k[:, t], v[:, t], features, state, eps=eps)
        outs.append(out)
    return torch.stack(outs, 1), state


@op("favor", "chunked")
def chunked(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    features: Float[Tensor, "F D"],
    initial_state: FavorState,
    *,
    eps: float,
) -> tuple[Float[Tensor, "B T H D"], FavorState]:
    """The same numbers as `reference`, by matrix products over at most CHUNK_LEN tokens. Arguments as in `reference`.

    Looks at the exponents to end a chunk early, so on a GPU every chunk waits for the device once.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, D]
    state, outs = initial_state, []
    # split, not sliced: the gradient of a slice for each chunk would be as long as the text
    for left, right, values in zip(*(x.split(CHUNK_LEN, 2) for x in (q, k, v)), strict=True):
        begin = 0
        while begin < left.shape[2]:
            rest = slice(begin, None)
            out, state = _chunk(left[:, :, rest], right[:, :, rest], values[:, :, rest], features, state, eps=eps)
            outs.append(out)
            begin += out.shape[2]
    return torch.cat(outs, 2).transpose(1, 2), state


@op("favor_step", "step")
def step(
    q: Float[Tensor, "B H D"],
    k: Float[Tensor, "B H D"],
    v: Float[Tensor, "B H D"],
    features: Float[Tensor, "F D"],
    state: FavorState,
    *,
    eps: float,
) -> Float[Tensor, "B H D"]:
    """One token; the tensors of `state` are CHANGED IN PLACE."""
    out, after = _token(q, k, v, features, state, eps=eps)
    state.sums.copy_(after.sums)
    state.peak.copy_(after.peak)
    return out


def _token(
    q: Tensor, k: Tensor, v: Tensor, features: Tensor, state: FavorState, *, eps: float
) -> tuple[Tensor, FavorState]:
    """One token: q, k, v [B, H, D]."""
    logs, largest = _key_logs(k, features, eps=eps)
    peak, top = _split_peak(state, eps=eps)
    now, top = torch.maximum(peak, logs.detach()), torch.maximum(top, largest)
    sums = (peak - now).exp()[..., None] * state.sums + (logs - now).exp()[..., None] * _with_one(v)[..., None, :]
    weights = _shares(_query_logs(q, features, top, eps=eps) + now)
    read = (weights[..., None, :] @ sums)[..., 0, :]
    return read[..., :-1] / read[..., -1:], FavorState(sums=sums, peak=_join_peak(now, top, eps=eps))


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, features: Tensor, state: FavorState, *, eps: float
) -> tuple[Tensor, FavorState]:
    """As many of K tokens as can be taken at once; q, k, v [B, H, K, D].

    All rows are divided by exp(scale), the peak after the first token. A query's weights are at most 1 and one of them
    is, so the denominator is at least 1; keys are at most exp(MAX_RISE).
    """
    logs, largest = _key_logs(k, features, eps=eps)  # [B, H, K, R]
    peak, top = _split_peak(state, eps=eps)
    scale = torch.maximum(peak, logs[:, :, 0].detach())  # [B, H, R]
    rise = logs - scale[:, :, None]
    num_tokens = _num_within_reach(rise)
    q, v, rise, largest = (x[:, :, :num_tokens] for x in (q, _with_one(v), rise, largest))
    tops = torch.maximum(top[..., None], largest.cummax(-1).values)  # [B, H, K]
    weights = _shares(_query_logs(q, features, tops, eps=eps) + scale[:, :, None])
    keys = rise.exp()
    before = (peak - scale).exp()[..., None] * state.sums
    read = (weights @ keys.mT).tril() @ v + weights @ before  # [B, H, K, D + 1]
    now = torch.maximum(scale, scale + rise.detach().amax(2))
    sums = (scale - now).exp()[..., None] * (before + keys.mT @ v)
    final = FavorState(sums=sums, peak=_join_peak(now, tops[..., -1], eps=eps))
    return read[..., :-1] / read[..., -1:], final


def _num_within_reach(rise: Float[Tensor, "B H K R"]) -> int:
    """Tokens before the first that rises by more than MAX_RISE; the chunk's own first never does."""
    beyond = (rise.detach().amax((0, 1, 3)) > MAX_RISE).nonzero()
    return int(beyond[0]) if len(beyond) else rise.shape[2]


def _project(x: Float[Tensor, "... D"], features: Float[Tensor, "F D"]) -> tuple[Tensor, Tensor]:
    """w . x' and |x'|^2 / 2."""
    x = x * x.shape[-1] ** -0.25
    return x @ features.mT, x.square().sum(-1, keepdim=True) / 2


def _key_logs(
    k: Float[Tensor, "... D"], features: Float[Tensor, "F D"], *, eps: float
) -> tuple[Float[Tensor, "... R"], Float[Tensor, "..."]]:
    """Exponents of the keys' rows, the floor's row among them, and each key's own largest w . k'."""
    projected, half = _project(k, features)
    logs = projected - half
    if eps:
        logs = torch.cat((logs, torch.zeros_like(half)), -1)
    return logs, projected.detach().amax(-1)


def _query_logs(
    q: Float[Tensor, "... D"], features: Float[Tensor, "F D"], top: Float[Tensor, "..."], *, eps: float
) -> Float[Tensor, "... R"]:
    """Exponents of the queries' rows; `top` is C_t."""
    projected, half = _project(q, features)
    logs = projected - half
    if not eps:
        return logs
    logs = torch.logaddexp(logs, projected.detach().amax(-1, keepdim=True) + math.log(eps))
    return torch.cat((logs, logs.logsumexp(-1, keepdim=True) + top[..., None] + math.log(eps)), -1)


def _shares(logs: Tensor) -> Tensor:
    """exp of what is left of `logs` when the largest of a query is taken off."""
    return (logs - logs.detach().amax(-1, keepdim=True)).exp()


def _with_one(v: Tensor) -> Tensor:
    """[v, 1]: values and denominator are summed together."""
    return torch.cat((v, torch.ones_like(v[..., :1])), -1)


def _split_peak(state: FavorState, *, eps: float) -> tuple[Float[Tensor, "B H R"], Float[Tensor, "B H"]]:
    """What the rows are divided by, as exponents, and C_t. Without eps nothing reads the latter."""
    peak = state.peak.detach()
    if not eps:
        return peak, peak[..., 0]
    return torch.cat((peak[..., :-1], torch.zeros_like(peak[..., :1])), -1), peak[..., -1]


def _join_peak(peak: Tensor, top: Tensor, *, eps: float) -> Float[Tensor, "B H R"]:
    return torch.cat((peak[..., :-1], top[..., None]), -1) if eps else peak
