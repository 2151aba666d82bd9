"""A model over memory and disk answers as it does in one place; what is fetched each time is never timed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hf_families import VOCAB, save

import ttbench
from ttbench.engines.hf import hf_devices
from ttbench.engines.hf.hf_engine import HFEngine
from ttbench.engines.kinds import load_engine, read_device_map
from ttbench.errors import UnsupportedError, UsageError, WeightsError
from ttbench.runs.worker import _refuse_offloaded
from ttbench.types import Cell

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread") / "llama"
    save("llama", folder)
    return folder


@pytest.fixture
def halves(llama: Path, tmp_path: Path) -> str:
    """A map with the first layer and the head in memory, the rest on disk."""
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    layers = {f"model.layers.{layer}": "disk" if layer else "cpu" for layer in range(_num_layers(llama))}
    path = tmp_path / "map.json"
    path.write_text(json.dumps({**dict.fromkeys(names, "cpu"), **layers, "model.norm": "disk"}))
    return str(path)


def _num_layers(folder: Path) -> int:
    return json.loads((folder / "config.json").read_text())["num_hidden_layers"]


def opened(folder: Path, device_map: str | None, dtype: str = "float32") -> HFEngine:
    found = read_device_map(device_map, engine="hf", device="cpu")
    engine = load_engine(str(folder), device="cpu", dtype=dtype, attention=None, engine="hf", device_map=found)
    assert isinstance(engine, HFEngine)
    return engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_over_memory_and_disk_are_those_of_one_place(llama: Path, halves: str, dtype: str) -> None:
    whole, spread = opened(llama, None, dtype), opened(llama, halves, dtype)
    assert any(parameter.device.type == "meta" for parameter in spread.model.parameters())
    ids = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(spread.logits(ids), whole.logits(ids))
    for engine in (whole, spread):
        engine.reset(2, 40)
    assert torch.equal(spread.prefill(ids[:, :30]), whole.prefill(ids[:, :30]))
    assert torch.equal(spread.decode(ids[:, 30]), whole.decode(ids[:, 30]))
    assert spread.weight_bytes == whole.weight_bytes
    assert (whole.offloaded, "placement" in whole.choices) == ((), False)
    assert set(spread.offloaded) >= {"model.layers.1", "model.norm"}
    assert "model.layers.0" not in spread.offloaded
    assert str(spread.choices["placement"]).startswith("cpu ")
    assert spread.placement != whole.placement


def test_a_strategy_puts_on_disk_what_memory_has_no_room_for(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = opened(llama, "auto")
    assert roomy.offloaded == ()
    one = sum(p.numel() * 4 for p in roomy.model.model.layers[0].parameters())
    room = sum(p.numel() * 4 for p in roomy.model.parameters()) - one
    monkeypatch.setattr(hf_devices, "available_bytes", lambda: int(room / hf_devices.SHARE))
    tight = opened(llama, "sequential")
    assert tight.offloaded
    ids = torch.arange(20)[None]
    assert torch.equal(tight.logits(ids), roomy.logits(ids))


def test_weights_that_would_be_written_anew_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "offload"
    for empty in (True, False):
        folder.mkdir()
        if empty:
            hf_devices.require_in_place(folder, name="llama")
        else:
            (folder / "lm_head.weight.dat").write_bytes(b"0")
            with pytest.raises(UnsupportedError, match=r"'llama' cannot stand on disk: .* leave disk out"):
                hf_devices.require_in_place(folder, name="llama")
        assert not folder.exists()


def test_weights_on_disk_are_looked_at_too(llama: Path, halves: str, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    bad = tmp_path / "bad"
    shutil.copytree(llama, bad)
    weights = load_file(bad / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj\.weight.* has 1 of .* NaN or infinite"):
        opened(bad, halves)


def test_what_is_fetched_each_time_is_not_timed(llama: Path, halves: str) -> None:
    spread = opened(llama, halves)
    for task, refused in (("latency", True), ("memory", True), ("perplexity", False)):
        cell: Any = SimpleNamespace(task=task, checkpoint=SimpleNamespace(name="llama"))
        if refused:
            with pytest.raises(UnsupportedError, match=r"modules of 'llama' are offloaded .* without them"):
                _refuse_offloaded(cell, spread)
        else:
            _refuse_offloaded(cell, spread)
    assert hf_devices.offloaded({"a": "cpu", "b": 0}, device=torch.device("cuda")) == ("a",)
    assert hf_devices.words({"a": 0, "b": "cpu", "c": 0}) == "cpu 1, cuda:0 2"


def test_a_map_is_part_of_what_a_cell_is(llama: Path, halves: str) -> None:
    request: dict[str, Any] = {"checkpoints": str(llama), "engine": "hf", "ctx": 64, "corpus": "languages"}
    # It has no tokenizer, so its cells are skipped.
    [plain] = (skip.cell for skip in ttbench.plan("perplexity", **request).skips)
    [spread] = (skip.cell for skip in ttbench.plan("perplexity", device_map=halves, **request).skips)
    assert plain.device_map is None
    assert "device_map" not in plain.identity()
    assert plain.cell_id != spread.cell_id
    assert json.loads(str(spread.device_map))["model.norm"] == "disk"
    assert Cell.from_json(json.loads(json.dumps(spread.to_json()))) == spread


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is one of auto, balanced, balanced_low_0, sequential, or a JSON file .*cannot be read"),
        ("{", "is no JSON"),
        ("[]", "must hold names of modules and devices"),
        ('{"a": 0}', "'a' is on 0; a device is cpu, cuda, cuda:N or disk"),
        ('{"a": "tpu"}', "'a' is on 'tpu'"),
        ('{"a": "cuda:1"}', "puts 'a' on cuda:1; add --device cuda"),
    ],
)
def test_a_map_that_means_nothing_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "map.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_device_map(str(path), engine="hf", device="cpu")
    with pytest.raises(UsageError, match="engine eager takes no --device-map; use --engine hf, or leave it out"):
        read_device_map("auto", engine="eager", device="cpu")
