"""Packages of the user's own, imported before anything is identified or opened, in every process of a run.

A package may register models with transformers (`AutoModelForCausalLM.register`), which engine hf then runs. It is
named by `--import`, or declares an entry point in the group `ttbench.imports`, whose value is the module to import.
What was imported here is part of the digest of the code (`ttbench.code`), for it can change any number.

Packages that extras of ttbench bring are asked for here too.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping

from ttbench.errors import UsageError
from ttbench.registry import entry_points

GROUP = "ttbench.imports"
_imported: dict[str, None] = {}  # names of modules, in the order they came


def import_packages(names: Iterable[str] = ()) -> None:
    """Import the packages that installed entry points name, and these. Raises UsageError for one that fails."""
    installed = {entry.value: f"the plug-in '{entry.name}'" for entry in entry_points(GROUP)}
    for name, what in {**installed, **dict.fromkeys(names, "--import")}.items():
        if name in _imported:
            continue
        try:
            importlib.import_module(name)
        # Whatever the package raises while it is imported is its own, and said in one line.
        except Exception as error:
            hint = (
                "install it, or name its folder in PYTHONPATH" if isinstance(error, ModuleNotFoundError) else "mend it"
            )
            raise UsageError(f"{what}: '{name}' cannot be imported: {type(error).__name__}: {error}; {hint}") from error
        _imported[name] = None


def import_path() -> str:
    """PYTHONPATH for a process that this one starts: it finds what was found here, and the current folder by name."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


def require_extra(what: str, packages: Mapping[str, str], *, extra: str) -> None:
    """Raises UsageError where a package of an extra is missing, and says how to install it.

    Args:
        what: needs them, as in "a report".
        packages: module -> distribution.
        extra: of ttbench.
    """
    missing = [name for module, name in packages.items() if not _is_installed(module)]
    if missing:
        raise UsageError(
            f"{what} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            f"install with: pip install 'ttbench[{extra}]'"
        )


def _is_installed(module: str) -> bool:
    """A folder of that name in the working folder, such as W&B leaves, is no package."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def imported() -> tuple[str, ...]:
    """Names of the modules that were imported here."""
    return tuple(_imported)
