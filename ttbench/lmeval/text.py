"""Text to token ids and back as lm-eval does it: with the checkpoint's tokenizer.json as it is.

`ttbench.checkpoints.tokenizer` takes from a vocabulary what adds or drops text, so that bytes can be counted. Here the
file is used unchanged, as transformers uses it: a SentencePiece-like vocabulary puts its space in front, "<s>" in a
text is the token, and BOS stands where the file (or tokenizer_config.json) puts it. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ttbench.checkpoints.files import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, member, parse_json, read_bytes, read_json
from ttbench.checkpoints.special_tokens import TOKENIZER, find_special_tokens, given_fields, no_tokenizer
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.errors import CheckpointError, UnsupportedError


class Text(Protocol):
    """What the lm-eval model needs of a tokenizer."""

    name: str
    prefix_id: int | None  # stands in front of a text without context: BOS, else EOS
    end_id: int | None  # what ends a generated text
    end_text: str | None  # the same as text
    prefix_text: str | None  # a text that begins with it gets no other in front
    end_ids: frozenset[int]  # each ends a generated text
    remark: str | None  # where the checkpoint's files disagree about BOS, and which is taken
    adds_prefix: bool  # whether what is in front of a text is the tokenizer's own doing

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids; with `special`, what the tokenizer puts around a text is there."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        ...


class ByteText:
    """One token per byte; BOS, 256, in front of every text. BOS also begins the next document, and so ends a text."""

    name = "bytes"
    prefix_id: int | None = ByteTokenizer.bos_id
    end_id: int | None = ByteTokenizer.bos_id
    end_text: str | None = None
    prefix_text: str | None = None
    end_ids = ByteTokenizer.end_ids
    remark: str | None = None
    # lm-eval has no byte tokenizer that could put it there twice
    adds_prefix = False

    def encode(self, text: str, *, special: bool) -> list[int]:
        start = [self.prefix_id] if special and self.prefix_id is not None else []
        return [*start, *text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(index for index in ids if index < 256).decode(errors="replace")


class FileText:
    """A tokenizer.json, unchanged; `ttbench.checkpoints.special_tokens` says which tokens begin and end a text."""

    def __init__(self, data: bytes, given: Mapping[str, Any], *, where: Path) -> None:
        """Read tokenizer.json's `data`; `given` is what the folder's files say of BOS and EOS.

        Raises:
            CheckpointError: the library cannot read it.
        """
        # Late: most checkpoints need only bytes.
        import tokenizers

        spec = parse_json(data, where=where)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"'{where}' is not read by the tokenizers library: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.name = str(where.parent)
        found = find_special_tokens(spec, given, where=where)
        self.end_ids, self.remark = frozenset(found.eos_ids), found.remark
        self.end_id = found.eos_ids[0] if found.eos_ids else None
        self.prefix_id = self.end_id if found.named_bos_id is None else found.named_bos_id
        self.end_text = self._text_of(self.end_id)
        self.prefix_text = self._text_of(self.prefix_id)
        # What tokenizer_config.json says goes before the file's own template, as in transformers.
        flags = given["add_bos_token"], given["add_eos_token"]
        self._around: tuple[list[int], list[int]] | None = None
        if any(isinstance(value, bool) for value in flags):
            before = [found.named_bos_id] if flags[0] and found.named_bos_id is not None else []
            after = [self.end_id] if flags[1] and self.end_id is not None else []
            self._around = before, after
        self.adds_prefix = self.encode("", special=True)[:1] == [self.prefix_id]

    def encode(self, text: str, *, special: bool) -> list[int]:
        if special and self._around is not None:
            before, after = self._around
            return [*before, *self._tokenizer.encode(text, add_special_tokens=False).ids, *after]
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def _text_of(self, index: int | None) -> str | None:
        return None if index is None else self._tokenizer.decode([index], skip_special_tokens=False)


def read_text(folder: Path) -> Text:
    """How a checkpoint's folder encodes text.

    Raises:
        UnsupportedError: it has no tokenizer.
        CheckpointError: what it has cannot be read.
    """
    config = read_json(folder / "config.json", max_bytes=MAX_CONFIG_BYTES)
    if config.get("tokenizer") == "bytes":
        return ByteText()
    path = member(folder, TOKENIZER)
    if path is None:
        raise UnsupportedError(f"{no_tokenizer(folder, folder.name)}; lm-eval's tasks are text")
    return FileText(read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES), given_fields(folder, config), where=path)
