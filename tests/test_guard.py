"""The fixtures that guard every test, tried on tests that misbehave."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import guard
import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation

from ttbench.kernels.attention import chunked
from ttbench.models.base import SequenceModel
from ttbench.models.transformer import Transformer

TESTS = Path(__file__).parent
# What each of them does to the process, and what the guard must call it.
LEAKS = {
    "threads of torch": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "flushing of denormals": "torch.set_flush_denormal(True)",
    "default dtype of torch": "torch.set_default_dtype(torch.float64)",
    "gradients": "torch.set_grad_enabled(False)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "precision of float32 products": "torch.set_float32_matmul_precision('medium')",
    "floating-point errors of numpy": "np.seterr(all='raise')",
    "garbage collection": "gc.disable()",
    "logging": "logging.getLogger().addHandler(logging.NullHandler())",
    "environment": "os.environ['LEFT_BEHIND'] = '1'",
    "working folder": "os.chdir('/')",
    "sys.path": "sys.path.append('/nowhere')",
    "signal handlers": "signal.signal(signal.SIGUSR1, lambda *_: None)",
    "umask": "os.umask(0o123)",
}
HEAD = "import gc, logging, os, signal, sys\nimport numpy as np, pytest, torch\nFIRST = []\n"
CLEAN = """
def test_draws_leave_no_trace_1():
    FIRST.append(torch.rand(1).item())

def test_draws_leave_no_trace_2():
    assert FIRST == [torch.rand(1).item()]

def test_after_all_of_them():
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (1, True)
    assert os.getcwd() != '/' and 'LEFT_BEHIND' not in os.environ

def test_home_is_empty_and_plug_ins_are_out_of_sight(tmp_path):
    from ttbench.registry import ARCHITECTURES, TASKS
    import platformdirs
    assert not platformdirs.user_cache_path('ttbench').exists()
    assert os.environ['SECRET_HOME'] not in {os.environ['HOME'], os.environ['XDG_CACHE_HOME'], os.environ['HF_HOME']}
    assert 'foreign' not in ARCHITECTURES and 'foreign' not in TASKS

