"""What tables make of the rows of each task: numbers worked out by hand from a few rows.

Rows that a number leaves out hold what would change it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from rows import TTT, _shared, make_rows

from ttbench.report import words
from ttbench.report.table import summarise
from ttbench.tasks.adapt import adapt_metrics
from ttbench.tasks.commonsense import Commonsense
from ttbench.tasks.genomics.genomics import Genomics
from ttbench.tasks.latency import Latency
from ttbench.tasks.memory import Memory
from ttbench.tasks.needle.needle import Needle
from ttbench.tasks.perplexity import perplexity_metrics
from ttbench.tasks.probe.probe import Probe
from ttbench.tasks.recall.recall import Recall
from ttbench.types import Metric

LN2 = math.log(2)
CELLS = itertools.count()


def cell(task: str, *samples: Mapping[str, Any], round: int = 0, **params: Any) -> list[dict[str, Any]]:
    """Rows of one cell."""
    shared = _shared(task, TTT, 512, params) | {"cell_id": f"cell-{next(CELLS)}", "round": round}
    return [{**shared, "sample": sample, **values} for sample, values in enumerate(samples)]


def summary(metrics: Sequence[Metric], *cells: list[dict[str, Any]]) -> Sequence[words.Record]:
    """Every number that a table makes of cells of one task."""
    return words.records(summarise(make_rows(*cells, metrics={cells[0][0]["task"]: metrics})))


def numbers(found: Sequence[words.Record], *keys: str) -> dict[Any, Any]:
    """Values by metric and what else is named."""
    told = {(entry["metric"], *(entry[key] for key in keys)): entry["value"] for entry in found}
    assert len(told) == len(found)
    return {key if keys else key[0]: pytest.approx(value) for key, value in told.items()}


def clusters(found: Sequence[words.Record], metric: str) -> list[int]:
    return [entry["num_clusters"] for entry in found if entry["metric"] == metric]


def test_adapt() -> None:
    def item(domain: str, source: str, exact: int, hits: int, tokens: int, size: int, right: int) -> dict[str, Any]:
        keys = {"phase": "item", "strategy": "prompt", "domain": domain, "source": source}
        counts = {"num_items": 1, "num_exact": exact, "num_hits": hits, "num_tokens": tokens, "num_bytes": size}
        return {**keys, **counts, "nats": 8 * LN2, "num_dispatched_right": right}

    def dispatch(domain: str, sent_to: str, picked: int) -> dict[str, Any]:
        keys = {"phase": "dispatch", "strategy": "prompt", "domain": domain, "sent_to": sent_to}
        return {**keys, "num_items": 1, "num_picked": picked, "source": "a"}

    items = [
        item("code", "a", 0, 3, 4, 8, 1),
        item("code", "a", 1, 4, 4, 16, 0),
        item("dna", "b", 0, 1, 2, 4, 1),
    ]
    sent = [dispatch("code", "code", 1), dispatch("code", "code", 0), dispatch("dna", "code", 0)]
    others = {"num_hits": 1, "num_tokens": 9, "num_exact": 1, "num_items": 9, "nats": 1.0, "num_bytes": 9}
    times = {"pass1_s": 50.0, "pass2_s": 50.0, "switch_s": 50.0, "num_prompts": 1, "num_switches": 1, "held_bytes": 99}
    sizes = {"extra_peak_bytes": 10**6, "expert_params": 10**6, "num_picked": 5, "num_dispatched_right": 9}
    left_out = {"phase": "", "strategy": "prompt", "domain": "code", "sent_to": "code", "source": "c"}
    cells = [cell("adapt", *items, *sent, {**left_out, **others, **times, **sizes})]
    for round, (pass1_s, peak) in enumerate([(1.0, 100), (2.0, 400), (4.0, 200)]):
        passes = {"phase": "passes", "strategy": "prompt", "domain": "code", "num_prompts": 4, "num_switches": 2}
        memory = {"phase": "memory", "strategy": "prompt", "held_bytes": 7, "expert_params": 5}
        made = {**passes, "pass1_s": pass1_s, "pass2_s": 8.0, "switch_s": 3.0}
        cells.append(cell("adapt", made, {**memory, "extra_peak_bytes": peak}, round=round))
    found = summary(adapt_metrics.METRICS, *cells)
    assert numbers(found, "strategy", "domain", "sent_to") == {
        ("accuracy", "prompt", None, None): 8 / 10,
        ("accuracy_by_domain", "prompt", "code", None): 7 / 8,
        ("accuracy_by_domain", "prompt", "dna", None): 1 / 2,
        ("exact_by_domain", "prompt", "code", None): 1 / 2,
        ("exact_by_domain", "prompt", "dna", None): 0,
        ("bits_per_byte_by_domain", "prompt", "code", None): 16 / 24,
        ("bits_per_byte_by_domain", "prompt", "dna", None): 2,
        ("dispatch_accuracy", "prompt", None, None): 2 / 3,
        ("dispatch", "prompt", "code", "code"): 1 / 2,
        ("dispatch", "prompt", "dna", "code"): 0,
        # geometric means over rounds: of 1, 2 and 4 seconds for 4 prompts, of 100, 400 and 200 bytes
        ("pass1_s", "prompt", None, None): 0.5,
        ("pass2_s", "prompt", None, None): 2,
        ("pass_ratio", "prompt", None, None): 2 / 8,
        ("switch_s", "prompt", None, None): 1.5,
        ("extra_peak_bytes", "prompt", None, None): 200,
        ("held_bytes", "prompt", None, None): 7,
        ("expert_params", "prompt", None, None): 5,
    }
    for metric, sources in (("accuracy", [2]), ("exact_by_domain", [1, 1]), ("bits_per_byte_by_domain", [1, 1])):
        assert clusters(found, metric) == sources
    assert clusters(found, "dispatch") == [1, 1]


def test_perplexity() -> None:
    left_out = {"page_nats": 1.0, "page_tokens": 1, "num_words": 1, "peak_rss_bytes": 1}

    def window(document: str, nats: float, size: int, tokens: int, **more: Any) -> dict[str, Any]:
        return {"document": document, "nats": nats * LN2, "num_bytes": size, "num_tokens": tokens, **more}

    compressed = {"document_bytes": 8, "bzip2_bytes": 2, "xz_bytes": 1}
    both = [window("a", 6, 4, 3), window("b", 2, 4, 1)]
    found = summary(
        perplexity_metrics.METRICS,
        cell(
            "perplexity",
            window("a", 3, 2, 1, **compressed, **left_out),
            window("a", 3, 2, 2),
            window("b", 2, 4, 1, **{**compressed, "bzip2_bytes": 4, "xz_bytes": 3}),
            protocol="fixed",
        ),
        cell("perplexity", *({**each, "position": 8 * i} for i, each in enumerate(both)), protocol="position"),
        cell("perplexity", {**both[0], "page_nats": 6 * LN2, "page_tokens": 2}, protocol="hf-stride"),
        cell("perplexity", {**both[0], "num_words": 6}, protocol="lme-rolling"),
        cell("perplexity", {**both[0], "peak_rss_bytes": 5}, {"peak_rss_bytes": 9}, protocol="stream"),
        cell("perplexity", {**both[0], "peak_rss_bytes": 4}, protocol="stream", round=1),
    )
    rates = {"hf-stride": 1.5, "lme-rolling": 1.5, "stream": 1.5, "fixed": 1.0, "position": 1.0}
    assert numbers(found, "param_protocol", "position") == {
        **{("bits_per_byte", protocol, None): rate for protocol, rate in rates.items()},
        **{("perplexity", protocol, None): 4 for protocol in rates},
        ("bits_per_byte_by_position", "position", 0): 1.5,
        ("bits_per_byte_by_position", "position", 8): 0.5,
        ("page_perplexity", "hf-stride", None): 8,
        ("word_perplexity", "lme-rolling", None): 2,
        # the geometric mean of 9, the highest of one round, and 4
        ("stream_peak_rss_bytes", "stream", None): 6,
        ("bzip2_bits_per_byte", "fixed", None): 8 * 6 / 16,
        ("xz_bits_per_byte", "fixed", None): 8 * 4 / 16,
    }
    for metric in ("bits_per_byte", "perplexity", "bzip2_bits_per_byte"):
        assert [e["num_clusters"] for e in found if (e["metric"], e["param_protocol"]) == (metric, "fixed")] == [2]


def test_needle() -> None:
    def trial(draw: str, depth: float, told: int, chosen: int, likely: int, nats: float, size: int) -> dict[str, Any]:
        hits = {"hits_generate": told, "hits_choice": chosen, "hits_loglik": likely, "num_trials": 1}
        return {"draw": draw, "depth": depth, **hits, "loglik_nats": nats, "loglik_tokens": size}

    found = summary(
        Needle.metrics,
        cell(
            "needle",
            trial("a", 0.0, 1, 0, 1, 3.0, 2),
            trial("a", 1.0, 0, 0, 1, 1.0, 2),
            trial("b", 0.0, 1, 1, 0, 2.0, 1),
            depth_mode="grid",
        ),
        cell("needle", trial("c", 0.25, 1, 1, 1, 1.0, 1), depth_mode="ruler"),
    )
    names = ("retrieval", "recognition", "likeliest", "value_nats")
    assert numbers(found, "param_depth_mode", "depth") == {
        **dict(zip([(name, "grid", None) for name in names], (2 / 3, 1 / 3, 2 / 3, 6 / 5), strict=True)),
        **{(name, "ruler", None): 1 for name in names},
        ("retrieval_by_depth", "grid", 0.0): 1,
        ("retrieval_by_depth", "grid", 1.0): 0,
        ("recognition_by_depth", "grid", 0.0): 0.5,
        ("recognition_by_depth", "grid", 1.0): 0,
    }
    assert clusters(found, "retrieval") == clusters(found, "value_nats") == [2, 1]
    assert clusters(found, "recognition_by_depth") == [2, 1]


def test_recall() -> None:
    def answers(sequence: str, pairs: int, hits: int, nats: float, **more: Any) -> dict[str, Any]:
        return {"sequence": sequence, "pairs": pairs, "hits": hits, "num_questions": 4, "nats": nats, **more}

    cells = [
        cell(
            "recall",
            answers("a", 2, 3, 1.0, chance_hits=1.0, state_bytes=64),
            answers("b", 4, 1, 5.0, chance_hits=1.0, state_bytes=64),
            kind=kind,
        )
        for kind in ("mqar", "copy", "parity", "s5")
    ]
    found = summary(Recall.metrics, *cells)
    by_kind = {(e["metric"], e["param_kind"]): e["value"] for e in found if e["pairs"] is None}
    for kind in ("mqar", "copy", "parity", "s5"):
        assert by_kind.pop((kind, kind)) == pytest.approx(4 / 8)
        assert by_kind.pop((f"{kind}_chance", kind)) == pytest.approx(1 / 4)
        assert by_kind.pop(("answer_nats", kind)) == pytest.approx(6 / 8)
        assert by_kind.pop(("sequence_state_bytes", kind)) == 64
    assert by_kind == {}
    by_pairs = {(e["metric"], e["pairs"]): e["value"] for e in found if e["pairs"] is not None}
    assert by_pairs == {("mqar_by_pairs", 2): pytest.approx(3 / 4), ("mqar_by_pairs", 4): pytest.approx(1 / 4)}
    assert clusters(found, "answer_nats") == [2] * 4
    assert clusters(found, "copy") == [2]


def test_latency() -> None:
    phases = ("load", "first_call", "prefill", "decode", "other")
    factors = dict[str, float](zip(phases, (1.0, 2.0, 4.0, 8.0, 1000.0), strict=True))

    def calls(phase: str, slow: float) -> list[dict[str, Any]]:
        made = {"phase": phase, "num_tokens": 100}
        times = [factors[phase] * slow * repeat for repeat in (1.0, 2.0, 9.0)]
        return [{**made, "call_s": s, "wall_s": 10 * s, "call_cpu_s": 3 * s} for s in times]

    rounds = enumerate((1.0, 2.0, 4.0))
    cells = [cell("latency", *(each for phase in phases for each in calls(phase, slow)), round=n) for n, slow in rounds]
    found = summary(Latency.metrics, *cells)
    # the middle of 1, 2 and 9, and the geometric mean of rounds 1, 2 and 4 times as slow
    assert numbers(found) == {
        "prefill_s": 16,
        "prefill_tokens_per_s": 100 / 160,
        "prefill_cpu_s": 48,
        "decode_s_per_token": 32,
        "decode_tokens_per_s": 100 / 320,
        "decode_cpu_s_per_token": 96,
        "first_call_s": 8,
        "load_s": 4,
    }
    assert {entry["num_clusters"] for entry in found} == {3}


def test_memory() -> None:
    def phase(name: str, peak: int, **more: Any) -> dict[str, Any]:
        return {"phase": name, "peak_rss_bytes": peak, "peak_reset": True, **more}

    cells = [
        cell(
            "memory",
            phase("load", 100 * grown, weight_bytes=50, state_bytes=1),
            phase("prefill", 400 * grown, working_peak_bytes=30 * grown, state_bytes=64, state_allocated_bytes=128),
            phase("decode", 300 * grown, working_peak_bytes=9, weight_bytes=1, state_allocated_bytes=1),
            {**phase("prefill", 1), "peak_reset": False},
            round=round,
        )
        for round, grown in enumerate((1, 2, 4))
    ]
    found = summary(Memory.metrics, *cells)
    assert numbers(found) == {
        "peak_rss_bytes": 800,
        "load_peak_bytes": 200,
        "prefill_peak_bytes": 800,
        "decode_peak_bytes": 600,
        "prefill_working_bytes": 60,
        "weight_bytes": 50,
        "state_bytes": 64,
        "state_allocated_bytes": 128,
    }
    exact = {"weight_bytes", "state_bytes", "state_allocated_bytes"}
    assert {entry["metric"] for entry in found if entry["method"] == "exact"} == exact


def test_genomics() -> None:
    def window(document: str, nats: float, bases: int) -> dict[str, Any]:
        others = {"even_nats": 2 * LN2 * bases, "markov_nats": 1.5 * LN2 * bases, "seen_bases": bases // 4}
        sizes = {"document_bytes": 8, "bzip2_bytes": 2, "xz_bytes": 1}
        return {"document": document, "nats": nats * LN2, "num_bases": bases, **others, **sizes}

    found = summary(Genomics.metrics, cell("genomics", window("a", 3, 4), window("a", 9, 4), window("b", 3, 8)))
    assert numbers(found) == {
        "bits_per_base": 15 / 16,
        "even_bits_per_base": 2,
        "markov_bits_per_base": 1.5,
        "bzip2_bits_per_base": 2,
        "xz_bits_per_base": 1,
        "seen_before": 1 / 4,
    }
    assert clusters(found, "bits_per_base") == clusters(found, "seen_before") == [2]


def test_commonsense() -> None:
    def asked(question: int, acc: float, norm: float, nats: float) -> dict[str, Any]:
        sizes = {"num_questions": 1, "num_words": 2, "num_bytes": 16, "num_targets": 1}
        return {"question": question, "acc": acc, "acc_norm": norm, "nats": nats * LN2, **sizes}

    found = summary(Commonsense.metrics, cell("commonsense", asked(0, 1.0, 0.0, 3), asked(1, 1.0, 1.0, 5)))
    assert numbers(found) == {
        "accuracy": 1,
        "accuracy_norm": 1 / 2,
        "word_perplexity": 2 ** (8 / 4),
        "bits_per_byte": 8 / 32,
        "target_perplexity": 2 ** (8 / 2),
    }
    assert clusters(found, "accuracy") == clusters(found, "bits_per_byte") == [2]


def test_probe() -> None:
    def classified(sequence: str, hit: int, counts: int) -> dict[str, Any]:
        return {"sequence": sequence, "hits": hit, "chance_hits": 0.5, "counts_hits": counts, "num_sequences": 1}

    made = [classified("a", 1, 0), classified("b", 1, 0), classified("c", 0, 1), classified("c", 1, 1)]
    found = summary(Probe.metrics, cell("probe", *made))
    # what belongs to the corpus counts once for each sequence, however often it was measured
    assert numbers(found) == {"accuracy": 3 / 4, "chance": 1 / 2, "counts_accuracy": 1 / 3}
    assert clusters(found, "accuracy") == [3]


def test_bits_must_differ_by_five_thousandths_and_all_else_by_a_hundredth() -> None:
    """What a smallest effect of interest and a restated metric are, as docs/methodology.md says."""
    tasks = (Commonsense, Genomics, Latency, Memory, Needle, Probe, Recall)
    every = [
        *adapt_metrics.METRICS,
        *perplexity_metrics.METRICS,
        *(metric for task in tasks for metric in task.metrics),
    ]
    for metric in every:
        bits = metric.unit in ("bit/byte", "bit/base") and metric.better == "lower"
        assert not bits or metric.smallest_effect == 0.005
        assert metric.unit in ("bit/byte", "bit/base") or metric.smallest_effect == 0.01
    assert {metric.name: metric.restates for metric in every if metric.restates} == {
        "perplexity": "bits_per_byte",
        "page_perplexity": "bits_per_byte",
        "word_perplexity": "bits_per_byte",
        "prefill_tokens_per_s": "prefill_s",
        "decode_tokens_per_s": "decode_s_per_token",
    }
