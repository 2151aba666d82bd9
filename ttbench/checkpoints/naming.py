"""What checkpoints are called in a table: names that tell them apart, while their digests say what they are.

A folder is called by its last name, or by as much of its path as tells it from the others and from the zoo; a revision
of the hub by its commit where two are asked for. Torch-free.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

from ttbench.checkpoints.files import MAX_CONFIG_BYTES, content_digest, json_digest, read_json
from ttbench.checkpoints.tokenizer import tokenizer_digest
from ttbench.checkpoints.weights import read_weights
from ttbench.errors import UsageError
from ttbench.types import Checkpoint

CONFIG = "config.json"
GENOMES = "genomes"  # room of the zoo whose checkpoints read DNA
REVISION_LEN = 8  # letters of a commit


def zoo_folders() -> dict[str, Path]:
    """Folders of the checkpoints that ship with the package, by name: those that read text, then those of DNA."""
    folder = Path(str(resources.files("ttbench") / "zoo"))
    patterns = (f"*/{CONFIG}", f"{GENOMES}/*/{CONFIG}")
    return {path.parent.name: path.parent for pattern in patterns for path in sorted(folder.glob(pattern))}


def digests_of(folder: Path) -> dict[str, str | None]:
    """What the checkpoint in a folder is known by, as rows have it, without opening it.

    Raises CheckpointError or WeightsError when it cannot be read.
    """
    config = read_json(folder / CONFIG, max_bytes=MAX_CONFIG_BYTES)
    return {
        "weights_digest": content_digest(read_weights(folder).paths),
        "config_digest": json_digest(config),
        "tokenizer_digest": tokenizer_digest(folder, config),
    }


def tell_apart(checkpoints: Iterable[Checkpoint]) -> Callable[[Checkpoint], str]:
    """Names that no two different ones of these checkpoints share, as a function.

    Raises UsageError when nothing tells two of them apart.
    """
    found = {_key(checkpoint): checkpoint for checkpoint in checkpoints}
    names = {key: checkpoint.name for key, checkpoint in found.items()}
    reserved = set(zoo_folders())
    for depth in itertools.count(2):
        counts = Counter(names.values())
        clashing = [key for key, name in names.items() if counts[name] > 1 or name in reserved]
        # The zoo keeps its names: the others go out of their way.
        clashing = [key for key in clashing if found[key].provenance != "zoo"]
        longer = {key: _longer(found[key], depth) for key in clashing}
        if not clashing:
            break
        if all(names[key] == name for key, name in longer.items()):
            raise UsageError(
                f"several checkpoints are called '{names[clashing[0]]}', and neither paths nor revisions tell them "
                "apart; measure one at a time, or rename a folder"
            )
        names |= longer
    return lambda checkpoint: names[_key(checkpoint)]


def _key(checkpoint: Checkpoint) -> tuple[str | None, ...]:
    """Where a checkpoint lies and what it holds; costs, which follow from a dtype, are no part of it."""
    digests = (checkpoint.weights_digest, checkpoint.config_digest, checkpoint.tokenizer_digest)
    return (checkpoint.name, checkpoint.path, checkpoint.revision, *digests)


def _longer(checkpoint: Checkpoint, depth: int) -> str:
    """The name with so many folders of the path, or with a commit."""
    if checkpoint.provenance == "hub" and checkpoint.revision is not None:
        return f"{checkpoint.name}@{checkpoint.revision[:REVISION_LEN]}"
    if not checkpoint.path:
        return f"{checkpoint.provenance}/{checkpoint.name}"
    return "/".join(part.rstrip("/") for part in Path(checkpoint.path).parts[-depth:])
