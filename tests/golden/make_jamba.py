"""Record the goldens of the hybrid from Hugging Face's Jamba, without experts.

    pip install transformers==5.23.0 torch numpy
    PYTHONPATH=tests python -m golden.make_jamba

writes tests/golden/jamba_<case>.json as `make_llama` does. The logits are those of one whole read without a cache:
with one, transformers 5.23.0 starts its scan again from zero at the second chunk.
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
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 1,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied_wide": {"tie_word_embeddings": True, "mamba_expand": 3, "mamba_d_state": 8, "rms_norm_eps": 1e-5},
    "biases": {"mamba_conv_bias": False, "mamba_proj_bias": True, "mamba_dt_rank": 5, "mamba_d_conv": 3},
    "no_attention": {"attn_layer_period": 8, "attn_layer_offset": 4, "num_hidden_layers": 2},
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight under its name in a Jamba checkpoint, rounded to float32 and returned as float64."""
    scale, centre = (0.3, 1.0) if len(shape) == 1 else (1.5 / shape[-1] ** 0.5, 0.0)
    return (centre + scale * uniform(name, shape)).astype(np.float32).astype(np.float64)


def token_ids() -> np.ndarray:
    """The tokens every golden reads, [NUM_TOKENS] int64."""
    return ((uniform("jamba ids", (NUM_TOKENS,)) + 1) / 2 * VOCAB_SIZE).astype(np.int64)


def record(case: str) -> dict[str, Any]:
    """Run transformers on one case, in float64 as far as it allows."""
    import torch
    import transformers  # pyright: ignore[reportMissingImports]

    model = transformers.JambaForCausalLM(transformers.JambaConfig(**{**SIZES, **CASES[case]})).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
        logits = model(torch.from_numpy(token_ids())[None], use_cache=False).logits[0, list(POSITIONS)]
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
    return {
        "made_by": "tests/golden/make_jamba.py",
        "source": "transformers.JambaForCausalLM",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "given": {**SIZES, **CASES[case]},
        "config": config,
        "weights": {name: list(parameter.shape) for name, parameter in model.named_parameters()},
        "positions": list(POSITIONS),
        "logits": [[float(f"{value:.7g}") for value in row] for row in logits.tolist()],
    }


def main() -> None:
    for case in CASES:
        path = Path(__file__).with_name(f"jamba_{case}.json")
        found = record(case)
        rows = ",\n".join(f"    {json.dumps(row)}" for row in found.pop("logits"))
        shapes = ",\n".join(f"    {json.dumps(name)}: {shape}" for name, shape in found.pop("weights").items())
        head = json.dumps(found, indent=2)[:-2]
        text = f'{head},\n  "weights": {{\n{shapes}\n  }},\n  "logits": [\n{rows}\n  ]\n}}\n'
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
