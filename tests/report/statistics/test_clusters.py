"""The two halves of an interval of a ratio, against enumeration; and the committed calibration."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ttbench.report.statistics import clusters, stats
from ttbench.report.statistics import coverage as calibration

CALIBRATION = Path(__file__).parents[3] / "results/calibration"


def interval(a: list[float], b: list[float], *, level: float) -> tuple[float, float]:
    low, high = clusters.sign_flip_interval(np.array([a]), np.array([b]), seed=0, level=level)
    return float(low[0]), float(high[0])


def test_inverted_sign_flips_are_those_worked_out_by_hand() -> None:
    # Two of 32 patterns reach the ends: all signs alike, which reaches any rate, and 32 (or 1) against the rest.
    assert interval([1, 2, 4, 8, 16, 32], [1] * 6, level=0.95) == (1.0, 32.0)
    # At 0.9 three patterns may lie beyond: the fourth is the end, after 32 and (16 + 32) / 2, or 1 and (1 + 2) / 2.
    assert interval([1, 2, 4, 8, 16, 32], [1] * 6, level=0.9) == (2.0, 20.0)
    # five clusters have no pattern below 2/32
    assert interval([1, 2, 4, 8, 16], [1] * 5, level=0.95) == (-math.inf, math.inf)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_sign_flip_test_rejects_just_outside_the_interval_and_not_inside(level: float) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.exponential(1, 8), rng.uniform(0.5, 3, 8)
    low, high = interval([*a], [*b], level=level)

    def p(rate: float) -> float:
        residuals = [one - rate * two for one, two in zip(a, b, strict=True)]
        sums = [
            abs(sum(s * r for s, r in zip(signs, residuals, strict=True)))
            for signs in itertools.product((1, -1), repeat=8)
        ]
        return sum(total >= abs(sum(residuals)) - 1e-12 for total in sums) / 2**8

    assert p(low + 1e-6) > 1 - level >= p(low - 1e-6)
    assert p(high - 1e-6) > 1 - level >= p(high + 1e-6)


def exact_studentised(a: list[float], b: list[float]) -> list[tuple[float, float]]:
    """Every resample's studentised ratio with its probability, ascending: sums over all multisets of clusters."""
    num, value = len(a), sum(a) / sum(b)
    found = []
    for chosen in itertools.combinations_with_replacement(range(num), num):
        ways = math.factorial(num) / math.prod(math.factorial(count) for count in Counter(chosen).values())
        ratio = sum(a[i] for i in chosen) / sum(b[i] for i in chosen)
        squares = sum((a[i] - ratio * b[i]) ** 2 for i in chosen)
        error = math.sqrt(num / (num - 1) * squares) / sum(b[i] for i in chosen)
        away = ratio - value
        found.append((away / error if error > 1e-9 else math.copysign(math.inf, away), ways / num**num))
    return sorted(found)


def quantile(atoms: list[tuple[float, float]], share: float) -> float:
    total = 0.0
    for value, probability in atoms:
        total += probability
        if total >= share:
            return value
    raise AssertionError(share)


def test_the_bootstrap_takes_the_quantiles_of_all_resamples_and_moves_the_longer_tail_outwards() -> None:
    a, b = [1.0, 1.4, 1.9, 3.1, 5.3, 9.7], [1.0, 1.2, 0.9, 1.1, 1.3, 0.8]
    atoms, value, total = exact_studentised(a, b), sum(a) / sum(b), sum(b)
    error = math.sqrt(sum((x - value * y) ** 2 / (1 - y / total) for x, y in zip(a, b, strict=True))) / total
    # resamples without the few hard documents look surer than they are: the lower tail is more than twice as long
    near, upper = quantile(atoms, 0.25), quantile(atoms, 0.75)
    assert -near > 2 * upper
    # so its end lies where 6 / (6 + 60) of its share are beyond
    lower = quantile(atoms, 0.25 * 6 / 66)
    low, high = clusters.bootstrap_t(np.array([a]), np.array([b]), seed=0, level=0.5, draws=99_999)
    assert high[0] == pytest.approx(value - error * lower, rel=0.03)
    assert low[0] == pytest.approx(value - error * upper, rel=0.03)


def test_a_tail_that_is_a_little_longer_is_moved_a_part_of_the_way() -> None:
    a, b = [1.0, 2.0, 3.1, 4.0, 5.4, 7.2], [1.0] * 6
    atoms, value = exact_studentised(a, b), sum(a) / 6
    error = math.sqrt(sum((x - value) ** 2 for x in a) / 5 / 6)
    near, upper, far = (quantile(atoms, share) for share in (0.25, 0.75, 0.25 * 6 / 66))
    part = 2 * (1 - upper / -near)
    assert 0.05 < part < 0.95
    _, high = clusters.bootstrap_t(np.array([a]), np.array([b]), seed=0, level=0.5, draws=99_999)
    assert high[0] == pytest.approx(value - error * (near + part * (far - near)), rel=0.03)


