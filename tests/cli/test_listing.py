"""What there is to choose from: every entry says in a line what it is, read from source, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttbench.checkpoints.checkpoint import zoo_names
from ttbench.cli import gather as reading
from ttbench.cli import listing
from ttbench.cli.app import app
from ttbench.errors import UnknownNameError, UsageError
from ttbench.registry import ARCHITECTURES, CORPORA, TASKS, Registry

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("registry", [ARCHITECTURES, TASKS, CORPORA], ids=lambda registry: registry.noun)
def test_no_two_entries_are_described_alike_and_none_is_without_words(registry: Registry) -> None:
    words = [entry["description"] for entry in listing.registered(registry)]
    assert len(words) == len(registry) > 1
    assert len(set(words)) == len(words), sorted(words)
    assert all(len(each.split()) >= 5 for each in words)


def test_architectures_that_share_a_module_are_told_apart_by_their_own_docstrings(tmp_path, monkeypatch) -> None:
    (tmp_path / "two_models.py").write_text(
        '"""Of both."""\n\n\nclass One:\n    """The first.\n\n    More."""\n\n\nclass Other:\n    pass\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    both = {"one": "two_models:One", "other": "two_models:Other"}

    def described(names: dict[str, str]) -> dict[str, str]:
        registry = Registry("architecture", group="ttbench.none", built_in=names)
        return {entry["name"]: entry["description"] for entry in listing.registered(registry)}

    assert described(both) == {"one": "The first", "other": "Of both"}
    assert described({"one": both["one"]}) == {"one": "Of both"}


def test_the_zoo_is_listed_without_torch_as_it_is_resolved_with_it() -> None:
    names = tuple(listing.zoo_folders())
    assert names[: len(zoo_names())] == zoo_names() != ()
    assert names[len(zoo_names()) :] == ("dna-transformer", "dna-ttt-linear")


def test_the_overview_names_everything_and_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ttbench.cli.app import app\n"
        "try: app(['list'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "False"
    for name in ("perplexity", "ttt-linear", "kjv", "smoke"):
        assert name in done.stdout


def run_in(root: Path, name: str) -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "run.json").write_text("{}")
    return root / name


def test_the_newest_run_is_called_last_and_other_words_for_it_are_told_so(tmp_path: Path) -> None:
    for name in ("20260101-000000-needle", "20260102-000000-memory"):
        run_in(tmp_path, name)
    assert listing.find_run("last", tmp_path).name == "20260102-000000-memory"
    with pytest.raises(UnknownNameError, match="did you mean 'last'"):
        listing.find_run("latest", tmp_path)


def test_where_nothing_was_measured_the_first_command_is_the_one_that_the_help_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no runs in .* yet; start with: ") as caught:
        listing.find_run("last", tmp_path)
    first = str(caught.value).rpartition("start with: ")[2]
    assert (app.info.epilog or "").endswith(first)
    with pytest.raises(UsageError, match="nothing has been measured yet") as caught:
        reading.rows_about([], root=tmp_path / "nowhere")
    assert str(caught.value).endswith(f"start with: {first}")
