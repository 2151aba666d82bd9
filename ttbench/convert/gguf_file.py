"""GGUF files, through transformers' own reader: weights unpacked to float32, configuration and tokenizer in JSON.

The values are those that the quantised file stands for; nothing is quantised again. transformers holds the whole model
in memory meanwhile, 4 bytes a parameter. Needs the extra `gguf`.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ttbench.convert.output import WeightWriter
from ttbench.errors import CheckpointError

# What transformers and gguf raise on files that they cannot read; neither has errors of its own.
_UNREADABLE = (
    *(ValueError, KeyError, IndexError, TypeError, OSError, RuntimeError, NotImplementedError, AttributeError),
    *(struct.error, OverflowError, MemoryError),
)
_NEEDED = ("transformers", "accelerate", "gguf")
# Where and with what it was read: the same file must give the same configuration, whose digest every row carries.
_DROPPED = ("_name_or_path", "_model_name_or_path", "quantization_config", "transformers_version")
_KEPT = ("tokenizer.json", "tokenizer_config.json")


def convert_gguf(
    path: Path, writer: WeightWriter, folder: Path, *, report: Callable[[int, int], None]
) -> tuple[dict[str, Any], str | None]:
    """Write the weights, and the tokenizer into `folder`; config.json's content, and why there is no tokenizer.

    Raises:
        CheckpointError: the extra is not installed, or the file cannot be read whole.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckpointError(
            f"'{path}' is a GGUF file, which needs {', '.join(missing)}; install the extra: pip install 'ttbench[gguf]'"
        )
    size = path.stat().st_size
    report(0, size)
    try:
        model, seen = _read_model(path)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"'{path}' cannot be read by transformers ({type(error).__name__}: {error}); is it whole, and of an "
            "architecture that transformers reads from GGUF?"
        ) from error
    absent = sorted(seen["missing_keys"])
    if absent:
        raise CheckpointError(
            f"'{path}' lacks {len(absent)} weights, {', '.join(absent[:4])} among them; they would be random numbers"
        )
    written: set[int] = set()
    for key, tensor in model.state_dict().items():
        # The head is the embedding again where they are tied; the layout holds it once.
        if tensor.data_ptr() not in written:
            writer.add(key, tensor)
        written.add(tensor.data_ptr())
    report(size, size)
    # JSON and back: dtypes and enumerations become the words that config.json has.
    config = json.loads(model.config.to_json_string(use_diff=False))
    config = {key: value for key, value in config.items() if key not in _DROPPED}
    config |= {"architectures": [type(model).__name__], "dtype": "float32"}
    return config, _write_tokenizer(path, folder)


def _read_model(path: Path) -> tuple[Any, Any]:
    """The model, and which of its weights the file had."""
    from transformers import AutoModelForCausalLM

    # Typed as a model alone, whatever is asked for.
    read: Any = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    return read


def _write_tokenizer(path: Path, folder: Path) -> str | None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
        if not tokenizer.is_fast:
            return "transformers reads its tokenizer only in Python"
        written = tokenizer.save_pretrained(str(folder))
    except _UNREADABLE as error:
        return f"transformers cannot read its tokenizer ({type(error).__name__}: {error})"
    for name in written:
        if Path(name).name not in _KEPT and Path(name).is_file():
            Path(name).unlink()
    return None
