"""Bytes to token ids and back, exactly: every token stands for a known number of bytes of the text.

`byte_lengths` of an encoding sums to the length of the text, so that nats can be divided by bytes. A tokenizer that
changes text (lower-cases it, normalises it, adds spaces) cannot say how many bytes its tokens stand for; it is
refused, or, where only some texts would change, the text is. Torch-free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from ttbench.errors import CheckpointError, UsageError
from ttbench.harness.files import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, member, parse_json, read_bytes, read_json
from ttbench.types import digest

SPACE_MARK = "▁"


class Tokenizer(Protocol):
    """What tasks see of a tokenizer. Ids are int64."""

    name: str
    vocab_size: int  # ids are 0 .. vocab_size - 1
    bos_id: int | None  # stands in front of every document; None: the checkpoint has none
    digest: str

    def encode(self, text: bytes) -> Int[np.ndarray, "T"]:
        """Ids of `text`, without BOS. Raises UsageError when the text cannot be represented exactly."""
        ...

    def decode(self, ids: Int[np.ndarray, "T"]) -> bytes:
        """The bytes that ids stand for; BOS stands for none."""
        ...

    def byte_lengths(self, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
        """Bytes that each id stands for."""
        ...


class ByteTokenizer:
    """One token per byte; BOS = 256 in front of every document."""

    name = "bytes"
    vocab_size = 257
    bos_id: int | None = 256
    digest = digest("ttbench byte tokenizer: ids 0..255 are bytes, 256 is BOS")

    def encode(self, text: bytes) -> Int[np.ndarray, "T"]:
        return np.frombuffer(text, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Int[np.ndarray, "T"]) -> bytes:
        ids = _valid(ids, self.vocab_size)
        return ids[ids < 256].astype(np.uint8).tobytes()

    def byte_lengths(self, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
        return (_valid(ids, self.vocab_size) < 256).astype(np.int64)


class TableTokenizer:
    """A tokenizer.json of the `tokenizers` library, with the exact bytes of every id in a table.

    Read are byte-level vocabularies (GPT-2 and its heirs) and vocabularies with "▁" for a space (SentencePiece, as
    in Llama 2). The space that the latter put in front of a text is left away: it is no byte of the text. What looks
    like a special token in a text is spelled out, not obeyed.
    """

    name = "tokenizers"

    def __init__(self, data: bytes, *, bos: str | int | None, where: Path) -> None:
        """Read the content of tokenizer.json; `bos` is the id or text of BOS, `where` is for messages.

        Raises:
            CheckpointError: the library cannot read it, or it cannot be byte exact.
        """
        try:
            # Late: most checkpoints need only bytes.
            import tokenizers
        except ImportError as error:
            raise CheckpointError(f"'{where}' needs the tokenizers library; pip install tokenizers") from error
        spec = parse_json(data, where=where)
        byte_level = _make_exact(spec, where=where)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"'{where}' is not read by the tokenizers library: {error}") from error
        self._tokenizer.encode_special_tokens = True
        self._where = where
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        added = self._tokenizer.get_added_tokens_decoder().values()
        self.bos_id = _bos_id(bos, vocab, where=where)
        special = {vocab[token.content] for token in added if token.special} - {self.bos_id}
        self.vocab_size = 1 + max(index for index in vocab.values() if index not in special)
        verbatim = {token.content for token in added}
        table = dict.fromkeys(range(self.vocab_size), b"")
        for token, index in vocab.items():
            if index in table and index != self.bos_id:
                table[index] = token.encode() if token in verbatim else _token_bytes(token, byte_level=byte_level)
        self._table = [table[index] for index in range(self.vocab_size)]
        self._lengths = np.array([len(piece) for piece in self._table], dtype=np.int64)
        self.digest = _table_digest(data, bos)

    def encode(self, text: bytes) -> Int[np.ndarray, "T"]:
        try:
            encoding = self._tokenizer.encode(text.decode("utf-8"), add_special_tokens=False)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"'{self._where}' reads UTF-8 only, and byte {error.start} of this text ({len(text)} bytes) is not; "
                "use a UTF-8 text, or a checkpoint with the byte tokenizer"
            ) from error
        ids = np.array(encoding.ids, dtype=np.int64)
        back = b"".join(self._table[index] if index < self.vocab_size else b"" for index in encoding.ids)
        if back != text:
            same = next(
                (i for i, (a, b) in enumerate(zip(back, text, strict=False)) if a != b), min(len(back), len(text))
            )
            raise UsageError(
                f"'{self._where}' does not keep this text: from byte {same}, {text[same : same + 12]!r} comes back as "
                f"{back[same : same + 12]!r}, so bits per byte cannot be counted; use a text that it keeps"
            )
        return ids

    def decode(self, ids: Int[np.ndarray, "T"]) -> bytes:
        return b"".join(self._table[index] for index in _valid(ids, self.vocab_size))

    def byte_lengths(self, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
        return self._lengths[_valid(ids, self.vocab_size)]


def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder with this config.json; None when it has none.

    Raises:
        CheckpointError: config.json names an unknown one, or tokenizer.json is broken or cannot be byte exact.
    """
    if _is_bytes(config):
        return ByteTokenizer()
    path = member(folder, "tokenizer.json")
    if path is None:
        return None
    data = read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES)
    return TableTokenizer(data, bos=_bos_given(folder, config), where=path)


