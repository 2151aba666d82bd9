"""One paper from its suite to its figure: checkpoints in the hub's layout, measured by the suite, drawn by the command.

They are tiny models of ours under the authors' names and commit, and so they stand in and regenerate nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from ttbench.checkpoints.loading import save_checkpoint
from ttbench.cli.app import app
from ttbench.models.ttt import TTTMLP, TTTLinear
from ttbench.report.papers.preset import PAPER, list_presets

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODELS = {
    "RetentionLabs/TTT-Linear-760M-Base-Pile-8k": TTTLinear,
    "RetentionLabs/TTT-MLP-760M-Base-Pile-8k": TTTMLP,
}


def fill(cache: Path, hub_id: str, folder: Path) -> None:
    """What `hf download` leaves behind: blobs, links to them from a snapshot, and a ref."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repo / "snapshots" / COMMIT
    for path in (snapshot, repo / "blobs", repo / "refs"):
        path.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        blob = repo / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the texts, a filled cache, and the paper's suite as far as it is measured here."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    torch.manual_seed(0)
    for hub_id, model in MODELS.items():
        extra = {"train_ctx": 64, "tokenizer": "bytes"}
        save_checkpoint(model.tiny(), tmp_path / "made" / hub_id, dtype="float32", extra=extra)
        fill(tmp_path / "hub", hub_id, tmp_path / "made" / hub_id)
    (tmp_path / "data" / "pile").mkdir(parents=True)
    for number in range(6):
        (tmp_path / "data" / "pile" / f"{number}.txt").write_text(f"Document {number} says little. " * 20)
    data = yaml.safe_load(list_presets()["ttt"].read_text(encoding="utf-8"))
    first = data["tasks"][0]
    data["tasks"] = [{**first, "ctx": [64, 128], "checkpoints": list(MODELS)}]
    paper = data[PAPER]
    paper["figures"] = [figure for figure in paper["figures"] if figure["name"] == "perplexity_pile"]
    names = {"TTT-Linear 760M", "TTT-MLP 760M", "TTT-Linear 1.3B", "TTT-MLP 1.3B"}
    paper["checkpoints"] = [{**each, "revision": COMMIT} for each in paper["checkpoints"] if each["model"] in names]
    (tmp_path / "suites" / "papers").mkdir(parents=True)
    (tmp_path / "suites" / "papers" / "ttt.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_paper_goes_from_the_hubs_layout_to_its_figure_and_calls_nothing_regenerated(home: Path) -> None:
    done = CliRunner().invoke(app, ["run", "papers/ttt", "--threads", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["statuses"] == {"ok": 4}
    drawn = CliRunner().invoke(app, ["figures", "last", "--paper", "ttt", "--json"])
    assert drawn.exit_code == 0, drawn.output
    files = json.loads(drawn.stdout)
    assert "figures/ttt/perplexity_pile.png" in files
    table = pd.read_csv("figures/ttt/perplexity_pile.csv")
    stand_ins = table.loc[table["word"] == "stand-in"]
    assert set(stand_ins["checkpoint"]) == set(MODELS)
    assert set(stand_ins["revision"]) == {COMMIT}
    assert stand_ins.groupby("line")["at"].apply(list).tolist() == [[64, 128], [64, 128]]
    # by the paper's protocol and in its unit, and yet no rerun: these are not their weights
    assert stand_ins["unit"].isna().all()
    assert stand_ins["note"].str.contains("parameters are not the").all()
    assert "rerun" not in set(table["word"])


def test_a_paper_that_is_not_there_is_wrong_use() -> None:
    done = CliRunner().invoke(app, ["figures", "--paper", "tt"])
    assert (done.exit_code, "did you mean 'ttt'" in done.output) == (2, True)
