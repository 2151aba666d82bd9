"""From what a user types to a Checkpoint: zoo name, folder, catalogue name, hub id or size, identified by content.

    name -> folder -> config.json -> the one dialect that knows it -> headers that fit -> digests

No weight is read here beyond its digest; `ttbench.checkpoints.loading` does that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from ttbench.checkpoints.files import MAX_CONFIG_BYTES, content_digest, json_digest, member, read_json
from ttbench.checkpoints.fit import check_layers, fit, skeleton
from ttbench.checkpoints.hub import HubId, fetch_small, fetch_weights, parse_hub_id
from ttbench.checkpoints.naming import CONFIG, GENOMES, zoo_folders
from ttbench.checkpoints.sizes import sizes
from ttbench.checkpoints.sources import conversion_hint
from ttbench.checkpoints.tokenizer import tokenizer_digest
from ttbench.checkpoints.weights import INDEX, SINGLE, StoredWeights, read_weights
from ttbench.errors import CheckpointError, UnknownNameError, UnsupportedError, UsageError
from ttbench.machine.devices import torch_dtype
from ttbench.models.base import Dialect, SequenceModel
from ttbench.names import as_text, folder_name, quote
from ttbench.packages import import_packages
from ttbench.registry import ARCHITECTURES, ENGINES
from ttbench.types import INT64, RANDOM, Checkpoint, Cost, canonical_json, digest

ZOO = "zoo"  # the name of all checkpoints that ship and read text, where several can be named


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The one architecture and dialect that a config.json is written for, and what the dialect makes of it."""

    architecture: str  # registry key
    model_class: type[SequenceModel]
    dialect: Dialect
    config: Any  # the architecture's own config


# What is measured where nobody names a checkpoint: attention and three states of constant size, of three families.
SHOWN = ("transformer-conv", "ttt-linear", "mamba2", "titans-mag")


def zoo_names() -> tuple[str, ...]:
    """Names of the checkpoints that ship with the package and read text, sorted."""
    return tuple(sorted(name for name, folder in zoo_folders().items() if folder.parent.name != GENOMES))


def default_names() -> tuple[str, ...]:
    """Names of the SHOWN, sorted; where the zoo lacks some of them, others of it stand in."""
    names = zoo_names()
    first = [name for name in SHOWN if name in names]
    return tuple(sorted([*first, *(name for name in names if name not in first)][: len(SHOWN)]))


def spelled_out(names: Sequence[str | Checkpoint]) -> list[str | Checkpoint]:
    """The names with ZOO replaced by all of the zoo's; what comes twice by that is taken once."""
    if ZOO not in names:
        return list(names)
    if Path(ZOO, CONFIG).is_file():
        _say(f"'{ZOO}' is every checkpoint of the zoo here; for the folder of that name write ./{ZOO}")
    found: list[str | Checkpoint] = []
    for name in names:
        found += [each for each in (zoo_names() if name == ZOO else (name,)) if each not in found]
    return found


def resolve(name: str, *, dtype: str = "float32", engine: str = "eager") -> Checkpoint:
    """Find and identify a checkpoint: zoo name, local folder, name in the catalogue, hub id `org/name[@revision]`.

    An unpinned hub id becomes the commit that it points to now, in `revision`. `random:NAME` is a published size with
    random weights, see `ttbench.checkpoints.sizes.sizes`.

    Args:
        name: what the user typed.
        dtype: that it will run in; only `cost.state_bytes*` depend on it.
        engine: that will run it, and decides which folders it can read.

    Raises:
        UsageError: an unknown dtype or engine, or `zoo`, which is several.
        UnknownNameError: no zoo name, no folder, not in the catalogue, and not written like a hub id.
        CheckpointError: it cannot be found, read or identified.
        WeightsError: its weight files are broken or do not fit its config.json.
    """
    import_packages()
    if name == ZOO:
        raise UsageError(f"'{ZOO}' is every checkpoint of the zoo, and one is wanted here: {', '.join(zoo_names())}")
    if sizes.is_random(name):
        return _random(name, dtype=dtype, engine=engine)
    zoo = zoo_folders()
    if name in zoo:
        if Path(name).is_dir() and not os.path.samefile(name, zoo[name]):
            _say(f"'{name}' is the zoo's checkpoint here; for the folder of that name write ./{name}")
        return read_checkpoint(zoo[name], name=name, provenance="zoo", dtype=dtype, engine=engine)
    # Late: reading a catalogue takes a package that a machine with a GPU may lack, and its models need none of it.
    from ttbench.checkpoints import catalogue

    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        listed = catalogue.find(name)
        if listed is not None:
            other = f"; for the catalogue's write {listed.hub_id}" if listed.hub_id else ""
            _say(f"'{name}' is the folder here, not the catalogue's checkpoint of that name{other}")
        return read_checkpoint(folder, provenance="local", dtype=dtype, engine=engine)
    if folder.exists():
        hint = conversion_hint(folder)
        what = f"is {hint}" if hint else f"is a file; give the folder that holds {CONFIG} and the weights"
        raise CheckpointError(f"'{name}' {what}")
    listed = catalogue.find(name)
    hub_id = parse_hub_id(name) if listed is None else parse_hub_id(catalogue.resolvable(listed))
    if hub_id is not None:
        return _from_hub(hub_id, dtype=dtype, engine=engine)
    if os.sep in name:
        raise CheckpointError(f"no folder '{name}' here; give a folder that holds {CONFIG} and model.safetensors")
    raise UnknownNameError("checkpoint", name, known=[*zoo, *catalogue.names()])


