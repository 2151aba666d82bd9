"""The digest of the code that computes: it moves with every source that can change a number, and with nothing else."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttbench import code
from ttbench.code import code_digest
from ttbench.errors import UsageError

ROOT = Path(__file__).parents[1]
MODEL = "from plug.maths import scale\n\n\nclass Plug:\n    pass\n"


def of_plug_in(task: str | None = None) -> str:
    return code_digest(architecture="plug", task=task, engine="eager")


def lay_sources(folder: Path) -> Path:
    """A package `plug` with two modules; returns its folder."""
    package = folder / "plug"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model.py").write_text(MODEL)
    (package / "maths.py").write_text("scale = 1.0\n")
    return package


def lay_metadata(folder: Path, *, value: str, record: list[str] | None, requires: str = "") -> None:
    info = folder / "plug-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plug\nVersion: 1\n{requires}")
    (info / "entry_points.txt").write_text(f"[ttbench.architectures]\nplug = {value}\n")
    if record is not None:
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in record))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put folders on the path, as a process that starts now would have them."""

    def on_path(*folders: Path) -> None:
        for folder in folders:
            monkeypatch.syspath_prepend(str(folder))

    return on_path


def wheel(site: Path, install: Callable[..., object]) -> Path:
    package = lay_sources(site)
    names = [f"plug/{name}" for name in ("__init__.py", "model.py", "maths.py")]
    lay_metadata(site, value="plug.model:Plug", record=[*names, "plug-1.dist-info/METADATA"])
    install(site)
    return package


def ast_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_imports_are_those_that_python_itself_sees() -> None:
    for room in code.ROOMS:
        for path in sorted((ROOT / "ttbench" / room).rglob("*.py")):
            assert ast_imports(path) <= code._source(path).imports, path


def test_the_files_of_a_cell_are_its_task_its_architecture_and_its_engine() -> None:
    def touched(module: str, **cell: Any) -> bool:
        """Whether another file in place of the module moves the digest."""
        path = ROOT / "ttbench" / Path(*module.split(".")).with_suffix(".py")
        before = code_digest(**cell)
        state, source = code._read.get(path, (None, None))
        if state is None or source is None:
            return False
        code._read[path] = (state, code._Source(digest="changed", imports=source.imports))
        after = code_digest(**cell)
        code._read[path] = (state, source)
        return before != after

    mamba: dict[str, Any] = {"architecture": "mamba", "task": "perplexity", "engine": "eager"}
    for module in (
        "models.state_space.mamba",
        "models.state_space.ssm",
        "kernels.selective_scan",
        "tasks.perplexity.perplexity",
        "tasks.windows",
    ):
        assert touched(module, **mamba), module
    for module in ("engines.eager", "checkpoints.loading", "checkpoints.tokenizer", "tasks.base", "models.base"):
        assert touched(module, **mamba), module
    assert not touched("models.performer", **mamba)
    assert not touched("tasks.needle.needle", **mamba)
    hf = {**mamba, "engine": "hf"}
    assert touched("engines.hf.hf_engine", **hf)
    assert touched("engines.hf.hf_forward", **hf)
    assert not touched("engines.hf.hf_forward", **mamba)
    assert not touched("models.state_space.mamba", **hf)
    assert not touched("engines.check", **mamba)


def test_a_library_that_decides_about_logits_counts_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    cells: list[dict[str, Any]] = [{"architecture": "llama", "task": "perplexity", "engine": "hf"}]
    cells.append({"architecture": "mamba", "task": "perplexity", "engine": "eager"})
    before = [code_digest(**cell) for cell in cells]
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "transformers" else version(name))
    after = [code_digest(**cell) for cell in cells]
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize("name", ["model.py", "maths.py", "kernel.cu", "inner/deep.py"])
def test_any_code_file_of_a_plug_in_moves_its_digest(tmp_path: Path, install: Callable[..., object], name: str) -> None:
    package = wheel(tmp_path, install)
    before = of_plug_in()
    (package / name).parent.mkdir(exist_ok=True)
    (package / name).write_text("scale = 2.0\n")
    assert of_plug_in() != before


def test_of_two_copies_the_one_that_is_imported_counts(tmp_path: Path, install: Callable[..., object]) -> None:
    """As where `python -m ttbench` starts in the folder of a plug-in's sources, which were edited and not installed."""
    wheel(tmp_path / "site", install)
    before = of_plug_in()
    copy = lay_sources(tmp_path / "here")
    install(tmp_path / "here")
    assert of_plug_in() == before
    (copy / "maths.py").write_text("scale = 2.0\n")
    assert of_plug_in() != before


