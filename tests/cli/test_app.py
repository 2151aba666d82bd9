"""The command line as a user meets it: options, words, exit codes, streams."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from ttbench.checkpoints.loading import save_checkpoint
from ttbench.cli import listing
from ttbench.cli.app import app
from ttbench.cli.commands import run_command as measure
from ttbench.engines import check as harness_check
from ttbench.engines.check import CheckResult
from ttbench.errors import GateError, StoreError
from ttbench.models.transformer import Transformer
from ttbench.runs.sweep import RunInterrupted
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[2]
FAKES = Path(__file__).parents[1] / "fakes"
GOLDEN = Path(__file__).parents[1] / "golden" / "cli.txt"
HEAVY = ("torch", "pandas", "datasets", "transformers", "rich.table")


def invoke(*words: str) -> Any:
    """Exit code, stdout and stderr of `ttbench words...` in this process."""
    return CliRunner().invoke(app, list(words))


def surface() -> str:
    """Every command with its arguments and options, one per line: what users and scripts rely on."""
    lines = []
    group: Any = typer.main.get_command(app)
    inner = {
        f"{name} {inside}": each
        for name, command in group.commands.items()
        for inside, each in getattr(command, "commands", {}).items()
    }
    for name, command in {"": group, **group.commands, **inner}.items():
        for parameter in command.params:
            words = ", ".join([*parameter.opts, *parameter.secondary_opts])
            kind = "option" if parameter.param_type_name == "option" else "argument"
            many = " (repeatable)" if getattr(parameter, "multiple", False) or parameter.nargs == -1 else ""
            lines.append(f"ttbench {name}".rstrip() + f": {kind} {words}{many}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny transformer that reads bytes."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    torch.manual_seed(0)
    save_checkpoint(Transformer.tiny(), folder, dtype="float32", extra={"train_ctx": 64, "tokenizer": "bytes"})
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: ModuleType) -> Path:
    """An empty current folder, with the fake tasks installed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a run of two checkpoints, tiny and other, on the same trials; and what the command printed."""
    folder, other = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("checkpoints") / "other"
    torch.manual_seed(1)
    save_checkpoint(Transformer.tiny(), other, dtype="float32", extra={"train_ctx": 64, "tokenizer": "bytes"})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FAKES))
        patch.chdir(folder)
        return folder, run_fake(checkpoint, "--checkpoint", str(other))


@pytest.fixture
def both(here: Path, finished: tuple[Path, Any]) -> Path:
    """The current folder, with that run."""
    shutil.copytree(finished[0], here, dirs_exist_ok=True)
    return here


# Help and start-up


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from ttbench.cli.app import app\n"
        f"try: app({words!r})\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert done.stderr.strip() == "[]"


def test_help_takes_at_most_a_third_of_a_processor_second() -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "ttbench", "--help"], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) <= 0.3


def test_the_option_names_are_the_frozen_ones() -> None:
    assert surface() == GOLDEN.read_text(encoding="utf-8"), f"to freeze anew: python {Path(__file__).name}"


def test_every_command_says_in_a_line_what_it_does_without_being_cut() -> None:
    text = invoke("--help").stdout
    group: Any = typer.main.get_command(app)
    assert all(f"  {name} " in text for name in group.commands)
    assert "..." not in text.replace("[ARGS]...", "")


def test_the_version_is_printed() -> None:
    assert invoke("--version").stdout.startswith("ttbench 0.")


# Wrong use


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "perplexty"], "unknown task or suite 'perplexty'; did you mean 'perplexity'?"),
        (["run", "smoke", "--checkpoint", "transfomer"], "unknown checkpoint 'transfomer'"),
        (["run", "nowhere.yaml"], "there is no suite file 'nowhere.yaml'"),
        (["plan", "perplexity", "--ctx", "3x"], "context length '3x'"),
        (["plan", "perplexity", "--protocol", "fixd"], "fixed"),
        (["plan", "latency", "--corpus", "code"], "reads no corpus"),
        (["plan", "perplexity", "--corpus", "cod"], "did you mean 'code'?"),
        (["plan", "perplexity", "--dtype", "float31"], "unknown dtype 'float31'"),
        (["list", "taks"], "did you mean 'tasks'?"),
        (["show", "nothing"], "'nothing'"),
        (["check", "nothing"], "unknown checkpoint 'nothing'"),
        (["train", "transfomer"], "did you mean 'transformer'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_one_message_on_stderr_and_exit_code_2(
    here: Path, checkpoint: Path, words: list[str], message: str
) -> None:
    given = ["--checkpoint", str(checkpoint)] if words[0] in ("run", "plan") and "--checkpoint" not in words else []
    result = invoke(*words, *given)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("words", [["rn"], ["run", "smoke", "--ctxx", "1k"], ["run", "smoke", "--limit", "0"], ["run"]])
def test_what_is_not_in_the_grammar_is_exit_code_2(words: list[str]) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert "Error" in result.stderr


# Running


def run_fake(checkpoint: Path, *words: str) -> Any:
    return invoke("run", "fake-quality", "--checkpoint", str(checkpoint), "--ctx", "64,128", *words)


def test_a_run_prints_the_settings_in_force_an_estimate_and_where_everything_is(finished: tuple[Path, Any]) -> None:
    folder, result = finished
    assert result.exit_code == 0
    words = " ".join(result.stderr.split())
    for setting in (
        "checkpoints tiny, other",
        "context 64, 128 tokens",
        "device=cpu",
        "dtype=float32",
        "seed=0",
        "timeout=none",
    ):
        assert setting in words
    assert "limit=all" in words
    assert "4 cells to do: about" in words
    assert "time not known: no rates of this machine were measured" in words
    assert "[1/4] fake-quality tiny 64" in words
    assert words.count("[4/4]") == 1
    assert "4 cells: 4 ok" in words
    (rows,) = (folder / "runs").glob("*/rows.parquet")
    assert str(rows.relative_to(folder)) in words
    assert "hits" in result.stdout


def test_the_same_command_again_measures_nothing_and_says_so(both: Path, checkpoint: Path) -> None:
    again = run_fake(checkpoint)
    assert again.exit_code == 0
    assert "2 cells, all answered by earlier runs" in " ".join(again.stderr.split())
    assert "[1/" not in again.stderr


def test_json_is_one_document_on_stdout_and_the_rest_stays_on_stderr(here: Path, checkpoint: Path) -> None:
    result = run_fake(checkpoint, "--json", "--limit", "2")
    document = json.loads(result.stdout)
    assert document["statuses"] == {"ok": 2}
    assert Path(document["rows"]).is_file()
    assert {entry["context_len"] for entry in document["summary"]} == {64, 128}
    assert "2 cells" in result.stderr


def test_failed_cells_are_exit_code_1_with_reasons_and_the_command_that_tries_again(
    here: Path, checkpoint: Path
) -> None:
    suite = here / "broken.yaml"
    suite.write_text("title: t\ntasks:\n  - {task: fake-quality, ctx: '64,128', params: {what: error, at: 128}}\n")
    result = invoke("run", "broken.yaml", "--checkpoint", str(checkpoint))
    words = " ".join(result.stderr.split())
    assert result.exit_code == 1
    assert "2 cells: 1 ok, 1 error" in words
    assert "ZeroDivisionError: first line" in words
    assert f"ttbench run broken.yaml --checkpoint {checkpoint}" in words


def test_an_answer_other_than_ok_is_exit_code_0_and_is_named(here: Path, checkpoint: Path) -> None:
    suite = here / "long.yaml"
    suite.write_text("title: t\ntasks:\n  - {task: fake-quality, ctx: '64,128', params: {what: too_long, at: 128}}\n")
    result = invoke("run", "long.yaml", "--checkpoint", str(checkpoint))
    assert result.exit_code == 0
    assert "1 ok, 1 too_long" in " ".join(result.stderr.split())
    assert "too_long: the model takes at most 512 tokens" in " ".join(f"{result.stdout} {result.stderr}".split())


def test_ctrl_c_prints_the_command_that_goes_on(here: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(plan: Any, *, command: str, out: Path, **_: Any) -> None:
        raise RunInterrupted(folder=out / "x", num_done=1, num_cells=2, command=command)

    monkeypatch.setattr(measure, "run_cells", interrupted)
    result = run_fake(checkpoint, "--limit", "3", "--batch-size", "2", "--out", "my runs")
    words = " ".join(result.stderr.split())
    assert result.exit_code == 130
    assert "1 of 2 cells are kept" in words
    assert f"ttbench run fake-quality --ctx 64,128 --checkpoint {checkpoint}" in words
    assert "--limit 3 --batch-size 2 --out 'my runs'" in words


@pytest.mark.parametrize(("error", "code"), [(GateError("it fell"), 3), (StoreError("it is full"), 2)])
def test_each_error_has_its_exit_code(
    here: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(measure, "run_cells", broken)
    result = run_fake(checkpoint)
    assert (result.exit_code, str(error) in result.stderr) == (code, True)


def test_plan_starts_nothing(here: Path, checkpoint: Path) -> None:
    words = ["plan", "fake-timing", "--checkpoint", str(checkpoint), "--ctx", "64"]
    result = invoke(*words)
    assert result.exit_code == 0
    assert "fake-timing" in result.stdout
    assert "ttbench run fake-timing" in " ".join(result.stderr.split())
    document = json.loads(invoke(*words, "--json").stdout)
    assert [cell["done"] for cell in document["cells"]] == [False]
    assert not (here / "runs").exists()


# Looking at things


def test_list_and_show_find_what_a_run_left(both: Path) -> None:
    (run,) = json.loads(invoke("list", "runs", "--json").stdout)
    assert run["statuses"] == {"ok": 4}
    shown = json.loads(invoke("show", "last", "--json").stdout)
    assert [cell["status"] for cell in shown["cells"]] == ["ok"] * 4
    cell_id = shown["cells"][0]["cell_id"]
    cell = json.loads(invoke("show", run["name"], cell_id[:9], "--json").stdout)
    assert [sample["trial"] for sample in cell["samples"]] == [0, 1, 2]
    assert "tiny" in invoke("show", "last").stdout
    assert "trial" in invoke("show", "last", cell_id[:9]).stdout
    sample = json.loads(invoke("show", "last", cell_id[:9], "--sample", "2", "--json").stdout)
    assert (sample["cell_id"], sample["sample"], sample["keys"]["trial"]) == (cell_id, 2, 2)
    assert "sample 2 of 3" in invoke("show", "last", cell_id[:9], "--sample", "2").stdout
    assert "there is no sample 3" in invoke("show", "last", cell_id[:9], "--sample", "3").stderr
    assert "--sample 0 needs a cell" in invoke("show", "last", "--sample", "0").stderr
    assert run["name"] in invoke("list", "runs").stdout
    assert run["name"] in invoke("list").stdout


@pytest.mark.parametrize("words", [[], ["--run", "last"]], ids=["all runs", "one run"])
def test_compare_reads_what_runs_left(both: Path, words: list[str]) -> None:
    told = json.loads(invoke("compare", "tiny", "other", "--json", *words).stdout)
    found = told["comparisons"]
    # without names all that there is
    assert json.loads(invoke("compare", "--json", *words).stdout)["names"] == told["names"]
    assert {(entry["a"], entry["b"], entry["metric"]) for entry in found} == {("tiny", "other", "hits")}
    assert [entry["context_len"] for entry in found] == [64, 128]
    assert "tiny and other" in invoke("compare", "tiny", "other", *words).stdout


def test_compare_reads_published_results_where_there_are_no_runs(both: Path) -> None:
    assert invoke("figures", "last", "--into", "results/fake/cpu").exit_code == 0
    shutil.rmtree("runs")
    assert "tiny and other" in invoke("compare", "tiny", "other").stdout
    assert "tiny and other" in invoke("compare", "tiny", "other", "--run", "results/fake/cpu").stdout
    refused = invoke("compare", "tiny", "other", "--run", "results/fake/cpu", "--run", "last")
    assert "not mixed with runs" in " ".join(refused.stderr.split())


def test_show_prints_the_table_of_published_results(both: Path) -> None:
    assert invoke("figures", "last", "--into", "results/fake/cpu").exit_code == 0
    assert {"tiny", "other"} <= set(invoke("show", "results/fake/cpu").stdout.split())
    shown = json.loads(invoke("show", "results/fake/cpu", "--json").stdout)
    assert {entry["checkpoint"] for entry in shown} == {"tiny", "other"}
    refused = invoke("show", "results/fake/cpu", "zz12")
    assert refused.exit_code == 2
    assert "unknown cell 'zz12' in results/fake/cpu" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("names", "message"),
    [(["tiny", "nobody"], "no rows of 'nobody'; measured are: other, tiny"), (["tiny", "tiny"], "with itself")],
)
def test_compare_says_what_it_lacks(both: Path, names: list[str], message: str) -> None:
    result = invoke("compare", *names)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_compare_before_any_run_says_how_to_start(here: Path) -> None:
    assert "start with: ttbench run perplexity" in " ".join(invoke("compare", "a", "b").stderr.split())


def test_figures_puts_runs_together_once_and_makes_the_same_files_again(both: Path, checkpoint: Path) -> None:
    run_fake(checkpoint)
    names = [entry["name"] for entry in json.loads(invoke("list", "runs", "--json").stdout)]
    made = json.loads(invoke("figures", *names, "--into", "results/fake/cpu", "--json").stdout)
    folder = both / "results" / "fake" / "cpu"
    assert len(read_rows(folder / "rows.parquet")) == 2 * 2 * 3
    before = {path: (both / path).read_bytes() for path in made if not path.endswith("rows.parquet")}
    assert "results/fake/cpu/table.csv" in before
    for path in before:
        (both / path).unlink()
    assert json.loads(invoke("figures", "--json").stdout) == list(before)
    assert {path: (both / path).read_bytes() for path in before} == before


def test_figures_without_rows_is_wrong_use(here: Path) -> None:
    (here / "results").mkdir()
    result = invoke("figures")
    assert (result.exit_code, "no rows.parquet in results" in result.stderr) == (2, True)


@pytest.mark.parametrize("noun", listing.NOUNS)
def test_every_noun_can_be_listed_as_text_and_as_json(here: Path, noun: str) -> None:
    entries = json.loads(invoke("list", noun, "--json").stdout)
    text = invoke("list", noun)
    assert text.exit_code == 0
    for entry in entries:
        assert entry["name"] in text.stdout


def test_a_suite_that_cannot_be_read_hides_no_other(here: Path) -> None:
    (here / "suites").mkdir()
    (here / "suites" / "mine.yaml").write_text("title: t\nnonsense: 1\n")
    found = {entry["name"]: entry["title"] for entry in json.loads(invoke("list", "suites", "--json").stdout)}
    assert "unknown key 'nonsense'" in found["mine"]
    assert {"smoke", "bench"} <= found.keys()


def test_doctor_looks_at_the_machine(here: Path) -> None:
    checks = json.loads(invoke("doctor", "--json").stdout)
    assert {"python", "torch", "load", "disk"} <= {check["name"] for check in checks}
    assert invoke("doctor").exit_code == 0


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (None, 0), (False, 3)], ids=["passed", "n-a", "failed"])
def test_a_probe_that_fails_is_a_failed_gate(monkeypatch: pytest.MonkeyPatch, passed: bool | None, code: int) -> None:
    def probe(checkpoint: str, **_: Any) -> list[CheckResult]:
        shared = {"measured": 0.5, "limit": 0.0, "unit": "count", "explanation": "what was looked at"}
        return [CheckResult(name=name, passed=given, **shared) for name, given in (("a", True), ("b", passed))]

    monkeypatch.setattr(harness_check, "check", probe)
    result = invoke("check", "mine")
    assert result.exit_code == code
    assert "what was looked at" in result.stdout
    assert ("fails 1 of 2 probes: b" in result.stderr) == (code == 3)
    assert [probe["passed"] for probe in json.loads(invoke("check", "mine", "--json").stdout)] == [True, passed]


def test_generate_continues_a_text(here: Path, checkpoint: Path) -> None:
    one = invoke("generate", str(checkpoint), "In the beginning", "--num-tokens", "9", "--threads", "1")
    document = json.loads(
        invoke("generate", str(checkpoint), "In the beginning", "--num-tokens", "9", "--threads", "1", "--json").stdout
    )
    assert one.exit_code == 0
    assert one.stdout == document["text"] + "\n"
    assert "17 tokens read, 9 written" in " ".join(one.stderr.split())


@pytest.mark.parametrize(
    ("noun", "name"),
    [("targets", "perplexity"), ("targets", "smoke"), ("corpora", "text:"), ("runs", "last"), ("nouns", "tasks")],
)
def test_the_shell_completes_names(here: Path, noun: str, name: str) -> None:
    assert name in listing.names(noun)


if __name__ == "__main__":
    GOLDEN.write_text(surface(), encoding="utf-8")