@cache
def _say(text: str) -> None:
    """Tell the user once which of two things of one name is taken."""
    logging.getLogger("ttbench").warning(text)


def _random(name: str, *, dtype: str, engine: str) -> Checkpoint:
    """A published size with weights that are drawn where they run. Its identity: name, seed, and the configuration."""
    if ENGINES.load(engine).dialect is not None:
        raise UsageError(
            f"'{name}' is a model of an architecture here, which engine {engine} does not run; leave it out"
        )
    config = dict(sizes.find_size(name).config)
    identity = identify(config)
    num_params, num_params_non_embedding = skeleton(identity.model_class, identity.config).num_params()
    drawn = {"name": name, "seed": sizes.SEED, "scheme": sizes.SCHEME, "config": json_digest(config)}
    return Checkpoint(
        name=name,
        path=name,
        architecture=identity.architecture,
        architecture_version=identity.model_class.version,
        dialect=identity.dialect.name,
        provenance=RANDOM,
        revision=None,
        weights_digest=digest(canonical_json(drawn)),
        config_digest=json_digest(config),
        tokenizer_digest=None,
        vocab_size=identity.config.vocab_size,
        train_ctx=None,
        num_params=num_params,
        num_params_non_embedding=num_params_non_embedding,
        weight_bytes=0,
        cost=_cost(identity, dtype_bytes=torch_dtype(dtype).itemsize),
        attention=identity.model_class.ATTENTION,
    )


def _from_hub(hub_id: HubId, *, dtype: str, engine: str) -> Checkpoint:
    folder = fetch_small(hub_id)
    if member(folder, CONFIG) is None:
        _refuse_format(hub_id.repo, lacks=CONFIG)
    ENGINES.load(engine).require(folder, read_config(folder))
    fetch_weights(hub_id, folder)
    if not (member(folder, SINGLE) or member(folder, INDEX)):
        _refuse_format(hub_id.repo, lacks=f"{SINGLE} and no {INDEX}")
    return read_checkpoint(folder, name=hub_id.repo, provenance="hub", revision=folder.name, dtype=dtype, engine=engine)


def _refuse_format(repo: str, *, lacks: str) -> NoReturn:
    raise CheckpointError(
        f"'{repo}' has no {lacks} on the hub, so it cannot be run from there. If its weights are in another format: "
        f"hf download {repo} --local-dir SOURCE, then ttbench convert SOURCE --out DIR, then --checkpoint DIR"
    )


def refuse_unconverted(folder: Path) -> None:
    """Raise CheckpointError for a folder whose only weights `ttbench convert` has to read first."""
    hint = None if member(folder, SINGLE) or member(folder, INDEX) else conversion_hint(folder)
    if hint:
        raise CheckpointError(f"'{folder}' has no {SINGLE}; it holds {hint}")


def read_checkpoint(
    folder: Path,
    *,
    provenance: str,
    dtype: str,
    name: str | None = None,
    revision: str | None = None,
    engine: str = "eager",
) -> Checkpoint:
    """Identify the checkpoint in a local folder. Raises CheckpointError or WeightsError as `resolve` does."""
    torch_dtype(dtype)
    folder = Path(os.path.abspath(folder))
    _refuse_other_encodings(folder)
    return ENGINES.load(engine).read(folder, provenance=provenance, dtype=dtype, name=name, revision=revision)


def read_native(
    folder: Path, *, provenance: str, dtype: str, name: str | None = None, revision: str | None = None
) -> Checkpoint:
    """Identify the checkpoint of a registered architecture. Raises CheckpointError or WeightsError."""
    config = read_config(folder)
    identity = identify(config)
    refuse_unconverted(folder)
    model, stored, _ = fitted(folder, config, identity)
    num_params, num_params_non_embedding = model.num_params()
    return Checkpoint(
        name=name or folder_name(folder),
        path=os.fspath(folder),
        architecture=identity.architecture,
        architecture_version=identity.model_class.version,
        dialect=identity.dialect.name,
        provenance=provenance,
        revision=revision,
        weights_digest=content_digest(stored.paths),
        config_digest=json_digest(config),
        tokenizer_digest=tokenizer_digest(folder, config),
        vocab_size=identity.config.vocab_size,
        train_ctx=train_ctx(folder, config),
        train_kinds=train_kinds(folder, config),
        **training_of(folder, config),
        num_params=num_params,
        num_params_non_embedding=num_params_non_embedding,
        weight_bytes=stored.nbytes,
        cost=_cost(identity, dtype_bytes=torch_dtype(dtype).itemsize),
        attention=identity.model_class.ATTENTION,
    )


