"""Tiny models as engines, and experts over them, for the tests of adaptation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ttbench.adapt.experts import Expert
from ttbench.adapt.matrices import choose_matrices
from ttbench.engines.eager import EagerEngine
from ttbench.engines.hf.hf_engine import HFEngine
from ttbench.models.transformer import Transformer
from ttbench.models.ttt import TTTLinear

VOCAB = 257
Engine = EagerEngine | HFEngine


def native(kind: type[Any] = Transformer, *, dtype: str = "float32") -> EagerEngine:
    torch.manual_seed(0)
    return EagerEngine(kind.tiny(), device="cpu", dtype=dtype)


def llama() -> HFEngine:
    """transformers' Llama, whose matrices are nn.Linear."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return HFEngine(LlamaForCausalLM(config).eval(), device="cpu", dtype="float32", vocab_size=VOCAB)


def gpt2() -> HFEngine:
    """transformers' GPT-2, whose matrices are Conv1D: stored the other way round."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    return HFEngine(GPT2LMHeadModel(config).eval(), device="cpu", dtype="float32", vocab_size=VOCAB)


ENGINES = {
    "transformer": native,
    "ttt-linear": lambda: native(TTTLinear),
    "hf-llama": llama,
    "hf-gpt2": gpt2,
}


def make_expert(model: nn.Module, name: str, *, kind: str = "paper", value: float | None = None, seed: int = 0) -> Any:
    """An expert over the MLP matrices: `kind` paper, repository or lora; every entry `value`, or drawn."""
    rng = np.random.default_rng((seed, len(name)))

    def draw(*shape: int) -> np.ndarray:
        drawn = rng.normal(1.0 if kind == "paper" else 0.0, 0.3, size=shape)
        return (drawn if value is None else np.full(shape, value)).astype(np.float32)

    weights = choose_matrices(model, "*.mlp.*")
    part = {"paper": "z", "repository": "p"}
    tensors = {
        matrix: {"A": draw(2, w.shape[1]), "B": draw(w.shape[0], 2)}
        if kind == "lora"
        else {part[kind]: draw(min(w.shape))}
        for matrix, w in weights.items()
    }
    return Expert(
        name=name,
        method="lora" if kind == "lora" else "svf",
        form=None if kind == "lora" else kind,
        objective="next-token",
        domain=name,
        base="tiny",
        base_digest=None,
        scale=2.0 if kind == "lora" else None,
        tensors=tensors,
        shapes={matrix: (w.shape[0], w.shape[1]) for matrix, w in weights.items()},
        training={},
    )


def some_ids(num_tokens: int = 21) -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCAB - 1, size=(2, num_tokens))
