"""Hub ids: from a cache folder in the hub's own layout, and from a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.hub import HubId, cached_repos, parse_hub_id
from ttbench.checkpoints.loading import save_checkpoint
from ttbench.checkpoints.weights import read_weights
from ttbench.cli import listing
from ttbench.cli.app import app
from ttbench.errors import CheckpointError
from ttbench.models.transformer import Transformer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours, to be served."""
    path = tmp_path_factory.mktemp("made") / "tiny"
    save_checkpoint(Transformer.tiny(conv_kernel=0), path, dtype="bfloat16", extra={"train_ctx": 64})
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path / "hub"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def fill(cache: Path, folder: Path, *, leave_out: str = "") -> Path:
    """What `hf download org/tiny` leaves behind: blobs, links to them from a snapshot, and a ref."""
    repo = cache / "models--org--tiny"
    snapshot = repo / "snapshots" / COMMIT
    for path in (snapshot, repo / "blobs", repo / "refs"):
        path.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        blob = repo / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        if path.name != leave_out:
            (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", HubId(repo="org/name", revision=None)),
        ("org/na.me-1@v1.0", HubId(repo="org/na.me-1", revision="v1.0")),
        ("org/name@refs/pr/3", HubId(repo="org/name", revision="refs/pr/3")),
        ("name", None),
        ("org/name/more", None),
        ("/org/name", None),
        ("../name", None),
        ("org/..", None),
        ("org/name@", None),
        ("org/name@../x", None),
        ("org/na me", None),
        ("org/name@a@b", None),
    ],
)
def test_an_id_is_told_from_a_path(name: str, expected: HubId | None) -> None:
    assert parse_hub_id(name) == expected


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("suffix", ["", "@main", f"@{COMMIT}"])
def test_an_id_in_the_cache_resolves_to_its_commit_without_a_network(cache: Path, folder: Path, suffix: str) -> None:
    snapshot = fill(cache, folder)
    checkpoint = resolve(f"org/tiny{suffix}")
    local = resolve(str(folder))
    assert (checkpoint.name, checkpoint.provenance, checkpoint.revision) == ("org/tiny", "hub", COMMIT)
    assert checkpoint.path == str(snapshot)
    assert (checkpoint.weights_digest, checkpoint.config_digest) == (local.weights_digest, local.config_digest)


@pytest.mark.usefixtures("offline")
def test_an_index_that_names_only_the_single_file_is_read_in_the_hubs_layout(cache: Path, folder: Path) -> None:
    snapshot = fill(cache, folder)
    keys = read_weights(folder).tensors
    blob = snapshot.parents[1] / "blobs" / "index"
    blob.write_text(json.dumps({"weight_map": dict.fromkeys(keys, "model.safetensors")}))
    (snapshot / "model.safetensors.index.json").symlink_to(blob)
    assert resolve("org/tiny").weights_digest == resolve(str(folder)).weights_digest


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("leave_out", ["model.safetensors", "config.json"])
def test_a_half_filled_cache_is_an_error(cache: Path, folder: Path, leave_out: str) -> None:
    fill(cache, folder, leave_out=leave_out)
    with pytest.raises(CheckpointError, match=leave_out):
        resolve("org/tiny")


@pytest.mark.usefixtures("offline", "cache")
def test_an_id_that_is_not_in_the_cache_says_what_to_do_offline() -> None:
    with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE.*hf download org/other"):
        resolve("org/other")


@pytest.mark.usefixtures("offline")
def test_a_snapshot_whose_link_leaves_the_repository_is_refused(cache: Path, folder: Path) -> None:
    snapshot = fill(cache, folder)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        resolve("org/tiny")