def _refuse_other_encodings(folder: Path) -> None:
    """The library that reads the weights opens no path that is not UTF-8."""
    try:
        os.fsencode(folder).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"the path of checkpoint '{as_text(str(folder))}' is not UTF-8, and safetensors opens no such file; "
            f"rename it, or give a link to it: ln -s {quote(str(folder))} NAME"
        ) from error


def _cost(identity: Identity, *, dtype_bytes: int) -> Cost | None:
    """The architecture's formula; None where it says that it has none."""
    try:
        return identity.model_class.cost(identity.config, dtype_bytes=dtype_bytes)
    except UnsupportedError:
        return None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises CheckpointError when there is none or it is not a JSON object."""
    path = member(folder, CONFIG)
    if path is None:
        hint = conversion_hint(folder)
        if hint:
            raise CheckpointError(f"'{folder}' has no {CONFIG}; it holds {hint}")
        below = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        inside = f" it holds the folders {', '.join(below[:4])}{', ...' if len(below) > 4 else ''}:" if below else ""
        one = "one of them" if below else f"a folder that holds {CONFIG} and model.safetensors"
        raise CheckpointError(f"'{folder}' has no {CONFIG};{inside} give {one}")
    return read_json(path, max_bytes=MAX_CONFIG_BYTES)


def identify(config: Mapping[str, Any]) -> Identity:
    """The one dialect in the registry that knows this config.json.

    Raises:
        CheckpointError: no dialect or more than one matches, or the one that does cannot read it.
    """
    found: list[tuple[str, type[SequenceModel], Dialect]] = []
    for name, model_class in ARCHITECTURES.usable():
        for dialect in model_class.DIALECTS:
            if dialect.matches(config):
                found.append((name, model_class, dialect))
    if len(found) != 1:
        kind = config.get("model_type")
        if found:
            matching = " and ".join(f"{dialect.name} ({name})" for name, _, dialect in found)
            raise CheckpointError(f"{CONFIG} with model_type={kind!r} is known to {matching}, and one may read it")
        raise CheckpointError(f"{CONFIG} has model_type={kind!r}, which no architecture here reads; {_beyond(kind)}")
    name, model_class, dialect = found[0]
    try:
        parsed = dialect.config(config)
    except (TypeError, ValueError, KeyError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(
            f"{CONFIG} cannot be read as {dialect.name}: {type(error).__name__}: {error}; check its fields"
        ) from error
    return Identity(architecture=name, model_class=model_class, dialect=dialect, config=parsed)


def _beyond(model_type: Any) -> str:
    """What other engines say to a model_type that no architecture here reads, and what to do."""
    found = [words for words in (kind.advice(model_type) for _, kind in ENGINES.usable()) if words]
    return "; ".join([*found, "see ttbench list architectures"])


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether an architecture here reads this config.json."""
    return any(dialect.matches(config) for _, each in ARCHITECTURES.usable() for dialect in each.DIALECTS)


def fitted(
    folder: Path, config: Mapping[str, Any], identity: Identity
) -> tuple[SequenceModel, StoredWeights, dict[str, str]]:
    """The model without memory, the stored weights, and the stored key of each model tensor.

    Raises:
        CheckpointError: the config cannot be built.
        WeightsError: the files are broken or do not fit.
    """
    stored = read_weights(folder)
    check_layers(config, stored)
    model = skeleton(identity.model_class, identity.config)
    return model, stored, fit(model, identity.dialect, stored, where=os.fspath(folder))


def train_ctx(folder: Path, config: Mapping[str, Any]) -> int | None:
    """Tokens the checkpoint was trained on at once: `train_ctx`, else `max_position_embeddings`, else unknown."""
    for key in ("train_ctx", "max_position_embeddings"):
        value = config.get(key)
        if value is None:
            continue
        if type(value) is not int or value < 1 or value not in INT64:
            raise CheckpointError(
                f"'{folder / CONFIG}' has {key}={value!r}; expected a positive number of tokens, below 2^63"
            )
        return value
    return None


def training_of(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe and seed that it was trained with, where `ttbench train` wrote them; None: unknown."""
    recipe, seed = config.get("train_recipe"), config.get("train_seed")
    if recipe is not None and not isinstance(recipe, str):
        raise CheckpointError(
            f"'{folder / CONFIG}' has train_recipe={recipe!r}; expected the digest of a recipe, as text"
        )
    if seed is not None and (type(seed) is not int or seed not in INT64):
        raise CheckpointError(f"'{folder / CONFIG}' has train_seed={seed!r}; expected a whole number below 2^63")
    return {"train_recipe": recipe, "train_seed": seed}


def train_kinds(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Kinds of rows the checkpoint was trained on, where `ttbench train` wrote them; None: unknown."""
    value = config.get("train_kinds")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(kind, str) for kind in value):
        raise CheckpointError(f"'{folder / CONFIG}' has train_kinds={value!r}; expected a list of kinds of rows")
    return tuple(value)
