"""Logs of lm-eval, inspect_ai and lighteval, written by those tools: read, paired by document, judged as any other."""

from __future__ import annotations

import importlib.util
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.foreign.inspect_logs import _member
from ttbench.report.foreign.reading import compare_logs, read_log
from ttbench.report.foreign.scores import as_rows
from ttbench.report.statistics import stats

FOREIGN = Path(__file__).parents[2] / "golden" / "foreign"
LM_EVAL = FOREIGN / "lm-eval"
SIDES = {
    "lm-eval": (LM_EVAL / "guess-0", LM_EVAL / "guess-1"),
    "lighteval": (FOREIGN / "light-eval" / "dummy-0", FOREIGN / "light-eval" / "dummy-1"),
    "inspect_ai": (FOREIGN / "inspect-ai" / "mock-0", FOREIGN / "inspect-ai" / "mock-1"),
}


def means(place: Path) -> dict[tuple[str, str], float]:
    """Mean score by benchmark and metric, from what the reader gives."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for score in read_log(place).scores:
        found.setdefault((score.benchmark, score.metric), []).append((score.value, score.weight))
    return {key: sum(value for value, _ in pairs) / sum(weight for _, weight in pairs) for key, pairs in found.items()}


# What the tools say themselves


def test_means_are_those_that_lm_eval_prints() -> None:
    for place in SIDES["lm-eval"]:
        (path,) = place.glob("results_*.json")
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        found, kinds = means(place), read_log(place).kinds
        assert found["colours", "acc"] == pytest.approx(results["colours"]["acc,none"])
        assert found["sums", "exact_match"] == pytest.approx(results["sums"]["exact_match,none"])
        bits = kinds["bits_per_byte"].scale * found["tales", "bits_per_byte"]
        assert bits == pytest.approx(results["tales"]["bits_per_byte,none"])
        assert (kinds["acc"].better, kinds["acc"].statistic) == ("higher", "proportion")
        assert (kinds["word_perplexity"].better, kinds["word_perplexity"].statistic) == ("lower", "exp_ratio")


def test_means_are_those_in_the_header_of_inspect_ai() -> None:
    for place in SIDES["inspect_ai"]:
        (path,) = place.glob("*.eval")
        with zipfile.ZipFile(path) as archive:
            header = json.loads(_member(archive, archive.getinfo("header.json"), path.read_bytes()))
        said = {score["name"]: next(iter(score["metrics"].values()))["value"] for score in header["results"]["scores"]}
        assert {metric: value for (_, metric), value in means(place).items()} == pytest.approx(said)


def test_means_are_those_that_lighteval_prints() -> None:
    for place in SIDES["lighteval"]:
        (path,) = place.rglob("results_*.json")
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        assert means(place) == pytest.approx({("colours|0", "acc"): results["colours|0"]["acc"]})


def test_a_metric_that_lighteval_calls_better_the_lower_is_read_so(tmp_path: Path) -> None:
    place = tmp_path / "lower"
    shutil.copytree(SIDES["lighteval"][0], place)
    assert read_log(place).kinds["acc"].better == "higher"
    (path,) = place.rglob("results_*.json")
    path.write_text(path.read_text().replace('"higher_is_better": true', '"higher_is_better": false'))
    assert read_log(place).kinds["acc"].better == "lower"
    with pytest.raises(UsageError, match="disagree whether a lower or a higher acc is better"):
        compare_logs(place, SIDES["lighteval"][1])


# Compared


@pytest.mark.parametrize("tool", SIDES)
def test_sides_are_paired_by_document_and_turned_sides_mirror(tool: str) -> None:
    one, two = SIDES[tool]
    found, turned = (words.records(compare_logs(*pair).found) for pair in ((one, two), (two, one)))
    assert {entry["num_pairs"] for entry in found} == {24}
    for entry in found:
        (other,) = (e for e in turned if (e["metric"], e["benchmark"]) == (entry["metric"], entry["benchmark"]))
        assert (other["value_a"], other["value_b"]) == (entry["value_b"], entry["value_a"])
        mirrored = {"a better": "b better", "b better": "a better"}.get(entry["verdict"], entry["verdict"])
        assert other["verdict"] == mirrored


def test_the_interval_of_a_share_is_that_of_paired_proportions() -> None:
    sides = [{s.document: s.value for s in read_log(place).scores if s.metric == "acc"} for place in SIDES["lm-eval"]]
    a, b = ([side[document] for document in sides[0]] for side in sides)
    made = stats.paired_proportion_difference(a, b)
    (entry,) = (e for e in words.records(compare_logs(*SIDES["lm-eval"]).found) if e["metric"] == "acc")
    assert (entry["effect"], entry["low"], entry["high"]) == pytest.approx((made.value, made.low, made.high))


def test_texts_that_are_found_less_likely_are_worse() -> None:
    verdicts = {entry["metric"]: entry["verdict"] for entry in words.records(compare_logs(*SIDES["lm-eval"]).found)}
    assert verdicts["bits_per_byte"] == verdicts["word_perplexity"] == "a better"


def edited(tmp_path: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Path:
    """The logs of guess-1 with other samples of the task `sums`."""
    place = tmp_path / "edited"
    shutil.copytree(LM_EVAL / "guess-1", place)
    (path,) = place.glob("samples_sums_*.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(lines)), encoding="utf-8")
    return place


def test_order_and_numbers_of_documents_do_not_matter_and_missing_ones_are_told(tmp_path: Path) -> None:
    place = edited(tmp_path, lambda lines: [line | {"doc_id": 99} for line in reversed(lines)][:20])
    made = compare_logs(LM_EVAL / "guess-0", place)
    (entry,) = (entry for entry in words.records(made.found) if entry["metric"] == "exact_match")
    assert entry["num_pairs"] == 20
    assert made.remarks == ("sums: 4 of 24 documents of guess-0 are not in the other",)


def test_other_prompts_are_told(tmp_path: Path) -> None:
    place = edited(tmp_path, lambda lines: [line | {"prompt_hash": "other"} for line in lines])
    (remark,) = compare_logs(LM_EVAL / "guess-0", place).remarks
    assert remark.startswith("sums: 24 of 24 documents were asked with other prompts")


def test_a_document_twice_is_two_observations_in_one_cluster(tmp_path: Path) -> None:
    rows = as_rows(read_log(edited(tmp_path, lambda lines: [*lines, lines[0]])))
    mine = rows.loc[rows["benchmark"] == "sums"]
    assert (len(mine), len(set(mine["sample"])), len(set(mine["item"]))) == (25, 25, 24)


# What cannot be read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [{"doc": 1}], "samples_sums_.*:1 is no sample of lm-eval .*--log_samples"),
        (lambda lines: [lines[0] | {"exact_match": float("nan")}], "a score must be a finite number; got nan"),
        (lambda lines: [lines[0] | {"exact_match": [1, 2]}], "exact_match is made of all documents together"),
        (lambda lines: [lines[0] | {"metrics": ["own"], "own": 1}], "whether a higher own is better"),
    ],
)
def test_damaged_samples_are_one_line(tmp_path: Path, change: Callable[..., Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_log(edited(tmp_path, change))


def test_a_benchmark_that_is_logged_twice_is_refused(tmp_path: Path) -> None:
    place = edited(tmp_path, lambda lines: lines)
    (path,) = place.glob("samples_sums_*.jsonl")
    shutil.copy(path, place / path.name.replace("2026", "2027"))
    with pytest.raises(UsageError, match="holds 2 logs of 'sums'"):
        read_log(place)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([LM_EVAL / "guess-0"], "--from takes two folders of logs"),
        ([LM_EVAL / "guess-0", LM_EVAL / "guess-0"], "hold the same scores"),
        ([LM_EVAL / "guess-0", SIDES["inspect_ai"][0]], "documents of two tools are not paired"),
        ([LM_EVAL / "guess-0", Path("nowhere")], "no log of another tool in nowhere (there is no such folder)"),
        ([FOREIGN, LM_EVAL / "guess-0"], "holds logs of"),
    ],
)
def test_wrong_use_is_exit_code_2(places: list[Path], message: str) -> None:
    done = CliRunner().invoke(app, ["compare", "--from", *map(str, places)])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_log_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    (path,) = SIDES["inspect_ai"][0].glob("*.eval")
    (tmp_path / "cut.eval").write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UsageError, match=r"cut\.eval is no log of inspect_ai \(BadZipFile"):
        read_log(tmp_path)


def test_the_command_prints_benchmarks_with_their_verdicts() -> None:
    places = [str(place) for place in SIDES["lm-eval"]]
    done = CliRunner().invoke(app, ["compare", "--from", *places])
    assert done.exit_code == 0, done.output
    text = " ".join(done.stdout.split())
    assert "bits_per_byte (bits per byte, lower is better)" in text
    assert "guess-0 better" in text
    assert "over 24 items" in text
    found = json.loads(CliRunner().invoke(app, ["compare", "--from", *places, "--json"]).stdout)["comparisons"]
    assert {entry["metric"] for entry in found} == {"acc", "exact_match", "word_perplexity", "bits_per_byte"}


def test_lm_eval_writes_today_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = importlib.util.spec_from_file_location("write_lm_eval", FOREIGN / "write_lm_eval.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    tasks = script.lay_tasks(tmp_path / "tasks")
    script.write(tmp_path / "fresh", seed=0, tasks=tasks, name="guess-0")
    assert means(tmp_path / "fresh") == pytest.approx(means(LM_EVAL / "guess-0"))
    with pytest.raises(UsageError, match="hold the same scores"):
        compare_logs(tmp_path / "fresh", LM_EVAL / "guess-0")
