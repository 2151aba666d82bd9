"""Logistic regression with a quadratic penalty: numpy, and scipy's L-BFGS.

    loss(W, b) = mean nats of the labels + penalty / 2 * sum of W squared,    p(class | x) = softmax(x W + b)

Features are scaled to mean 0 and deviation 1 over the training rows; one that never changes there counts nothing. The
penalty is the one of PENALTIES with the fewest nats on a fifth of the training rows, held out by seed; then all rows
are fitted. The intercept is not penalised, so features that say nothing give the shares of the classes. Letters:
N rows, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

PENALTIES = (1.0, 0.1, 0.01, 0.001, 0.0001)
HELD_OUT = 0.2
MAX_ITERATIONS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A fitted regression."""

    mean: Float[np.ndarray, "D"]
    scale: Float[np.ndarray, "D"]
    weights: Float[np.ndarray, "D K"]
    intercept: Float[np.ndarray, "K"]
    penalty: float

    def log_shares(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N K"]:
        """Log-probabilities of the classes."""
        return _log_softmax((features - self.mean) * self.scale @ self.weights + self.intercept)


def fit(features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, "N"], *, num_classes: int, seed: int) -> Classifier:
    """Choose the penalty on held-out rows, then fit all of them. Every class must have two rows at least."""
    held = _held_out(labels, num_classes=num_classes, seed=seed)
    nats = []
    for penalty in PENALTIES:
        trial = _fit(features[~held], labels[~held], num_classes=num_classes, penalty=penalty)
        found = trial.log_shares(features[held])
        nats.append(-float(found[np.arange(len(found)), labels[held]].mean()))
    return _fit(features, labels, num_classes=num_classes, penalty=PENALTIES[int(np.argmin(nats))])


def _held_out(labels: Int[np.ndarray, "N"], *, num_classes: int, seed: int) -> np.ndarray:
    """The same share of every class, one row at least."""
    rng = np.random.default_rng((seed, len(labels)))
    held = np.zeros(len(labels), dtype=bool)
    for label in range(num_classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held[rows[: max(1, int(HELD_OUT * len(rows)))]] = True
    return held


def _fit(
    features: Float[np.ndarray, "N D"], labels: Int[np.ndarray, "N"], *, num_classes: int, penalty: float
) -> Classifier:
    # Late: half a second, and plans need none of it.
    from scipy import optimize

    mean, std = features.mean(axis=0), features.std(axis=0)
    moves = std > 1e-9 * np.maximum(1.0, np.abs(mean))
    scale = np.where(moves, 1 / np.where(moves, std, 1.0), 0.0)
    x = (features - mean) * scale
    num_rows, num_features = x.shape
    hot = np.eye(num_classes)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = flat[:-num_classes].reshape(num_features, num_classes), flat[-num_classes:]
        logs = _log_softmax(x @ weights + intercept)
        error = (np.exp(logs) - hot) / num_rows
        slope = np.concatenate([(x.T @ error + penalty * weights).ravel(), error.sum(axis=0)])
        return float(-(hot * logs).sum() / num_rows + penalty / 2 * (weights**2).sum()), slope

    start = np.zeros((num_features + 1) * num_classes)
    start[-num_classes:] = np.log(hot.mean(axis=0))
    options = {"maxiter": MAX_ITERATIONS, "ftol": 1e-10, "gtol": 1e-7}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return Classifier(
        mean=mean,
        scale=scale,
        weights=found[:-num_classes].reshape(num_features, num_classes),
        intercept=found[-num_classes:],
        penalty=penalty,
    )


def _log_softmax(logits: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
