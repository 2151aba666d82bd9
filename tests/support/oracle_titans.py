"""A second opinion on Titans: its four variants in numpy float64, token by token, with no code of ttbench.

Weights are a mapping from the published names to arrays, configurations are config.json, as in `oracle`.
Letters: T tokens, N persistent vectors, H heads, D head dim, W model width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from oracle import Weights, causal_conv, rms_norm, rotate, sigmoid, silu, stack_logits

Config = Mapping[str, Any]


def normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x.ravel()]).reshape(x.shape)


def answer(weights: Sequence[np.ndarray], x: np.ndarray) -> np.ndarray:
    """M(x) of one vector."""
    for weight in weights[:-1]:
        x = x @ weight
        x = x * normal_cdf(x)
    return x @ weights[-1]


def slopes(weights: Sequence[np.ndarray], k: np.ndarray, v: np.ndarray) -> list[np.ndarray]:
    """Gradient of |M(k) - v|^2 by each weight: forward with the slope of every unit kept, then the chain rule."""
    inputs, units = [k], []
    for weight in weights[:-1]:
        z = inputs[-1] @ weight
        units.append(normal_cdf(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
        inputs.append(z * normal_cdf(z))
    error, found = 2 * (inputs[-1] @ weights[-1] - v), []
    for i in reversed(range(len(weights))):
        found.insert(0, np.outer(inputs[i], error))
        error = weights[i] @ error * units[i - 1] if i else error
    return found


class Memory:
    """One head's weights and momentum after every token."""

    def __init__(self, start: Sequence[np.ndarray], *, size: int, read: str) -> None:
        self.base = self.now = list(start)
        self.momentum = [np.zeros_like(weight) for weight in start]
        self.size, self.read, self.num_tokens = size, read, 0

    def token(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, gates: np.ndarray) -> np.ndarray:
        """Learn one token with its theta, eta and keep, and answer its query."""
        theta, eta, keep = gates
        grads = slopes(self.base, k, v)
        self.momentum = [eta * s - theta * u for s, u in zip(self.momentum, grads, strict=True)]
        self.now = [keep * m + s for m, s in zip(self.now, self.momentum, strict=True)]
        out = answer(self.base if self.read == "chunk" else self.now, q)
        self.num_tokens += 1
        if self.num_tokens % self.size == 0:
            self.base = self.now
        return out


