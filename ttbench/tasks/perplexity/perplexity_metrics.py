"""The numbers of the task `perplexity`, as declarations. Torch-free."""

from __future__ import annotations

import math

from ttbench.types import Metric

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
        restates="bits_per_byte",
    ),
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
    Metric(
        name="page_perplexity",
        label="perplexity per token as the page weighs it",
        unit="1",
        better="lower",
        statistic="exp_ratio",
        numerator="page_nats",
        denominator="page_tokens",
        counts="token",
        cluster="document",
        where={"param_protocol": "hf-stride"},
        restates="bits_per_byte",
    ),
    Metric(
        name="word_perplexity",
        label="perplexity per word",
        unit="1",
        better="lower",
        statistic="exp_ratio",
        numerator="nats",
        denominator="num_words",
        counts="word",
        cluster="document",
        where={"param_protocol": "lme-rolling"},
        restates="bits_per_byte",
    ),
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
    *(
        Metric(
            name=f"{compressor}_bits_per_byte",
            label=f"{compressor} -9 on the same documents",
            unit="bit/byte",
            better="neither",
            statistic="ratio",
            numerator=f"{compressor}_bytes",
            denominator="document_bytes",
            counts="byte",
            scale=8.0,
            cluster="document",
        )
        for compressor in ("bzip2", "xz")
    ),
)
