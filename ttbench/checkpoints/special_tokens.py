"""Which token stands in front of a text, and which end one: one rule for every command, the tokenizer's files first.

    BOS     tokenizer_config.json: `add_bos_token` false: none; else `bos_token`; where it says nothing, the token that
            tokenizer.json's own template puts in front; else config.json's `bos_token_id`, if the vocabulary calls that
            token special. A library's default (config.json of every Llama says 1) is no answer: id 1 may be "!".
    ends    the tokenizer's `eos_token`, and every `eos_token_id` of generation_config.json and config.json that the
            vocabulary does not use for ordinary text (every Llama's default says 2, which may be a quotation mark)

Where config.json names another BOS than is used, `remark` says so. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ttbench.checkpoints.files import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, member, read_json
from ttbench.errors import CheckpointError

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
GENERATION = "generation_config.json"
TOKENS_MAP = "special_tokens_map.json"  # where older versions kept tokens that tokenizer_config.json lacks
# Vocabularies that only a tokenizer's own Python code reads, as they are named.
SLOW = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tekken.json")

WRITE_FAST = f"write {TOKENIZER} once: transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """Ids with a meaning, of one vocabulary."""

    bos_id: int | None  # in front of every text; None: nothing
    named_bos_id: int | None  # that the tokenizer calls BOS, even where it puts none in front
    eos_ids: tuple[int, ...]  # each ends a text; the tokenizer's own first
    remark: str | None  # where config.json contradicts the tokenizer


def given_fields(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder's files say of BOS and EOS, as they say it. Raises CheckpointError on a broken file."""
    files = {name: member(folder, name) for name in (SETTINGS, TOKENS_MAP, GENERATION)}
    read = {name: {} if path is None else read_json(path, max_bytes=MAX_CONFIG_BYTES) for name, path in files.items()}
    settings = {**read[TOKENS_MAP], **{key: value for key, value in read[SETTINGS].items() if value is not None}}
    # null is an answer: this tokenizer has none
    settings |= {key: None for key, value in read[SETTINGS].items() if value is None}
    return {
        "bos": {"bos_token": _content(settings["bos_token"])} if "bos_token" in settings else {},
        "add_bos_token": settings.get("add_bos_token"),
        "add_eos_token": settings.get("add_eos_token"),
        "eos": _content(settings.get("eos_token")),
        "config_bos": config.get("bos_token_id"),
        "config_eos": config.get("eos_token_id"),
        "generation_eos": read[GENERATION].get("eos_token_id"),
    }


def find_special_tokens(spec: Mapping[str, Any], given: Mapping[str, Any], *, where: Path) -> SpecialTokens:
    """The special tokens of a vocabulary.

    Args:
        spec: tokenizer.json.
        given: of `given_fields`.
        where: tokenizer.json's place, for messages.

    Raises:
        CheckpointError: a token that is named is not in the vocabulary, an id is no id, or several tokens stand in
            front of a text.
    """
    ids = token_ids(spec)
    stated = _one_id(given["config_bos"], where=where)
    special = {entry["id"] for entry in spec.get("added_tokens") or () if entry.get("special")}
    template = _in_front(spec.get("post_processor"))
    if len(template) > 1 and given["add_bos_token"] is not False:
        raise CheckpointError(
            f"'{where}' puts {' '.join(template)} in front of every text, and one token is read here; to score texts "
            f"without them, give a copy whose {SETTINGS} says add_bos_token false"
        )
    named = given["bos"].get("bos_token") or next(iter(template), None)
    if named is not None and named not in ids:
        raise CheckpointError(f"BOS is given as {named!r}, which is no token of '{where}'; correct {SETTINGS}")
    if named is not None:
        bos_id: int | None = ids[named]
    else:
        bos_id = stated if not given["bos"] and stated in special else None
    named_bos_id = bos_id
    if given["add_bos_token"] is False:
        bos_id = None
    own_eos = [] if given["eos"] is None else [ids.get(given["eos"])]
    added = {entry["id"] for entry in spec.get("added_tokens") or ()}
    ordinary = set(ids.values()) - added
    others = [*_ids(given["generation_eos"], where=where), *_ids(given["config_eos"], where=where)]
    eos_ids = [*own_eos, *(index for index in others if index not in ordinary)]
    return SpecialTokens(
        bos_id=bos_id,
        named_bos_id=named_bos_id,
        eos_ids=tuple(dict.fromkeys(index for index in eos_ids if index is not None)),
        remark=_remark(stated, bos_id, named_bos_id, {index: token for token, index in ids.items()}, where=where),
    )


