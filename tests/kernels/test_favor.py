"""FAVOR+: its formula, its splits and limits, and the statistics of its features.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from golden import make_performer
from torch import Tensor

from ttbench.kernels import attention, favor
from ttbench.kernels.favor import FavorState

GOLDEN = Path(__file__).parents[1] / "golden"
BATCH, HEADS, DIM, NUM_FEATURES = 2, 3, 8, 20
SPLITS = {"ones": (1,) * 140, "63+1+64+12": (63, 1, 64, 12), "7+130+3": (7, 130, 3), "65+75": (65, 75)}

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, FavorState]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(num_features: int = NUM_FEATURES, *, seed: int = 0) -> Tensor:
    return favor.draw_features(num_features, DIM, draw=torch.Generator().manual_seed(seed))


def inputs(
    num_tokens: int, *, length: float = 3.0, eps: float = 0.0, w: Tensor | None = None, dtype=torch.float64
) -> Arguments:
    """q and k of about this length, v, features and the state before the first token."""
    q, k, v = (normal(BATCH, num_tokens, HEADS, DIM, seed=i) for i in range(3))
    q, k = (length / DIM**0.5 * x for x in (q, k))
    w = features() if w is None else w
    start = FavorState.initial(w.to(dtype), batch_size=BATCH, num_heads=HEADS, eps=eps)
    return q.to(dtype), k.to(dtype), v.to(dtype), w.to(dtype), start


def part(args: Arguments, first: int, last: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return args[0][:, first:last], args[1][:, first:last], args[2][:, first:last], args[3]


def phi(x: Tensor, w: Tensor) -> Tensor:
    """The paper's features, with no stabiliser: Lemma 1, with x / D^(1/4). w: [..., F, D]."""
    x = x / x.shape[-1] ** 0.25
    return (x @ w.mT - x.square().sum(-1, keepdim=True) / 2).exp() / w.shape[-2] ** 0.5


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


# What it computes


def test_without_eps_it_is_the_papers_ratio_of_sums_over_the_past():
    q, k, v, w, start = inputs(100)
    shares = torch.einsum("bthf,bshf->bhts", phi(q, w), phi(k, w)).tril()
    expected = torch.einsum("bhts,bshd->bthd", shares / shares.sum(-1, keepdim=True), v)
    for op in (favor.reference, favor.chunked):
        out, final = op(q, k, v, w, start, eps=0.0)
        close(out, expected)
        sums = torch.einsum("bshf,bshd->bhfd", phi(k, w) * NUM_FEATURES**0.5, v)
        close(final.peak.exp()[..., None] * final.sums[..., :-1], sums)


@pytest.mark.parametrize("case", make_performer.CASES)
def test_each_output_is_that_of_performer_pytorch_on_an_input_that_ends_there(case):
    recorded = json.loads((GOLDEN / f"performer_{case}.json").read_text())
    q, k, v = (torch.from_numpy(make_performer.array(name)).transpose(1, 2) for name in "qkv")
    w = torch.from_numpy(make_performer.array("features"))
    start = FavorState.initial(w, batch_size=len(q), num_heads=make_performer.HEADS, eps=recorded["eps"])
    expected = torch.tensor(recorded["out"], dtype=torch.float64)
    for op in (favor.reference, favor.chunked):
        out, _ = op(q, k, v, w, start, eps=recorded["eps"])
        out = out[:, recorded["positions"]].transpose(1, 2).reshape(-1, make_performer.DIM)
        assert (out - expected).abs().max() < 1e-8 * expected.abs().max()


def test_eps_tells_the_goldens_apart():
    outs = [torch.tensor(json.loads((GOLDEN / f"performer_{c}.json").read_text())["out"]) for c in make_performer.CASES]
    assert (outs[0] - outs[1]).abs().max() > 1e-3
    assert (outs[1] - outs[2]).abs().max() > 1e-3


# Splits, steps, causality


@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
def test_any_split_gives_the_same_outputs_and_state(splits, eps):
    args = inputs(140, eps=eps, length=8.0)
    whole, final = favor.chunked(*args, eps=eps)
    state, outs, first = args[4], [], 0
    for length in splits:
        out, state = favor.chunked(*part(args, first, first + length), state, eps=eps)
        outs.append(out)
        first += length
    close(torch.cat(outs, 1), whole)
    close(state.sums, final.sums)
    close(state.peak, final.peak)


