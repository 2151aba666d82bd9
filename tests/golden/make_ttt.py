"""Record the goldens of TTT from the authors' own code.

    git clone https://github.com/test-time-training/ttt-lm-pytorch && git -C ttt-lm-pytorch checkout cd831db
    pip install transformers==4.41.2 torch numpy
    python tests/golden/make_ttt.py ttt-lm-pytorch/ttt.py --commit cd831db10c8c9a0f6340f02da5613316a8a92b67

writes tests/golden/ttt_<backbone>_<inner model>.json: logits of tiny models, whole and through the authors' cache.
Weights are not stored: both sides make them with `weight`, from the name and the shape alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

VOCAB_SIZE, NUM_TOKENS, PREFILL = 61, 43, 37
POSITIONS = (0, 1, 14, 15, 16, 31, 32, 36, 37, 42)
SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
BACKBONES = {"transformer": False, "mamba": True}
BASE_LR = {"linear": 1.0, "mlp": 0.1}


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1), float64, from splitmix64 over the index, seeded by the name."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    with np.errstate(over="ignore"):
        x = np.uint64(seed) + np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1).reshape(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight under its name in the authors' checkpoints, rounded to float32 and returned as float64.

    Matrices keep the scale of their input, norms are near one, biases near zero, and the step sizes of the places in
    a mini-batch vary enough for some to be clamped at zero.
    """
    last = name.rsplit(".", 1)[-1]
    if last == "learnable_token_idx":
        scale, centre = 0.1, 0.0
    elif last == "ttt_norm_weight" or (last == "weight" and len(shape) == 1):
        scale, centre = 0.3, 1.0
    elif len(shape) == 1 or last in ("ttt_norm_bias", "b1", "b2", "learnable_ttt_lr_bias"):
        scale, centre = 0.3, 0.0
    else:
        scale, centre = 1.7 / shape[-1] ** 0.5, 0.0
    return (centre + scale * uniform(name, shape)).astype(np.float32).astype(np.float64)


def token_ids() -> np.ndarray:
    """The tokens every golden reads, [NUM_TOKENS] int64."""
    return ((uniform("ids", (NUM_TOKENS,)) + 1) / 2 * VOCAB_SIZE).astype(np.int64)


def config(backbone: str, kind: str) -> dict[str, Any]:
    """config.json of one golden."""
    switches = dict.fromkeys(("use_gate", "share_qk", "pre_conv"), BACKBONES[backbone])
    sizes = {**SIZES, "vocab_size": VOCAB_SIZE, "mini_batch_size": 16, "conv_kernel": 4}
    return {"model_type": "ttt", **sizes, "ttt_layer_type": kind, "ttt_base_lr": BASE_LR[kind], **switches}


def record(authors: Any, backbone: str, kind: str) -> dict[str, Any]:
    """Run the authors' code on one variant."""
    import torch

    settings = {key: value for key, value in config(backbone, kind).items() if key != "model_type"}
    model = authors.TTTForCausalLM(authors.TTTConfig(**settings)).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    state = {name: torch.from_numpy(weight(name, shape)).float() for name, shape in shapes.items()}
    model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    ids = torch.from_numpy(token_ids())[None]
    with torch.no_grad():
        whole = model(ids).logits[0]
        cache = authors.TTTCache(model.model, 1)
        steps = [model(ids[:, :PREFILL], cache_params=cache, use_cache=True).logits[0, -1]]
        for i in range(PREFILL, NUM_TOKENS):
            steps.append(model(ids[:, i : i + 1], cache_params=cache, use_cache=True).logits[0, -1])
        # the authors' rotations, 1 / (t + 1) and final logits stay float32 even here
        double = model.double()(ids).logits[0]
    return {
        "config": config(backbone, kind),
        "weights": shapes,
        "logits": {str(i): _row(whole[i]) for i in POSITIONS},
        "sum_abs": _row(whole.abs().sum(-1)),
        "cached": {"prefill": PREFILL, "sum_abs": _row(torch.stack(steps).abs().sum(-1)), "last": _row(steps[-1])},
        "double": {"sum_abs": _row(double.double().abs().sum(-1)), "last": _row(double[-1])},
    }


def _row(values: Any) -> list[float]:
    return [float(f"{value:.9g}") for value in values.tolist()]


def _dump(golden: dict[str, Any]) -> str:
    """JSON with one line for each entry, two levels deep."""
    lines = []
    for key, value in golden.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
            lines.append(f"  {json.dumps(key)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the authors' ttt.py")
    parser.add_argument("--commit", required=True, help="commit of that file, recorded in every golden")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    options = parser.parse_args()
    spec = importlib.util.spec_from_file_location("authors_ttt", options.source)
    assert spec is not None
    assert spec.loader is not None
    authors = importlib.util.module_from_spec(spec)
    sys.modules["authors_ttt"] = authors
    spec.loader.exec_module(authors)
    origin = {
        "source": "https://github.com/test-time-training/ttt-lm-pytorch ttt.py",
        "commit": options.commit,
        "digest": hashlib.blake2b(options.source.read_bytes(), digest_size=16).hexdigest(),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }
    for backbone in BACKBONES:
        for kind in BASE_LR:
            golden = {"made_by": "tests/golden/make_ttt.py", **origin, **record(authors, backbone, kind)}
            (options.out / f"ttt_{backbone}_{kind}.json").write_text(_dump(golden))


if __name__ == "__main__":
    main()
