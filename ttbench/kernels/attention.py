"""Causal softmax attention over a past and a present.

    out[t] = sum_s softmax_s(q[t] . k[s] / sqrt(D)) v[s],   s <= P + t

for the T newest of P + T keys. Four implementations of one formula, under one signature; `BACKENDS` names those that
a run can ask for:

    reference   token by token
    eager       all scores at once, in float32 or better; memory grows with T * S
    sdpa        (`chunked`) the fastest kernel that torch has for the device and the dtype
    flash       torch's FlashAttention kernel of the device (Dao 2023), or an error: never another kernel

Where there is a past, the last two attend to the past and to the present apart and merge the two by their
log-sum-exps, so that no [T, P + T] mask exists: a mask rules out FlashAttention. They call the kernels' own operators
instead of scaled_dot_product_attention, which takes no offset and does not return the log-sum-exp; and a direct call
cannot fall back. What needs a mask, such as one token over a buffer that is not full, has the queries of a group of
heads one behind the other on a GPU: a mask together with `enable_gqa` leaves torch only its slowest kernel.

Which kernel of torch `sdpa` ran is noted beside it.
Letters: B batch, H heads, G key/value heads, R = H / G, T queries, S keys, P past tokens, D head dim.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ttbench.errors import UnsupportedError
from ttbench.kernels.dispatch.choice import op
from ttbench.kernels.dispatch.running import note

# Attention and the log-sum-exp of its scores: (q, k, v, is_causal) -> [B, H, T, D], [B, H, T].
Kernel = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor]]

MOST_FLASH_DIM = 256  # of FlashAttention on CUDA
_CHOICES: dict[tuple[object, ...], str] = {}  # what torch chooses for calls of one kind


def reference(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], v: Float[Tensor, "B H S D"]
) -> Float[Tensor, "B H T D"]:
    """Token by token, as the formula above; q holds the last T of the S positions."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    out = torch.empty_like(q)
    for t in range(num_queries):
        seen = num_keys - num_queries + t + 1
        scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, :seen]) / math.sqrt(q.shape[-1])
        out[:, :, t] = torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v[:, :, :seen])
    return out


@op("attention", "sdpa")
def chunked(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S D"]
) -> Float[Tensor, "B H T D"]:
    """As `reference`, fused; k and v may have fewer heads G (grouped queries, H a multiple of G)."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    training = torch.is_grad_enabled()
    if q.device.type == "cuda" and not training:
        return fused(q, k, v)
    if num_queries == num_keys or num_queries == 1:
        return _sdpa("attention", q, k, v, is_causal=num_queries == num_keys)
    if q.device.type != "cpu" or training:
        order = torch.arange(num_keys, device=q.device)
        return masked("attention", q, k, v, order <= order[num_keys - num_queries :, None])
    return flash(q, k, v)


@op("attention_step", "sdpa")
def step(
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    seen: Bool[Tensor, "1 1 1 S"],
) -> Float[Tensor, "B H 1 D"]:
    """One query over a buffer of which only the keys marked in the boolean mask `seen` exist."""
    return masked("attention_step", q, k, v, seen)


def masked(
    what: str,
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "*ones T_or_1 S"],
) -> Float[Tensor, "B H T D"]:
    """Attention to the keys that a mask marks, the same for all heads; `what` is what the kernel is noted as."""
    group = q.shape[1] // k.shape[1]
    if group == 1 or _keeps_groups(q.device):
        return _sdpa(what, q, k, v, mask=mask)
    rows = _grouped(q, k)
    if mask.shape[-2] > 1:
        mask = mask.repeat(*(1,) * (mask.ndim - 2), group, 1)
    return _sdpa(what, rows, k, v, mask=mask).reshape(q.shape)


def fused(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S D"]
) -> Float[Tensor, "B H T D"]:
    """As `chunked`, without gradients, by the kernel that `fused_kernel` names."""
    name = fused_kernel(q)
    note("attention", f"{name}_cuda")
    kernel = _FUSED[name]
    if q.shape[2] == 1:
        # it sees every key
        return kernel(_grouped(q, k), k, v, False)[0].reshape(q.shape)
    return merged(q, k, v, kernel)


def merged(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S D"], kernel: Kernel
) -> Float[Tensor, "B H T D"]:
    """Attention to the past, which every query sees whole, and to the present, merged by their log-sum-exps."""
    num_past, group = k.shape[2] - q.shape[2], q.shape[1] // k.shape[1]
    k_now, v_now = (x[:, :, num_past:].repeat_interleave(group, dim=1) for x in (k, v))
    out, lse = kernel(q, k_now, v_now, True)
    if num_past == 0:
        return out
    # nothing is masked in the past, so the queries of a group can stand behind each other and no key is repeated
    past, past_lse = kernel(_grouped(q, k), k[:, :, :num_past], v[:, :, :num_past], False)
    past, past_lse = past.reshape(q.shape), past_lse.reshape(lse.shape)
    share = torch.sigmoid(past_lse - lse)[..., None].to(q.dtype)
    return past * share + out * (1 - share)


def _keeps_groups(device: torch.device) -> bool:
    """Whether torch has a good kernel there for grouped queries under a mask."""
    return device.type == "cpu"


def _grouped(q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"]) -> Float[Tensor, "B G _ D"]:
    """Queries of the heads that share a key, one behind the other: [B, G, R * T, D]."""
    return q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)


@op("attention", "eager")
def eager(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S D"]
) -> Float[Tensor, "B H T D"]:
    """As `chunked`, written out: [B, H, T, S] scores stand in memory."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    order = torch.arange(num_keys, device=q.device)
    return _softmax_attention(q, k, v, order <= order[num_keys - num_queries :, None])