@pytest.mark.parametrize("num_clusters", [12, 30])
def test_swapping_the_sides_mirrors_the_interval_bit_for_bit(num_clusters: int) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.exponential(1, (5, num_clusters)) - 1, rng.uniform(0.5, 2, (5, num_clusters))
    low, high = clusters.ratio_intervals(a, b, seed=0, level=0.95)
    mirrored_low, mirrored_high = clusters.ratio_intervals(-a, b, seed=0, level=0.95)
    assert (mirrored_low == -high).all()
    assert (mirrored_high == -low).all()
    assert (low <= a.sum(1) / b.sum(1)).all()


def test_a_rate_added_to_every_document_moves_the_interval_by_itself() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.exponential(1, 20), rng.uniform(0.5, 2, 20)
    one, two = stats.estimate_ratio(a, b), stats.estimate_ratio(a + 3 * b, b)
    assert (two.low, two.high) == (pytest.approx((one.low or 0) + 3), pytest.approx((one.high or 0) + 3))


def committed(table: str) -> Any:
    return pd.read_csv(CALIBRATION / f"{table}.csv")


THREE_KINDS = ["normal", "log-normal 0.8", "t with 3 df"]


@pytest.mark.parametrize("table", ["differences", "ratios"])
def test_the_committed_intervals_hold_the_truth_in_93_to_97_of_100(table: str) -> None:
    found = committed(table)
    held = found[found["documents"].isin(THREE_KINDS) & (found["clusters"] >= 12)]
    assert len(held) == 3 * 4 * (2 if table == "differences" else 1)
    assert set(held["clusters"]) == {12, 20, 40, 60}
    assert (held["data sets"] >= 2000).all()
    assert held["ttbench"].between(0.93, 0.97).all()
    if table == "differences":
        assert (held["false verdicts"] <= 0.06).all()
        assert (1 - held["ttbench"]).to_numpy() == pytest.approx(held["false verdicts"].to_numpy(), abs=1e-3)


@pytest.mark.parametrize(
    ("table", "column", "most"),
    [
        ("families", "families with a false verdict", 0.08),
        ("verdicts", "false verdicts", 0.08),
        ("proportions", "false verdicts", 0.06),
        ("rounds", "false verdicts", 0.06),
    ],
)
def test_equal_checkpoints_are_seldom_told_apart(table: str, column: str, most: float) -> None:
    found = committed(table)
    assert len(found) == len(calibration.CASES[table])
    assert (found[column] <= most).all()


def test_the_page_prints_the_committed_tables() -> None:
    text = (CALIBRATION.parents[1] / "docs/methodology.md").read_text()
    lines = text.partition("| documents | lengths | 10 |")[2].partition("\n\n")[0].splitlines()[2:]
    printed = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines]
    found = {
        (line["documents"], line["lengths"], line["clusters"]): line["ttbench"]
        for line in committed("differences").to_dict("records")
    }
    shown = {
        (documents, lengths, num): cell
        for documents, lengths, *cells in printed
        for num, cell in zip((10, 12, 20, 40, 60), cells, strict=False)
        if cell
    }
    assert shown == {key: f"{value:.3f}" for key, value in found.items()}
    held = [value for (documents, _, num), value in found.items() if documents in THREE_KINDS and num >= 12]
    assert f"{100 * min(held):.1f} to {100 * max(held):.1f} of 100 data sets" in text
    assert f"a false verdict in at most {100 * (1 - min(held)):.1f} of 100" in text
    verdicts = committed("verdicts")
    assert f"{verdicts['data sets'].min():,} tables of each of the {len(verdicts)} kinds" in text
    wrong = 100 * verdicts["false verdicts"]
    told = f"{wrong.min():.1f} to {wrong.max():.1f} of 100 tables, {wrong.mean():.1f} on average"
    assert f"any false verdict in {told}" in text


@pytest.mark.parametrize(
    ("table", "data_sets", "case"),
    [
        ("differences", 250, {"documents": "log-normal 0.8", "lengths": "unequal", "clusters": 12}),
        ("differences", 250, {"documents": "t with 3 df", "lengths": "equal", "clusters": 20}),
        ("ratios", 250, {"documents": "log-normal 0.8", "clusters": 20}),
        ("proportions", 100, {"alike": 0.3, "clusters": 20}),
        ("rounds", 300, {"times": "normal", "rounds": 5}),
    ],
)
def test_the_committed_tables_can_be_drawn_again(table: str, data_sets: int, case: dict[str, object]) -> None:
    again = calibration.run(table, case, data_sets=data_sets, seed=1)
    found = committed(table)
    for name, value in case.items():
        found = found[found[name] == value]
    (line,) = found.to_dict("records")
    for name in set(line) - set(case) - {"data sets"}:
        # four standard errors of the smaller simulation
        assert again[name] == pytest.approx(line[name], abs=4 * (0.95 * 0.05 / data_sets) ** 0.5 + 0.02), name


