"""Fixtures of the harness's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttbench.harness import files


@pytest.fixture(autouse=True)
def _own_digest_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of files that tests make are not remembered in the user's own cache folder."""
    folder: Path = tmp_path_factory.getbasetemp() / "digest-cache"
    monkeypatch.setattr(files, "cache_folder", lambda: folder / "ttbench")
