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

from ttbench.checkpoints.files import MAX_TOKENIZER_BYTES, member, parse_json, read_bytes
from ttbench.checkpoints.special_tokens import TOKENIZER, find_special_tokens, given_fields, special_contents
from ttbench.errors import CheckpointError, UsageError
from ttbench.types import canonical_json, digest

SPACE_MARK = "▁"
# Of a tokenizer.json without any file beside it.
NOTHING_GIVEN: Mapping[str, Any] = {
    "bos": {},
    "add_bos_token": None,
    "add_eos_token": None,
    "eos": None,
    "config_bos": None,
    "config_eos": None,
    "generation_eos": None,
}


class Tokenizer(Protocol):
    """What tasks see of a tokenizer. Ids are int64."""

    name: str
    vocab_size: int  # ids that texts are encoded to, and BOS, are 0 .. vocab_size - 1
    bos_id: int | None  # stands in front of every document; None: the checkpoint has none
    end_ids: frozenset[int]  # each ends a text that is written
    remark: str | None  # where the checkpoint's files disagree about BOS, and which is taken
    digest: str

    def encode(self, text: bytes) -> Int[np.ndarray, "T"]:
        """Ids of `text`, without BOS. Raises UsageError when the text cannot be represented exactly."""
        ...

    def decode(self, ids: Int[np.ndarray, "T"]) -> bytes:
        """The bytes that ids stand for; BOS, other special tokens and a model's padding stand for none."""
        ...

    def byte_lengths(self, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
        """Bytes that each id stands for."""
        ...


class ByteTokenizer:
    """One token per byte; BOS = 256 in front of every document."""

    name = "bytes"
    vocab_size = 257
    bos_id: int | None = 256
    # it begins the next document, and so ends one
    end_ids = frozenset({256})
    remark: str | None = None
    digest = digest("ttbench byte tokenizer: ids 0..255 are bytes, 256 is BOS")

    def __init__(self, *, num_ids: int = vocab_size) -> None:
        """`num_ids` is the model's vocabulary: what is beyond the tokenizer's own ids is padding."""
        self._num_ids = max(num_ids, self.vocab_size)

    def encode(self, text: bytes) -> Int[np.ndarray, "T"]:
        return np.frombuffer(text, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: Int[np.ndarray, "T"]) -> bytes:
        ids = _valid(ids, self._num_ids)
        return ids[ids < 256].astype(np.uint8).tobytes()

    def byte_lengths(self, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
        return (_valid(ids, self._num_ids) < 256).astype(np.int64)


class TableTokenizer:
    """A tokenizer.json of the `tokenizers` library, with the exact bytes of every id in a table.

    Read are byte-level vocabularies (GPT-2 and its heirs) and vocabularies with "▁" for a space (SentencePiece, as
    in Llama 2). The space that the latter put in front of a text is left away: it is no byte of the text. No special
    token is ever encoded from text: what looks like one is spelled out, whatever the vocabulary's model.
    """

    name = "tokenizers"

    def __init__(
        self, data: bytes, *, given: Mapping[str, Any] | None = None, where: Path, num_ids: int | None = None
    ) -> None:
        """Read the content of tokenizer.json.

        Args:
            given: what the folder's files say of BOS and EOS, of `given_fields`; None: nothing.
            where: for messages.
            num_ids: the model's vocabulary, padding among it; None: the tokenizer's own.

        Raises:
            CheckpointError: the library cannot read it, or it cannot be byte exact.
        """
        try:
            # Late: most checkpoints need only bytes.
            import tokenizers
        except ImportError as error:
            raise CheckpointError(f"'{where}' needs the tokenizers library; pip install tokenizers") from error
        given = NOTHING_GIVEN if given is None else given
        spec = parse_json(data, where=where)
        written = dict(spec)
        byte_level = _make_exact(spec, where=where)
        found = find_special_tokens(written, given, where=where)
        special = special_contents(spec, found)
        ordinary = {entry["content"] for entry in spec.get("added_tokens") or ()} - special
        hidden = _hide(spec, special)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"'{where}' is not read by the tokenizers library: {error}") from error
        self._tokenizer.encode_special_tokens = True
        self._where = where
        vocab = {
            hidden.get(token, token): index
            for token, index in self._tokenizer.get_vocab(with_added_tokens=True).items()
        }
        self._special = np.array(sorted(vocab[token] for token in special if token in vocab), dtype=np.int64)
        if found.bos_id is not None and found.bos_id not in vocab.values():
            raise CheckpointError(
                f"BOS is given as {found.bos_id}, which is no token of '{where}'; correct bos_token_id"
            )
        self.bos_id, self.end_ids, self.remark = found.bos_id, frozenset(found.eos_ids), found.remark
        texts = {index: token for token, index in vocab.items() if token not in special}
        self.vocab_size = 1 + max(*texts, -1 if self.bos_id is None else self.bos_id)
        # Special tokens and padding stand for no text.
        self._table = [b""] * max(num_ids or 0, *(index + 1 for index in vocab.values()))
        for index, token in texts.items():
            verbatim = byte_level and token in ordinary
            self._table[index] = token.encode() if verbatim else _token_bytes(token, byte_level=byte_level)
        self._lengths = np.array([len(piece) for piece in self._table], dtype=np.int64)
        self.digest = _table_digest(data, given)

    def encode(self, text: bytes) -> Int[np.ndarray, "T"]:
        try:
            encoding = self._tokenizer.encode(text.decode("utf-8"), add_special_tokens=False)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"'{self._where}' reads UTF-8 only, and byte {error.start} of this text ({len(text)} bytes) is not; "
                "use a UTF-8 text, or a checkpoint with the byte tokenizer"
            ) from error
        ids = np.array(encoding.ids, dtype=np.int64)
        back = b"".join(self._table[index] for index in encoding.ids)
        if back != text or np.isin(ids, self._special).any():
            same = next(
                (i for i, (a, b) in enumerate(zip(back, text, strict=False)) if a != b), min(len(back), len(text))
            )
            raise UsageError(
                f"'{self._where}' does not keep this text: from byte {same}, {text[same : same + 12]!r} comes back as "
                f"{back[same : same + 12]!r}, so bits per byte cannot be counted; use a text that it keeps"
            )
        return ids

    def decode(self, ids: Int[np.ndarray, "T"]) -> bytes:
        return b"".join(self._table[index] for index in _valid(ids, len(self._table)))

    def byte_lengths(self, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
        return self._lengths[_valid(ids, len(self._table))]


def read_tokenizer(folder: Path, config: Mapping[str, Any], *, num_ids: int | None = None) -> Tokenizer | None:
    """The tokenizer of a checkpoint folder with this config.json; None when it has none.

    Args:
        num_ids: the model's vocabulary; ids between the tokenizer's and it are padding, which stands for no text.

    Raises:
        CheckpointError: config.json names an unknown one, or tokenizer.json is broken or cannot be byte exact.
    """
    if _is_bytes(config):
        return ByteTokenizer(num_ids=num_ids or ByteTokenizer.vocab_size)
    path = member(folder, TOKENIZER)
    if path is None:
        return None
    data = read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES)
    return TableTokenizer(data, given=given_fields(folder, config), where=path, num_ids=num_ids)