# Three quarters of all draws lie below: by hand from those of the standard normal (0.6745) and of Student's t (0.7649).
@pytest.mark.parametrize(
    ("draw", "quartile"),
    [
        (calibration.SHAPES["normal"].draw, 0.6745),
        (calibration.SHAPES["log-normal 0.8"].draw, math.exp(0.8 * 0.6745) - math.exp(0.32)),
        (calibration.SHAPES["t with 3 df"].draw, 0.7649),
        (calibration.SHAPES["uniform"].draw, 0.25),
        (calibration.SHAPES["exponential"].draw, math.log(4) - 1),
        (calibration.SHAPES["log-normal 1.2"].draw, math.exp(1.2 * 0.6745) - math.exp(0.72)),
        (calibration.TIMES["normal"], 0.05 * 0.6745),
        (calibration.TIMES["log-normal 0.8"], 0.05 * math.exp(0.8 * 0.6745)),
        (calibration.TIMES["t with 3 df"], 0.05 * 0.7649),
    ],
)
def test_documents_and_times_are_of_the_shape_that_is_named(draw: calibration.Draw, quartile: float) -> None:
    drawn = draw(np.random.default_rng(0), (200_000,))
    assert np.mean(drawn < quartile) == pytest.approx(0.75, abs=0.005)


# A tenth of variance 25 and the rest of 1; half of variance 1 and the rest 0; twice exp(1.28) - exp(0.64).
@pytest.mark.parametrize(
    ("documents", "variance"),
    [("a tenth five times as far", 3.4), ("half of them equal", 0.5), ("log-normal 0.8 less another", 3.4003)],
)
def test_mixed_documents_vary_as_worked_out_by_hand(documents: str, variance: float) -> None:
    drawn = calibration.SHAPES[documents].draw(np.random.default_rng(0), (1_000_000,))
    assert drawn.var() == pytest.approx(variance, rel=0.03)
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert np.mean(drawn == 0) == pytest.approx(0.5 if documents == "half of them equal" else 0, abs=0.005)


def test_every_line_of_the_tables_is_committed() -> None:
    for table, cases in calibration.CASES.items():
        found = committed(table)
        assert found[[*cases[0]]].to_dict("records") == cases
        # at twelve documents three times as many as elsewhere, and a quarter where a data set is eight
        sizes = [calibration.data_sets_of(table, case, 3000) for case in cases]
        if table == "verdicts":
            # each is a table of up to 24 comparisons; `make calibration` goes on to all of them where there are fewer
            assert (set(sizes), found["data sets"].min() >= 200) == ({2000}, True)
            continue
        assert found["data sets"].tolist() == sizes
        assert set(sizes) == {"differences": {3000, 9000}, "ratios": {3000, 9000}, "families": {750}}.get(table, {3000})


def test_data_sets_are_drawn_in_whole_batches_and_a_rest() -> None:
    assert list(calibration._batches(500)) == [250, 250]
    assert list(calibration._batches(600)) == [250, 250, 100]
    assert list(calibration._batches(8)) == [8]


def test_tables_are_written_into_a_folder_that_need_not_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = {"alike": 0.0, "clusters": 5}
    monkeypatch.setattr(calibration, "CASES", {"proportions": [case]})
    folder = tmp_path / "new" / "tables"
    monkeypatch.setattr("sys.argv", ["coverage", "--out", str(folder), "--data-sets", "10", "--jobs", "1"])
    calibration.main()
    (line,) = pd.read_csv(folder / "proportions.csv").to_dict("records")
    assert line == pytest.approx(calibration.run("proportions", case, data_sets=10, seed=0), abs=5e-5)
    assert "proportions" in capsys.readouterr().out


def test_a_table_that_was_cut_off_goes_on_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [{"alike": 0.0, "clusters": 5}, {"alike": 1.0, "clusters": 5}, {"alike": 0.3, "clusters": 5}]
    monkeypatch.setattr(calibration, "CASES", {"proportions": cases})
    path = tmp_path / "proportions.csv"
    # the first as often as asked, the second drawn less often, the third missing
    path.write_text("alike,clusters,data sets,ttbench\n0.0,5,10,0.125\n1.0,5,3,0.25\n")
    drawn: list[Any] = []
    monkeypatch.setitem(calibration.TABLES, "proportions", lambda *a, **case: drawn.append(case) or {"ttbench": 0.5})
    monkeypatch.setattr(calibration, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr("sys.argv", ["coverage", "--out", str(tmp_path), "--data-sets", "10", "--jobs", "1"])
    calibration.main()
    assert drawn == cases[1:]
    found = pd.read_csv(path)
    assert found["ttbench"].tolist() == [0.125, 0.5, 0.5]
    assert found["data sets"].tolist() == [10, 10, 10]
    calibration.main()
    assert drawn == cases[1:]
    assert "proportions" in capsys.readouterr().out
