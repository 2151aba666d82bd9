"""A model in memory gives the numbers that its checkpoint gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ttbench
from ttbench.checkpoints.loading import save_checkpoint
from ttbench.errors import UsageError
from ttbench.models.transformer import Transformer

OPTIONS: dict[str, Any] = {"ctx": "64", "limit": 2, "params": {"window": 32, "max_context": 64}}


def nats(rows: pd.DataFrame) -> list[float]:
    assert set(rows["status"]) == {"ok"}, rows["reason"].tolist()
    return [float(value) for value in rows["nats"]]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for index in range(3):
        (folder / f"{index}.txt").write_text(f"{index} lines of text. " * 35)
    return folder


def test_a_model_its_engine_and_its_folder_give_the_same_numbers(text: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Transformer.tiny().eval()
    save_checkpoint(model, tmp_path / "saved", dtype="float32", extra={"train_ctx": 64, "tokenizer": "bytes"})
    asked = {**OPTIONS, "corpus": f"text:{text}"}
    engine = ttbench.load(str(tmp_path / "saved"))
    by_engine = ttbench.measure("perplexity", engine, tokenizer="bytes", **asked)
    by_model = ttbench.measure("perplexity", model, tokenizer="bytes", name="mine", **asked)
    by_folder = ttbench.run(
        "perplexity", checkpoints=str(tmp_path / "saved"), threads=1, out=tmp_path / "runs", **asked
    )
    assert nats(by_engine) == nats(by_model) == pytest.approx(nats(by_folder), rel=1e-6)
    assert set(by_model["checkpoint"]) == {"mine"}
    assert by_model["weights_digest"].tolist() == by_engine["weights_digest"].tolist()
    numbers = ttbench.table(by_model)
    assert "bits_per_byte" in set(numbers["metric"])


def test_a_model_of_transformers_is_measured_as_it_is(text: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256}
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    asked = {**OPTIONS, "corpus": f"text:{text}"}
    before = ttbench.measure("perplexity", model, tokenizer="bytes", **asked)
    with torch.no_grad():
        model.lm_head.weight.mul_(3.0)
    after = ttbench.measure("perplexity", model, tokenizer="bytes", **asked)
    assert nats(before) != nats(after)
    assert set(before["weights_digest"]) != set(after["weights_digest"])
    assert set(before["engine"]) == {"hf"}


def test_what_cannot_be_measured_in_memory_is_refused_in_words(text: Path) -> None:
    model = Transformer.tiny()
    with pytest.raises(UsageError, match="fresh processes"):
        ttbench.measure("latency", model)
    with pytest.raises(UsageError, match="decides its own dtype"):
        ttbench.measure("perplexity", model, dtype="float64")
    with pytest.raises(UsageError, match="a Linear cannot be measured"):
        ttbench.measure("perplexity", torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="no tokenizer that can be read"):
        ttbench.measure("perplexity", model, tokenizer=3)
    rows = ttbench.measure("perplexity", model, corpus=f"text:{text}", ctx="64")
    assert set(rows["status"]) == {"unsupported"}


def test_an_engine_that_looks_ahead_is_refused_in_memory_too(text: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes: dict[str, Any] = {"vocab_size": 257, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(0)
    # Start values so large that what a token sees of later ones is no rounding.
    model = BertLMHeadModel(BertConfig(**sizes, num_attention_heads=2, initializer_range=1.0)).eval()
    rows = ttbench.measure("perplexity", model, tokenizer="bytes", **OPTIONS, corpus=f"text:{text}")
    assert set(rows["status"]) == {"unsupported"}
    assert "causality" in rows["reason"][0]
