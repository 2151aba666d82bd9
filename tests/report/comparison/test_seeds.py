"""Training noise: from checkpoints that differ in their seed alone, and nowhere else."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from rows import METRICS, TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.report import words
from ttbench.report.comparison.compare import compare
from ttbench.report.comparison.seeds import (
    NO_DIFFERENCES,
    NOT_ALIKE,
    NOT_HERE,
    NOT_KNOWN,
    first_trainings,
    recipes_of,
    spreads,
    trained_again,
)
from ttbench.report.head_to_head.rendering import render
from ttbench.report.head_to_head.verdicts import HeadToHead, head_to_head
from ttbench.report.table import render as rendered
from ttbench.report.table import summarise


def trained(model: Model, recipe: str, seed: int, *, bits: float = 0.0, name: str | None = None) -> Model:
    settings = {**model.settings, "train_recipe": recipe, "train_seed": seed}
    return dataclasses.replace(model, name=name or f"{model.name}-{seed}", bits=model.bits + bits, settings=settings)


def rows_of(*models: Model, contexts: tuple[int, ...] = (512,)) -> Any:
    # windows nearly without noise: what differs between seeds is what was planted
    return make_rows(
        perplexity_rows(models, contexts, noise=1e-5),
        needle_rows(models, contexts),
        timing_rows(models, contexts, num_rounds=3),
    )


def bits_of(found: HeadToHead) -> dict[tuple[str, str], dict[str, Any]]:
    entries = words.records(found.verdicts)
    return {(e["a"], e["b"]): e for e in entries if e["metric"] == "bits_per_byte"}


SEEDS = [trained(TTT, "r1", seed, bits=bits) for seed, bits in ((1, -0.01), (2, 0.0), (3, 0.01))]


def test_the_noise_of_a_difference_is_that_of_both_sides_by_hand() -> None:
    other = [trained(TRANSFORMER, "r2", seed, bits=bits) for seed, bits in ((1, -0.03), (2, 0.03))]
    found = head_to_head(rows_of(*SEEDS, *other), [model.name for model in (*SEEDS, *other)])
    # of -.01, 0, .01: .01; of -.03, .03: sqrt(2) .03
    sds = {"r1": 0.01, "r2": math.sqrt(2) * 0.03}
    for (a, b), entry in bits_of(found).items():
        one, two = ("r2" if name.startswith("transformer") else "r1" for name in (a, b))
        assert entry["training_sd"] == pytest.approx(math.hypot(sds[one], sds[two]), rel=1e-3), (a, b)
        assert entry["training_seeds"] == sum({"r1": 3, "r2": 2}[recipe] for recipe in {one, two})
    timed = [e for e in words.records(found.verdicts) if e["task"] in ("latency", "memory")]
    assert timed
    assert all(e["training_sd"] is None for e in timed)


@pytest.mark.parametrize(("apart", "within"), [(0.027, True), (0.030, False)])
def test_a_difference_under_twice_the_noise_is_no_win(apart: float, within: bool) -> None:
    """Of one recipe with sd .01, and a side that is taken to be as noisy: .0141, so that .0283 decides."""
    lone = dataclasses.replace(TTT, name="lone", bits=TTT.bits + apart)
    found = head_to_head(rows_of(*SEEDS, lone), ["ttt-linear-2", "lone"])
    entry = bits_of(found)["ttt-linear-2", "lone"]
    assert entry["low"] > -apart * 1.2
    assert entry["high"] < 0
    assert entry["said"] == ("within training noise" if within else "ttt-linear-2 better")
    assert entry["winner"] == (None if within else "ttt-linear-2")
    assert "lone, trained once or without a spread here, is taken to be as noisy" in found.training_noise
    board = next(board for board in found.boards if board.metric == "bits_per_byte")
    assert [place.worst for place in board.places] == ([2, 2] if within else [1, 2])


def test_the_sentence_under_a_run_calls_no_difference_a_win_that_chance_of_training_makes() -> None:
    """`ttbench run` and `show` take their sentences from `compare` and `summarise`."""
    lone = dataclasses.replace(TTT, name="lone", bits=TTT.bits + 0.01)
    rows = rows_of(*SEEDS, lone)
    alone = compare(rows, "ttt-linear-1", "lone")
    (entry,) = (e for e in words.records(alone) if e["metric"] == "bits_per_byte")
    assert entry["verdict"] == "within training noise"
    told = [e for e in summarise(rows).attrs["comparisons"] if (e["a"], e["b"]) == ("ttt-linear-1", "lone")]
    assert next(e["verdict"] for e in told if e["metric"] == "bits_per_byte") == "within training noise"


def test_seeds_on_the_other_side_of_two_places_count() -> None:
    rows = rows_of(*SEEDS)
    other = rows_of(dataclasses.replace(TTT, name="lone", bits=TTT.bits + 0.02))
    (entry,) = (
        e for e in words.records(compare(other, "lone", "ttt-linear-2", rows_b=rows)) if e["metric"] == "bits_per_byte"
    )
    assert entry["verdict"] == "within training noise"
    assert entry["training_seeds"] == 3


def test_noise_holds_for_models_with_another_attention_and_version_of_their_architecture() -> None:
    """A model without attention tells the noise of one with it: back ends and versions are no other training."""
    without = {"attention": "none", "architecture_version": 1}
    seeds = [dataclasses.replace(each, settings={**each.settings, **without}) for each in SEEDS]
    versioned = {**TRANSFORMER.settings, "architecture_version": 2}
    others = [dataclasses.replace(TRANSFORMER, name=name, settings=versioned) for name in ("one", "two")]
    for pair, entry in bits_of(head_to_head(rows_of(*seeds, *others))).items():
        assert entry["training_sd"] == pytest.approx(math.hypot(0.01, 0.01), rel=1e-3), pair


def test_shares_that_are_equal_tell_nothing() -> None:
    for shares, known in (((1.0, 1.0), False), ((0.0, 0.0), False), ((1.0, 0.6), True)):
        seeds = [dataclasses.replace(each, hit_rate=share) for each, share in zip(SEEDS, shares, strict=False)]
        found = {spread.metric for spread in spreads(make_rows(needle_rows(seeds, (512,))))}
        assert ("retrieval" in found) is known, shares


@pytest.mark.parametrize(("moved", "known"), [(1, False), (2, True)])
def test_shares_that_differ_by_one_trial_tell_nothing(moved: int, known: bool) -> None:
    """Of 100 trials one training misses all, and the other all but one: at the floor, noise cannot be smaller."""
    rows = make_rows(needle_rows([dataclasses.replace(SEEDS[0], hit_rate=0.0)], (512,)))
    again = rows.assign(checkpoint="again", weights_digest="w" * 32, train_seed=2)
    again.loc[again.index[:moved], "hits"] = 1.0
    both = pd.concat([rows, again], ignore_index=True)
    both.attrs = rows.attrs
    assert [spread.metric for spread in spreads(both) if spread.metric == "retrieval"] == ["retrieval"] * known


def test_a_share_that_two_trainings_have_in_common_is_no_noise_of_zero() -> None:
    rows = make_rows(needle_rows([dataclasses.replace(SEEDS[0], hit_rate=0.5)], (512,)))
    again = rows.assign(checkpoint="again", weights_digest="w" * 32, train_seed=2)
    both = pd.concat([rows, again], ignore_index=True)
    both.attrs = rows.attrs
    assert len(recipes_of(both)) == 2
    assert spreads(both) == []


@pytest.mark.parametrize(("apart", "within"), [(0.027, True), (0.030, False)])
def test_a_perplexity_that_restates_nothing_has_the_noise_of_its_logarithm(apart: float, within: bool) -> None:
    """Bits per byte have sd .01 as above, logarithms of a perplexity as many nats a token."""
    lone = dataclasses.replace(TTT, name="lone", bits=TTT.bits + apart)
    declared = {"perplexity": tuple(m for m in METRICS["perplexity"] if m.name == "perplexity")}
    rows = make_rows(perplexity_rows([*SEEDS, lone], (512,), noise=1e-5), metrics=declared)
    found = head_to_head(rows, ["ttt-linear-2", "lone", "ttt-linear-1"])
    entries = {(e["a"], e["b"]): e for e in words.records(found.verdicts)}
    entry, seeds = entries["ttt-linear-2", "lone"], entries["ttt-linear-2", "ttt-linear-1"]
    # the three lie evenly apart, so that their sd is how far two do
    assert entry["training_sd"] == pytest.approx(math.sqrt(2) * math.log(seeds["effect"]), rel=1e-2)
    assert entry["said"] == ("within training noise" if within else "ttt-linear-2 better")
    assert "training noise of a difference" in found.training_noise
    out = io.StringIO()
    Console(file=out, width=200).print(render(found))
    factor = f"{math.exp(2 * entry['training_sd']):.2f}"
    told = f"a ratio that two standard deviations of its logarithm reach: {factor} at 512."
    assert told in " ".join(out.getvalue().split())


def test_swapping_the_sides_mirrors_the_noise() -> None:
    lone = dataclasses.replace(TTT, name="lone", bits=TTT.bits + 0.02)
    rows = rows_of(*SEEDS, lone)
    one = bits_of(head_to_head(rows, ["ttt-linear-2", "lone"]))["ttt-linear-2", "lone"]
    two = bits_of(head_to_head(rows, ["lone", "ttt-linear-2"]))["lone", "ttt-linear-2"]
    assert (one["training_sd"], one["said"]) == (two["training_sd"], two["said"])
    assert one["effect"] == -two["effect"]


def test_seeds_of_other_recipes_or_one_alone_tell_nothing() -> None:
    for models in ([SEEDS[0], trained(TTT, "r9", 2)], [SEEDS[0], TRANSFORMER], [TTT, TRANSFORMER]):
        found = head_to_head(rows_of(*models))
        assert found.training_noise == NOT_KNOWN
        assert "training_sd" not in found.verdicts


def test_one_training_under_two_names_is_one_seed() -> None:
    rows = rows_of(SEEDS[0])
    renamed = rows.assign(checkpoint="renamed")
    both = pd.concat([rows, renamed], ignore_index=True)
    both.attrs = rows.attrs
    assert len(recipes_of(both)) == 1
    assert spreads(both) == []


def test_noise_of_another_context_or_corpus_is_not_used() -> None:
    rows = rows_of(*SEEDS, TRANSFORMER, contexts=(512, 1024))
    rows.loc[(rows["checkpoint"] == "ttt-linear-3") & (rows["context_len"] == 1024), "corpus_digest"] = "other"
    kept = rows.loc[~((rows["checkpoint"] == "ttt-linear-2") & (rows["context_len"] == 1024))]
    kept.attrs = rows.attrs
    found = head_to_head(kept, ["ttt-linear-1", "transformer"])
    at = {e["context_len"]: e["training_sd"] for e in words.records(found.verdicts) if e["metric"] == "bits_per_byte"}
    assert at[512] is not None
    assert at[1024] is None
    assert "; it is not known for " in found.training_noise
    out = io.StringIO()
    Console(file=out, width=400).print(render(found))
    text = " ".join(out.getvalue().split())
    assert re.search(
        r"in bits per byte, one standard deviation: 0\.014 at 512; not known at 1k\. Of 1 difference ", text
    )


def test_the_terminal_shows_the_noise_beside_the_verdicts() -> None:
    out = io.StringIO()
    lone = dataclasses.replace(TTT, name="lone", bits=TTT.bits + 0.02)
    names = [*(model.name for model in SEEDS), "lone"]
    Console(file=out, width=200).print(render(head_to_head(rows_of(*SEEDS, lone), names)))
    text = " ".join(out.getvalue().split())
    told = "training noise of differences in bits per byte, one standard deviation: 0.014 at 512. Of 5 differences that"
    # of .01, .01 and .02 between the seeds, and .01, .02 and .03 from the other, one of .01 is not shown
    assert f"{told} the documents show there, 4 less than twice this." in text
    assert "a difference of less than twice this root is within training noise" in text
    # Student's t of three seeds, two degrees of freedom
    assert "two equally good models that are no noisier exceed it in up to 18 of 100 cases" in text
    assert NOT_KNOWN not in text


def test_pairs_are_named_where_they_differ_in_their_noise() -> None:
    out = io.StringIO()
    other = [trained(TRANSFORMER, "r2", seed, bits=bits) for seed, bits in ((1, -0.03), (2, 0.03))]
    names = [model.name for model in (*SEEDS, *other)]
    Console(file=out, width=400).print(render(head_to_head(rows_of(*SEEDS, *other), names)))
    text = " ".join(out.getvalue().split())
    assert "0.014 at 512 (ttt-linear-1 and ttt-linear-2, ttt-linear-1 and ttt-linear-3, ttt-linear-2 and" in text
    assert "; 0.060 at 512 (transformer-1 and transformer-2)" in text


def test_words_and_verdict_of_two_sides_say_the_same() -> None:
    out = io.StringIO()
    lone = dataclasses.replace(TTT, name="lone", bits=TTT.bits + 0.02)
    Console(file=out, width=200).print(render(head_to_head(rows_of(*SEEDS, lone), ["ttt-linear-2", "lone"])))
    text = " ".join(out.getvalue().split())
    told = (
        "between ttt-linear-2 and lone is within training noise (other seeds could make 0.028 bits per byte), although"
    )
    assert f"{told} the documents alone would show it (lone minus ttt-linear-2:" in text
    assert "bits per byte more than" not in text
    assert re.search(r"in needles retrieved, one standard deviation in points of 100: \d+\.\d at 512", text)
    assert re.search(
        r"in needles retrieved, by depth, one standard deviation in points of 100: \S+ at 512 depth 0", text
    )


def test_of_several_seeds_the_first_is_compared_and_the_others_are_told() -> None:
    rows = rows_of(*reversed(SEEDS), TRANSFORMER)
    assert trained_again(rows) == {"ttt-linear-2": "ttt-linear-1", "ttt-linear-3": "ttt-linear-1"}
    table = summarise(rows, every_pair=True)
    assert {(entry["a"], entry["b"]) for entry in table.attrs["comparisons"]} == {("ttt-linear-1", "transformer")}
    assert {entry["training_seeds"] for entry in table.attrs["comparisons"] if entry["metric"] == "bits_per_byte"} == {
        3
    }
    assert set(table["checkpoint"].dropna()) == {"transformer", *(model.name for model in SEEDS)}
    assert "ttt-linear-3 is ttt-linear-1 trained again with another seed" in table.attrs["notes"]


def test_a_run_says_what_chance_of_training_does_to_its_differences() -> None:
    out = io.StringIO()
    Console(file=out, width=400).print(rendered(summarise(rows_of(*SEEDS, TRANSFORMER))))
    assert "Training noise of a difference: sqrt(sd_a^2 + sd_b^2), each sd over the trainings of a" in out.getvalue()
    out = io.StringIO()
    Console(file=out, width=400).print(rendered(summarise(rows_of(TTT, TRANSFORMER))))
    assert "One training run each: training noise not known." in out.getvalue()


def test_all_checkpoints_head_to_head_are_the_first_seeds_and_the_others_are_named() -> None:
    rows = rows_of(*SEEDS, TRANSFORMER)
    found = head_to_head(rows)
    assert found.names == ("ttt-linear-1", "transformer")
    assert found.left_out == tuple(
        f"ttt-linear-{seed} is ttt-linear-1 trained again with another seed; name it to compare it" for seed in (2, 3)
    )
    assert head_to_head(rows, ["ttt-linear-2", "transformer"]).left_out == ()
    alone = head_to_head(rows_of(*SEEDS))
    assert (len(alone.names), alone.left_out) == (3, ())


def test_a_further_seed_that_two_versions_of_the_code_measured_is_not_compared_either() -> None:
    rows = rows_of(*SEEDS[:2], TRANSFORMER)
    again = rows.loc[rows["checkpoint"] == "ttt-linear-2"].assign(code_digest="b" * 32, run_id="run-2")
    both = pd.concat([rows.assign(code_digest="a" * 32), again], ignore_index=True)
    both.attrs = rows.attrs
    compared = summarise(both).attrs["comparisons"]
    assert {(entry["a"], entry["b"]) for entry in compared} == {("ttt-linear-1", "transformer")}


def test_the_first_is_the_one_with_most_answers() -> None:
    """A seed that failed, or that one task lacks, does not take its model out of the comparison."""
    rows = rows_of(*SEEDS, TRANSFORMER)
    without = rows.loc[~((rows["checkpoint"] == "ttt-linear-1") & (rows["task"] == "needle"))]
    without.attrs = rows.attrs
    assert trained_again(without) == {"ttt-linear-1": "ttt-linear-2", "ttt-linear-3": "ttt-linear-2"}
    failed = rows.copy()
    failed.attrs = rows.attrs
    failed.loc[(rows["checkpoint"] == "ttt-linear-1") & (rows["task"] == "needle"), "status"] = "oom"
    assert trained_again(failed) == trained_again(without)


def test_a_checkpoint_changed_after_its_training_is_no_seed_in_any_order() -> None:
    edited = trained(TTT, "r1", 2, bits=0.5, name="edited")
    models = (SEEDS[0], SEEDS[1], SEEDS[2], edited, TRANSFORMER)
    found = []
    made = rows_of(*models)
    for rows in (made, made.iloc[::-1].reset_index(drop=True)):
        assert trained_again(rows) == {"ttt-linear-3": "ttt-linear-1"}
        assert {model.name for model in (*SEEDS[:2], edited, TRANSFORMER)} == {*head_to_head(rows).names}
        (spread,) = (spread for spread in spreads(rows) if spread.metric == "bits_per_byte")
        found.append((spread.num_seeds, pytest.approx(spread.sd)))
        noise = head_to_head(rows).training_noise
        assert "say the same recipe and seed and are unlike, so none of them tells training noise" in noise
        assert all(name in noise for name in ("edited", "ttt-linear-2"))
    assert found[0] == found[1]
    assert found[0] == (2, pytest.approx(math.sqrt(2) * 0.01, rel=1e-3))


@pytest.mark.parametrize("nats", [math.inf, math.nan])
def test_a_training_whose_number_is_not_finite_does_not_switch_the_noise_off(nats: float) -> None:
    rows = rows_of(*SEEDS, TRANSFORMER)
    broken = rows.copy()
    broken.attrs = rows.attrs
    broken.loc[(rows["checkpoint"] == "ttt-linear-3") & (rows["task"] == "perplexity"), "nats"] = nats
    (spread,) = (spread for spread in spreads(broken) if spread.metric == "bits_per_byte")
    assert (spread.num_seeds, spread.sd) == (2, pytest.approx(0.01 / math.sqrt(2), rel=1e-3))


def test_seeds_that_were_not_measured_alike_are_not_called_one_training() -> None:
    rows = rows_of(*SEEDS[:2], TRANSFORMER)
    rows["code_digest"] = rows["checkpoint"]
    assert head_to_head(rows).training_noise == NOT_ALIKE
    elsewhere = rows_of(*SEEDS, TRANSFORMER, contexts=(512, 1024))
    at_512 = (elsewhere["checkpoint"] != "transformer") & (elsewhere["context_len"] == 1024)
    only = elsewhere.loc[~at_512 & ~((elsewhere["checkpoint"] == "transformer") & (elsewhere["context_len"] == 512))]
    lone = rows_of(TTT, TRANSFORMER, contexts=(1024,))
    only.attrs = lone.attrs = elsewhere.attrs
    times = make_rows(timing_rows(SEEDS[:2], (512,), num_rounds=3))
    assert head_to_head(times).training_noise == NO_DIFFERENCES
    assert head_to_head([only, lone], ["transformer", "ttt-linear"]).training_noise == NOT_HERE


def test_seeds_alone_are_compared_with_each_other() -> None:
    table = summarise(rows_of(*SEEDS))
    assert {(entry["a"], entry["b"]) for entry in table.attrs["comparisons"]} == {
        ("ttt-linear-1", "ttt-linear-2"),
        ("ttt-linear-1", "ttt-linear-3"),
        ("ttt-linear-2", "ttt-linear-3"),
    }


def test_a_name_of_several_trainings_and_one_seed_under_two_names_are_left_alone() -> None:
    twice = [trained(TTT, "r1", 1, bits=0.01, name="a"), trained(TTT, "r1", 1, bits=0.01, name="b")]
    assert trained_again(rows_of(*twice, TRANSFORMER)) == {}
    again = trained(TTT, "r1", 2, bits=0.02, name="a")
    assert trained_again(make_rows(perplexity_rows([twice[0]], (512,)), perplexity_rows([again], (512,)))) == {}
    assert trained_again(rows_of(TRANSFORMER, TTT)) == {}


def test_two_settings_of_one_training_have_no_noise_between_them() -> None:
    rows = rows_of(*SEEDS)
    half = rows.loc[rows["checkpoint"] == "ttt-linear-1"].assign(dtype="bfloat16", run_id="run-2")
    half = half.assign(cell_id=half["cell_id"] + "b", nats=half["nats"] * 1.012)
    both = pd.concat([rows, half], ignore_index=True)
    both.attrs = rows.attrs
    sides = ("ttt-linear-1@dtype=float32", "ttt-linear-1@dtype=bfloat16")
    (entry,) = (each for each in words.records(compare(both, *sides)) if each["metric"] == "bits_per_byte")
    assert (entry["verdict"], entry["training_sd"]) == ("a better", None)


def test_a_seed_that_was_measured_on_more_texts_is_the_first() -> None:
    rows = rows_of(*SEEDS[:2], TRANSFORMER)
    more = rows.loc[(rows["checkpoint"] != "ttt-linear-1") & (rows["task"] == "perplexity")]
    both = pd.concat([rows, more.assign(corpus="other", corpus_digest="o" * 32)], ignore_index=True)
    both.attrs = rows.attrs
    assert trained_again(both) == {"ttt-linear-1": "ttt-linear-2"}


def test_rows_of_an_older_schema_are_compared_beside_seeds() -> None:
    rows, older = rows_of(*SEEDS), rows_of(TRANSFORMER).drop(columns=["config_digest"])
    older.attrs = rows.attrs
    found = head_to_head([rows, older], ["ttt-linear-1", "transformer"])
    assert bits_of(found)["ttt-linear-1", "transformer"]["training_seeds"] == 3
    without = rows.assign(config_digest=None)
    both = pd.concat([rows, without], ignore_index=True)
    both.attrs = rows.attrs
    assert len(recipes_of(both)) == 3
    assert set(trained_again(rows.drop(columns=["status"]))) == {"ttt-linear-2", "ttt-linear-3"}


def test_a_seed_that_two_versions_of_the_code_measured_still_stands_for_the_others() -> None:
    rows = rows_of(*SEEDS[:2], TRANSFORMER)
    again = rows.loc[rows["checkpoint"] == "ttt-linear-1"].assign(code_digest="b" * 32, run_id="run-2")
    both = pd.concat([rows.assign(code_digest="a" * 32), again], ignore_index=True)
    both.attrs = rows.attrs
    found = head_to_head(both)
    assert [name.partition("@")[0] for name in found.names] == ["ttt-linear-1", "ttt-linear-1", "transformer"]
    assert [text for text in found.left_out if text.startswith("ttt-linear-2 is ttt-linear-1 trained again")]


def test_a_name_that_looks_like_settings_is_a_name() -> None:
    names = ["m", "m@step=1000", "t", "u"]
    assert first_trainings(names, {"m": "t"}, names=names) == ["m@step=1000", "t", "u"]
    assert first_trainings(["a", "b@code=1", "b@code=2"], {"a"}, names=["a", "b"]) == ["a", "b@code=1", "b@code=2"]


def test_a_name_of_two_trainings_beside_a_second_seed_of_the_older_is_left_as_it_is() -> None:
    """A model that was trained anew under its name, and the second seed of the training before."""
    old, second = trained(TTT, "old", 1), dataclasses.replace(trained(TTT, "old", 2), name="ttt-linear-seed2")
    rows = rows_of(dataclasses.replace(old, name="ttt-linear"), second, TRANSFORMER)
    anew = rows_of(dataclasses.replace(trained(TTT, "new", 1), name="ttt-linear"))
    both = pd.concat([rows, anew.assign(weights_digest="n" * 32)], ignore_index=True)
    both.attrs = rows.attrs
    assert both.loc[both["checkpoint"] == "ttt-linear", "weights_digest"].nunique() == 2
    assert trained_again(both) == {}
    summarise(both)