def test_the_gradient_through_two_calls_is_that_of_one():
    grads = []
    for splits in ((100,), (37, 63)):
        q, k, v, w, state = inputs(100)
        leaves, outs, first = [x.requires_grad_() for x in (q, k, v, w)], [], 0
        for length in splits:
            out, state = favor.chunked(*part((q, k, v, w, state), first, first + length), state, eps=0.0)
            outs.append(out)
            first += length
        grads.append(torch.autograd.grad((torch.cat(outs, 1) * normal(*v.shape, seed=9)).sum(), leaves))
    for one, two in zip(*grads, strict=True):
        close(two, one)


def test_the_gradient_is_that_of_finite_differences():
    q, k, v, w, _ = inputs(5)
    leaves = [x[:1, :, :1].clone().requires_grad_() for x in (q, k, v)]
    state = FavorState.initial(w, batch_size=1, num_heads=1, eps=0.0)
    torch.autograd.gradcheck(
        lambda q, k, v, w: favor.chunked(q, k, v, w, state, eps=0.0)[0], (*leaves, w.requires_grad_())
    )


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_steps_equal_the_reference_at_the_same_addresses(eps):
    args = inputs(40, eps=eps)
    expected, final = favor.reference(*args, eps=eps)
    state = FavorState(sums=args[4].sums.clone(), peak=args[4].peak.clone())
    addresses = [state.sums.data_ptr(), state.peak.data_ptr()]
    for t in range(40):
        q, k, v, w = part(args, t, t + 1)
        close(favor.step(q[:, 0], k[:, 0], v[:, 0], w, state, eps=eps), expected[:, t])
    close(state.sums, final.sums)
    close(state.peak, final.peak)
    assert [state.sums.data_ptr(), state.peak.data_ptr()] == addresses


@pytest.mark.parametrize("eps", [0.0, 1e-2])
@pytest.mark.parametrize("op", [favor.reference, favor.chunked])
def test_a_later_key_of_any_size_moves_no_earlier_output(op, eps):
    q, k, v, w, start = inputs(100, eps=eps)
    before, _ = op(q, k, v, w, start, eps=eps)
    k, v = k.clone(), v.clone()
    k[:, 50:] *= 10
    v[:, 50:] += 1
    after, _ = op(q, k, v, w, start, eps=eps)
    assert (after - before)[:, :50].abs().max() < 1e-13
    assert (after - before)[:, 50:].abs().amax((0, 2, 3)).min() > 1e-6


def test_arguments_are_not_changed():
    q, k, v, w, start = inputs(70, eps=1e-2)
    _, start = favor.chunked(q, k, v, w, start, eps=1e-2)
    args = (q, k, v, w, start.sums, start.peak)
    before = [x.clone() for x in args]
    out, final = favor.chunked(q, k, v, w, start, eps=1e-2)
    for result in (out, final.sums, final.peak):
        result.zero_()
    assert all(torch.equal(now, then) for now, then in zip(args, before, strict=True))


# Sizes


def in_float64(args: Arguments, *, eps: float) -> tuple[Tensor, FavorState]:
    """The reference, from the first token."""
    q, k, v, w = (x.detach().double() for x in args[:4])
    start = FavorState.initial(w, batch_size=BATCH, num_heads=HEADS, eps=eps)
    return favor.reference(q, k, v, w, start, eps=eps)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("length", [1e-3, 30.0, 100.0, 1000.0])
def test_scores_of_any_size_stay_exact_in_float32(length, eps):
    args = inputs(200, length=length, eps=eps, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in args[:4]]
    out, final = favor.chunked(*args, eps=eps)
    grads = torch.autograd.grad(out.sum() + final.sums.sum(), leaves)
    assert all(torch.isfinite(x).all() for x in (out, final.sums, final.peak, *grads))
    exact, _ = in_float64(args, eps=eps)
    assert (out - exact).abs().mean() < 1e-5 * exact.abs().mean()


