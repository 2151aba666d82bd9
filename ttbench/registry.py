"""Names to "module:object" strings: the one line that an extension adds.

Strings, so that the bottom layer never imports the top one and listing names imports nothing. Other packages add
theirs through the entry-point groups `ttbench.architectures`, `ttbench.tasks`, `ttbench.engines`, `ttbench.executors`,
`ttbench.corpora`, `ttbench.corpus_kinds` and `ttbench.exporters`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any

from ttbench.errors import PlugInError, UnknownNameError, UsageError


def _search_path() -> tuple[tuple[str, int], ...]:
    """Where installed packages are looked for, and when each place last changed."""
    found = []
    for place in sys.path:
        with contextlib.suppress(OSError):
            found.append((place, os.stat(place or ".").st_mtime_ns))
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _entry_points(group: str, where: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    # Reading what every installed package declares takes ten milliseconds.
    return tuple(importlib.metadata.entry_points(group=group))


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points that installed packages declare in a group, read again when a place of packages changes."""
    return _entry_points(group, _search_path())


@functools.cache
def _say(text: str) -> None:
    logging.getLogger("ttbench").warning(text)


def _imported(target: str) -> Any:
    """The object of "module:object"."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


class Registry(Mapping[str, str]):
    """Built-in names and those of installed entry points; a name may be taken once only.

    Args:
        noun: what is registered.
        group: of entry points.
        built_in: name -> "module:object".
        required: "module:function" that raises PlugInError for an object of a plug-in which is none of these.
    """

    def __init__(self, noun: str, *, group: str, built_in: Mapping[str, str], required: str | None = None) -> None:
        self.noun, self.group, self._built_in = noun, group, dict(built_in)
        self._required = required
        self._fit: dict[str, Any] = {}  # of plug-ins

    def entry_point(self, name: str) -> EntryPoint | None:
        """The entry point that brings `name`; None when it is built in. Raises UnknownNameError."""
        value = self[name]
        if self._built_in.get(name) == value:
            return None
        return next(entry for entry in entry_points(self.group) if entry.name == name)

    def _all(self) -> dict[str, str]:
        found = dict(self._built_in)
        for entry in entry_points(self.group):
            if found.setdefault(entry.name, entry.value) != entry.value:
                raise UsageError(
                    f"two {self.noun}s are called '{entry.name}': {found[entry.name]} and {entry.value}; uninstall one"
                )
        return found

    def __getitem__(self, name: str) -> str:
        found = self._all()
        if name not in found:
            raise UnknownNameError(self.noun, name, known=found)
        return found[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def load(self, name: str) -> Any:
        """Import and return the object registered under `name`.

        Raises UnknownNameError, or PlugInError when another package brings it and it cannot be imported or used.
        """
        value = self[name]
        try:
            found = _imported(value)
        # Whatever another package raises while it is imported is its own, and said in one line.
        except Exception as error:
            if self._built_in.get(name) == value:
                raise
            said = f"cannot be imported: {type(error).__name__}: {error}"
            raise self._broken(name, value, said) from error
        if self._built_in.get(name) != value and self._required is not None and self._fit.get(name) is not found:
            try:
                _imported(self._required)(found)
            # What it declares may be anything, and may fail in any way when it is looked at.
            except Exception as error:
                said = str(error) if isinstance(error, PlugInError) else f"{type(error).__name__}: {error}"
                raise self._broken(name, value, f"cannot be used: {said}") from error
            self._fit[name] = found
        return found

    def _broken(self, name: str, value: str, said: str) -> PlugInError:
        return PlugInError(f"the {self.noun} '{name}' of an installed plug-in ({value}) {said}; mend or uninstall it")

    def usable(self) -> Iterator[tuple[str, Any]]:
        """Names with their objects; a plug-in that cannot be imported or used is left out, which is said once."""
        for name in self:
            try:
                found = self.load(name)
            except PlugInError as error:
                _say(str(error))
                continue
            yield name, found


ARCHITECTURES = Registry(
    "architecture",
    group="ttbench.architectures",
    required="ttbench.store.declared:require_architecture",
    built_in={
        "transformer": "ttbench.models.transformer:Transformer",
        "ttt-linear": "ttbench.models.ttt:TTTLinear",
        "ttt-mlp": "ttbench.models.ttt:TTTMLP",
        "mamba": "ttbench.models.state_space.mamba:Mamba",
        "mamba2": "ttbench.models.state_space.mamba2:Mamba2",
        "s4d": "ttbench.models.state_space.s4d:S4D",
        "hybrid": "ttbench.models.hybrid:Hybrid",
        "titans-lmm": "ttbench.models.titans.titans:TitansLMM",
        "titans-mac": "ttbench.models.titans.titans_mac:TitansMAC",
        "titans-mag": "ttbench.models.titans.titans:TitansMAG",
        "titans-mal": "ttbench.models.titans.titans:TitansMAL",
        "performer": "ttbench.models.approximate.performer:Performer",
        "reformer": "ttbench.models.approximate.reformer:Reformer",
        "skyformer": "ttbench.models.approximate.skyformer:Skyformer",
    },
)

TASKS = Registry(
    "task",
    group="ttbench.tasks",
    required="ttbench.store.declared:require_task",
    built_in={
        "perplexity": "ttbench.tasks.perplexity.perplexity:Perplexity",
        "needle": "ttbench.tasks.needle.needle:Needle",
        "recall": "ttbench.tasks.recall.recall:Recall",
        "latency": "ttbench.tasks.latency:Latency",
        "memory": "ttbench.tasks.memory:Memory",
        "commonsense": "ttbench.tasks.commonsense:Commonsense",
        "adapt": "ttbench.tasks.adapt.adapt:Adapt",
        "genomics": "ttbench.tasks.genomics.genomics:Genomics",
        "probe": "ttbench.tasks.probe.probe:Probe",
    },
)

ENGINES = Registry(
    "engine",
    group="ttbench.engines",
    built_in={
        "eager": "ttbench.engines.kinds:EAGER",
        "graph": "ttbench.engines.graph.graph_kind:KIND",
        "hf": "ttbench.engines.hf.hf_kind:KIND",
    },
)

EXECUTORS = Registry(
    "executor",
    group="ttbench.executors",
    built_in={
        "local": "ttbench.runs.executors.local:LocalExecutor",
        "slurm": "ttbench.runs.executors.slurm:SlurmExecutor",
        "ray": "ttbench.runs.executors.ray_executor:RayExecutor",
    },
)

CORPORA = Registry(
    "corpus",
    group="ttbench.corpora",
    built_in={
        "code": "ttbench.corpora.wheels:code_corpus",
        "code-foreign": "ttbench.corpora.wheels:foreign_corpus",
        "kjv": "ttbench.corpora.wheels:kjv_corpus",
        "languages": "ttbench.corpora.languages:languages_corpus",
        "cipher": "ttbench.corpora.cipher:cipher_corpus",
        "renamed": "ttbench.corpora.renamed:renamed_corpus",
        "genomes": "ttbench.corpora.genomes:genomes_corpus",
        "genomes-strain": "ttbench.corpora.genomes:strain_corpus",
    },
)

CORPUS_KINDS = Registry(
    "kind of corpus",
    group="ttbench.corpus_kinds",
    built_in={
        "text": "ttbench.corpora.texts:text_corpus",
        "hf": "ttbench.corpora.texts:hub_corpus",
        "genomic-benchmarks": "ttbench.corpora.genomic_benchmarks:open_benchmark",
    },
)

EXPORTERS = Registry(
    "exporter",
    group="ttbench.exporters",
    built_in={
        "wandb": "ttbench.report.exports.wandb_exporter:EXPORTER",
        "mlflow": "ttbench.report.exports.mlflow_exporter:EXPORTER",
    },
)
