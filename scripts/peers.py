"""Check the models of other people's packages, as docs/check-a-foreign-model.md describes, and expect what it says.

    python scripts/peers.py --files FOLDER     write the page's package into a folder
    python scripts/peers.py                    run `ttbench check` on each model; fail on any other finding

`make peers` does both, in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "check-a-foreign-model.md"
PACKAGES = ("titans-pytorch", "titans-memory", "torch", "ttbench")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the self-check must find in one model."""

    failed: frozenset[str]  # probes, exactly these
    at_least: float = 0.0  # of every failed probe's measure, relative: far beyond rounding


LONG = Expected(failed=frozenset({"long_prompt"}), at_least=1e-4)
LEAK = Expected(
    failed=frozenset({"step_equals_forward", "split_invariance", "long_prompt", "causality"}), at_least=1e-3
)
EXPECTED = {
    "titans-pytorch-mac": LONG,
    "titans-pytorch-sliding": LONG,
    "titans-pytorch-sliding-alone": Expected(failed=frozenset()),
    "titans-memory-mac": LEAK,
    "titans-memory-mag": LEAK,
    "titans-memory-mal": LEAK,
    "titans-memory-lmm": LEAK,
}


def files() -> dict[str, str]:
    """The page's files by name: code blocks whose first line is a comment with a file name."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return {match[1]: text for text in blocks if (match := re.match(r"# (\S+\.\w+)\n", text))}


def write_files(folder: Path) -> None:
    """Write the page's files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


def check(name: str) -> list[dict[str, Any]]:
    """What `ttbench check` finds in one architecture. Raises SystemExit when it does not get that far."""
    command = [sys.executable, "-m", "ttbench", "check", f"architecture:{name}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def surprises(name: str, results: list[dict[str, Any]]) -> list[str]:
    """Where the findings are not the expected ones."""
    expected = EXPECTED[name]
    failed = {result["name"]: result["measured"] for result in results if result["passed"] is False}
    found = [f"{name}: {probe} passed" for probe in sorted(expected.failed - set(failed))]
    found += [f"{name}: {probe} failed" for probe in sorted(set(failed) - expected.failed)]
    found += [
        f"{name}: {probe} failed by {measured}, expected {expected.at_least:g} or more"
        for probe, measured in failed.items()
        if probe in expected.failed and (measured is None or measured < expected.at_least)
    ]
    return found


def main() -> None:
    """Read the options and do what they say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=Path, help="write the page's package into this folder, and leave")
    options = parser.parse_args()
    if options.files is not None:
        write_files(options.files)
        return
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    wrong = []
    for name in EXPECTED:
        results = check(name)
        print(f"\n{name}")
        for result in results:
            if result["passed"] is False:
                print(f"  FAILED  {result['name']:20} {result['measured']:.3g}: {result['explanation']}")
        num_passed = sum(result["passed"] is True for result in results)
        print(f"  passed  {num_passed} of {len(results)} probes", flush=True)
        wrong += surprises(name, results)
    if wrong:
        sys.exit("error: not what docs/check-a-foreign-model.md says: " + "; ".join(wrong))
    print("\nas docs/check-a-foreign-model.md says")


if __name__ == "__main__":
    main()
