"""What docs/transformer-squared.md prints is what is committed in results/adapt."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

import ttbench
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "transformer-squared.md").read_text(encoding="utf-8")
# The page's names of the strategies that are told the domain.
TOLD = {"oracle": "oracle", "oracle, REINFORCE": "reinforce", "LoRA, rank 2": "lora"}
DOMAINS = ("code", "prose", "recall", "dna", "other")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / "adapt" / "cpu" / "table.csv")


def value(table: pd.DataFrame, metric: str, strategy: str, **axes: str) -> float:
    found = table[(table["metric"] == metric) & (table["strategy"] == strategy)]
    for name, wanted in axes.items():
        found = found[found[name] == wanted]
    (number,) = found["value"]
    return number


def test_the_table_of_the_page_is_that_of_the_results(table: pd.DataFrame) -> None:
    lines = re.findall(r"^\| ([^|]+) \| (\d\.\d\d) \| (.+) \|$", PAGE, re.M)
    shown = {}
    for name, first, rest in lines:
        strategy = TOLD.get(name, name)
        shown[strategy] = [cell.strip() for cell in (first, *rest.split("|"))]
    assert set(shown) == set(table["strategy"].dropna())
    for strategy, cells in shown.items():
        bits = [f"{value(table, 'bits_per_byte_by_domain', strategy, domain=domain):.2f}" for domain in DOMAINS]
        sent = "told" if strategy in TOLD.values() else ""
        if strategy in ("prompt", "classifier"):
            sent = f"{100 * value(table, 'dispatch_accuracy', strategy):.0f} %"
        params = int(value(table, "expert_params", strategy))
        assert cells == [*bits, sent, f"{params:,}" if params else ""], strategy


def test_the_costs_in_the_text_are_those_of_the_results(table: pd.DataFrame) -> None:
    def told(metric: str, *strategies: str, unit: float = 1, digits: int = 0) -> list[str]:
        """The least and the greatest, rounded."""
        found = sorted(value(table, metric, name) / unit for name in strategies)
        return [f"{number:.{digits}f}" for number in (found[0], found[-1])]

    singular, dispatched = ("prompt", "classifier", "oracle", "reinforce"), ("prompt", "classifier")
    peaks = [told("extra_peak_bytes", name, unit=1e6)[0] for name in ("base", "lora", "few-shot")]
    wanted = (
        "Pass 1 takes {} and {} times".format(*told("pass_ratio", *dispatched, digits=1)),
        "and {} times for `few-shot`".format(*told("pass_ratio", "few-shot")),
        "A switch costs {} to {} milliseconds".format(*told("switch_s", *singular, "few-shot", unit=1e-3)),
        "LoRA {}), where a prompt in pass 2 takes {}.".format(
            told("switch_s", "lora", unit=1e-3)[0], told("pass2_s", "base", unit=1e-3)[0]
        ),
        "{} million bytes are held".format(*told("held_bytes", *singular, "few-shot", unit=1e6, digits=1)),
        f"rises by {peaks[0]} million under the base, by {peaks[1]} with LoRA, by "
        + "{} to {} with SVF".format(*told("extra_peak_bytes", *singular, unit=1e6))
        + f" experts, and by {peaks[2]} while few-shot",
    )
    text = " ".join(PAGE.split())
    assert [sentence for sentence in wanted if sentence not in text] == []


def test_what_is_said_of_gains_and_of_where_prompts_went_is_in_the_results(table: pd.DataFrame) -> None:
    text = " ".join(PAGE.split())

    def bits(strategy: str, domain: str) -> str:
        return f"{value(table, 'bits_per_byte_by_domain', strategy, domain=domain):.2f}"

    assert f"from {bits('base', 'dna')} to {bits('oracle', 'dna')} bits per byte" in text
    assert f"Recall improves from {bits('base', 'recall')} to {bits('oracle', 'recall')}." in text
    harm = [bits(strategy, domain) for domain in ("other", "code") for strategy in ("base", "prompt")]
    assert "does harm there ({} to {} and {} to {})".format(*harm) in text
    went = table[table["metric"] == "dispatch"]
    columns = (went[name].tolist() for name in ("strategy", "domain", "sent_to", "value"))
    sent = {(strategy, domain, to): share for strategy, domain, to, share in zip(*columns, strict=True)}
    assert [sent["classifier", domain, domain] for domain in ("dna", "prose")] == [1, 1]
    assert sent["classifier", "other", "other"] > 0.9
    assert sent["classifier", "recall", "prose"] == 1
    assert sent["classifier", "code", "prose"] > 0.5
    assert f"takes random strings for DNA ({16 * sent['prompt', 'other', 'dna']:.0f} of 16)" in text
    assert sent["prompt", "code", "recall"] + sent["prompt", "code", "other"] == 1
    assert set(table.loc[table["metric"] == "exact_by_domain", "value"].tolist()) == {0}
    rows = read_rows(ROOT / "results" / "adapt" / "cpu" / "rows.parquet")
    base, lora = (
        ttbench.compare("transformer@strategy=oracle", f"transformer@strategy={other}", rows)
        for other in ("base", "lora")
    )
    overall = base[base["metric"] == "accuracy"]
    points = [f"{100 * float(overall[name].tolist()[0]):.0f}" for name in ("effect", "low", "high")]
    assert "the oracle is {} points of 100 above the base ({} to {})".format(*points) in text
    assert lora.loc[lora["metric"] == "accuracy", "verdict"].tolist() == ["no difference shown"]
    gains = base[(base["metric"] == "bits_per_byte_by_domain") & (base["verdict"] == "a better")]
    assert sorted(gains["domain"].tolist()) == ["dna", "recall"]
