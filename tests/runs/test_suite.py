from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbench.errors import SuiteError, UnknownNameError, UsageError
from ttbench.registry import TASKS
from ttbench.runs.plan import read_params
from ttbench.runs.suite import find_suite, format_len, join, list_suites, load_suite, parse_ctx, plan
from ttbench.types import Cell

ROOT = Path(__file__).parents[2]

# Context lengths


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("32k", (32768,)),
        ("512", (512,)),
        ("1k,4k,32K", (1024, 4096, 32768)),
        ("1k..32k", (1024, 2048, 4096, 8192, 16384, 32768)),
        ("512..2k, 1m", (512, 1024, 2048, 1024**2)),
        ("100..800", (100, 200, 400, 800)),
        ("4k,1k,4k", (1024, 4096)),
        ("1k..1k", (1024,)),
        (2048, (2048,)),
        ([64, "1k"], (64, 1024)),
    ],
)
def test_context_lengths_are_read(text: Any, lengths: tuple[int, ...]) -> None:
    assert parse_ctx(text) == lengths


@pytest.mark.parametrize(
    "text", ["", "k", "0", "-1", "1.5k", "1kk", "1k,,2k", "..4k", "1k..", "1k...4k", "\uff12k", "9" * 30]
)
def test_a_context_length_that_makes_no_sense_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not a number of tokens from 1 to .* write 512, 32k"):
        parse_ctx(text)


@pytest.mark.parametrize(("text", "ends"), [("1k..24k", "16k or 32k"), ("3..10", "6 or 12"), ("4k..1k", "4k")])
def test_a_range_that_never_meets_its_end_says_where_it_could_end(text: str, ends: str) -> None:
    with pytest.raises(UsageError, match=f"end it at {ends}"):
        parse_ctx(text)


@given(st.integers(1, 2**40))
def test_a_formatted_length_reads_back_as_itself(length: int) -> None:
    assert parse_ctx(format_len(length)) == (length,)


# Suite files


def write(folder: Path, text: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(text)
    return path


GOOD = """\
title: A title
checkpoints: [one, two]
seed: 3
tasks:
  - task: fake-quality
    ctx: 1k..4k
    params: {limit: 5, sleep_s: 1, at: null}
  - task: fake-timing
    ctx: [512, 2k]
    checkpoints: [three]
    dtype: bfloat16
    timeout: 1.5
"""


def test_a_suite_says_what_its_file_says(fakes: ModuleType, tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GOOD))
    first, second = suite.tasks
    assert (suite.name, suite.title, suite.description) == ("x", "A title", "")
    assert first.task == "fake-quality"
    params = {"limit": 5, "sleep_s": 1, "at": None}
    assert first.options == {"checkpoints": ["one", "two"], "ctx": (1024, 2048, 4096), "seed": 3, "params": params}
    own = {"checkpoints": ["three"], "ctx": (512, 2048), "dtype": "bfloat16", "timeout": 1.5, "seed": 3}
    assert second.options == own
    assert first.where == f"{tmp_path}/x.yaml:5"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("title: A title", "titel: A title", 1, "unknown key 'titel' .*; did you mean 'title'"),
        ("    ctx: 1k..4k", "    ctxs: 1k..4k", 6, "unknown key 'ctxs' .*; did you mean 'ctx'"),
        ("task: fake-quality", "task: fake-qualty", 5, "unknown task 'fake-qualty' .*; did you mean 'fake-quality'"),
        ("limit: 5", "limits: 5", 7, "unknown parameter of fake-quality 'limits' .*; did you mean 'limit'"),
        ("limit: 5", "limit: many", 7, "'limit' of fake-quality .* must be a whole number or null; got 'many'"),
        ("limit: 5", "limit: true", 7, "must be a whole number or null; got True"),
        ("limit: 5", "limit: [5]", 7, r"must be a whole number or null; got \[5\]"),
        ("limit: 5", "protocol: plane", 7, "must be one of plain, fancy; got 'plane'"),
        ("sleep_s: 1", "sleep_s: -1", 5, "sleep_s must be 0 or more"),
        ("1k..4k", "1k..3k", 6, "does not reach its end"),
        ("seed: 3", "seed: three", 3, "'seed' must be a whole number of at least 0, or a list of such; got 'three'"),
        ("seed: 3", "seed: 2001-01-01", 3, "kind 'timestamp' is not allowed; put it in quotes"),
        ("seed: 3", "seed: !!python/object/apply:os.getpid []", 3, "kind 'python/object/apply:os.getpid'"),
        ("seed: 3", "seed: &a 3", 3, "anchors and aliases are not allowed"),
        ("seed: 3", "seed: {", 5, "not YAML"),
        ("seed: 3", "seed: 3\nseed: 4", 4, "key 'seed' is written twice"),
        ("[one, two]", "[1]", 2, r"'checkpoints' must be text, or a list of such; got \[1\]"),
        ("seed: 3", "seed: -1", 3, "'seed' must be a whole number of at least 0"),
        ("seed: 3", "unchecked: 3", 3, "'unchecked' must be true or false; got 3"),
        ("title: A title", "description: A title", 1, "key 'title' is missing"),
        ("  - task: fake-timing\n    ctx", "  - ctx", 8, "key 'task' is missing"),
    ],
)
def test_a_broken_suite_names_file_and_line(
    fakes: ModuleType, tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(SuiteError, match=f"(?s){message}") as caught:
        load_suite(write(tmp_path, GOOD.replace(old, new, 1)))
    assert f"x.yaml:{line}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("- a", "expected keys and values"), ("title: t\ntasks: []", "at least one"), ("\x00", "not YAML")],
)
def test_a_file_that_is_no_suite_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        load_suite(write(tmp_path, text))