def folder_remark(folder: Path) -> str | None:
    """Where a checkpoint's config.json contradicts its tokenizer about BOS, in words. Raises CheckpointError."""
    path = member(folder, TOKENIZER)
    if path is None:
        return None
    config = read_json(folder / "config.json", max_bytes=MAX_CONFIG_BYTES)
    if config.get("tokenizer") == "bytes":
        return None
    spec = read_json(path, max_bytes=MAX_TOKENIZER_BYTES)
    return find_special_tokens(spec, given_fields(folder, config), where=path).remark


def no_tokenizer(folder: Path, name: str) -> str:
    """Words for a checkpoint without a tokenizer that is read here, and what to do about it."""
    found = [slow for slow in SLOW if member(folder, slow) is not None]
    if not found:
        return f"checkpoint '{name}' has no tokenizer: its folder holds no {TOKENIZER}"
    return f"checkpoint '{name}' has no {TOKENIZER}, only {found[0]}, which needs a tokenizer's own code; {WRITE_FAST}"


def token_ids(spec: Mapping[str, Any]) -> dict[str, int]:
    """Ids of all tokens of a tokenizer.json."""
    vocab = (spec.get("model") or {}).get("vocab") or {}
    ids = {piece[0]: index for index, piece in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return ids | {entry["content"]: entry["id"] for entry in spec.get("added_tokens") or ()}


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _in_front(processor: Any) -> list[str]:
    """The tokens that a post-processor puts in front of a text."""
    if not isinstance(processor, dict):
        return []
    if processor.get("type") == "Sequence":
        found: list[str] = []
        for part in processor.get("processors") or ():
            found = _in_front(part) + found
        return found
    if processor.get("type") == "TemplateProcessing":
        return _in_front_by_template(processor)
    if processor.get("type") in ("BertProcessing", "RobertaProcessing"):
        return [token for token in (processor.get("cls") or ())[:1] if isinstance(token, str)]
    return []


def _in_front_by_template(processor: Mapping[str, Any]) -> list[str]:
    """What a template has before its text; one of its names may stand for several tokens."""
    given, found = processor.get("special_tokens") or {}, []
    for part in processor.get("single") or ():
        name = part.get("SpecialToken", {}).get("id") if isinstance(part, dict) else None
        if name is None:
            break
        found += (given.get(name) or {}).get("tokens") or [name]
    return found


def _one_id(value: Any, *, where: Path) -> int | None:
    if value is not None and type(value) is not int:
        raise CheckpointError(f"config.json beside '{where}' gives BOS as {value!r}; expected one token id")
    return value


def _ids(value: Any, *, where: Path) -> list[int]:
    """One id, a list of them, or none."""
    found = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(index) is not int for index in found):
        raise CheckpointError(f"the files beside '{where}' give EOS as {value!r}; expected token ids")
    return found


def _remark(
    stated: int | None, bos_id: int | None, named: int | None, tokens: Mapping[int, str], *, where: Path
) -> str | None:
    if stated is None or stated == bos_id:
        return None
    theirs = f"{bos_id} ({tokens.get(bos_id)!r})" if bos_id is not None else "none"
    why = f", since {SETTINGS} says add_bos_token false" if bos_id is None and named is not None else ""
    return (
        f"'{where.parent}': config.json says BOS is {stated} ({tokens.get(stated)!r}), the tokenizer's files say "
        f"{theirs}{why}; theirs is taken"
    )


def special_contents(spec: Mapping[str, Any], found: SpecialTokens | None) -> set[str]:
    """Texts of all tokens that no text is ever encoded to: control tokens, BOS, EOS, and the unknown token."""
    model = spec.get("model") or {}
    special = {entry["content"] for entry in spec.get("added_tokens") or () if entry.get("special")}
    if isinstance(model.get("unk_token"), str):
        special.add(model["unk_token"])
    vocab, unknown = model.get("vocab"), model.get("unk_id")
    if isinstance(vocab, list) and type(unknown) is int and 0 <= unknown < len(vocab):
        special.add(vocab[unknown][0])
    if found is not None:
        wanted: Iterable[int | None] = (found.named_bos_id, *found.eos_ids)
        tokens = {index: token for token, index in token_ids(spec).items()}
        special |= {tokens[index] for index in wanted if index is not None and index in tokens}
    return special


def before_end(ids: Int[np.ndarray, "T"], end_ids: frozenset[int]) -> Int[np.ndarray, "_"]:
    """What was written before the first token that ends a text; the rest belongs to another text."""
    ends = np.flatnonzero(np.isin(ids, list(end_ids)))
    return ids[: ends[0]] if len(ends) else ids
