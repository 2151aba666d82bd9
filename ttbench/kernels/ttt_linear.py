"""TTT-Linear: a linear model that every head trains, token by token, on the sequence it reads.

Per head, with f(x) = x + LN(x W1 + b1), target v - k and loss 1/2 |LN(k W1 + b1) - (v - k)|^2, the gradients of the
C tokens of a mini-batch are all taken at the weights of its start. With g_s the gradient of token s at the pre-norm
output, step size lam_s of the key and tau_t of the query:

    W1_t = W1 - tau_t * sum_{s <= t} lam_s k_s^T g_s        b1_t = b1 - tau_t * sum_{s <= t} lam_s g_s
    out_t = q_t + LN(q_t W1_t + b1_t)

and W1, b1 become those of the last token when the mini-batch is full. Between calls the state keeps the weights of
the start and the pairs (k_s, lam_s g_s) of the tokens since: the same sums, without the matrices of gradients.

Source: Sun et al., arXiv 2407.04620, sections 2.4 to 2.7; test-time-training/ttt-lm-pytorch ttt.py @ cd831db.
Letters: B batch, T tokens, H heads, D head dim, C mini-batch, N mini-batches, Z = B * H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttbench.kernels.dispatch.choice import op

EPS = 1e-6  # of the layer norm inside the inner model


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearState:
    """Weights at the start of the current mini-batch, and what its tokens so far have to add to them."""

    W1: Float[Tensor, "B H D D"]
    b1: Float[Tensor, "B H 1 D"]
    K: Float[Tensor, "B H C D"]  # keys of the mini-batch so far; rows from `offset` on are not read
    G: Float[Tensor, "B H C D"]  # lam * gradient of the same tokens

    @staticmethod
    def weight_shapes(dim: int) -> dict[str, tuple[int, int]]:
        """Field -> shape in one head, of the fields that have learned initial values."""
        return {"W1": (dim, dim), "b1": (1, dim)}

    @classmethod
    def shapes(cls, *, batch_size: int, num_heads: int, dim: int, mini_batch_size: int) -> dict[str, tuple[int, ...]]:
        """Field -> shape."""
        inner = {**cls.weight_shapes(dim), "K": (mini_batch_size, dim), "G": (mini_batch_size, dim)}
        return {name: (batch_size, num_heads, *shape) for name, shape in inner.items()}

    @classmethod
    def initial(cls, *, W1: Tensor, b1: Tensor, batch_size: int, mini_batch_size: int) -> LinearState:
        """State before the first token, from weights [H, D, D] and [H, 1, D], which are broadcast, not copied."""
        num_heads, dim, _ = W1.shape
        pending = W1.new_zeros(1).expand(batch_size, num_heads, mini_batch_size, dim)
        return cls(W1=W1.expand(batch_size, -1, -1, -1), b1=b1.expand(batch_size, -1, -1, -1), K=pending, G=pending)


def state_size(dim: int, mini_batch_size: int) -> int:
    """Elements of state of one head."""
    return dim * dim + dim + 2 * mini_batch_size * dim


def flops(dim: int, mini_batch_size: int) -> float:
    """FLOP of one token in one head by the dual form, matrix products only; half of a triangle is counted."""
    read = 2 * 2 * dim * dim  # k W1, q W1
    within = 2 * 2 * dim * (mini_batch_size + 1) / 2  # q K^T, then times G
    write = 2 * dim * dim  # K^T G
    return read + within + write


def normalise(x: Float[Tensor, "... D"]) -> tuple[Tensor, Tensor]:
    """(x - mean) / std over the last dimension, and std [..., 1]; biased variance."""
    centred = x - x.mean(-1, keepdim=True)
    std = (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    return centred / std, std


def norm_loss_grad(z: Tensor, target: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Gradient of 1/2 |LN(z) - target|^2 with respect to z, in closed form."""
    x_hat, std = normalise(z)
    g = weight * (weight * x_hat + bias - target)
    return (g - g.mean(-1, keepdim=True) - x_hat * (g * x_hat).mean(-1, keepdim=True)) / std