def test_suites_are_found_by_path_then_here_then_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = find_suite("bench")
    assert shipped.is_file()
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "bench.yaml").touch()
    assert find_suite("bench") == Path("suites/bench.yaml")
    assert find_suite(str(shipped)) == shipped
    with pytest.raises(UnknownNameError, match="did you mean 'bench'"):
        find_suite("bench2")
    with pytest.raises(SuiteError, match=r"no suite file 'absent\.yaml'"):
        find_suite("absent.yaml")


@pytest.mark.parametrize("path", sorted(list_suites().values()), ids=lambda path: path.stem)
def test_a_shipped_suite_parses_and_its_parameters_fit(path: Path) -> None:
    suite = load_suite(path)
    for entry in suite.tasks:
        assert read_params(TASKS.load(entry.task), entry.params).keys() >= entry.params.keys()
    assert suite.description


def test_every_shipped_suite_is_listed() -> None:
    assert {"bench", "perplexity", "needle", "latency", "memory", "smoke"} <= list_suites().keys()


# Plans


def lay_out(fakes: ModuleType, task: str = "fake-quality", **changes: Any) -> Any:
    request = {
        "checkpoints": [fakes.checkpoint("a"), fakes.checkpoint("b")],
        "context_lens": [1024, 2048],
        "params": {},
        "corpus": "fake-corpus",
        "corpus_digest": "d",
        "seed": 0,
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "batch_size": None,
        "threads": 2,
        "machine": "m",
    }
    return plan(task, **{**request, **changes})


def points(cells: tuple[Cell, ...]) -> list[tuple[str, int, int]]:
    return [(cell.checkpoint.name, cell.context_len, cell.round) for cell in cells]


def test_quality_cells_go_checkpoint_by_checkpoint(fakes: ModuleType) -> None:
    cells = lay_out(fakes).cells
    assert points(cells) == [("a", 1024, 0), ("a", 2048, 0), ("b", 1024, 0), ("b", 2048, 0)]
    assert {cell.machine for cell in cells} == {None}
    assert {cell.corpus for cell in cells} == {None}


def test_rounds_of_timing_cells_alternate_between_checkpoints(fakes: ModuleType) -> None:
    cells = lay_out(fakes, "fake-timing", params={"rounds": 2}, context_lens=[512]).cells
    assert points(cells) == [("a", 512, 0), ("b", 512, 0), ("a", 512, 1), ("b", 512, 1)]
    assert {cell.machine for cell in cells} == {"m"}
    assert {cell.batch_size for cell in cells} == {2}


