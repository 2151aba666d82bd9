"""Options are declared once: what the command line, suites and Python take are the same, and nothing is guessed."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import ttbench
from ttbench.cli import app
from ttbench.errors import SuiteError, UnknownNameError, UsageError
from ttbench.machine import measure
from ttbench.runs.executors.base import Placement
from ttbench.runs.options import Options, as_flags, flags, from_flags, sweep, validated
from ttbench.runs.request import placement, plan_suite, plan_task
from ttbench.runs.suite import load_suite


def asked(*words: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(app.app, list(words), env={"COLUMNS": "200"})


def test_run_and_plan_take_every_option_and_no_other() -> None:
    own = {"target", "out", "name", "fresh", "json"}
    for command in (app.run, app.plan):
        assert set(inspect.signature(command).parameters) - own == set(flags())
    text = asked("run", "--help").output
    for name, flag in flags().items():
        assert f"  {flag.spelt(name)}" in text


def test_a_suite_takes_every_option(tmp_path: Path) -> None:
    values = {
        "ctx": "1k", "checkpoints": "[transformer]", "corpus": "code", "protocol": "fixed", "limit": "3",
        "depth_mode": "grid", "params": "{window: 64}", "imports": "[json]", "device": "cpu",
        "device_map": "auto",
        "dtype": "[float32, bfloat16]", "engine": "eager", "attention": "sdpa", "batch_size": "[1, 2]",
        "threads": "1", "seed": "[0, 1]", "timeout": "60.5", "unchecked": "true",
    }  # fmt: skip
    where = {"executor": "local", "jobs": "2", "cluster": "cluster.yaml"}
    assert values.keys() | where.keys() == flags().keys()
    body = "".join(f"    {name}: {value}\n" for name, value in values.items())
    path = tmp_path / "x.yaml"
    head = "".join(f"{name}: {value}\n" for name, value in where.items())
    path.write_text(f"title: t\n{head}tasks:\n  - task: perplexity\n{body}")
    suite = load_suite(path)
    [entry] = suite.tasks
    assert entry.options.keys() == values.keys()
    assert suite.placed == {"executor": "local", "jobs": 2, "cluster": "cluster.yaml"}
    assert entry.options["seed"] == [0, 1]  # type: ignore[typeddict-item]


def test_where_cells_run_is_said_once_for_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: t\ntasks:\n  - task: perplexity\n    executor: slurm\n")
    with pytest.raises(SuiteError, match=r"unknown key 'executor' in .*x\.yaml:4"):
        load_suite(path)
    path.write_text("title: t\nexecutor: locl\ntasks:\n  - task: perplexity\n")
    with pytest.raises(UnknownNameError, match="unknown executor 'locl'; did you mean 'local'"):
        placement("suite", str(path), {})
    path.write_text("title: t\nexecutor: local\njobs: 3\ntasks:\n  - task: perplexity\n")
    assert placement("suite", str(path), {"jobs": 2}) == Placement(jobs=2)
    assert placement("task", "perplexity", {}) == Placement()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("seed", "3", "option 'seed' must be a whole number of at least 0, or a list of such; got '3'"),
        ("seed", [0, -1], "at least 0"),
        ("seed", True, "a whole number"),
        ("batch_size", 0, "at least 1"),
        ("threads", [1], "must be a whole number of at least 1; got"),
        ("timeout", "fast", "must be a number of seconds"),
        ("unchecked", 1, "true or false"),
        ("corpus", ["code"], "'corpus' must be text; got"),
        ("params", ["a=1"], "names with values"),
    ],
)
def test_a_value_of_another_type_is_refused_in_words(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("[", r"\[")):
        validated({name: value})


def test_a_name_that_is_no_option_is_refused_from_python() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'checkpoints'"):
        ttbench.run("perplexity", checkpoint="transformer")  # type: ignore[call-arg]


def test_one_checkpoint_may_be_a_string(tmp_path: Path) -> None:
    one, listed = (
        plan_task("latency", validated({"checkpoints": given, "ctx": "256"}), out=tmp_path)
        for given in ("transformer", ["transformer"])
    )
    assert [cell.cell_id for cell in one.cells] == [cell.cell_id for cell in listed.cells]
    assert {cell.checkpoint.name for cell in one.cells} == {"transformer"}


def test_lists_are_swept(tmp_path: Path) -> None:
    options = validated({"seed": [0, 1], "batch_size": (1, 4), "checkpoints": "transformer", "ctx": "256"})
    points = list(sweep(options))
    assert [(point["batch_size"], point["seed"]) for point in points] == [(1, 0), (1, 1), (4, 0), (4, 1)]  # type: ignore[typeddict-item]
    plan = plan_task("perplexity", options, out=tmp_path)
    assert [(cell.batch_size, cell.seed) for cell in plan.cells] == [(1, 0), (1, 1), (4, 0), (4, 1)]
    path = tmp_path / "x.yaml"
    path.write_text("title: t\nseed: [0, 1]\nctx: 256\ntasks:\n  - {task: perplexity, checkpoints: transformer}\n")
    assert [cell.seed for cell in plan_suite(path, Options(), out=tmp_path).cells] == [0, 1]


def test_an_option_given_twice_is_a_list_or_is_refused() -> None:
    for words in (["--corpus", "code"], ["--timeout", "3"], ["--threads", "1"]):
        found = asked("plan", "perplexity", *words, *words)
        assert found.exit_code == 2
        assert f"{words[0]} is given 2 times; give it once" in found.output
    found = asked("check", "transformer", "--dtype", "float32", "--dtype", "float64")
    assert (found.exit_code, "--dtype is given 2 times" in found.output) == (2, True)
    for twice in (["--param", "window=64", "--param", "window=32"],):
        found = asked("plan", "perplexity", *twice)
        assert (found.exit_code, "window is given twice" in found.output + found.stderr) == (2, True)


def test_a_parameter_mistaken_for_an_option_is_told_how_it_is_written() -> None:
    found = asked("run", "latency", "--rounds", "3")
    assert found.exit_code == 2
    assert "--rounds is a parameter of latency, memory" in found.output
    assert "write --param rounds=VALUE" in found.output
    assert "No such option" in asked("run", "latency", "--nothing").output


def test_parameters_of_the_command_line_have_the_types_of_yaml() -> None:
    words = ["rounds=3", "warm_up_s=0.5", "kind=mqar", "flag=true", "text=a=b", "empty="]
    expected = {"rounds": 3, "warm_up_s": 0.5, "kind": "mqar", "flag": True, "text": "a=b", "empty": ""}
    assert from_flags({"params": words}) == {"params": expected}
    with pytest.raises(UsageError, match="--param takes NAME=VALUE"):
        from_flags({"params": ["rounds"]})


SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), st.sampled_from(["a", "b c", "x=y"]), st.floats(0.5, 2))


@settings(deadline=None, max_examples=60)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "ctx": st.sampled_from(["1k", "1k,4k", "1k..32k"]),
            "checkpoints": st.lists(st.sampled_from(["transformer", "org/name@1", "a b"]), min_size=1).map(tuple),
            "limit": st.one_of(st.integers(1, 9), st.just("all")),
            "params": st.dictionaries(st.sampled_from(["window", "rounds", "kind"]), SCALARS, min_size=1),
            "seed": st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9), min_size=2).map(tuple)),
            "engine": st.sampled_from(["eager", "hf"]),
            "timeout": st.floats(1, 1e6),
            "unchecked": st.just(True),
        },
    )
)
def test_what_is_spelt_for_the_command_line_asks_for_the_same(options: dict[str, Any]) -> None:
    words = as_flags(validated(options))
    found: dict[str, Any] = {}
    spelt = {flag.spelt(name): name for name, flag in flags().items()}
    while words:
        name = spelt[words.pop(0)]
        flag = flags()[name]
        if flag.kind is bool:
            found[name] = True
            continue
        text = words.pop(0)
        value = flag.read(text) if flag.read else flag.kind(text)
        found[name] = [*found.get(name, []), value] if flag.many or flag.swept else value
    assert from_flags(found) == validated(options)


@pytest.mark.parametrize(("asks", "threads"), [("1", 1), ("64", 4), ("2,1", 2), ("", 4), ("many", 4), ("0", 4)])
def test_threads_are_what_openmp_is_asked_for_but_never_more_than_cores(
    monkeypatch: pytest.MonkeyPatch, asks: str, threads: int
) -> None:
    monkeypatch.setattr(measure, "num_cores", lambda: 4)
    monkeypatch.setattr(measure, "cpu_quota", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", asks)
    assert measure.default_threads() == threads


def test_a_suite_names_the_line_of_a_value_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: t\ntasks:\n  - task: latency\n    ctx: 1k\n    batch_size: [1, zero]\n")
    with pytest.raises(SuiteError, match=r"x.yaml:5: key 'batch_size' must be a whole number of at least 1, or a list"):
        load_suite(path)
