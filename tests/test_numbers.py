"""The numbers in the README and in docs/results.md are those of results/ and of the zoo's cards."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOKENS = {"256": 256, "512": 512, "1k": 1024, "2k": 2048, "4k": 4096, "8k": 8192, "16k": 16384}


@functools.cache
def results(suite: str, name: str) -> list[dict[str, Any]]:
    """The lines of a CSV of one published suite; what is missing is None."""
    table = pd.read_csv(ROOT / "results" / suite / "cpu" / f"{name}.csv", low_memory=False)
    lines = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(column): value for column, value in line.items()} for line in lines]


def entry(suite: str, metric: str, name: str = "table", **where: Any) -> dict[str, Any]:
    """The one line of a CSV with these values; None is a missing one."""
    wanted = {"metric": metric, **where}
    found = [line for line in results(suite, name) if all(line[key] == value for key, value in wanted.items())]
    assert len(found) == 1, f"{len(found)} lines of {suite} with {wanted}"
    return found[0]


def tables(heading: str) -> list[list[str]]:
    """The rows of the tables under a heading, without their two head lines, as cells."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.M)]
    assert len(rows) > 2, heading
    return [rows[0], *rows[2:]]


def in_words(value: float, extrapolated: bool) -> str:
    return f"{value:.2f}{'*' if extrapolated else ''}"


@pytest.mark.parametrize(
    ("heading", "suite"),
    [
        ("Perplexity against context length", "bench"),
        ("Nine architectures after a short training", "architectures"),
    ],
)
def test_bits_per_byte_are_those_of_the_results(heading: str, suite: str) -> None:
    (_, *contexts), *rows = tables(heading)
    names = [re.sub(r"`(.*)`.*", r"\1", name) for name, *_ in rows]
    held = {line["checkpoint"] for line in results(suite, "table") if line["metric"] == "bits_per_byte"}
    assert sorted(names) == sorted(held)
    for name, (_, *cells) in zip(names, rows, strict=True):
        for context, cell in zip(contexts, cells, strict=True):
            found = entry(suite, "bits_per_byte", checkpoint=name, corpus="code", context_len=TOKENS[context])
            assert cell == in_words(found["value"], found["extrapolated"] in (True, "True")), f"{name} at {context}"


def test_the_short_training_is_listed_from_best_to_worst() -> None:
    _, *rows = tables("Nine architectures after a short training")
    assert len(rows) == 9
    values = [float(cells[1]) for cells in rows]
    assert values == sorted(values)
    found = entry("architectures", "bits_per_byte", checkpoint="transformer", context_len=256)
    assert (found["num_samples"], found["num_clusters"]) == (10, 10)
    assert "Bits per byte of ten windows, one in each of ten files" in TEXT


def test_what_is_said_beside_the_bench_is_in_the_results() -> None:
    bzip2, xz = (
        entry("bench", f"{name}_bits_per_byte", corpus="code", context_len=256)["value"] for name in ("bzip2", "xz")
    )
    assert f"`bzip2 -9` needs {bzip2:.2f} and `xz -9` {xz:.2f} bits per byte" in TEXT
    names = ("transformer", "transformer-conv", "ttt-linear")
    foreign = [
        entry("bench", "bits_per_byte", checkpoint=name, corpus="code-foreign", context_len=1024)["value"]
        for name in names
    ]
    assert "three checkpoints need {:.2f}, {:.2f} and {:.2f} bits per byte at 1k".format(*foreign) in TEXT
    for a, words in (
        ("transformer", "`transformer` needs {:.2f} bits per byte more than `ttt-linear` at 1k ({:.2f} to {:.2f};"),
        ("transformer-conv", "no difference is shown at 1k ({:.2f}, {:.2f} to {:.2f})"),
    ):
        found = entry("bench", "bits_per_byte", "comparisons", a=a, b="ttt-linear", corpus="code", context_len=1024)
        assert words.format(found["effect"], found["low"], found["high"]) in TEXT
        assert found["verdict"] == ("b better" if a == "transformer" else "no difference shown")
        assert found["num_points"] == 36
    ends = [
        entry("bench", "bits_per_byte", checkpoint="ttt-linear", corpus="code", context_len=length)["value"]
        for length in (1024, 16384)
    ]
    assert f"loses {ends[1] - ends[0]:.2f} bits per byte from 1k to 16k" in TEXT


