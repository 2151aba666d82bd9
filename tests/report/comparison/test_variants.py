"""One side of a comparison may be a setting of a checkpoint: reading it, matching rows, comparing two of them."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import words
from ttbench.report.comparison.compare import compare, read_side
from ttbench.report.comparison.variants import read_variant, sides
from ttbench.report.table import summarise
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[3]
FLASH = dataclasses.replace(TRANSFORMER, settings={"attention": "flash"})
THROUGH_HF = dataclasses.replace(TRANSFORMER, settings={"engine": "hf"})
WITHOUT = dataclasses.replace(TTT, settings={"attention": "none"})


def both_attentions() -> pd.DataFrame:
    models = [TRANSFORMER, FLASH, WITHOUT]
    return make_rows(perplexity_rows(models, [512]), timing_rows(models, [512]))


def test_settings_follow_an_at_sign_and_a_revision_belongs_to_the_name() -> None:
    found = read_variant("transformer@attention=flash,batch-size=4")
    assert (found.name, dict(found.settings)) == ("transformer", {"attention": "flash", "batch_size": "4"})
    for name in ("transformer", "org/model@main"):
        assert (read_variant(name).name, read_variant(name).settings) == (name, {})
    assert read_variant("org/model@main@engine=hf").name == "org/model@main"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a@engin=hf", "unknown setting 'engin' in 'a@engin=hf'; did you mean 'engine'"),
        ("a@dept=1", "did you mean 'depth'"),
        ("a@engine=", "cannot be read; write NAME@SETTING=VALUE"),
        ("a@engine=hf,engine=eager", "each setting once"),
    ],
    ids=["unknown setting", "unknown axis", "empty", "twice"],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_variant(text, axes=["depth"])


def test_one_checkpoint_is_compared_under_two_attentions() -> None:
    found = compare(both_attentions(), "transformer@attention=sdpa", "transformer@attention=flash")
    entries = words.records(found)
    assert {entry["metric"] for entry in entries} >= {"bits_per_byte", "prefill_s"}
    assert all(entry["verdict"] != "not comparable" for entry in entries)
    assert {(entry["a"], entry["b"]) for entry in entries} == {
        ("transformer@attention=sdpa", "transformer@attention=flash")
    }


def test_one_checkpoint_is_compared_under_two_engines() -> None:
    models = [TRANSFORMER, THROUGH_HF]
    rows = make_rows(perplexity_rows(models, [512]), timing_rows(models, [512]))
    found = words.records(compare(rows, "transformer@engine=eager", "transformer@engine=hf"))
    assert all(entry["verdict"] != "not comparable" for entry in found)


def test_an_architecture_without_attention_is_timed_against_every_attention_of_another() -> None:
    found = words.records(compare(both_attentions(), "transformer", "ttt-linear"))
    timed = [entry for entry in found if entry["metric"] == "prefill_s"]
    assert [entry["attention"] for entry in timed] == ["sdpa", "flash"]
    assert all(entry["verdict"] != "not comparable" for entry in timed)


def test_a_table_names_attention_only_where_lines_differ_in_it() -> None:
    alone = make_rows(perplexity_rows([TRANSFORMER, WITHOUT], [512]))
    assert words.settings(words.records(summarise(alone)))[-1] == []
    assert words.settings(words.records(summarise(both_attentions())))[-1] == ["attention"]


def test_a_side_that_stands_for_several_settings_says_how_to_choose() -> None:
    with pytest.raises(UsageError, match="differ in attention; say which are meant: transformer@attention=sdpa or"):
        compare(both_attentions(), "transformer", "transformer@attention=flash")


def test_a_setting_that_was_not_measured_says_how_to_measure_it() -> None:
    with pytest.raises(UsageError, match=r"no row of 'transformer' has engine=hf; its rows have: eager.*--engine hf"):
        compare(both_attentions(), "transformer@engine=hf", "ttt-linear")


def test_rows_of_older_code_that_another_side_reads_are_not_left_out() -> None:
    new = make_rows(perplexity_rows([TTT, TRANSFORMER], [512])).assign(code_digest="a" * 32, started="2026-01-02")
    old = new.assign(code_digest="1" * 32, started="2026-01-01", cell_id=new["cell_id"] + "-old")
    both = pd.concat([new, old], ignore_index=True)
    both.attrs = make_rows(perplexity_rows([TTT], [512])).attrs
    name = TTT.name
    for older in ("1", "111111"):
        assert compare(both, name, f"{name}@code={older}").attrs["left_out"] == []
    (said, _) = compare(both, name, TRANSFORMER.name).attrs["left_out"]
    assert said == f"rows of '{name}' by older code are left out: {name}@code=111111 (perplexity, measured 2026-01-01)"
    side = read_side(both, f"{name}@dtype=float32")
    (said,) = side.left_out([])
    assert f"{name}@dtype=float32,code=111111 (" in said
    assert len(read_side(both, f"{name}@dtype=float32,code=111111").rows) == len(new) / 2


def test_older_code_takes_no_pair_from_the_table() -> None:
    models = [dataclasses.replace(TTT, name=f"m{index}", bits=1.5 + index / 10) for index in range(5)]
    rows = make_rows(perplexity_rows(models, [512])).assign(code_digest="a" * 32, started="2026-01-02")
    old = rows.loc[rows["checkpoint"] == "m4"].assign(code_digest="1" * 32, started="2026-01-01", cell_id="old")
    both = pd.concat([rows, old], ignore_index=True)
    both.attrs = make_rows(perplexity_rows(models, [512])).attrs
    table = summarise(both)
    pairs = {(entry["a"], entry["b"]) for entry in table.attrs["comparisons"]}
    assert pairs == {*itertools.combinations([model.name for model in models], 2), ("m4", "m4@code=111111")}
    assert "'m4' is compared by its newest code, m4@code=111111 by older code" in table.attrs["notes"]


def test_a_checkpoint_is_not_compared_with_itself() -> None:
    rows = both_attentions()
    told = "or settings of it: transformer@attention=sdpa and transformer@attention=flash"
    with pytest.raises(UsageError, match=told):
        compare(rows, "transformer", "transformer")
    # Nothing is made up: what one way of measuring left has no settings to tell apart, and digests are the rows' own.
    alone = make_rows(perplexity_rows([TTT], [512]))
    with pytest.raises(UsageError, match="it was measured in one way only"):
        compare(alone, "ttt-linear", "ttt-linear")
    twice = alone.assign(code_digest=["1234567890"] + ["abcdef0123"] * (len(alone) - 1))
    twice.attrs = alone.attrs
    with pytest.raises(UsageError, match="ttt-linear@code=123456 and ttt-linear@code=abcdef"):
        compare(twice, "ttt-linear", "ttt-linear")
    with pytest.raises(UnknownNameError, match="unknown checkpoint 'transfomer'"):
        compare(rows, "transfomer@engine=hf", "ttt-linear")


# Places on an axis


def adapt_rows() -> pd.DataFrame:
    return read_rows(ROOT / "results" / "adapt" / "cpu" / "rows.parquet")


def test_two_places_on_an_axis_are_paired_by_what_was_asked() -> None:
    rows = adapt_rows()
    found = words.records(compare(rows, "transformer@strategy=oracle", "transformer@strategy=base"))
    (overall,) = (entry for entry in found if entry["metric"] == "accuracy")
    table = {e["strategy"]: e["value"] for e in words.records(summarise(rows)) if e["metric"] == "accuracy"}
    assert overall["value_a"] == pytest.approx(table["oracle"])
    assert overall["effect"] == pytest.approx(table["oracle"] - table["base"])
    assert (overall["num_pairs"], overall["num_clusters"], overall["verdict"]) == (80, 78, "a better")

    # in pairs the interval is narrower than either side's alone
    sides = [e for e in words.records(summarise(rows)) if e["metric"] == "accuracy" and e["strategy"] == "oracle"]
    assert overall["high"] - overall["low"] < sides[0]["high"] - sides[0]["low"]

    by_domain = [entry for entry in found if entry["metric"] == "bits_per_byte_by_domain"]
    assert [entry["domain"] for entry in by_domain] == ["code", "dna", "other", "prose", "recall"]
    assert {entry["axes"] for entry in by_domain} == {"context_len,domain"}
    assert {entry["num_pairs"] for entry in by_domain} == {16}


def test_metrics_without_the_axis_are_left_out_and_a_side_must_name_its_place() -> None:
    rows = make_rows(perplexity_rows([TTT], [512]), needle_rows([TRANSFORMER, TTT], [512]))
    found = words.records(compare(rows, "transformer@depth=0", "ttt-linear@depth=1"))
    assert {entry["metric"] for entry in found} == {"retrieval_by_depth"}
    with pytest.raises(UsageError, match="differ in depth; say which are meant: ttt-linear@depth=0 or"):
        compare(rows, "transformer@depth=0", "ttt-linear")
    with pytest.raises(UsageError, match=r"has depth=0\.3; its rows have: 0, 0\.25, 0\.5, 0\.75, 1$"):
        compare(rows, "transformer@depth=0.3", "ttt-linear@depth=1")


def test_a_lost_cell_has_no_place_and_hides_none() -> None:
    lost = dataclasses.replace(TTT, failures={1024: ("killed", "ended by signal 9")})
    rows = make_rows(needle_rows([TRANSFORMER, lost], [512, 1024]))
    found = words.records(compare(rows, "transformer@depth=0", "ttt-linear@depth=1"))
    assert [(entry["context_len"], entry["reason"]) for entry in found if entry["verdict"] == "not comparable"] == [
        (1024, "ttt-linear@depth=1: killed")
    ]
    assert [entry["context_len"] for entry in found if entry["effect"] is not None] == [512]


def measured(*rows: tuple[str, str, str | None]) -> pd.DataFrame:
    """Rows that say whose they are: checkpoint, weights and code."""
    return pd.DataFrame(
        [
            {
                **{"task": "perplexity", "engine": "eager", "checkpoint": name, "weights_digest": weights},
                **{"config_digest": "c", "tokenizer_digest": "t", "code_digest": code, "started": "2026-01-02"},
            }
            for name, weights, code in rows
        ]
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", "11112222", "9999"), ("a", "11112222", "9999"), ("b", "33334444", "9999")], ["a", "b"]),
        ([("a", "11112222", "9999"), ("a", "33334444", "9999")], ["a@weights=111122", "a@weights=333344"]),
        ([("a", "11112222", "77778888"), ("a", "11112222", "99990000")], ["a", "a@code=777788"]),
        (
            [("a", "11112222", "77778888"), ("a", "11112222", "99990000"), ("a", "33334444", "99990000")],
            ["a@weights=111122", "a@weights=111122,code=777788", "a@weights=333344"],
        ),
        # one content under two names is one side, and rows of an older schema name no code
        ([("a", "11112222", "9999"), ("b", "11112222", "9999")], ["a"]),
        ([("a", "11112222", None), ("a", "11112222", "99990000")], ["a"]),
    ],
)
def test_each_content_and_code_has_a_text_of_its_own(
    rows: list[tuple[str, str, str | None]], expected: list[str]
) -> None:
    assert sides(measured(*rows)) == expected
