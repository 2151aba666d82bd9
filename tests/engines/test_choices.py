"""What a model chose where others choose otherwise is in columns of its rows, and shown with its cells."""

from __future__ import annotations

import pytest

from ttbench.engines.eager import EagerEngine
from ttbench.models.titans.titans import TitansLMM, TitansMAG
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES
from ttbench.runs.in_memory import measure
from ttbench.runs.options import Options


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_choice_is_a_field_of_the_config_with_one_value(name: str) -> None:
    model = ARCHITECTURES.load(name).tiny()
    assert all(value is None or isinstance(value, str | int | float | bool) for value in model.choices.values())
    kinds = {"text": str, "whole": int, "real": float, "truth": bool}
    for choice, value in model.choices.items():
        assert value is None or isinstance(value, kinds[model.CHOICES[choice].kind]), choice


def test_choices_are_those_of_the_config() -> None:
    engine = EagerEngine(TitansMAG.tiny(chunk_size=8, memory_read="chunk", window=20), device="cpu", dtype="float32")
    assert engine.choices == {
        "memory_read": "chunk",
        "memory_init": "learned",
        "memory_layers": 2,
        "chunk_size": 8,
        "num_persistent": engine.model.config.num_persistent,
        "window": 20,
    }
    assert "window" not in TitansLMM.tiny().choices


def test_rows_have_a_column_for_each_choice() -> None:
    options: Options = {"ctx": "128", "params": {"kind": "copy", "form": "text", "limit": 1}}
    rows = measure("recall", Transformer.tiny(conv_kernel=3), tokenizer="bytes", options=options)
    assert set(rows["choice_conv_kernel"]) == {3}
    assert list(rows.columns).index("choice_conv_kernel") < list(rows.columns).index("sample")
