"""Rows to numbers and numbers to a terminal."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from rows import CONTEXTS, METRICS, TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.errors import UsageError
from ttbench.registry import TASKS
from ttbench.report import words
from ttbench.report.columns import all_rows
from ttbench.report.statistics import stats
from ttbench.report.table import render, summarise
from ttbench.tasks.memory import Memory
from ttbench.tasks.perplexity.perplexity import Perplexity
from ttbench.types import Metric

BROKEN = dataclasses.replace(
    TTT, failures={8192: ("too_short", "no document of 8,448 tokens"), 4096: ("killed", "ended by signal 9")}
)


def text_of(table: pd.DataFrame, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(table))
    return out.getvalue()


def lines_of(table: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    return [entry for entry in words.records(table) if entry["metric"] == metric]


def one(table: pd.DataFrame, metric: str, checkpoint: str, context_len: int) -> dict[str, Any]:
    wanted = (checkpoint, context_len)
    (found,) = (e for e in lines_of(table, metric) if (e["checkpoint"], e["context_len"]) == wanted)
    return found


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    models = [TRANSFORMER, TTT]
    return make_rows(
        perplexity_rows(models, CONTEXTS),
        needle_rows(models, CONTEXTS[:3]),
        timing_rows(models, CONTEXTS[:3]),
    )


@pytest.fixture(scope="module")
def table(rows: pd.DataFrame) -> pd.DataFrame:
    return summarise(rows)


def test_bits_per_byte_is_the_ratio_of_sums_with_the_interval_over_documents(
    rows: pd.DataFrame, table: pd.DataFrame
) -> None:
    found = one(table, "bits_per_byte", "ttt-linear", 1024)
    mine = all_rows(rows).equal({"task": "perplexity", "checkpoint": "ttt-linear", "context_len": 1024})
    nats, num_bytes = mine.floats("nats"), mine.floats("num_bytes")
    assert found["value"] == pytest.approx(nats.sum() / num_bytes.sum() / math.log(2))
    made = stats.estimate_ratio(nats, num_bytes, clusters=mine.values("document").astype(str))
    assert found["low"] == pytest.approx((made.low or 0) / math.log(2))
    assert (found["method"], found["num_clusters"], found["num_samples"]) == ("sign flips and bootstrap t", 34, 68)


def test_perplexity_is_the_exponential_of_the_same_sums(table: pd.DataFrame) -> None:
    bits = one(table, "bits_per_byte", "transformer", 512)["value"]
    assert one(table, "perplexity", "transformer", 512)["value"] == pytest.approx(2**bits)


def test_a_perplexity_that_no_number_holds_is_infinite_and_says_why() -> None:
    """A text of one long word for each document: 1,400 nats a word."""
    rows = perplexity_rows([TTT, TRANSFORMER], (512,))
    factors = {TTT.name: 1.0, TRANSFORMER.name: 1.5}
    long = [row | {"num_tokens": 1, "nats": (1400 + row["nats"] % 1) * factors[row["checkpoint"]]} for row in rows]
    declared = {"perplexity": tuple(m for m in METRICS["perplexity"] if m.name == "perplexity")}
    table = summarise(make_rows(long, metrics=declared))
    one, two = lines_of(table, "perplexity")
    assert (one["value"], one["low"], one["high"], two["value"]) == (math.inf, None, None, math.inf)
    assert re.fullmatch(r"e to the power of 1,40\d is more than a number can be", one["reason"])
    text = " ".join(text_of(table).split())
    assert "is too far from 1 to be told)" in text


@pytest.mark.parametrize("num_documents", [6, 15, 40])
def test_the_summary_says_why_there_is_no_interval(num_documents: int) -> None:
    table = summarise(make_rows(perplexity_rows([TTT], [512], num_documents=num_documents)))
    found = one(table, "bits_per_byte", "ttt-linear", 512)
    assert (found["method"] == "none") == (num_documents == 6)
    assert found["low"] is None if num_documents == 6 else found["low"] < found["value"]
    assert (found["reason"] == "6 documents; an interval needs 10") == (num_documents == 6)
    if num_documents == 6:
        assert "bits per byte: no interval, 6 documents; an interval needs 10" in text_of(table)


def test_compressors_are_one_line_whatever_the_checkpoints(table: pd.DataFrame) -> None:
    mine = lines_of(table, "bzip2_bits_per_byte")
    assert [entry["context_len"] for entry in mine] == list(CONTEXTS)
    assert {(entry["checkpoint"], entry["num_clusters"], entry["extrapolated"]) for entry in mine} == {(None, 34, None)}


def test_a_reference_counts_every_window_of_a_document_and_each_of_them_once() -> None:
    """Of a context mixer, or a Markov model: two checkpoints read the same windows, and a document has several."""
    made = perplexity_rows([TRANSFORMER, TTT], [512], num_documents=3, windows=2)
    rows = make_rows(made, metrics={"perplexity": Perplexity.metrics})
    rows["mixer_nats"] = (100.0 + rows["sample"]).astype("float64")
    rows["mixer_bytes"] = 256
    table = summarise(rows)
    (found,) = lines_of(table, "mixer_bits_per_byte")
    # six windows of 100, 101 .. 105 nats
    assert found["value"] == pytest.approx(615 / (6 * 256) / math.log(2))
    assert found["num_counted"] == 6 * 256


def test_what_is_no_better_either_way_and_the_models_own_has_a_line_for_each() -> None:
    """A metric in the unit of a ranked one is a reference, as a compressor's size is, only where models share it."""
    shown = [{"bzip2_bytes": 99, "document_bytes": 256}, {"bzip2_bytes": 77, "document_bytes": 256}]
    for differ, lines in ((False, [None]), (True, [TTT.name, TRANSFORMER.name])):
        rows = perplexity_rows([TTT, TRANSFORMER], (512,))
        mine = [row | shown[differ and row["checkpoint"] == TTT.name] for row in rows]
        found = lines_of(summarise(make_rows(mine)), "bzip2_bits_per_byte")
        assert [entry["checkpoint"] for entry in found] == lines
        assert [entry["value"] for entry in found] == pytest.approx(
            [8 * 77 / 256, 8 * 99 / 256] if differ else [8 * 99 / 256]
        )


