"""LSH attention in a strictly causal, streaming form: OUR VARIANT of Reformer's, not the paper's sorted chunks.

    k[j] = q[j] / |q[j]|               h_r(x) = argmax([x R_r, -x R_r])               r = 1 .. R rounds
    P_r(i) = the last M tokens j < i with h_r(x[j]) = h_r(x[i])
    N(i, j) = how many of the sets P_1(i) .. P_R(i) hold j
    z_r(i) = log sum_{j in P_r(i)} exp(q[i] . k[j] - log N(i, j))                     o_r(i) = the softmax mean of v[j]
    out[i] = sum_r exp(z_r(i) - z(i)) o_r(i),     z(i) = log sum_r exp(z_r(i))

which is softmax attention to the union of the P_r(i), each key once. A token attends to itself (at score `SELF`) where
all P_r(i) are empty, and else not.

From the paper: the hash, keys that are queries of length one, the rounds and their sum, the correction by N, the rule
for oneself. Ours: the paper sorts the whole sequence by bucket, cuts it into chunks and lets a chunk see itself and the
one before, so what a token reads depends on how many later tokens fell into smaller buckets; here a token reads its
bucket's last M, so that a state of one size, a ring of M keys for each bucket and round, continues it for ever.

A `code` names a place in a bucket: bucket * 2^40 + how many came before it there (+ M + 1, so that the zeros of an
empty ring are no place). Round r holds j for i just when 0 < code_r[i] - code_r[j] <= M: R differences give N, without
comparing keys with each other. The fast form sorts by bucket, stably, where the M predecessors of a token stand right
before it, and takes queries by blocks there: work and memory grow with T R M and not with T^2.

Source: Kitaev et al. 2020, Reformer, arXiv 2001.04451, equations 3 to 6 and, for N, equation 8 of appendix A. The scale
of q . k is that of the authors' code (trax), where keys of root mean square one are divided by sqrt(D).
Letters: B batch, H heads, T tokens, D head dim, E that of values, R rounds, N buckets, M keys kept of a bucket, S = N M
slots of a round, P rotated directions = N / 2, L places of an order, C queries of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Num
from torch import Tensor

from ttbench.kernels.dispatch.choice import op

SELF = -1e5  # score of a token for itself
UNIT_EPS = 1e-6  # least length that a query is divided by
BUCKET = 1 << 40  # distance of buckets in codes: tokens that a bucket may ever see
NO_PLACE = -(1 << 62)  # code of what stands before the first
LEAST_QUERIES = 16  # of a block: fewer than this are not worth a product of their own
SPAN_SCORES = 1 << 21  # scores that are made at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class LSHState:
    """The rings: slot `bucket * M + place % M` of a round holds the token that came to that place of the bucket."""

    K: Float[Tensor, "B H R S D"]
    V: Float[Tensor, "B H R S D"]
    codes: Int[Tensor, "B H R S R"]  # of the token that a slot holds, in all rounds
    counts: Int[Tensor, "B H R N"]  # tokens that a bucket has seen

    NAMES: ClassVar[tuple[str, ...]] = ("K", "V", "codes", "counts")
    WHOLE: ClassVar[tuple[str, ...]] = ("codes", "counts")  # those of integers

    @classmethod
    def of(cls, part: Mapping[str, Tensor]) -> LSHState:
        """From tensors by field; not copied."""
        return cls(K=part["K"], V=part["V"], codes=part["codes"], counts=part["counts"])

    @property
    def num_kept(self) -> int:
        """M."""
        return self.K.shape[3] // self.counts.shape[3]

    @staticmethod
    def shapes(
        *, num_heads: int, num_rounds: int, num_buckets: int, num_kept: int, dim: int
    ) -> dict[str, tuple[int, ...]]:
        """Field -> shape of one sequence."""
        rings = (num_heads, num_rounds, num_buckets * num_kept)
        return {
            "K": (*rings, dim),
            "V": (*rings, dim),
            "codes": (*rings, num_rounds),
            "counts": (num_heads, num_rounds, num_buckets),
        }


def flops(dim: int, *, num_rounds: int, num_kept: int) -> int:
    """FLOP of one token in one head: scores and values of full rings, without the hash."""
    return 2 * 2 * dim * num_rounds * num_kept


def hash_flops(dim: int, *, num_rounds: int, num_buckets: int) -> int:
    """FLOP of hashing one vector in one head."""
    return 2 * dim * num_rounds * (num_buckets // 2)


@torch.no_grad()
def hash_vectors(x: Float[Tensor, "B H T D"], rotations: Float[Tensor, "H R D P"]) -> Int[Tensor, "B H R T"]:
    """Buckets 0 .. 2 P - 1; all 0 when P is 0. The length of `x` does not matter, and no gradient flows.

    In float64: sums in another order, as they are made for another T, then differ by 1e-16, and a bucket changes only
    where two directions are that equal.
    """
    num_directions = rotations.shape[-1]
    if num_directions == 0:
        return x.new_zeros(*x.shape[:2], rotations.shape[1], x.shape[2], dtype=torch.int64)
    along = torch.einsum("bhtd,hrdp->bhrtp", x.to(torch.float64), rotations.to(torch.float64))
    best = along.abs().argmax(-1, keepdim=True)
    return (best + num_directions * (along.gather(-1, best) < 0)).squeeze(-1)


def reference(
    q: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    buckets: Int[Tensor, "B H R T"],
    initial_state: LSHState,
) -> tuple[Float[Tensor, "B H T D"], LSHState]:
    """Token by token: one softmax over the union of all rounds.

    Args:
        q: queries, rotated already; divided by their length they are the keys.
        buckets: of each token in each round, from `hash_vectors`.
        initial_state: what the tokens before left; not changed.
    """
    state, outs = initial_state, []
    for t in range(q.shape[2]):
        q_t, v_t, bucket = q[:, :, t], v[:, :, t], buckets[..., t]
        out, slot, code = _read(q_t, v_t, bucket, state)
        outs.append(out)
        rows = slot[..., None, None]
        k_t = F.normalize(q_t, dim=-1, eps=UNIT_EPS)
        state = LSHState(
            K=state.K.scatter(3, _like(rows, state.K), _each_round(k_t, state.K)),
            V=state.V.scatter(3, _like(rows, state.V), _each_round(v_t, state.V)),
            codes=state.codes.scatter(3, _like(rows, state.codes), _each_round(code, state.codes)),
            counts=state.counts.scatter_add(-1, bucket[..., None], torch.ones_like(bucket[..., None])),
        )
    return torch.stack(outs, 2), state


@op("lsh_attention_step", "step")
def step(
    q: Float[Tensor, "B H 1 D"], v: Float[Tensor, "B H 1 D"], buckets: Int[Tensor, "B H R 1"], state: LSHState
) -> Float[Tensor, "B H 1 D"]:
    """One token; `state` is CHANGED IN PLACE."""
    q_t, v_t, bucket = q[:, :, 0], v[:, :, 0], buckets[..., 0]
    out, slot, code = _read(q_t, v_t, bucket, state)
    rows = slot[..., None, None]
    k_t = F.normalize(q_t, dim=-1, eps=UNIT_EPS)
    for into, x in ((state.K, k_t), (state.V, v_t), (state.codes, code)):
        into.scatter_(3, _like(rows, into), _each_round(x.to(into.dtype), into))
    state.counts.scatter_add_(-1, buckets, torch.ones_like(buckets))
    return out[:, :, None]


def _read(
    q: Float[Tensor, "B H D"], v: Float[Tensor, "B H D"], bucket: Int[Tensor, "B H R"], state: LSHState
) -> tuple[Float[Tensor, "B H D"], Int[Tensor, "B H R"], Int[Tensor, "B H R"]]:
    """What one token reads, the slot that it goes to, and its codes."""
    num_kept = state.num_kept
    count = state.counts.gather(-1, bucket[..., None])[..., 0]
    code = bucket * BUCKET + count + num_kept + 1
    rows = (bucket[..., None] * num_kept + torch.arange(num_kept, device=q.device))[..., None]  # [B, H, R, M, 1]
    K, V, codes = (x.gather(3, _like(rows, x)) for x in (state.K, state.V, state.codes))
    age = code[:, :, None, None] - codes
    held = (age > 0) & (age <= num_kept)  # [B, H, R, M, R]
    seen = held.diagonal(dim1=2, dim2=4).mT
    scores = torch.einsum("bhd,bhrmd->bhrm", q, K.to(q.dtype)) - held.sum(-1).clamp_min(1).to(q.dtype).log()
    scores = scores.masked_fill(~seen, -torch.inf).flatten(2)
    shares = F.pad(scores, (0, 1), value=SELF).softmax(-1)
    out = torch.einsum("bhs,bhsd->bhd", shares[..., :-1], V.to(q.dtype).flatten(2, 3)) + shares[..., -1:] * v
    return out, bucket * num_kept + count % num_kept, code


def _like(rows: Int[Tensor, "B H R L 1"], x: Tensor) -> Int[Tensor, "B H R L D"]:
    """Rows as an index into `x`."""
    return rows.expand(*rows.shape[:4], x.shape[-1])


def _each_round(x: Num[Tensor, "B H D"], like: Tensor) -> Num[Tensor, "B H R 1 D"]:
    """A token's row for every round."""
    return x[:, :, None, None].expand(*like.shape[:3], 1, x.shape[-1])


