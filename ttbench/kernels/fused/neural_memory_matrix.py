"""The neural memory of one layer, a matrix, as Triton kernels: one token, and any number of tokens.

A column of M is trained by one component of the values alone, so a program takes TILE columns of one sequence and head,
and keeps its part of M and of the momentum S in registers. What needs no column (the rows of keys and gates that wait
for the chunk to end) is written by the program of the first columns.

Whether a token is the last of its chunk, whose write changes M and S, is decided on the device from `place`: one
captured graph serves every token. What the current token adds is taken from registers, never read back. Everything is
float32 but what multiplies in the tensor cores.

Letters: B batch, T tokens, H heads, D head dim, C chunk, N chunks; BD and BC are D and C rounded up to a power of two.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from ttbench.kernels.fused.neural_memory_gates import one_row


@triton.jit
def matrix_step_kernel(
    q_ptr, k_ptr, v_ptr, gates_ptr, place_ptr, M_ptr, S_ptr, X_ptr, D_ptr, pending_ptr, out_ptr,
    M_head, S_head, X_row, D_row, D: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, TILE: tl.constexpr, TOKEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`M_head`, `S_head`: elements from one head to the next; `X_row`, `D_row`: from one token of the chunk."""
    row = tl.program_id(0).to(tl.int64)  # sequence and head
    o = tl.program_id(1) * TILE + tl.arange(0, TILE)
    place = tl.load(place_ptr)
    d, c = tl.arange(0, BD), tl.arange(0, BC)
    in_d, in_o, pending, now = d < D, o < D, (c < C) & (c < place), c == place
    q = tl.load(q_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + row * D + o, mask=in_o, other=0.0).to(tl.float32)
    # Within a head 32 bits are enough for an address.
    gates_ptr += row * 3
    M_ptr += row * M_head
    S_ptr += row * S_head
    X_ptr += row * C * X_row
    D_ptr += row * C * D_row
    pending_ptr += row * C * 3
    of_grads, of_M, of_S, in_momentum, decay = one_row(gates_ptr, pending_ptr, place, BC)
    square, inside = d[:, None] * D + o[None, :], in_d[:, None] & in_o[None, :]
    M = tl.load(M_ptr + square, mask=inside, other=0.0)
    error = 2 * (tl.sum(M * k[:, None], 0) - v)
    out = tl.sum(M * q[:, None], 0)
    keys, in_keys = X_ptr + c[:, None] * X_row + d[None, :], pending[:, None] & in_d[None, :]
    errors, in_errors = D_ptr + c[:, None] * D_row + o[None, :], pending[:, None] & in_o[None, :]
    if TOKEN:
        S = tl.load(S_ptr + square, mask=inside, other=0.0)
        X = tl.where(now[:, None], k[None, :], tl.load(keys, mask=in_keys, other=0.0))
        scores = of_grads * tl.sum(X * q[None, :], 1)
        deltas = tl.where(now[:, None], error[None, :], tl.load(errors, mask=in_errors, other=0.0))
        out = of_M * out + of_S * tl.sum(S * q[:, None], 0) - tl.sum(scores[:, None] * deltas, 0)
    tl.store(out_ptr + row * D + o, out.to(out_ptr.dtype.element_ty), mask=in_o)
    if place == C - 1:
        S = tl.load(S_ptr + square, mask=inside, other=0.0)
        X = tl.where(now[:, None], k[None, :], tl.load(keys, mask=in_keys, other=0.0))
        deltas = tl.where(now[:, None], error[None, :], tl.load(errors, mask=in_errors, other=0.0))
        change = tl.dot(tl.trans(X), of_grads[:, None] * deltas, input_precision=PRECISION)
        tl.store(M_ptr + square, of_M * M + of_S * S - change, mask=inside)
        change = tl.dot(tl.trans(X), in_momentum[:, None] * deltas, input_precision=PRECISION)
        tl.store(S_ptr + square, decay * S - change, mask=inside)
    tl.store(D_ptr + place * D_row + o, error, mask=in_o)
    if tl.program_id(1) == 0:
        tl.store(X_ptr + place * X_row + d, k, mask=in_d)
        i = tl.arange(0, 4)
        tl.store(pending_ptr + place * 3 + i, tl.load(gates_ptr + i, mask=i < 3, other=0.0), mask=i < 3)


