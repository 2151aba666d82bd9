"""Streaming LSH attention: what it is in limits that are known, what its rounds do, and how its work grows.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ttbench.kernels import lsh_attention
from ttbench.kernels.lsh_attention import LSHState, hash_vectors

DIM = 8


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rotations(num_rounds: int, num_buckets: int, *, seed: int = 1) -> Tensor:
    """[2 heads, R, D, P]; fewer rounds are the first of more."""
    return normal(2, 16, DIM, num_buckets // 2, seed=seed)[:, :num_rounds]


def shares(q: Tensor, buckets: Tensor, *, num_buckets: int, num_kept: int) -> Tensor:
    """What each token gives each other, [B, H, T, T]: the values are the rows of the unit matrix."""
    eye = torch.eye(q.shape[2], dtype=q.dtype).expand(*q.shape[:2], -1, -1)
    return lsh_attention.whole(q, eye, buckets, num_buckets=num_buckets, num_kept=num_kept)


def dense(q: Tensor) -> Tensor:
    """Shares of causal attention with shared queries and keys, oneself left out."""
    scores = q @ (q / q.norm(dim=-1, keepdim=True)).mT
    earlier = torch.ones_like(scores, dtype=torch.bool).tril(-1)
    found = scores.masked_fill(~earlier, -torch.inf)
    found[..., 0, 0] = 0
    return found.softmax(-1)


def empty(num_rounds: int, num_buckets: int, num_kept: int, *, dtype: torch.dtype = torch.float64) -> LSHState:
    shapes = LSHState.shapes(
        num_heads=2, num_rounds=num_rounds, num_buckets=num_buckets, num_kept=num_kept, dim=DIM
    ).items()
    return LSHState.of(
        {name: torch.zeros(2, *shape, dtype=torch.int64 if name in LSHState.WHOLE else dtype) for name, shape in shapes}
    )


@pytest.mark.parametrize("num_kept", [62, 63, 200])
@pytest.mark.parametrize("num_rounds", [1, 3])
def test_one_bucket_that_holds_everything_is_causal_attention_with_shared_queries_and_keys(num_rounds, num_kept):
    q = normal(2, 2, 63, DIM)
    buckets = hash_vectors(q, rotations(num_rounds, 1))
    found = shares(q, buckets, num_buckets=1, num_kept=num_kept)
    torch.testing.assert_close(found, dense(q), rtol=1e-12, atol=1e-13)


def test_a_token_reads_the_last_of_its_bucket_in_any_round_each_once_and_itself_only_alone():
    q, num_kept = normal(1, 2, 80, DIM), 4
    buckets = hash_vectors(q, rotations(3, 8))
    found = shares(q, buckets, num_buckets=8, num_kept=num_kept)
    scores = q @ (q / q.norm(dim=-1, keepdim=True)).mT
    num_alone = 0
    for head in range(2):
        for t in range(80):
            rounds = [torch.nonzero(row[:t] == row[t])[-num_kept:, 0].tolist() for row in buckets[0, head]]
            seen = sorted({j for row in rounds for j in row}) or [t]
            num_alone += seen == [t]
            expected = torch.zeros(80, dtype=q.dtype)
            expected[seen] = scores[0, head, t, seen].softmax(-1)
            torch.testing.assert_close(found[0, head, t], expected, rtol=1e-12, atol=1e-13)
    assert 2 <= num_alone < 20


def test_the_same_round_twice_is_one_round():
    q, turns = normal(2, 2, 63, DIM), rotations(1, 4)
    once, twice = (
        shares(q, hash_vectors(q, each), num_buckets=4, num_kept=5) for each in (turns, turns.expand(-1, 2, -1, -1))
    )
    torch.testing.assert_close(once, twice, rtol=1e-12, atol=1e-13)


def test_recall_grows_with_rounds_and_with_what_a_bucket_keeps():
    q = 2 * normal(2, 2, 200, DIM)
    wanted, recalls = dense(q), {}
    for num_rounds in (1, 2, 4, 8, 16):
        for num_kept in (4, 16, 64):
            found = shares(q, hash_vectors(q, rotations(num_rounds, 16)), num_buckets=16, num_kept=num_kept)
            recalls[num_rounds, num_kept] = float(wanted[:, :, 1:][found[:, :, 1:] > 0].sum() / (2 * 2 * 199))
    for (num_rounds, num_kept), recall in recalls.items():
        for more in ((2 * num_rounds, num_kept), (num_rounds, 4 * num_kept)):
            assert more not in recalls or recalls[more] > recall
    # keys are hashed where they point: one round of 16 buckets finds far more than the sixteenth that chance would
    assert recalls[1, 64] > 0.25
    assert recalls[16, 64] > 0.9


def test_a_hash_is_a_direction_whatever_the_length_and_however_many_are_hashed():
    turns = rotations(3, 8).float()
    x = normal(2, 2, 500, DIM, dtype=torch.float32)
    buckets = hash_vectors(x, turns)
    assert buckets.unique().tolist() == list(range(8))
    assert torch.equal(hash_vectors(1e-3 * x, turns), buckets)
    assert torch.equal(hash_vectors(-x, turns), (buckets + 4) % 8)
    assert torch.equal(hash_vectors(x.double(), turns.double()), buckets)
    for t in (0, 77, 499):
        assert torch.equal(hash_vectors(x[:, :, t : t + 1], turns), buckets[..., t : t + 1])
    assert hash_vectors(torch.zeros_like(x), turns).unique().numel() == 1


def test_close_vectors_meet_more_often_than_distant_ones():
    turns, x = rotations(16, 8), normal(2, 2, 300, DIM)
    meet = [
        float((hash_vectors(x + noise * normal(*x.shape, seed=5), turns) == hash_vectors(x, turns)).double().mean())
        for noise in (0.0, 0.1, 0.5, 2.0, 1e6)
    ]
    assert meet[0] == 1.0
    assert meet == sorted(meet, reverse=True)
    assert 1 / 8 < meet[-1] < 1 / 6


def test_spans_of_blocks_change_nothing(monkeypatch):
    q, v = normal(2, 2, 200, DIM), normal(2, 2, 200, DIM, seed=2)
    buckets = hash_vectors(q, rotations(2, 4))
    before, _ = lsh_attention.chunked(q, v, buckets, empty(2, 4, 5))
    monkeypatch.setattr(lsh_attention, "SPAN_SCORES", 1)
    after, _ = lsh_attention.chunked(q, v, buckets, empty(2, 4, 5))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-13)
    whole = lsh_attention.whole(q, v, buckets, num_buckets=4, num_kept=5)
    torch.testing.assert_close(whole, before, rtol=1e-12, atol=1e-13)


def test_billions_of_tokens_before_change_nothing():
    q, v = normal(2, 2, 60, DIM), normal(2, 2, 60, DIM, seed=2)
    buckets, num_kept = hash_vectors(q, rotations(2, 4)), 5
    _, young = lsh_attention.chunked(q[:, :, :40], v[:, :, :40], buckets[..., :40], empty(2, 4, num_kept))
    ages = num_kept * 10**9
    old = dataclasses.replace(young, codes=young.codes + ages * (young.codes > 0), counts=young.counts + ages)
    for op in (lsh_attention.reference, lsh_attention.chunked):
        one, other = (op(q[:, :, 40:], v[:, :, 40:], buckets[..., 40:], state)[0] for state in (young, old))
        assert torch.equal(one, other)


def test_rings_hold_the_last_keys_of_every_bucket():
    q, v, num_kept = normal(2, 2, 90, DIM), normal(2, 2, 90, DIM, seed=2), 5
    buckets = hash_vectors(q, rotations(2, 4))
    _, state = lsh_attention.chunked(q, v, buckets, empty(2, 4, num_kept))
    for batch, head, r, bucket in ((0, 0, 0, 0), (1, 0, 1, 3), (1, 1, 0, 2)):
        members = torch.nonzero(buckets[batch, head, r] == bucket)[:, 0]
        assert state.counts[batch, head, r, bucket] == len(members) > num_kept
        ring = state.V[batch, head, r, bucket * num_kept : (bucket + 1) * num_kept]
        places = torch.arange(len(members))[-num_kept:] % num_kept
        assert torch.equal(ring[places], v[batch, head, members[-num_kept:]])


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation made."""

    num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(each, Tensor):
                self.num_elements = max(self.num_elements, each.numel())
        return out


