"""TTT-MLP as two Triton kernels: one token, and any number of tokens. One program for each sequence and head.

W1 and W2 together are too large for registers, so both kernels walk over the hidden units in tiles: a tile has the
columns of W1 and the rows of W2 that belong to the same units. Two walks are needed, because the gradient at the output
is known only when every hidden unit has been summed.

One token. The first walk reads W1 and W2 and keeps what the token's key and query make of W1; the second reads W2
again, in practice from the L2 cache, and writes. Whether the token is the last of its mini-batch, whose write changes
the weights, is decided on the device from `place`: one captured graph serves every token. What the current token adds
is taken from registers, never read back.

Any number. The weights stay in global memory, in practice in the L2 cache, and are rewritten after every mini-batch; a
barrier stands between that write and the next read. Tiles are held with the hidden units as rows, so that they, not the
16 tokens, are the M of the products.

State, norms and sums are float32. What multiplies in the tensor cores is of type OPERANDS; the write of one token uses
three tf32 products, which is float32 for all that matters here.

Letters: B batch, T tokens, H heads, D head dim, E hidden units, C mini-batch; BD and BC are D and C rounded up to a
power of two, TILE hidden units of a tile, BN tiles rounded up to a power of two.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _gelu(x):
    """The tanh form of gelu, and its derivative; (1 + tanh(u)) / 2 is sigmoid(2 u)."""
    half = tl.sigmoid(2 * 0.7978845608028654 * x * (1 + 0.044715 * x * x))
    return x * half, half + 2 * x * half * (1 - half) * (0.79788456 + 0.1070322243 * x * x)


@triton.jit
def _normalised(x, inside, D, eps):
    """Without mean and scale along axis 0, of which D are `inside`; and 1 / standard deviation."""
    centred = tl.where(inside, x - tl.sum(x, 0, keep_dims=True) / D, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 0, keep_dims=True) / D + eps)
    return centred * inverse, inverse


@triton.jit
def _loss_grad(z, target, weight, bias, inside, D, eps):
    """Gradient of 1/2 |LN(z) - target|^2 with respect to z, along axis 0."""
    x_hat, inverse = _normalised(z, inside, D, eps)
    g = weight * (weight * x_hat + bias - target)
    mean, along = tl.sum(g, 0, keep_dims=True) / D, tl.sum(g * x_hat, 0, keep_dims=True) / D
    return inverse * (g - mean - x_hat * along)


@triton.jit
def step_kernel(
    q_ptr, k_ptr, v_ptr, lam_ptr, tau_ptr, weight_ptr, bias_ptr, place_ptr,
    W1_ptr, b1_ptr, W2_ptr, b2_ptr, K_ptr, G1_ptr, X2_ptr, G2_ptr, out_ptr,
    H, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr, eps: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # sequence and head
    head = row % H
    place = tl.load(place_ptr)
    d, c, tiles = tl.arange(0, BD), tl.arange(0, BC), tl.arange(0, BN)
    in_d, pending, seen, now = d < D, (c < C) & (c < place), c <= place, (c == place)[:, None]
    q = tl.load(q_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + head * D + d, mask=in_d, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + head * D + d, mask=in_d, other=0.0).to(tl.float32)
    lam = tl.load(lam_ptr + row).to(tl.float32)
    tau = tl.load(tau_ptr + place).to(tl.float32)
    b2 = tl.load(b2_ptr + row * D + d, mask=in_d, other=0.0)
    # Within a head 32 bits are enough for an address.
    W1_ptr += row * D * E
    b1_ptr += row * E
    W2_ptr += row * E * D
    K_ptr += row * C * D
    G1_ptr += row * C * E
    X2_ptr += row * C * E
    G2_ptr += row * C * D
    z, z1_kept, z1_bar_kept = b2, tl.zeros((BN, TILE), tl.float32), tl.zeros((BN, TILE), tl.float32)
    for n in range(0, (E + TILE - 1) // TILE):
        e = n * TILE + tl.arange(0, TILE)
        b1 = tl.load(b1_ptr + e, mask=e < E, other=0.0)
        first = tl.load(W1_ptr + d[:, None] * E + e[None, :], mask=in_d[:, None] & (e < E)[None, :], other=0.0)
        second = tl.load(W2_ptr + e[:, None] * D + d[None, :], mask=(e < E)[:, None] & in_d[None, :], other=0.0)
        z1 = tl.sum(first * k[:, None], 0) + b1
        z1_kept = tl.where((tiles == n)[:, None], z1[None, :], z1_kept)
        z1_bar_kept = tl.where((tiles == n)[:, None], (tl.sum(first * q[:, None], 0) + b1)[None, :], z1_bar_kept)
        x2, _ = _gelu(z1)
        z += tl.sum(second * x2[:, None], 0)
    g2 = tl.where(in_d, lam * _loss_grad(z, v - k, weight, bias, in_d, D, eps), 0.0)
    pairs = c[:, None] * D + d[None, :]
    K = tl.where(now, k[None, :], tl.load(K_ptr + pairs, mask=pending[:, None] & in_d[None, :], other=0.0))
    G2 = tl.where(now, g2[None, :], tl.load(G2_ptr + pairs, mask=pending[:, None] & in_d[None, :], other=0.0))
    scores = tl.where(seen, tau * (tl.sum(K * q[None, :], 1) + 1.0), 0.0)
    z_bar, scores2 = b2, tl.zeros((BC,), tl.float32)
    for n in range(0, (E + TILE - 1) // TILE):
        e = n * TILE + tl.arange(0, TILE)
        at, inside = W2_ptr + e[:, None] * D + d[None, :], (e < E)[:, None] & in_d[None, :]
        second = tl.load(at, mask=inside, other=0.0)
        x2, slope = _gelu(tl.sum(tl.where((tiles == n)[:, None], z1_kept, 0.0), 0))
        g1 = tl.sum(second * g2[None, :], 1) * slope
        hidden, earlier = c[:, None] * E + e[None, :], pending[:, None] & (e < E)[None, :]
        G1 = tl.where(now, g1[None, :], tl.load(G1_ptr + hidden, mask=earlier, other=0.0))
        X2 = tl.where(now, x2[None, :], tl.load(X2_ptr + hidden, mask=earlier, other=0.0))
        z1_bar = tl.sum(tl.where((tiles == n)[:, None], z1_bar_kept, 0.0), 0)
        x2_bar, _ = _gelu(z1_bar - tl.sum(scores[:, None] * G1, 0))
        scores2 += tl.sum(X2 * x2_bar[None, :], 1)
        z_bar += tl.sum(second * x2_bar[:, None], 0)
        tl.store(G1_ptr + place * E + e, g1, mask=e < E)
        tl.store(X2_ptr + place * E + e, x2, mask=e < E)
        if place == C - 1:
            change = tl.dot(tl.trans(X2), tau * G2, input_precision=PRECISION)
            tl.store(at, second - change, mask=inside)
            at1, inside1 = W1_ptr + d[:, None] * E + e[None, :], in_d[:, None] & (e < E)[None, :]
            change = tl.dot(tl.trans(K), tau * G1, input_precision=PRECISION)
            tl.store(at1, tl.load(at1, mask=inside1, other=0.0) - change, mask=inside1)
            b1 = tl.load(b1_ptr + e, mask=e < E, other=0.0)
            tl.store(b1_ptr + e, b1 - tau * tl.sum(G1, 0), mask=e < E)
    scores2 = tl.where(seen, tau * (scores2 + 1.0), 0.0)
    x_hat, _ = _normalised(z_bar - tl.sum(scores2[:, None] * G2, 0), in_d, D, eps)
    tl.store(out_ptr + row * D + d, (q + x_hat * weight + bias).to(out_ptr.dtype.element_ty), mask=in_d)
    tl.store(K_ptr + place * D + d, k, mask=in_d)
    tl.store(G2_ptr + place * D + d, g2, mask=in_d)
    if place == C - 1:
        tl.store(b2_ptr + row * D + d, b2 - tau * tl.sum(G2, 0), mask=in_d)


@triton.jit
def prefill_kernel(
    q_ptr, k_ptr, v_ptr, lam_ptr, tau_ptr, weight_ptr, bias_ptr,
    K_ptr, G1_ptr, X2_ptr, G2_ptr, out_ptr,
    W1_ptr, b1_ptr, W2_ptr, b2_ptr, K_out_ptr, G1_out_ptr, X2_out_ptr, G2_out_ptr,
    T, H, offset, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr, eps: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, TILE: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sequence, head = row // H, row % H
    d, c = tl.arange(0, BD), tl.arange(0, BC)
    in_d, in_c = (d < D)[:, None], (c < C)[None, :]
    weight = tl.load(weight_ptr + head * D + d, mask=d < D, other=0.0).to(tl.float32)[:, None]
    bias = tl.load(bias_ptr + head * D + d, mask=d < D, other=0.0).to(tl.float32)[:, None]
    tau = tl.load(tau_ptr + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    causal = (c[:, None] <= c[None, :]) & in_c  # [key s, query t]
    b2 = tl.load(b2_ptr + row * D + d, mask=d < D, other=0.0)[:, None]
    # Within a head, and from token to token of a mini-batch, 32 bits are enough for an address.
    W1_ptr += row * D * E
    b1_ptr += row * E
    W2_ptr += row * E * D
    hidden_base, pair_base = row * C * E, row * C * D
    pairs = c[None, :] * D + d[:, None]  # of what is pending at the ends, transposed
    token = c[None, :] * (H * D) + d[:, None]
    for n in tl.range(0, (offset + T + C - 1) // C, disable_licm=True):
        first_token = sequence * T + n * C - offset  # at place 0, of an earlier call when it is before the sequence
        start = (first_token * H + head) * D
        t = n * C - offset + c
        here = ((c < C) & (t >= 0) & (t < T))[None, :]  # tokens of this call
        before = ((c < C) & (t < 0))[None, :]  # tokens of the mini-batch that an earlier call read
        full = (n + 1) * C <= offset + T
        inside = here & in_d
        k = tl.load(k_ptr + start + token, mask=inside, other=0.0).to(tl.float32)
        if n == 0:
            k += tl.load(K_ptr + pair_base + pairs, mask=before & in_d, other=0.0)
        k_low = k.to(OPERANDS)
        q_low = tl.load(q_ptr + start + token, mask=inside, other=0.0).to(tl.float32).to(OPERANDS)
        z = tl.zeros((BD, BC), tl.float32) + b2
        for tile in tl.range(0, E, TILE, disable_licm=True):
            e = tile + tl.arange(0, TILE)
            in_tile = (e < E)[:, None] & (d < D)[None, :]
            first = tl.load(W1_ptr + d[None, :] * E + e[:, None], mask=in_tile, other=0.0).to(OPERANDS)  # transposed
            second = tl.load(W2_ptr + e[:, None] * D + d[None, :], mask=in_tile, other=0.0).to(OPERANDS)
            b1 = tl.load(b1_ptr + e, mask=e < E, other=0.0)[:, None]
            x2, _ = _gelu(tl.dot(first, k_low, input_precision=PRECISION) + b1)
            z += tl.dot(tl.trans(second), x2.to(OPERANDS), input_precision=PRECISION)
        own = (c < C) & (t >= 0) & (t < T)
        lam = tl.load(lam_ptr + first_token * H + head + c * H, mask=own, other=0.0).to(tl.float32)
        # k again rather than kept: registers are what this kernel runs out of
        target = tl.load(v_ptr + start + token, mask=inside, other=0.0).to(tl.float32)
        target -= tl.load(k_ptr + start + token, mask=inside, other=0.0).to(tl.float32)
        g2 = tl.where(inside, lam[None, :] * _loss_grad(z, target, weight, bias, in_d, D, eps), 0.0)
        if n == 0:
            g2 += tl.load(G2_ptr + pair_base + pairs, mask=before & in_d, other=0.0)
        g2_low = g2.to(OPERANDS)
        scores = tl.dot(tl.trans(k_low), q_low, input_precision=PRECISION) + 1.0
        scores_low = tl.where(causal, scores * tau, 0.0).to(OPERANDS)
        z_bar = tl.zeros((BD, BC), tl.float32) + b2
        if full:
            b2 -= tau_last * tl.sum(g2, 1)[:, None]
        else:
            k = tl.load(k_ptr + start + token, mask=inside, other=0.0).to(tl.float32)
            if n == 0:
                k += tl.load(K_ptr + pair_base + pairs, mask=before & in_d, other=0.0)
            tl.store(K_out_ptr + pair_base + pairs, k, mask=in_d & in_c)
            tl.store(G2_out_ptr + pair_base + pairs, g2, mask=in_d & in_c)
        scores = tl.full((BC, BC), 1.0, tl.float32)
        for tile in tl.range(0, E, TILE, disable_licm=True):
            e = tile + tl.arange(0, TILE)
            in_e, in_tile = (e < E)[:, None], (e < E)[:, None] & (d < D)[None, :]
            at1, at2 = W1_ptr + d[None, :] * E + e[:, None], W2_ptr + e[:, None] * D + d[None, :]
            hidden = c[None, :] * E + e[:, None]
            first = tl.load(at1, mask=in_tile, other=0.0).to(OPERANDS)
            second = tl.load(at2, mask=in_tile, other=0.0).to(OPERANDS)
            b1 = tl.load(b1_ptr + e, mask=e < E, other=0.0)
            x2, slope = _gelu(tl.dot(first, k_low, input_precision=PRECISION) + b1[:, None])
            g1 = tl.dot(second, g2_low, input_precision=PRECISION) * slope
            x2, g1 = tl.where(here, x2, 0.0), tl.where(here, g1, 0.0)
            if n == 0:
                x2 += tl.load(X2_ptr + hidden_base + hidden, mask=before & in_e, other=0.0)
                g1 += tl.load(G1_ptr + hidden_base + hidden, mask=before & in_e, other=0.0)
            x2_low, g1_low = x2.to(OPERANDS), g1.to(OPERANDS)
            z1_bar = tl.dot(first, q_low, input_precision=PRECISION) + b1[:, None]
            z1_bar -= tl.dot(g1_low, scores_low, input_precision=PRECISION)
            x2_bar, _ = _gelu(z1_bar)
            x2_bar_low = x2_bar.to(OPERANDS)
            scores += tl.dot(tl.trans(x2_low), x2_bar_low, input_precision=PRECISION)
            z_bar += tl.dot(tl.trans(second), x2_bar_low, input_precision=PRECISION)
            if full:
                # the tiles again rather than kept
                change = tau_last * tl.dot(g1_low, tl.trans(k_low), input_precision=PRECISION)
                tl.store(at1, tl.load(at1, mask=in_tile, other=0.0) - change, mask=in_tile)
                change = tau_last * tl.dot(x2_low, tl.trans(g2_low), input_precision=PRECISION)
                tl.store(at2, tl.load(at2, mask=in_tile, other=0.0) - change, mask=in_tile)
                tl.store(b1_ptr + e, b1 - tau_last * tl.sum(g1, 1), mask=e < E)
            else:
                tl.store(G1_out_ptr + hidden_base + hidden, g1, mask=in_e & in_c)
                tl.store(X2_out_ptr + hidden_base + hidden, x2, mask=in_e & in_c)
        scores_low = tl.where(causal, scores * tau, 0.0).to(OPERANDS)
        z_bar -= tl.dot(g2_low, scores_low, input_precision=PRECISION)
        x_hat, _ = _normalised(z_bar, in_d, D, eps)
        q = tl.load(q_ptr + start + token, mask=inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + start + token, (q + x_hat * weight + bias).to(out_ptr.dtype.element_ty), mask=inside)
        # The next turn reads W1, b1 and W2, which other threads of this program have just written.
        tl.debug_barrier()
    if (offset + T) % C == 0:
        tl.store(K_out_ptr + pair_base + pairs, tl.zeros((BD, BC), tl.float32), mask=in_d & in_c)
        tl.store(G2_out_ptr + pair_base + pairs, tl.zeros((BD, BC), tl.float32), mask=in_d & in_c)
        for tile in tl.range(0, E, TILE, disable_licm=True):
            e = tile + tl.arange(0, TILE)
            hidden = c[None, :] * E + e[:, None]
            tl.store(G1_out_ptr + hidden_base + hidden, tl.zeros((TILE, BC), tl.float32), mask=(e < E)[:, None] & in_c)
            tl.store(X2_out_ptr + hidden_base + hidden, tl.zeros((TILE, BC), tl.float32), mask=(e < E)[:, None] & in_c)
    tl.store(b2_ptr + row * D + d[:, None], b2, mask=in_d)
