"""A tiny random Llama with a byte-level vocabulary, written to a folder, and tiny tasks in lm-eval's format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guard
import pytest
import tokenizers
import torch
import yaml
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

WORDS = (
    "Ann Bob ring beach lost glad found the a and was is why what will happen next thank hate family friend Q A".split()
)
QUESTIONS: list[dict[str, Any]] = [
    {
        "asked": f"{name} found a ring on the {place}, and was {feeling}. What will {name} do next?",
        "choices": [f"thank {other}", f"look for the family of the {place}", "sell it"],
        "label": index % 3,
    }
    for index, (name, place, feeling, other) in enumerate(
        [
            ("Ann", "beach", "glad", "Bob"),
            ("Bob", "street in the rain", "sad", "Ann"),
            ("Cleo", "beach", "glad", "nobody at all"),
            ("Dan", "beach of a far-away, long-forgotten island", "lost", "Eve"),
        ]
    )
]
TEXTS: list[dict[str, Any]] = [
    {"text": "Ann found a ring on the beach, and she was glad. " * 4},
    {"text": "Bob? He lost it."},
]
TASKS: dict[str, dict[str, Any]] = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{asked}}\nA:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
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
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "tiny_write": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "glad",
        "generation_kwargs": {"until": ["\n", "!"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(autouse=True)
def _lm_eval_has_a_process_of_its_own() -> Iterator[None]:
    """Opening a model for lm-eval pins threads and flushes denormals for the whole process."""
    with guard.restored():
        yield


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tasks, one YAML file each, with their data beside them."""
    folder = tmp_path_factory.mktemp("lm-eval-tasks")
    for name, settings in TASKS.items():
        data = folder / f"{name}.jsonl"
        documents = QUESTIONS if name == "tiny_choice" else TEXTS
        data.write_text("".join(json.dumps(document) + "\n" for document in documents))
        source = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
            "test_split": "test",
            "metadata": {"version": 1.5},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**source, **settings}))
    return folder


def bpe(*, adds_bos: bool) -> tokenizers.Tokenizer:
    """A byte-level vocabulary of 320 tokens; with `adds_bos`, one that puts <s> in front by itself."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([f" {word}" for word in WORDS] * 3 + ["? What. Why\nA: Q:"], trainer)
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A checkpoint that ttbench and transformers both read."""

    path: Path
    adds_bos: bool


@pytest.fixture(scope="session", params=[False, True], ids=["plain", "bos"])
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A tiny Llama of 64 positions with weights large enough to have opinions."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("llama")
    made = bpe(adds_bos=request.param)
    config = LlamaConfig(
        vocab_size=made.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(path)
    return Folder(path=path, adds_bos=request.param)
