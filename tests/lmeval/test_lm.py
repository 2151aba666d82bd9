"""The lm-eval model on an Engine against lm-eval's own HFLM on the same weights, and against its own promises."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lm_eval.evaluator
import lm_eval.tasks
import numpy as np
import pytest
from lm_eval.api.instance import Instance

from ttbench.errors import TooLongError, UnknownNameError, UsageError
from ttbench.lmeval.model import EngineLM

TOLERANCES = {"float32": 1e-5, "float64": 1e-6}
LOGLIKELIHOOD: Any = "loglikelihood"
ROLLING: Any = "loglikelihood_rolling"
GENERATE: Any = "generate_until"


def ours(folder: Path | str, *, dtype: str = "float64", batch_size: int = 4, **arguments: Any) -> EngineLM:
    given = {"checkpoint": str(folder), "dtype": dtype, "threads": 1, **arguments}
    return EngineLM.create_from_arg_obj(given, {"batch_size": batch_size})


def theirs(folder: Path, *, dtype: str, **arguments: Any) -> Any:
    from lm_eval.models import huggingface

    # its decorators hide what it takes
    made: Any = huggingface.HFLM
    return made(pretrained=str(folder), dtype=dtype, batch_size=2, device="cpu", **arguments)


def run(model: Any, name: str, folder: Path) -> Any:
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)
    return lm_eval.evaluator.evaluate(lm=model, task_dict=manager.load([name]), bootstrap_iters=0)


def numbers(found: Any, name: str) -> np.ndarray:
    """Log-likelihoods and whether they are greedy, of all requests of a task, in order."""
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return np.array(
        [np.ravel(response) for sample in samples for responses in sample["resps"] for response in responses]
    )


def instances(kind: Any, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, index, metadata=("t", 0, 1)) for index, each in enumerate(arguments)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["tiny_choice", "tiny_last", "tiny_rolling"])
def test_answers_are_those_of_lm_evals_own_model(llama: Any, task_folder: Path, name: str, dtype: str) -> None:
    # read twice and scored once by lm-eval's own model, unless it is told not to
    once = {"add_bos_token": False} if name == "tiny_rolling" and llama.adds_bos else {}
    models = (ours(llama.path, dtype=dtype), theirs(llama.path, dtype=dtype, **once))
    found = [run(model, name, task_folder) for model in models]
    mine, reference = (numbers(each, name) for each in found)
    assert np.abs(mine - reference).max() <= TOLERANCES[dtype] * max(1.0, np.abs(reference).max())
    results = [each["results"][name] for each in found]
    for key, value in results[1].items():
        if key in ("acc,none", "acc_norm,none"):
            assert results[0][key] == value
        elif isinstance(value, float):
            assert results[0][key] == pytest.approx(value, rel=100 * TOLERANCES[dtype])
    assert found[0]["versions"] == found[1]["versions"] == {name: 1.5}


def test_one_bos_where_lm_eval_reads_two_is_said(llama: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ttbench"):
        ours(llama.path).loglikelihood_rolling(instances(ROLLING, ("Bob? He lost it.",)))
    assert ("reads it twice and scores the second" in caplog.text) == llama.adds_bos


def test_generated_texts_are_those_of_lm_evals_own_model(llama: Any, task_folder: Path) -> None:
    found = [run(model, "tiny_write", task_folder) for model in (ours(llama.path), theirs(llama.path, dtype="float64"))]
    texts = [[sample["resps"] for sample in each["samples"]["tiny_write"]] for each in found]
    assert texts[0] == texts[1]
    assert all(answers[0][0] for answers in texts[0])


def test_long_requests_lose_their_beginning_as_in_lm_eval_and_it_is_said(
    llama: Any, task_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ours(llama.path, max_length=48)
    with caplog.at_level(logging.WARNING, logger="ttbench"):
        mine = run(model, "tiny_choice", task_folder)
    reference = run(theirs(llama.path, dtype="float64", max_length=48), "tiny_choice", task_folder)
    np.testing.assert_allclose(numbers(mine, "tiny_choice"), numbers(reference, "tiny_choice"), rtol=1e-6)
    cut = [extent for extent in model.extents.values() if extent.cut_tokens]
    assert cut
    assert all(extent.num_tokens == 49 + extent.cut_tokens for extent in cut)
    assert f"{len(cut)} of 12 requests are longer than the 48 tokens" in caplog.text


def test_a_model_without_attention_is_never_cut_and_what_lm_eval_would_cut_is_marked() -> None:
    model = ours("ttt-linear", dtype="float32")
    context = "Ann found a ring. " * 130
    model.loglikelihood(instances(LOGLIKELIHOOD, (context, "Why?")))
    model.loglikelihood_rolling(instances(ROLLING, (context,)))
    assert model.max_length is None
    extent = model.extents["t", 0, 0]
    assert (extent.num_tokens, extent.cut_tokens, extent.num_windows) == (len(context), 0, 1)
    assert extent.cut_at_2048 == len(context) - 2049


def test_a_model_with_attention_reads_what_it_was_trained_on() -> None:
    model = ours("transformer", dtype="float32")
    text = "Ann found a ring. " * 240
    model.loglikelihood_rolling(instances(ROLLING, (text,)))
    assert model.max_length == 4096
    assert model.extents["t", 0, 0].num_windows == 2


@pytest.mark.parametrize("checkpoint", ["transformer", "ttt-linear"])
def test_sharing_prefixes_and_batches_change_no_answer(checkpoint: str) -> None:
    """All at once, with a long prefix in common, against one request after the other."""
    shared = "Once upon a time, on a beach far away, there was a ring that nobody had lost. " * 2
    asked = [
        (shared + question, choice) for question in ("Why? ", "Who lost it, and why? ") for choice in (" a", " bcd")
    ]
    asked += [("", "Ann"), ("Q", " A"), (shared[:70] + "another end", " of it")]
    together = ours(checkpoint, batch_size=3).loglikelihood(instances(LOGLIKELIHOOD, *asked))
    alone = ours(checkpoint, batch_size=1)
    one_by_one = [alone.loglikelihood(instances(LOGLIKELIHOOD, each))[0] for each in asked]
    np.testing.assert_allclose([nats for nats, _ in together], [nats for nats, _ in one_by_one], rtol=1e-9)
    assert [greedy for _, greedy in together] == [greedy for _, greedy in one_by_one]


def test_a_text_that_greedy_decoding_writes_is_called_greedy() -> None:
    model = ours("transformer")
    written = model.generate_until(instances(GENERATE, ("And the LORD said", {"max_gen_toks": 6, "until": []})))[0]
    asked = instances(LOGLIKELIHOOD, ("And the LORD said", written), ("And the LORD said", written[:-1] + "\x07"))
    assert [greedy for _, greedy in model.loglikelihood(asked)] == [True, False]


def test_a_stop_sequence_ends_a_text_and_is_not_part_of_it() -> None:
    model = ours("transformer")
    free = model.generate_until(instances(GENERATE, ("And the LORD said", {"max_gen_toks": 9, "until": []})))[0]
    stop = free[4]
    stopped = model.generate_until(instances(GENERATE, ("And the LORD said", {"max_gen_toks": 9, "until": [stop]})))[0]
    assert stopped == free.split(stop)[0]


def test_empty_texts_have_no_nats() -> None:
    assert ours("transformer").loglikelihood_rolling(instances(ROLLING, ("",))) == [0.0]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"checkpont": "x"}, UnknownNameError, "did you mean 'checkpoint'"),
        ({"dtype": "float32"}, UsageError, "names no checkpoint"),
        ({"checkpoint": "transformer", "batch_size": "many"}, UsageError, "batch_size=many must be a whole number"),
        ({"checkpoint": "transformer", "max_length": 0}, UsageError, "max_length=0 must be a whole number"),
    ],
)
def test_wrong_model_arguments_are_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EngineLM.create_from_arg_obj(given, {})


def test_arguments_come_as_text_too() -> None:
    model = EngineLM.create_from_arg_string("checkpoint=ttt-linear,threads=1,max_length=64", {"batch_size": "auto"})
    assert (model.max_length, model.batch_size) == (64, 8)
    assert model.get_model_info()["model_name"] == "ttt-linear"


def test_what_cannot_be_done_is_refused() -> None:
    model = ours("transformer", max_length=16)
    with pytest.raises(TooLongError, match="a continuation has 40 tokens; the model reads 16"):
        model.loglikelihood(instances(LOGLIKELIHOOD, ("Q", "a" * 40)))
    with pytest.raises(UsageError, match="has no token of its own"):
        model.loglikelihood(instances(LOGLIKELIHOOD, ("Q", "")))
    with pytest.raises(TooLongError, match="up to 256 new tokens"):
        model.generate_until(instances(GENERATE, ("Q", {"until": ["."]})))
    with pytest.raises(UsageError, match="asks for sampling"):
        model.generate_until(instances(GENERATE, ("Q", {"do_sample": True, "temperature": 0.7, "max_gen_toks": 3})))
    with pytest.raises(UsageError, match="chat templates"):
        model.apply_chat_template([])
