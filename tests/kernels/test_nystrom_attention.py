"""Nystroem's form of Gaussian attention against the exact one that is not causal, and its inverse.

Parity of `reference` and `chunked` and their gradients are in tests/conformance.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from ttbench.kernels import nystrom_attention


def inputs(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(num_tokens)
    q, k, v = (torch.randn(2, 2, num_tokens, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    return q, k, v


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Gaussian-kernel attention of every token to every token, pair by pair in numpy."""
    out = np.zeros(v.shape)
    for b, h, t in np.ndindex(*q.shape[:3]):
        distances = ((q[b, h, t].numpy() - k[b, h].numpy()) ** 2).sum(-1)
        out[b, h, t] = np.exp(-distances / 2 / np.sqrt(q.shape[-1])) @ v[b, h].numpy()
    return torch.from_numpy(out)


def error(num_landmarks: int, *, ridge: float, steps: int, num_tokens: int = 100, form: str = "chunked") -> float:
    """Of the output, relative to its norm; landmarks of fewer are among those of more."""
    q, k, v = inputs(num_tokens)
    places = torch.randperm(2 * num_tokens, generator=torch.Generator().manual_seed(0))[:num_landmarks]
    expected = exact(q, k, v)
    found = getattr(nystrom_attention, form)(q, k, v, places, ridge=ridge, steps=steps)
    return float((found - expected).norm() / expected.norm())


def test_the_error_falls_with_the_number_of_landmarks() -> None:
    errors = [error(count, ridge=1e-3, steps=24) for count in (6, 12, 25, 50, 100, 200)]
    print(errors)
    assert all(more < 0.9 * fewer for fewer, more in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.01 < 0.5 < errors[0]


def test_the_error_falls_with_the_authors_ridge_and_steps_too() -> None:
    errors = [error(count, ridge=0.1, steps=6) for count in (6, 25, 100, 200)]
    print(errors)
    assert all(more < fewer for fewer, more in itertools.pairwise(errors)), errors


@pytest.mark.parametrize("form", ["reference", "chunked"])
@pytest.mark.parametrize("num_tokens", [1, 15, 63])
def test_with_every_point_a_landmark_it_is_exact_but_for_the_ridge(num_tokens: int, form: str) -> None:
    for ridge in (1e-4, 1e-6, 1e-8):
        assert error(2 * num_tokens, ridge=ridge, steps=60, num_tokens=num_tokens, form=form) < ridge


def test_the_inverse_is_that_of_the_matrix_and_its_ridge() -> None:
    points = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = (-torch.cdist(points, points).square() / 2 / 8**0.5).exp()
    found = nystrom_attention.inverse(kernel, ridge=0.1, steps=20)
    expected = np.linalg.inv(kernel.numpy() + 0.1 * np.eye(20))
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)


def test_a_landmark_twice_leaves_it_finite() -> None:
    q, k, v = inputs(30)
    places = torch.tensor([3, 3, 3, 40, 40])
    once = nystrom_attention.chunked(q, k, v, places[[0, 3]], ridge=1e-4, steps=40)
    again = nystrom_attention.chunked(q, k, v, places, ridge=1e-4, steps=40)
    torch.testing.assert_close(again, once, rtol=0.01, atol=1e-3)