@op("lsh_attention", "chunked")
def chunked(
    q: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    buckets: Int[Tensor, "B H R T"],
    initial_state: LSHState,
) -> tuple[Float[Tensor, "B H T D"], LSHState]:
    """The same numbers as `reference`, by sorting; differentiable. Arguments as there."""
    state, num_kept = initial_state, initial_state.num_kept
    num_rounds, num_buckets = state.counts.shape[2:]
    k = F.normalize(q, dim=-1, eps=UNIT_EPS)
    turn = torch.arange(num_kept, device=q.device)
    first = num_kept * torch.arange(num_buckets, device=q.device)[:, None]
    # what the rings hold, oldest first: it stands before the new tokens of its bucket
    slots = (first + (state.counts[..., None] + turn) % num_kept).flatten(-2)
    order, ends = _sort(buckets, num_buckets=num_buckets, num_kept=num_kept)
    place = _places(order, buckets, ends) - num_kept  # of new tokens in their buckets in this call
    count = state.counts.gather(-1, buckets)
    codes = buckets * BUCKET + count + place + num_kept + 1
    num_past = slots.shape[-1]
    source = torch.where(order < num_past, slots.gather(-1, order.clamp_max(num_past - 1)), order)
    K, V, held_codes = (
        torch.cat((old.to(new.dtype), new[:, :, None].expand(-1, -1, num_rounds, -1, -1)), 3)
        for old, new in ((state.K, k), (state.V, v), (state.codes, codes.mT))
    )
    out = _attend(q, (K, V, held_codes), order=order, source=source, num_kept=num_kept)
    counts = state.counts + ends.diff(dim=-1, prepend=torch.zeros_like(ends[..., :1])) - num_kept
    last = (ends[..., None] - num_kept + (turn - counts[..., None]) % num_kept).flatten(-2)
    rows = source.gather(-1, last)
    return out, LSHState(K=_rows(K, rows), V=_rows(V, rows), codes=_rows(held_codes, rows), counts=counts)