@triton.jit
def matrix_kernel(
    q_ptr, k_ptr, v_ptr, gates_ptr, A_ptr, rows_ptr, X_ptr, D_ptr, pending_ptr, out_ptr,
    M_ptr, S_ptr, X_out_ptr, D_out_ptr, pending_out_ptr,
    T, H, N, offset, D: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, TILE: tl.constexpr, TOKEN: tl.constexpr,
    OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sequence, head = row // H, row % H
    o = tl.program_id(1) * TILE + tl.arange(0, TILE)
    d, c = tl.arange(0, BD), tl.arange(0, BC)
    in_d, in_o, in_c = (d < D)[None, :], (o < D)[None, :], (c < C)[:, None]
    # Within a head, and from token to token of a chunk, 32 bits are enough for an address.
    M_ptr += row * D * D
    S_ptr += row * D * D
    X_ptr += row * C * D
    D_ptr += row * C * D
    X_out_ptr += row * C * D
    D_out_ptr += row * C * D
    pending_ptr += row * C * 3
    pending_out_ptr += row * C * 3
    A_ptr += row * N * C * C
    rows_ptr += row * N * 5 * C
    square, in_square = d[:, None] * D + o[None, :], (d < D)[:, None] & in_o
    M = tl.load(M_ptr + square, mask=in_square, other=0.0)
    S = tl.load(S_ptr + square, mask=in_square, other=0.0)
    keys, errors = c[:, None] * D + d[None, :], c[:, None] * D + o[None, :]  # of what is pending at the ends
    token, token_o = c[:, None] * (H * D) + d[None, :], c[:, None] * (H * D) + o[None, :]
    for n in range(0, N):
        first = sequence * T + n * C - offset  # token at place 0, of an earlier call when it is before the sequence
        start = (first * H + head) * D
        t = n * C - offset + c
        is_new, is_old = (c < C) & (t >= 0) & (t < T), (c < C) & (t < 0)
        here, before = is_new[:, None], is_old[:, None]
        k = tl.load(k_ptr + start + token, mask=here & in_d, other=0.0).to(tl.float32)
        if n == 0:
            k += tl.load(X_ptr + keys, mask=before & in_d, other=0.0)
        q_low = tl.load(q_ptr + start + token, mask=here & in_d, other=0.0).to(tl.float32).to(OPERANDS)
        v = tl.load(v_ptr + start + token_o, mask=here & in_o, other=0.0).to(tl.float32)
        k_low, M_low = k.to(OPERANDS), M.to(OPERANDS)
        error = tl.where(here & in_o, 2 * (tl.dot(k_low, M_low, input_precision=PRECISION) - v), 0.0)
        if n == 0:
            error += tl.load(D_ptr + errors, mask=before & in_o, other=0.0)
        out = tl.dot(q_low, M_low, input_precision=PRECISION)
        if TOKEN:
            out *= tl.load(rows_ptr + c, mask=c < C, other=0.0)[:, None]
            of_S = tl.load(rows_ptr + C + c, mask=c < C, other=0.0)[:, None]
            out += of_S * tl.dot(q_low, S.to(OPERANDS), input_precision=PRECISION)
            A = tl.load(A_ptr + c[:, None] * C + c[None, :], mask=in_c & (c < C)[None, :], other=0.0)
            scores = A * tl.dot(q_low, tl.trans(k_low), input_precision=PRECISION)
            out -= tl.dot(scores.to(OPERANDS), error.to(OPERANDS), input_precision=PRECISION)
            A_ptr += C * C
        tl.store(out_ptr + start + token_o, out.to(out_ptr.dtype.element_ty), mask=here & in_o)
        if (n + 1) * C <= offset + T:
            of_grads = tl.load(rows_ptr + 3 * C + c, mask=c < C, other=0.0)[:, None]
            in_momentum = tl.load(rows_ptr + 4 * C + c, mask=c < C, other=0.0)[:, None]
            M = tl.load(rows_ptr + C - 1) * M + tl.load(rows_ptr + 2 * C - 1) * S
            M -= tl.dot(tl.trans(k_low), (of_grads * error).to(OPERANDS), input_precision=PRECISION)
            S = tl.load(rows_ptr + 3 * C - 1) * S
            S -= tl.dot(tl.trans(k_low), (in_momentum * error).to(OPERANDS), input_precision=PRECISION)
        else:
            tl.store(D_out_ptr + errors, error, mask=in_o & in_c)
            if tl.program_id(1) == 0:
                # k again rather than kept: registers are what this kernel runs out of
                k = tl.load(k_ptr + start + token, mask=here & in_d, other=0.0).to(tl.float32)
                if n == 0:
                    k += tl.load(X_ptr + keys, mask=before & in_d, other=0.0)
                tl.store(X_out_ptr + keys, k, mask=in_d & in_c)
                new = gates_ptr + (first * H + head) * 3
                for i in tl.static_range(3):
                    gate = tl.load(new + c * (H * 3) + i, mask=is_new, other=0.0)
                    if n == 0:
                        gate += tl.load(pending_ptr + c * 3 + i, mask=is_old, other=0.0)
                    tl.store(pending_out_ptr + c * 3 + i, gate, mask=c < C)
        rows_ptr += 5 * C
    if (offset + T) % C == 0:
        tl.store(D_out_ptr + errors, tl.zeros((BC, TILE), tl.float32), mask=in_o & in_c)
        if tl.program_id(1) == 0:
            tl.store(X_out_ptr + keys, tl.zeros((BC, BD), tl.float32), mask=in_d & in_c)
            for i in tl.static_range(3):
                tl.store(pending_out_ptr + c * 3 + i, tl.zeros((BC,), tl.float32), mask=c < C)
    tl.store(M_ptr + square, M, mask=in_square)
    tl.store(S_ptr + square, S, mask=in_square)