def test_a_key_that_dwarfs_those_before_it_leaves_them_their_outputs_in_float32():
    q, k, v, w, start = inputs(60, length=30.0, dtype=torch.float32)
    # along the first feature, whose exponent rises far at token 30, inside a chunk
    k[:, 30:] = w[0] * DIM**0.25
    k[:, 45:] = 0.01 * k[:, 45:]
    exact, _ = in_float64((q, k, v, w, start), eps=0.0)
    out, _ = favor.chunked(q, k, v, w, start, eps=0.0)
    assert (out - exact).abs().max() < 1e-3 * exact.abs().max()


def test_a_long_sequence_stays_exact_in_float32():
    single, double = inputs(3000, dtype=torch.float32), inputs(3000)
    out, final = favor.chunked(*single, eps=0.0)
    exact, expected = favor.chunked(*double, eps=0.0)
    assert (out - exact).abs().max() < 1e-5 * exact.abs().max()
    assert (final.sums - expected.sums).abs().max() < 1e-5 * expected.sums.abs().max()


# Features


def test_rows_of_a_block_are_orthogonal_and_follow_from_the_seed():
    w = features(20, seed=4)
    assert w.shape == (20, DIM)
    for block in (w[:8], w[8:16], w[16:]):
        products = block @ block.mT
        assert (products - products.diagonal().diag()).abs().max() < 1e-12 * products.max()
    assert torch.equal(w, features(20, seed=4))
    assert not torch.equal(w, features(20, seed=5))


def constant_lengths(w: Tensor) -> Tensor:
    """The published code's other choice of lengths."""
    return w / w.norm(dim=-1, keepdim=True) * DIM**0.5


def published_draws(num_draws: int) -> Tensor:
    """Orthogonal factors as LAPACK gives them, without the signs of R's diagonal."""
    Q, _ = torch.linalg.qr(normal(num_draws, DIM, DIM, seed=1))
    return Q.mT * normal(num_draws, DIM, DIM, seed=2).norm(dim=-1, keepdim=True)


def kernel_estimates(w: Tensor) -> tuple[Tensor, Tensor]:
    """Estimates [N, 50] of exp(q . k / sqrt(D)) for N draws of features and 50 pairs, and the truth."""
    q, k = 0.4 * normal(2, 50, DIM, seed=5)
    return torch.einsum("nif,nif->ni", phi(q, w), phi(k, w)), ((q * k).sum(-1) / DIM**0.5).exp()


def largest_z(w: Tensor) -> float:
    """Over the pairs, how many standard errors the mean over draws is from the truth."""
    found, truth = kernel_estimates(w)
    return float(((found.mean(0) - truth) / (found.std(0) / len(w) ** 0.5)).abs().max())


def test_the_mean_over_draws_is_the_softmax_kernel_and_the_test_sees_biased_draws():
    w = torch.stack([features(DIM, seed=seed) for seed in range(3000)])
    assert largest_z(w) < 4
    assert largest_z(constant_lengths(w)) > 6
    assert largest_z(published_draws(3000)) > 6


def test_orthogonal_features_err_less_than_independent_ones():
    errors = []
    for w in (torch.stack([features(DIM, seed=seed) for seed in range(3000)]), normal(3000, DIM, DIM, seed=0)):
        found, truth = kernel_estimates(w)
        errors.append(float((found / truth - 1).square().mean()))
    assert errors[0] < 0.92 * errors[1]


def test_the_error_against_softmax_attention_falls_with_the_root_of_the_feature_count():
    errors = {}
    for num_features in (16, 256):
        squares = []
        for seed in range(12):
            q, k, v, w, start = inputs(32, length=0.85, w=features(num_features, seed=seed))
            exact = attention.reference(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
            out, _ = favor.chunked(q, k, v, w, start, eps=0.0)
            squares.append((out - exact).square().mean() / exact.square().mean())
        errors[num_features] = math.sqrt(sum(map(float, squares)) / len(squares))
    # 16 times the features: a quarter of the error
    assert 3 < errors[16] / errors[256] < 5.3
    assert errors[256] < 0.05


def test_work_of_a_token_is_that_counted_by_hand():
    # q and k on 10 features: 2 * 2 * 10 * 7. The state of 10 rows of [v, 1]: rescaled, added to and read, 1 + 2 + 2.
    assert favor.flops(7, 10, eps=0) == 280 + 400
    # the floor is a row more
    assert favor.flops(7, 10, eps=0.01) == 280 + 440
