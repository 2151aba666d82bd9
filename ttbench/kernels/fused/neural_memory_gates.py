"""Coefficients of the neural memory's closed forms inside its Triton kernels; see `kernels.gating` for the formulas.

Nothing is divided, so that gates of exactly 0 and 1 are exact. The coefficients depend on the gates alone: for many
chunks they are made by a kernel of their own, in parallel, so that the loop over chunks does not wait for them; for one
token they are made where they are used.

Letters: B batch, T tokens, H heads, N chunks, C tokens of a chunk; BC is C rounded up to a power of two. The rows
of `rows_ptr` are B, f, e, and of the chunk's last token the coefficients of the gradients in M and in S.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _before(P1, R1, Q1, P2, R2, Q2):
    """Two steps of `one_row`'s recurrence as one: the second is of the token before."""
    return P2 * P1, R2 * P1 + Q2 * R1, Q2 * Q1


@triton.jit
def one_row(gates_ptr, pending_ptr, place, BC: tl.constexpr):
    """Coefficients of the token at `place`: of u_i in M, of M_0 and S_0 in M; of u_i and of S_0 in S.

    With P_i = B_j / B_i, Q_i = e_j / e_i and R_i = A_ji / theta_i, which are 1 at i = j = `place`, one token back is
    P_i = keep_{i+1} P_{i+1}, Q_i = eta_{i+1} Q_{i+1} and R_i = P_i + eta_{i+1} R_{i+1}: a scan of BC numbers, where the
    sums of logarithms would be a matrix.
    """
    c = tl.arange(0, BC)
    after = c + 1
    own = tl.load(gates_ptr), tl.load(gates_ptr + 1), tl.load(gates_ptr + 2)
    theta = tl.where(c == place, own[0], tl.load(pending_ptr + c * 3, mask=c < place, other=0.0))
    eta = tl.load(pending_ptr + after * 3 + 1, mask=after < place, other=0.0)
    keep = tl.load(pending_ptr + after * 3 + 2, mask=after < place, other=0.0)
    eta, keep = tl.exp(tl.where(after == place, own[1], eta)), tl.exp(tl.where(after == place, own[2], keep))
    P, R, Q = tl.associative_scan((keep, tl.where(after <= place, keep, 0.0), eta), 0, _before, reverse=True)
    R += Q
    first_eta = tl.exp(tl.where(place == 0, own[1], tl.load(pending_ptr + 1, mask=place > 0, other=0.0)))
    first_keep = tl.exp(tl.where(place == 0, own[2], tl.load(pending_ptr + 2, mask=place > 0, other=0.0)))
    of_M = first_keep * tl.sum(tl.where(c == 0, P, 0.0), 0)
    of_S = first_eta * tl.sum(tl.where(c == 0, R, 0.0), 0)
    return theta * R, of_M, of_S, theta * Q, first_eta * tl.sum(tl.where(c == 0, Q, 0.0), 0)


@triton.jit
def gates_kernel(
    gates_ptr, pending_ptr, A_ptr, rows_ptr,
    T, H, N, offset, C: tl.constexpr, BC: tl.constexpr, TOKEN: tl.constexpr,
):  # fmt: skip
    """Coefficients of one chunk of one sequence and head, token after token. With TOKEN also A, row by row."""
    row, n = (tl.program_id(0) // N).to(tl.int64), tl.program_id(0) % N
    sequence, head = row // H, row % H
    rows_ptr += (row * N + n) * 5 * C
    A_ptr += (row * N + n) * C * C
    pending_ptr += row * C * 3
    c = tl.arange(0, BC)
    theta, R, Q = tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32), tl.zeros((BC,), tl.float32)
    B, f, e = 1.0, 0.0, 1.0
    for j in range(0, C):
        t = n * C - offset + j
        new, is_new = gates_ptr + ((sequence * T + t) * H + head) * 3, (t >= 0) & (t < T)
        old, is_old = pending_ptr + j * 3, t < 0
        own = tl.load(new, mask=is_new, other=0.0) + tl.load(old, mask=is_old, other=0.0)
        eta = tl.exp(tl.load(new + 1, mask=is_new, other=0.0) + tl.load(old + 1, mask=is_old, other=0.0))
        keep = tl.exp(tl.load(new + 2, mask=is_new, other=0.0) + tl.load(old + 2, mask=is_old, other=0.0))
        theta = tl.where(c == j, own, theta)
        Q = tl.where(c == j, 1.0, Q * eta)
        R = tl.where(c == j, 1.0, R * keep + Q)
        B, e = B * keep, e * eta
        f = f * keep + e
        tl.store(rows_ptr + j, B)
        tl.store(rows_ptr + C + j, f)
        tl.store(rows_ptr + 2 * C + j, e)
        if TOKEN:
            tl.store(A_ptr + j * C + c, theta * R, mask=c < C)
    tl.store(rows_ptr + 3 * C + c, theta * R, mask=c < C)
    tl.store(rows_ptr + 4 * C + c, theta * Q, mask=c < C)
