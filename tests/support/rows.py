"""Synthetic rows of the four tasks, as the store gives them, with effects that a test chooses."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ttbench.registry import TASKS
from ttbench.types import Metric

BITS = 1 / math.log(2)


def _bits(name: str, label: str, **options: Any) -> Metric:
    numbers: dict[str, Any] = {
        "numerator": "nats",
        "denominator": "num_bytes",
        "counts": "byte",
        "scale": BITS,
        "better": "lower",
    }
    return Metric(name=name, label=label, unit="bit/byte", statistic="ratio", cluster="document", **(numbers | options))


def _median(name: str, label: str, unit: str, numerator: str, phase: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit=unit,
        better="lower",
        statistic="median",
        numerator=numerator,
        cluster="round",
        where={"phase": phase},
    )


def _hits(name: str, *axes: str) -> Metric:
    return Metric(
        name=name,
        label="needles retrieved",
        unit="share",
        better="higher",
        statistic="proportion",
        numerator="hits",
        denominator="num_trials",
        counts="trial",
        cluster="haystack",
        axes=("context_len", *axes),
    )


METRICS: dict[str, tuple[Metric, ...]] = {
    "perplexity": (
        _bits("bits_per_byte", "bits per byte"),
        Metric(
            name="perplexity",
            label="perplexity per token",
            unit="1",
            better="lower",
            statistic="exp_ratio",
            numerator="nats",
            denominator="num_tokens",
            counts="token",
            cluster="document",
        ),
        *(
            _bits(
                f"{name}_bits_per_byte",
                f"{name} -9 on the same documents",
                better="neither",
                numerator=f"{name}_bytes",
                denominator="document_bytes",
                scale=8.0,
            )
            for name in ("bzip2", "xz")
        ),
    ),
    "needle": (_hits("retrieval"), _hits("retrieval_by_depth", "depth")),
    "latency": (
        _median("prefill_s", "prefill", "s", "call_s", "prefill"),
        Metric(
            name="decode_tokens_per_s",
            label="decode speed",
            unit="tokens/s",
            better="higher",
            statistic="ratio",
            numerator="num_tokens",
            denominator="wall_s",
            cluster="round",
            where={"phase": "decode"},
        ),
        _median("load_s", "load", "s", "call_s", "load"),
    ),
    "memory": (
        Metric(
            name="state_bytes",
            label="state in use",
            unit="bytes",
            better="lower",
            statistic="count",
            numerator="state_bytes",
            cluster="round",
            where={"phase": "prefill"},
        ),
        _median("prefill_peak_bytes", "peak while reading", "bytes", "peak_rss_bytes", "prefill"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A made-up checkpoint: what its rows should look like."""

    name: str
    train_ctx: int | None = 2048
    bits: float = 1.5  # per byte within the training context
    gain: float = 0.03  # bits per byte won by each doubling of the context, as far as the training context
    loss: float = 0.0  # bits per byte lost by each doubling beyond it
    hit_rate: float = 0.9
    speed: float = 1.0  # seconds per 1,000 tokens of prefill
    growth: float = 0.0  # share by which a doubling of the context slows decoding
    tokenizer: str = "tok-bytes"
    settings: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[int, tuple[str, str]] = field(default_factory=dict)  # context -> status, reason


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _shared(task: str, model: Model, context_len: int, params: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run_id": "run-1",
        "cell_id": "",
        "schema": 1,
        "task": task,
        "task_version": 1,
        "checkpoint": model.name,
        "architecture": model.name.split("-")[0],
        "architecture_version": 1,
        "provenance": "zoo",
        "revision": None,
        "weights_digest": _digest("weights", model.name),
        "config_digest": _digest("config", model.name),
        "tokenizer_digest": model.tokenizer,
        "train_ctx": model.train_ctx,
        "train_recipe": None,
        "train_seed": None,
        "num_params": 1_000_000,
        "num_params_non_embedding": 900_000,
        "context_len": context_len,
        "extrapolated": None if model.train_ctx is None else context_len > model.train_ctx,
        "corpus": {"perplexity": "code", "needle": "kjv"}.get(task),
        "corpus_digest": {"perplexity": "c1", "needle": "c2"}.get(task),
        "seed": 0,
        "dtype": "float32",
        "device": "cpu",
        "engine": "eager",
        "attention": "sdpa",
        "kernel_path": "{}",
        "batch_size": 1,
        "threads": 2,
        "round": 0,
        "machine": "m1",
        "environment": "e1",
        "status": "ok",
        "reason": None,
        "started": "2026-01-02T03:04:05Z",
        "cell_s": 1.0,
        "cell_cpu_s": 1.0,
        "load_average": 0.5,
        **{f"param_{name}": value for name, value in params.items()},
        **model.settings,
        **options,
    }
    row["cell_id"] = _digest(row)
    return row


def _doublings(model: Model, context_len: int) -> tuple[float, float]:
    train_ctx = model.train_ctx or context_len
    return math.log2(min(context_len, train_ctx) / 512), max(math.log2(context_len / train_ctx), 0.0)


