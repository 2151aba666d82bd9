"""Published numbers have one form, whatever paper they are from; their averages are computed again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ttbench.errors import StoreError, UnknownNameError
from ttbench.report.papers import numbers as published
from ttbench.report.papers.numbers import COLUMNS, PublishedNumber, read_numbers, read_published, recompute

FOLDER = Path(__file__).parents[1] / "results" / "published"
KEY = ("table", "model", "method", "variant", "benchmark", "metric", "num_params")
PAPERS = sorted(path.stem for path in FOLDER.glob("*.csv"))
NUMBERS = {paper: read_numbers(FOLDER / f"{paper}.csv") for paper in PAPERS}


def only(paper: str, **wanted: object) -> PublishedNumber:
    (found,) = [number for number in NUMBERS[paper] if all(getattr(number, k) == v for k, v in wanted.items())]
    return found


def test_nearly_ten_thousand_numbers_of_27_papers_are_kept_in_two_megabytes() -> None:
    assert len(PAPERS) == 27
    assert sum(map(len, NUMBERS.values())) == 9926
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2 * 1024**2


@pytest.mark.parametrize("paper", PAPERS)
def test_every_line_is_one_number_with_its_source(paper: str) -> None:
    for number in NUMBERS[paper]:
        assert number.paper == paper
        assert all(getattr(number, name) for name in ("table", "benchmark", "metric", "source")), number
        if number.unit == "%" and "share of" not in number.metric and "gain" not in number.metric:
            assert 0 <= number.value <= 100, number
    keys = [tuple(getattr(number, name) for name in KEY) for number in NUMBERS[paper]]
    assert len(set(keys)) == len(keys), "a number is given twice"
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| `{paper}.csv` | {len(NUMBERS[paper]):,} |" in index


@pytest.mark.parametrize("paper", PAPERS)
def test_a_place_on_an_axis_is_the_one_that_the_words_name(paper: str) -> None:
    for number in NUMBERS[paper]:
        if number.axis in ("context", "length", "token index"):
            assert number.at is not None
            shown = {f"{number.at:.10g}", f"{number.at / 1024:g}k", f"{number.at / 1024**2:g}m"}
            found = re.findall(rf"{number.axis} (?:x batch )?(\d[\d.]*[kKM]?)", number.variant)
            assert {text.lower() for text in found} & shown, number


@pytest.mark.parametrize("paper", PAPERS)
def test_printed_averages_are_recomputed_and_those_that_do_not_hold_say_so(paper: str) -> None:
    for number in NUMBERS[paper]:
        if number.mean_of is None:
            assert number.recomputed is None
            continue
        mean = recompute(number, NUMBERS[paper])
        if number.recomputed is None:
            assert mean is None
            continue
        assert mean is not None
        assert mean == pytest.approx(number.recomputed, abs=0.00051)
        holds = abs(mean - number.value) <= number.half_digit + 1e-9
        assert holds == ("cells give" not in number.note), number


# Printed, and what its own cells give.
WRONG = [
    ("titans", {"table": "1", "model": "TTT", "num_params": 760_000_000}, 47.32, 49.37),
    ("titans", {"table": "NeurIPS 6", "model": "Titans (MAC)", "num_params": 1_300_000_000}, 57.32, 57.20),
    ("titans", {"table": "NeurIPS 1", "model": "Titans (MAL)"}, 52.29, 52.18),
    ("mamba", {"table": "3", "model": "Mamba-370M"}, 50.0, 51.67),
    ("mamba", {"table": "3", "model": "Mamba-790M"}, 57.1, 56.12),
    ("hyena", {"table": "4.5", "model": "Hyena"}, 41.5, 42.49),
    ("long-range-arena", {"table": "1", "model": "Sinkhorn Trans."}, 51.39, 51.48),
    ("rwkv-4", {"table": "4", "model": "RWKV"}, 72.07, 71.84),
    ("ruler", {"table": "README", "model": "Qwen2.5-14B-Instruct-1M (14B)"}, 95.7, 95.20),
    ("gated-deltanet", {"table": "5", "model": "Gated DeltaNet-H2"}, 18.4, 19.02),
]


@pytest.mark.parametrize(("paper", "line", "printed", "mean"), WRONG)
def test_averages_that_papers_print_wrongly_keep_both_numbers(
    paper: str, line: dict[str, object], printed: float, mean: float
) -> None:
    (found,) = [
        number
        for number in NUMBERS[paper]
        if number.mean_of and all(getattr(number, key) == value for key, value in line.items())
    ]
    assert (found.value, found.recomputed) == (printed, pytest.approx(mean, abs=0.006))
    assert f"printed {found.printed}, but its {found.mean_of} cells give {mean:.2f}" in found.note


def test_nine_of_ten_averages_of_longbench_in_gated_deltanet_do_not_hold() -> None:
    averages = [each for each in NUMBERS["gated-deltanet"] if each.table == "5" and each.mean_of == 14]
    assert sum("cells give" in each.note for each in averages) == 9
    assert len(averages) == 10


def test_titans_ablation_prints_the_mean_of_two_perplexities() -> None:
    for name in ("LMM", "MAC", "MAG", "MAL"):
        table = [n for n in NUMBERS["titans"] if n.table == "1" and n.model == f"Titans ({name})"]
        of_400m = [n.value for n in table if n.num_params == 400_000_000 and n.metric == "perplexity"]
        found = only("titans", table="5", model=name if name == "LMM" else f"+Attn ({name})", metric="perplexity")
        assert found.value == pytest.approx(sum(of_400m) / len(of_400m), abs=0.0051)
        assert "mean of the WikiText and the LAMBADA perplexity" in found.note


def test_a_failed_path_x_counts_as_fifty_in_the_means_of_s4_only() -> None:
    s4 = only("s4", table="10", model="Transformer", benchmark="LRA")
    assert (s4.value, s4.recomputed, s4.mean_of) == (53.66, pytest.approx(53.657), 6)
    lra = only("long-range-arena", table="1", model="Transformer", benchmark="LRA")
    assert (lra.value, lra.mean_of) == (54.39, 5)
    mixed = only("rwkv-4", table="4", model="Transformer", benchmark="LRA average")
    assert mixed.recomputed == pytest.approx(54.388)
    assert "mix two rules" in mixed.note


def test_one_baseline_has_other_needle_numbers_in_two_papers() -> None:
    titans = only("titans", table="2", model="Mamba2", benchmark="S-NIAH-PK", at=4096)
    deltanet = only("gated-deltanet", table="2", model="Mamba2", benchmark="S-NIAH-1", at=4096)
    assert (titans.value, deltanet.value) == (61.4, 65.4)
    assert "other S-NIAH values" in titans.note
    assert "other S-NIAH values" in deltanet.note


def test_five_times_the_throughput_of_mamba_compares_two_batch_sizes() -> None:
    bars = [n for n in NUMBERS["mamba"] if n.table == "figure 8 right" and n.metric == "throughput"]
    of = {name: {n.at: n.value for n in bars if n.model == name} for name in ("Mamba 1.4B", "Transformer 1.3B")}
    ours, theirs = of["Mamba 1.4B"], of["Transformer 1.3B"]
    assert max(ours.values()) / max(theirs.values()) == pytest.approx(5, abs=0.6)
    equal = [ours[batch] / theirs[batch] for batch in theirs if batch in ours]
    assert (round(min(equal), 1), round(max(equal), 1)) == (1.8, 4.0)
    assert "1.8 to 4.0" in only("mamba", table="text 4.5", value=5.0).note


def test_labels_that_mamba_2_swapped_and_the_two_mals_are_told() -> None:
    swapped = [n for n in NUMBERS["mamba-2"] if n.table == "5" and n.metric == "perplexity"]
    assert len(swapped) == 10
    assert all("swapped" in n.note for n in swapped)
    mal = [n for n in NUMBERS["titans"] if n.model == "Titans (MAL)" and n.num_params == 760_000_000 and n.mean_of]
    assert {n.value for n in mal} == {50.97, 52.29}
    assert all("50.97 in version 1, 52.29 in the NeurIPS version" in n.note for n in mal)


def test_invented_tables_of_ttt_were_not_taken() -> None:
    assert not [n for n in NUMBERS["ttt"] if n.printed in ("8.71", "11.23")]
    # its perplexities and latencies are drawn without numbers
    tables = {n.table for n in NUMBERS["ttt"] if n.metric == "perplexity"}
    assert tables == {"1", "figure 7 caption"}


def test_svf_keeps_what_the_base_can_do_and_lora_loses_some_of_it() -> None:
    rows = [n for n in NUMBERS["transformer-squared"] if n.table == "1"]
    values = {(n.method, n.model, n.benchmark): n.value for n in rows}
    base = {key[1:]: value for key, value in values.items() if key[0] == "base"}
    svf, lora = ([values[name, *key] / value for key, value in base.items()] for name in ("svf", "lora"))
    assert len(base) == 9
    # gains nearly everywhere and no loss beyond a hundredth, while LoRA falls on the largest model
    assert min(svf) > 0.99
    assert sum(ratio > 1 for ratio in svf) >= 7
    assert max(lora[6:8]) < 0.92


def test_the_tables_on_adaptation_have_no_holes() -> None:
    held: dict[tuple[str, str, str, str], set[str]] = {}
    for n in NUMBERS["transformer-squared"]:
        if n.unit == "%" and n.table in ("1", "2", "4"):
            held.setdefault((n.table, n.model, n.method, n.variant), set()).add(n.benchmark)
    wanted = {
        "1": {"GSM8K", "MBPP-Pro", "ARC-Easy"},
        "2": {"MATH", "HumanEval", "ARC-Challenge"},
        "4": {"GSM8K", "MATH"},
    }
    assert {line: found for line, found in held.items() if found != wanted[line[0]]} == {}
    # three models with base, LoRA and SVF; two with five lines and one with three; eight lines of the ablation
    assert [sum(line[0] == table for line in held) for table in wanted] == [9, 13, 8]


# Damage


def test_an_unknown_paper_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'titans'"):
        read_published("titan")


def lines(text: str) -> str:
    return f"{','.join(COLUMNS)}\n{text}\n"


GOOD = "p,1,m,base,,b,,,accuracy,1.5,%,,,,,arXiv 1,read"
DAMAGE: list[tuple[str, Callable[[], str]]] = [
    ("columns must be", lambda: "paper,value\np,1\n"),
    ("value must be a number", lambda: lines(GOOD.replace("1.5", "nan"))),
    ("value must be a number", lambda: lines(GOOD.replace("1.5", ""))),
    ("value must be a number", lambda: lines(GOOD.replace("1.5", "\uff11.5"))),
    ("evidence that is one of", lambda: lines(GOOD.replace("read", "hearsay"))),
    ("a number has a source", lambda: lines(GOOD.replace("arXiv 1", ""))),
    ("axis and at come together", lambda: lines(GOOD.replace(",b,,,", ",b,context,,"))),
    ("numbers or empty", lambda: lines(GOOD.replace(",b,,,", ",b,context,far,"))),
    ("columns", lambda: lines("p,1,m")),
    ("columns", lambda: lines(f"{GOOD},more")),
    ("cannot read", lambda: lines('p,"1')),
]


@pytest.mark.parametrize(("message", "text"), DAMAGE)
def test_a_damaged_file_is_named_with_its_line(message: str, text: Callable[[], str], tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text(), encoding="utf-8")
    with pytest.raises(StoreError, match=message) as raised:
        read_numbers(path)
    assert "p.csv" in str(raised.value)


def test_numbers_of_the_working_folder_go_before_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "published").mkdir(parents=True)
    (tmp_path / "results" / "published" / "ttt.csv").write_text(lines(GOOD.replace("p,", "ttt,", 1)), encoding="utf-8")
    assert [number.value for number in read_published("ttt")] == [1.5]
    assert len(read_published("titans")) == len(NUMBERS["titans"])
    assert published.published_files()["mamba"].is_file()