def test_needles_are_those_of_the_cards_and_of_the_results() -> None:
    _, *rows = tables("Needle in a haystack")
    for name, *cells in rows:
        card = (ROOT / "ttbench" / "zoo" / name.strip("`") / "card.md").read_text(encoding="utf-8")
        scores = [
            re.search(rf"needles {verb} at {length}, of 100 in `kjv` \| ([\d.]+) ", card)
            for verb in ("retrieved", "recognised")
            for length in (512, 1024)
        ]
        (state,) = re.findall(r"state \| [\d,]+ bytes at position 0, ([\d,]+) at 1,024", card)
        assert cells == [*(found[1] for found in scores if found), f"{state} bytes"]
    found = {
        (name, length): entry("needle", "retrieval", checkpoint=name, context_len=length, depth=None)
        for name in ("transformer", "transformer-conv", "ttt-linear")
        for length in (2048, 4096)
    }
    (near, far), others = (
        [each["value"] for key, each in found.items() if (key[0] == "ttt-linear") == own] for own in (True, False)
    )
    assert f"retrieves {near:.0%} at 2k and {far:.0%} at 4k".replace("%", " %") in TEXT
    assert f"the others {max(others):.0%} or less".replace("%", " %") in TEXT
    assert {each["num_samples"] for each in found.values()} == {50}


def test_genomes_are_those_of_the_results() -> None:
    _, *rows = tables("Genomics")
    at = {"corpus": "genomes", "context_len": 256}
    models = {
        name: entry("genomics", "bits_per_base", checkpoint=name, **at)
        for name in ("dna-transformer", "dna-ttt-linear")
    }
    values = [each["value"] for each in models.values()]
    values += [entry("genomics", f"{name}_bits_per_base", **at)["value"] for name in ("markov", "bzip2")]
    assert [cell for _, cell in rows] == [f"{value:.3f}" for value in values]
    assert f"over {models['dna-transformer']['num_clusters']} stretches" in TEXT
    far = {"corpus": "genomes", "context_len": 4096}
    for where, sign, said in (
        (at, -1, "At 256 bases the transformer's lead is"),
        (far, 1, "there `dna-ttt-linear` leads by"),
    ):
        found = entry("genomics", "bits_per_base", "comparisons", a="dna-transformer", b="dna-ttt-linear", **where)
        low, high = sorted((sign * found["low"], sign * found["high"]))
        assert f"{said} {sign * found['effect']:.3f} ({low:.3f} to {high:.3f})" in TEXT
    ends = [entry("genomics", "bits_per_base", checkpoint=name, **far)["value"] for name in models]
    assert f"it needs {ends[0]:.3f} bits per base, more than the Markov model" in TEXT
    assert f"and `dna-ttt-linear` {ends[1]:.3f}, as many as at 256" in TEXT
    assert ends[0] > values[2] > ends[1]
    assert abs(ends[1] - values[1]) < 0.002


def test_the_comparison_in_the_readme_is_what_the_command_prints() -> None:
    (command,) = re.findall(r"^ttbench (compare .*)$", README, re.M)
    (shown,) = re.findall(r"^```text\n(.*?)^```", README, re.M | re.S)
    done = CliRunner().invoke(app, command.replace("results/", f"{ROOT}/results/").split(), env={"COLUMNS": "120"})
    printed = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert [line for line in shown.splitlines() if " ".join(line.split()) not in printed] == []


def test_the_readme_says_of_its_picture_what_the_comparisons_show() -> None:
    for b in ("ttt-linear", "transformer-conv"):
        for length in (512, 1024):
            at = {"a": "transformer", "b": b, "corpus": "code", "context_len": length}
            assert entry("bench", "bits_per_byte", "comparisons", **at)["verdict"] == "b better"
