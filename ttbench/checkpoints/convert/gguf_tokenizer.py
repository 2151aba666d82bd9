"""The vocabulary of a GGUF file as tokenizer.json and tokenizer_config.json.

Byte-level BPE ("gpt2") is read where `tokenizer.ggml.pre` names a way of splitting text that is known: which it is, no
other key says, and with another one the same text becomes other ids. SentencePiece-like BPE ("llama") needs none.

Sources: ggml-org/llama.cpp src/llama-vocab.cpp (names of splittings, what a missing flag means);
transformers' tokenizers of the models named beside the patterns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # tokenizer.ggml.token_type
SPACE_MARK = "▁"

# Llama 3
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen2: as Llama 3, but each digit is a piece of its own
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# The families of `tokenizer.ggml.pre`. GPT-2's own pattern is the library's; "digits" parts every digit before it.
_FAMILIES = {
    "gpt2": ("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion", "granite-docling"),
    "digits": ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    _LLAMA3: ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    _QWEN2: ("qwen2", "deepseek-r1-qwen", "kormo", "megrez"),
}
SPLITS = {name: family for family, names in _FAMILIES.items() for name in names}

# Keys below tokenizer.ggml that are read, and those that say nothing about the ids of a text.
_READ = frozenset({"model", "pre", "tokens", "scores", "token_type", "merges", "add_space_prefix"})
_IDS = ("bos", "eos", "eot", "eom", "unknown", "padding")
_FLAGS = frozenset({"add_bos_token", "add_eos_token"})
_FREE = frozenset(
    {"token_type_count", "prefix_token_id", "suffix_token_id", "middle_token_id", "mask_token_id", "cls_token_id"}
    | {"seperator_token_id", "separator_token_id"}
    | {f"fim_{part}_token_id" for part in ("pre", "suf", "mid", "pad", "rep", "sep")}
)
_OFF = {"add_sep_token": False, "remove_extra_whitespaces": False, "normalizer.lowercase": False}


def end_ids(keys: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end a text: of end-of-text, end-of-turn and end-of-message, as far as the file names them."""
    named = (keys.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return tuple(dict.fromkeys(index for index in named if index is not None))


def write_gguf_tokenizer(keys: Mapping[str, Any], folder: Path) -> str | None:
    """Write the tokenizer of a file with these keys into `folder`; why there is none, in words."""
    ggml = {
        key.removeprefix("tokenizer.ggml."): value for key, value in keys.items() if key.startswith("tokenizer.ggml.")
    }
    if "tokens" not in ggml:
        return "the file holds no vocabulary, so no tokenizer was written"
    why, text = _unreadable(ggml), ""
    bos = _token(ggml, "bos")
    adds_bos = bos is not None and _adds_bos(ggml)
    if why is None:
        spec = _byte_level(ggml) if ggml["model"] == "gpt2" else _sentencepiece(ggml)
        spec |= {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(ggml)}
        if adds_bos:
            spec["post_processor"] = _begins_with(str(bos), ggml["bos_token_id"])
        text = json.dumps(spec, ensure_ascii=False)
        why = _broken(text, ggml["tokens"])
    if why is not None:
        return f"no tokenizer was written: {why}. Put the model's own tokenizer.json and tokenizer_config.json there"
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": adds_bos,
        "add_eos_token": bool(ggml.get("add_eos_token", False)),
        **{
            f"{theirs}_token": _token(ggml, ours)
            for theirs, ours in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        },
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return None


def _unreadable(ggml: Mapping[str, Any]) -> str | None:
    """Why ids of texts cannot be known from these keys; None: they can."""
    kind, pre = ggml.get("model"), ggml.get("pre")
    if kind not in ("gpt2", "llama"):
        return f"tokenizer.ggml.model is {kind!r}; read are 'gpt2' and 'llama'"
    if kind == "gpt2" and pre not in SPLITS:
        what = "is missing" if pre is None else f"is {pre!r}"
        return f"tokenizer.ggml.pre {what}, which names no known way of splitting text, so its ids would be guesses"
    ids = {f"{name}_token_id" for name in _IDS}
    for key, value in ggml.items():
        if key in _OFF and value == _OFF[key]:
            continue
        if key not in _READ | _FREE | _FLAGS | ids:
            return f"tokenizer.ggml.{key} is {value!r:.40}, which is not read"
    lengths = {len(ggml[key]) for key in ("tokens", "scores", "token_type") if key in ggml}
    if len(lengths) > 1:
        return f"its tokens, scores and types are of {sorted(lengths)} entries"
    if len(set(ggml["tokens"])) != len(ggml["tokens"]):
        return "its vocabulary holds a token twice"
    needed = "merges" if kind == "gpt2" else "scores"
    return None if needed in ggml else f"tokenizer.ggml.{needed} is missing"


def _adds_bos(ggml: Mapping[str, Any]) -> bool:
    """Whether BOS stands in front of a text; a file that does not say is read as llama.cpp reads it."""
    default = ggml.get("model") == "llama" or SPLITS.get(ggml.get("pre", "")) == _LLAMA3
    return bool(ggml.get("add_bos_token", default))


def _token(ggml: Mapping[str, Any], name: str) -> str | None:
    index, tokens = ggml.get(f"{name}_token_id"), ggml["tokens"]
    return None if index is None or not 0 <= index < len(tokens) else tokens[index]


def _byte_level(ggml: Mapping[str, Any]) -> dict[str, Any]:
    """GPT-2's kind of vocabulary, with the splitting that `tokenizer.ggml.pre` names."""
    family = SPLITS[ggml["pre"]]
    own = family not in ("gpt2", "digits")
    steps: list[dict[str, Any]] = []
    if family == "digits":
        steps.append({"type": "Digits", "individual_digits": True})
    if own:
        steps.append({"type": "Split", "pattern": {"Regex": family}, "behavior": "Isolated", "invert": False})
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not own})
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        # Llama 3 looks a piece up whole before it merges
        "model": _bpe(ggml["tokens"], [m.split(" ", 1) for m in ggml["merges"]], ignore_merges=family == _LLAMA3),
    }