def test_a_timing_is_the_geometric_mean_of_the_medians_of_rounds(rows: pd.DataFrame, table: pd.DataFrame) -> None:
    found = one(table, "prefill_s", "transformer", 2048)
    wanted = {"task": "latency", "checkpoint": "transformer", "phase": "prefill", "context_len": 2048}
    times = [sorted(part.floats("call_s")) for _, part in all_rows(rows).equal(wanted).split(["round"])]
    # four repeats: the geometric mean of the two in the middle
    medians = [(second * third) ** 0.5 for _, second, third, _ in times]
    assert found["value"] == pytest.approx(math.prod(medians) ** (1 / 5))
    assert (found["method"], found["num_clusters"], found["num_samples"]) == ("log t", 5, 20)
    assert not found["noisy"]


def test_repeats_that_spread_are_flagged_as_noisy_and_their_outliers_counted() -> None:
    table = summarise(make_rows(timing_rows([TTT], [512], noise=0.3)))
    found = one(table, "prefill_s", "ttt-linear", 512)
    assert found["noisy"]
    assert "~ noisy" in text_of(table)
    assert found["num_outliers"] >= 0


def test_what_is_declared_a_count_is_exact(table: pd.DataFrame) -> None:
    found = one(table, "state_bytes", "transformer", 2048)
    assert (found["value"], found["method"]) == (512 * 2048, "exact")
    assert found["reason"] == "the highest of 5 samples, a count"


