"""The neural memory of two layers as Triton kernels: one token, and any number of tokens.

One program for each sequence and head. M1, M2 and their momenta S1, S2 together are too large for registers, so both
kernels walk over the hidden units in tiles: a tile has the columns of M1 and S1 and the rows of M2 and S2 that belong
to the same units. Two walks are needed, because the error at the output is known only when every hidden unit has been
summed.

One token: whether it is the last of its chunk, whose write changes the weights, is decided on the device from `place`;
what it adds is taken from registers, never read back. Any number: the weights stay in global memory, in practice in the
L2 cache, and are rewritten after every chunk; a barrier stands between that write and the next read. Everything is
float32 but what multiplies in the tensor cores.

`num_tiles` is given at run time: loops of a known length would be unrolled, and their loads, drawn together, spill.

Letters: B batch, T tokens, H heads, D head dim, E hidden units, C chunk, N chunks; BD and BC are D and C rounded up to
a power of two, TILE hidden units of a tile, BN tiles rounded up to a power of two.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from ttbench.kernels.fused.neural_memory_gates import one_row


@triton.jit
def _gelu(x):
    """x Phi(x), and its derivative."""
    below = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    return x * below, below + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def _rows(pointer, stride, rows, place, columns, inside, own):
    """Some rows of the chunk so far; that of the token itself is `own`, which is not yet to be read from memory."""
    old = (rows < place)[:, None] & inside[None, :]
    found = tl.load(pointer + rows[:, None] * stride + columns[None, :], mask=old, other=0.0)
    return tl.where((rows == place)[:, None], own[None, :], found)


@triton.jit
def _picked(values, rows, c):
    """values[rows] as a column."""
    return tl.sum(tl.where(rows[:, None] == c[None, :], values[None, :], 0.0), 1)[:, None]


@triton.jit
def network_step_kernel(
    q_ptr, k_ptr, v_ptr, gates_ptr, place_ptr,
    M1_ptr, S1_ptr, M2_ptr, S2_ptr, X1_ptr, D1_ptr, X2_ptr, D2_ptr, pending_ptr, out_ptr,
    M1_head, S1_head, M2_head, S2_head, X1_row, D1_row, X2_row, D2_row, num_tiles,
    D: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr, TILE: tl.constexpr, TOKEN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`.._head`: elements from one head to the next; `.._row`: from one token of the chunk to the next."""
    row = tl.program_id(0).to(tl.int64)  # sequence and head
    place = tl.load(place_ptr)
    d, c, tiles = tl.arange(0, BD), tl.arange(0, BC), tl.arange(0, BN)
    in_d, pending, now = d < D, (c < C) & (c < place), c == place
    q = tl.load(q_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    # Within a head 32 bits are enough for an address.
    gates_ptr += row * 3
    M1_ptr += row * M1_head
    S1_ptr += row * S1_head
    M2_ptr += row * M2_head
    S2_ptr += row * S2_head
    X1_ptr += row * C * X1_row
    D1_ptr += row * C * D1_row
    X2_ptr += row * C * X2_row
    D2_ptr += row * C * D2_row
    pending_ptr += row * C * 3
    of_grads, of_M, of_S, in_momentum, decay = one_row(gates_ptr, pending_ptr, place, BC)
    predicted = tl.zeros((BD,), tl.float32)
    z_kept, h_kept = tl.zeros((BN, TILE), tl.float32), tl.zeros((BN, TILE), tl.float32)
    for n in range(0, num_tiles):
        e = n * TILE + tl.arange(0, TILE)
        at1, in1 = d[:, None] * E + e[None, :], in_d[:, None] & (e < E)[None, :]
        first = tl.load(M1_ptr + at1, mask=in1, other=0.0)
        second = tl.load(M2_ptr + e[:, None] * D + d[None, :], mask=(e < E)[:, None] & in_d[None, :], other=0.0)
        z, h = tl.sum(first * k[:, None], 0), tl.sum(first * q[:, None], 0)
        if TOKEN:
            h = of_M * h + of_S * tl.sum(tl.load(S1_ptr + at1, mask=in1, other=0.0) * q[:, None], 0)
        z_kept = tl.where((tiles == n)[:, None], z[None, :], z_kept)
        h_kept = tl.where((tiles == n)[:, None], h[None, :], h_kept)
        x, _ = _gelu(z)
        predicted += tl.sum(second * x[:, None], 0)
    error = 2 * (predicted - v)
    seen = pending[:, None] & in_d[None, :]
    X1 = tl.load(X1_ptr + c[:, None] * X1_row + d[None, :], mask=seen, other=0.0)
    X1 = tl.where(now[:, None], k[None, :], X1)
    scores = of_grads * tl.sum(X1 * q[None, :], 1)
    out, scores2 = tl.zeros((BD,), tl.float32), tl.zeros((BC,), tl.float32)
    for n in range(0, num_tiles):
        e = n * TILE + tl.arange(0, TILE)
        in_e, at2, in2 = e < E, e[:, None] * D + d[None, :], (e < E)[:, None] & in_d[None, :]
        second = tl.load(M2_ptr + at2, mask=in2, other=0.0)
        x, slope = _gelu(tl.sum(tl.where((tiles == n)[:, None], z_kept, 0.0), 0))
        delta = tl.sum(second * error[None, :], 1) * slope
        h = tl.sum(tl.where((tiles == n)[:, None], h_kept, 0.0), 0)
        if TOKEN:
            hidden = pending[:, None] & in_e[None, :]
            D1 = tl.load(D1_ptr + c[:, None] * D1_row + e[None, :], mask=hidden, other=0.0)
            D1 = tl.where(now[:, None], delta[None, :], D1)
            X2 = tl.load(X2_ptr + c[:, None] * X2_row + e[None, :], mask=hidden, other=0.0)
            X2 = tl.where(now[:, None], x[None, :], X2)
            y, _ = _gelu(h - tl.sum(scores[:, None] * D1, 0))
            scores2 += tl.sum(X2 * y[None, :], 1)
            momentum = tl.load(S2_ptr + at2, mask=in2, other=0.0)
            out += tl.sum((of_M * second + of_S * momentum) * y[:, None], 0)
        else:
            y, _ = _gelu(h)
            out += tl.sum(second * y[:, None], 0)
        tl.store(D1_ptr + place * D1_row + e, delta, mask=in_e)
        tl.store(X2_ptr + place * X2_row + e, x, mask=in_e)
        if place == C - 1:
            # layer by layer, a few rows at a time, so that nothing spills
            to_M, to_S = tl.zeros((BD, TILE), tl.float32), tl.zeros((BD, TILE), tl.float32)
            for start in range(0, place + 1, 16):
                rows = start + tl.arange(0, 16)
                inputs = _rows(X1_ptr, X1_row, rows, place, d, in_d, k)
                deltas = _rows(D1_ptr, D1_row, rows, place, e, in_e, delta)
                to_M += tl.dot(tl.trans(inputs), _picked(of_grads, rows, c) * deltas, input_precision=PRECISION)
                to_S += tl.dot(tl.trans(inputs), _picked(in_momentum, rows, c) * deltas, input_precision=PRECISION)
            at1, in1 = d[:, None] * E + e[None, :], in_d[:, None] & in_e[None, :]
            momentum1 = tl.load(S1_ptr + at1, mask=in1, other=0.0)
            to_M = of_M * tl.load(M1_ptr + at1, mask=in1, other=0.0) + of_S * momentum1 - to_M
            tl.store(M1_ptr + at1, to_M, mask=in1)
            tl.store(S1_ptr + at1, decay * momentum1 - to_S, mask=in1)
            to_M2, to_S2 = tl.zeros((TILE, BD), tl.float32), tl.zeros((TILE, BD), tl.float32)
            for start in range(0, place + 1, 16):
                rows = start + tl.arange(0, 16)
                inputs = _rows(X2_ptr, X2_row, rows, place, e, in_e, x)
                deltas = _rows(D2_ptr, D2_row, rows, place, d, in_d, error)
                to_M2 += tl.dot(tl.trans(inputs), _picked(of_grads, rows, c) * deltas, input_precision=PRECISION)
                to_S2 += tl.dot(tl.trans(inputs), _picked(in_momentum, rows, c) * deltas, input_precision=PRECISION)
            momentum2 = tl.load(S2_ptr + at2, mask=in2, other=0.0)
            to_M2 = of_M * tl.load(M2_ptr + at2, mask=in2, other=0.0) + of_S * momentum2 - to_M2
            tl.store(M2_ptr + at2, to_M2, mask=in2)
            tl.store(S2_ptr + at2, decay * momentum2 - to_S2, mask=in2)
    if TOKEN:
        D2 = tl.load(D2_ptr + c[:, None] * D2_row + d[None, :], mask=seen, other=0.0)
        D2 = tl.where(now[:, None], error[None, :], D2)
        out -= tl.sum((of_grads * scores2)[:, None] * D2, 0)
    tl.store(out_ptr + row * D + d, out.to(out_ptr.dtype.element_ty), mask=in_d)
    tl.store(X1_ptr + place * X1_row + d, k, mask=in_d)
    tl.store(D2_ptr + place * D2_row + d, error, mask=in_d)
    three = tl.arange(0, 4)
    gate = tl.load(gates_ptr + three, mask=three < 3, other=0.0)
    tl.store(pending_ptr + place * 3 + three, gate, mask=three < 3)


@triton.jit
def network_kernel(
    q_ptr, k_ptr, v_ptr, gates_ptr, A_ptr, rows_ptr, X1_ptr, D1_ptr, X2_ptr, D2_ptr, pending_ptr, out_ptr,
    M1_ptr, S1_ptr, M2_ptr, S2_ptr, X1_out_ptr, D1_out_ptr, X2_out_ptr, D2_out_ptr, pending_out_ptr,
    T, H, N, offset, num_tiles, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, TILE: tl.constexpr, TOKEN: tl.constexpr,
    OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """M1, S1 and everything by token stand transposed: rows are units, columns are tokens or inputs."""
    row = tl.program_id(0).to(tl.int64)
    sequence, head = row // H, row % H
    d, c = tl.arange(0, BD), tl.arange(0, BC)
    in_d, in_c = (d < D)[:, None], (c < C)[None, :]
    # Within a head, and from token to token of a chunk, 32 bits are enough for an address.
    M1_ptr += row * D * E
    S1_ptr += row * D * E
    M2_ptr += row * D * E
    S2_ptr += row * D * E
    X1_ptr += row * C * D
    D1_ptr += row * C * E
    X2_ptr += row * C * E
    D2_ptr += row * C * D
    X1_out_ptr += row * C * D
    D1_out_ptr += row * C * E
    X2_out_ptr += row * C * E
    D2_out_ptr += row * C * D
    pending_ptr += row * C * 3
    pending_out_ptr += row * C * 3
    A_ptr += row * N * C * C
    rows_ptr += row * N * 5 * C
    pairs = c[None, :] * D + d[:, None]  # of what is pending at the ends, transposed
    token = c[None, :] * (H * D) + d[:, None]
    in_mixing = (c < C)[:, None] & in_c
    for n in tl.range(0, N, disable_licm=True):
        first_token = sequence * T + n * C - offset  # at place 0, of an earlier call when it is before the sequence
        start = (first_token * H + head) * D
        t = n * C - offset + c
        is_new, is_old = (c < C) & (t >= 0) & (t < T), (c < C) & (t < 0)
        here, before = is_new[None, :], is_old[None, :]
        full = (n + 1) * C <= offset + T
        k = tl.load(k_ptr + start + token, mask=here & in_d, other=0.0).to(tl.float32)
        if n == 0:
            k += tl.load(X1_ptr + pairs, mask=before & in_d, other=0.0)
        q_low = tl.load(q_ptr + start + token, mask=here & in_d, other=0.0).to(tl.float32).to(OPERANDS)
        k_low = k.to(OPERANDS)
        error = tl.zeros((BD, BC), tl.float32)
        for tile in tl.range(0, num_tiles, disable_licm=True):
            e = tile * TILE + tl.arange(0, TILE)
            in_tile = (e < E)[:, None] & (d < D)[None, :]
            first = tl.load(M1_ptr + d[None, :] * E + e[:, None], mask=in_tile, other=0.0).to(OPERANDS)
            second = tl.load(M2_ptr + e[:, None] * D + d[None, :], mask=in_tile, other=0.0).to(OPERANDS)
            x, _ = _gelu(tl.dot(first, k_low, input_precision=PRECISION))
            error += tl.dot(tl.trans(second), x.to(OPERANDS), input_precision=PRECISION)
        v = tl.load(v_ptr + start + token, mask=here & in_d, other=0.0).to(tl.float32)
        error = tl.where(here & in_d, 2 * (error - v), 0.0)
        if n == 0:
            error += tl.load(D2_ptr + pairs, mask=before & in_d, other=0.0)
        error_low = error.to(OPERANDS)
        if not full:
            # k again rather than kept: registers are what this kernel runs out of
            k = tl.load(k_ptr + start + token, mask=here & in_d, other=0.0).to(tl.float32)
            if n == 0:
                k += tl.load(X1_ptr + pairs, mask=before & in_d, other=0.0)
            tl.store(X1_out_ptr + pairs, k, mask=in_d & in_c)
            tl.store(D2_out_ptr + pairs, error, mask=in_d & in_c)
        of_grads = tl.load(rows_ptr + 3 * C + c, mask=c < C, other=0.0)[None, :]
        in_momentum = tl.load(rows_ptr + 4 * C + c, mask=c < C, other=0.0)[None, :]
        last_M, last_S, decay = tl.load(rows_ptr + C - 1), tl.load(rows_ptr + 2 * C - 1), tl.load(rows_ptr + 3 * C - 1)
        if TOKEN:
            of_M = tl.load(rows_ptr + c, mask=c < C, other=0.0)[None, :]
            of_S = tl.load(rows_ptr + C + c, mask=c < C, other=0.0)[None, :]
            # transposed: [token i of the gradient, token j of the query]
            mixing = A_ptr + c[None, :] * C + c[:, None]
            scores = tl.dot(tl.trans(k_low), q_low, input_precision=PRECISION)
            scores_low = (scores * tl.load(mixing, mask=in_mixing, other=0.0)).to(OPERANDS)
            scores2 = tl.zeros((BC, BC), tl.float32)
        out = tl.zeros((BD, BC), tl.float32)
        for tile in tl.range(0, num_tiles, disable_licm=True):
            e = tile * TILE + tl.arange(0, TILE)
            in_e, in_tile = (e < E)[:, None], (e < E)[:, None] & (d < D)[None, :]
            at1, at2 = d[None, :] * E + e[:, None], e[:, None] * D + d[None, :]
            hidden = c[None, :] * E + e[:, None]
            first = tl.load(M1_ptr + at1, mask=in_tile, other=0.0).to(OPERANDS)
            second = tl.load(M2_ptr + at2, mask=in_tile, other=0.0).to(OPERANDS)
            x, slope = _gelu(tl.dot(first, k_low, input_precision=PRECISION))
            delta = tl.dot(second, error_low, input_precision=PRECISION) * slope
            x, delta = tl.where(here, x, 0.0), tl.where(here, delta, 0.0)
            if n == 0:
                x += tl.load(X2_ptr + hidden, mask=before & in_e, other=0.0)
                delta += tl.load(D1_ptr + hidden, mask=before & in_e, other=0.0)
            x_low = x.to(OPERANDS)
            y = tl.dot(first, q_low, input_precision=PRECISION)
            if TOKEN:
                S1_low = tl.load(S1_ptr + at1, mask=in_tile, other=0.0).to(OPERANDS)
                y = of_M * y + of_S * tl.dot(S1_low, q_low, input_precision=PRECISION)
                y -= tl.dot(delta.to(OPERANDS), scores_low, input_precision=PRECISION)
                y, _ = _gelu(y)
                scores2 += tl.dot(tl.trans(x_low), y.to(OPERANDS), input_precision=PRECISION)
                S2_low = tl.load(S2_ptr + at2, mask=in_tile, other=0.0).to(OPERANDS)
                out += tl.dot(tl.trans(second), (of_M * y).to(OPERANDS), input_precision=PRECISION)
                out += tl.dot(tl.trans(S2_low), (of_S * y).to(OPERANDS), input_precision=PRECISION)
            else:
                y, _ = _gelu(y)
                out += tl.dot(tl.trans(second), y.to(OPERANDS), input_precision=PRECISION)
            if full:
                rows_low = tl.trans(k_low)
                S_tile = tl.load(S1_ptr + at1, mask=in_tile, other=0.0)
                M_tile = last_M * tl.load(M1_ptr + at1, mask=in_tile, other=0.0) + last_S * S_tile
                M_tile -= tl.dot((of_grads * delta).to(OPERANDS), rows_low, input_precision=PRECISION)
                tl.store(M1_ptr + at1, M_tile, mask=in_tile)
                S_tile = decay * S_tile
                S_tile -= tl.dot((in_momentum * delta).to(OPERANDS), rows_low, input_precision=PRECISION)
                tl.store(S1_ptr + at1, S_tile, mask=in_tile)
                rows_low = tl.trans(error_low)
                S_tile = tl.load(S2_ptr + at2, mask=in_tile, other=0.0)
                M_tile = last_M * tl.load(M2_ptr + at2, mask=in_tile, other=0.0) + last_S * S_tile
                M_tile -= tl.dot((of_grads * x).to(OPERANDS), rows_low, input_precision=PRECISION)
                tl.store(M2_ptr + at2, M_tile, mask=in_tile)
                S_tile = decay * S_tile
                S_tile -= tl.dot((in_momentum * x).to(OPERANDS), rows_low, input_precision=PRECISION)
                tl.store(S2_ptr + at2, S_tile, mask=in_tile)
            else:
                tl.store(D1_out_ptr + hidden, delta, mask=in_e & in_c)
                tl.store(X2_out_ptr + hidden, x, mask=in_e & in_c)
        if TOKEN:
            scores2 *= tl.load(mixing, mask=in_mixing, other=0.0)
            out -= tl.dot(error_low, scores2.to(OPERANDS), input_precision=PRECISION)
        tl.store(out_ptr + start + token, out.to(out_ptr.dtype.element_ty), mask=here & in_d)
        if not full:
            new = gates_ptr + (first_token * H + head) * 3
            for i in tl.static_range(3):
                gate = tl.load(new + c * (H * 3) + i, mask=is_new, other=0.0)
                if n == 0:
                    gate += tl.load(pending_ptr + c * 3 + i, mask=is_old, other=0.0)
                tl.store(pending_out_ptr + c * 3 + i, gate, mask=c < C)
        A_ptr += C * C
        rows_ptr += 5 * C
        # The next turn reads M1, S1, M2 and S2, which other threads of this program have just written.
        tl.debug_barrier()
    if (offset + T) % C == 0:
        tl.store(X1_out_ptr + pairs, tl.zeros((BD, BC), tl.float32), mask=in_d & in_c)
        tl.store(D2_out_ptr + pairs, tl.zeros((BD, BC), tl.float32), mask=in_d & in_c)
        for i in tl.static_range(3):
            tl.store(pending_out_ptr + c * 3 + i, tl.zeros((BC,), tl.float32), mask=c < C)
        for tile in tl.range(0, num_tiles, disable_licm=True):
            e = tile * TILE + tl.arange(0, TILE)
            hidden = c[None, :] * E + e[:, None]
            tl.store(D1_out_ptr + hidden, tl.zeros((TILE, BC), tl.float32), mask=(e < E)[:, None] & in_c)
            tl.store(X2_out_ptr + hidden, tl.zeros((TILE, BC), tl.float32), mask=(e < E)[:, None] & in_c)