def _sentencepiece(ggml: Mapping[str, Any]) -> dict[str, Any]:
    """SentencePiece's kind of BPE: the file has scores, and a merge is as good as the piece that it makes."""
    tokens, scores = ggml["tokens"], ggml["scores"]
    rank = {token: index for index, token in enumerate(tokens)}
    types = ggml.get("token_type") or [1] * len(tokens)
    merges = [
        (-scores[index], rank[token[:cut]], rank[token[cut:]], token[:cut], token[cut:])
        for index, token in enumerate(tokens)
        if types[index] not in (_UNKNOWN, _CONTROL)
        for cut in range(1, len(token))
        if token[:cut] in rank and token[cut:] in rank
    ]
    unknown = _token(ggml, "unknown") or next(
        (t for t, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None
    )
    start = [{"type": "Prepend", "prepend": SPACE_MARK}] if ggml.get("add_space_prefix", True) else []
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if start else []
    decoders = [
        {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *strip,
    ]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*start, replaced]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(tokens, [[left, right] for *_, left, right in sorted(merges)], unknown=unknown, fallback=True),
    }


def _bpe(
    tokens: Sequence[str],
    merges: Sequence[Sequence[str]],
    *,
    unknown: str | None = None,
    fallback: bool = False,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fallback,
        "byte_fallback": fallback,
        "ignore_merges": ignore_merges,
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": [list(pair) for pair in merges],
    }


def _added(ggml: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens that are kept whole: control tokens as special ones, the user's own as ordinary text."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": index, "content": token, "special": kind != _USER_DEFINED, **flags}
        for index, (token, kind) in enumerate(zip(ggml["tokens"], ggml.get("token_type") or (), strict=False))
        if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _begins_with(token: str, index: int) -> dict[str, Any]:
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, {"SpecialToken": {"id": token, "type_id": 1}}, b],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def _broken(spec: str, tokens: Sequence[str]) -> str | None:
    """What the library finds wrong with a specification, or ids that it would give otherwise than the file."""
    import tokenizers

    try:
        made = tokenizers.Tokenizer.from_str(spec)
    except Exception as error:  # the library raises nothing narrower
        return f"the tokenizers library cannot read it ({error})"
    moved = [token for index, token in enumerate(tokens) if made.token_to_id(token) != index]
    return f"the library gives other ids to {', '.join(moved[:4])}" if moved else None