def peaks(values: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Memory rows whose peak of each round is given, by checkpoint."""
    models = [dataclasses.replace(TTT, name=name) for name in values]
    records = [row for row in timing_rows(models, [512], num_rounds=3) if row["task"] == "memory"]
    records = [row for row in records if row["round"] < len(values[row["checkpoint"]])]
    found = [row | {"peak_rss_bytes": values[row["checkpoint"]][row["round"]]} for row in records]
    return make_rows(found, metrics={"memory": [m for m in Memory.metrics if m.name == "peak_rss_bytes"]})


@pytest.mark.parametrize(
    ("num_rounds", "reason"),
    [(1, "1 round; an interval needs 3"), (3, "equal in all of 3 rounds, which shows no spread")],
)
def test_what_is_measured_is_never_exact_and_names_no_winner_without_an_interval(num_rounds: int, reason: str) -> None:
    rows = peaks({"one": [345_680_000] * num_rounds, "two": [245_310_000] * num_rounds})
    table = summarise(rows)
    for found in lines_of(table, "peak_rss_bytes"):
        assert (found["method"], found["low"], found["reason"]) == ("none", None, reason)
    (compared,) = table.attrs["comparisons"]
    assert (compared["method"], compared["low"], compared["verdict"]) == ("none", None, "not judged")
    text = " ".join(text_of(table).split())
    assert "exact" not in text
    assert f"peak memory: no interval, {reason}" in text
    assert f"two and one are not judged ({reason})" in text


def test_why_there_is_no_interval_is_told_of_the_cells_that_have_none() -> None:
    text = " ".join(text_of(summarise(peaks({"one": [300, 310, 320], "two": [290]}))).split())
    assert "peak memory (two at 512): no interval, 1 round; an interval needs 3" in text
    # All numbers of the table rest on the same, which needs no list of them.
    assert "each number rests on 1 to 3 rounds peak" not in text
    assert "each number rests on 1 to 3 rounds" in text
    assert "1 to 3 rounds (" not in text


def test_metrics_that_rest_on_the_same_are_listed_where_others_rest_on_something_else() -> None:
    # Labels hold commas, so that they are not told apart by commas.
    text = " ".join(text_of(summarise(make_rows(perplexity_rows([TTT], [512], num_documents=10)))).split())
    assert "20 windows, 5,120 bytes (bits per byte); 10 documents" in text


def test_why_cells_have_no_number_is_said_once_for_all_of_them() -> None:
    reason = "it has no tokenizer"
    lost = {512: ("unsupported", reason), 1024: ("unsupported", reason)}
    models = [dataclasses.replace(TTT, name=name, failures=lost) for name in ("one", "two")]
    models.append(dataclasses.replace(TTT, name="three", failures={1024: ("unsupported", reason)}))
    text = " ".join(text_of(summarise(make_rows(perplexity_rows([TRANSFORMER, *models], [512, 1024])))).split())
    assert text.count(reason) == 1
    assert f"three at 1k; one and two at 512, 1k: unsupported: {reason}" in text


def test_what_was_asked_for_is_no_count_of_what_was_read() -> None:
    rows = make_rows(perplexity_rows([TTT], [512], num_documents=12, windows=1))
    rows["param_windows"], rows["param_limit"] = 2, 12
    text = " ".join(text_of(summarise(rows)).split())
    assert "batch size 1 · asked for protocol fixed, window 256, windows 2, limit 12" in text
    assert "12 documents, 12 windows" in text


def test_a_column_without_a_number_has_the_unit_of_its_rows() -> None:
    lost = dataclasses.replace(TTT, failures={512: ("unsupported", "the peak cannot be reset")})
    table = summarise(make_rows(timing_rows([lost], [512])))
    text = text_of(table)
    assert "(bytes, lower is better)" in text
    assert "(s, lower is better)" in text
    assert "(B, " not in text


def test_every_number_says_how_much_text_it_rests_on() -> None:
    rows = make_rows(perplexity_rows([TTT], [512], num_documents=10, windows=1), needle_rows([TTT], [512]))
    text = " ".join(text_of(summarise(rows)).split())
    assert "each number rests on 10 documents, 10 windows, 2,560 bytes (bits per byte)" in text
    assert "each number rests on 20 haystacks, 100 trials (needles retrieved)" in text


def test_a_failed_cell_is_a_row_with_its_status_and_no_number() -> None:
    table = summarise(make_rows(perplexity_rows([TRANSFORMER, BROKEN], CONTEXTS), needle_rows([BROKEN], CONTEXTS)))
    found = one(table, "bits_per_byte", "ttt-linear", 8192)
    assert (found["status"], found["reason"]) == ("too_short", "no document of 8,448 tokens")
    assert found["value"] is None
    by_depth = one(table, "retrieval_by_depth", "ttt-linear", 4096)
    assert (by_depth["status"], by_depth["depth"]) == ("killed", None)
    text = text_of(table)
    assert "ttt-linear at 8k: too_short: no document of 8,448 tokens" in text
    line = next(line for line in text_of(table, 120).splitlines() if line.startswith("  ttt-linear"))
    assert line.split()[-2:] == ["killed", "too_short"]


def test_the_last_axis_stands_across_where_there_is_one_context() -> None:
    text = text_of(summarise(make_rows(needle_rows([TRANSFORMER, TTT], CONTEXTS[:1]))))
    lines = text.splitlines()
    (head,) = (line for line in lines if line.startswith("  at 512, depth:"))
    assert head.split()[-6:] == ["trained", "0", "0.25", "0.5", "0.75", "1"]
    by_depth = lines[lines.index(head) + 2 :]
    assert by_depth[0].startswith("  transformer ")
    assert len(by_depth[0].split()) == 2 + 5
    assert "depth 0" not in text


def test_contexts_stand_across_where_there_are_several_or_a_cell_has_no_place() -> None:
    several = text_of(summarise(make_rows(needle_rows([TRANSFORMER], CONTEXTS[:2]))))
    lost = text_of(summarise(make_rows(needle_rows([TRANSFORMER, BROKEN], [4096]))))
    for text in (several, lost):
        assert ", depth:" not in text
        assert "transformer depth 0.25" in text
    assert "killed" in lost


def test_some_lost_rounds_leave_the_number_and_are_told() -> None:
    records = timing_rows([TTT], [512])
    lost = next(row for row in records if row["task"] == "latency" and row["round"] == 4)
    records = [row for row in records if row["cell_id"] != lost["cell_id"]]
    keys = ("phase", "call_s", "wall_s", "num_tokens")
    records.append({name: value for name, value in lost.items() if name not in keys} | {"status": "timeout"})
    table = summarise(make_rows(records))
    found = one(table, "prefill_s", "ttt-linear", 512)
    assert (found["status"], found["num_clusters"], found["num_failed"]) == ("ok", 4, 1)
    assert "ttt-linear at 512: 1 of its cells failed" in text_of(table)


def test_two_settings_are_two_lines_that_name_what_differs() -> None:
    half = dataclasses.replace(TTT, settings={"dtype": "bfloat16"})
    table = summarise(make_rows(perplexity_rows([TTT, half], [512, 1024])))
    assert len(lines_of(table, "bits_per_byte")) == 4
    text = text_of(table)
    assert "ttt-linear bfloat16" in text
    assert "float32 ·" not in text.splitlines()[0]


def test_the_machine_and_the_threads_split_timings_but_not_quality() -> None:
    other = dataclasses.replace(TTT, settings={"machine": "m2", "threads": 8})
    quality = summarise(make_rows(perplexity_rows([TTT], [512]), perplexity_rows([other], [1024])))
    assert len(lines_of(quality, "bits_per_byte")) == 2
    assert "threads" not in text_of(quality)
    timing = summarise(make_rows(timing_rows([TTT, other], [512])))
    assert len(lines_of(timing, "prefill_s")) == 2


def test_a_cell_that_two_runs_hold_counts_once() -> None:
    records = perplexity_rows([TTT], [512])
    table = summarise(make_rows(records, [row | {"run_id": "run-2"} for row in records]))
    assert one(table, "bits_per_byte", "ttt-linear", 512)["num_samples"] == 68


def test_rows_without_metrics_are_refused_with_what_to_do() -> None:
    rows = make_rows(perplexity_rows([TTT], [512]))
    rows.attrs = {}
    with pytest.raises(UsageError, match=r"no metrics for 'perplexity'; .* ttbench\.store\.rows\.read_rows"):
        summarise(rows)


def test_missing_numbers_are_null_and_never_nan(table: pd.DataFrame) -> None:
    for name in table.columns:
        assert not any(isinstance(value, float) and math.isnan(value) for value in table[name].tolist()), name


# Two before a name, then 18 letters for it, or what 26 for the numbers leave, and 12 at least; 8 for `trained`.
@pytest.mark.parametrize(("width", "end"), [(120, 28), (80, 28), (40, 24), (36, 22)])
def test_names_give_way_to_numbers_in_a_narrow_terminal(table: pd.DataFrame, width: int, end: int) -> None:
    heads = [line for line in text_of(table, width).splitlines() if "trained" in line]
    assert min(line.index("trained") + len("trained") for line in heads) == end


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal_and_leaves_no_context_out(table: pd.DataFrame, width: int) -> None:
    lines = text_of(table, width).splitlines()
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if line.split()[:1] == ["trained"]]
    perplexity = [name for line in heads for name in line.split()[1:]][:5]
    assert perplexity == ["512", "1k", "2k", "4k", "8k"]


def test_seven_contexts_at_80_columns_come_in_blocks() -> None:
    contexts = [512 * 2**power for power in range(7)]
    lines = text_of(summarise(make_rows(perplexity_rows([TRANSFORMER, TTT], contexts)))).splitlines()
    heads = [line.split()[1:] for line in lines if line.split()[:1] == ["trained"]]
    assert len(heads) in (2, 3)
    assert [name for head in heads for name in head] == ["512", "1k", "2k", "4k", "8k", "16k", "32k"]


def test_a_row_per_model_comes_first_with_quality_inside_training_and_timings_at_the_longest(
    table: pd.DataFrame,
) -> None:
    lines = text_of(table, 120).splitlines()
    assert lines[0].strip() == "all models side by side"
    details = next(index for index, line in enumerate(lines) if line.startswith("perplexity ·"))
    rows = [line for line in lines[:details] if line.startswith(("transformer ", "ttt-linear "))]
    assert len(rows) == 2
    bits, hits = (lines_of(table, metric) for metric in ("bits_per_byte", "retrieval"))
    expected = [
        words.of_metric(found).text(next(e["value"] for e in found if (e["checkpoint"], e["context_len"]) == place))
        for found, place in ((bits, ("ttt-linear", 2048)), (hits, ("ttt-linear", 2048)))
    ]
    assert rows[1].split()[1:3] == expected


def test_numbers_beyond_the_training_context_are_starred_in_plain_text(table: pd.DataFrame) -> None:
    lines = text_of(table, 120).splitlines()
    line = next(line for line in lines if line.startswith("  transformer"))
    trained, *values = line.split()[1:]
    assert trained == "2k"
    assert [value.endswith("*") for value in values] == [False, False, False, True, True]
    assert any("* beyond the training context" in line for line in lines)


def test_compressors_stand_beneath_bits_per_byte_and_not_beneath_perplexity(table: pd.DataFrame) -> None:
    lines = [line.strip() for line in text_of(table, 120).splitlines()]
    bits = next(index for index, line in enumerate(lines) if line.startswith("bits per byte ("))
    bzip2 = next(index for index, line in enumerate(lines) if line.startswith("bzip2 -9"))
    perplexity = next(index for index, line in enumerate(lines) if line.startswith("perplexity per token ("))
    assert bits < bzip2 < perplexity
    assert sum(line.startswith("bzip2 -9") for line in lines) == 1


def test_a_sentence_says_what_is_better_by_how_much_and_how_sure(table: pd.DataFrame) -> None:
    text = " ".join(text_of(table).split())
    assert "At 2k tokens ttt-linear needs 0.1" in text
    assert "bits per byte more than transformer (95% interval 0.1" in text
    assert "34 documents); at 8k tokens, in sequences longer than in training (2k), transformer needs 1." in text


def test_a_checkpoint_without_a_known_training_context_is_not_starred() -> None:
    table = summarise(make_rows(perplexity_rows([Model(name="unknown", train_ctx=None)], [512, 1024])))
    assert "*" not in text_of(table)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_registered_tasks_declare_statistics_that_the_report_can_make(task: str) -> None:
    # tests/test_every_task.py makes them, from rows that the tasks write
    declared: tuple[Metric, ...] = TASKS.load(task).metrics
    assert {metric.statistic for metric in declared} <= {"ratio", "exp_ratio", "proportion", "median", "max", "count"}


def test_a_corpus_s_note_stands_beneath_its_table_once_and_old_rows_have_none() -> None:
    rows = make_rows(perplexity_rows([TRANSFORMER], [512], num_documents=12))
    assert "corpus code:" not in text_of(summarise(rows))
    noted = rows.assign(corpus_note="other files of a project that was trained on")
    noted.attrs.update(rows.attrs)
    shown = " ".join(text_of(summarise(noted), width=200).split())
    assert shown.count("corpus code: other files of a project that was trained on") == 1


def test_a_win_without_a_second_seed_says_that_training_noise_is_not_known() -> None:
    far, near = (dataclasses.replace(TTT, name="ttt-other", bits=TRANSFORMER.bits + more) for more in (0.3, 0.0))
    told = "One training run each: training noise not known."
    for other, shown in ((far, True), (near, False)):
        made = summarise(make_rows(perplexity_rows([TRANSFORMER, other], (512,), num_documents=12)))
        assert (made.attrs["training_noise"] == told) == shown
        assert (told in text_of(made, 200)) == shown
    timed = make_rows(timing_rows([TRANSFORMER, dataclasses.replace(TTT, speed=9.0)], (512,), num_rounds=6))
    assert summarise(timed).attrs["training_noise"] == ""