def perplexity_rows(
    models: Sequence[Model],
    contexts: Sequence[int],
    *,
    num_documents: int = 34,
    windows: int = 2,
    noise: float = 0.02,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Windows of documents that differ from each other far more than the checkpoints do."""
    rng = np.random.default_rng([seed, 1])
    difficulty = rng.normal(0, 0.25, num_documents)
    window_difficulty = rng.normal(0, 0.1, (num_documents, windows))
    size = rng.integers(30_000, 200_000, num_documents)
    rows: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        own = np.random.default_rng([seed, 2, index])
        for context_len in contexts:
            shared = _shared("perplexity", model, context_len, {"protocol": "fixed", "window": 256})
            if context_len in model.failures:
                status, reason = model.failures[context_len]
                rows.append(shared | {"status": status, "reason": reason, "sample": 0})
                continue
            within, beyond = _doublings(model, context_len)
            for sample, (document, window) in enumerate(np.ndindex(num_documents, windows)):
                bits = model.bits - model.gain * within + model.loss * beyond + difficulty[document]
                bits += window_difficulty[document, window] + own.normal(0, noise)
                first = window == 0
                rows.append(
                    shared
                    | {
                        "sample": sample,
                        "document": f"doc{document:03d}",
                        "window_start": window * 1000,
                        "num_tokens": 256,
                        "num_bytes": 256,
                        "nats": max(bits, 0.05) * 256 / BITS,
                        "document_bytes": int(size[document]) if first else None,
                        "bzip2_bytes": int(size[document] * (0.26 + difficulty[document] / 12)) if first else None,
                        "xz_bytes": int(size[document] * (0.24 + difficulty[document] / 12)) if first else None,
                    }
                )
    return rows


def needle_rows(
    models: Sequence[Model],
    contexts: Sequence[int],
    *,
    num_haystacks: int = 20,
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Hits that become rarer with the length beyond the training context and with the distance from the end."""
    rows: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        rng = np.random.default_rng([seed, 3, index])
        for context_len in contexts:
            shared = _shared("needle", model, context_len, {"scorer": "generate"})
            if context_len in model.failures:
                status, reason = model.failures[context_len]
                rows.append(shared | {"status": status, "reason": reason, "sample": 0})
                continue
            _, beyond = _doublings(model, context_len)
            for sample, (haystack, depth) in enumerate(np.ndindex(num_haystacks, len(depths))):
                rate = model.hit_rate * (1 - min(beyond * (1.1 - depths[depth]) / 3, 1))
                rows.append(
                    shared
                    | {
                        "sample": sample,
                        "haystack": f"book{haystack}@{haystack * 100}",
                        "depth": depths[depth],
                        "recipe": f"{haystack}/{depth}",
                        "num_trials": 1,
                        "hits": float(rng.random() < rate),
                    }
                )
    return rows


def timing_rows(
    models: Sequence[Model],
    contexts: Sequence[int],
    *,
    num_rounds: int = 5,
    repeats: int = 4,
    noise: float = 0.02,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Latency and memory rows: rounds differ, repeats within a round differ less."""
    rows: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        rng = np.random.default_rng([seed, 4, index])
        for context_len in contexts:
            for round_index in range(num_rounds):
                slow = math.exp(rng.normal(0, noise))
                where = {"round": round_index}
                latency = _shared("latency", model, context_len, {"decode_tokens": 32}, **where)
                memory = _shared("memory", model, context_len, {"decode_tokens": 32}, **where)
                if context_len in model.failures:
                    status, reason = model.failures[context_len]
                    rows += [cell | {"status": status, "reason": reason, "sample": 0} for cell in (latency, memory)]
                    continue
                decode = 0.002 * (1 + model.growth) ** math.log2(context_len / 512) * model.speed
                calls = [
                    ("load", 0.2, 1, 0),
                    *[("prefill", model.speed * context_len / 1000, 1, context_len)] * repeats,
                ]
                calls += [("decode", decode, 32, 32)] * repeats
                for sample, (phase, seconds, num_calls, num_tokens) in enumerate(calls):
                    call_s = seconds * slow * math.exp(rng.normal(0, noise / 4))
                    rows.append(
                        latency
                        | {
                            "sample": sample,
                            "phase": phase,
                            "call_s": call_s,
                            "wall_s": call_s * num_calls,
                            "num_tokens": num_tokens,
                        }
                    )
                state = 100_000 if model.growth == 0 else 512 * context_len
                peak = 200_000_000 + state + int(rng.integers(0, 1_000_000))
                rows.append(memory | {"sample": 0, "phase": "prefill", "state_bytes": state, "peak_rss_bytes": peak})
    return rows


def make_rows(*parts: Sequence[Mapping[str, Any]], metrics: Mapping[str, Sequence[Metric]] = METRICS) -> pd.DataFrame:
    """One DataFrame of parts, with nullable types where something is missing, and the metrics in `attrs`."""
    records = [dict(row) for part in parts for row in part]
    names = list(dict.fromkeys(name for row in records for name in row))
    first = [name for name in names if name.startswith("param_")]
    head = names[: names.index(first[0])] if first else names[: names.index("sample")]
    names = [*head, *first, "sample", *(name for name in names if name not in (*head, *first, "sample"))]
    columns = {}
    for name in names:
        values = [row.get(name) for row in records]
        kinds = {type(value) for value in values if value is not None}
        missing = any(value is None for value in values)
        kind = {frozenset({int}): "Int64", frozenset({bool}): "boolean"}.get(frozenset(kinds)) if missing else None
        columns[name] = pd.Series(values, dtype=kind) if kind else pd.Series(values)
    frame = pd.DataFrame(columns)
    tasks = dict.fromkeys(row["task"] for row in records)
    frame.attrs["metrics"] = {task: [metric.to_json() for metric in metrics[task]] for task in tasks}
    known = {task: TASKS.load(task).figures for task in tasks if task in TASKS}
    frame.attrs["figures"] = {task: [figure.to_json() for figure in figures or ()] for task, figures in known.items()}
    return frame


TRANSFORMER = Model(name="transformer", bits=1.50, gain=0.03, loss=0.7, growth=0.25, speed=1.0)
TTT = Model(name="ttt-linear", bits=1.62, gain=0.03, loss=0.04, hit_rate=0.5, growth=0.0, speed=1.6)
CONTEXTS = (512, 1024, 2048, 4096, 8192)
