"""Record the goldens of the transformer from Hugging Face's Llama.

    pip install transformers==5.23.0 torch numpy
    PYTHONPATH=tests python -m golden.make_llama

writes tests/golden/llama_<case>.json: the config.json that transformers itself writes for a tiny model, and its
logits. Weights are not stored: both sides make them with `weight`, from the name and the shape alone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from golden.make_ttt import uniform

VOCAB_SIZE, NUM_TOKENS = 53, 40
POSITIONS = (0, 1, 7, 20, 39)
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CASES: dict[str, dict[str, Any]] = {
    "mha_untied": {"tie_word_embeddings": False},
    "mha_tied": {"tie_word_embeddings": True},
    "gqa": {"num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "mqa": {"num_key_value_heads": 1},
    "rope_theta": {"rope_theta": 250.0},
    "rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "head_dim": {"head_dim": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight under its name in a Llama checkpoint, rounded to float32 and returned as float64.

    Matrices are large enough for attention to be sharp, so that a wrong angle or scale shows in the logits.
    """
    scale, centre = (0.3, 1.0) if len(shape) == 1 else (2.5 / shape[-1] ** 0.5, 0.0)
    return (centre + scale * uniform(name, shape)).astype(np.float32).astype(np.float64)


def token_ids() -> np.ndarray:
    """The tokens every golden reads, [NUM_TOKENS] int64."""
    return ((uniform("llama ids", (NUM_TOKENS,)) + 1) / 2 * VOCAB_SIZE).astype(np.int64)


def record(case: str) -> dict[str, Any]:
    """Run transformers on one case, in float64 as far as it allows."""
    import torch
    import transformers  # pyright: ignore[reportMissingImports]

    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **CASES[case])).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
        logits = model(torch.from_numpy(token_ids())[None]).logits[0, list(POSITIONS)]
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
    return {
        "made_by": "tests/golden/make_llama.py",
        "source": "transformers.LlamaForCausalLM",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "given": {**SIZES, **CASES[case]},
        "config": config,
        "positions": list(POSITIONS),
        "logits": [[float(f"{value:.7g}") for value in row] for row in logits.tolist()],
    }


def main() -> None:
    for case in CASES:
        path = Path(__file__).with_name(f"llama_{case}.json")
        found = record(case)
        rows = ",\n".join(f"    {json.dumps(row)}" for row in found.pop("logits"))
        head = json.dumps(found, indent=2)[:-2]
        path.write_text(f'{head},\n  "logits": [\n{rows}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
