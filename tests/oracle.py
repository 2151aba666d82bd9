"""A second opinion: Llama-like, S4D and TTT models in numpy float64, token by token, sharing no code with ttbench.

Weights are a mapping from the published names (`model.layers.0...`) to arrays, configurations are config.json. Loops
are plain and slow; gradients of the inner layer norm go through its Jacobian matrix rather than a closed form.
Letters: T tokens, D head dim, M model width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Weights = Mapping[str, np.ndarray]


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps) * weight


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_slope(x: np.ndarray) -> np.ndarray:
    """The authors' derivative of gelu, whose constants are rounded to eight digits."""
    t = np.tanh(0.79788456 * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * (0.79788456 + 0.1070322243 * x**2)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def swiglu(x: np.ndarray, w: Weights, prefix: str) -> np.ndarray:
    gate = x @ w[f"{prefix}gate_proj.weight"].T
    return (gate * sigmoid(gate) * (x @ w[f"{prefix}up_proj.weight"].T)) @ w[f"{prefix}down_proj.weight"].T


def causal_conv(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | float) -> np.ndarray:
    """Depthwise over [T, M] with weight [M, 1, K]: the last tap is the current token."""
    out = np.zeros_like(x) + bias
    for t in range(len(x)):
        for tap in range(weight.shape[-1]):
            source = t - (weight.shape[-1] - 1) + tap
            if source >= 0:
                out[t] += x[source] * weight[:, 0, tap]
    return out


def rotate(x: np.ndarray, position: int, theta: float, pairs: str) -> np.ndarray:
    """Rotary embedding of one head vector; `pairs` is "neighbours" (2i, 2i + 1) or "halves" (i, i + D / 2)."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if pairs == "neighbours" else (i, i + half)
        angle = position * theta ** (-2 * i / len(x))
        out[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        out[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return out


def norm_loss_slope(z: np.ndarray, target: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Gradient of 1/2 |LN(z) - target|^2 at z, by the Jacobian of LN."""
    dim, std = len(z), np.sqrt(z.var() + 1e-6)
    x_hat = (z - z.mean()) / std
    jacobian = weight[:, None] * (np.eye(dim) - 1 / dim - np.outer(x_hat, x_hat) / dim) / std
    return jacobian.T @ (weight * x_hat + bias - target)


def ttt_head(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    lam: np.ndarray,
    tau: np.ndarray,
    start: list[np.ndarray],
    weight: np.ndarray,
    bias: np.ndarray,
) -> np.ndarray:
    """One head over [T, D]; `start` is W1, b1 and, for the two-layer model, W2, b2. Every token makes its weights."""
    base = [x.copy() for x in start]
    sums = [np.zeros_like(x) for x in start]
    out = np.empty_like(q)
    for t in range(len(q)):
        place = t % len(tau)
        z1 = k[t] @ base[0] + base[1]
        if len(base) == 2:
            g1 = norm_loss_slope(z1, v[t] - k[t], weight, bias)
            slopes = [np.outer(k[t], g1), g1]
        else:
            x2 = gelu(z1)
            g2 = norm_loss_slope(x2 @ base[2] + base[3], v[t] - k[t], weight, bias)
            g1 = (base[2] @ g2) * gelu_slope(z1)
            slopes = [np.outer(k[t], g1), g1, np.outer(x2, g2), g2]
        sums = [s + lam[t] * slope for s, slope in zip(sums, slopes, strict=True)]
        now = [b - tau[place] * s for b, s in zip(base, sums, strict=True)]
        z = q[t] @ now[0] + now[1]
        if len(base) == 4:
            z = gelu(z) @ now[2] + now[3]
        out[t] = q[t] + layer_norm(z, weight, bias)
        if place == len(tau) - 1:
            base, sums = now, [np.zeros_like(x) for x in start]
    return out


def ttt_layer(h: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any]) -> np.ndarray:
    """The TTT layer over [T, M]."""
    p = {name[len(prefix) :]: value for name, value in w.items() if name.startswith(prefix)}
    heads, size = config["num_attention_heads"], config["mini_batch_size"]
    dim = h.shape[1] // heads
    q, v = h @ p["q_proj.weight"].T, h @ p["v_proj.weight"].T
    if config["share_qk"]:
        k = causal_conv(q, p["conv_k.weight"], p["conv_k.bias"])
        q = causal_conv(q, p["conv_q.weight"], p["conv_q.bias"])
    else:
        k = h @ p["k_proj.weight"].T
    tau = np.maximum(0, 1 / np.arange(1, size + 1) + p["learnable_token_idx"])
    out = np.empty_like(h)
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        theta = config.get("rope_theta", 10000.0)
        q_h, k_h = (
            np.array([rotate(x[t, part], t % size, theta, "neighbours") for t in range(len(h))]) for x in (q, k)
        )
        gate = h @ p["learnable_ttt_lr_weight"][head, 0] + p["learnable_ttt_lr_bias"][head, 0]
        start = [p["W1"][head], p["b1"][head, 0]]
        if config["ttt_layer_type"] == "mlp":
            start += [p["W2"][head], p["b2"][head, 0]]
        lam = config["ttt_base_lr"] * sigmoid(gate) / dim
        out[:, part] = ttt_head(
            q_h, k_h, v[:, part], lam, tau, start, p["ttt_norm_weight"][head], p["ttt_norm_bias"][head]
        )
    out = layer_norm(out, p["post_norm.weight"], p["post_norm.bias"])
    if config["use_gate"]:
        out = gelu(h @ p["g_proj.weight"].T) * out
    return out @ p["o_proj.weight"].T


