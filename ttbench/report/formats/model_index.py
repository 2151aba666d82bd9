"""What was measured of one checkpoint as a model card's `model-index`, the metadata that the Hugging Face Hub reads.

A result is what one task gave on one text under one set of parameters; each of its numbers is a metric, at its context.
Only what is a property of the checkpoint stands there: times and memory are of the machine that they were taken on, and
a number that nothing vouches for is nobody's. Each number keeps its unit, interval and settings under `args`.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ttbench.corpora.texts import HUB, hub_address
from ttbench.errors import UsageError
from ttbench.report import summary, words
from ttbench.report.words import Record
from ttbench.types import NO_ATTENTION

MODEL_INDEX = "model-index"
TASK = "text-generation"  # the Hub's name of what every checkpoint here does
_KEPT = ("dtype", "engine", "attention", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIndex:
    """Metadata, and what it cannot say."""

    text: str  # YAML between two lines of ---, as a card begins
    num_metrics: int
    left_out: Mapping[str, int]  # why -> how many numbers


def model_index(table: pd.DataFrame) -> ModelIndex:
    """The numbers of a summary of one checkpoint.

    Raises UsageError where none of them can be expressed.
    """
    # Late: 0.4 s.
    from huggingface_hub import EvalResult, ModelCardData

    entries = [entry for entry in words.records(table) if entry["checkpoint"] is not None]
    left_out: dict[str, int] = {}
    results = []
    for entry in entries:
        why = _refused(entry)
        if why:
            left_out[why] = left_out.get(why, 0) + 1
            continue
        results.append(EvalResult(task_type=TASK, **_dataset(entry), **_number(entry)))
    if not results:
        told = "; ".join(f"{number} {why}" for why, number in left_out.items()) or "there is no number"
        raise UsageError(f"nothing here can stand in a {MODEL_INDEX}: {told}; measure quality: ttbench run perplexity")
    names = list(dict.fromkeys(entry["checkpoint"] for entry in entries))
    assert len(names) == 1, "the caller chooses one checkpoint"
    card = ModelCardData(model_name=names[0], eval_results=results)
    return ModelIndex(text=f"---\n{card.to_yaml()}\n---\n", num_metrics=len(results), left_out=left_out)


def _refused(entry: Record) -> str:
    """Why a number cannot be expressed; empty where it can."""
    if entry["cluster"] == summary.ROUND or entry["unit"] == "bytes":
        return "of time or memory on this machine"
    if entry["status"] != "ok":
        return "without a number (oom, too_long and other statuses)"
    if entry.get("checked") == summary.UNCHECKED:
        return "scored unchecked"
    return ""


def _dataset(entry: Record) -> dict[str, Any]:
    """What was read: the corpus, which may be a dataset of the Hub, or what the task makes by itself."""
    name, corpus = entry["task"], entry["corpus"]
    kind, _, rest = (corpus or "").partition(":")
    of_hub = hub_address(rest) if kind == HUB and rest else None
    asked = [f"{key.removeprefix('param_')}={words.plain(entry[key])}" for key in _parameters(entry)]
    told = {
        # the Hub's own writer tells results apart by these four, not by `args`
        "dataset_type": of_hub.name if of_hub else corpus or name,
        "dataset_name": f"made by the task {name}" if corpus is None else f"corpus {corpus}",
        "dataset_config": " ".join([name, f"version={entry['task_version']}", *asked]),
        "dataset_split": (of_hub.split if of_hub else None) or "test",
        "task_name": name,
    }
    digest = entry.get("corpus_digest")
    return told if digest is None else told | {"dataset_revision": digest}


def _parameters(entry: Record) -> Sequence[str]:
    return [name for name in entry if name.startswith("param_") and entry[name] is not None]


def _number(entry: Record) -> dict[str, Any]:
    places = [f"at {words.context(entry['context_len'])} tokens", *words.places(entry)]
    beyond = ["beyond the training context"] if entry["extrapolated"] else []
    known = {name: entry.get(name) for name in _KEPT}
    kept: dict[str, Any] = {"unit": entry["unit"], "better": entry["better"], "context_len": entry["context_len"]}
    kept |= {name: value for name, value in known.items() if value not in (None, NO_ATTENTION)}
    if entry["low"] is not None:
        kept |= {"low": entry["low"], "high": entry["high"], "interval": f"95 %, {entry['method']}"}
        kept["basis"] = words.basis([entry])
    kept["weights_digest"] = entry["weights_digest"]
    return {
        "metric_type": entry["metric"],
        "metric_value": entry["value"],
        "metric_name": ", ".join([f"{entry['label']} {' '.join(places)}", *beyond]),
        "metric_args": kept,
    }
