"""Two checkpoints on the same targets."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rows import CONTEXTS, TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import words
from ttbench.report.compare import all_pairs, compare, compare_pairs, render_comparison
from ttbench.report.summary import is_per_token
from ttbench.report.table import summarise
from ttbench.tasks.perplexity import Perplexity

MODELS = [TRANSFORMER, TTT]


def lines_of(found: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    return [entry for entry in words.records(found) if entry["metric"] == metric]


def at(found: pd.DataFrame, metric: str, context_len: int) -> dict[str, Any]:
    (row,) = (entry for entry in lines_of(found, metric) if entry["context_len"] == context_len)
    return row


def sentences(found: pd.DataFrame) -> str:
    return " ".join(words.sentences(words.records(found)))


def text_of(found: pd.DataFrame, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render_comparison(found))
    return out.getvalue()


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    rows = make_rows(
        perplexity_rows(MODELS, CONTEXTS), needle_rows(MODELS, CONTEXTS), timing_rows(MODELS, CONTEXTS, num_rounds=6)
    )
    return compare(rows, "transformer", "ttt-linear")


def test_the_difference_is_far_surer_than_either_number(found: pd.DataFrame) -> None:
    row = at(found, "bits_per_byte", 2048)
    assert row["effect"] == pytest.approx(-0.12, abs=0.01)
    assert row["effect"] == pytest.approx(row["value_a"] - row["value_b"])
    assert row["high"] - row["low"] < 0.03
    assert (row["verdict"], row["num_clusters"], row["num_pairs"]) == ("a better", 34, 68)


def test_beyond_the_training_context_the_other_one_is_better(found: pd.DataFrame) -> None:
    row = at(found, "bits_per_byte", 8192)
    assert row["extrapolated"]
    assert row["verdict"] == "b better"
    assert not at(found, "bits_per_byte", 2048)["extrapolated"]


def test_perplexities_are_compared_as_a_ratio(found: pd.DataFrame) -> None:
    row = at(found, "perplexity", 512)
    assert row["kind"] == "ratio"
    assert row["effect"] == pytest.approx(row["value_a"] / row["value_b"])
    assert row["low"] < row["effect"] < row["high"] < 1


def test_timings_are_compared_as_a_ratio_by_rounds(found: pd.DataFrame) -> None:
    row = at(found, "prefill_s", 1024)
    assert row["effect"] == pytest.approx(1 / 1.6, rel=0.05)
    assert (row["method"], row["num_clusters"], row["verdict"]) == ("order statistics", 6, "a better")


def test_more_is_better_where_the_metric_says_so(found: pd.DataFrame) -> None:
    assert at(found, "retrieval", 512)["verdict"] == "a better"
    assert at(found, "decode_tokens_per_s", 8192)["verdict"] == "b better"


def test_exact_counts_need_no_interval_to_differ(found: pd.DataFrame) -> None:
    row = at(found, "state_bytes", 8192)
    assert (row["method"], row["verdict"]) == ("exact", "b better")
    assert row["p"] is None


def test_holm_corrects_over_the_points_of_a_metric(found: pd.DataFrame) -> None:
    mine = lines_of(found, "retrieval_by_depth")
    assert len(mine) == 25
    smallest = min(mine, key=lambda entry: entry["p"])
    assert smallest["p_holm"] == pytest.approx(25 * smallest["p"])
    assert all(entry["p_holm"] >= entry["p"] for entry in mine)


def test_swapping_the_two_mirrors_every_effect() -> None:
    rows = make_rows(perplexity_rows(MODELS, [512, 1024]), timing_rows(MODELS, [512]))
    ab, ba = compare(rows, "transformer", "ttt-linear"), compare(rows, "ttt-linear", "transformer")
    for one, two in zip(words.records(ab), words.records(ba), strict=True):
        expected = 1 / two["effect"] if one["kind"] == "ratio" else -two["effect"]
        assert one["effect"] == pytest.approx(expected)
        assert {one["verdict"], two["verdict"]} in (
            {"a better", "b better"},
            {"no difference shown"},
        )
    assert sentences(ab) == sentences(ba)


def test_a_checkpoint_against_its_equal_is_told_apart_at_most_5_times_in_100() -> None:
    twin = dataclasses.replace(TTT, name="twin")
    verdicts = []
    for seed in range(30):
        rows = make_rows(
            perplexity_rows([TTT, twin], [512], num_documents=14, windows=1, seed=seed),
            timing_rows([TTT, twin], [512], repeats=2, seed=seed),
        )
        mine = compare(rows, "ttt-linear", "twin")
        verdicts += [entry["verdict"] for name in ("bits_per_byte", "prefill_s") for entry in lines_of(mine, name)]
    assert len(verdicts) == 60
    assert np.mean([verdict != "no difference shown" for verdict in verdicts]) <= 0.05 + 2 * (0.05 * 0.95 / 60) ** 0.5


def test_no_difference_is_said_to_be_not_shown() -> None:
    twin = dataclasses.replace(TTT, name="twin")
    rows = make_rows(perplexity_rows([TTT, twin], [1024]), timing_rows([TTT, twin], [1024]))
    said = sentences(compare(rows, "ttt-linear", "twin"))
    assert "no difference between" in said
    assert "is shown (" in said
    assert "are equal" in said
    assert "needs" not in said.split("state in use")[0].split("prefill")[0]


def test_few_documents_give_no_interval_and_the_sentence_says_so() -> None:
    rows = make_rows(perplexity_rows(MODELS, [1024], num_documents=8))
    row = at(compare(rows, "transformer", "ttt-linear"), "bits_per_byte", 1024)
    assert (row["low"], row["reason"]) == (None, "8 documents; an interval needs 10")
    assert row["verdict"] == "a better"
    assert "(no interval: 8 documents; an interval needs 10)" in sentences(compare(rows, "transformer", "ttt-linear"))


def test_only_samples_that_both_have_are_paired() -> None:
    records = perplexity_rows(MODELS, [512])
    gone = [row for row in records if not (row["checkpoint"] == "ttt-linear" and row["sample"] < 20)]
    row = at(compare(make_rows(gone), "transformer", "ttt-linear"), "bits_per_byte", 512)
    assert (row["num_pairs"], row["num_clusters"]) == (48, 24)
    moved = [row | ({"num_bytes": 255} if row["checkpoint"] == "ttt-linear" else {}) for row in records]
    row = at(compare(make_rows(moved), "transformer", "ttt-linear"), "bits_per_byte", 512)
    assert (row["verdict"], row["reason"]) == ("not comparable", "no shared targets")


def test_other_documents_under_the_same_number_are_not_paired() -> None:
    records = perplexity_rows(MODELS, [512])
    other = [
        row | ({"document": "x" + row["document"]} if row["checkpoint"] == "ttt-linear" else {}) for row in records
    ]
    row = at(compare(make_rows(other), "transformer", "ttt-linear"), "bits_per_byte", 512)
    assert (row["verdict"], row["reason"]) == ("not comparable", "no shared targets")


def test_token_perplexity_ranks_nothing_when_the_tokenizers_differ() -> None:
    other = dataclasses.replace(TTT, tokenizer="tok-words")
    found = compare(make_rows(perplexity_rows([TRANSFORMER, other], [512])), "transformer", "ttt-linear")
    row = at(found, "perplexity", 512)
    assert row["verdict"] == "not comparable"
    assert "compare bits per byte" in row["reason"]
    # whole documents hold the same bytes, whatever they are cut into
    bits = at(found, "bits_per_byte", 512)
    assert (bits["verdict"], bits["num_pairs"]) == ("a better", 34)
    assert "perplexity per token: not ranked (the tokenizers differ" in sentences(found)
    table = summarise(make_rows(perplexity_rows([TRANSFORMER, other], [512])))
    assert "not ranked (the tokenizers differ" in " ".join(words.sentences(table.attrs["comparisons"]))


def test_numbers_per_token_are_those_that_are_divided_by_tokens() -> None:
    found = {metric.name for metric in Perplexity.metrics if is_per_token(metric)}
    assert found == {"perplexity", "page_perplexity"}


def test_timings_of_two_machines_are_not_compared() -> None:
    other = dataclasses.replace(TTT, settings={"machine": "m2"})
    row = words.records(compare(make_rows(timing_rows([TRANSFORMER, other], [512])), "transformer", "ttt-linear"))[0]
    assert (row["verdict"], row["reason"]) == ("not comparable", "settings differ: machine m1 and m2")


def test_quality_is_compared_across_engines_when_nothing_else_differs() -> None:
    other = dataclasses.replace(TTT, settings={"engine": "hf", "attention": "eager", "batch_size": 4})
    rows = make_rows(perplexity_rows([TRANSFORMER, other], [512]))
    assert at(compare(rows, "transformer", "ttt-linear"), "bits_per_byte", 512)["verdict"] == "a better"


def test_a_failed_cell_is_not_comparable_and_says_why() -> None:
    other = dataclasses.replace(TTT, failures={1024: ("oom", "MemoryError")})
    found = compare(make_rows(perplexity_rows([TRANSFORMER, other], [512, 1024])), "transformer", "ttt-linear")
    row = at(found, "bits_per_byte", 1024)
    assert (row["verdict"], row["reason"]) == ("not comparable", "ttt-linear: oom")
    assert at(found, "bits_per_byte", 512)["verdict"] == "a better"


def test_unknown_and_equal_names_are_refused() -> None:
    rows = make_rows(perplexity_rows(MODELS, [512]))
    with pytest.raises(UnknownNameError, match="unknown checkpoint 'ttt-liner' in the rows; did you mean 'ttt-linear'"):
        compare(rows, "transformer", "ttt-liner")
    with pytest.raises(UsageError, match="cannot be compared with itself"):
        compare(rows, "transformer", "transformer")


def test_two_weights_under_one_name_are_refused() -> None:
    records = perplexity_rows(MODELS, [512])
    again = [row | {"weights_digest": "other", "cell_id": "other" + row["cell_id"]} for row in records[-68:]]
    with pytest.raises(UsageError, match="several weights or revisions called 'ttt-linear'"):
        compare(make_rows(records, again), "transformer", "ttt-linear")


@pytest.mark.parametrize("width", [80, 120])
def test_the_comparison_fits_the_terminal(found: pd.DataFrame, width: int) -> None:
    lines = text_of(found, width).splitlines()
    assert max(map(len, lines)) <= width
    line = next(line for line in lines if line.strip().startswith("2k "))
    assert line.split()[-1] == "transformer"
    assert any("* beyond the training context" in line for line in lines)


def test_three_checkpoints_are_told_against_the_best_one() -> None:
    third = Model(name="middling", bits=1.56, loss=0.3)
    rows = make_rows(perplexity_rows([TTT, third, TRANSFORMER], [1024, 2048]))
    said = sentences(compare_pairs(rows, all_pairs(["ttt-linear", "middling", "transformer"])))
    assert said.startswith("At 2k tokens middling needs 0.0")
    assert "more than transformer (" in said
    assert ", ttt-linear 0.1" in said


def test_two_corpora_are_told_apart_line_by_line_and_in_sentences_of_their_own() -> None:
    other = [
        row | {"corpus": "kjv", "corpus_digest": "c2", "cell_id": "kjv" + row["cell_id"]}
        for row in perplexity_rows([dataclasses.replace(TRANSFORMER, bits=9.0), TTT], [512])
    ]
    found = compare(make_rows(perplexity_rows(MODELS, [512]), other), "transformer", "ttt-linear")
    first, second = (said for said in words.sentences(words.records(found)) if "bits per byte" in said)
    assert first.startswith("Corpus code: at 512 tokens ttt-linear needs")
    assert second.startswith("Corpus kjv: at 512 tokens transformer needs")
    text = text_of(found, 120)
    assert "  512 corpus code " in text
    assert "  512 corpus kjv " in text


def test_many_checkpoints_are_compared_with_the_first() -> None:
    names = list("abcdefg")
    assert all_pairs(names) == [("a", name) for name in "bcdefg"]
    assert len(all_pairs(names[:5])) == 10
