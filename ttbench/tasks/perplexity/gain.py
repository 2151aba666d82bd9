"""What there is to gain from a longer context: the context mixer on the windows of protocol `fixed`.

    python -m ttbench.tasks.perplexity.gain languages cipher renamed code --out gain.csv

Windows, documents and contexts are those that `ttbench run perplexity` draws for a checkpoint that reads bytes, so its
bits per byte stand beside a model's, window by window. A minute and a half of one core for 30 documents of a corpus.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import Corpus, open_corpus
from ttbench.errors import TtbenchError
from ttbench.tasks.perplexity.mixer import ContextMixer
from ttbench.tasks.perplexity.perplexity import PerplexityParams
from ttbench.tasks.windows import draw_windows

CONTEXTS = (512, 1_024, 2_048, 4_096, 8_192, 16_384)
NUM_DOCUMENTS = 30
# Texts of the valid split that the weights are learned from: so many, of so many bytes.
NUM_LESSONS, LESSON = 48, 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The mixer on one window in one context."""

    corpus: str
    corpus_digest: str
    context_len: int  # bytes
    document: str
    window_start: int  # byte of the document
    num_bytes: int
    nats: float


def make_mixer(corpus: Corpus) -> ContextMixer:
    """A mixer that has read the corpus's train split, and some of its valid split for the weights."""
    valid = [document.text for document in corpus.documents("valid")]
    stretches = (text[start : start + LESSON] for start in range(0, max(map(len, valid)), LESSON) for text in valid)
    lessons = itertools.islice((text for text in stretches if len(text) == LESSON), NUM_LESSONS)
    return ContextMixer([document.text for document in corpus.documents("train")], lessons)


def measure_gain(
    corpus: Corpus, *, contexts: Sequence[int] = CONTEXTS, limit: int = NUM_DOCUMENTS, seed: int = 0
) -> Iterator[Gain]:
    """The task's windows in every context. Raises TooShortError when no document is long enough."""
    mixer, memo, params = make_mixer(corpus), {}, PerplexityParams()
    for context_len in contexts:
        drawn = draw_windows(
            corpus,
            ByteTokenizer(),
            seed=seed,
            context_len=context_len,
            max_context=max(params.max_context, *contexts),
            size=params.window,
            num_windows=params.windows,
            limit=limit,
            memo=memo,
        )
        for window in drawn.windows:
            nats = mixer.nats(window.ids.astype(np.uint8).tobytes(), num_targets=params.window)
            yield Gain(
                corpus=corpus.name,
                corpus_digest=corpus.digest,
                context_len=context_len,
                document=window.document.name,
                window_start=window.start,
                num_bytes=window.num_bytes,
                nats=float(nats.sum()),
            )


def main() -> None:
    """Measure some corpora, print bits per byte by context, and write every window."""
    parser = argparse.ArgumentParser(
        prog="python -m ttbench.tasks.perplexity.gain", description="what there is to gain from context"
    )
    parser.add_argument("corpora", nargs="+", metavar="CORPUS")
    parser.add_argument("--limit", type=int, default=NUM_DOCUMENTS, help="documents of each corpus")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of documents and windows")
    parser.add_argument("--out", type=Path, required=True, help="CSV of every window")
    options = parser.parse_args()
    try:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Gain)], lineterminator="\n")
            writer.writeheader()
            for name in options.corpora:
                bits: dict[int, list[float]] = {}
                for row in measure_gain(open_corpus(name), limit=options.limit, seed=options.seed):
                    writer.writerow(asdict(row) | {"nats": f"{row.nats:.4f}"})
                    bits.setdefault(row.context_len, []).append(row.nats / row.num_bytes / math.log(2))
                print(name, *(f"{ctx}: {np.mean(found):.3f}" for ctx, found in bits.items()), sep="  ", flush=True)
    except TtbenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
