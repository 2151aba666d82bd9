"""Samples of lm-eval (`--output_path DIR --log_samples`): one JSON line for each document, with its own `doc_hash`.

Which way a metric is better stands in the results file beside them (`higher_is_better`). A likelihood of a whole text
is stored as a pair, log-likelihood and words or bytes, and is summed before it is divided.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttbench.errors import UsageError
from ttbench.report.foreign.scores import DocumentScore, ForeignLog, MetricKind, finite, one_each, share_or_mean

TOOL, PATTERN = "lm-eval", "samples_*.jsonl"
_NAME = re.compile(r"samples_(.+)_(\d{4}-\d\d-\d\dT.+)\.jsonl")
# Metrics that lm-eval makes of pairs: (statistic, unit, scale) of minus the log-likelihood.
PAIRS: Mapping[str, tuple[Any, str, float]] = {
    "word_perplexity": ("exp_ratio", "1", 1.0),
    "byte_perplexity": ("exp_ratio", "1", 1.0),
    "bits_per_byte": ("ratio", "bit/byte", 1 / math.log(2)),
}
# What is better where no results file says it.
SCORES = ("acc", "acc_norm", "exact_match", "f1")
KNOWN = {**dict.fromkeys((*PAIRS, "perplexity"), False), **dict.fromkeys(SCORES, True)}


def read(files: list[Path], name: str) -> ForeignLog:
    """The scores in samples of lm-eval. Raises UsageError for what is damaged, or logged twice."""
    by_task: dict[str, list[Path]] = {}
    for path in files:
        match = _NAME.fullmatch(path.name)
        by_task.setdefault(match[1] if match else path.stem.removeprefix("samples_"), []).append(path)
    one_each(by_task, name)
    scores = [score for task, (path, *_) in by_task.items() for score in _scores(path, task)]
    better = _better(files)
    return ForeignLog(tool=TOOL, name=name, scores=tuple(scores), kinds=_kinds(scores, better, files[0].parent))


def _scores(path: Path, task: str) -> Iterator[DocumentScore]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        where = f"{path.name}:{number}"
        try:
            sample = json.loads(line)
            document, prompt, metrics = sample["doc_hash"], sample.get("prompt_hash", ""), sample["metrics"]
            # greedy and sampled answers are filtered in several ways, each with scores of its own
            chosen = "" if sample.get("filter", "none") == "none" else f", {sample['filter']}"
            found = [(metric, sample[metric]) for metric in metrics]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{where} is no sample of lm-eval ({type(error).__name__}: {error}); write them with --log_samples"
            ) from error
        for metric, value in found:
            shared = {"benchmark": task, "document": document, "prompt": prompt, "metric": f"{metric}{chosen}"}
            if isinstance(value, list) and len(value) == 2 and metric in PAIRS:
                nats, weight = -finite(value[0], where), finite(value[1], where)
                yield DocumentScore(**shared, value=nats, weight=weight)
            elif isinstance(value, bool | int | float):
                yield DocumentScore(**shared, value=finite(value, where))
            else:
                raise UsageError(
                    f"{where}: metric {metric} is made of all documents together and cannot be paired; got {value!r}"
                )


def _better(files: list[Path]) -> dict[str, bool]:
    """Whether a higher value is better, by metric, from the results files beside the samples."""
    found: dict[str, bool] = {}
    for folder in dict.fromkeys(path.parent for path in files):
        for path in sorted(folder.glob("results_*.json")):
            try:
                told = json.loads(path.read_text(encoding="utf-8")).get("higher_is_better", {})
            except ValueError as error:
                raise UsageError(f"{path} is no results file of lm-eval: {error}") from error
            for metrics in told.values():
                found |= {name: value for name, value in metrics.items() if isinstance(value, bool)}
    return found


def _kinds(scores: list[DocumentScore], better: Mapping[str, bool], where: Path) -> dict[str, MetricKind]:
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.metric, []).append(score.value)
    kinds = {}
    for name, mine in values.items():
        metric = name.partition(",")[0]
        higher = better.get(metric, KNOWN.get(metric))
        if higher is None:
            told = f"results_*.json, which is not beside the samples in {where}"
            raise UsageError(f"whether a higher {metric} is better is told by {told}")
        way = "higher" if higher else "lower"
        if metric in PAIRS:
            statistic, unit, scale = PAIRS[metric]
            kinds[name] = MetricKind(name=name, better=way, statistic=statistic, unit=unit, scale=scale)
        else:
            kinds[name] = share_or_mean(name, mine, way)
    return kinds
