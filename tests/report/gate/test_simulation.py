"""How often the gate is red by mistake: the committed simulation, and parts of it drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ttbench.report.gate import simulation
from ttbench.report.gate.slower import holm, ratio_interval, slower_p

CALIBRATION = Path(__file__).parents[3] / "results/calibration"


def test_welchs_test_is_scipys_and_one_sided_against_a_share_more() -> None:
    rng = np.random.default_rng(0)
    baseline, candidate = np.exp(rng.normal(0, 0.1, 10)), np.exp(rng.normal(0.1, 0.05, 12))
    expected: Any = stats.ttest_ind(np.log(candidate), np.log(baseline * 1.05), equal_var=False, alternative="greater")
    assert slower_p(baseline, candidate) == pytest.approx(expected.pvalue)
    value, low, high = ratio_interval(baseline, candidate)
    interval: Any = stats.ttest_ind(np.log(candidate), np.log(baseline), equal_var=False).confidence_interval(0.9)
    assert (np.log(low), np.log(high)) == pytest.approx((interval.low, interval.high))
    assert low < value < high


def test_times_without_any_spread_are_compared_as_they_stand() -> None:
    ones = np.ones((1, 10))
    assert slower_p(ones, ones * 1.06).tolist() == [0.0]
    assert slower_p(ones, ones * 1.04).tolist() == [1.0]
    assert ratio_interval(ones[0], ones[0] * 2) == pytest.approx((2, 2, 2))


def test_holm_is_worked_out_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, then 2 x 0.03 and 1 x 0.04, which may not fall below it
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([[0.5, 0.9], [0.01, 0.02]])).tolist() == [[1.0, 1.0], [0.02, 0.02]]


def test_at_most_one_unchanged_commit_in_a_hundred_is_red() -> None:
    found: Any = pd.read_csv(CALIBRATION / "gate_times.csv")
    unchanged = found[(found["slowdown"] == 0) & (found["shift"] == 0.02)]
    assert len(unchanged) == 8
    assert (unchanged["gate"] <= 0.01).all()
    slowed = found[found["slowdown"] == 0.2]
    assert (slowed["named"] >= 0.85).all()
    quality: Any = pd.read_csv(CALIBRATION / "gate_quality.csv")
    # green by mistake, where the loss is the margin itself; red by mistake, where documents hardly differ
    assert (quality[quality["loss"] == simulation.MARGIN]["red"] >= 0.945).all()
    assert (quality[(quality["loss"] == 0) & (quality["noise"] <= 1e-3)]["red"] == 0).all()


@pytest.mark.parametrize("table", list(simulation.CASES))
def test_every_line_of_the_tables_is_committed_and_can_be_drawn_again(table: str) -> None:
    found: Any = pd.read_csv(CALIBRATION / f"{table}.csv")
    cases = simulation.CASES[table]
    assert found[[*cases[0]]].to_dict("records") == cases
    assert set(found["data sets"]) == {6000}
    place = {"gate_times": 0, "gate_quality": 7}[table]
    again = simulation.run(table, cases[place], data_sets=200, seed=1)
    for name, value in found.iloc[place].drop([*cases[0], "data sets"]).items():
        if not pd.isna(value):
            assert again[str(name)] == pytest.approx(value, abs=4 * max(value * (1 - value) / 200, 1e-4) ** 0.5), name


def test_tables_are_written_into_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = {"noise": 1e-3, "loss": 0.0}
    monkeypatch.setattr(simulation, "CASES", {"gate_quality": [case]})
    monkeypatch.setattr("sys.argv", ["simulation", "--out", str(tmp_path / "new"), "--data-sets", "5", "--jobs", "1"])
    simulation.main()
    table: Any = pd.read_csv(tmp_path / "new" / "gate_quality.csv")
    (line,) = table.to_dict("records")
    assert line == pytest.approx(simulation.run("gate_quality", case, data_sets=5, seed=0))
    assert "gate_quality" in capsys.readouterr().out
