"""What there is to gain from a longer context: the context mixer on the windows of protocol `fixed`.

    make gain        or        python -m ttbench.tasks.perplexity.gain languages cipher renamed code --out counted.csv

Windows, documents and contexts are those that `ttbench run perplexity` draws for a checkpoint that reads bytes, so its
bits per byte stand beside a model's, window by window: `ttbench.tasks.perplexity.counted` looks them up. Three minutes
of one core for 30 documents of a corpus up to 32k.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import Corpus, open_corpus
from ttbench.errors import TtbenchError
from ttbench.tasks.perplexity.counted import CountedWindow, mixer_digest
from ttbench.tasks.perplexity.mixer import make_mixer
from ttbench.tasks.perplexity.perplexity import Perplexity, PerplexityParams
from ttbench.tasks.windows import draw_windows
from ttbench.types import digest

CONTEXTS = (256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
NUM_DOCUMENTS = 30


def measure_gain(
    corpus: Corpus, *, contexts: Sequence[int] = CONTEXTS, limit: int = NUM_DOCUMENTS, seed: int = 0
) -> Iterator[CountedWindow]:
    """The task's windows in every context. Raises TooShortError when no document is long enough."""
    mixer, made_by, memo = make_mixer(corpus), mixer_digest(), {}
    params = Perplexity().settle(PerplexityParams(limit=limit), tuple(contexts))
    for context_len in contexts:
        drawn = draw_windows(corpus, ByteTokenizer(), params, seed=seed, context_len=context_len, memo=memo)
        for window in drawn.windows:
            nats = mixer.nats(window.ids.astype(np.uint8).tobytes(), num_targets=params.window)
            yield CountedWindow(
                corpus=corpus.name,
                corpus_digest=corpus.digest,
                mixer_digest=made_by,
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
            writer = csv.DictWriter(file, [field.name for field in fields(CountedWindow)], lineterminator="\n")
            writer.writeheader()
            for name in options.corpora:
                bits: dict[int, list[float]] = {}
                for row in measure_gain(open_corpus(name), limit=options.limit, seed=options.seed):
                    writer.writerow(asdict(row) | {"nats": f"{row.nats:.4f}"})
                    bits.setdefault(row.context_len, []).append(row.nats / row.num_bytes / math.log(2))
                print(name, *(f"{ctx}: {np.mean(found):.3f}" for ctx, found in bits.items()), sep="  ", flush=True)
    except TtbenchError as error:
        sys.exit(f"error: {error}")
    print(f"TABLE_DIGEST of ttbench/tasks/perplexity/counted.py: {digest(options.out.read_bytes())}")


if __name__ == "__main__":
    main()