def tokenizer_digest(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Digest of what `read_tokenizer` would give, without building it. Raises CheckpointError."""
    if _is_bytes(config):
        return ByteTokenizer.digest
    path = member(folder, TOKENIZER)
    if path is None:
        return None
    return _table_digest(read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES), given_fields(folder, config))


def _is_bytes(config: Mapping[str, Any]) -> bool:
    kind = config.get("tokenizer")
    if kind not in ("bytes", None):
        raise CheckpointError(
            f"config.json has tokenizer={kind!r}; allowed: 'bytes', or no such field and a tokenizer.json"
        )
    return kind == "bytes"


def _table_digest(data: bytes, given: Mapping[str, Any]) -> str:
    return digest(data + f"\nBOS and EOS {canonical_json(given)}".encode())


def _hide(spec: dict[str, Any], special: set[str]) -> dict[str, str]:
    """Give special tokens, in place, texts that no text contains; the tokens by their new texts.

    A Unigram model finds a piece wherever its text stands, and a BPE that looks pieces up whole does too, whatever the
    library is told of special tokens; ids stay what they are.
    """
    model = spec["model"]
    names = {token: f"\U0010fffe{number}\U0010ffff" for number, token in enumerate(sorted(special))}
    vocab = model.get("vocab")
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
    elif isinstance(vocab, dict):
        model["vocab"] = {names.get(token, token): index for token, index in vocab.items()}
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        pairs = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & special]
    for entry in spec.get("added_tokens") or ():
        if entry["content"] in names:
            entry |= {"content": names[entry["content"]], "special": True, "normalized": False}
    return {name: token for token, name in names.items()}


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