def test_the_cache_is_listed_with_how_whole_each_commit_is(cache: Path, folder: Path) -> None:
    assert cached_repos() == {}
    snapshot = fill(cache, folder)
    (found,) = cached_repos()["org/tiny"].values()
    assert (found.folder, found.state) == (snapshot, "cached")
    (snapshot / "model.safetensors").unlink()
    assert cached_repos()["org/tiny"][COMMIT].state == "partial"
    (snapshot / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    assert cached_repos()["org/tiny"][COMMIT].state == "convert"


@pytest.mark.usefixtures("offline")
def test_an_entry_of_the_catalogue_runs_from_the_cache(
    cache: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache, folder)
    (tmp_path / "suites").mkdir()
    text = (
        f"checkpoints:\n  - {{name: mine, architecture: a, provenance: port, hub_id: org/tiny, revision: '{COMMIT}'}}\n"
    )
    (tmp_path / "suites" / "checkpoints.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert resolve("mine") == resolve(f"org/tiny@{COMMIT}")
    entries = {entry["name"]: entry for entry in listing.of("checkpoints", tmp_path)}
    assert (entries["mine"]["state"], entries["mine"]["download_bytes"]) == ("cached", 0)
    assert entries["titans"]["state"] == "unpublished"
    assert (entries["mamba-130m"]["state"], entries["mamba-130m"]["download_bytes"]) == ("download", 517_000_000)
    assert entries["transformer"]["state"] == "zoo"
    shown = CliRunner().invoke(app, ["list", "checkpoints"])
    assert (shown.exit_code, "cached" in shown.stdout, "unpublished" in shown.stdout) == (
        0,
        True,
        True,
    )
    document = json.loads(CliRunner().invoke(app, ["list", "checkpoints", "--json"]).stdout)
    assert {entry["name"]: entry["state"] for entry in document}["mine"] == "cached"


def test_a_repository_in_the_cache_that_no_catalogue_lists_is_shown_too(cache: Path, folder: Path) -> None:
    fill(cache, folder)
    entries = {entry["name"]: entry for entry in listing.of("checkpoints", Path("runs"))}
    assert (entries["org/tiny"]["state"], entries["org/tiny"]["revision"]) == ("cached", COMMIT)
    assert CliRunner().invoke(app, ["list", "checkpoints"]).exit_code == 0


class Hub:
    """A hub of one repository, which notes what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files["pytorch_model.bin"] = b"\x80\x04."
        self.error: str | None = None
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.error:
            return (403 if self.error == "GatedRepo" else 404), {"X-Error-Code": self.error}, b"{}"
        if "/tree/" in path:
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(listing).encode()
        if path.startswith("/api/models/"):
            body = {"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        name = unquote(path.rsplit("/", 1)[-1])
        self.asked.append(name)
        data = self.files[name]
        etag = hashlib.sha1(data).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data


@pytest.fixture
def hub(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The small hub, listening."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.respond(body=True)

        def do_HEAD(self) -> None:
            self.respond(body=False)

        def respond(self, *, body: bool) -> None:
            status, headers, data = hub.answer(self.path.split("?")[0])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_unpinned_id_is_downloaded_at_the_commit_it_points_to(hub: Hub, folder: Path) -> None:
    checkpoint = resolve("org/tiny")
    assert checkpoint.revision == COMMIT
    assert checkpoint.weights_digest == resolve(str(folder)).weights_digest
    assert set(hub.asked) == {"config.json", "model.safetensors"}


def test_a_model_that_nothing_reads_is_refused_before_its_weights_travel(hub: Hub) -> None:
    hub.files["config.json"] = b'{"model_type": "other"}'
    with pytest.raises(
        CheckpointError, match="model_type='other', which no architecture here reads; neither does transformers"
    ):
        resolve("org/tiny")
    assert "model.safetensors" not in hub.asked


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("model.safetensors", "has no model.safetensors and no model.safetensors.index.json on the hub"),
        ("config.json", "has no config.json on the hub"),
    ],
)
def test_a_repository_in_another_format_says_how_to_convert_it(hub: Hub, gone: str, message: str) -> None:
    del hub.files[gone]
    with pytest.raises(
        CheckpointError, match=f"{message}.*hf download org/tiny --local-dir SOURCE, then ttbench convert"
    ):
        resolve("org/tiny")
    assert "pytorch_model.bin" not in hub.asked


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepo", "is gated on the hub; accept its terms .*hf auth login"),
        ("RepoNotFound", "no repository 'org/tiny' that you may read"),
        ("RevisionNotFound", "has no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(hub: Hub, error: str, message: str) -> None:
    hub.error = error
    with pytest.raises(CheckpointError, match=message):
        resolve("org/tiny@v9")


@pytest.mark.usefixtures("cache")
def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        resolve("org/tiny")