def reference(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    lam: Float[Tensor, "B T H"],
    tau: Float[Tensor, "C"],
    norm_weight: Float[Tensor, "H D"],
    norm_bias: Float[Tensor, "H D"],
    initial_state: LinearState,
    *,
    offset: int,
) -> tuple[Float[Tensor, "B T H D"], LinearState]:
    """Token by token, with the sums of weight gradients written out.

    Args:
        q, k, v: queries, keys and values, rotated already.
        lam: step size of each token as a key.
        tau: step size of each place in a mini-batch as a query.
        norm_weight, norm_bias: of the inner layer norm.
        initial_state: what the tokens before left; not changed.
        offset: tokens of the current mini-batch that `initial_state` holds, 0 <= offset < C.
    """
    W1, b1 = initial_state.W1, initial_state.b1
    K, G = list(initial_state.K[:, :, :offset].unbind(2)), list(initial_state.G[:, :, :offset].unbind(2))
    sum_W1 = sum((x[..., :, None] * g[..., None, :] for x, g in zip(K, G, strict=True)), torch.zeros_like(W1))
    sum_b1 = sum((g[..., None, :] for g in G), torch.zeros_like(b1))
    outs = []
    for t in range(q.shape[1]):
        q_t, k_t, v_t = q[:, t], k[:, t], v[:, t]  # [B, H, D]
        z = (k_t[..., None, :] @ W1 + b1).squeeze(-2)
        g = lam[:, t, :, None] * norm_loss_grad(z, v_t - k_t, norm_weight, norm_bias)
        K.append(k_t)
        G.append(g)
        sum_W1 = sum_W1 + k_t[..., :, None] * g[..., None, :]
        sum_b1 = sum_b1 + g[..., None, :]
        tau_t = tau[len(K) - 1]
        W1_t, b1_t = W1 - tau_t * sum_W1, b1 - tau_t * sum_b1
        z_bar = (q_t[..., None, :] @ W1_t + b1_t).squeeze(-2)
        outs.append(q_t + normalise(z_bar)[0] * norm_weight + norm_bias)
        if len(K) == tau.shape[0]:
            W1, b1, K, G = W1_t, b1_t, [], []
            sum_W1, sum_b1 = torch.zeros_like(W1), torch.zeros_like(b1)
    return torch.stack(outs, 1), LinearState(W1=W1, b1=b1, K=refill(initial_state.K, K), G=refill(initial_state.G, G))


@op("ttt_linear", "chunked")
def chunked(
    q: Float[Tensor, "B T H D"],
    k: Float[Tensor, "B T H D"],
    v: Float[Tensor, "B T H D"],
    lam: Float[Tensor, "B T H"],
    tau: Float[Tensor, "C"],
    norm_weight: Float[Tensor, "H D"],
    norm_bias: Float[Tensor, "H D"],
    initial_state: LinearState,
    *,
    offset: int,
    operands: torch.dtype | None = None,
) -> tuple[Float[Tensor, "B T H D"], LinearState]:
    """The same numbers as `reference`, a mini-batch at a time in the dual form; once differentiable.

    Arguments as in `reference`, and `operands`: dtype of the model, which is what a fused kernel multiplies in; here
    the inputs' own dtype does. Outputs alias nothing that is written later.
    """
    mini_batch_size, num_tokens = tau.shape[0], q.shape[1]
    head = min(num_tokens, (mini_batch_size - offset) % mini_batch_size)
    body = (num_tokens - head) // mini_batch_size * mini_batch_size
    state, outs = initial_state, []
    for start, stop, place in ((0, head, offset), (head, head + body, 0), (head + body, num_tokens, 0)):
        if start == stop:
            continue
        run = _whole if stop - start >= mini_batch_size and place == 0 else _part
        span = slice(start, stop)
        out, state = run(
            q[:, span], k[:, span], v[:, span], lam[:, span], tau, norm_weight, norm_bias, state, offset=place
        )
        outs.append(out)
    return (outs[0] if len(outs) == 1 else torch.cat(outs, 1)), state


