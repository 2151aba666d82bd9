"""Baselines without a model: the sizes of documents compressed by `bzip2 -9` and `xz -9`."""

from __future__ import annotations

import bz2
import lzma


def compressed_sizes(text: bytes) -> dict[str, int | None]:
    """Bytes of a document as it is, and as `bzip2 -9` and `xz -9` write it."""
    # The dictionary of xz -9 is 64 MiB; one as long as the text finds the same matches without 674 MiB of memory.
    dictionary = min(64 * 1024**2, max(4096, 1 << (len(text) - 1).bit_length()))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return {
        "document_bytes": len(text),
        "bzip2_bytes": len(bz2.compress(text, 9)),
        "xz_bytes": len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=filters)),
    }


class OncePerDocument:
    """Compressed sizes of a document the first time it is seen, and None from then on."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def sizes(self, name: str, text: bytes) -> dict[str, int | None]:
        """`compressed_sizes`, so that sums over rows are sums over documents."""
        if name in self._seen:
            return {"document_bytes": None, "bzip2_bytes": None, "xz_bytes": None}
        self._seen.add(name)
        return compressed_sizes(text)
