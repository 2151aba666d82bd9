"""Causal softmax attention over a past and a present.

    out[t] = sum_s softmax_s(q[t] . k[s] / sqrt(D)) v[s],   s <= P + t

for the T newest of P + T keys. Four implementations of one formula, under one signature; `BACKENDS` names those that
a run can ask for:

    reference   token by token
    eager       all scores at once, in float32 or better; memory grows with T * S
    sdpa        (`chunked`) torch's scaled_dot_product_attention, which chooses a kernel by itself
    flash       torch's FlashAttention kernel of the device (Dao 2023), or an error: never another kernel

Where there is a past, the last two attend to the past and to the present apart and merge the two by their
log-sum-exps, so that no [T, P + T] mask exists. Flash calls the kernels' own operators instead of
scaled_dot_product_attention under `sdpa_kernel(FLASH_ATTENTION)`: that one takes neither an offset nor returns the
log-sum-exp, and a direct call cannot fall back.
Letters: B batch, H heads, G key/value heads, R = H / G, T queries, S keys, P past tokens, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttbench.errors import UnsupportedError
from ttbench.kernels.dispatch.choice import op
from ttbench.kernels.dispatch.running import note


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
    grouped = k.shape[1] != q.shape[1]
    if num_queries == num_keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    if num_queries == 1:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    num_past = num_keys - num_queries
    if q.device.type != "cpu" or torch.is_grad_enabled():
        order = torch.arange(num_keys, device=q.device)
        mask = order <= order[num_past:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    return flash(q, k, v)


@op("attention_step", "sdpa")
def step(
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    seen: Bool[Tensor, "1 1 1 S"],
) -> Float[Tensor, "B H 1 D"]:
    """One query over a buffer of which only the keys marked in the boolean mask `seen` exist."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=k.shape[1] != q.shape[1])


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
    num_queries, group = q.shape[2], q.shape[1] // k.shape[1]
    num_past = k.shape[2] - num_queries
    present = [x[:, :, num_past:].repeat_interleave(group, dim=1) for x in (k, v)]
    out, lse = _flash(q, *present, is_causal=True)
    if num_past == 0:
        return out
    # nothing is masked in the past, so the queries of a group can stand behind each other and no key is repeated
    rows = q.unflatten(1, (k.shape[1], group)).flatten(2, 3)  # [B, G, R * T, D]
    past, past_lse = _flash(rows, k[:, :, :num_past], v[:, :, :num_past], is_causal=False)
    past, past_lse = past.reshape(q.shape), past_lse.reshape(lse.shape)
    share = torch.sigmoid(past_lse - lse)[..., None].to(q.dtype)
    return past * share + out * (1 - share)


def flash_step(
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    seen: Bool[Tensor, "1 1 1 S"],
) -> Float[Tensor, "B H 1 D"]:
    """As `step` where every one of the S keys exists: the kernel takes no mask, and `seen` is not looked at."""
    check_flash(q)
    note("attention_step", f"flash_{q.device.type}")
    rows = q.unflatten(1, (k.shape[1], -1)).flatten(2, 3)  # [B, G, R, D]
    return _flash(rows, k, v, is_causal=False)[0].reshape(q.shape)


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
    if dim % 8 or dim > 256:
        raise UnsupportedError(
            f"FlashAttention on CUDA needs a head size that is a multiple of 8 and at most 256, not {dim}; "
            "use --attention sdpa"
        )


def _flash(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], v: Float[Tensor, "B H S D"], *, is_causal: bool
) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T"]]:
    """Attention and the log-sum-exp of its scores, by the kernel's own operator."""
    aten = torch.ops.aten
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=is_causal)
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[:2]


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
