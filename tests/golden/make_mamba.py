"""Record the goldens of Mamba and Mamba-2 from transformers.

    pip install transformers==5.23.0 torch numpy
    PYTHONPATH=tests python -m golden.make_mamba

writes tests/golden/mamba_<case>.json and mamba2_<case>.json: the config.json that transformers itself writes for a tiny
model, its logits over a whole text, and those of its last token when the text is read in two chunks through its cache.
Weights are not stored: both sides make them with `weight`, from the name and the shape alone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from golden.make_ttt import uniform

VOCAB_SIZE, NUM_TOKENS, FIRST_CHUNK = 53, 40, 23
POSITIONS = (0, 1, 7, 23, 39)
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_heads": 8, "head_dim": 8, "state_size": 12}
CASES: dict[str, dict[str, Any]] = {
    "mamba_plain": {},
    "mamba_switches": {
        "use_bias": True,
        "use_conv_bias": False,
        "tie_word_embeddings": False,
        "conv_kernel": 3,
        "time_step_rank": 5,
        "state_size": 6,
        "layer_norm_epsilon": 1e-3,
        "residual_in_fp32": False,
    },
    "mamba2_one_group": {**HEADS, "n_groups": 1, "tie_word_embeddings": True},
    "mamba2_groups": {**HEADS, "n_groups": 4, "chunk_size": 16, "use_bias": True, "use_conv_bias": False},
    "mamba2_limit": {**HEADS, "n_groups": 2, "time_step_limit": (0.2, 0.7), "layer_norm_epsilon": 1e-3},
    # Codestral Mamba's settings at a small size, with the two fields that its file has and transformers passes over
    "mamba2_codestral": {
        "num_heads": 16,
        "head_dim": 4,
        "state_size": 16,
        "n_groups": 8,
        "tie_word_embeddings": False,
        "norm_before_gate": True,
        "rms_norm": True,
    },
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight under its name in transformers, rounded to float32 and returned as float64.

    Step sizes and rates are spread, so that some channels forget within a token and others keep the whole text.
    """
    last = name.rsplit(".", 1)[-1]
    if last == "A_log":
        scale, centre = 1.5, 0.0
    elif last == "dt_bias" or name.endswith("dt_proj.bias"):
        scale, centre = 2.0, -1.5
    elif last == "D" or (last == "weight" and len(shape) == 1):
        scale, centre = 0.3, 1.0
    elif len(shape) == 1:
        scale, centre = 0.3, 0.0
    else:
        scale, centre = 1.7 / shape[-1] ** 0.5, 0.0
    return (centre + scale * uniform(name, shape)).astype(np.float32).astype(np.float64)


def token_ids() -> np.ndarray:
    """The tokens every golden reads, [NUM_TOKENS] int64."""
    return ((uniform("mamba ids", (NUM_TOKENS,)) + 1) / 2 * VOCAB_SIZE).astype(np.int64)


def record(case: str) -> dict[str, Any]:
    """Run transformers on one case, in float64 as far as it allows."""
    import torch
    import transformers  # pyright: ignore[reportMissingImports]

    kind = "Mamba2" if case.startswith("mamba2") else "Mamba"
    settings = {**SIZES, **CASES[case]}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).double().eval()
    ids = torch.from_numpy(token_ids())[None]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape))))
        logits = model(ids, use_cache=False).logits[0, list(POSITIONS)]
        cache = model(ids[:, :FIRST_CHUNK], use_cache=True).cache_params
        continued = model(ids[:, FIRST_CHUNK:], use_cache=True, cache_params=cache).logits[0, -1:]
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        written = json.loads((Path(folder) / "config.json").read_text())
    return {
        "made_by": "tests/golden/make_mamba.py",
        "source": f"transformers.{kind}ForCausalLM",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "config": written,
        "positions": list(POSITIONS),
        "logits": [_row(values) for values in logits],
        "continued": [_row(values) for values in continued],
    }


def _row(values: Any) -> list[float]:
    return [float(f"{value:.7g}") for value in values.tolist()]


def main() -> None:
    for case in CASES:
        found = record(case)
        tables = {
            key: ",\n".join(f"    {json.dumps(row)}" for row in found.pop(key)) for key in ("logits", "continued")
        }
        head = json.dumps(found, indent=2)[:-2]
        body = "".join(f',\n  "{key}": [\n{rows}\n  ]' for key, rows in tables.items())
        Path(__file__).with_name(f"{case}.json").write_text(f"{head}{body}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
