"""The built wheel, installed in an empty environment, used from another folder, with the network cut off."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Any attempt to reach another machine is an error, whoever makes it and in whichever process.
CUT_OFF = """
import socket

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError(f"the test allows no network; tried {address}")
    return connect(self, address)

connect, socket.socket.connect = socket.socket.connect, refuse
"""


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run to a good end, without the source tree or the user's settings in sight."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LANG")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, so that building leaves nothing behind here."""
    source = tmp_path_factory.mktemp("source") / "ttbench"
    inner = shutil.ignore_patterns(".*", "__pycache__")

    def ignored(folder: str, names: list[str]) -> set[str]:
        outer = {"runs", "trained", "dist", "build"} if Path(folder) == ROOT else set()
        return {*inner(folder, names), *outer}

    shutil.copytree(ROOT, source, ignore=ignored)
    shutil.copy(ROOT / ".gitignore", source)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", source / "dist", cwd=source)
    return next((source / "dist").glob("ttbench-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment that holds the wheel, and reads its dependencies from this one."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin" / "python"
    # A process of the new environment installs: console script, metadata and all, as a user's pip would.
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, "--disable-pip-version-check", wheel, cwd=environment.parent)
    packages = Path(
        run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=environment.parent).stdout.strip()
    )
    # A path in a .pth file is searched last, and .pth files in it (an editable ttbench) are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    (packages / "sitecustomize.py").write_text(CUT_OFF, encoding="utf-8")
    return environment / "bin" / "ttbench"


def test_the_wheel_carries_what_the_commands_need_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for suite in (ROOT / "suites").rglob("*.yaml"):
        assert f"ttbench/{suite.relative_to(ROOT).as_posix()}" in names
    for path in (ROOT / "ttbench" / "zoo").rglob("*"):
        if path.is_file():
            assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "results" / "published").rglob("*"):
        if path.is_file():
            assert f"ttbench/{path.relative_to(ROOT).as_posix()}" in names
    assert "ttbench/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ttbench"}
    assert not [name for name in names if "test" in name.split("/")[0:2] or name.endswith(".pyc")]
    assert wheel.stat().st_size < 100 * 1024**2


def test_the_console_script_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "--version", cwd=tmp_path).stdout.startswith("ttbench 0.")
    found = json.loads(run(installed, "list", "--json", cwd=tmp_path).stdout)
    assert {"smoke", "bench"} <= {entry["name"] for entry in found["suites"]}
    tasks = {"adapt", "perplexity", "needle", "recall", "latency", "memory", "commonsense", "genomics", "probe"}
    assert tasks == {entry["name"] for entry in found["tasks"]}
    patterns = ("*/config.json", "genomes/*/config.json")
    zoo = sorted(path.parent.name for each in patterns for path in (ROOT / "ttbench" / "zoo").glob(each))
    assert sorted(entry["name"] for entry in found["checkpoints"]) == zoo


def test_the_installed_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = "import ttbench; print(ttbench.__file__)"
    path = Path(run(installed.parent / "python", "-c", code, cwd=tmp_path).stdout.strip())
    assert path.is_relative_to(installed.parents[1])


MAKE_CHECKPOINT = """
import torch
from ttbench.checkpoints.loading import save_checkpoint
from ttbench.models.transformer import Transformer
torch.manual_seed(0)
save_checkpoint(Transformer.tiny(), "mine", dtype="float32", extra={"train_ctx": 64, "tokenizer": "bytes"})
"""


def test_a_measurement_runs_offline(installed: Path, tmp_path: Path) -> None:
    run(installed.parent / "python", "-c", MAKE_CHECKPOINT, cwd=tmp_path)
    words = ["run", "perplexity", "--checkpoint", "mine", "--corpus", "kjv", "--ctx", "256", "--limit", "1", "--json"]
    done = run(installed, *words, "--threads", "1", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["statuses"] == {"ok": 1}
    assert (tmp_path / document["rows"]).is_file()


def test_the_network_really_is_cut_off(installed: Path, tmp_path: Path) -> None:
    code = "import urllib.request as u\ntry: u.urlopen('http://192.0.2.1', timeout=1)\nexcept OSError as e: print(e)"
    assert "allows no network" in run(installed.parent / "python", "-c", code, cwd=tmp_path).stdout


# What the package says about itself


def requirement(text: str) -> tuple[str, str]:
    """Name in the index's spelling, and the rest."""
    match = re.match(r"[A-Za-z0-9._-]+", text)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower(), text[match.end() :]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: version for name, version in pairs}


def test_ranges_are_in_pyproject_and_every_dependency_is_pinned_in_constraints() -> None:
    wanted = [
        *PROJECT["dependencies"],
        *(item for extra in PROJECT["optional-dependencies"].values() for item in extra),
    ]
    found = pins()
    for text in wanted:
        name, rest = requirement(text)
        assert ">=" in rest, text
        assert "==" not in rest.partition(";")[0], text
        if name != "pip":
            assert name in found, f"{name} is not in constraints.txt; run `make constraints`"
    assert (found["torch"], found["triton"], found["sympy"]) == ("2.13.0", "3.7.1", "1.14.0")


def test_constraints_pin_each_distribution_once_and_name_no_place() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.!]+", line) for line in lines)
    assert len({line.split("==")[0] for line in lines}) == len(lines)


def test_the_licence_is_the_apache_licence_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"