@op("ttt_linear_step", "step")
def step(
    q: Float[Tensor, "B 1 H D"],
    k: Float[Tensor, "B 1 H D"],
    v: Float[Tensor, "B 1 H D"],
    lam: Float[Tensor, "B 1 H"],
    tau: Float[Tensor, "C"],
    norm_weight: Float[Tensor, "H D"],
    norm_bias: Float[Tensor, "H D"],
    state: LinearState,
    *,
    place: Int[Tensor, "1"],
    last: bool,
    operands: torch.dtype | None = None,
) -> Float[Tensor, "B 1 H D"]:
    """One token; `state` is CHANGED IN PLACE: K and G always, W1 and b1 when `last`.

    Args:
        place: index of the token in its mini-batch, on the device.
        last: whether it is the last of its mini-batch, known to the host.
        operands: as in `chunked`.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, 1, D]
    weight, bias = norm_weight[:, None], norm_bias[:, None]
    z, z_bar = (torch.cat((k, q), 2) @ state.W1 + state.b1).chunk(2, 2)
    g = lam.transpose(1, 2)[..., None] * norm_loss_grad(z, v - k, weight, bias)
    state.K.index_copy_(2, place, k)
    state.G.index_copy_(2, place, g)
    seen = torch.arange(tau.shape[0], device=tau.device) <= place
    scores = torch.where(seen, tau[place] * (q @ state.K.mT + 1), 0)  # [B, H, 1, C]
    z_bar = z_bar - scores @ state.G
    if last:
        G = tau[-1] * state.G
        state.W1.sub_(state.K.mT @ G)
        state.b1.sub_(G.sum(2, keepdim=True))
    return (q + normalise(z_bar)[0] * weight + bias).transpose(1, 2)


def refill(like: Tensor, rows: list[Tensor]) -> Tensor:
    """Rows [B, H, D] in front, zeros behind, in the shape of `like` [B, H, C, D]."""
    if not rows:
        return torch.zeros_like(like)
    return F.pad(torch.stack(rows, 2), (0, 0, 0, like.shape[2] - len(rows)))


def _part(q, k, v, lam, tau, norm_weight, norm_bias, state: LinearState, *, offset: int) -> tuple[Tensor, LinearState]:
    """Tokens that lie within one mini-batch, of which `offset` came before."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, D]
    stop = offset + q.shape[2]
    weight, bias = norm_weight[:, None], norm_bias[:, None]
    g = lam.transpose(1, 2)[..., None] * norm_loss_grad(k @ state.W1 + state.b1, v - k, weight, bias)
    K = torch.cat((state.K[:, :, :offset], k), 2)
    G = torch.cat((state.G[:, :, :offset], g), 2)
    scores = tau[offset:stop, None] * (q @ K.mT + 1).tril(offset)  # [B, H, T, stop]
    z_bar = q @ state.W1 + state.b1 - scores @ G
    out = (q + normalise(z_bar)[0] * weight + bias).transpose(1, 2)
    if stop < tau.shape[0]:
        rest = (0, 0, 0, tau.shape[0] - stop)
        return out, LinearState(W1=state.W1, b1=state.b1, K=F.pad(K, rest), G=F.pad(G, rest))
    G = tau[-1] * G
    W1, b1 = state.W1 - K.mT @ G, state.b1 - G.sum(2, keepdim=True)
    return out, LinearState(W1=W1, b1=b1, K=torch.zeros_like(state.K), G=torch.zeros_like(state.G))


def _whole(q, k, v, lam, tau, norm_weight, norm_bias, state: LinearState, *, offset: int) -> tuple[Tensor, LinearState]:
    """A whole number of mini-batches, from the start of one. All that does not depend on W1 is made for all at once.

    A one is appended to every key and query, so that b1 is the last row of W1 and needs no operation of its own.
    """
    assert offset == 0
    num_heads, dim = q.shape[2:]
    size, num_tokens = tau.shape[0], q.shape[1]
    num_batches = num_tokens // size

    def arrange(x: Tensor) -> Tensor:  # [B, T, H, D] -> [N, B, H, C, D]
        return x.unflatten(1, (num_batches, size)).permute(1, 0, 3, 2, 4)

    Q, K = arrange(q), arrange(k)
    step = lam.unflatten(1, (num_batches, size)).permute(1, 0, 3, 2)  # [N, B, H, C]
    ones = q.new_ones(1).expand(*K.shape[:-1], 1)
    X = torch.cat((torch.cat((K, ones), -1), torch.cat((Q, ones), -1)), -2).flatten(1, 2)  # [N, Z, 2C, D+1]
    eta = (tau[:, None] * step[..., None, :]).flatten(1, 2)  # [N, Z, C, C]
    P = (eta * (X[:, :, size:] @ X[:, :, :size].mT)).tril()
    KL = eta[:, :, -1, :, None] * X[:, :, :size]
    R = (norm_weight[:, None] * (arrange(v) - K - norm_bias[:, None])).flatten(1, 2)
    square = norm_weight.square()[:, None].expand(q.shape[0], -1, -1, -1).flatten(0, 1)  # [Z, 1, D]
    W = torch.cat((state.W1, state.b1), -2).flatten(0, 1)  # [Z, D+1, D]
    Z_bar, W = _Scan.apply(X, P, KL, R, square, W)
    z_bar = Z_bar.unflatten(1, (-1, num_heads)).permute(1, 0, 3, 2, 4).flatten(1, 2)  # [B, T, H, D]
    out = q + F.layer_norm(z_bar, (dim,), eps=EPS) * norm_weight + norm_bias
    W = W.unflatten(0, (-1, num_heads))
    return out, LinearState(
        W1=W[..., :-1, :], b1=W[..., -1:, :], K=torch.zeros_like(state.K), G=torch.zeros_like(state.G)
    )


