"""Fields of a config.json that change no number of a forward pass, and the refusal of those that nobody reads.

A field that is not read could be a misspelt one, whose default would make another model in silence, or one that changes
what the weights compute. So every architecture says which fields it reads, and refuses the rest by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ttbench.errors import CheckpointError, UnknownNameError

# Read here, but by no model: lengths, tokens, the tokenizer's kind.
_READ_ELSEWHERE = ("train_ctx", "train_kinds", "train_recipe", "train_seed", "tokenizer", "max_position_embeddings")
_TOKENS = tuple(f"{name}_token_id" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "decoder_start"))
# What transformers writes into every config.json, and training alone uses.
_WRITTEN = (
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_commit_hash"),
    *("use_cache", "initializer_range", "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop"),
    *("pretraining_tp", "id2label", "label2id", "problem_type", "return_dict", "torchscript", "use_bfloat16"),
    *("output_attentions", "output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder"),
    *("tie_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size", "finetuning_task"),
    *("task_specific_params", "tokenizer_class", "prefix", "pruned_heads", "attn_implementation"),
    *(
        "_attn_implementation",
        "_attn_implementation_autoset",
        "unsloth_fixed",
        "unsloth_version",
        "max_sequence_length",
    ),
)
# Of generation, which older versions wrote here as well.
_GENERATION = (
    *("do_sample", "temperature", "top_k", "top_p", "typical_p", "num_beams", "num_beam_groups", "max_length"),
    *("min_length", "max_new_tokens", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "early_stopping", "output_scores"),
    *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "diversity_penalty"),
)
NEUTRAL = frozenset(_READ_ELSEWHERE + _TOKENS + _WRITTEN + _GENERATION)


def require_known_fields(data: Mapping[str, Any], *, read: Iterable[str], model: str) -> None:
    """Raise CheckpointError on a field that is neither read nor without effect."""
    if data.get("quantization_config"):
        method = data["quantization_config"]
        kind = method.get("quant_method", "unknown") if isinstance(method, dict) else method
        raise CheckpointError(
            f"config.json has quantization_config ({kind}), and quantised weights are not read here; give the folder "
            "of the weights before they were quantised, or try --engine hf"
        )
    known = {*read, *NEUTRAL, "quantization_config"}
    for name in data:
        if name not in known:
            where = f"config.json of a {model}"
            raise CheckpointError(str(UnknownNameError("field", name, known=sorted(read), where=where)))
