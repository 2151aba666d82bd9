"""A second opinion: models of most architectures in numpy float64, with no code of ttbench.

Weights are a mapping from the published names (`model.layers.0...`) to arrays, configurations are config.json. Loops
are plain and slow; gradients of the inner layer norm go through its Jacobian matrix rather than a closed form.
Letters: T tokens, D head dim, M model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


def attention_layer(
    h: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any], *, window: int | None = None
) -> np.ndarray:
    """Causal grouped-query attention over [T, M], with optional short convolutions added to q, k and v.

    `window` counts the tokens that a query sees, itself among them.
    """
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
        if config.get("rope_theta") is not None:
            q, k = (np.array([rotate(x[t], t, config["rope_theta"], "halves") for t in range(len(h))]) for x in (q, k))
        for t in range(len(h)):
            first = 0 if window is None else max(0, t + 1 - window)
            scores = k[first : t + 1] @ q[t] / np.sqrt(dim)
            shares = np.exp(scores - scores.max())
            out[t, head * dim : (head + 1) * dim] = shares / shares.sum() @ v[first : t + 1]
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


def s4d_layer(u: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any]) -> np.ndarray:
    """The S4D layer over [T, M]: every channel convolved with its kernel, written out."""
    p = {name.removeprefix(prefix): value for name, value in w.items()}
    dt, A = np.exp(p["log_dt"]), -np.exp(p["log_A_real"]) + 1j * p["A_imag"]
    C = p["C"][..., 0] + 1j * p["C"][..., 1]
    y = u * p["D"]
    for channel in range(u.shape[1]):
        a = A[channel]
        gain = C[channel] * (np.exp(dt[channel] * a) - 1) / a
        kernel = [2 * np.sum(gain * np.exp(dt[channel] * a * lag)).real for lag in range(len(u))]
        y[:, channel] += np.convolve(u[:, channel], kernel)[: len(u)]
    exact_gelu = y * np.array([[0.5 * (1 + math.erf(value / math.sqrt(2))) for value in row] for row in y])
    values, gates = np.split(exact_gelu @ p["o_proj.weight"].T + p["o_proj.bias"], 2, axis=-1)
    return values * sigmoid(gates)


def stack_logits(
    layer: Callable[[np.ndarray, Weights, str, Mapping[str, Any]], np.ndarray],
) -> Callable[..., np.ndarray]:
    """Logits [T, V] over ids [T] of a checkpoint of `models.stack` whose mixer is `layer`."""

    def logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
        x, eps = w["embed.weight"][ids], config["rms_norm_eps"]
        for i in range(config["num_hidden_layers"]):
            p = f"layers.{i}."
            x = x + layer(rms_norm(x, w[f"{p}mixer_norm.weight"], eps), w, f"{p}mixer.", config)
            x = x + swiglu(rms_norm(x, w[f"{p}mlp_norm.weight"], eps), w, f"{p}mlp.")
        return rms_norm(x, w["norm.weight"], eps) @ w.get("lm_head.weight", w["embed.weight"]).T

    return logits


def performer_layer(h: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any]) -> np.ndarray:
    """FAVOR+ over [T, M]; each token reads all keys before it anew, with the stabiliser of the text up to itself."""
    heads, eps, features = config["num_attention_heads"], config["feature_eps"], w[f"{prefix}features"]
    dim = h.shape[1] // heads
    q, k, v = (h @ w[f"{prefix}{name}_proj.weight"].T for name in "qkv")
    out = np.empty_like(h)
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        q_h, k_h = (
            np.array([rotate(x[t, part], t, config["rope_theta"], "halves") for t in range(len(h))]) / dim**0.25
            for x in (q, k)
        )
        for t in range(len(h)):
            above, own = k_h[: t + 1] @ features.T, features @ q_h[t]
            lengths = np.sum(k_h[: t + 1] ** 2, -1, keepdims=True)
            phi_k = np.exp(above - above.max() - lengths / 2) + eps
            phi_q = np.exp(own - own.max() - np.sum(q_h[t] ** 2) / 2) + eps
            shares = phi_k @ phi_q
            out[t, part] = shares @ v[: t + 1, part] / shares.sum()
    return out @ w[f"{prefix}o_proj.weight"].T


def reformer_layer(h: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any]) -> np.ndarray:
    """Streaming LSH attention over [T, M]: each token makes the set of keys that any round gives it, and reads that."""
    p = {name.removeprefix(prefix): value for name, value in w.items()}
    heads, kept = config["num_attention_heads"], config["bucket_keys"]
    dim = h.shape[1] // heads
    q, v = (h @ p[f"{name}_proj.weight"].T for name in "qv")
    if config["conv_kernel"]:
        q, v = (x + causal_conv(x, p[f"convs.{name}.weight"], 0.0) for x, name in ((q, "q"), (v, "v")))
    out = np.empty_like(q)
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        turned = np.array([rotate(x, t, config["rope_theta"], "halves") for t, x in enumerate(q[:, part])])
        keys = turned / np.linalg.norm(turned, axis=1, keepdims=True)
        rounds = [q[:, part] @ rotation for rotation in p["rotations"][head]]
        buckets = [np.argmax(np.hstack((x, -x)), axis=1) if x.size else np.zeros(len(h), int) for x in rounds]
        for t in range(len(h)):
            found = {j for bucket in buckets for j in np.flatnonzero(bucket[:t] == bucket[t])[-kept:]}
            seen = sorted(found) or [t]
            scores = keys[seen] @ turned[t]
            shares = np.exp(scores - scores.max())
            out[t, part] = shares / shares.sum() @ v[seen, part]
    return out @ p["o_proj.weight"].T


def gaussian_layer(h: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any]) -> np.ndarray:
    """Causal attention over [T, M] weighed by a Gaussian kernel, pair by pair."""
    dim = config["hidden_size"] // config["num_attention_heads"]
    q, k, v = (h @ w[f"{prefix}{name}_proj.weight"].T for name in "qkv")
    out = np.zeros_like(q)
    for first in range(0, q.shape[1], dim):
        part = slice(first, first + dim)
        turned = [[rotate(x[t, part], t, config["rope_theta"], "halves") for t in range(len(h))] for x in (q, k)]
        for t, query in enumerate(turned[0]):
            weights = [math.exp(-np.sum((query - key) ** 2) / 2 / math.sqrt(dim)) for key in turned[1][: t + 1]]
            size = {"none": 1.0, "mean": t + 1, "rows": sum(weights)}[config["normalisation"]]
            out[t, part] = np.array(weights) @ v[: t + 1, part] / size
    return out @ w[f"{prefix}o_proj.weight"].T


s4d_logits = stack_logits(s4d_layer)
performer_logits = stack_logits(performer_layer)
reformer_logits = stack_logits(reformer_layer)
skyformer_logits = stack_logits(gaussian_layer)


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def mamba_layer(h: np.ndarray, w: Weights, prefix: str, *, eps: float = 0.0) -> np.ndarray:
    """Mamba's mixer over [T, M]; every token makes its state, channel by channel. `eps` is of Jamba's norms."""
    p = {name[len(prefix) :]: value for name, value in w.items() if name.startswith(prefix)}
    rank, size = p["dt_proj.weight"].shape[1], p["A_log"].shape[1]
    u, z = np.split(h @ p["in_proj.weight"].T + p.get("in_proj.bias", 0.0), 2, axis=1)
    u = silu(causal_conv(u, p["conv1d.weight"], p.get("conv1d.bias", 0.0)))
    low, B, C = np.split(u @ p["x_proj.weight"].T, [rank, rank + size], axis=1)
    if "dt_layernorm.weight" in p:
        low, B, C = (rms_norm(x, p[f"{name}_layernorm.weight"], eps) for x, name in ((low, "dt"), (B, "b"), (C, "c")))
    dt = np.logaddexp(0, low @ p["dt_proj.weight"].T + p["dt_proj.bias"])
    y = np.empty_like(u)
    for channel in range(u.shape[1]):
        state = np.zeros(size)
        for t in range(len(u)):
            step = dt[t, channel]
            state = np.exp(-step * np.exp(p["A_log"][channel])) * state + step * u[t, channel] * B[t]
            y[t, channel] = state @ C[t] + p["D"][channel] * u[t, channel]
    return (y * silu(z)) @ p["out_proj.weight"].T + p.get("out_proj.bias", 0.0)


def mamba2_layer(
    h: np.ndarray, w: Weights, prefix: str, *, groups: int, size: int, limit: tuple[float, float], norm_first: bool
) -> np.ndarray:
    """Mamba-2's mixer over [T, M]; every token makes its state, head by head."""
    p = {name[len(prefix) :]: value for name, value in w.items() if name.startswith(prefix)}
    heads, inner = len(p["A_log"]), len(p["norm.weight"])
    dim = inner // heads
    projected = h @ p["in_proj.weight"].T + p.get("in_proj.bias", 0.0)
    z, mixed, dt = np.split(projected, [inner, projected.shape[1] - heads], axis=1)
    mixed = silu(causal_conv(mixed, p["conv1d.weight"], p.get("conv1d.bias", 0.0)))
    u, B, C = np.split(mixed, [inner, inner + groups * size], axis=1)
    dt = np.clip(np.logaddexp(0, dt + p["dt_bias"]), *limit)
    y = np.empty_like(u)
    for head in range(heads):
        part = slice(head * dim, (head + 1) * dim)
        group = slice(head * groups // heads * size, (head * groups // heads + 1) * size)
        state = np.zeros((dim, size))
        for t in range(len(u)):
            state = np.exp(-dt[t, head] * np.exp(p["A_log"][head])) * state
            state = state + dt[t, head] * np.outer(u[t, part], B[t, group])
            y[t, part] = state @ C[t, group] + p["D"][head] * u[t, part]
    out = y if norm_first else y * silu(z)
    for group in range(groups):
        part = slice(group * inner // groups, (group + 1) * inner // groups)
        out[:, part] = rms_norm(out[:, part], p["norm.weight"][part], 1e-5)
    if norm_first:
        out = out * silu(z)
    return out @ p["out_proj.weight"].T + p.get("out_proj.bias", 0.0)


def mamba_stack(ids: np.ndarray, w: Weights, layer: Callable[[np.ndarray, str], np.ndarray]) -> np.ndarray:
    """Logits [T, V] over ids [T] of whichever mixer `layer(hidden, prefix of its weights)` is; the depth is in `w`."""
    table = w["backbone.embeddings.weight"] if "backbone.embeddings.weight" in w else w["backbone.embedding.weight"]
    x, i = table[ids], 0
    while f"backbone.layers.{i}.norm.weight" in w:
        normed = rms_norm(x, w[f"backbone.layers.{i}.norm.weight"], 1e-5)
        x, i = x + layer(normed, f"backbone.layers.{i}.mixer."), i + 1
    return rms_norm(x, w["backbone.norm_f.weight"], 1e-5) @ w.get("lm_head.weight", table).T


def mamba_logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits [T, V] of a Mamba checkpoint over ids [T]; all its sizes are in the weights."""
    return mamba_stack(ids, w, lambda h, prefix: mamba_layer(h, w, prefix))


def mamba2_logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits [T, V] of a Mamba-2 checkpoint over ids [T], from either spelling of its configuration."""
    ssm = config.get("ssm_cfg", {})
    settings: dict[str, Any] = {
        "groups": ssm["ngroups"] if ssm else config["n_groups"],
        "size": ssm["d_state"] if ssm else config["state_size"],
        "limit": ssm["dt_limit"] if ssm else config["time_step_limit"],
        "norm_first": ssm.get("norm_before_gate", False),
    }
    return mamba_stack(ids, w, lambda h, prefix: mamba2_layer(h, w, prefix, **settings))


def hybrid_logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits [T, V] of a hybrid, a dense Jamba or a Rene checkpoint over ids [T]."""
    if config["model_type"] == "rene":
        return rene_logits(ids, w, config)
    x, eps = w["model.embed_tokens.weight"][ids], config["rms_norm_eps"]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[f"{p}input_layernorm.weight"], eps)
        if f"{p}mamba.A_log" in w:
            x = x + mamba_layer(h, w, f"{p}mamba.", eps=eps)
        else:
            sliding = "layer_types" in config and config["layer_types"][i] == "sliding_attention"
            window = config["sliding_window"] if sliding else None
            x = x + attention_layer(h, w, f"{p}self_attn.", config, window=window)
        x = x + swiglu(rms_norm(x, w[f"{p}pre_ff_layernorm.weight"], eps), w, f"{p}feed_forward.")
    x = rms_norm(x, w["model.final_layernorm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def exact_gelu(x: np.ndarray) -> np.ndarray:
    return x * np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)


def rene_attention(h: np.ndarray, w: Weights, prefix: str, config: Mapping[str, Any]) -> np.ndarray:
    """Rene's attention over [T, M]: rows of in_proj are all queries, then all keys, then all values; no positions."""
    heads = config["num_heads"]
    kv_heads, dim = config.get("num_heads_kv") or heads, config.get("head_dim") or h.shape[1] // heads
    fused = h @ w[f"{prefix}in_proj.weight"].T + w.get(f"{prefix}in_proj.bias", 0.0)
    q, k, v = np.split(fused, [heads * dim, (heads + kv_heads) * dim], axis=1)
    out = np.empty((len(h), heads * dim))
    for head in range(heads):
        group = head // (heads // kv_heads)
        mine, theirs = slice(head * dim, (head + 1) * dim), slice(group * dim, (group + 1) * dim)
        for t in range(len(h)):
            seen = slice(max(0, t + 1 - config["sliding_window_length"]), t + 1)
            scores = k[seen, theirs] @ q[t, mine] / np.sqrt(dim)
            shares = np.exp(scores - scores.max())
            out[t, mine] = shares / shares.sum() @ v[seen, theirs]
    return out @ w[f"{prefix}out_proj.weight"].T + w.get(f"{prefix}out_proj.bias", 0.0)


def rene_logits(ids: np.ndarray, w: Weights, config: Mapping[str, Any]) -> np.ndarray:
    """Logits [T, V] of a Rene over ids [T], as cartesia-ai/edge cartesia_pytorch/rene.py @ 6788a08 computes them."""
    ssm, table = config["ssm_cfg"], w["backbone.embedding.weight"]
    x = table[ids]
    for i in range(config["n_layer"]):
        h, p = rms_norm(x, w[f"backbone.layers.{i}.norm.weight"], 1e-5), f"backbone.layers.{i}.mixer."
        if i in config["attn_layer_idx"]:
            x = x + rene_attention(h, w, p, config["attn_cfg"])
        elif i in config["mlp_layer_idx"]:
            inner = exact_gelu(h @ w[f"{p}in_proj.weight"].T + w.get(f"{p}in_proj.bias", 0.0))
            x = x + inner @ w[f"{p}out_proj.weight"].T + w.get(f"{p}out_proj.bias", 0.0)
        else:
            x = x + mamba2_layer(
                h,
                w,
                p,
                groups=ssm.get("ngroups", 1),
                size=ssm.get("d_state", 128),
                limit=ssm.get("dt_limit", (0.0, math.inf)),
                norm_first=ssm.get("norm_before_gate", False),
            )
    return rms_norm(x, w["backbone.norm_f.weight"], 1e-5) @ w.get("lm_head.weight", table).T
