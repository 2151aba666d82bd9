"""S4D: a linear time-invariant state space with a complex diagonal matrix, one input and one output per channel.

    x[t] = Abar x[t - 1] + Bbar u[t]        Abar = exp(dt A),  Bbar = (exp(dt A) - 1) / A      (zero-order hold, B = 1)
    y[t] = 2 Re(sum_n C[n] x[n, t]) + D u[t]

Only one of each conjugate pair of states is kept, hence the 2 Re. The same numbers as a convolution, for c tokens
after a state x:

    y[t] = sum_{s <= t} K[t - s] u[s] + 2 Re(C Abar^(t + 1) x) + D u[t]      K[l] = 2 Re(sum_n C[n] Bbar[n] Abar[n]^l)

The fast form takes chunks of `CHUNK_LEN` tokens by that formula, all of them in two matrix products (within a chunk and
into its last state; from the state before it), and steps from chunk to chunk; so any number of tokens, split anywhere,
gives the same numbers without an FFT whose padding would depend on it. dt A and its powers are made in float64
and only then cast: their angles grow with the place in a chunk.

Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models" (arXiv 2206.11893),
sections 3 and 4; zero-order hold, and the Vandermonde product of section 3.3 for K.
Complex tensors cross the border as pairs of reals, [..., 2].
Letters: B batch, T tokens, H channels, N complex states of a channel (half of the paper's N), N2 = 2 N.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels.dispatch.choice import op

CHUNK_LEN = 64  # tokens


def reference(
    u: Float[Tensor, "B T H"],
    dt: Float[Tensor, "H"],
    A: Float[Tensor, "H N 2"],
    C: Float[Tensor, "H N 2"],
    D: Float[Tensor, "H"],
    initial_state: Float[Tensor, "B H N 2"],
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H N 2"]]:
    """Recurrent mode: token by token, as the formula above.

    Args:
        u: inputs; the output has its dtype.
        dt: step sizes, of any precision.
        A: eigenvalues before discretisation, of any precision; real parts below zero.
        C, D: read-out and skip.
        initial_state: what the tokens before left, float32 at least; not changed.
    """
    dtA, B_bar = _discretise(dt, A)
    A_bar, B_bar = _cast(dtA.exp(), initial_state.dtype), _cast(B_bar, initial_state.dtype)
    read = _complex(C.to(initial_state.dtype))
    x, wide, outs = _complex(initial_state), u.to(initial_state.dtype), []
    for t in range(u.shape[1]):
        x = A_bar * x + B_bar * wide[:, t, :, None]
        outs.append(2 * (read * x).real.sum(-1) + D * wide[:, t])
    return torch.stack(outs, 1).to(u.dtype), torch.view_as_real(x)


@op("s4d", "chunked")
def chunked(
    u: Float[Tensor, "B T H"],
    dt: Float[Tensor, "H"],
    A: Float[Tensor, "H N 2"],
    C: Float[Tensor, "H N 2"],
    D: Float[Tensor, "H"],
    initial_state: Float[Tensor, "B H N 2"],
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H N 2"]]:
    """Convolution mode: the same numbers as `reference`, a chunk at a time; differentiable. Arguments as there."""
    num_tokens, dtype = u.shape[1], initial_state.dtype
    chunk_len = min(CHUNK_LEN, num_tokens)
    kernel, write, read, powers = _tables(dt, A, C, chunk_len, dtype)
    # T[t, s] = kernel[t - s], 0 above the diagonal
    toeplitz = F.pad(kernel, (chunk_len - 1, 0)).unfold(1, chunk_len, 1).flip(-1)
    wide = u.to(dtype)
    x = _complex(initial_state).movedim(0, -1)  # [H, N, B]
    whole = num_tokens // chunk_len * chunk_len
    outs = []
    for start, stop, size in ((0, whole, chunk_len), (whole, num_tokens, num_tokens - whole)):
        if start == stop:
            continue
        # what a chunk adds to its outputs, and to the state behind it
        made = torch.cat((toeplitz[:, :size, :size], write[:, :, chunk_len - size :]), 1)  # [H, size + 2N, size]
        out, x = _chunks(wide[:, start:stop].unflatten(1, (-1, size)), made, read[:, :size], powers[:, :, size], x)
        outs.append(out)
    y = (outs[0] if len(outs) == 1 else torch.cat(outs, 1)) + D * wide
    return y.to(u.dtype), torch.view_as_real(x.movedim(-1, 0).contiguous())


@op("s4d_step", "step")
def step(
    u: Float[Tensor, "B 1 H"],
    dt: Float[Tensor, "H"],
    A: Float[Tensor, "H N 2"],
    C: Float[Tensor, "H N 2"],
    D: Float[Tensor, "H"],
    state: Float[Tensor, "B H N 2"],
) -> Float[Tensor, "B 1 H"]:
    """One token, in recurrent mode; `state` is CHANGED IN PLACE."""
    y, after = reference(u, dt, A, C, D, state)
    state.copy_(after)
    return y


def flops(num_states: int) -> float:
    """FLOP of one token in one channel by the convolution mode, matrix products only; half of a triangle is counted."""
    return (CHUNK_LEN + 1) + 2 * 2 * num_states + 2 * 2 * num_states


def _discretise(dt: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """dt A and Bbar, complex128 [H, N]."""
    eigenvalues = _complex(A.double())
    dtA = dt.double()[:, None] * eigenvalues
    return dtA, (dtA.exp() - 1) / eigenvalues


def _complex(parts: Tensor) -> Tensor:
    """Real and imaginary parts in the last dimension as complex numbers, wherever in memory they lie.

    torch's view_as_complex refuses tensors that begin at an odd place, such as a slice of one channel.
    """
    return torch.complex(parts[..., 0], parts[..., 1])


def _cast(z: Tensor, dtype: torch.dtype) -> Tensor:
    """A complex128 tensor in the complex dtype whose parts are `dtype`."""
    return z.to(torch.promote_types(dtype, torch.complex64))


def _tables(
    dt: Tensor, A: Tensor, C: Tensor, chunk_len: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "H T"], Float[Tensor, "H N2 T"], Float[Tensor, "H T N2"], Tensor]:
    """The kernel K; Bbar Abar^(T - 1 - s); 2 C Abar^(t + 1), conjugate; and Abar^0..T, complex [H, N, T + 1]."""
    dtA, B_bar = _discretise(dt, A)
    out = _complex(C.double())
    powers = (dtA[..., None] * torch.arange(chunk_len + 1, device=dt.device)).exp()
    kernel = 2 * torch.einsum("hn,hnt->ht", out * B_bar, powers[..., :-1]).real
    write = torch.view_as_real((B_bar[..., None] * powers[..., :-1]).flip(-1))  # [H, N, T, 2]
    # Re(r x) = Re(r) Re(x) - Im(r) Im(x): the conjugate's parts, against the parts of x
    read = torch.view_as_real((2 * out[..., None] * powers[..., 1:]).conj().resolve_conj())
    return (
        kernel.to(dtype),
        write.transpose(2, 3).flatten(1, 2).to(dtype),
        read.permute(0, 2, 1, 3).flatten(2).to(dtype),
        _cast(powers, dtype),
    )


def _chunks(u: Tensor, made: Tensor, read: Tensor, decay: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs without the skip [B, T, H], and the last state, of G chunks of one size.

    Args:
        u: inputs, [B, G, size, H].
        made, read: matrices [H, size + 2 * states, size] and [H, size, 2 * states].
        decay: Abar^size, complex [H, states].
        x: the state before, complex [H, states, B].
    """
    batch_size, num_chunks, size, _ = u.shape
    added = made @ u.permute(3, 2, 0, 1).flatten(2)  # [H, size + 2 * states, B * G]
    y, gained = added[:, :size], added[:, size:].unflatten(1, (-1, 2)).unflatten(-1, (batch_size, num_chunks))
    gained = torch.complex(gained[:, :, 0], gained[:, :, 1])  # [H, states, B, G]
    before = []
    for each in gained.unbind(-1):
        before.append(x)
        x = decay[..., None] * x + each
    states = torch.view_as_real(torch.stack(before, -1))  # [H, states, B, G, 2]
    y = y + read @ states.movedim(-1, 2).flatten(1, 2).flatten(2)
    return y.unflatten(-1, (batch_size, num_chunks)).permute(2, 3, 1, 0).flatten(1, 2), x