@op("attention_step", "eager")
def eager_step(
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    seen: Bool[Tensor, "1 1 1 S"],
) -> Float[Tensor, "B H 1 D"]:
    """As `step`, written out."""
    return _softmax_attention(q, k, v, seen[0, 0])


def _softmax_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    mask: Bool[Tensor, "#T S"],
) -> Float[Tensor, "B H T D"]:
    dtype, exact = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(exact).unflatten(1, (k.shape[1], -1)), k.to(exact), v.to(exact)  # q: [B, G, R, T, D]
    scores = torch.einsum("bgrtd,bgsd->bgrts", q, k) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~mask, -math.inf)
    return torch.einsum("bgrts,bgsd->bgrtd", scores.softmax(-1), v).flatten(1, 2).to(dtype)


def flash(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S D"]
) -> Float[Tensor, "B H T D"]:
    """As `chunked`, on the device's FlashAttention kernel alone. Raises UnsupportedError where it cannot run."""
    check_flash(q)
    note("attention", f"flash_{q.device.type}")
    return merged(q, k, v, _flash)


def flash_step(
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    seen: Bool[Tensor, "1 1 1 S"],
) -> Float[Tensor, "B H 1 D"]:
    """As `step` where every one of the S keys exists: the kernel takes no mask, and `seen` is not looked at."""
    check_flash(q)
    note("attention_step", f"flash_{q.device.type}")
    return _flash(_grouped(q, k), k, v, False)[0].reshape(q.shape)


def check_flash(q: Float[Tensor, "... D"]) -> None:
    """Raises UnsupportedError when this device has no FlashAttention kernel for such queries, and says why."""
    dtype, dim = str(q.dtype).removeprefix("torch."), q.shape[-1]
    if torch.is_grad_enabled() and q.requires_grad:
        raise UnsupportedError("attention flash is for inference; train with sdpa")
    if q.device.type == "cpu":
        return
    if q.device.type != "cuda":
        raise UnsupportedError(f"torch has no FlashAttention kernel for {q.device.type}; use --attention sdpa")
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise UnsupportedError(
            f"FlashAttention on CUDA runs in float16 and bfloat16, not in {dtype}; use --dtype bfloat16 or "
            "--attention sdpa"
        )
    if dim % 8 or dim > MOST_FLASH_DIM:
        raise UnsupportedError(
            f"FlashAttention on CUDA needs head sizes that are multiples of 8 up to {MOST_FLASH_DIM}, not {dim}; "
            "use --attention sdpa"
        )


def _flash(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """As `Kernel`, by the device's FlashAttention."""
    if q.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=is_causal)
    return _flash_cuda(q, k, v, is_causal)


def fused_kernel(q: Float[Tensor, "... D"]) -> str:
    """The kernel for queries like these on a GPU, best first: flash, efficient (torch's memory-efficient), math."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    if half and q.shape[-1] <= MOST_FLASH_DIM and _has_flash(q.device):
        return "flash"
    return "efficient" if half or q.dtype == torch.float32 else "math"


@functools.cache
def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _flash_cuda(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """As `Kernel`; head dims are padded to a multiple of 8 with zeros, which change no score."""
    dim, scale = q.shape[-1], q.shape[-1] ** -0.5
    q, k, v = (F.pad(x, (0, -dim % 8)) if dim % 8 else x for x in (q, k, v))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, scale=scale)[:2]
    return out[..., :dim], lse[..., : q.shape[2]]


def _efficient_cuda(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """As `Kernel`; padded likewise. It rounds the number of its log-sum-exps up."""
    dim, scale = q.shape[-1], q.shape[-1] ** -0.5
    q, k, v = (F.pad(x, (0, -dim % 8)) if dim % 8 else x for x in (q, k, v))
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    out, lse = attend(q, k, v, None, True, 0.0, is_causal, scale=scale)[:2]
    return out[..., :dim], lse[..., : q.shape[2]]


def written_out(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """As `Kernel`, for what no kernel takes, such as float64 on a GPU: [B, H, T, S] scores stand in memory."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp() @ v, lse


_FUSED: Mapping[str, Kernel] = {"flash": _flash_cuda, "efficient": _efficient_cuda, "math": written_out}


def _sdpa(
    what: str, q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, is_causal: bool = False
) -> Float[Tensor, "B H T D"]:
    """torch's scaled_dot_product_attention; the kernel that it chooses is noted."""
    grouped = k.shape[1] != q.shape[1]
    kind = q.device.type, q.dtype, q.shape[-1], q.shape[2] == 1, mask is None, is_causal, grouped, q.requires_grad
    # What watches operations must not take the question for one; it is asked by whoever runs without.
    if kind not in _CHOICES and _get_current_dispatch_mode() is None:
        chosen = torch.ops.aten._fused_sdp_choice(q, k, v, mask, 0.0, is_causal, enable_gqa=grouped)
        name = SDPBackend(chosen).name.lower().removesuffix("_attention")
        _CHOICES[kind] = f"{name}_{q.device.type}"
    if kind in _CHOICES:
        note(what, _CHOICES[kind])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=grouped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One implementation of attention: over T tokens, and over one."""

    prefill: Callable[[Tensor, Tensor, Tensor], Tensor]  # as `chunked`
    step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # as `step`
    takes_mask: bool  # False: `step` must be given exactly the keys that exist


BACKENDS: Mapping[str, Backend] = {
    "sdpa": Backend(prefill=chunked, step=step, takes_mask=True),
    "eager": Backend(prefill=eager, step=eager_step, takes_mask=True),
    "flash": Backend(prefill=flash, step=flash_step, takes_mask=False),
}
