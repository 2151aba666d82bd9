"""One side of a comparison may be a setting of a checkpoint: reading it, matching rows, comparing two of them."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, make_rows, perplexity_rows, timing_rows

from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import words
from ttbench.report.compare import compare
from ttbench.report.table import summarise
from ttbench.report.variants import read_variant

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
        ("a@engine=", "cannot be read; write NAME@SETTING=VALUE"),
        ("a@engine=hf,engine=eager", "each setting once"),
    ],
    ids=["unknown", "empty", "twice"],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_variant(text)


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
    assert words.settings(words.records(summarise(alone)))[1] == []
    assert words.settings(words.records(summarise(both_attentions())))[1] == ["attention"]


def test_a_side_that_stands_for_several_settings_says_how_to_choose() -> None:
    with pytest.raises(UsageError, match="differ in attention; say which are meant: transformer@attention=sdpa or"):
        compare(both_attentions(), "transformer", "transformer@attention=flash")


def test_a_setting_that_was_not_measured_says_how_to_measure_it() -> None:
    with pytest.raises(UsageError, match=r"no row of 'transformer' has engine=hf; its rows have: eager.*--engine hf"):
        compare(both_attentions(), "transformer@engine=hf", "ttt-linear")


def test_a_checkpoint_is_not_compared_with_itself() -> None:
    rows = both_attentions()
    with pytest.raises(UsageError, match="or settings of one: transformer@engine=hf"):
        compare(rows, "transformer", "transformer")
    with pytest.raises(UnknownNameError, match="unknown checkpoint 'transfomer'"):
        compare(rows, "transfomer@engine=hf", "ttt-linear")
