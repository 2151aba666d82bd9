"""Small genomes for tests: random letters by seed."""

from __future__ import annotations

import numpy as np

from ttbench.corpora.corpus import Corpus, Document, make_corpus


def dna(size: int, *, seed: int, letters: str = "ACGT") -> bytes:
    return "".join(np.random.default_rng(seed).choice(list(letters), size=size)).encode()


def corpus(*, train: dict[str, bytes], test: dict[str, bytes]) -> Corpus:
    splits = {"train": train, "test": test}
    documents = {split: [Document(name=n, text=t) for n, t in texts.items()] for split, texts in splits.items()}
    return make_corpus("own", documents, source="test")


CORPUS = corpus(train={"a": dna(900, seed=1)}, test={f"t{i}": dna(150 + i, seed=10 + i) for i in range(3)})
