"""Names of folders as text: what no reader of a table takes for something else."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from ttbench.names import as_text, folder_name, is_plain, quote
from ttbench.types import digest, json_bytes

ODD = [
    "NA",
    "nan",
    "NULL",
    "None",
    "True",
    "1e5",
    "1_000",
    "inf",
    "-1",
    "=1+1",
    "+A1",
    "@SUM(A1)",
    "2024-01-01",
    "5%",
    "500",
    "1.#IND",
    "T",
    "MAR1",
    "SEPT2",
    "5-May",
    "1 jan 2024",
    "7 pm",
    "0x1F",
    "2i",
]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_that_looks_like_a_number_a_gap_or_a_formula_is_called_by_its_path(name: str, tmp_path: Path) -> None:
    called = folder_name(Path("/data/runs") / name)
    assert called == f"runs/{name}"
    table = pd.DataFrame({"checkpoint": [called, "transformer"], "value": [0.5, 0.25]})
    text = table.to_csv(index=False)
    assert pd.read_csv(io.StringIO(text))["checkpoint"].tolist() == [called, "transformer"]
    assert pd.read_csv(io.StringIO(text.replace("transformer", called)))["checkpoint"].tolist() == [called, called]
    assert list(csv.reader(io.StringIO(text)))[1][0][0] not in "=+-@"


def test_parents_that_are_odd_too_are_followed_by_theirs() -> None:
    assert folder_name(Path("/data/1/2/3")) == "data/1/2/3"
    assert folder_name(Path("/1/2")) == "/1/2"


@pytest.mark.parametrize(
    "name",
    ["transformer", "ttt-linear-125m", "模型", "checkpoint-500", "1e5b", "$x$", "a b", "may", "march-7b", "mamba2"],
)
def test_other_names_stay_as_they_are(name: str) -> None:
    assert is_plain(name)
    assert folder_name(Path("/data") / name) == name


def test_bytes_that_are_no_utf8_and_line_breaks_are_spelt() -> None:
    assert as_text(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert as_text("café") == "café"
    assert folder_name(Path("/data/two\nlines\x1b[31m")) == "two\\nlines\\x1b[31m"


@pytest.mark.parametrize("raw", [b"caf\xe9", b"two\nlines", b"it's", b"plain", "模型".encode(), b"back\\slash\xff'"])
def test_a_quoted_word_is_read_back_by_the_shell(raw: bytes) -> None:
    done = subprocess.run(["bash", "-c", f"printf %s {quote(os.fsdecode(raw))}"], capture_output=True, check=True)
    assert done.stdout == raw


def test_json_gives_such_a_name_back_and_has_a_digest() -> None:
    import json

    name = os.fsdecode(b"caf\xe9")
    assert json.loads(json_bytes(json.dumps({"path": name}, ensure_ascii=False)))["path"] == name
    assert digest(name) != digest(name.replace("\udce9", "\\udce9x"))