def tokenizer_digest(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Digest of what `read_tokenizer` would give, without building it. Raises CheckpointError."""
    if _is_bytes(config):
        return ByteTokenizer.digest
    path = member(folder, "tokenizer.json")
    if path is None:
        return None
    return _table_digest(read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES), _bos_given(folder, config))


def _is_bytes(config: Mapping[str, Any]) -> bool:
    kind = config.get("tokenizer")
    if kind not in ("bytes", None):
        raise CheckpointError(
            f"config.json has tokenizer={kind!r}; allowed: 'bytes', or no such field and a tokenizer.json"
        )
    return kind == "bytes"


def _table_digest(data: bytes, bos: str | int | None) -> str:
    return digest(data + f"\nBOS {bos!r}".encode())


def _bos_given(folder: Path, config: Mapping[str, Any]) -> str | int | None:
    """BOS as config.json (an id) or else tokenizer_config.json (a text) gives it."""
    bos = config.get("bos_token_id")
    if bos is None:
        path = member(folder, "tokenizer_config.json")
        bos = None if path is None else read_json(path, max_bytes=MAX_CONFIG_BYTES).get("bos_token")
        bos = bos.get("content") if isinstance(bos, dict) else bos
    if bos is not None and type(bos) not in (int, str):
        raise CheckpointError(f"'{folder}' gives BOS as {bos!r}; expected one token id or one token")
    return bos


def _bos_id(bos: str | int | None, vocab: Mapping[str, int], *, where: Path) -> int | None:
    index = vocab.get(bos) if isinstance(bos, str) else bos
    if bos is not None and index not in vocab.values():
        raise CheckpointError(f"BOS is given as {bos!r}, which is no token of '{where}'; correct bos_token_id")
    return index


def _parts(step: Any, *, inner: str) -> list[dict[str, Any]]:
    """The steps of a normaliser or pre-tokeniser, sequences laid flat; the very objects of the specification."""
    if step is None:
        return []
    if not isinstance(step, dict):
        return [{"type": repr(step)}]
    if step.get("type") != "Sequence":
        return [step]
    return [part for below in step.get(inner, []) for part in _parts(below, inner=inner)]


def _make_exact(spec: dict[str, Any], *, where: Path) -> bool:
    """Take from `spec`, in place, what adds or drops text; whether the vocabulary is byte-level.

    Raises:
        CheckpointError: what remains would change texts.
    """
    model = spec.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    normalizers = _parts(spec.get("normalizer"), inner="normalizers")
    splitters = _parts(spec.get("pre_tokenizer"), inner="pretokenizers")
    byte_level = any(part.get("type") == "ByteLevel" for part in splitters)
    reasons = [f"its model is {kind}"] if kind not in ("BPE", "Unigram") else []
    kept = []
    for part in normalizers:
        if part.get("type") == "Prepend" and part.get("prepend") == SPACE_MARK:
            continue
        # NFC leaves nearly every text alone; the texts that it changes are refused one by one.
        marks_spaces = part.get("type") == "Replace" and part.get("content") == SPACE_MARK
        if part.get("type") == "NFC" or (marks_spaces and part.get("pattern") == {"String": " "}):
            kept.append(part)
        else:
            reasons.append(f"its normaliser {part.get('type')} rewrites text")
    for part in splitters:
        removes = part.get("behavior") == "Removed"
        if part.get("type") not in ("ByteLevel", "Metaspace", "Split", "Digits", "Punctuation") or removes:
            reasons.append(f"its pre-tokeniser {part.get('type')} drops text")
        if part.get("type") == "ByteLevel":
            part["add_prefix_space"] = False
        if part.get("type") == "Metaspace":
            # older files say add_prefix_space, and may not say both
            part.pop("add_prefix_space", None)
            part["prepend_scheme"] = "never"
    if isinstance(model, dict):
        affixes = [key for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
        reasons += [f"its model has a {key}" for key in affixes]
        if kind == "BPE":
            model["dropout"] = None
    if reasons:
        raise CheckpointError(
            f"'{where}' cannot count bytes exactly: {', '.join(reasons)}; byte-level and SentencePiece-like BPE or "
            "Unigram vocabularies can. Tasks on token ids still run without a tokenizer"
        )
    spec["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    spec.update(truncation=None, padding=None, post_processor=None)
    return byte_level


def _token_bytes(token: str, *, byte_level: bool) -> bytes:
    """The bytes that a vocabulary entry stands for."""
    if byte_level:
        mapped = [_BYTE_OF.get(mark) for mark in token]
        return token.encode() if None in mapped else bytes(byte for byte in mapped if byte is not None)
    fallback = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes([int(fallback[1], 16)]) if fallback else token.replace(SPACE_MARK, " ").encode()


def _byte_marks() -> dict[str, int]:
    """GPT-2's one printable character for each byte: itself where it prints, else the next one from 256 on."""
    prints = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    marks = {chr(byte): byte for byte in prints}
    others = (byte for byte in range(256) if byte not in prints)
    return marks | {chr(256 + place): byte for place, byte in enumerate(others)}


def _valid(ids: Int[np.ndarray, "T"], vocab_size: int) -> Int[np.ndarray, "T"]:
    ids = np.asarray(ids, dtype=np.int64)
    if ids.ndim != 1:
        raise UsageError(f"ids must have shape [T]; got {ids.shape}")
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise UsageError(f"ids must be in 0..{vocab_size - 1}; got {ids.min()}..{ids.max()}")
    return ids


_BYTE_OF = _byte_marks()
