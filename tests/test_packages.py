"""Packages of the user's own: imported first in every process, and part of the digest; a broken one breaks nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ttbench import packages
from ttbench.cli.app import app
from ttbench.code import code_digest
from ttbench.errors import PlugInError, UsageError
from ttbench.registry import ARCHITECTURES

PACKAGE = """
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own-llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * SCALE
        return out

SCALE = 0.5
AutoConfig.register("own-llama", OwnConfig)
AutoModelForCausalLM.register(OwnConfig, OwnModel)
"""
SHORT = ["--param", "window=32", "--param", "max_context=64", "--threads", "1", "--unchecked", "--json"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the package `ownpkg` and a checkpoint of the model that it registers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    (tmp_path / "ownpkg").mkdir()
    (tmp_path / "ownpkg" / "__init__.py").write_text(PACKAGE)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 257,
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
    }
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "own-llama", "tokenizer": "bytes"}))
    return tmp_path


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process in that folder, with its packages in sight; what they register with transformers is undone."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setattr(packages, "_imported", {})
    monkeypatch.delitem(sys.modules, "ownpkg", raising=False)
    for mapping in (CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    return home


def invoke(*words: str, status: int = 0) -> Any:
    """The command line in this process; only the workers of a run are processes of their own."""
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert done.exit_code == status, done.stdout + done.stderr
    return done


def ttbench(home: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ttbench", *words],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_a_model_that_a_package_registers_runs_and_its_code_counts(here: Path) -> None:
    run = ["run", "perplexity", "--checkpoint", "model", "--engine", "hf", "--ctx", "64", "--limit", "2", *SHORT]
    assert "own-llama" in invoke(*run, status=2).stderr
    first = json.loads(ttbench(here, *run, "--import", "ownpkg").stdout)
    assert (first["statuses"], first["num_reused"]) == ({"ok": 1}, 0)
    source = here / "ownpkg" / "__init__.py"
    source.write_text(source.read_text().replace("SCALE = 0.5", "SCALE = 3.0"))
    changed = json.loads(invoke(*run, "--import", "ownpkg").stdout)
    assert (changed["statuses"], changed["num_reused"]) == ({"ok": 1}, 0)
    assert first["summary"][0]["value"] != changed["summary"][0]["value"]


def test_a_package_that_cannot_be_imported_is_one_line(here: Path) -> None:
    said = invoke("plan", "perplexity", "--import", "nowhere", status=2).stderr
    assert "--import: 'nowhere' cannot be imported: ModuleNotFoundError" in said
    assert "PYTHONPATH" in said
    assert "Traceback" not in said
    (here / "ownpkg" / "__init__.py").write_text("1 / 0")
    assert "ZeroDivisionError" in invoke("plan", "perplexity", "--import", "ownpkg", status=2).stderr


def test_the_digest_of_the_code_holds_what_was_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_imported", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "counted_pkg.py").write_text("x = 1\n")

    def digest() -> str:
        return code_digest(architecture="mamba", task="perplexity", engine="eager")

    before = digest()
    packages.import_packages(["counted_pkg"])
    after = digest()
    assert before != after
    (tmp_path / "counted_pkg.py").write_text("x = 22\n")
    assert digest() not in (before, after)
    sys.modules.pop("counted_pkg")
    with pytest.raises(UsageError, match="no_such_package_here"):
        packages.import_packages(["no_such_package_here"])


def test_a_broken_plug_in_is_one_line_and_everything_else_works(here: Path) -> None:
    information = here / "broken-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    groups = {"architectures": "broken-arch", "tasks": "broken-task", "engines": "broken-engine"}
    points = "".join(f"[ttbench.{group}]\n{name} = broken_pkg.inner:Thing\n" for group, name in groups.items())
    (information / "entry_points.txt").write_text(points)
    (here / "broken_pkg").mkdir()
    (here / "broken_pkg" / "__init__.py").write_text("raise RuntimeError('not today')\n")
    done = ttbench(here, "run", "perplexity", "--checkpoint", "ttt-linear", "--ctx", "64", "--limit", "1", *SHORT)
    assert json.loads(done.stdout)["statuses"] == {"ok": 1}
    assert "the architecture 'broken-arch' of an installed plug-in" in done.stderr
    assert "not today" in done.stderr
    assert "Traceback" not in done.stderr
    for noun in ("tasks", "architectures", "checkpoints"):
        assert "Traceback" not in invoke("list", noun).stderr
    assert "cannot be imported" in invoke("run", "broken-task", status=2).stderr


def plug_in(here: Path, name: str, group: str, source: str, target: str) -> None:
    """A package with one entry point, as an installer leaves it."""
    information = here / f"{name}-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[ttbench.{group}]\n{name} = {name}:{target}\n")
    (here / f"{name}.py").write_text(source)


def test_plug_ins_that_import_and_are_no_such_thing_break_nothing_else(here: Path) -> None:
    plug_in(here, "cutoff", "architectures", "class Model(\n", "Model")
    plug_in(here, "mixeronly", "architectures", "from ttbench.models.stack import Mixer\n", "Mixer")
    plug_in(here, "notask", "tasks", "class Echo:\n    Params = int\n", "Echo")
    for noun in ("tasks", "architectures", "checkpoints"):
        listed = invoke("list", noun)
        assert "Traceback" not in listed.stderr
        assert "cutoff" in listed.stdout or noun != "architectures"
    assert "cannot be imported: SyntaxError" in " ".join(invoke("list", "architectures").stdout.split())
    done = ttbench(here, "run", "perplexity", "--checkpoint", "ttt-linear", "--ctx", "64", "--limit", "1", *SHORT)
    assert json.loads(done.stdout)["statuses"] == {"ok": 1}
    assert "'mixeronly' of an installed plug-in (mixeronly:Mixer) cannot be used" in done.stderr
    assert (
        "cannot be used: it is no class made from ttbench.tasks.base.Task" in invoke("run", "notask", status=2).stderr
    )


def test_what_is_built_in_and_broken_is_no_plug_ins_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES._built_in, "here", "ttbench.models.nowhere:Model")
    with pytest.raises(ModuleNotFoundError):
        ARCHITECTURES.load("here")
    monkeypatch.setattr(type(ARCHITECTURES), "_all", lambda self: {"there": "nowhere_at_all:Model"})
    with pytest.raises(PlugInError, match="'there' of an installed plug-in"):
        ARCHITECTURES.load("there")