def test_the_identity_has_threads_and_machine_for_timing_cells_only(fakes: ModuleType) -> None:
    def ids(task: str, **changes: Any) -> set[str]:
        return {cell.cell_id for cell in lay_out(fakes, task, **changes).cells}

    for change in ({"threads": 1}, {"machine": "other"}):
        assert ids("fake-quality") == ids("fake-quality", **change)
        assert not ids("fake-timing") & ids("fake-timing", **change)
    assert not ids("fake-quality") & ids("fake-quality", seed=1)
    assert ids("fake-quality") == ids("fake-quality", params={"protocol": "plain", "sleep_s": 0})


def test_a_checkpoint_without_tokenizer_is_skipped_by_tasks_that_read_text(fakes: ModuleType) -> None:
    mute = fakes.checkpoint("mute", tokenizer_digest=None)
    found = lay_out(fakes, "fake-text", checkpoints=[fakes.checkpoint("a"), mute])
    assert {cell.checkpoint.name for cell in found.cells} == {"a"}
    assert {(skip.cell.checkpoint.name, skip.status) for skip in found.skips} == {("mute", "unsupported")}
    assert "no tokenizer" in found.skips[0].reason


def test_equal_weights_under_two_names_run_once(fakes: ModuleType) -> None:
    twin = fakes.checkpoint("twin", weights_digest=fakes.checkpoint("a").weights_digest)
    found = lay_out(fakes, checkpoints=[fakes.checkpoint("a"), twin])
    assert {cell.checkpoint.name for cell in found.cells} == {"a"}
    assert {(cell.checkpoint.name, cell.cell_id) for cell in found.twins} == {
        ("twin", cell.cell_id) for cell in found.cells
    }
    assert found.skips == ()


def test_cost_follows_the_checkpoint_s_formulas(fakes: ModuleType) -> None:
    found = lay_out(fakes, batch_size=4)
    cost = found.cells[0].checkpoint.cost
    first = found.estimates[found.cells[0].cell_id]
    assert first.flops == cost.prefill_flops(1024)
    assert first.state_bytes == 4 * cost.state_nbytes(1024)
    assert found.flops == 2 * (cost.prefill_flops(1024) + cost.prefill_flops(2048))
    assert found.state_bytes == 4 * cost.state_nbytes(2048)


def test_time_is_known_only_from_earlier_cells_of_its_kind(fakes: ModuleType) -> None:
    cells = lay_out(fakes).cells
    assert lay_out(fakes).seconds is None
    exact = lay_out(fakes, seed=5, timings=[(cell, 3.0) for cell in cells])
    assert exact.seconds == 12.0
    flops = cells[0].checkpoint.cost.prefill_flops
    scaled = lay_out(fakes, context_lens=[4096], timings=[(cells[0], 2.0)])
    assert scaled.seconds == pytest.approx(2 * 2.0 * flops(4096) / flops(1024))
    assert lay_out(fakes, dtype="bfloat16", timings=[(cells[0], 2.0)]).seconds is None


def test_joined_plans_run_a_shared_cell_once(fakes: ModuleType) -> None:
    one, two = lay_out(fakes), lay_out(fakes, context_lens=[2048, 4096])
    both = join([one, two])
    assert [length for _, length, _ in points(both.cells)] == [1024, 2048, 1024, 2048, 4096, 4096]
    assert both.flops == sum(each.flops or 0.0 for each in both.estimates.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": []}, "no checkpoint to measure"),
        ({"dtype": "float31"}, "unknown dtype 'float31'; did you mean 'float32'"),
        ({"threads": 0}, "threads must be more than 0; got 0"),
        ({"batch_size": 0}, "batch size must be more than 0"),
        *(
            ({"timeout_s": value}, "timeout must be a finite number of seconds more than 0; got .*; leave it out")
            for value in (-1.0, 0.0, float("inf"), float("nan"))
        ),
        ({"params": {"limits": 3}}, "did you mean 'limit'"),
        ({"params": {"sleep_s": -1.0}}, "sleep_s must be 0 or more"),
    ],
)
def test_a_request_without_meaning_is_refused(fakes: ModuleType, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lay_out(fakes, **changes)