@pytest.mark.parametrize("stateful", [False, True])
def test_work_and_memory_grow_with_the_tokens_and_not_with_their_square(stateful):
    work, memory = [], []
    for num_tokens in (1024, 4096):
        q = normal(2, 2, num_tokens, DIM, dtype=torch.float32)
        buckets = hash_vectors(q, rotations(2, 8))
        with Largest() as largest, FlopCounterMode(display=False) as counter:
            if stateful:
                lsh_attention.chunked(q, q, buckets, empty(2, 8, 8, dtype=torch.float32))
            else:
                lsh_attention.whole(q, q, buckets, num_buckets=8, num_kept=8)
        work.append(counter.get_total_flops())
        memory.append(largest.num_elements)
    assert 3.5 <= work[1] / work[0] <= 4.0
    assert memory[1] / memory[0] <= 4.0
    # queries by blocks of 16 read 24 keys each, of which 8 count
    ideal = 2 * 2 * 4096 * lsh_attention.flops(DIM, num_rounds=2, num_kept=8)
    assert work[1] < 3.2 * ideal


def test_length_of_a_query_is_its_temperature_and_a_zero_query_is_finite():
    q, v = normal(2, 2, 30, DIM), normal(2, 2, 30, DIM, seed=2)
    q[:, :, 7] = 0
    q.requires_grad_()
    out = lsh_attention.whole(q, v, torch.zeros(2, 2, 1, 30, dtype=torch.int64), num_buckets=1, num_kept=30)
    torch.testing.assert_close(out[:, :, 7], v[:, :, :7].mean(2))
    out.square().sum().backward()
    assert q.grad is not None
    assert math.isfinite(float(q.grad.abs().sum()))


def test_work_of_a_token_is_that_counted_by_hand():
    # 5 kept keys in each of 3 rounds: 15 scores and 15 shares of values, 7 products and 7 sums each.
    assert lsh_attention.flops(7, num_rounds=3, num_kept=5) == 420
    # 8 buckets are 4 directions and their opposites, in each of 3 rounds.
    assert lsh_attention.hash_flops(7, num_rounds=3, num_buckets=8) == 168
