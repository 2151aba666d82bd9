"""Every pair of some checkpoints: one family for each metric, and verdicts that swapping mirrors."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from rows import TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.head_to_head.rendering import letters, render
from ttbench.report.head_to_head.verdicts import HeadToHead, head_to_head
from ttbench.report.table import summarise

MIDDLE = Model(name="middle", bits=1.56, loss=0.3, speed=1.2)
MODELS = [TRANSFORMER, TTT, MIDDLE]


@pytest.fixture(scope="module")
def rows() -> Any:
    contexts = (512, 1024, 4096)
    return make_rows(
        perplexity_rows(MODELS, contexts),
        needle_rows(MODELS, contexts[:2]),
        timing_rows(MODELS, contexts, num_rounds=5),
    )


@pytest.fixture(scope="module")
def found(rows: Any) -> HeadToHead:
    return head_to_head(rows)


def text_of(found: HeadToHead, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(found))
    return out.getvalue()


def of_metric(found: HeadToHead, metric: str) -> list[dict[str, Any]]:
    return [entry for entry in words.records(found.verdicts) if entry["metric"] == metric]


def test_a_family_is_all_cells_of_a_metric_over_pairs_and_contexts(found: HeadToHead) -> None:
    assert found.names == ("transformer", "ttt-linear", "middle")
    bits = of_metric(found, "bits_per_byte")
    assert {(entry["num_points"], entry["family"]) for entry in bits} == {(9, "perplexity: bits_per_byte")}
    assert len({(entry["a"], entry["b"]) for entry in bits}) == 3
    assert {entry["method"] for entry in bits} == {"bootstrap of the maximum"}
    assert all(entry["joint_p"] >= entry["p"] * (1 - 1e-9) for entry in bits)
    assert "95% for 9 comparisons together" in text_of(found, 200)


def test_planted_differences_are_told_by_the_names_of_their_winners(found: HeadToHead) -> None:
    bits = {(e["a"], e["b"], e["context_len"]): e for e in of_metric(found, "bits_per_byte")}
    for context_len, winner in ((512, "transformer"), (4096, "ttt-linear")):
        entry = bits["transformer", "ttt-linear", context_len]
        assert (entry["winner"], entry["said"]) == (winner, f"{winner} better")
        assert not entry["low"] <= 0 <= entry["high"]
        assert entry["joint_p"] < 0.05
    twin = dataclasses.replace(TTT, name="twin")
    same = head_to_head(make_rows(perplexity_rows([TTT, twin], [512])))
    assert {(e["winner"], e["said"]) for e in of_metric(same, "bits_per_byte")} == {(None, "no difference shown")}


def test_swapping_names_mirrors_estimate_interval_and_verdict_bit_for_bit(rows: Any, found: HeadToHead) -> None:
    turned = {"a better": "b better", "b better": "a better"}
    other = head_to_head(rows, ["middle", "ttt-linear", "transformer"])
    keys = ("metric", "context_len", "depth")
    mine = {(e["a"], e["b"], *(e[k] for k in keys)): e for e in words.records(found.verdicts)}
    theirs = {(e["b"], e["a"], *(e[k] for k in keys)): e for e in words.records(other.verdicts)}
    assert mine.keys() == theirs.keys()
    assert len(mine) > 50
    for key, one in mine.items():
        two = theirs[key]
        assert (one["verdict"], one["said"]) == (turned.get(two["verdict"], two["verdict"]), two["said"])
        for name, mirrored in (("effect", "effect"), ("low", "high"), ("high", "low")):
            a, b = one[name], two[mirrored]
            if a is None or one["kind"] == "difference":
                assert a == (None if b is None else -b)
            else:
                # of a ratio and its reciprocal, the one below 1 is made from the other
                assert min(a, b) == 1 / max(a, b)
        assert (one["p"], one["joint_p"], one["level"]) == (two["p"], two["joint_p"], two["level"])


def test_cells_with_documents_of_their_own_are_judged_together() -> None:
    long = [row for row in perplexity_rows([TRANSFORMER, TTT], [4096]) if int(row["document"][-3:]) >= 6]
    found = head_to_head(make_rows(perplexity_rows([TRANSFORMER, TTT], [512]), long))
    bits = {entry["context_len"]: entry for entry in of_metric(found, "bits_per_byte")}
    assert [bits[at]["num_clusters"] for at in (512, 4096)] == [34, 28]
    assert [bits[at]["num_points"] for at in (512, 4096)] == [2, 2]
    assert [bits[at]["winner"] for at in (512, 4096)] == ["transformer", "ttt-linear"]


def test_times_are_judged_by_holm_over_rounds(found: HeadToHead) -> None:
    times = of_metric(found, "prefill_s")
    p = sorted((entry["p"], entry["joint_p"]) for entry in times)
    steps = np.maximum.accumulate([own * (9 - place) for place, (own, _) in enumerate(p)])
    assert [joint for _, joint in p] == pytest.approx(np.minimum(steps, 1))
    for entry in times:
        shown = entry["verdict"] in ("a better", "b better", "smaller than matters")
        assert shown == (not entry["low"] <= 1 <= entry["high"])


def test_what_cannot_be_compared_says_why_and_the_rest_is_judged() -> None:
    lost = dataclasses.replace(MIDDLE, failures={1024: ("oom", "MemoryError")})
    found = head_to_head(make_rows(perplexity_rows([TRANSFORMER, TTT, lost], [512, 1024])))
    said = {(e["a"], e["b"]): e["said"] for e in of_metric(found, "bits_per_byte") if e["context_len"] == 1024}
    assert said["ttt-linear", "middle"] == "not comparable (middle: oom)"
    assert said["transformer", "ttt-linear"] == "transformer better"
    assert {e["num_points"] for e in of_metric(found, "bits_per_byte")} == {4, None}
    assert "not comparable at 1k, middle: oom: transformer and middle, ttt-linear and middle" in text_of(found, 200)


def test_one_checkpoint_alone_and_a_name_given_twice_are_refused(rows: Any) -> None:
    with pytest.raises(UsageError, match="needs two checkpoints"):
        head_to_head(make_rows(perplexity_rows([TTT], [512])))
    with pytest.raises(UsageError, match="'middle' is named twice"):
        head_to_head(rows, ["middle", "ttt-linear", "middle"])


@pytest.mark.parametrize("width", [60, 80])
def test_it_is_read_in_a_narrow_terminal(found: HeadToHead, width: int) -> None:
    text = text_of(found, width)
    assert max(map(len, text.splitlines())) <= width
    assert "training noise not known" in " ".join(text.split())
    assert text.count("leaderboard") == text.count("crossings") == text.count("quality against cost") == 1


def test_two_names_stand_side_by_side(rows: Any) -> None:
    text = text_of(head_to_head(rows, ["transformer", "ttt-linear"]), 100)
    assert "transformer and ttt-linear on the same targets" in text
    assert "effect (95% interval)" in text
    assert "leaderboard" not in text


def test_everything_is_plain_data(found: HeadToHead) -> None:
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["names"] == list(found.names)
    assert len(told["comparisons"]) == len(found.verdicts)
    assert {"leaderboard", "crossings", "fronts", "notes"} <= told.keys()


def test_places_are_those_that_the_verdicts_leave(found: HeadToHead) -> None:
    board = next(board for board in found.boards if board.metric == "bits_per_byte")
    assert board.context_len == 1024
    assert [(place.name, place.best, place.worst) for place in board.places] == [
        ("transformer", 1, 1),
        ("middle", 2, 2),
        ("ttt-linear", 3, 3),
    ]
    assert board.places[0].better_than == ("ttt-linear", "middle")
    # the one that is timed stands at the longest context, and more state is no better
    times = next(board for board in found.boards if board.metric == "prefill_s")
    assert (times.context_len, times.is_cost, times.places[0].name) == (4096, True, "transformer")


def versus(a: str, b: str, verdict: str) -> dict[str, str]:
    return {"a": a, "b": b, "verdict": verdict}


def test_two_share_a_letter_exactly_where_nothing_is_shown() -> None:
    none, first = "no difference shown", "a better"
    chain = [versus("a", "b", none), versus("b", "c", none), versus("a", "c", first)]
    assert letters("abc", chain) == {"a": "a", "b": "ab", "c": "b"}
    apart = [versus("a", "b", first), versus("b", "c", first), versus("a", "c", first)]
    assert letters("abc", apart) == {"a": "a", "b": "b", "c": "c"}
    assert letters("abc", []) == {"a": "a", "b": "a", "c": "a"}
    rng = np.random.default_rng(0)
    for _ in range(30):
        here = [
            versus(one, two, first if rng.random() < 0.5 else none)
            for i, one in enumerate("abcdefg")
            for two in "abcdefg"[i + 1 :]
        ]
        told = letters("abcdefg", here)
        for entry in here:
            shares = bool(set(told[entry["a"]]) & set(told[entry["b"]]))
            assert shares == (entry["verdict"] == none)


def test_the_front_loses_only_who_is_shown_to_be_worse_in_both() -> None:
    slow = dataclasses.replace(MIDDLE, name="slow", bits=1.8, speed=3.0)  # worse than both others in both
    like = dataclasses.replace(TTT, name="like", speed=0.5)  # as good as ttt-linear, and faster
    found = head_to_head(make_rows(perplexity_rows([TTT, slow, like], [512]), timing_rows([TTT, slow, like], [512])))
    front = next(f for f in found.fronts if (f.quality, f.cost) == ("bits_per_byte", "prefill_s"))
    assert {member.name: member.beaten_by for member in front.members} == {
        "ttt-linear": (),  # slower than like, and not shown to be worse
        "like": (),
        "slow": ("ttt-linear", "like") if front.members[0].name == "ttt-linear" else ("like", "ttt-linear"),
    }
    assert not math.isnan(front.members[0].cost)
    assert "slow is shown to be worse in both than" in text_of(found, 300)


def test_an_infinite_score_is_told_and_leaves_the_others_alone(rows: Any) -> None:
    bits = perplexity_rows(MODELS, [512])
    whole = head_to_head(make_rows(perplexity_rows([TRANSFORMER, TTT], [512])))
    broken = [row | ({"nats": math.inf} if row is bits[-1] else {}) for row in bits]
    found = of_metric(head_to_head(make_rows(broken)), "bits_per_byte")
    said = {(entry["a"], entry["b"]): entry["said"] for entry in found}
    assert said["transformer", "middle"].startswith("not comparable (middle: a target is scored as infinite")
    (alone,) = of_metric(whole, "bits_per_byte")
    mine = next(entry for entry in found if (entry["a"], entry["b"]) == ("transformer", "ttt-linear"))
    assert (mine["low"], mine["high"], mine["joint_p"]) == (alone["low"], alone["high"], alone["joint_p"])


def test_checkpoints_that_score_the_same_differ_by_nothing() -> None:
    twin = dataclasses.replace(TTT, name="twin")
    (entry,) = of_metric(head_to_head(make_rows(perplexity_rows([TTT, twin], [512], noise=0.0))), "bits_per_byte")
    assert (entry["effect"], entry["low"], entry["high"], entry["joint_p"]) == (0, 0, 0, 1)
    assert (entry["said"], entry["detectable"]) == ("no difference shown", 0)


def test_many_checkpoints_and_wide_letters_keep_their_columns() -> None:
    models = [Model(name=f"{name}-{index}", bits=1.5) for index, name in enumerate(("größe", "非常", "x", "y", "z"))]
    text = text_of(head_to_head(make_rows(perplexity_rows(models, [512, 1024], windows=1))), 80)
    grid = [line for line in text.split("better)")[1].splitlines() if "-" in line][:5]
    assert len({cell_len(line.rstrip("abcde ")) for line in grid}) == 1
    assert "no crossing shown from 512 to 1k (10 pairs; --json has them)" in " ".join(text.split())


def test_older_code_of_one_task_takes_no_other_task_from_a_comparison() -> None:
    """TTT was measured twice in perplexity, by two versions of the code, and once in the needle task."""
    bits, needles = perplexity_rows([TTT, TRANSFORMER], [512]), needle_rows([TTT, TRANSFORMER], [512])
    old = [row | {"code_digest": "1" * 32, "cell_id": row["cell_id"] + "-old"} for row in bits]
    old = [row | {"started": "2026-01-01"} for row in old if row["checkpoint"] == TTT.name]
    new = [row | {"code_digest": "2" * 32, "started": "2026-01-02"} for row in bits]
    rows = make_rows(old, new, [row | {"code_digest": "3" * 32, "started": "2026-01-02"} for row in needles])
    found = head_to_head(rows)
    older = f"{TTT.name}@code=111111"
    assert set(found.names) == {TTT.name, older, TRANSFORMER.name}
    pairs = {(e["task"], frozenset((e["a"], e["b"]))) for e in words.records(found.verdicts)}
    assert ("needle", frozenset((TTT.name, TRANSFORMER.name))) in pairs
    assert {pair for task, pair in pairs if task == "perplexity"} == {
        frozenset(pair) for pair in itertools.combinations(found.names, 2)
    }
    # what is compared is not said to be left out; with names it is
    assert not [text for text in found.left_out if "older code" in text]
    (said,) = head_to_head(rows, [TTT.name, TRANSFORMER.name]).left_out
    assert said == f"rows of '{TTT.name}' by older code are left out: {older} (perplexity, measured 2026-01-01)"
    assert any(entry["task"] == "needle" for entry in summarise(rows).attrs["comparisons"])
