"""Which code computes a number: a digest of its sources, so that changed code never answers with an old number.

    built in    the modules of the task, the architecture and the engine, and what they import of `ROOMS`
    plug-in     every code file of its distribution or source tree, what it imports of `ROOMS`, and the versions of the
                packages that it requires
    packages    every code file of those that `ttbench.packages` imported
    libraries   the versions of `LIBRARIES` that these files import

The digest is over the bytes of the files under their names inside the package: it is independent of where they lie and
when they were written, and an edited comment changes it too. Nothing is imported here; this module is torch-free.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from importlib.resources import files
from pathlib import Path

from ttbench import packages
from ttbench.errors import UsageError
from ttbench.registry import ARCHITECTURES, ENGINES, TASKS
from ttbench.types import canonical_json, digest

# Folders of the package whose modules can change a number. What lies around them only asks, keeps and shows.
ROOMS = ("models", "kernels", "checkpoints", "corpora", "engines", "machine", "tasks", "adapt", "lmeval")
MEASURED = "ttbench.machine.measure"  # in every number
# What `ttbench check` asks of an engine; no number comes from it.
ASIDE: tuple[str, ...] = ("ttbench.engines.check", "ttbench.engines.hf.hf_check")
# Packages whose own code decides about ids, prompts or logits. Other versions of torch agree to rounding; timing cells
# name torch's version in their machine.
LIBRARIES = ("lm_eval", "tokenizers", "transformers")
NOT_REQUIRED = ("torch", "ttbench")  # of a plug-in's requirements
CODE = frozenset(
    ".py .pyx .pxd .so .pyd .dylib .dll .c .cc .cpp .cxx .cu .cuh .h .hpp .ptx .cubin .hsaco .json .toml .yaml .yml"
    .split()
)  # fmt: skip

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]*(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]+))", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What is needed of a source file."""

    digest: str
    imports: frozenset[str]  # full names, `from a import b` as `a` and `a.b`


_read: dict[Path, tuple[tuple[int, int, int], _Source]] = {}  # by path: (size, time, inode) and what was read then


def code_digest(*, architecture: str, task: str | None, engine: str) -> str:
    """Digest of the code that computes a number.

    Args:
        architecture: registered name; one that is not registered has no file of its own.
        task: registered name; None: the model alone, as a check or a probe runs it.
        engine: registered name.

    Raises UsageError when the sources of a plug-in cannot be found, UnknownNameError for an unknown task.
    """
    found: dict[str, _Source] = {}
    required: set[str] = set()
    modules = [MEASURED]
    parts = [(ENGINES, engine)]
    if architecture in ARCHITECTURES and ENGINES.load(engine).dialect is None:
        parts.append((ARCHITECTURES, architecture))
    for registry, name in [*parts, *([] if task is None else [(TASKS, task)])]:
        entry = registry.entry_point(name)
        if entry is None:
            modules.append(registry[name].partition(":")[0])
            continue
        for relative, path in _plug_in_files(entry).items():
            found[relative] = source = _source(path)
            modules += source.imports
        required |= set(_required(entry))
    for name in packages.imported():
        root, place = _find(name, f"the package '{name}'")
        found |= {relative: _source(path) for relative, path in _tree(root, place).items()}
    found |= _closure(modules)
    imported = {name.partition(".")[0] for source in found.values() for name in source.imports}
    versions = {name: _version(name) for name in {*required, *imported.intersection(LIBRARIES)}}
    return digest(canonical_json({"files": {name: found[name].digest for name in found}, "versions": versions}))


def modules_digest(modules: Iterable[str]) -> str:
    """Digest of these modules of `ROOMS` and of all that they import there."""
    return digest(canonical_json({name: source.digest for name, source in _closure(modules).items()}))


def _closure(modules: Iterable[str]) -> dict[str, _Source]:
    """The files of these modules and of all that they import in ROOMS, by their names inside the package."""
    found: dict[str, _Source] = {}
    seen, left = {*ASIDE}, list(modules)
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        path = _built_in_file(module)
        if path is not None:
            found[module] = source = _source(path)
            left += source.imports
    return found


def _built_in_file(module: str) -> Path | None:
    """The file of a module in ROOMS; None when there is none, as for a name that is imported from a module."""
    package, *parts = module.split(".")
    if package != "ttbench" or len(parts) < 2 or parts[0] not in ROOMS:
        return None
    path = Path(str(files("ttbench")), *parts)
    both = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in both if file.is_file()), None)


