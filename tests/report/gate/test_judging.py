"""A run against a baseline: what is red, by name, and what is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.errors import UsageError
from ttbench.report.gate import lines as said
from ttbench.report.gate.gate import Terms, gate
from ttbench.report.gate.lines import Gate, GateLine
from ttbench.types import canonical_json

MODELS, NAMES = [TRANSFORMER, TTT], ("the run", "the baseline")
TIMING = Terms(timing=True)


@pytest.fixture(scope="module")
def quality() -> pd.DataFrame:
    return make_rows(perplexity_rows(MODELS, (512, 2048), windows=1), needle_rows([TTT], (512,)))


def times(seed: int = 0, **options: Any) -> pd.DataFrame:
    rows = make_rows(
        timing_rows(MODELS, (512,), num_rounds=options.pop("num_rounds", 10), seed=seed, repeats=2, **options)
    )
    return changed(rows, {}, run_id=f"run-{seed}")


def changed(rows: pd.DataFrame, where: Mapping[str, Any], **values: Any) -> pd.DataFrame:
    """The rows with other entries, or entries made by a function, where columns have these values."""
    found = rows.copy()
    mine = np.ones(len(found), dtype=bool)
    for name, value in where.items():
        mine &= (found[name] == value).fillna(False).to_numpy(dtype=bool)
    for name, value in values.items():
        before = found[name].tolist() if name in found else [None] * len(found)
        after = [(value(x) if callable(value) else value) if hit else x for x, hit in zip(before, mine, strict=True)]
        found[name] = pd.Series(after, index=found.index)
    found.attrs = rows.attrs
    return found


def red(found: Gate) -> list[tuple[str, str]]:
    return [(line.what, line.verdict) for line in found.red]


def line_of(found: Gate, metric: str, checkpoint: str = "ttt-linear", **point: Any) -> GateLine:
    wanted = {"context_len": 512, **point}
    (line,) = (e for e in found.lines if (e.metric, e.checkpoint, dict(e.point)) == (metric, checkpoint, wanted))
    return line


def of(task: str, **values: Any) -> dict[str, Any]:
    return {"task": task, **values}


# Cells


def test_a_run_that_gives_the_baselines_numbers_is_green(quality: pd.DataFrame) -> None:
    rows = pd.concat([quality, times()])
    rows.attrs["metrics"] = quality.attrs["metrics"] | times().attrs["metrics"]
    found = gate(rows, rows, names=NAMES)
    assert red(found) == []
    assert {line.verdict for line in found.lines} == {"equal", "shown, not gated"}
    assert {line.rule for line in found.lines} == {"count", "quality", "time"}
    assert found.headline.startswith("green (")
    assert found.to_json()["verdict"] == "green"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"corpus_digest": "c9"}, "the text of corpus code changed: c1 → c9"),
        ({"corpus": "books", "corpus_digest": "c9"}, "corpus changed: code → books"),
        ({"task_version": 2}, "the baseline is of version 1 of the task, the run of version 2"),
        ({"dtype": "bfloat16"}, "dtype changed: float32 → bfloat16"),
        ({"seed": 1}, "seed changed: 0 → 1"),
        ({"engine": "hf"}, "engine changed: eager → hf"),
        ({"batch_size": 4}, "batch size changed: 1 → 4"),
        ({"param_window": 512}, "window changed: 256 → 512"),
        ({"param_window": None}, "window changed: 256 → none"),
        ({"param_new": 3}, "new changed: none → 3"),
        ({"dtype": "float16", "seed": 2}, "seed changed: 0 → 2; dtype changed: float32 → float16"),
    ],
)
def test_another_setting_is_red_by_name(quality: pd.DataFrame, changes: Mapping[str, Any], reason: str) -> None:
    where = of("perplexity", checkpoint="ttt-linear", context_len=512)
    found = gate(changed(quality, where, cell_id="other", **changes), quality, names=NAMES)
    (line,) = found.red
    assert (line.rule, line.verdict, line.reason) == ("cell", "changed", reason)
    assert line.what == "perplexity, ttt-linear: at 512"
    assert [each.verdict for each in found.lines if each.rule == "cell"] == ["changed", "new"]


def test_a_lost_cell_is_red_and_a_new_one_is_not(quality: pd.DataFrame) -> None:
    fewer = quality.loc[~((quality["task"] == "perplexity") & (quality["context_len"] == 2048))]
    found = gate(fewer, quality, names=NAMES)
    assert red(found) == [(f"perplexity, {name}: at 2k", "lost") for name in ("transformer", "ttt-linear")]
    found = gate(quality, fewer, names=NAMES)
    assert red(found) == []
    assert [line.verdict for line in found.lines if line.rule == "cell"] == ["new", "new"]


def test_a_run_with_nothing_of_the_baseline_is_red_for_every_cell(quality: pd.DataFrame) -> None:
    other = changed(quality, {}, checkpoint="another")
    found = gate(other, quality, names=NAMES)
    assert len(found.red) == 5
    assert {line.verdict for line in found.red} == {"lost"}


@pytest.mark.parametrize(
    ("before", "after", "verdicts"),
    [
        ("ok", "oom", ["ended otherwise"]),
        ("ok", "killed", ["ended otherwise"]),
        ("too_long", "too_long", []),
        ("too_long", "oom", ["ended otherwise"]),
        ("oom", "ok", []),
    ],
)
def test_how_a_cell_ended_is_compared(before: str, after: str, verdicts: list[str]) -> None:
    def rows(status: str) -> pd.DataFrame:
        whole = make_rows(perplexity_rows([TTT], (512, 2048), num_documents=12))
        if status == "ok":
            return whole
        failed = whole.loc[(whole["context_len"] == 2048) | (whole["sample"] == 0)]
        failed.attrs = whole.attrs
        return changed(failed, {"context_len": 512}, status=status, reason="no room")

    found = gate(rows(after), rows(before), names=NAMES)
    assert [line.verdict for line in found.red] == verdicts
    if verdicts:
        assert found.red[0].reason == f"{after}, where the baseline has {before}: no room"


def test_a_round_that_was_killed_is_red_though_the_others_are_well() -> None:
    rows = times()
    lost = rows.loc[~((rows["task"] == "latency") & (rows["round"] == 3) & (rows["sample"] > 0))]
    killed = changed(
        lost, of("latency", round=3, context_len=512, checkpoint="ttt-linear"), status="killed", reason="signal 9"
    )
    (line,) = gate(killed, rows, names=NAMES).red
    assert line.verdict == "ended otherwise"
    assert line.reason == "9 x ok, 1 x killed, where the baseline has 10 x ok: signal 9"


def test_settings_tell_two_cells_of_a_checkpoint_apart(quality: pd.DataFrame) -> None:
    other = changed(quality, of("perplexity"), corpus="books", corpus_digest="c7")
    other["cell_id"] = other["cell_id"] + "b"
    both = pd.concat([quality, other])
    both.attrs = quality.attrs
    worse = changed(both, of("perplexity", corpus="books", checkpoint="ttt-linear"), nats=lambda nats: nats * 1.1)
    found = gate(worse, both, names=NAMES)
    assert {line.place for line in found.red} == {"at 512, corpus books", "at 2k, corpus books"}


# Counts and quality


def test_a_count_is_exact_and_a_better_one_is_a_change_too() -> None:
    rows = times()
    more = changed(rows, of("memory", checkpoint="ttt-linear", context_len=512), state_bytes=lambda size: size - 1)
    (line,) = gate(more, rows, names=NAMES).red
    assert (line.rule, line.verdict, line.baseline, line.candidate) == ("count", "changed", 100_000, 99_999)
    assert line.reason is not None
    assert line.reason.startswith("-1; a count is exact")
    assert line.numbers == "97.65625 → 97.65527344 KiB"


@pytest.mark.parametrize(("factor", "verdict"), [(1 + 5e-7, "equal"), (1 + 5e-6, "changed"), (1 - 5e-6, "changed")])
def test_the_same_weights_in_the_same_environment_give_the_same_number(
    quality: pd.DataFrame, factor: float, verdict: str
) -> None:
    moved = changed(quality, of("perplexity", checkpoint="ttt-linear"), nats=lambda nats: nats * factor)
    line = line_of(gate(moved, quality, names=NAMES), "bits_per_byte")
    assert line.verdict == verdict
    assert (line.reason is None) == (verdict == "equal")


def elsewhere(rows: pd.DataFrame) -> pd.DataFrame:
    return changed(rows, {}, environment="e2")


@pytest.mark.parametrize(
    ("bits", "verdict"),
    [(0.0, "equal"), (0.009, "within the margin"), (-1.0, "within the margin"), (0.011, "worse than the margin")],
)
def test_in_another_environment_a_loss_may_reach_the_margin(quality: pd.DataFrame, bits: float, verdict: str) -> None:
    loss = bits * np.log(2) * 256
    moved = changed(elsewhere(quality), of("perplexity", checkpoint="ttt-linear"), nats=lambda nats: nats + loss)
    line = line_of(gate(moved, quality, names=NAMES), "bits_per_byte")
    assert line.verdict == verdict
    assert line.worse_by == pytest.approx(bits, abs=1e-9)
    assert line.margin == 0.01


def test_new_weights_are_judged_by_a_margin_in_the_same_environment_too(quality: pd.DataFrame) -> None:
    trained = changed(quality, of("perplexity", checkpoint="ttt-linear"), weights_digest="new", nats=lambda x: x - 0.1)
    assert line_of(gate(trained, quality, names=NAMES), "bits_per_byte").verdict == "within the margin"


def test_what_few_documents_do_not_show_is_red(quality: pd.DataFrame) -> None:
    rng = np.random.default_rng(0)
    noise = dict(zip(sorted(set(quality["document"].dropna())), rng.normal(0, 20, 34), strict=True))
    noisy = elsewhere(quality)
    mine = (noisy["task"] == "perplexity") & (noisy["checkpoint"] == "ttt-linear")
    noisy.loc[mine, "nats"] += noisy.loc[mine, "document"].map(noise)
    found = gate(noisy, quality, names=NAMES)
    line = line_of(found, "bits_per_byte")
    assert line.verdict == "not shown to be within the margin"
    assert line.low is not None
    assert line.high is not None
    assert line.low < 0.01 < line.high
    assert line.red
    wide = gate(noisy, quality, names=NAMES, terms=Terms(bits=0.5))
    assert line_of(wide, "bits_per_byte").verdict == "within the margin"
    assert line_of(wide, "retrieval").margin == 0.01


def test_fewer_documents_than_an_interval_needs_must_each_keep_the_margin() -> None:
    rows = make_rows(perplexity_rows([TTT], (512,), num_documents=3))
    moved = changed(elsewhere(rows), of("perplexity"), nats=lambda nats: nats + 1)
    line = line_of(gate(moved, rows, names=NAMES), "bits_per_byte")
    # three documents without a loss are as likely as 1 in 20 where 63 % of all have one: 0.37^3
    assert (line.verdict, line.reason) == (said.WITHIN, "in each of 3 documents; of others up to 63% may be worse")
    moved.loc[moved["document"] == "doc001", "nats"] += 5
    line = line_of(gate(moved, rows, names=NAMES), "bits_per_byte")
    assert (line.verdict, line.reason) == (said.NOT_WITHIN, "3 documents; an interval needs 10")


def test_a_trial_that_is_lost_in_another_environment_is_red_and_one_that_is_won_is_not(quality: pd.DataFrame) -> None:
    moved: Any = elsewhere(quality)
    hit = moved.index[(moved["task"] == "needle") & (moved["hits"] == 1)]
    miss = moved.index[(moved["task"] == "needle") & (moved["hits"] == 0)]
    won = moved.copy()
    won.attrs = moved.attrs
    won.loc[miss[0], "hits"] = 1.0
    assert red(gate(won, quality, names=NAMES)) == []
    moved.loc[hit[:8], "hits"] = 0.0
    line = line_of(gate(moved, quality, names=NAMES), "retrieval")
    assert line.red
    assert line.worse_by == pytest.approx(0.08)


def test_fewer_targets_than_the_baselines_are_red(quality: pd.DataFrame) -> None:
    cut = quality.loc[~((quality["task"] == "perplexity") & (quality["document"] == "doc007"))]
    same = line_of(gate(cut, quality, names=NAMES), "bits_per_byte")
    assert (same.verdict, same.reason) == ("changed", "8,704 bytes in the baseline, here 8,448")
    other = line_of(gate(elsewhere(cut), quality, names=NAMES), "bits_per_byte")
    assert other.reason == "8,704 bytes in the baseline, of which the run has 8,448: other targets"


def test_a_metric_that_is_gone_or_means_something_else_is_red(quality: pd.DataFrame) -> None:
    fewer = quality.copy()
    fewer.attrs = {**quality.attrs, "metrics": {**quality.attrs["metrics"], "needle": []}}
    assert {(line.metric, line.reason) for line in gate(fewer, quality, names=NAMES).red} == {
        ("retrieval", "the task no longer gives it"),
        ("retrieval_by_depth", "the task no longer gives it"),
    }
    metrics = [
        m | ({"scale": 1.0} if m["name"] == "bits_per_byte" else {}) for m in fewer.attrs["metrics"]["perplexity"]
    ]
    fewer.attrs = {**quality.attrs, "metrics": {**quality.attrs["metrics"], "perplexity": metrics}}
    line = line_of(gate(fewer, quality, names=NAMES), "bits_per_byte")
    assert line.verdict == "changed"
    assert line.reason == "its definition changed: scale 1.4426950408889634 → 1.0"


def test_environments_that_differ_in_the_code_alone_are_one(quality: pd.DataFrame) -> None:
    def measured(commit: str, torch: str = "2.13") -> pd.DataFrame:
        known = {"commit": commit, "ttbench": "0.1", "machine": "m1", "packages": {"torch": torch}}
        rows = changed(quality, {}, environment=f"digest of {commit} {torch}")
        rows.attrs = {**quality.attrs, "environments": {f"digest of {commit} {torch}": canonical_json(known)}}
        return rows

    def verdict(candidate: pd.DataFrame) -> str:
        moved = changed(candidate, of("perplexity"), nats=lambda nats: nats * (1 + 1e-5))
        return line_of(gate(moved, measured("a"), names=NAMES), "bits_per_byte").verdict

    assert verdict(measured("b")) == "changed"
    assert verdict(measured("b", torch="2.14")) == "within the margin"


# Times


def test_times_are_shown_and_not_judged_unless_asked() -> None:
    slow = changed(times(1), of("latency"), call_s=lambda s: s * 2, wall_s=lambda s: s * 2)
    found = gate(slow, times(), names=NAMES)
    assert red(found) == []
    assert line_of(found, "prefill_s").worse_by == pytest.approx(1.0, abs=0.1)
    hosted = gate(slow, times(), names=NAMES, terms=Terms(timing=True, hosted=True))
    assert line_of(hosted, "prefill_s").verdict == "shown, not gated"
    assert "hosted runner" in str(line_of(hosted, "prefill_s").reason)


def test_a_run_that_lost_its_times_is_red_and_a_baseline_without_any_is_wrong_use(quality: pd.DataFrame) -> None:
    both = pd.concat([quality, times()], ignore_index=True)
    both.attrs = quality.attrs | {"metrics": {**quality.attrs["metrics"], **times().attrs["metrics"]}}
    found = gate(quality, both, names=NAMES, terms=TIMING)
    assert {line.verdict for line in found.red} == {said.LOST}
    with pytest.raises(UsageError, match="the baseline holds none; measure some"):
        gate(both, quality, names=NAMES, terms=TIMING)


def test_an_infinite_number_is_near_no_other_one(quality: pd.DataFrame) -> None:
    broken = changed(quality, of("perplexity", document="doc003"), nats=lambda _: math.inf)
    same = line_of(gate(broken, quality, names=NAMES), "bits_per_byte")
    assert (same.verdict, same.red) == (said.CHANGED, True)
    assert line_of(gate(broken, broken, names=NAMES), "bits_per_byte").verdict == said.EQUAL
    far = changed(elsewhere(quality), of("perplexity"), nats=lambda nats: 1.5 * nats)
    line = line_of(gate(far, broken, names=NAMES), "bits_per_byte")
    assert (line.verdict, line.reason) == (said.NOT_WITHIN, "a target is scored as infinite")


def test_a_slowdown_is_red_where_fresh_rounds_say_so_too() -> None:
    def slowed(seed: int, share: float) -> pd.DataFrame:
        where = of("latency", checkpoint="ttt-linear", context_len=512, phase="prefill")
        return changed(times(seed), where, call_s=lambda s: s * (1 + share))

    first = gate(slowed(1, 0.15), times(), names=NAMES, terms=TIMING)
    assert red(first) == []
    (line,) = first.to_confirm
    assert (line.what, line.verdict) == ("latency, ttt-linear: prefill at 512", said.TO_CONFIRM)
    assert first.to_json()["verdict"] == "undecided"
    assert len(first.slow_cells) == 10
    confirmed = gate(slowed(1, 0.15), times(), names=NAMES, terms=TIMING, again=slowed(2, 0.15))
    assert red(confirmed) == [("latency, ttt-linear: prefill at 512", "needs more")]
    assert line_of(confirmed, "prefill_s").worse_by == pytest.approx(0.15, abs=0.03)
    passed = gate(slowed(1, 0.15), times(), names=NAMES, terms=TIMING, again=slowed(2, 0.0))
    assert red(passed) == []
    assert line_of(passed, "prefill_s").verdict == "needed more once only"


def test_a_slowdown_within_five_per_cent_and_a_speed_that_grew_are_green() -> None:
    a_little = changed(times(1), of("latency"), call_s=lambda s: s * 1.03, wall_s=lambda s: s * 1.03)
    assert not gate(a_little, times(), names=NAMES, terms=TIMING).to_confirm
    faster = changed(times(1), of("latency"), call_s=lambda s: s / 2, wall_s=lambda s: s / 2)
    assert not gate(faster, times(), names=NAMES, terms=TIMING).to_confirm
    assert line_of(gate(faster, times(), names=NAMES, terms=TIMING), "decode_tokens_per_s").worse_by == pytest.approx(
        -0.5, abs=0.02
    )
    slower = changed(times(1), of("latency", phase="decode"), wall_s=lambda s: s * 1.3)
    slow = {line.metric for line in gate(slower, times(), names=NAMES, terms=TIMING).to_confirm}
    assert slow == {"decode_tokens_per_s"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"machine": "m2"}, "another machine (m1 → m2)"),
        ({"threads": 4}, "another number of threads (2 → 4)"),
    ],
)
def test_times_of_another_machine_are_red_where_times_are_judged(changes: Mapping[str, Any], reason: str) -> None:
    other = changed(times(1), of("latency"), **changes)
    found = gate(other, times(), names=NAMES, terms=TIMING)
    assert {(line.task, line.verdict, line.reason) for line in found.red} == {("latency", "not comparable", reason)}
    assert red(gate(other, times(), names=NAMES)) == []


def test_fewer_than_ten_rounds_and_the_baselines_own_rounds_are_red() -> None:
    few = gate(times(1, num_rounds=9), times(), names=NAMES, terms=TIMING)
    assert line_of(few, "prefill_s").reason == "9 rounds; 10 are needed on both sides: --param rounds=10"
    own = gate(times(), times(), names=NAMES, terms=TIMING)
    assert "the baseline's own rounds" in str(line_of(own, "prefill_s").reason)
    assert all(line.verdict == "not comparable" for line in own.red)


def test_rounds_that_are_not_fresh_confirm_nothing() -> None:
    slow = changed(times(1), of("latency"), call_s=lambda s: s * 1.2)
    with pytest.raises(UsageError, match="the fresh rounds are those of the run itself"):
        gate(slow, times(), names=NAMES, terms=TIMING, again=slow)
    elsewhere = times(2).loc[times(2)["checkpoint"] == "transformer"]
    elsewhere.attrs = slow.attrs
    found = gate(slow, times(), names=NAMES, terms=TIMING, again=elsewhere)
    assert line_of(found, "prefill_s").verdict == said.TO_CONFIRM
    assert line_of(found, "prefill_s").reason == "the fresh rounds do not hold this time"


# Wrong use


def test_what_cannot_be_judged_is_wrong_use(quality: pd.DataFrame) -> None:
    nothing = quality.iloc[:0]
    nothing.attrs = quality.attrs
    with pytest.raises(UsageError, match="the baseline holds no rows"):
        gate(quality, nothing, names=NAMES)
    with pytest.raises(UsageError, match="'retreival'; the baseline has: bits_per_byte, perplexity, retrieval"):
        gate(quality, quality, names=NAMES, terms=Terms(margins={"retreival": 0.1}))
    only = needle_rows([TTT], (512,))
    with pytest.raises(UsageError, match=r"margin 0.01 is for bits, and the baseline has none; write METRIC=0.01"):
        gate(make_rows(only), make_rows(only), names=NAMES, terms=Terms(bits=0.01))
