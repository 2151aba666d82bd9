"""`ttbench show --format model-index`: metadata of a model card, as the Hub's own library reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from rows import TRANSFORMER, TTT, make_rows, needle_rows, perplexity_rows, timing_rows
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.errors import UsageError
from ttbench.report.formats.model_index import model_index
from ttbench.report.published import ROWS, rows_bytes
from ttbench.report.table import summarise


def made(*models: Any) -> pd.DataFrame:
    chosen = list(models) or [TTT]
    return make_rows(
        perplexity_rows(chosen, (512, 8192), num_documents=12),
        needle_rows(chosen, (512,)),
        timing_rows(chosen, (512,)),
    )


def read(text: str) -> tuple[str, list[EvalResult]]:
    """What the Hub's library finds in a card that begins with this text."""
    data: Any = ModelCard(text + "\n# A model\n").data
    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert data.eval_results == results
    return name, results


def test_the_hub_reads_every_number_of_quality_with_unit_and_interval() -> None:
    table = summarise(made())
    name, results = read(model_index(table).text)
    assert name == TTT.name
    ours = table[(table["checkpoint"] == TTT.name) & table["task"].isin(["perplexity", "needle"])]
    assert len(results) == len(ours)
    for (_, entry), result in zip(ours.iterrows(), results, strict=True):
        assert (result.metric_type, result.metric_value) == (entry["metric"], entry["value"])
        arguments = result.metric_args or {}
        assert (arguments["unit"], arguments["low"]) == (entry["unit"], entry["low"])
        assert (arguments["context_len"], arguments["weights_digest"]) == (
            entry["context_len"],
            entry["weights_digest"],
        )
        assert (result.task_type, result.task_name) == ("text-generation", entry["task"])
        assert str(entry["task"]) in (result.dataset_config or "")
    assert [result.metric_name for result in results[:2]] == [
        "bits per byte at 512 tokens",
        "bits per byte at 8k tokens, beyond the training context",
    ]


def test_reading_and_writing_again_loses_nothing() -> None:
    text = model_index(summarise(made())).text
    card = ModelCard(text)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_what_has_no_place_is_left_out_and_counted() -> None:
    rows = made()
    rows.loc[rows["task"] == "needle", "status"] = "oom"
    rows["checked"] = None
    rows.loc[(rows["task"] == "perplexity") & (rows["context_len"] == 8192), "checked"] = "unchecked"
    found = model_index(summarise(rows))
    _, results = read(found.text)
    assert {result.metric_type for result in results} == {"bits_per_byte", "perplexity"}
    assert {(result.metric_args or {})["context_len"] for result in results} == {512}
    told = " ".join(found.left_out)
    assert all(word in told for word in ("time or memory", "without a number", "unchecked"))
    assert found.num_metrics == len(results)


def test_a_dataset_of_the_hub_is_named_as_the_hub_names_it() -> None:
    rows = made()
    rows.loc[rows["task"] == "perplexity", "corpus"] = "hf:owner/texts:en@validation"
    _, results = read(model_index(summarise(rows)).text)
    named = {(one.dataset_type, one.dataset_split) for one in results if one.task_name == "perplexity"}
    assert named == {("owner/texts", "validation")}


def test_timings_alone_are_no_metadata() -> None:
    with pytest.raises(UsageError, match="of time or memory on this machine"):
        model_index(summarise(make_rows(timing_rows([TTT], (512,)))))


def test_a_card_is_of_one_model(tmp_path: Path) -> None:
    (tmp_path / ROWS).write_bytes(rows_bytes(made(TTT, TRANSFORMER)))
    show = ["show", str(tmp_path), "--format", "model-index"]
    refused = CliRunner().invoke(app, show)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "name one: --checkpoint" in " ".join(refused.stderr.split())
    done = CliRunner().invoke(app, [*show, "--checkpoint", TRANSFORMER.name])
    assert done.exit_code == 0, done.output
    assert read(done.stdout)[0] == TRANSFORMER.name
    told = " ".join(done.stderr.split())
    assert "verdicts" in told
    assert "of time or memory on this machine" in told
