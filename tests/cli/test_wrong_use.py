"""Odd, wrong and hostile words on the command line: one sentence that says what to do, and nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_home import RUN, lay_home
from typer.testing import CliRunner

from ttbench.cli import console
from ttbench.cli.app import app
from ttbench.errors import SuiteError, UsageError
from ttbench.runs.options import as_flags, from_flags, validated
from ttbench.store.store import run_folders
from ttbench.strict_yaml.nodes import read_value, read_yaml


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint, a text, and one finished run of both."""
    folder = lay_home(tmp_path_factory.mktemp("wrong"), "tiny")
    subprocess.run([sys.executable, "-m", "ttbench", *RUN], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, so that a test may break what it likes."""
    shutil.copytree(home, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def invoke(*words: str, status: int = 2) -> Any:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert done.exit_code == status, (done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


# Runs


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_stands_for_no_run(here: Path, name: str) -> None:
    [folder] = run_folders("runs")
    invoke("runs", "rm", name, "-y")
    invoke("show", name)
    assert run_folders("runs") == [folder]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": [{"checkpo'])
def test_a_damaged_run_does_not_stand_in_the_way_of_others(here: Path, content: str) -> None:
    shutil.copytree(run_folders("runs")[0], "runs/20990101-000000-broken")
    Path("runs/20990101-000000-broken/run.json").write_text(content)
    listed = json.loads(invoke("list", "runs", "--json", status=0).stdout)
    assert [entry["name"].endswith("-broken") for entry in listed] == [True, False]
    assert (listed[0]["command"], listed[1]["reason"]) == (None, None)
    assert "is damaged" in listed[0]["reason"]
    assert listed[1]["statuses"] == {"ok": 1}
    assert "takes over what is finished there" in " ".join(invoke("list", "runs", status=0).stdout.split())
    compared = invoke("compare", "tiny", "tiny@engine=hf")
    assert "left out: runs/20990101-000000-broken/run.json is damaged" in compared.stderr
    assert "no row of 'tiny' has engine=hf" in compared.stderr


def test_a_run_without_its_environment_says_so(here: Path) -> None:
    (run_folders("runs")[0] / "environment.json").unlink()
    assert "environment.json cannot be read" in invoke("show", "last").stderr


def test_figures_of_a_run_that_was_cut_off_name_the_way_on(here: Path) -> None:
    [folder] = run_folders("runs")
    (folder / "rows.parquet").unlink()
    assert f"ttbench collect {folder.name}" in invoke("figures", folder.name).stderr
    shutil.copytree(folder, "runs/20990101-000000-whole")
    invoke("collect", "20990101-000000-whole", status=0)
    # one of two folders without rows is not passed over
    assert f"no rows.parquet in {folder.name}" in invoke("figures", "20990101-000000-whole", folder.name).stderr


def test_a_gate_on_times_without_a_time_is_not_green(here: Path) -> None:
    said = invoke("gate", "last", "--baseline", str(run_folders("runs")[0]), "--timing").stderr
    assert "holds none; measure some with: ttbench run latency" in " ".join(said.split())


def test_a_verdict_is_printed_though_its_file_cannot_be_written(here: Path) -> None:
    words = ["gate", "last", "--baseline", str(run_folders("runs")[0])]
    Path("afile").write_text("")
    done = invoke(*words, "--markdown", "afile/gate.md")
    assert "green" in done.output
    assert "--out" not in done.stderr


# Words


def test_names_are_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("text:x:smile:y")
    console.print_rich("corpus text:loop:")
    shown = capsys.readouterr()
    assert "text:x:smile:y" in shown.err
    assert "text:loop:" in shown.out


@pytest.mark.parametrize(
    "params",
    [
        {"depths": "0.5"},
        {"stride": None},
        {"depths": None, "limit": 3, "share_prefixes": False},
        {"name": "all", "other": "null", "more": "true", "date": "2026-01-02", "octal": "010", "time": "1:30"},
        {"name": "", "quote": '"', "colon": "a: b", "list": "[1]", "hash": "a #b", "space": " a", "tag": "!!int 2"},
        {"rate": 0.1, "small": 1e-9, "large": 1e22, "number": -3, "word": "größe"},
    ],
)
def test_a_command_to_copy_asks_for_the_same_parameters(params: dict[str, Any]) -> None:
    words = as_flags(validated({"params": params}))
    found: Any = from_flags({"params": words[1::2]})
    assert found == {"params": params}
    assert [type(value) for value in found["params"].values()] == [type(value) for value in params.values()]


def test_what_is_asked_for_twice_is_refused(here: Path) -> None:
    assert (
        "'limit' and the parameter 'limit' are both given" in invoke(*RUN, "--limit", "3", "--param", "limit=2").stderr
    )
    suite = {"title": "t", "tasks": [{"task": "perplexity", "limit": 3, "params": {"limit": 2}}]}
    Path("twice.yaml").write_text(yaml.safe_dump(suite))
    assert "twice.yaml:2: key 'limit' and the parameter 'limit' are both given" in invoke("plan", "twice.yaml").stderr


@pytest.mark.parametrize("key", ["seed", "batch_size", "dtype", "checkpoints", "ctx"])
def test_an_empty_list_in_a_suite_is_refused_by_its_line(here: Path, key: str) -> None:
    Path("empty.yaml").write_text(f"title: t\ntasks:\n  - task: perplexity\n    {key}: []\n")
    runs = run_folders("runs")
    for command in ("plan", "run"):
        assert "empty.yaml:4: " in invoke(command, "./empty.yaml").stderr
    assert run_folders("runs") == runs


@pytest.mark.parametrize("text", ["010", "0256", "-017", "1:30", "4:16", "1:30.5", "0_7"])
def test_a_number_that_yaml_1_1_counts_otherwise_is_refused(here: Path, text: str) -> None:
    with pytest.raises(ValueError, match="is another number in YAML"):
        read_value(text)
    assert (
        "is another number in YAML 1.1 than it looks" in invoke("plan", "perplexity", "--param", f"limit={text}").stderr
    )
    Path("octal.yaml").write_text(f"title: t\ntasks:\n  - task: perplexity\n    ctx: {text}\n")
    assert "octal.yaml:4: " in invoke("plan", "./octal.yaml").stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("0", 0),
        ("0.5", 0.5),
        ("-3", -3),
        ("1e-3", 0.001),
        ("-2E5", -2e5),
        ("'1e-3'", "1e-3"),
        ("2026-13-45", "2026-13-45"),
        ("1.0e-3", 0.001),
        ("0x10", 16),
        ("true", True),
        ("null", None),
        ("32k", "32k"),
        ("'010'", "010"),
        ('"1:30"', "1:30"),
        ("[1, 2]", "[1, 2]"),
        ("a: b", "a: b"),
        ("!!int 2", "!!int 2"),
        ("'", "'"),
        ("[" * 5000, "[" * 5000),
        (" a", " a"),
    ],
)
def test_one_value_is_read_as_yaml_does_and_the_rest_is_text(text: str, value: Any) -> None:
    found = read_value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("value", ["0x_", "0b_", "9" * 5000, "!!int abc", "!!float abc", "!!bool maybe", "!!str 2"])
def test_what_yaml_cannot_read_is_named_by_file_and_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(f"title: t\nctx: {value}\n")
    with pytest.raises(SuiteError, match=r"odd\.yaml:2: "):
        read_yaml(path, noun="suite", needs="tasks").mapping(None)["ctx"].scalar()


def test_a_file_of_brackets_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("[" * 5000)
    with pytest.raises(SuiteError, match="nested too deeply"):
        read_yaml(path, noun="suite", needs="tasks")


@pytest.mark.parametrize("text", ["0x_", "9" * 5000])
def test_a_parameter_that_is_no_value_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="--param limit: "):
        from_flags({"params": [f"limit={text}"]})


def test_a_context_of_too_many_digits_is_refused_in_words() -> None:
    assert "is not a number of tokens" in invoke("plan", "perplexity", "--ctx", "9" * 5000).stderr


# Places


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "perplexity", "--corpus", f"text:{'x' * 300}"],
        ["plan", "perplexity", "--checkpoint", "x" * 300],
        ["plan", f"./{'x' * 300}.yaml"],
        ["show", "x" * 300],
        ["figures", "x" * 300],
        ["generate", "x" * 300, "a"],
    ],
)
def test_a_path_that_the_system_refuses_is_one_line(here: Path, words: list[str]) -> None:
    said = invoke(*words).stderr
    assert "File name too long" in said
    assert "xxx..." in said


def test_a_folder_that_may_not_be_read_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def refused(self: Path, **options: Any) -> Any:
        if self.name == "private.yaml":
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refused)
    assert "private.yaml: Permission denied" in invoke("plan", "./private.yaml").stderr


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0:1", "tpu"])
def test_a_plan_knows_the_devices_that_a_run_knows(here: Path, device: str) -> None:
    assert (
        f"unknown device '{device}'; available: cpu, cuda, cuda:<index>"
        in invoke("plan", *RUN[1:], "--device", device).stderr
    )


@pytest.mark.parametrize("ctx", ["1", "96", "1k,2k", "512..2k"])
def test_a_check_looks_at_one_length_that_there_is_something_to_see_in(here: Path, ctx: str) -> None:
    assert "--ctx of check is one length of at least 128 tokens" in invoke("check", "tiny", "--ctx", ctx).stderr