def heads_of(x: np.ndarray, config: Config) -> np.ndarray:
    """[T, W] as [H, T, D]."""
    num_heads = config["num_attention_heads"]
    return x.reshape(len(x), num_heads, x.shape[1] // num_heads).transpose(1, 0, 2)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def convolved(x: np.ndarray, p: Weights, projection: str, conv: str, config: Config) -> np.ndarray:
    """silu(conv(x W)) in heads."""
    projected = x @ p[projection].T
    return heads_of(silu(causal_conv(projected, p[conv], 0.0) if config["conv_kernel"] else projected), config)


def make_memories(p: Weights, config: Config) -> list[Memory]:
    """One for each head, at M_0."""
    dim = config["hidden_size"] // config["num_attention_heads"]
    layers = [p.get(f"memory.start.{i}") for i in range(config["memory_layers"])]
    return [
        Memory(
            [np.zeros((dim, dim)) if layer is None else layer[head] for layer in layers],
            size=config["chunk_size"],
            read=config["memory_read"],
        )
        for head in range(config["num_attention_heads"])
    ]


def memory_inputs(x: np.ndarray, p: Weights, config: Config) -> tuple[list[np.ndarray], np.ndarray]:
    """q, k, v [H, T, D] and theta, eta, keep [H, T, 3] of the memory over its inputs [T, W]."""
    parts = [convolved(x, p, f"memory.{name}_proj.weight", f"memory.convs.{name}.weight", config) for name in "qkv"]
    parts = [unit(part) if name in config["unit_norm"] else part for name, part in zip("qkv", parts, strict=True)]
    gates = sigmoid(heads_of(x @ p["memory.gates_proj.weight"].T + p["memory.gates_proj.bias"], config))
    gates[..., 0] *= config["max_step"] / config["chunk_size"]
    if config["damped_step"]:
        gates[..., 0] *= 1 - gates[..., 1]
    return parts, gates


def memory_reads(x: np.ndarray, p: Weights, config: Config) -> np.ndarray:
    """What the memory answers to each of [T, W], normed by head and side by side."""
    (q, k, v), gates = memory_inputs(x, p, config)
    memories = make_memories(p, config)
    outs = [
        [memory.token(q[h, t], k[h, t], v[h, t], gates[h, t]) for h, memory in enumerate(memories)]
        for t in range(len(x))
    ]
    return rms_norm(np.array(outs), p["memory.norm.weight"], config["rms_norm_eps"]).reshape(len(x), -1)


def turned(x: np.ndarray, positions: Sequence[int], config: Config) -> np.ndarray:
    """[H, T, D] rotated."""
    theta = config["rope_theta"]
    return np.array([[rotate(head[t], at, theta, "halves") for t, at in enumerate(positions)] for head in x])


def softmax_mean(q: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    shares = np.exp(keys @ q / math.sqrt(len(q)))
    return shares @ values / shares.sum()


def projected(x: np.ndarray, p: Weights, name: str, config: Config) -> np.ndarray:
    return heads_of(x @ p[f"attention.{name}_proj.weight"].T, config)


def window_attention(x: np.ndarray, front: np.ndarray, p: Weights, config: Config) -> np.ndarray:
    """Attention of [T, W] to a window of itself and to all of `front` [N, W], which is not rotated."""
    q, k = (turned(projected(x, p, name, config), range(len(x)), config) for name in "qk")
    v = projected(x, p, "v", config)
    front_k, front_v = (projected(front, p, name, config) for name in "kv")
    outs = []
    for t in range(len(x)):
        seen = slice(max(0, t + 1 - config["window"]), t + 1)
        parts = [
            softmax_mean(q[h, t], np.vstack((front_k[h], k[h, seen])), np.vstack((front_v[h], v[h, seen])))
            for h in range(len(q))
        ]
        outs.append(np.concatenate(parts))
    return np.array(outs)


def parameters(w: Weights, prefix: str, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A mixer's own weights, and its persistent vectors [N, W], of which there may be none."""
    p = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
    return p, p.get("persistent", np.zeros((0, x.shape[1])))


def lmm_layer(x: np.ndarray, w: Weights, prefix: str, config: Config) -> np.ndarray:
    p, front = parameters(w, prefix, x)
    m = memory_reads(np.vstack((front, x)), p, config)[len(front) :]
    return (m * silu(x @ p["g_proj.weight"].T)) @ p["o_proj.weight"].T


def mag_layer(x: np.ndarray, w: Weights, prefix: str, config: Config) -> np.ndarray:
    p, front = parameters(w, prefix, x)
    m = memory_reads(np.vstack((front, x)), p, config)[len(front) :]
    y = rms_norm(window_attention(x, front, p, config), p["norm.weight"], config["rms_norm_eps"])
    return (y * silu(m)) @ p["o_proj.weight"].T


def mal_layer(x: np.ndarray, w: Weights, prefix: str, config: Config) -> np.ndarray:
    p, front = parameters(w, prefix, x)
    whole = np.vstack((front, x))
    z = (memory_reads(whole, p, config) * silu(whole @ p["g_proj.weight"].T)) @ p["z_proj.weight"].T
    z = rms_norm(z, p["norm.weight"], config["rms_norm_eps"])
    return window_attention(z[len(front) :], z[: len(front)], p, config) @ p["o_proj.weight"].T


def mac_layer(x: np.ndarray, w: Weights, prefix: str, config: Config) -> np.ndarray:
    """Each token recalls with the weights of its segment's start, attends, is read by the memory, and asks it."""
    p, front = parameters(w, prefix, x)
    size, eps, heads = config["chunk_size"], config["rms_norm_eps"], config["num_attention_heads"]
    cues = unit(convolved(x, p, "r_proj.weight", "r_conv.weight", config))
    q, k = (turned(projected(x, p, name, config), range(len(x)), config) for name in "qk")
    v = projected(x, p, "v", config)
    front_k, front_v = (projected(front, p, name, config) for name in "kv")
    memories, ys, outs = make_memories(p, config), np.zeros((0, x.shape[1])), []
    for t in range(len(x)):
        segment = range(t // size * size, t + 1)
        # `base` does not move inside a segment
        recalled = np.array([[answer(memories[h].base, cues[h, j]) for h in range(heads)] for j in segment])
        h_rows = rms_norm(recalled, p["recall_norm.weight"], eps).reshape(len(segment), -1)
        h_k = turned(projected(h_rows, p, "k", config), segment, config)
        h_v = projected(h_rows, p, "v", config)
        y = [
            softmax_mean(
                q[h, t],
                np.vstack((front_k[h], h_k[h], k[h, segment.start : t + 1])),
                np.vstack((front_v[h], h_v[h], v[h, segment.start : t + 1])),
            )
            for h in range(heads)
        ]
        ys = np.vstack((ys, rms_norm(np.concatenate(y), p["norm.weight"], eps)))
        parts, gates = memory_inputs(ys, p, config)
        m = [memories[h].token(*(part[h, t] for part in parts), gates[h, t]) for h in range(heads)]
        outs.append(ys[t] * silu(rms_norm(np.array(m), p["memory.norm.weight"], eps).ravel()))
    return np.array(outs) @ p["o_proj.weight"].T


TITANS_LOGITS = {
    name: stack_logits(layer)
    for name, layer in (
        ("titans-lmm", lmm_layer),
        ("titans-mac", mac_layer),
        ("titans-mag", mag_layer),
        ("titans-mal", mal_layer),
    )
}