@op("lsh_attention", "whole")
def whole(
    q: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T E"],
    buckets: Int[Tensor, "B H R T"],
    *,
    num_buckets: int,
    num_kept: int,
) -> Float[Tensor, "B H T E"]:
    """`chunked` from an empty state, without the state it would leave: for training."""
    order, ends = _sort(buckets, num_buckets=num_buckets, num_kept=0)
    codes = buckets * BUCKET + _places(order, buckets, ends) + num_kept + 1
    k = F.normalize(q, dim=-1, eps=UNIT_EPS)
    return _attend(q, (k, v, codes.mT), order=order, source=order, num_kept=num_kept)


def _sort(
    buckets: Int[Tensor, "B H R T"], *, num_buckets: int, num_kept: int
) -> tuple[Int[Tensor, "B H R L"], Int[Tensor, "B H R N"]]:
    """Order by bucket of `num_kept` entries for each bucket and then the tokens, and where each bucket ends."""
    past = torch.arange(num_buckets, device=buckets.device).repeat_interleave(num_kept)
    entries = torch.cat((past.expand(*buckets.shape[:3], -1), buckets), -1)
    sizes = entries.new_zeros(*entries.shape[:3], num_buckets)
    sizes.scatter_add_(-1, entries, torch.ones_like(entries))
    return entries.argsort(dim=-1, stable=True), sizes.cumsum(-1)


def _inverse(order: Int[Tensor, "B H R L"]) -> Int[Tensor, "B H R L"]:
    """Where each entry stands in the order."""
    return torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )


