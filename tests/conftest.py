"""What holds for all tests: no cache but what they make, shapes enforced, memory poisoned, global state guarded."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
import torch

# A shell that runs the tests in the background hands down an ignored Ctrl-C, which some of them press.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch starts OpenMP: on a busy machine threads that wait must let others run.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).parent / "support"))
import guard  # noqa: E402

# Before anything of ttbench is imported, and before libraries that look for their caches when they are imported.
guard.isolate()
guard.poison()
guard.as_a_process()
guard.check_shapes()
# Read by Triton when it is imported: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# Files with tests of half a minute. Run first, they do not leave one process alone at the end.
LONGEST = ("test_packages.py", "test_published.py", "test_kills.py", "test_runs.py", "test_gpu.py", "test_train.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module", autouse=True)
def _module_leaves_global_state_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    # What was imported is there to the end: whoever collects garbage, as measuring memory does, need not look at it.
    gc.freeze()
    with guard.unchanged(f"{request.node.nodeid}, in a fixture of the module,"):
        yield


@pytest.fixture(autouse=True)
def _test_leaves_global_state_alone(
    request: pytest.FixtureRequest, _module_leaves_global_state_alone: None
) -> Iterator[None]:
    with guard.unchanged(request.node.nodeid):
        yield


@pytest.fixture(autouse=True)
def _annotations_hold(
    request: pytest.FixtureRequest, _test_leaves_global_state_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test marked `wrong_types` gives must be refused by the code itself, as it is where nothing is hooked."""
    guard.calls.clear()
    if request.node.get_closest_marker("wrong_types"):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process that measures this machine for an estimate, and none that an earlier one left in the user's cache."""
    from ttbench.runs.times import calibration

    monkeypatch.setattr(calibration, "_measure", lambda missing: {})
    monkeypatch.setattr(calibration, "_folder", lambda: Path("/nonexistent"))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of `tests/fakes`, with its entry points visible to this process and to its workers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("ttbench_fakes")
