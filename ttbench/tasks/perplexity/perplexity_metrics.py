"""The numbers of the task `perplexity`, as declarations. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ttbench.types import Metric, Scalar


def _perplexity(
    name: str, label: str, numerator: str, denominator: str, *, where: Mapping[str, Scalar] | None = None
) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="1",
        better="lower",
        statistic="exp_ratio",
        numerator=numerator,
        denominator=denominator,
        counts="word" if denominator == "num_words" else "token",
        cluster="document",
        where=where or {},
        restates="bits_per_byte",
    )


def _reference(what: str, label: str, numerator: str, denominator: str, scale: float) -> Metric:
    """What stands beneath the models' bits per byte."""
    return Metric(
        name=f"{what}_bits_per_byte",
        label=label,
        unit="bit/byte",
        better="neither",
        statistic="ratio",
        numerator=numerator,
        denominator=denominator,
        counts="byte",
        scale=scale,
        cluster="document",
    )


METRICS: tuple[Metric, ...] = (
    Metric(
        name="bits_per_byte",
        label="bits per byte",
        unit="bit/byte",
        better="lower",
        statistic="ratio",
        numerator="nats",
        denominator="num_bytes",
        counts="byte",
        scale=1 / math.log(2),
        cluster="document",
        smallest_effect=0.005,
    ),
    _perplexity("perplexity", "perplexity per token", "nats", "num_tokens"),
    Metric(
        name="bits_per_byte_by_position",
        label="bits per byte from this position on",
        unit="bit/byte",
        better="lower",
        statistic="ratio",
        numerator="nats",
        denominator="num_bytes",
        counts="byte",
        scale=1 / math.log(2),
        cluster="document",
        axes=("context_len", "position"),
        where={"param_protocol": "position"},
        smallest_effect=0.005,
    ),
    _perplexity(
        "page_perplexity",
        "perplexity per token as the page weighs it",
        "page_nats",
        "page_tokens",
        where={"param_protocol": "hf-stride"},
    ),
    _perplexity("word_perplexity", "perplexity per word", "nats", "num_words", where={"param_protocol": "lme-rolling"}),
    # The cells of a checkpoint share a process: compare contexts of one checkpoint by this, not checkpoints.
    Metric(
        name="stream_peak_rss_bytes",
        label="peak memory while reading",
        unit="bytes",
        better="neither",
        statistic="max",
        numerator="peak_rss_bytes",
        cluster="round",
        where={"param_protocol": "stream"},
    ),
    _reference("mixer", "context mixer, on the same windows", "mixer_nats", "mixer_bytes", 1 / math.log(2)),
    _reference("bzip2", "bzip2 -9 on the same documents", "bzip2_bytes", "document_bytes", 8.0),
    _reference("xz", "xz -9 on the same documents", "xz_bytes", "document_bytes", 8.0),
)
