"""Cells of published results are read back from their rows, with what they ran on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rows import TTT, make_rows, perplexity_rows

from ttbench.cli import listing, published_cells
from ttbench.cli.commands import result_commands
from ttbench.corpora.corpus import open_corpus
from ttbench.errors import UnknownNameError
from ttbench.report.published import ROWS, rows_bytes
from ttbench.store.rows import read_environments, read_rows
from ttbench.types import canonical_json, digest

BENCH = Path(__file__).parents[2] / "results" / "bench" / "cpu"
ENVIRONMENT = {
    "processor": "Example 9000",
    "num_cores": 12,
    "memory_bytes": 64 * 1024**3,
    "accelerator": None,
    "python": "3.12.1",
    "packages": {"torch": "2.13.0"},
    "ttbench": "0.1.0",
    "commit": "abc123",
}


def test_published_rows_carry_their_environments(tmp_path: Path) -> None:
    text = canonical_json(ENVIRONMENT)
    run = tmp_path / "run"
    run.mkdir()
    (run / "environment.json").write_text(text)
    found = read_environments([run])
    assert found == {digest(text): text}
    rows = make_rows(perplexity_rows([TTT], [512], num_documents=3))
    rows["environment"] = digest(text)
    rows.attrs["environments"] = found
    (tmp_path / ROWS).write_bytes(rows_bytes(rows))
    back = read_rows(tmp_path / ROWS)
    assert back.attrs["environments"] == found
    (line,) = published_cells.environments(back)
    assert line == (
        "measured on Example 9000, 12 cores, 64.0 GiB, no accelerator; Python 3.12.1, torch 2.13.0, ttbench 0.1.0, "
        "commit abc123"
    )


def test_rows_from_before_say_that_their_environment_was_not_kept() -> None:
    rows = make_rows(perplexity_rows([TTT], [512], num_documents=3))
    assert published_cells.environments(rows) == [
        "the environment of these rows was not kept: they were published before rows carried it"
    ]


def test_a_cell_of_published_results_is_found_by_its_first_letters_and_shown_from_its_rows() -> None:
    rows = read_rows(BENCH / ROWS)
    first = rows.iloc[0]
    cell_id = listing.match_cell(first["cell_id"][:6], list(dict.fromkeys(rows["cell_id"])), where="bench")
    view = published_cells.view_cell(rows, cell_id)
    assert view["cell_id"] == first["cell_id"]
    assert view["cell"]["checkpoint"]["weights_digest"] == first["weights_digest"]
    assert view["cell"]["params"]["window"] == 256
    assert view["kernel_path"] == json.loads(first["kernel_path"])
    assert len(view["samples"]) == (rows["cell_id"] == cell_id).sum()
    assert view["samples"][0]["document"] == first["document"]
    with pytest.raises(UnknownNameError):
        listing.match_cell("zzz", list(dict.fromkeys(rows["cell_id"])), where="bench")


def test_a_sample_of_published_results_is_cut_from_its_corpus_again(capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_rows(BENCH / ROWS)
    row = rows[rows["corpus"] == "code"].iloc[3]
    found = published_cells.open_sample(rows, row["cell_id"], 3)
    document = next(each for each in open_corpus("code").documents("test") if each.name == row["document"])
    # the tokenizer is of bytes, and the text ASCII
    start = row["window_start"]
    expected = document.text[start : start + 256]
    assert bytes(target["id"] for target in found["rebuilt"]["targets"]) == expected
    assert found["values"]["nats"] == row["nats"]
    assert found["evidence"] is None
    result_commands.show(str(BENCH), row["cell_id"][:8], sample=3, root=Path("runs"), as_json=False)
    assert published_cells.NOT_STORED in " ".join(capsys.readouterr().err.split())
