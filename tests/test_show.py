"""`ttbench show RUN CELL` on a terminal: samples as tables that fit it."""

from __future__ import annotations

import pytest

from ttbench.cli.commands.result_commands import _print_samples

SAMPLES = [
    {
        "haystack": f"matthew@7713{index}",
        "depth": index / 4,
        "recipe": '{"seed": 0, "keys": ["calm-otter"]}',
        "not_comparable_because": "haystack: kjv for Paul Graham's essays; depth: set for random",
        "num_trials": 1,
        "hits_loglik": None,
        "needle_index": 100 * index,
        "value_nats": 1.5 + index,
        "value_control_nats": 20.5 - index,
    }
    for index in range(3)
]


def lines_of(samples, *, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    _print_samples(samples)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("width", [34, 45, 80, 120])
def test_samples_fit_the_terminal_with_whole_words_and_numbers(width: int, capsys, monkeypatch) -> None:
    lines = lines_of(SAMPLES, width=width, capsys=capsys, monkeypatch=monkeypatch)
    assert max(map(len, lines)) <= width
    words = [word for line in lines for word in line.split()]
    for sample in SAMPLES:
        assert words.count(sample["haystack"]) == 1
        assert f"{sample['value_control_nats']:g}" in words
    # one table, or several that are numbered alike
    tables = sum("sample" in line.split() for line in lines if "every" not in line)
    assert (tables == 1) == (width > 45)
    assert [words.count(f"{index}") >= tables for index in range(3)] == [True] * 3


def test_what_is_the_same_in_all_is_told_once_and_a_recipe_not_at_all(capsys, monkeypatch) -> None:
    text = "\n".join(lines_of(SAMPLES, width=80, capsys=capsys, monkeypatch=monkeypatch))
    assert text.count("for Paul Graham's essays") == 1
    assert "in every sample" in text
    assert "calm-otter" not in text
    assert "loglik" not in text


def test_a_single_sample_has_no_table_of_what_is_the_same(capsys, monkeypatch) -> None:
    text = "\n".join(lines_of(SAMPLES[:1], width=120, capsys=capsys, monkeypatch=monkeypatch))
    assert "in every sample" not in text
    assert "num" in text


def test_no_samples_print_nothing(capsys, monkeypatch) -> None:
    assert lines_of([], width=80, capsys=capsys, monkeypatch=monkeypatch) == []