def test_a_file_that_keeps_its_size_and_time_to_the_second_is_read_again(
    tmp_path: Path, install: Callable[..., object]
) -> None:
    package = wheel(tmp_path, install)
    before = of_plug_in()
    stat = (package / "maths.py").stat()
    (package / "maths.py").write_text("scale = 2.0\n")
    os.utime(package / "maths.py", ns=(stat.st_atime_ns, stat.st_mtime_ns // 10**9 * 10**9))
    assert of_plug_in() != before


def test_place_time_and_caches_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        package = wheel(tmp_path / "one", lambda *folders: [patch.syspath_prepend(str(each)) for each in folders])
        before = of_plug_in()
        (package / "__pycache__").mkdir()
        (package / "__pycache__" / "model.cpython-312.py").write_text("nonsense")
        (package / "notes.txt").write_text("nothing that runs")
        assert of_plug_in() == before
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "one")
    for path in (tmp_path / "two").rglob("*.py"):
        os.utime(path, (0, 0))
    monkeypatch.syspath_prepend(str(tmp_path / "two"))
    assert of_plug_in() == before


def test_an_editable_install_counts_as_the_installed_package_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: Callable[..., object]
) -> None:
    with monkeypatch.context() as patch:
        wheel(tmp_path / "wheel", lambda *folders: [patch.syspath_prepend(str(each)) for each in folders])
        before = of_plug_in()
    package = lay_sources(tmp_path / "src")
    finder = "__editable___plug_1_finder.py"
    lay_metadata(tmp_path / "site", value="plug.model:Plug", record=[finder, "__editable__.plug-1.pth"])
    (tmp_path / "site" / finder).write_text(f"MAPPING = {{'plug': {str(package)!r}}}\n")
    install(tmp_path / "src", tmp_path / "site")
    assert of_plug_in() == before
    (package / "maths.py").write_text("scale = 2.0\n")
    assert of_plug_in() != before


def test_what_a_bare_module_imports_from_beside_it_belongs_to_it(
    tmp_path: Path, install: Callable[..., object]
) -> None:
    (tmp_path / "plug.py").write_text("import os\nfrom beside import scale\n")
    (tmp_path / "beside.py").write_text("import further\nscale = 1.0\n")
    (tmp_path / "further.py").write_text("")
    (tmp_path / "stranger.py").write_text("")
    lay_metadata(tmp_path, value="plug:Plug", record=None)
    install(tmp_path)
    seen = {of_plug_in()}
    for name in ("plug.py", "beside.py", "further.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# changed\n")
        assert of_plug_in() not in seen, name
        seen.add(of_plug_in())
    (tmp_path / "stranger.py").write_text("# changed\n")
    assert of_plug_in() in seen


def test_a_namespace_package_counts_without_its_neighbours(tmp_path: Path, install: Callable[..., object]) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / "space" / name).mkdir(parents=True)
        (tmp_path / "space" / name / "__init__.py").write_text("")
    lay_metadata(tmp_path, value="space.mine:Plug", record=None)
    install(tmp_path)
    before = of_plug_in()
    (tmp_path / "space" / "theirs" / "__init__.py").write_text("# changed\n")
    assert of_plug_in() == before
    (tmp_path / "space" / "mine" / "__init__.py").write_text("# changed\n")
    assert of_plug_in() != before


def test_modules_of_the_package_that_a_plug_in_builds_on_count(tmp_path: Path, install: Callable[..., object]) -> None:
    package = wheel(tmp_path, install)
    before = of_plug_in()
    (package / "maths.py").write_text("from ttbench.kernels import (\n    favor,  # features\n)\n")
    of_plug_in()
    assert ROOT / "ttbench" / "kernels" / "favor.py" in code._read
    assert of_plug_in() != before


def test_packages_that_a_plug_in_requires_count_by_their_version(
    tmp_path: Path, install: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_sources(tmp_path)
    lay_metadata(
        tmp_path,
        value="plug.model:Plug",
        record=["plug/model.py"],
        requires="Requires-Dist: numpy >=1 ; python_version > '3'\n",
    )
    install(tmp_path)
    before = of_plug_in()
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99" if name == "numpy" else version(name))
    assert of_plug_in() != before


def test_a_plug_in_without_its_module_is_refused_in_words(tmp_path: Path, install: Callable[..., object]) -> None:
    lay_metadata(tmp_path, value="plug_that_is_gone.model:Plug", record=None)
    install(tmp_path)
    with pytest.raises(UsageError, match=r"plug_that_is_gone\.model, which is not installed"):
        of_plug_in()


def test_nothing_is_imported(tmp_path: Path, install: Callable[..., object]) -> None:
    wheel(tmp_path, install)
    of_plug_in()
    assert "plug" not in sys.modules
    assert "plug.model" not in sys.modules
