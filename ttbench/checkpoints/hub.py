"""Checkpoints from the Hugging Face hub: an id and a revision become a local folder and a commit.

Two downloads: first the small JSON files, so that a model that no dialect reads is refused before its weights
travel; then exactly the weight files that the folder names. Only JSON and safetensors are ever asked for.
HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE work as everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ttbench.checkpoints.files import MAX_INDEX_BYTES, member, read_json
from ttbench.checkpoints.sources import conversion_hint
from ttbench.checkpoints.special_tokens import GENERATION, SETTINGS, TOKENIZER, TOKENS_MAP
from ttbench.checkpoints.weights import INDEX, SINGLE, read_weights
from ttbench.errors import CheckpointError

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[A-Za-z0-9][\w./-]*))?")
_SMALL = ["config.json", TOKENIZER, SETTINGS, GENERATION, TOKENS_MAP, INDEX]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubId:
    """A repository on the hub, pinned or not."""

    repo: str  # org/name
    revision: str | None  # commit, tag or branch; None: the default branch


def parse_hub_id(name: str) -> HubId | None:
    """`org/name[@revision]`; None when `name` is not written like one."""
    match = _ID.fullmatch(name)
    if match is None or ".." in name:
        return None
    return HubId(repo=match["repo"], revision=match["revision"])


def fetch_small(hub_id: HubId) -> Path:
    """Folder with the JSON files; its name is the commit. Raises CheckpointError that says what to do."""
    return _snapshot(hub_id, _SMALL)


def fetch_weights(hub_id: HubId, folder: Path) -> None:
    """Bring the weight files of a folder that `fetch_small` gave. Raises CheckpointError that says what to do."""
    index = member(folder, INDEX)
    names = [SINGLE]
    if index is not None:
        weight_map = read_json(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
        shards = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        # Names go to the hub as patterns; only plain file names may.
        names += sorted(s for s in shards if isinstance(s, str) and re.fullmatch(r"[\w.-]+\.safetensors", s))
    _snapshot(HubId(repo=hub_id.repo, revision=folder.name), names)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedRepo:
    """One commit of a repository in the hub's cache on this machine."""

    folder: Path
    state: Literal["cached", "convert", "partial"]  # whole; whole in another format; not whole


def cached_repos() -> dict[str, dict[str, CachedRepo]]:
    """What the hub's cache holds: repository -> commit -> where and how whole. No network, nothing is loaded."""
    # Late, as below; and the folder is read where it is set at the moment.
    from huggingface_hub import constants, errors, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except errors.CacheNotFound:
        return {}
    found: dict[str, dict[str, CachedRepo]] = {}
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        if repo.repo_type == "model" and repo.revisions:
            folders = sorted(revision.snapshot_path for revision in repo.revisions)
            found[repo.repo_id] = {path.name: CachedRepo(folder=path, state=_state(path)) for path in folders}
    return found


def _state(folder: Path) -> Literal["cached", "convert", "partial"]:
    try:
        read_weights(folder)
        return "cached" if member(folder, "config.json") else "partial"
    except CheckpointError:
        return "convert" if conversion_hint(folder) else "partial"


def _snapshot(hub_id: HubId, names: list[str]) -> Path:
    # Late: the client takes its time and memory, and a process that measures a local checkpoint needs neither.
    from huggingface_hub import errors, snapshot_download

    # The class of an error on the way depends on the HTTP library below the client.
    below = cast("tuple[type[Exception], ...]", errors.HfHubHTTPError.__bases__)
    repo, revision = hub_id.repo, hub_id.revision
    shown = repo if revision is None else f"{repo}@{revision}"
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=names))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"'{shown}' is gated on the hub; accept its terms at https://huggingface.co/{repo} and log in with "
            "`hf auth login`, or give a local folder"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no repository '{repo}' that you may read, and there is no such folder here; check the "
            "spelling, or log in with `hf auth login` if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"the repository '{repo}' has no revision '{revision}'; give a commit, tag or branch that "
            f"https://huggingface.co/{repo}/commits shows"
        ) from error
    except (OSError, ValueError, *below) as error:
        raise CheckpointError(
            f"'{shown}' is not a local folder, not complete in the hub's cache, and the hub cannot be reached "
            f"({type(error).__name__}); connect, unset HF_HUB_OFFLINE, or on another machine run `hf download {repo}` "
            "and give the folder"
        ) from error
    return folder
