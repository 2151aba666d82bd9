"""What a gate writes for people and servers: names of others are text in it, and XML is XML whatever they hold."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from ttbench.report.gate.documents import change, junit, markdown
from ttbench.report.gate.lines import Gate, GateLine, in_order

ODD = "a|b <img src=x> `c`\n# d \x00\x1b \ufffe \U0001f600 *e*"


def line(**changes: object) -> GateLine:
    values: dict[str, object] = {
        "rule": "quality",
        "verdict": "worse than the margin",
        "task": "perplexity",
        "checkpoint": "mine",
        "point": {"context_len": 1024},
        "metric": "bits_per_byte",
        "label": "bits per byte",
        "unit": "bit/byte",
        "statistic": "ratio",
        "baseline": 1.5,
        "candidate": 1.52,
        "worse_by": 0.02,
        "low": 0.01,
        "high": 0.03,
        "margin": 0.005,
    }
    return GateLine(**(values | changes))  # type: ignore[arg-type]


def test_names_cannot_break_a_table_or_bring_markup() -> None:
    text = markdown(Gate(run=ODD, baseline="b", lines=(line(checkpoint=ODD, reason=ODD),)))
    (row,) = [each for each in text.splitlines() if each.startswith("| perplexity")]
    assert row.replace("\\|", "").count("|") == 5
    assert "<img" not in text.replace("\\<img", "")
    assert "\n# d" not in text


def test_xml_is_read_back_whatever_a_name_holds() -> None:
    data = junit(Gate(run=ODD, baseline="b", lines=(line(checkpoint=ODD, reason=ODD), line(verdict="equal"))))
    root = ET.fromstring(data)
    case = root.find(".//testcase")
    assert case is not None
    assert "\U0001f600" in case.attrib["classname"]
    assert "\\u0000\\u001b" in case.attrib["classname"]
    assert root.attrib == {"name": "ttbench gate", "tests": "2", "failures": "1", "errors": "0", "skipped": "0"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "0.0200 bits per byte worse (0.0100 to 0.0300), margin 0.00500"),
        ({"worse_by": -0.02, "low": None, "high": None}, "0.0200 bits per byte better, margin 0.00500"),
        ({"verdict": "equal", "worse_by": 0.0, "low": None, "high": None}, ""),
        ({"worse_by": None}, ""),
        (
            {
                "rule": "time",
                "unit": "s",
                "statistic": "median",
                "worse_by": 0.2,
                "low": 0.1,
                "high": 0.3,
                "margin": 0.05,
            },
            "20.0 % worse (10.0 % to 30.0 %), margin 5.00 %",
        ),
        (
            {"unit": "share", "statistic": "proportion", "low": -0.01, "margin": 0.01},
            "2.00 points of 100 worse (-1.00 points of 100 to 3.00 points of 100), margin 1.00 points of 100",
        ),
        (
            {"rule": "count", "statistic": "count", "unit": "bytes", "worse_by": 1024.0, "low": None, "margin": None},
            "1,024 bytes worse",
        ),
    ],
)
def test_a_change_is_told_in_its_unit(changes: dict[str, object], said: str) -> None:
    assert change(line(**changes)) == said


def test_red_comes_first_and_the_rest_as_it_was_found() -> None:
    verdicts = ("equal", "lost", "needs more, to be confirmed", "new", "changed")
    found = [each.verdict for each in in_order([line(verdict=verdict) for verdict in verdicts])]
    assert found == ["lost", "changed", "needs more, to be confirmed", "equal", "new"]


def test_numbers_that_round_alike_are_told_apart() -> None:
    assert line(candidate=1.5000001).numbers == "1.5 → 1.5000001 bits per byte"
    assert line().numbers == "1.500 → 1.520 bits per byte"
    assert line(unit="share", statistic="proportion", baseline=0.5, candidate=0.6).numbers == "50 → 60%"
    assert line(baseline=None).numbers == ""
