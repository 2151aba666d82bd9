"""TTT-MLP: a two-layer model that every head trains, token by token, on the sequence it reads.

As `kernels.ttt_linear`, with f(x) = x + LN(gelu(x W1 + b1) W2 + b2), hidden width 4 D and gelu in its tanh form.
With x2_s = gelu(z1_s), g2_s the gradient at z2_s = x2_s W2 + b2 and g1_s = (g2_s W2^T) * gelu'(z1_s), all at the
weights of the start of the mini-batch:

    W1_t = W1 - tau_t * sum_{s <= t} lam_s k_s^T g1_s       b1_t = b1 - tau_t * sum_{s <= t} lam_s g1_s
    W2_t = W2 - tau_t * sum_{s <= t} lam_s x2_s^T g2_s      b2_t = b2 - tau_t * sum_{s <= t} lam_s g2_s
    out_t = q_t + LN(gelu(q_t W1_t + b1_t) W2_t + b2_t)

Source: Sun et al., arXiv 2407.04620, sections 2.4 to 2.7; test-time-training/ttt-lm-pytorch ttt.py @ cd831db.
Letters: B batch, T tokens, H heads, D head dim, E = 4 D, C mini-batch, N mini-batches, Z = B * H.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.kernels.dispatch.choice import op
from ttbench.kernels.ttt_linear import norm_loss_grad, normalise, refill


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPState:
    """Weights at the start of the current mini-batch, and what its tokens so far have to add to them."""

    W1: Float[Tensor, "B H D E"]
    b1: Float[Tensor, "B H 1 E"]
    W2: Float[Tensor, "B H E D"]
    b2: Float[Tensor, "B H 1 D"]
    K: Float[Tensor, "B H C D"]  # keys of the mini-batch so far; rows from `offset` on are not read
    G1: Float[Tensor, "B H C E"]  # lam * gradient at z1 of the same tokens
    X2: Float[Tensor, "B H C E"]  # gelu(z1) of the same tokens
    G2: Float[Tensor, "B H C D"]  # lam * gradient at z2 of the same tokens

    @staticmethod
    def weight_shapes(dim: int) -> dict[str, tuple[int, int]]:
        """Field -> shape in one head, of the fields that have learned initial values."""
        return {"W1": (dim, 4 * dim), "b1": (1, 4 * dim), "W2": (4 * dim, dim), "b2": (1, dim)}

    @classmethod
    def shapes(cls, *, batch_size: int, num_heads: int, dim: int, mini_batch_size: int) -> dict[str, tuple[int, ...]]:
        """Field -> shape."""
        inner = cls.weight_shapes(dim)
        inner |= {"K": (mini_batch_size, dim), "G1": (mini_batch_size, 4 * dim)}
        inner |= {"X2": (mini_batch_size, 4 * dim), "G2": (mini_batch_size, dim)}
        return {name: (batch_size, num_heads, *shape) for name, shape in inner.items()}

    @classmethod
    def initial(
        cls, *, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, batch_size: int, mini_batch_size: int
    ) -> MLPState:
        """State before the first token, from weights without batch, which are broadcast, not copied."""
        num_heads, dim, _ = W1.shape
        shapes = cls.shapes(batch_size=batch_size, num_heads=num_heads, dim=dim, mini_batch_size=mini_batch_size)
        start = {"W1": W1, "b1": b1, "W2": W2, "b2": b2}
        zero = W1.new_zeros(1)
        return cls(**{name: start.get(name, zero).expand(shape) for name, shape in shapes.items()})


def state_size(dim: int, mini_batch_size: int) -> int:
    """Elements of state of one head."""
    return 8 * dim * dim + 5 * dim + 10 * mini_batch_size * dim


def flops(dim: int, mini_batch_size: int) -> float:
    """FLOP of one token in one head by the dual form, matrix products only; half of a triangle is counted."""
    matrix = 2 * dim * 4 * dim
    read = 5 * matrix  # k W1, x2 W2, g2 W2^T, q W1, x2_bar W2
    within = 2 * (dim + 4 * dim + 4 * dim + dim) * (mini_batch_size + 1) / 2
    write = 2 * matrix  # K^T G1, X2^T G2
    return read + within + write


def gelu_grad(x: Tensor) -> Tensor:
    """Derivative of the tanh form of gelu, with the rounded constants of the authors' code (from Megatron-LM)."""
    tanh = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
    return 0.5 * x * (1 - tanh * tanh) * (0.79788456 + 0.1070322243 * x * x) + 0.5 * (1 + tanh)


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def inner_grads(
    state: MLPState, k: Tensor, v: Tensor, lam: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """lam * gradient at z1, gelu(z1), lam * gradient at z2, of tokens [B, H, T, D] at the weights of the start."""
    z1 = k @ state.W1 + state.b1
    X2 = gelu(z1)
    G2 = lam * norm_loss_grad(X2 @ state.W2 + state.b2, v - k, weight, bias)
    return (G2 @ state.W2.mT) * gelu_grad(z1), X2, G2


def reference(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    lam: Float[Tensor, "B T H"],
    tau: Float[Tensor, "C"],
    norm_weight: Float[Tensor, "H D"],
    norm_bias: Float[Tensor, "H D"],
    initial_state: MLPState,
    *,
    offset: int,
) -> tuple[Float[Tensor, "B T H D"], MLPState]:
    """Token by token, with the sums of weight gradients written out. Arguments as in `ttt_linear.reference`."""
    W1, b1, W2, b2 = initial_state.W1, initial_state.b1, initial_state.W2, initial_state.b2
    weight, bias = norm_weight[:, None], norm_bias[:, None]
    kept = [list(x[:, :, :offset].unbind(2)) for x in _pending(initial_state)]
    sums = [torch.zeros_like(x) for x in (W1, b1, W2, b2)]
    for K, G1, X2, G2 in zip(*kept, strict=True):
        sums = _add(sums, K, G1, X2, G2)
    outs = []
    for t in range(q.shape[1]):
        q_t, k_t, v_t, lam_t = q[:, t, :, None], k[:, t, :, None], v[:, t, :, None], lam[:, t, :, None, None]
        z1 = k_t @ W1 + b1  # [B, H, 1, E]
        x2 = gelu(z1)
        g2 = lam_t * norm_loss_grad(x2 @ W2 + b2, v_t - k_t, weight, bias)
        g1 = (g2 @ W2.mT) * gelu_grad(z1)
        pairs = [x.squeeze(2) for x in (k_t, g1, x2, g2)]
        for rows, row in zip(kept, pairs, strict=True):
            rows.append(row)
        sums = _add(sums, *pairs)
        tau_t = tau[len(kept[0]) - 1]
        W1_t, b1_t, W2_t, b2_t = (x - tau_t * s for x, s in zip((W1, b1, W2, b2), sums, strict=True))
        z_bar = gelu(q_t @ W1_t + b1_t) @ W2_t + b2_t
        outs.append((q_t + normalise(z_bar)[0] * weight + bias).squeeze(2))
        if len(kept[0]) == tau.shape[0]:
            W1, b1, W2, b2 = W1_t, b1_t, W2_t, b2_t
            kept, sums = [[], [], [], []], [torch.zeros_like(s) for s in sums]
    K, G1, X2, G2 = (refill(like, rows) for like, rows in zip(_pending(initial_state), kept, strict=True))
    return torch.stack(outs, 1), MLPState(W1=W1, b1=b1, W2=W2, b2=b2, K=K, G1=G1, X2=X2, G2=G2)


@op("ttt_mlp", "chunked")
def chunked(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    lam: Float[Tensor, "B T H"],
    tau: Float[Tensor, "C"],
    norm_weight: Float[Tensor, "H D"],
    norm_bias: Float[Tensor, "H D"],
    initial_state: MLPState,
    *,
    offset: int,
    operands: torch.dtype | None = None,
) -> tuple[Float[Tensor, "B T H D"], MLPState]:
    """The same numbers as `reference`, a mini-batch at a time in the dual form.

    Arguments as in `reference`; `operands` as in `ttt_linear.chunked`.
    """
    size, num_tokens = tau.shape[0], q.shape[1]
    q, k, v, lam = (x.transpose(1, 2) for x in (q, k, v, lam[..., None]))  # [B, H, T, D]
    state, outs = initial_state, []
    first = min(num_tokens, size - offset)
    sizes = [first, *(min(size, num_tokens - start) for start in range(first, num_tokens, size))]
    # Split and not sliced: the gradient of a slice is as long as the text, and there is one for each mini-batch.
    parts = zip(*(x.split(sizes, 2) for x in (q, k, v, lam)), strict=True)
    for q_n, k_n, v_n, lam_n in parts:
        out, state = _mini_batch(q_n, k_n, v_n, lam_n, tau, norm_weight, norm_bias, state, offset=offset)
        outs.append(out)
        offset = 0
    return torch.cat(outs, 2).transpose(1, 2), state


@op("ttt_mlp_step", "step")
def step(
    q: Float[Tensor, "B 1 H D"],
    k: Float[Tensor, "B 1 H D"],
    v: Float[Tensor, "B 1 H D"],
    lam: Float[Tensor, "B 1 H"],
    tau: Float[Tensor, "C"],
    norm_weight: Float[Tensor, "H D"],
    norm_bias: Float[Tensor, "H D"],
    state: MLPState,
    *,
    place: Int[Tensor, "1"],
    last: bool,
    operands: torch.dtype | None = None,
) -> Float[Tensor, "B 1 H D"]:
    """One token; `state` is CHANGED IN PLACE: the pending rows always, the weights when `last`.

    Args:
        place: index of the token in its mini-batch, on the device.
        last: whether it is the last of its mini-batch, known to the host.
        operands: as in `ttt_linear.chunked`.
    """
    q, k, v, lam = (x.transpose(1, 2) for x in (q, k, v, lam[..., None]))  # [B, H, 1, D]
    weight, bias = norm_weight[:, None], norm_bias[:, None]
    z1, z1_bar = (torch.cat((k, q), 2) @ state.W1 + state.b1).chunk(2, 2)
    x2 = gelu(z1)
    g2 = lam * norm_loss_grad(x2 @ state.W2 + state.b2, v - k, weight, bias)
    g1 = (g2 @ state.W2.mT) * gelu_grad(z1)
    for rows, row in zip(_pending(state), (k, g1, x2, g2), strict=True):
        rows.index_copy_(2, place, row)
    seen = torch.arange(tau.shape[0], device=tau.device) <= place
    scores = torch.where(seen, tau[place] * (q @ state.K.mT + 1), 0)  # [B, H, 1, C]
    x2_bar = gelu(z1_bar - scores @ state.G1)
    scores = torch.where(seen, tau[place] * (x2_bar @ state.X2.mT + 1), 0)
    z_bar = x2_bar @ state.W2 + state.b2 - scores @ state.G2
    if last:
        for W, b, X, G in ((state.W1, state.b1, state.K, state.G1), (state.W2, state.b2, state.X2, state.G2)):
            update = tau[-1] * G
            W.sub_(X.mT @ update)
            b.sub_(update.sum(2, keepdim=True))
    return (q + normalise(z_bar)[0] * weight + bias).transpose(1, 2)


def _pending(state: MLPState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return state.K, state.G1, state.X2, state.G2


def _add(sums: list[Tensor], k: Tensor, g1: Tensor, x2: Tensor, g2: Tensor) -> list[Tensor]:
    """Sums of the gradients of W1, b1, W2, b2 with one more token, whose parts are [B, H, D or E]."""
    more = (k[..., :, None] * g1[..., None, :], g1[..., None, :], x2[..., :, None] * g2[..., None, :], g2[..., None, :])
    return [s + x for s, x in zip(sums, more, strict=True)]


def _mini_batch(q, k, v, lam, tau, norm_weight, norm_bias, state: MLPState, *, offset: int) -> tuple[Tensor, MLPState]:
    """Tokens [B, H, T, D] that lie within one mini-batch, of which `offset` came before."""
    stop = offset + q.shape[2]
    weight, bias = norm_weight[:, None], norm_bias[:, None]
    new = (k, *inner_grads(state, k, v, lam, weight, bias))
    if offset:
        new = tuple(torch.cat((x[:, :, :offset], y), 2) for x, y in zip(_pending(state), new, strict=True))
    K, G1, X2, G2 = new
    tau_t = tau[offset:stop, None]
    X2_bar = gelu(q @ state.W1 + state.b1 - (tau_t * (q @ K.mT + 1)).tril(offset) @ G1)
    z_bar = X2_bar @ state.W2 + state.b2 - (tau_t * (X2_bar @ X2.mT + 1)).tril(offset) @ G2
    out = q + normalise(z_bar)[0] * weight + bias
    if stop < tau.shape[0]:
        K, G1, X2, G2 = (F.pad(x, (0, 0, 0, tau.shape[0] - stop)) for x in new)
        return out, MLPState(W1=state.W1, b1=state.b1, W2=state.W2, b2=state.b2, K=K, G1=G1, X2=X2, G2=G2)
    G1, G2 = tau[-1] * G1, tau[-1] * G2
    zeros = [torch.zeros_like(x) for x in new]
    return out, MLPState(
        W1=state.W1 - K.mT @ G1,
        b1=state.b1 - G1.sum(2, keepdim=True),
        W2=state.W2 - X2.mT @ G2,
        b2=state.b2 - G2.sum(2, keepdim=True),
        **dict(zip(("K", "G1", "X2", "G2"), zeros, strict=True)),
    )
