"""Logs of inspect_ai (`.eval`): a zip of JSON files, one for each sample and epoch, compressed by deflate or zstd.

A document is known by input and target. Scores are numbers or letters: C correct, I incorrect, P partly, N no answer,
as inspect_ai itself counts them (1, 0, 0.5, 0). Higher is better, which its logs take for granted.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from ttbench.errors import UsageError
from ttbench.report.foreign.scores import DocumentScore, ForeignLog, finite, one_each, share_or_mean
from ttbench.types import canonical_json, digest

TOOL, PATTERN = "inspect_ai", "*.eval"
LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
ZSTD = 93  # method of compression, which zipfile knows from Python 3.14 on
_LOCAL = struct.Struct("<26xHH")  # of a file's own header: lengths of its name and of what follows that


def read(files: list[Path], name: str) -> ForeignLog:
    """The scores in logs of inspect_ai. Raises UsageError for what is damaged, did not end, or is logged twice."""
    by_task: dict[str, list[Path]] = {}
    scores: list[DocumentScore] = []
    for path in files:
        try:
            task, found = _log(path)
        except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError, pa.ArrowInvalid) as error:
            raise UsageError(f"{path} is no log of inspect_ai ({type(error).__name__}: {error})") from error
        by_task.setdefault(task, []).append(path)
        scores += found
    one_each(by_task, name)
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.metric, []).append(score.value)
    kinds = {metric: share_or_mean(metric, mine, "higher") for metric, mine in values.items()}
    return ForeignLog(tool=TOOL, name=name, scores=tuple(scores), kinds=kinds)


def _log(path: Path) -> tuple[str, list[DocumentScore]]:
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        header = json.loads(_member(archive, members["header.json"], data))
        if header["status"] != "success":
            raise UsageError(f"{path} ended with status {header['status']}; run it again to its end, then compare")
        task = str(header["eval"]["task"])
        scores = []
        for filename, info in members.items():
            if filename.startswith("samples/"):
                scores += _sample(json.loads(_member(archive, info, data)), task, f"{path.name}:{filename}")
    return task, scores


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> bytes:
    """A file of the archive, also where it is compressed in a way that zipfile does not know yet."""
    if info.compress_type != ZSTD:
        return archive.read(info)
    lengths = _LOCAL.unpack_from(data, info.header_offset)
    start = info.header_offset + _LOCAL.size + sum(lengths)
    packed = data[start : start + info.compress_size]
    return pa.decompress(packed, decompressed_size=info.file_size, codec="zstd", asbytes=True)


def _sample(sample: dict[str, Any], task: str, where: str) -> Iterator[DocumentScore]:
    document = digest(canonical_json([_text(sample["input"]), sample["target"]]))
    asked = [[each["role"], each["content"]] for each in sample.get("messages", ()) if each["role"] != "assistant"]
    prompt = digest(canonical_json(asked))
    if not sample.get("scores"):
        raise UsageError(f"{where} has no score; score the log first, or leave the sample out on both sides")
    for scorer, score in sample["scores"].items():
        value = score["value"]
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, number in parts:
            number = LETTERS.get(number, number) if isinstance(number, str) else number
            metric = f"{scorer}/{part}" if part else scorer
            yield DocumentScore(
                benchmark=task,
                document=document,
                prompt=prompt,
                metric=metric,
                value=finite(number, f"{where}, {metric}"),
            )


def _text(asked: Any) -> Any:
    """The input without what differs between runs: the ids of its messages."""
    return asked if isinstance(asked, str) else [[each["role"], each["content"]] for each in asked]
