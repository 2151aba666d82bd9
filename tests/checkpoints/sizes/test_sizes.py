"""Random checkpoints: published sizes, drawn from a seed where they run, refused where their answers would count."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ttbench.checkpoints import loading
from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.sizes import sizes
from ttbench.errors import UnknownNameError, UsageError
from ttbench.registry import TASKS
from ttbench.runs.plan import plan
from ttbench.runs.request import plan_task
from ttbench.types import Checkpoint

# As the hub counts them; the last by hand: 48 layers of 25,849,280, a table of 50,288 x 2,048, and the last norm.
PUBLISHED = {
    "mamba-130m": 129_135_360,
    "mamba-370m": 371_516_416,
    "mamba-1.4b": 1_372_178_432,
    "mamba2-130m": 128_989_632,
    "mamba2-1.3b": 1_343_757_312,
}
SMALL = sizes.Size(
    config={**sizes.sizes()["ttt-linear-125m"].config, "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "intermediate_size": 48},
    source="a test",
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A random checkpoint of some thousand parameters, under a name of its own."""
    monkeypatch.setattr(sizes, "sizes", lambda: {"small": SMALL})
    return resolve("random:small")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_size_has_the_parameters_that_its_source_counts(name: str) -> None:
    assert resolve(f"random:{name}").num_params == PUBLISHED[name]


def test_a_transformer_of_the_ttt_paper_has_the_parameters_of_its_shape() -> None:
    width, mlp, depth, vocabulary = 768, 2048, 12, 32000
    layer = 4 * width * width + 3 * width * mlp + 2 * width
    found = resolve("random:transformer-125m")
    assert found.num_params == depth * layer + vocabulary * width + width
    assert found.num_params_non_embedding == depth * layer + width


def test_names_cover_the_families_and_go_up_in_size() -> None:
    names = [name.partition(":")[2] for name in sizes.names()]
    families = {name.rpartition("-")[0] for name in names}
    assert {"transformer", "ttt-linear", "ttt-mlp", "mamba", "mamba2", "titans-lmm", "titans-mac"} <= families
    mambas = [name.removeprefix("mamba-") for name in names if name.startswith("mamba-")]
    assert mambas == ["130m", "370m", "790m", "1.4b"]
    assert all(size.source for size in sizes.sizes().values())


def test_an_unknown_size_lists_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'random:ttt-linear-125m'.*random:mamba-370m"):
        resolve("random:ttt-linear-120m")


def test_a_size_is_no_folder_and_has_an_identity_of_name_seed_and_configuration(
    small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (small.provenance, small.path) == ("random", "random:small")
    assert (small.weight_bytes, small.tokenizer_digest) == (0, None)
    assert resolve("random:small") == small
    monkeypatch.setattr(sizes, "SEED", 1)
    assert resolve("random:small").weights_digest != small.weights_digest
    monkeypatch.setattr(sizes, "SEED", 0)
    other = dataclasses.replace(SMALL, config={**SMALL.config, "num_hidden_layers": 3})
    monkeypatch.setattr(sizes, "sizes", lambda: {"small": other})
    again = resolve("random:small")
    assert again.config_digest != small.config_digest
    assert again.weights_digest != small.weights_digest


def weights(checkpoint: Checkpoint, dtype: str) -> dict[str, torch.Tensor]:
    return loading.load_model(checkpoint, device="cpu", dtype=dtype, attention=None).state_dict()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_the_same_each_time_and_of_the_dtype_asked_for(small: Checkpoint, dtype: str) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, two = weights(small, dtype), weights(small, dtype)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() is torch.float32
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    matrices = {name: tensor for name, tensor in one.items() if tensor.ndim == 2}
    assert {tensor.dtype for tensor in matrices.values()} == {getattr(torch, dtype)}
    assert all(torch.isfinite(tensor).all() for tensor in one.values())
    assert all(tensor.float().std() > 0 for name, tensor in matrices.items() if name.endswith("proj.weight"))


def test_weights_are_made_in_their_dtype_and_never_in_another_first(
    small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    register = torch.nn.Module.register_parameter

    def watch(self: torch.nn.Module, name: str, parameter: Any) -> None:
        seen.extend([] if parameter is None else [parameter.dtype])
        register(self, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", watch)
    weights(small, "bfloat16")
    assert set(seen) == {torch.bfloat16}


def test_nothing_is_written_to_disk(small: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    weights(small, "float32")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_changed_since_it_was_resolved_is_refused(
    small: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(SMALL, config={**SMALL.config, "num_hidden_layers": 3})
    monkeypatch.setattr(sizes, "sizes", lambda: {"small": other})
    with pytest.raises(UsageError, match="has changed since it was resolved"):
        weights(small, "float32")


def test_a_size_has_no_tokenizer(small: Checkpoint) -> None:
    assert loading.load_tokenizer(small) is None


def test_another_engine_is_refused(small: Checkpoint) -> None:
    with pytest.raises(UsageError, match="engine hf does not run"):
        resolve("random:small", engine="hf")


def planned(task: str, checkpoint: Checkpoint) -> Any:
    return plan(
        task,
        checkpoints=[checkpoint],
        context_lens=[64],
        params={},
        corpus=None,
        corpus_digest=None,
        seed=0,
        dtype="float32",
        device="cpu",
        attention=None,
        batch_size=None,
        threads=1,
        machine="m",
    )


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"latency", "memory"}))
def test_tasks_of_quality_refuse_random_weights_by_name(task: str, small: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"'random:small' has random weights.*for latency and memory$"):
        planned(task, small)


@pytest.mark.parametrize("task", ["latency", "memory"])
def test_tasks_of_speed_and_memory_take_them(task: str, small: Checkpoint) -> None:
    assert {cell.checkpoint.name for cell in planned(task, small).cells} == {"random:small"}


def test_a_cell_of_a_size_is_the_same_cell_again(small: Checkpoint, tmp_path: Path) -> None:
    asked: Any = {"checkpoints": "random:small", "ctx": "64", "params": {"rounds": 1}}
    one, two = (plan_task("memory", asked, out=tmp_path).cells for _ in range(2))
    assert [cell.cell_id for cell in one] == [cell.cell_id for cell in two]
    # what a checkpoint given as an object is called in a command that does the same again
    assert resolve(one[0].checkpoint.path) == one[0].checkpoint


def test_the_shell_completes_sizes() -> None:
    from ttbench.cli.listing import names

    assert {"random:ttt-linear-125m", "random:transformer-1.3b"} <= set(names("checkpoints"))


SKELETONS = """
import sys
from ttbench.checkpoints.checkpoint import identify
from ttbench.checkpoints.fit import skeleton
from ttbench.checkpoints.sizes.sizes import sizes
for name, size in sizes().items():
    found = identify(size.config)
    skeleton(found.model_class, found.config)
    assert "sympy" not in sys.modules, name
"""


def test_a_model_without_memory_is_built_without_torch_s_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", SKELETONS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
