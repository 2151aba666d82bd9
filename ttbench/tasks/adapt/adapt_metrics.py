"""The numbers of the task `adapt`, as declarations. Torch-free."""

from __future__ import annotations

import math
from typing import Literal

from ttbench.types import Metric, Scalar

_STRATEGY = ("context_len", "strategy")
_DOMAIN = ("context_len", "strategy", "domain")
_COUNTS = {"num_tokens": "token", "num_items": "prompt", "num_bytes": "byte"}  # what denominators count


def _share(name: str, label: str, numerator: str, denominator: str, *axes: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="share",
        better="higher",
        statistic="proportion",
        numerator=numerator,
        denominator=denominator,
        counts=_COUNTS[denominator],
        cluster="source",
        axes=axes,
        where={"phase": "item"},
    )


def _seconds(name: str, label: str, numerator: str, denominator: str, *, unit: str = "s") -> Metric:
    return Metric(
        name=name,
        label=label,
        unit=unit,
        better="lower",
        statistic="ratio",
        numerator=numerator,
        denominator=denominator,
        cluster="round",
        axes=_STRATEGY,
        where={"phase": "passes"},
    )


def _memory(name: str, label: str, unit: str, *, statistic: Literal["max", "count"]) -> Metric:
    where: dict[str, Scalar] = {"phase": "memory"}
    return Metric(
        name=name,
        label=label,
        unit=unit,
        better="lower",
        statistic=statistic,
        numerator=name,
        cluster="round",
        axes=_STRATEGY,
        where=where,
    )


METRICS: tuple[Metric, ...] = (
    _share("accuracy", "tokens of answers that are the likeliest", "num_hits", "num_tokens", *_STRATEGY),
    _share("accuracy_by_domain", "tokens of answers that are the likeliest", "num_hits", "num_tokens", *_DOMAIN),
    _share("exact_by_domain", "answers wholly right", "num_exact", "num_items", *_DOMAIN),
    Metric(
        name="bits_per_byte_by_domain",
        label="bits per byte",
        unit="bit/byte",
        better="lower",
        statistic="ratio",
        numerator="nats",
        denominator="num_bytes",
        counts=_COUNTS["num_bytes"],
        scale=1 / math.log(2),
        cluster="source",
        axes=_DOMAIN,
        where={"phase": "item"},
        smallest_effect=0.005,
    ),
    _share("dispatch_accuracy", "prompts sent to the right expert", "num_dispatched_right", "num_items", *_STRATEGY),
    Metric(
        name="dispatch",
        label="prompts of a domain sent to",
        unit="share",
        better="neither",
        statistic="proportion",
        numerator="num_picked",
        denominator="num_items",
        counts=_COUNTS["num_items"],
        cluster="source",
        axes=(*_DOMAIN, "sent_to"),
        where={"phase": "dispatch"},
    ),
    _seconds("pass1_s", "pass 1, a prompt", "pass1_s", "num_prompts"),
    _seconds("pass2_s", "pass 2, a prompt", "pass2_s", "num_prompts"),
    _seconds("pass_ratio", "pass 1 over pass 2", "pass1_s", "pass2_s", unit="1"),
    _seconds("switch_s", "a switch of experts", "switch_s", "num_switches"),
    _memory("extra_peak_bytes", "peak memory above the loaded model", "bytes", statistic="max"),
    _memory("held_bytes", "held beside the model", "bytes", statistic="count"),
    _memory("expert_params", "parameters of an expert", "1", statistic="count"),
)
