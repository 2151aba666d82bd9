"""Two checkpoints on the same targets."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rows import CONTEXTS, TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import words
from ttbench.report.comparison.compare import all_pairs, compare, compare_pairs, render_comparison
from ttbench.report.comparison.sentences import sentences as sentences_of
from ttbench.report.summary import is_per_token
from ttbench.report.table import summarise
from ttbench.tasks.latency import Latency
from ttbench.tasks.perplexity.perplexity import Perplexity

MODELS = [TRANSFORMER, TTT]


def lines_of(found: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    return [entry for entry in words.records(found) if entry["metric"] == metric]


def at(found: pd.DataFrame, metric: str, context_len: int) -> dict[str, Any]:
    (row,) = (entry for entry in lines_of(found, metric) if entry["context_len"] == context_len)
    return row


def sentences(found: pd.DataFrame) -> str:
    return " ".join(sentences_of(words.records(found)))


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


def test_what_was_scored_unchecked_is_marked_beside_its_verdict() -> None:
    rows = make_rows(perplexity_rows(MODELS, (512,)))
    assert "checked_a" not in compare(rows, "transformer", "ttt-linear")
    rows["checked"] = np.where(rows["checkpoint"] == "transformer", "unchecked", "passed")
    made = compare(rows, "transformer", "ttt-linear")
    row = at(made, "bits_per_byte", 512)
    assert (row["checked_a"], row["checked_b"], row["verdict"]) == ("unchecked", "passed", "a better")
    [line] = [line for line in text_of(made, 120).splitlines() if "not shown" not in line and "  512 " in line][:1]
    value_a, value_b = line.split()[1:3]
    assert value_a.endswith("!")
    assert not value_b.endswith("!")
    assert "! unchecked: scored on request" in text_of(made, 120)
    assert "; scored unchecked: transformer." in sentences(made)


def test_perplexities_are_compared_as_a_ratio(found: pd.DataFrame) -> None:
    row = at(found, "perplexity", 512)
    assert row["kind"] == "ratio"
    assert row["effect"] == pytest.approx(row["value_a"] / row["value_b"])
    assert row["low"] < row["effect"] < row["high"] < 1


def test_timings_are_compared_as_a_ratio_by_rounds(found: pd.DataFrame) -> None:
    row = at(found, "prefill_s", 1024)
    assert row["effect"] == pytest.approx(1 / 1.6, rel=0.05)
    assert (row["method"], row["num_clusters"], row["verdict"]) == ("log t", 6, "a better")


def test_more_is_better_where_the_metric_says_so(found: pd.DataFrame) -> None:
    assert at(found, "retrieval", 512)["verdict"] == "a better"
    assert at(found, "decode_tokens_per_s", 8192)["verdict"] == "b better"


def test_exact_counts_need_no_interval_to_differ(found: pd.DataFrame) -> None:
    row = at(found, "state_bytes", 8192)
    assert (row["method"], row["verdict"]) == ("exact", "b better")
    assert row["p"] is None


def test_the_points_of_a_metric_are_judged_together_by_the_intervals_that_are_printed(found: pd.DataFrame) -> None:
    mine = lines_of(found, "retrieval_by_depth")
    # 25 points at 99.8 % each
    assert {(entry["num_points"], round(entry["level"], 6)) for entry in mine} == {(25, 0.998)}
    for entry in words.records(found):
        none = 1.0 if entry["kind"] == "ratio" else 0.0
        if entry["verdict"] in ("a better", "b better") and entry["method"] != "exact":
            assert not entry["low"] <= none <= entry["high"]
        if entry["verdict"] == "no difference shown":
            assert entry["low"] <= none <= entry["high"] or entry["joint_p"] >= 0.05
    assert "95% for 25 comparisons together" in text_of(found, 120)


def test_alone_a_point_would_be_shown_that_is_not_among_25(found: pd.DataFrame) -> None:
    # what a single point of 20 haystacks needs: Newcombe at 95 %, against the printed 99.8 %
    unsure = (entry for entry in lines_of(found, "retrieval_by_depth") if entry["verdict"] == "no difference shown")
    row = next(entry for entry in unsure if entry["p"] < 0.05)
    assert row["low"] <= 0 <= row["high"]
    rows = make_rows([r for r in needle_rows(MODELS, CONTEXTS) if (r["context_len"], r["depth"]) == at_place(row)])
    (alone,) = lines_of(compare(rows, "transformer", "ttt-linear"), "retrieval_by_depth")
    assert (alone["num_points"], alone["level"], alone["p"]) == (1, 0.95, row["p"])
    assert alone["effect"] == row["effect"]
    assert alone["high"] - alone["low"] < row["high"] - row["low"]
    assert alone["verdict"] != "no difference shown"


def at_place(row: dict[str, Any]) -> tuple[int, float]:
    return row["context_len"], row["depth"]


def latency(times: Mapping[str, Sequence[Sequence[float]]]) -> pd.DataFrame:
    """Rows of the real task: seconds of each repeat of each round of a prefill of 512 tokens, by checkpoint."""
    records = []
    for name, rounds in times.items():
        shared = timing_rows([dataclasses.replace(TTT, name=name)], [512], num_rounds=len(rounds), repeats=1)
        for row in (row for row in shared if row.get("phase") == "prefill" and row["task"] == "latency"):
            records += [
                row | {"sample": sample, "call_s": seconds, "wall_s": seconds, "num_tokens": 512}
                for sample, seconds in enumerate(rounds[row["round"]])
            ]
    mine = [m for m in Latency.metrics if m.name in ("prefill_s", "prefill_tokens_per_s")]
    return make_rows(records, metrics={"latency": mine})


def test_the_ratio_that_is_printed_is_that_of_the_two_numbers_beside_it() -> None:
    # the median of the ratios of each round is 286 / 331 = 0.864, beside medians of 286 and 514 once printed
    rows = latency({"one": [[0.286], [0.290], [0.250]], "two": [[0.331], [0.514], [0.900]]})
    row = at(compare(rows, "one", "two"), "prefill_s", 512)
    # geometric means by hand: (286 * 290 * 250)^(1/3) = 274.7 and (331 * 514 * 900)^(1/3) = 534.9
    assert (row["value_a"], row["value_b"]) == (pytest.approx(0.2747, abs=1e-4), pytest.approx(0.5349, abs=1e-4))
    assert row["effect"] == pytest.approx(0.2747 / 0.5349, abs=2e-4)
    text = text_of(compare(rows, "one", "two"), 100)
    (line,) = (line for line in text.splitlines() if line.split()[:3] == ["512", "275", "535"])
    assert line.split()[3:5] == ["0.514", "times"]
    assert "a / b of geometric means over 3 rounds" in " ".join(text.split())


def test_a_time_and_its_speed_are_one_quantity_with_one_verdict() -> None:
    rng = np.random.default_rng(6)
    rows = latency({name: rng.lognormal(scale, 0.05, (5, 4)).tolist() for name, scale in (("one", 0), ("two", 0.3))})
    found = compare(rows, "one", "two")
    time, speed = (at(found, name, 512) for name in ("prefill_s", "prefill_tokens_per_s"))
    assert (time["verdict"], speed["verdict"]) == ("a better", "see prefill_s")
    for one, two in (("value_a", "value_a"), ("value_b", "value_b")):
        assert speed[two] == pytest.approx(512 / time[one])
    assert [speed[name] for name in ("effect", "low", "high")] == pytest.approx(
        [1 / time[name] for name in ("effect", "high", "low")]
    )
    assert len(sentences_of(words.records(found))) == 1


def test_a_difference_too_small_to_matter_wins_nothing() -> None:
    times = [[1.0], [1.00001], [0.99999]]
    rows = latency({"one": times, "two": [[1.0007 * seconds for seconds in repeats] for repeats in times]})
    # rounds that move together: 1.0007 times, and an interval around it that leaves out 1
    rows.loc[rows["checkpoint"] == "two", "call_s"] *= [1.0, 1.0001, 0.9999]
    found = compare(rows, "two", "one")
    row = at(found, "prefill_s", 512)
    assert 1 < row["low"] < row["effect"] < row["high"] < 1.01
    assert (row["verdict"], row["smallest_effect"]) == ("smaller than matters", 0.01)
    (said,) = sentences_of(words.records(found))
    assert "one and two differ by less than 1%, too little to matter (two over one: 1.0007 times, 95%" in said
    assert "needs" not in said
    assert "less than 1% does not matter" in text_of(found, 120)


@pytest.mark.parametrize(
    ("high", "said", "matters"),
    [
        (0.0048, "a and b differ by less than", "too little to matter"),
        (0.008, "a and b are estimated to differ by less than", "which would be too little to matter"),
    ],
)
def test_of_an_interval_that_reaches_what_matters_only_the_estimate_is_less(
    high: float, said: str, matters: str
) -> None:
    entry = {"task": "t", "metric": "m", "label": "bits per byte", "unit": "bit/byte", "better": "lower", "axes": "x"}
    entry |= {"a": "b", "b": "a", "value_a": 1.004, "value_b": 1.0, "effect": 0.004, "low": 0.001, "high": high}
    entry |= {"kind": "difference", "statistic": "ratio", "cluster": "document", "num_clusters": 30, "num_points": 1}
    entry |= {"verdict": "smaller than matters", "smallest_effect": 0.005, "reason": None, "restates": None}
    entry |= {"axes": "context_len", "context_len": 512, "extrapolated": False, "method": "any", "level": 0.95}
    (told,) = sentences_of([entry])
    assert f"{said} 0.005 bits per byte, {matters}" in told


@pytest.mark.parametrize(("gap", "verdict"), [(0.004, "smaller than matters"), (0.006, "a better")])
def test_bits_per_byte_must_differ_by_five_thousandths(gap: float, verdict: str) -> None:
    other = dataclasses.replace(TRANSFORMER, name="other", bits=TRANSFORMER.bits + gap)
    metrics = {"perplexity": [metric for metric in Perplexity.metrics if metric.name == "bits_per_byte"]}
    rows = make_rows(perplexity_rows([TRANSFORMER, other], [512], noise=0.0005), metrics=metrics)
    row = at(compare(rows, "transformer", "other"), "bits_per_byte", 512)
    assert row["effect"] == pytest.approx(-gap, abs=5e-4)
    assert row["high"] < 0
    assert row["verdict"] == verdict


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
    found = compare(rows, "ttt-linear", "twin")
    said = sentences(found)
    assert "no difference between" in said
    assert "is shown (" in said
    bits, seconds = at(found, "bits_per_byte", 1024), at(found, "prefill_s", 1024)
    # Table and sentence name the same difference: the table's is a - b, the sentence says which of both it is.
    for row, joined in ((bits, "minus"), (seconds, "over")):
        lower = row["value_a"] < row["value_b"]
        worse, better = ("twin", "ttt-linear") if lower else ("ttt-linear", "twin")
        assert f"is shown ({worse} {joined} {better}: " in said
    assert "are equal" in said
    assert "needs" not in said.split("state in use")[0].split("prefill")[0]


def test_a_status_names_the_side_that_it_is_of() -> None:
    rows = make_rows(perplexity_rows([TTT], [512]))
    lost = dataclasses.replace(TTT, failures={512: ("unsupported", "it looks ahead")})
    other = make_rows(perplexity_rows([lost], [512])).assign(code_digest="bbbbbbbb", cell_id="other")
    both = pd.concat([rows.assign(code_digest="aaaaaaaa"), other])
    both.attrs = rows.attrs
    found = compare(both, "ttt-linear@code=aaaa", "ttt-linear@code=bbbb")
    assert at(found, "bits_per_byte", 512)["reason"] == "ttt-linear@code=bbbb: unsupported"


def test_what_restates_another_metric_points_to_it_by_its_label() -> None:
    rng = np.random.default_rng(6)
    times = {name: rng.lognormal(scale, 0.05, (5, 4)).tolist() for name, scale in (("one", 0), ("two", 0.3))}
    text = text_of(compare(latency(times), "one", "two"), 120)
    labels = {metric.name: metric.label for metric in Latency.metrics}
    assert f"see {labels['prefill_s']}" in text
    assert "see prefill s" not in text


def test_few_documents_give_no_interval_and_the_sentence_says_so() -> None:
    rows = make_rows(perplexity_rows(MODELS, [1024], num_documents=8))
    row = at(compare(rows, "transformer", "ttt-linear"), "bits_per_byte", 1024)
    assert (row["low"], row["reason"]) == (None, "8 documents; an interval needs 10")
    assert row["verdict"] == "not judged"
    told = "transformer and ttt-linear are not judged (8 documents; an interval needs 10)"
    assert told in sentences(compare(rows, "transformer", "ttt-linear"))


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
    assert "not ranked (the tokenizers differ" in " ".join(sentences_of(table.attrs["comparisons"]))


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
    message = "'ttt-linear' stands for 2 checkpoints; say which is meant: ttt-linear@weights="
    with pytest.raises(UsageError, match=message):
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
    first, second = (said for said in sentences_of(words.records(found)) if "bits per byte" in said)
    assert first.startswith("Corpus code: at 512 tokens ttt-linear needs")
    assert second.startswith("Corpus kjv: at 512 tokens transformer needs")
    text = text_of(found, 120)
    assert "  512 corpus code " in text
    assert "  512 corpus kjv " in text


def test_many_checkpoints_are_compared_with_the_first() -> None:
    names = list("abcdefg")
    assert all_pairs(names) == [("a", name) for name in "bcdefg"]
    assert len(all_pairs(names[:5])) == 10
