"""The task over tiny tasks in lm-eval's format: rows, statuses, and what lm-eval says of the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stub_engine import StubEngine, corpus_of, run_task, scattered

from ttbench.errors import CorpusError, UsageError
from ttbench.lmeval import evaluation
from ttbench.lmeval.text import ByteText
from ttbench.tasks import commonsense
from ttbench.tasks.commonsense import Commonsense, CommonsenseParams
from ttbench.types import Sample

CHOICES = [
    {"asked": "Ann found a ring. Why?", "choices": ["she looked", "no", "it rained all day"], "label": 1},
    {"asked": "Bob is sad. What next?", "choices": ["he goes", "he sings a song"], "label": 0},
    {"asked": "What is lost?", "choices": ["a ring", "the day"], "label": 1},
]
TEXTS = [{"text": "Ann found a ring on the beach. " * 3}, {"text": "Bob is sad."}]
SETTINGS: dict[str, Any] = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{asked}}\nA:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    },
    "tiny_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
        "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    },
}


@pytest.fixture(autouse=True)
def _own_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, settings in SETTINGS.items():
        data = tmp_path / f"{name}.jsonl"
        documents = CHOICES if name == "tiny_choice" else TEXTS
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        kwargs = {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")}
        shared = {"task": name, "dataset_path": "json", "dataset_kwargs": kwargs, "test_split": "test"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**shared, **settings, "metadata": {"version": 1.5}}))
    monkeypatch.setattr(evaluation, "OWN_TASKS", tmp_path)
    # the stub's checkpoint has no folder
    monkeypatch.setattr("ttbench.lmeval.text.read_text", lambda folder: ByteText())


def measure(task: str = "tiny_choice", *, context_len: int = 4096, **options: Any) -> list[Sample]:
    engine = options.pop("engine", None) or StubEngine(scattered(257))
    corpus = corpus_of({"none": b"none"})
    return run_task(Commonsense(), engine=engine, corpus=corpus, context_len=context_len, task=task, **options)


def questions(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.keys["question"] is not None]


def aggregates(samples: list[Sample]) -> dict[Any, Sample]:
    return {sample.keys["lm_eval_metric"]: sample for sample in samples if sample.keys["question"] is None}


def test_rows_are_questions_and_sum_to_what_lm_eval_reports() -> None:
    samples = measure()
    rows, reported = questions(samples), aggregates(samples)
    assert [row.keys["question"] for row in rows] == [0, 1, 2]
    for name in ("acc", "acc_norm"):
        right = np.array([row.values[name] for row in rows])
        assert reported[name].values["lm_eval_value"] == pytest.approx(right.mean())
        assert reported[name].values["lm_eval_stderr"] == pytest.approx(right.std(ddof=1) / np.sqrt(3))
    assert [row.values["chance"] for row in rows] == [1 / 3, 1 / 2, 1 / 2]
    assert sum(row.values["num_questions"] or 0 for row in rows) == 3


def test_rows_carry_lm_evals_names_and_versions() -> None:
    for sample in measure(limit=2):
        assert sample.keys["lm_eval_task"] == "tiny_choice"
        assert sample.keys["lm_eval_version"] == "1.5"
        assert sample.keys["num_fewshot"] == 0
        assert sample.keys["comparable_to_published"] is False
        assert sample.keys["not_comparable_because"] == "the first 2 of 3 questions"
    assert measure()[0].keys["comparable_to_published"] is True


def test_every_row_has_the_same_columns() -> None:
    found = {(*sample.keys, *sample.values) for task in SETTINGS for sample in measure(task)}
    assert len(found) == 1


def test_the_evidence_of_a_question_is_its_prompts_and_answers() -> None:
    evidence = questions(measure())[1].evidence
    assert evidence is not None
    assert evidence["arguments"][0] == ["Q: Bob is sad. What next?\nA:", " he goes"]
    assert len(evidence["responses"]) == 2


def test_texts_give_nats_words_and_bytes() -> None:
    samples = measure("tiny_rolling")
    rows, reported = questions(samples), aggregates(samples)
    totals = {name: sum(row.values[name] or 0 for row in rows) for name in ("nats", "num_words", "num_bytes")}
    assert totals["num_bytes"] == sum(len(each["text"]) for each in TEXTS)
    assert reported["word_perplexity"].values["lm_eval_value"] == pytest.approx(
        np.exp(totals["nats"] / totals["num_words"])
    )
    assert reported["bits_per_byte"].values["lm_eval_value"] == pytest.approx(
        totals["nats"] / totals["num_bytes"] / np.log(2)
    )
    assert reported["word_perplexity"].values["lm_eval_stderr"] is None


def test_the_last_word_gives_nats_per_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.api.metrics._bootstrap_internal_no_mp", lambda f, xs, iters: [1.0, 3.0])
    samples = measure("tiny_last")
    rows = questions(samples)
    mean = sum(row.values["nats"] or 0 for row in rows) / sum(row.values["num_targets"] or 0 for row in rows)
    assert aggregates(samples)["perplexity"].values["lm_eval_value"] == pytest.approx(np.exp(mean))


def test_what_is_longer_than_the_context_is_cut_and_marked() -> None:
    # "A:" and the longest choice fit, the question does not
    rows = questions(measure(context_len=24))
    whole = questions(measure())
    for cut, full in zip(rows, whole, strict=True):
        assert cut.values["num_tokens"] == full.values["num_tokens"]
        assert cut.values["cut_tokens"] == max(0, (full.values["num_tokens"] or 0) - 25)
        assert full.values["cut_tokens"] == 0
    assert any(row.values["cut_tokens"] for row in rows)


def test_windows_of_a_text_are_counted() -> None:
    rows = questions(measure("tiny_rolling", context_len=32))
    assert [row.values["num_windows"] for row in rows] == [3, 1]


def test_worked_examples_are_asked_for_by_number() -> None:
    assert measure(num_fewshot=1)[0].keys["num_fewshot"] == 1
    longer, plain = (questions(measure(num_fewshot=count)) for count in (1, 0))
    assert (longer[0].values["num_tokens"] or 0) > (plain[0].values["num_tokens"] or 0)


def test_missing_data_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "tiny_choice.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"'tiny_choice' are not on this machine.*copy the cache"):
        measure()


def test_an_unreachable_hub_says_what_to_do_before_any_weights_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**options: Any) -> None:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setattr(commonsense, "_model", lambda bench: pytest.fail("weights loaded"))
    with pytest.raises(CorpusError, match=r"could not be fetched \(Couldn't reach the hub\)"):
        measure("piqa")


@pytest.mark.parametrize("name", [*evaluation.FOLDERS])
def test_lm_eval_has_the_papers_tasks_where_they_are_looked_for(name: str) -> None:
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / evaluation.FOLDERS[name]
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)
    assert name in manager.all_subtasks


def test_wrong_parameters_are_refused() -> None:
    for params, message in (
        (CommonsenseParams(limit=0), "limit is 0"),
        (CommonsenseParams(num_fewshot=-1), "num_fewshot is -1"),
        (CommonsenseParams(task=""), "task is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            Commonsense().check(params)


def test_plans_reckon_with_a_question_not_with_the_context() -> None:
    task = Commonsense()
    assert task.reach(CommonsenseParams(), 32_768) == commonsense.TYPICAL_LEN
    assert task.reach(CommonsenseParams(), 100) == 100
    assert task.tokens(CommonsenseParams(limit=3), 32_768) == 3 * commonsense.TYPICAL_LEN