def test_a_command_pins_for_itself_only():
    import typer, typer.testing
    app = typer.Typer()
    app.command()(lambda: torch.set_num_threads(3))
    assert typer.testing.CliRunner().invoke(app, []).exit_code == 0
    assert torch.get_num_threads() == 1
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest says of tests that leak, with a plug-in installed and a home that must not be seen."""
    folder = tmp_path_factory.mktemp("leaks")
    (folder / "support").mkdir()
    for name in ("conftest.py", "support/guard.py"):
        (folder / name).write_text((TESTS / name).read_text(encoding="utf-8"), encoding="utf-8")
    leaks = "".join(f"def test_leak_{i}():\n    {code}\n\n" for i, code in enumerate(LEAKS.values()))
    module = (
        "@pytest.fixture(scope='module')\ndef broad():\n    os.environ['BROAD'] = '1'\n\ndef test_broad(broad): ...\n"
    )
    (folder / "test_leaks.py").write_text(f"{HEAD}\n{leaks}{CLEAN}", encoding="utf-8")
    (folder / "test_module.py").write_text(f"{HEAD}\n{module}", encoding="utf-8")
    information = folder / "site" / "foreign-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1\n")
    groups = "".join(f"[ttbench.{noun}]\nforeign = nowhere:Nothing\n" for noun in ("architectures", "tasks"))
    (information / "entry_points.txt").write_text(groups)
    kept = {
        name: value for name, value in os.environ.items() if name not in ("TTBENCH_TEST_HOME", "PYTEST_CURRENT_TEST")
    }
    home = {name: str(folder) for name in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "SECRET_HOME")}
    path = os.pathsep.join([str(folder / "site"), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        env={**kept, **home, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.mark.parametrize("number", range(len(LEAKS)), ids=[name.replace(" ", "-") for name in LEAKS])
def test_a_test_that_changes_global_state_fails_and_is_told_what(report: str, number: int) -> None:
    name = list(LEAKS)[number]
    assert re.search(rf"test_leak_{number} left global state changed: {name} \(", report), report


def test_what_a_leak_changed_is_put_back_and_nothing_of_the_user_is_seen(report: str) -> None:
    passed = set(re.findall(r"^PASSED test_leaks.py::(\w+)", report, re.M))
    assert {"test_draws_leave_no_trace_2", "test_after_all_of_them", "test_a_command_pins_for_itself_only"} <= passed, (
        report
    )
    assert "test_home_is_empty_and_plug_ins_are_out_of_sight" in passed, report
    errors = re.findall(r"^ERROR (\S+)", report, re.M)
    assert sorted(errors) == sorted(
        [f"test_leaks.py::test_leak_{number}" for number in range(len(LEAKS))] + ["test_module.py::test_broad"]
    )


def test_a_fixture_of_a_module_is_guarded_too(report: str) -> None:
    assert "test_module.py, in a fixture of the module, left global state changed: environment (BROAD" in report


# Memory and shapes

# They do without jaxtyping when they run, and what they claim passes through modules that are checked.
ONLY_FOR_THE_TYPE_CHECKER = ("ttbench.runs.worker", "ttbench.tasks.view")


def test_memory_that_nobody_wrote_is_not_a_number() -> None:
    like = torch.zeros(2, 3, dtype=torch.bfloat16)
    made = [torch.empty(4), torch.empty_like(like), like.new_empty(3), torch.empty_strided((2, 2), (2, 1))]
    assert all(bool(tensor.isnan().all()) for tensor in made)
    assert torch.empty(2, dtype=torch.int32).tolist() == [2**31 - 1] * 2
    assert torch.empty(3, device="meta").is_meta


@pytest.mark.parametrize(
    "changed",
    [{"k": torch.zeros(1, 1, 3, 5)}, {"v": torch.zeros(1, 1, 2, 4)}, {"q": torch.zeros(1, 1, 3, 4, dtype=torch.int64)}],
    ids=["width", "length", "dtype"],
)
def test_an_operation_called_with_other_shapes_than_it_says_is_an_error(changed: dict[str, torch.Tensor]) -> None:
    given = {name: torch.zeros(1, 1, 3, 4) for name in "qkv"}
    assert chunked(**given).shape == (1, 1, 3, 4)
    with pytest.raises(BeartypeCallHintParamViolation, match=r"ttbench\.kernels\.attention\.chunked\(\) parameter"):
        chunked(**{**given, **changed})


IDS = torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model(IDS[0]),
        lambda model: model(IDS.float()),
        lambda model: model.prefill(IDS[0], model.new_state(2, 3)),
        lambda model: model.step(IDS, model.new_state(2, 3), 256),
        lambda model: model.head(IDS),
        lambda model: model.turns(IDS),
    ],
    ids=["forward-shape", "forward-dtype", "prefill", "step", "head", "positions"],
)
def test_a_method_of_a_model_called_with_other_shapes_than_it_says_is_an_error(
    call: Callable[[SequenceModel], object],
) -> None:
    with torch.no_grad(), pytest.raises(BeartypeCallHintParamViolation, match=r"Method ttbench\.models"):
        call(Transformer.tiny())


def test_a_method_of_a_model_that_returns_other_shapes_than_it_says_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Transformer.tiny()
    assert model(IDS).shape == (2, 3, 32)
    monkeypatch.setattr(model, "embed", torch.nn.Identity())
    with pytest.raises(BeartypeCallHintReturnViolation, match=r"Stack\._stream\(\) return"):
        model(IDS)


def test_every_module_that_names_shapes_is_checked() -> None:
    """Those that import jaxtyping, and those that import a name for one of its annotations from them."""
    hooked = guard.shaped_modules()
    assert {name.split(".")[1] for name in hooked} >= {"adapt", "engines", "kernels", "models", "tasks"}
    loaded = {name: importlib.import_module(name) for name in hooked}
    assert [name for name, module in loaded.items() if "jaxtyping" not in type(module.__loader__).__module__] == []
    for path in sorted((TESTS.parent / "ttbench").rglob("*.py")):
        name = ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
        imports = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
        named = [
            f"{node.module}.{alias.name}"
            for node in imports
            for alias in node.names
            if node.module == "jaxtyping"
            or guard.names_a_shape(getattr(loaded.get(str(node.module)), alias.name, None))
        ]
        assert name in hooked or name in ONLY_FOR_THE_TYPE_CHECKER or not named, f"{name} imports {named}"


@pytest.mark.wrong_types
def test_what_a_user_gives_of_a_wrong_type_reaches_the_code_in_a_test_that_says_so() -> None:
    with pytest.raises(IndexError):
        chunked(torch.zeros(3), torch.zeros(3), torch.zeros(3))


def test_what_is_called_again_and_again_is_checked_at_its_first_calls_and_ever_more_seldom_after_them() -> None:
    given, wrong = torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 5)
    seen = []
    for number in range(1, 65):
        with pytest.raises((BeartypeCallHintParamViolation, RuntimeError)) as raised:
            chunked(given, wrong, given)
        if raised.type is BeartypeCallHintParamViolation:
            seen.append(number)
    assert seen == [1, 2, 3, 4, 8, 16, 32, 64]
