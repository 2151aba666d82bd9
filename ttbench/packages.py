"""Packages of the user's own, imported before anything is identified or opened, in every process of a run.

A package may register models with transformers (`AutoModelForCausalLM.register`), which engine hf then runs. It is
named by `--import`, or declares an entry point in the group `ttbench.imports`, whose value is the module to import.
What was imported here is part of the digest of the code (`ttbench.code`), for it can change any number.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable

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


def imported() -> tuple[str, ...]:
    """Names of the modules that were imported here."""
    return tuple(_imported)
