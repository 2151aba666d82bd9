"""Checkpoints that transformers reads: identified from config.json and headers, loaded by its own code.

Only classes that ship with transformers run: `trust_remote_code` is never set, and only safetensors is read. Loading is
as strict as for native architectures: a weight that is missing, unexpected, of another shape or not finite is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ttbench.checkpoints.checkpoint import (
    CONFIG,
    is_native,
    read_config,
    refuse_unconverted,
    train_ctx,
    train_kinds,
)
from ttbench.checkpoints.files import content_digest, json_digest
from ttbench.checkpoints.fit import Unfilled, check_layers
from ttbench.checkpoints.tokenizer import tokenizer_digest
from ttbench.checkpoints.weights import StoredWeights, read_weights
from ttbench.engines.hf.hf_devices import placing, require_in_place, weights_of
from ttbench.errors import CheckpointError, UnsupportedError, WeightsError
from ttbench.names import folder_name
from ttbench.types import Checkpoint

# Tensors that are no weights: causal masks of GPT-2, GPT-J, GPT-Neo and their heirs, what stood in masked places,
# rotary frequencies, and the numbers of positions. Name -> what shape they have.
_CONSTANTS: Mapping[re.Pattern[str], Callable[[tuple[int, ...]], bool]] = {
    re.compile(r"(^|\.)(attn|attention)\.(bias|causal_mask)$"): lambda shape: (
        len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    ),
    re.compile(r"(^|\.)(attn|attention)\.masked_bias$"): lambda shape: shape in ((), (1,)),
    re.compile(r"(^|\.)rotary_emb\.inv_freq$"): lambda shape: len(shape) == 1,
    re.compile(r"(^|\.)position_ids$"): lambda shape: len(shape) == 2 and shape[0] == 1,
}
VERSION = 1  # of what this engine makes of a model

# Progress bars and advice are for people who call transformers themselves.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def knows(model_type: Any) -> bool:
    """Whether transformers has a configuration of this name."""
    return isinstance(model_type, str) and model_type in transformers.CONFIG_MAPPING


def predicts(model_type: Any) -> bool:
    """Whether transformers has a model of this name that predicts the next token."""
    return knows(model_type) and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def hf_config(folder: Path, config: Mapping[str, Any]) -> PreTrainedConfig:
    """transformers' configuration of a folder.

    Raises CheckpointError when transformers has no language model for it, or only code that came with the weights.
    """
    model_type = config.get("model_type")
    natively = "leave --engine hf out: an architecture here reads it"
    hint = natively if is_native(config) else "no architecture here reads it either; see ttbench list architectures"
    if not knows(model_type):
        remote = " (the folder brings code of its own, which is never run)" if "auto_map" in config else ""
        raise CheckpointError(
            f"transformers {transformers.__version__} has no model_type {model_type!r}, which '{folder / CONFIG}' "
            f"asks for{remote}; {hint}"
        )
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, AssertionError, StrictDataclassError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(
            f"transformers cannot read '{folder / CONFIG}': {type(error).__name__}: {why}; check its fields"
        ) from error
    if type(found) not in transformers.AutoModelForCausalLM._model_mapping:
        raise CheckpointError(
            f"transformers has no causal language model for model_type {model_type!r}; only models that predict the "
            f"next token can be measured; {hint}"
        )
    return found


def read_hf_checkpoint(
    folder: Path, *, dialect: str, provenance: str, name: str | None = None, revision: str | None = None
) -> Checkpoint:
    """Identify the checkpoint in a local folder for engine hf. Raises CheckpointError or WeightsError."""
    folder = Path(os.path.abspath(folder))
    config = read_config(folder)
    refuse_unconverted(folder)
    stored = read_weights(folder)
    check_layers(config, stored)
    _refuse_codes(config, stored, folder)
    built = hf_config(folder, config)
    model = _skeleton(built, folder)
    num_params, num_params_non_embedding = _num_params(model)
    text = built.get_text_config()
    known = train_ctx(folder, config)
    return Checkpoint(
        name=name or folder_name(folder),
        path=os.fspath(folder),
        architecture=str(config["model_type"]),
        architecture_version=VERSION,
        dialect=dialect,
        provenance=provenance,
        revision=revision,
        weights_digest=content_digest(stored.paths),
        config_digest=json_digest(config),
        tokenizer_digest=tokenizer_digest(folder, config),
        vocab_size=text.vocab_size,
        train_ctx=getattr(text, "max_position_embeddings", None) if known is None else known,
        train_kinds=train_kinds(folder, config),
        num_params=num_params,
        num_params_non_embedding=num_params_non_embedding,
        weight_bytes=stored.nbytes,
        cost=None,
        attention=_attention(model),
    )


def _skeleton(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    """The model without memory for its weights."""
    try:
        with torch.device("meta"), no_init_weights(), Unfilled():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, ImportError) as error:
        raise CheckpointError(
            f"transformers cannot build the model that '{folder / CONFIG}' asks for: {type(error).__name__}: {error}"
        ) from error


def _num_params(model: PreTrainedModel) -> tuple[int, int]:
    """Parameters in all, and without embedding and head; tied weights counted once."""
    total = {id(p): p.numel() for p in model.parameters()}
    tables = {}
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        tables |= {} if module is None else {id(p): p.numel() for p in module.parameters()}
    return sum(total.values()), sum(number for key, number in total.items() if key not in tables)


def _attention(model: PreTrainedModel) -> tuple[str, ...]:
    """transformers' implementations that this model can attend with, the default first.

    A model whose configuration has no attention heads has none. `flash` is not among them: transformers' own needs
    a package that must be built, and its sdpa passes masks, which torch's FlashAttention does not take.
    """
    if getattr(model.config.get_text_config(), "num_attention_heads", None) is None:
        return ()
    return ("sdpa", "eager") if model._supports_sdpa else ("eager",)


def load_hf_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None,
    device_map: str | None = None,
) -> Any:
    """The model of a checkpoint with its weights in `dtype` on `device`, or by a map of devices, in evaluation mode.

    Raises:
        UnsupportedError: the model has no such implementation of attention.
        CheckpointError: the folder no longer holds what was resolved.
        WeightsError: weights that are missing, unexpected, of other shapes, or not finite.
    """
    if checkpoint.attention:
        attention = attention or checkpoint.attention[0]
        if attention not in checkpoint.attention:
            raise UnsupportedError(
                f"'{checkpoint.name}' cannot attend with '{attention}' in transformers {transformers.__version__}; "
                f"available: {', '.join(checkpoint.attention)}"
            )
    folder = Path(checkpoint.path)
    config = read_config(folder)
    stored = read_weights(folder)
    if (content_digest(stored.paths), json_digest(config)) != (checkpoint.weights_digest, checkpoint.config_digest):
        raise CheckpointError(f"'{folder}' has changed since it was resolved; run the command again")
    chosen = {"attn_implementation": attention} if checkpoint.attention else {}
    if dtype == torch.float64:
        # torch's grouped product, the default for mixtures of experts, has no float64
        chosen["experts_implementation"] = "eager"
    spread = {} if device_map is None else placing(device_map, device=device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=hf_config(folder, config),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            # reported with keys and shapes, and refused below; transformers' own error names neither
            ignore_mismatched_sizes=True,
            **chosen,
            **spread,
        )
        model, report = loaded
        if spread:
            require_in_place(Path(spread["offload_folder"]), name=checkpoint.name)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError, ImportError) as error:
        raise CheckpointError(f"transformers cannot load '{folder}': {type(error).__name__}: {error}") from error
    _require_fit(report, stored, folder)
    _require_finite(model, folder)
    return (model if device_map is not None else model.to(device)).eval()


def _is_constant(key: str, stored: StoredWeights) -> bool:
    """Whether a stored tensor is one that older versions saved and the model's code makes by itself, by name and shape.

    transformers may say a key with or without the prefix of the model under its head.
    """
    shapes = {tensor.shape for name, tensor in stored.tensors.items() if name == key or key.endswith(f".{name}")}
    return any(pattern.search(key) and fits(shape) for shape in shapes for pattern, fits in _CONSTANTS.items())


def _require_fit(report: Mapping[str, Any], stored: StoredWeights, folder: Path) -> None:
    """Refuse weights that transformers made up or dropped. Raises WeightsError."""
    problems = []
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(_spelled(key) for key in report.get(f"{kind}_keys") or ())
        if kind == "unexpected":
            keys = [key for key in keys if not _is_constant(key, stored)]
        if keys:
            more = f", and {len(keys) - 4} more" if len(keys) > 4 else ""
            problems.append(f"{len(keys)} {kind}: {', '.join(keys[:4])}{more}")
    if problems:
        raise WeightsError(
            f"the weights in '{folder}' do not fit its config.json, read by transformers: {'; '.join(problems)}. "
            "Check that config and weights belong together; nothing is guessed or ignored"
        )


def _spelled(key: Any) -> str:
    """A key of transformers' report; one of another shape comes with the file's shape and the model's."""
    if isinstance(key, str):
        return key
    name, theirs, wanted = key
    return f"{name} ({list(theirs)}, expected {list(wanted)})"