def _plug_in_files(entry: EntryPoint) -> Mapping[str, Path]:
    """Code files of a plug-in by their names inside its distribution."""
    root, name = _place(entry)
    found = _tree(root, name)
    recorded = _recorded(entry)
    if recorded.keys() & found.keys():
        # what would be imported stands before what was installed: a copy in the current folder may hide it
        return recorded | found
    # An editable install records no sources: what its modules import from beside them belongs to it too.
    depth, seen, left = name.count("/") + 1, {name}, list(found.values())
    while left:
        for imported in _source(left.pop()).imports:
            beside = "/".join(imported.split(".")[:depth])
            if beside not in seen and _is_module(root / beside):
                more = _tree(root, beside)
                found |= more
                left += more.values()
            seen.add(beside)
    return found


def _recorded(entry: EntryPoint) -> dict[str, Path]:
    """Code files that an installer wrote down for the distribution."""
    if entry.dist is None or entry.dist.read_text("RECORD") is None:
        return {}
    paths = {str(file): Path(str(file.locate())) for file in entry.dist.files or () if file.suffix in CODE}
    return {name: path for name, path in paths.items() if path.is_file()}


def _place(entry: EntryPoint) -> tuple[Path, str]:
    """Folder and name of the package or module that an entry point loads from. Nothing is imported."""
    return _find(entry.module, f"the plug-in '{entry.name}'")


def _find(module: str, what: str) -> tuple[Path, str]:
    """Folder and name of a package or module. Raises UsageError; `what` is for the message."""
    top, *below = module.split(".")
    specs = (finder.find_spec(top, None) for finder in sys.meta_path)
    spec = next((spec for spec in specs if spec is not None), None)
    if spec is None:
        raise UsageError(f"{what} names the module {module}, which is not installed")
    if spec.origin is not None:
        path = Path(spec.origin)
        path = path.parent if spec.submodule_search_locations else path.with_suffix("")
        return path.parent, path.name
    # A namespace package is shared with others: only the part below it is the plug-in's.
    for location in map(Path, spec.submodule_search_locations or ()):
        if below and _is_module(location / below[0]):
            return location.parent, f"{location.name}/{below[0]}"
    raise UsageError(f"the sources of {what} ({module}) cannot be found; install it again")


def _is_module(path: Path) -> bool:
    return path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()


def _tree(root: Path, name: str) -> dict[str, Path]:
    """Code files of a package or of one module below `root`, by their names there."""
    found = [path for path in (root / name).parent.glob(f"{Path(name).name}.*") if path.suffix in (".py", ".so")]
    for folder, inner, names in os.walk(root / name):
        inner[:] = (each for each in inner if each != "__pycache__" and not each.startswith("."))
        found += (Path(folder, each) for each in names if os.path.splitext(each)[1] in CODE)
    return {path.relative_to(root).as_posix(): path for path in found}


def _source(path: Path) -> _Source:
    """Digest and imports of a file, read again when its size, time or inode has changed."""
    told = path.stat()
    state = (told.st_size, told.st_mtime_ns, told.st_ino)
    kept = _read.get(path)
    if kept is None or kept[0] != state:
        data = path.read_bytes()
        kept = (state, _Source(digest=digest(data), imports=_imports(data) if path.suffix == ".py" else frozenset()))
        _read[path] = kept
    return kept[1]


def _imports(data: bytes) -> frozenset[str]:
    """Names that a Python source imports anywhere, late ones too; a name too many, from a text, does no harm."""
    found: set[str] = set()
    for module, names, plain in _IMPORT.findall(data):
        base = module.decode()
        listed = re.findall(rb"([\w.]+)(?:[ \t]+as[ \t]+\w+)?[ \t]*(?:#[^\n]*)?[\s,)]*", names or plain)
        found |= {f"{base}.{name.decode()}" if base else name.decode() for name in listed}
        if base:
            found.add(base)
    return frozenset(found)


def _required(entry: EntryPoint) -> Iterator[str]:
    """Names of the packages that a plug-in's distribution requires."""
    for text in (entry.dist.requires if entry.dist is not None else None) or ():
        name = re.split(r"[^\w.-]", text)[0]
        if re.sub(r"[-_.]+", "-", name).lower() not in NOT_REQUIRED:
            yield name


def _version(package: str) -> str | None:
    """The installed version; None when it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