class _Scan(torch.autograd.Function):
    """The recurrence over mini-batches, with its derivative written by hand: it keeps W, G and the norm's parts.

    Z = K W, x = normalised Z, g = square * x - R, G = (g - mean(g) - x * mean(g * x)) / std
    Z_bar = Q W - P G, W' = W - KL^T G
    """

    @staticmethod
    def forward(ctx: Any, X, P, KL, R, square, W) -> tuple[Tensor, Tensor]:
        num_batches, num_rows, size, dim = R.shape
        training = any(ctx.needs_input_grad)
        Z_bar = torch.empty_like(R)
        if training:
            Ws = R.new_empty(num_batches, *W.shape)
            Gs, hats, stds = torch.empty_like(R), torch.empty_like(R), R.new_empty(num_batches, num_rows, size, 1)
        for n in range(num_batches):
            Y = torch.bmm(X[n], W)  # [Z, 2C, D]
            hat, _, inv = torch.native_layer_norm(Y[:, :size], (dim,), None, None, EPS)
            g = torch.addcmul(R[n], square, hat, value=-1).neg_()
            g -= g.mean(-1, keepdim=True)
            G = torch.addcmul(g, hat, (g * hat).mean(-1, keepdim=True), value=-1).mul_(inv)
            torch.baddbmm(Y[:, size:], P[n], G, alpha=-1, out=Z_bar[n])
            if training:
                Ws[n], Gs[n], hats[n], stds[n] = W, G, hat, inv
            W = torch.baddbmm(W, KL[n].mT, G, alpha=-1)
        if training:
            ctx.save_for_backward(X, P, KL, R, square, Ws, Gs, hats, stds)
        return Z_bar, W

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dZ_bar: Tensor, dW: Tensor) -> tuple[Tensor, ...]:
        X, P, KL, R, square, Ws, Gs, hats, invs = ctx.saved_tensors
        num_batches, _, size, _ = R.shape
        dY = torch.empty_like(X[..., :-1])
        dY[:, :, size:] = dZ_bar
        dGs = -(P.mT @ dZ_bar)
        dKL, dR = torch.empty_like(KL), torch.empty_like(R)
        dsquare = torch.zeros_like(R[0])
        for n in reversed(range(num_batches)):
            G, hat, inv = Gs[n], hats[n], invs[n]
            torch.bmm(G, dW.mT, out=dKL[n])
            dG = torch.baddbmm(dGs[n], KL[n], dW, alpha=-1)
            g = square * hat - R[n]
            s = (g * hat).mean(-1, keepdim=True)
            u = dG * inv
            t = (u * hat).mean(-1, keepdim=True)
            dg = u - u.mean(-1, keepdim=True) - hat * t
            dhat = square * dg - u * s - g * t
            fall = (dhat * hat + dG * G).mean(-1, keepdim=True)
            dY[n, :, :size] = inv * (dhat - dhat.mean(-1, keepdim=True) - hat * fall)
            torch.neg(dg, out=dR[n])
            dsquare += dg * hat
            dW = torch.baddbmm(dW, X[n].mT, dY[n])
        return dY @ Ws.mT, -(dZ_bar @ Gs.mT), dKL.neg_(), dR, dsquare.sum(-2, keepdim=True), dW