def _refuse_codes(config: Mapping[str, Any], stored: StoredWeights, folder: Path) -> None:
    """Refuse whole numbers in the place of weights: codes of a quantisation that config.json does not describe.

    transformers would take the codes themselves for the weights. Raises WeightsError.
    """
    if config.get("quantization_config") is not None:
        return
    codes = sorted(
        f"{key} ({tensor.dtype})"
        for key, tensor in stored.tensors.items()
        if tensor.dtype.startswith(("I", "U")) and len(tensor.shape) > 1 and not _is_constant(key, stored)
    )
    if codes:
        raise WeightsError(
            f"'{folder}' holds whole numbers where weights are expected: {', '.join(codes[:3])}, {len(codes)} in all. "
            f"They are quantised, and {CONFIG} has no quantization_config that says how; take the original weights"
        )


def _require_finite(model: nn.Module, folder: Path) -> None:
    for name, parameter in weights_of(model):
        if not torch.isfinite(parameter).all():
            num_bad = int((~torch.isfinite(parameter)).sum())
            raise WeightsError(
                f"'{name}' in '{folder}' has {num_bad} of {parameter.numel()} values that are NaN or infinite in "
                f"{parameter.dtype}; the file is damaged, the training diverged, or the dtype is too narrow"
            )


def position_limit(model: PreTrainedModel) -> int | None:
    """Tokens after which the model has no positions left; None when it can go on.

    A limit is a table: a second embedding, or a buffer, with one row for each of `max_position_embeddings` positions
    (OPT has two more). RoBERTa and its heirs give padding a row and begin to count behind it, so a table of 514 rows
    has 512 positions. Rotary and recurrent models have the field without the table: there it is what they were trained
    for.
    """
    text = model.config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    if type(most) is not int:
        return None
    sizes = (most, most + 2)
    words = model.get_input_embeddings()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m is not words]
    tables = [table for table in tables if table.num_embeddings in sizes]
    behind = [most - 1 - table.padding_idx for table in tables if table.padding_idx is not None]
    if behind:
        return min(behind)
    in_buffer = any(buffer.ndim >= 2 and sizes[0] in buffer.shape for buffer in model.buffers())
    return most if tables or in_buffer or getattr(text, "axial_pos_embds", False) else None