def _places(
    order: Int[Tensor, "B H R L"], buckets: Int[Tensor, "B H R T"], ends: Int[Tensor, "B H R N"]
) -> Int[Tensor, "B H R T"]:
    """How many entries stand before each token in its bucket."""
    starts = F.pad(ends[..., :-1], (1, 0))
    return _inverse(order)[..., -buckets.shape[-1] :] - starts.gather(-1, buckets)


def _rows(x: Num[Tensor, "B H *rounds K D"], index: Int[Tensor, "B H R L"]) -> Num[Tensor, "B H R L D"]:
    """Rows of `x` by number, whole rows at a time; without R they are the same for all rounds."""
    groups = torch.arange(x.shape[:-2].numel(), device=x.device).view(*x.shape[:-2], *(1,) * (6 - x.ndim))
    return x.flatten(0, -2).index_select(0, (groups * x.shape[-2] + index).flatten()).view(*index.shape, x.shape[-1])


def _attend(
    q: Float[Tensor, "B H T D"],
    held: tuple[Tensor, ...],
    *,
    order: Int[Tensor, "B H R L"],
    source: Int[Tensor, "B H R L"],
    num_kept: int,
) -> Float[Tensor, "B H T E"]:
    """Every token's attention to its predecessors in the order.

    Args:
        held: keys, values [B, H, R, K, D] and codes [B, H, R, K, R] of the entries; without R where every round has
            the same.
        order: entries by bucket; the last T of them in number are the tokens.
        source: row of `held` for each place of the order.
    """
    num_tokens, num_entries = q.shape[2], order.shape[-1]
    size = max(num_kept, LEAST_QUERIES)
    num_blocks = -(-num_entries // size)
    behind = (0, num_blocks * size - num_entries)
    around = (num_kept, behind[1])
    # An entry of a ring asks nothing: it stands in the order with the first token's query, and its answer is dropped.
    asked = F.pad((order - (num_entries - num_tokens)).clamp_min(0), behind)
    # [B, H, R, blocks, D, keys of a block]
    K, V = (_rows(x, F.pad(source, around)).unfold(3, size + num_kept, size) for x in held[:2])
    codes = F.pad(_rows(held[2], source), (0, 0, *around), value=NO_PLACE)
    Q = _rows(q, asked).unflatten(3, (num_blocks, size))
    asking = codes[:, :, :, num_kept:].unflatten(3, (num_blocks, size))
    codes = codes.unfold(3, size + num_kept, size)
    span = max(1, SPAN_SCORES // (order[..., 0].numel() * size * (size + num_kept)))
    outs, sums = [], []
    for start in range(0, num_blocks, span):
        part = (slice(None), slice(None), slice(None), slice(start, start + span))
        bias = _bias(asking[part], codes[part], num_kept=num_kept, dtype=q.dtype)
        scores = Q[part] @ K[part] + bias
        total = scores.logsumexp(-1, keepdim=True)
        outs.append((scores - total).exp() @ V[part].mT)
        sums.append(total)
    where = _inverse(order)[..., -num_tokens:]
    total = _rows(torch.cat(sums, 3).flatten(3, 4), where)
    return (total.softmax(2) * _rows(torch.cat(outs, 3).flatten(3, 4), where)).sum(2)


@torch.no_grad()
def _bias(
    asking: Int[Tensor, "B H R L C R"], codes: Int[Tensor, "B H R L R K"], *, num_kept: int, dtype: torch.dtype
) -> Float[Tensor, "B H R L C K"]:
    """What is added to the scores of blocks of C queries: - log N, or SELF for oneself, or - infinity."""
    size, num_rounds = asking.shape[4], asking.shape[2]
    times = torch.zeros(*asking.shape[:5], codes.shape[-1], dtype=dtype, device=codes.device)
    seen = torch.empty_like(times, dtype=torch.bool)
    for r in range(num_rounds):
        age = asking[..., r, None] - codes[..., None, r, :]
        held = (age > 0) & (age <= num_kept)
        times += held
        seen[:, :, r] = held[:, :, r]
    # key number `num_kept` of a block is its first query's own
    distance = torch.arange(size, device=codes.device)[:, None] - torch.arange(codes.shape[-1], device=codes.device)
    distance += num_kept
    seen &= (distance > 0) & (distance <= num_kept)
    return torch.where(seen, -times.log(), -torch.inf).masked_fill_(distance == 0, SELF)