def ttt_logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits [T, V] of a TTT checkpoint over ids [T]."""
    x, eps = w["model.embed_tokens.weight"][ids], config.get("rms_norm_eps", 1e-6)
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        if config["pre_conv"]:
            normed = rms_norm(x, w[f"{p}conv.norm.weight"], eps)
            x = x + causal_conv(normed, w[f"{p}conv.conv.weight"], w[f"{p}conv.conv.bias"])
        x = x + ttt_layer(rms_norm(x, w[f"{p}seq_norm.weight"], eps), w, f"{p}seq_modeling_block.", config)
        x = x + swiglu(rms_norm(x, w[f"{p}ffn_norm.weight"], eps), w, f"{p}mlp.")
    x = rms_norm(x, w["model.norm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def attention_layer(h: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any]) -> np.ndarray:
    """Causal grouped-query attention over [T, M], with optional short convolutions added to q, k and v."""
    heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    parts = {}
    for name in "qkv":
        x = h @ w[f"{prefix}{name}_proj.weight"].T
        if config.get("conv_kernel", 0):
            x = x + causal_conv(x, w[f"{prefix}{name}_conv.weight"], 0.0)
        parts[name] = x
    out = np.empty((len(h), heads * dim))
    for head in range(heads):
        group = head // (heads // kv_heads)
        q, k, v = (parts[name][:, i * dim : (i + 1) * dim] for name, i in (("q", head), ("k", group), ("v", group)))
        q, k = (np.array([rotate(x[t], t, config["rope_theta"], "halves") for t in range(len(h))]) for x in (q, k))
        for t in range(len(h)):
            scores = k[: t + 1] @ q[t] / np.sqrt(dim)
            shares = np.exp(scores - scores.max())
            out[t, head * dim : (head + 1) * dim] = shares / shares.sum() @ v[: t + 1]
    return out @ w[f"{prefix}o_proj.weight"].T


def llama_logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits [T, V] of a Llama checkpoint over ids [T]."""
    x, eps = w["model.embed_tokens.weight"][ids], config["rms_norm_eps"]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        x = x + attention_layer(rms_norm(x, w[f"{p}input_layernorm.weight"], eps), w, f"{p}self_attn.", config)
        x = x + swiglu(rms_norm(x, w[f"{p}post_attention_layernorm.weight"], eps), w, f"{p}mlp.")
    x = rms_norm(x, w["model.norm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def s4d_layer(u: np.ndarray, p: Weights) -> np.ndarray:
    """The S4D layer over [T, M]: every channel convolved with its kernel, written out."""
    dt, A = np.exp(p["log_dt"]), -np.exp(p["log_A_real"]) + 1j * p["A_imag"]
    C = p["C"][..., 0] + 1j * p["C"][..., 1]
    y = u * p["D"]
    for channel in range(u.shape[1]):
        a = A[channel]
        gain = C[channel] * (np.exp(dt[channel] * a) - 1) / a
        kernel = [2 * np.sum(gain * np.exp(dt[channel] * a * lag)).real for lag in range(len(u))]
        y[:, channel] += np.convolve(u[:, channel], kernel)[: len(u)]
    exact_gelu = y * np.array([[0.5 * (1 + math.erf(value / math.sqrt(2))) for value in row] for row in y])
    values, gates = np.split(exact_gelu @ p["output_linear.weight"].T + p["output_linear.bias"], 2, axis=-1)
    return values * sigmoid(gates)


def s4d_logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits [T, V] of an S4D checkpoint over ids [T]."""
    x, eps = w["model.embed_tokens.weight"][ids], config["rms_norm_eps"]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        mixer = {name.removeprefix(f"{p}mixer."): value for name, value in w.items()}
        x = x + s4d_layer(rms_norm(x, w[f"{p}mixer_norm.weight"], eps), mixer)
        x = x + swiglu(rms_norm(x, w[f"{p}mlp_norm.weight"], eps), w, f"{p}mlp.")
    x = rms_norm(x, w["model.norm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
