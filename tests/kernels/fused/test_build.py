"""The manifest of compiled kernels: it belongs to the sources, it keeps its bounds, and a broken one is caught."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from ttbench.errors import GateError
from ttbench.kernels.dispatch.catalogue import absent
from ttbench.kernels.fused import build

if absent() is not None:
    pytest.skip(f"{absent()}", allow_module_level=True)


def test_the_manifest_belongs_to_the_sources_and_keeps_its_bounds() -> None:
    build.check_manifest()
    assert 0 < len(build.read_manifest()) <= build.MAX_ROWS


def test_decoding_and_reading_by_ttt_linear_spill_nothing_on_any_target() -> None:
    gated = [row for row in build.read_manifest().values() if row.op.endswith("_step") or row.op == "ttt_linear"]
    assert {row.target for row in gated if row.label == "D 96, C 16, tf32"} == {"sm_80", "sm_90", "gfx942"}
    assert {(row.spilled_bytes, row.max_spilled) for row in gated} == {(0, 0)}


def test_the_manifest_reads_back_as_it_was_written(tmp_path) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(build.manifest_text(build.read_manifest().values()))
    assert path.read_text() == build.MANIFEST.read_text()
    assert build.read_manifest(path) == build.read_manifest()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": "0" * 16}, "compiled from another source"),
        ({"spilled_bytes": 8, "max_spilled": 0}, "spills 8 bytes a thread; at most 0"),
        ({"shared_bytes": 300_000}, "needs 300,000 bytes of shared memory"),
        ({"label": "D 1"}, "not in the manifest"),
    ],
)
def test_a_row_that_is_wrong_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path, changes, said: str) -> None:
    rows = list(build.read_manifest().values())
    rows[0] = dataclasses.replace(rows[0], **changes)
    path = tmp_path / "manifest.csv"
    path.write_text(build.manifest_text(rows))
    committed = build.read_manifest(path)
    monkeypatch.setattr(build, "read_manifest", lambda: committed)
    with pytest.raises(GateError, match=said):
        build.check_manifest()


COMPILE = """
import dataclasses, json
from ttbench.kernels.fused import build
op, one, target = next(x for x in build.planned(["ttt_linear_step"]) if x[2] == "{target}")
print(json.dumps(dataclasses.asdict(build.compile_build(op, one, target))))
"""


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_a_kernel_compiles_to_what_the_manifest_has(target: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE.format(target=target)], capture_output=True, text=True, env=variables
    )
    assert done.returncode == 0, done.stderr
    made = build.Built(**json.loads(done.stdout))
    committed = build.read_manifest()[made.key]
    assert made.source == committed.source
    if made.triton == committed.triton:
        assert made == committed
    assert made.faults() == []
