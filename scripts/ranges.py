"""Do the ranges in pyproject.toml begin where the tests of `make lowest` ran? Prints what does not; exit code 1 then.

A range whose lower end no resolver can choose, because another dependency asks for more, promises what nobody has run.
"""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version


def lower_ends() -> dict[str, Version]:
    """The lower end of every dependency's range, those of the development tools included."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])]
    ends = {}
    for requirement in wanted:
        (low,) = (each.version for each in requirement.specifier if each.operator == ">=")
        ends[requirement.name] = Version(low)
    return ends


def main() -> int:
    wrong = []
    for name, low in lower_ends().items():
        found = Version(importlib.metadata.version(name))
        # 2.2 begins with the first release of 2.2
        if found.release[: len(low.release)] != low.release:
            wrong.append(f"{name}>={low} in pyproject.toml, and the lowest that can be installed is {found.public}")
    print("\n".join(wrong) or "every range begins with what is installed here")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
