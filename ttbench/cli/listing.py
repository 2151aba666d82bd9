"""What there is to choose from: the data behind `ttbench list`, `ttbench show` and shell completion.

Descriptions are read from source without importing it, so that a listing needs no torch; only identifying checkpoints
does, because their configurations are read by their architectures. Torch-free at import.
"""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.adapt.experts import CARD, library_folders, read_card
from ttbench.checkpoints.naming import zoo_folders
from ttbench.checkpoints.sizes.sizes import sizes
from ttbench.errors import StoreError, SuiteError, TtbenchError, UnknownNameError, UsageError
from ttbench.registry import ARCHITECTURES, CORPORA, EXECUTORS, EXPORTERS, TASKS, Registry
from ttbench.types import RANDOM

if TYPE_CHECKING:
    from ttbench.store.record import CellRecord

RUNS = Path("runs")
NOUNS = ("tasks", "architectures", "corpora", "checkpoints", "experts", "suites", "papers", "runs")
# What is known of a run that is damaged.
DAMAGED = dict(command=None, started=None, checkpoints=[], contexts=[], cells=0, statuses={}, missing=0)


def describe(target: str, *, alone: bool) -> str:
    """First line of the docstring of "module:object": the module's for a class that is `alone` in it, else its own."""
    module, _, attribute = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return ""
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), filename=spec.origin)
    # The package around a plug-in's module is imported to find it, and may raise anything.
    except Exception as error:
        return f"cannot be imported: {type(error).__name__}: {error}"
    kinds = (ast.FunctionDef,) if alone else (ast.FunctionDef, ast.ClassDef)
    own = [ast.get_docstring(node) for node in tree.body if isinstance(node, kinds) and node.name == attribute]
    text = (own[0] if own else None) or ast.get_docstring(tree) or ""
    line = text.partition("\n")[0].rstrip(".")
    # "Latency: seconds to ..." under the name latency says it twice.
    return line.removeprefix(f"{attribute}: ")


def registered(registry: Registry) -> list[dict[str, Any]]:
    """Name, where it is defined, and its description."""
    targets = {name: registry[name] for name in sorted(registry)}
    modules = Counter(target.partition(":")[0] for target in targets.values())
    return [
        {"name": name, "target": target, "description": describe(target, alone=modules[target.partition(":")[0]] == 1)}
        for name, target in targets.items()
    ]


def tasks() -> list[dict[str, Any]]:
    usable = dict(TASKS.usable())
    return [
        {
            **entry,
            "version": usable[entry["name"]].version,
            "default_ctx": usable[entry["name"]].default_ctx,
            "params": _defaults(usable[entry["name"]].Params),
        }
        for entry in registered(TASKS)
        if entry["name"] in usable
    ]


def _defaults(params: type[Any]) -> dict[str, Any]:
    instance = params()
    return {name: getattr(instance, name) for name in params.__dataclass_fields__}


def checkpoints() -> list[dict[str, Any]]:
    """The zoo, identified, the hub's cache and the catalogue, then sizes with random weights; imports torch."""
    random = {"name": f"{RANDOM}:NAME", "state": RANDOM, "sizes": {name: size.source for name, size in sizes().items()}}
    return [*_zoo(), *_published(), random]


def _zoo() -> list[dict[str, Any]]:
    from ttbench.checkpoints.checkpoint import resolve

    found = []
    for name in zoo_folders():
        item = resolve(name)
        found.append(
            {
                "name": name,
                "state": "zoo",
                "architecture": item.architecture,
                "num_params": item.num_params,
                "num_params_non_embedding": item.num_params_non_embedding,
                "train_ctx": item.train_ctx,
                "weight_bytes": item.weight_bytes,
                "weights_digest": item.weights_digest,
            }
        )
    return found


def _published() -> list[dict[str, Any]]:
    """Entries of the catalogue, and what else lies in the hub's cache.

    `state`: cached (whole, can be run offline), partial (in the cache, not whole), convert (in the cache, in another
    format), download, package, unpublished. `download_bytes` is what would be fetched; None: not known.
    """
    from ttbench.checkpoints import catalogue
    from ttbench.checkpoints.hub import cached_repos

    cached = cached_repos()
    found = []
    listed = set()
    for entry in catalogue.load().values():
        state = "unpublished" if not entry.published else "package" if entry.package else "download"
        here = cached.get(entry.hub_id or "", {})
        listed.add(entry.hub_id)
        # An entry that names a revision means that one.
        held = {commit: repo for commit, repo in here.items() if entry.revision in (None, commit)}
        if held:
            state = max((repo.state for repo in held.values()), key=("partial", "convert", "cached").index)
        data = {**entry.to_json(), "state": state}
        found.append({**data, "download_bytes": 0 if state in ("cached", "convert") else entry.download_bytes})
    for name, here in cached.items():
        if name not in listed:
            for commit, repo in here.items():
                found.append({"name": name, "state": repo.state, "hub_id": name, "revision": commit})
    return found


def experts() -> list[dict[str, Any]]:
    """Experts that ship with the package, from their cards alone, as `library/expert`."""
    found = []
    for library, folder in library_folders().items():
        for path in sorted(folder.glob(f"*/{CARD}")):
            card = read_card(path.parent)
            shown = {key: card[key] for key in ("method", "form", "objective", "domain", "base", "num_params")}
            words = f"{card['method']} over {card['base']}: {card['domain']}, by {card['objective']}"
            found.append(
                {
                    "name": f"{library}/{path.parent.name}",
                    "description": words,
                    **shown,
                    "path": str(path.parent),
                }
            )
    return found


def suites() -> list[dict[str, Any]]:
    """Suites that can be named; one that cannot be read says so and hides no other."""
    from ttbench.runs.suite import list_suites, load_suite

    found = []
    for name, path in sorted(list_suites().items()):
        try:
            suite = load_suite(path)
        except SuiteError as error:
            found.append({"name": name, "title": f"cannot be read: {error}", "tasks": [], "path": str(path)})
            continue
        names = dict.fromkeys(item.task for item in suite.tasks)
        found.append({"name": name, "title": suite.title, "tasks": list(names), "path": str(path)})
    return found


def papers() -> list[dict[str, Any]]:
    """Papers whose figures can be drawn; one that cannot be read says so and hides no other."""
    from ttbench.report.papers.preset import list_presets, read_preset

    found = []
    for name, path in sorted(list_presets().items()):
        try:
            preset = read_preset(path)
        except UsageError as error:
            found.append({"name": name, "title": f"cannot be read: {error}", "figures": [], "path": str(path)})
            continue
        entry = {"title": preset.title, "source": preset.source, "figures": [each.name for each in preset.figures]}
        found.append({"name": name, **entry, "path": str(path)})
    return found


def runs(root: Path) -> list[dict[str, Any]]:
    """Run folders below `root`, newest first, with how many cells have which status."""
    from ttbench.store.store import Store, run_folders

    found = []
    for folder in run_folders(root):
        store = Store(folder)
        try:
            survey = store.survey()
        except StoreError as error:
            found.append({"name": folder.name, **DAMAGED, "reason": str(error)})
            continue
        cells = {record.cell.cell_id: record.status for record in survey.records}
        statuses = Counter([*cells.values(), *("damaged" for _ in survey.damaged)])
        entries = store.run["cells"]
        planned = len({entry["cell_id"] for entry in entries})
        found.append(
            {
                "name": folder.name,
                "command": store.run["command"],
                "started": store.run["started"],
                "checkpoints": list(dict.fromkeys(entry["checkpoint"] for entry in entries)),
                "contexts": sorted({entry["context_len"] for entry in entries}),
                "cells": planned,
                "statuses": dict(statuses),
                "missing": planned - sum(statuses.values()),
                "reason": None,
            }
        )
    return found


def everything(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All nouns; checkpoints by name only, so that nothing heavy is imported."""
    return {
        "tasks": registered(TASKS),
        "architectures": registered(ARCHITECTURES),
        "corpora": registered(CORPORA),
        "checkpoints": [{"name": name} for name in zoo_folders()],
        "experts": experts(),
        "suites": suites(),
        "papers": papers(),
        "runs": runs(root),
    }


def of(noun: str, root: Path) -> list[dict[str, Any]]:
    """The entries of one noun. Raises UnknownNameError."""
    makers = {
        "tasks": tasks,
        "architectures": lambda: registered(ARCHITECTURES),
        "corpora": lambda: registered(CORPORA),
        "checkpoints": checkpoints,
        "experts": experts,
        "suites": suites,
        "papers": papers,
        "runs": lambda: runs(root),
    }
    if noun not in makers:
        raise UnknownNameError("noun", noun, known=NOUNS)
    return makers[noun]()


# Runs

LAST = "last"  # the newest run
FIRST_COMMAND = f"ttbench run {next(iter(TASKS))} --ctx 1k,4k"


def find_run(name: str, root: Path) -> Path:
    """A run's folder from its path, its id, an unambiguous part of its id, or `last`.

    Raises UnknownNameError or UsageError.
    """
    from ttbench.store.store import run_folders

    if name and (Path(name) / "run.json").is_file():
        return Path(name)
    folders = run_folders(root)
    if not folders:
        raise UsageError(f"no run named '{name}': there are no runs in {root}/ yet; start with: {FIRST_COMMAND}")
    if name == LAST:
        return folders[0]
    exact = [folder for folder in folders if folder.name == name]
    near = exact or [folder for folder in folders if name.strip() and name in folder.name]
    if not near:
        raise UnknownNameError("run", name, known=[LAST, *(folder.name for folder in folders)], where=str(root))
    if len(near) > 1:
        raise UsageError(
            f"'{name}' matches {len(near)} runs: {', '.join(folder.name for folder in near)}; type more of the id"
        )
    return near[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as `ttbench show` prints it."""

    folder: Path
    run: Mapping[str, Any]
    environment: Mapping[str, Any]
    cells: tuple[Mapping[str, Any], ...]  # planned cells with their status; `missing` when not done
    records: tuple[CellRecord, ...]  # those that could be read
    twice: tuple[str, ...] = ()  # ids of cells with further records, which do not stand


def view_run(folder: Path) -> RunView:
    """Read a run's folder. Raises StoreError."""
    from ttbench.store.folders import read_environment
    from ttbench.store.store import Store

    store = Store(folder)
    survey = store.survey()
    records = {(record.cell.cell_id, record.cell.checkpoint.name): record for record in survey.records}
    cells = []
    for planned in store.run["cells"]:
        record = records.get((planned["cell_id"], planned["checkpoint"]))
        damage = survey.damaged.get(planned["cell_id"])
        cells.append(
            {
                **planned,
                "round": None if record is None else record.cell.round,
                "status": record.status if record is not None else "missing" if damage is None else "damaged",
                "reason": record.reason if record is not None else None if damage is None else str(damage),
                "code_digest": None if record is None else record.cell.code_digest,
                "samples": None if record is None else len(record.samples),
                "cell_s": None if record is None else record.cell_s,
                "load_average": None if record is None else record.load_average,
            }
        )
    return RunView(
        folder=folder,
        run=store.run,
        environment=read_environment(folder),
        cells=tuple(cells),
        records=survey.records,
        twice=tuple(survey.others),
    )


def find_cell(folder: Path, cell: str) -> str:
    """The id of a run's stored cell from its first letters. Raises UnknownNameError or UsageError."""
    from ttbench.store.store import Store

    return match_cell(cell, Store(folder).cell_ids(), where=folder.name)


def match_cell(cell: str, stored: Sequence[str], *, where: str) -> str:
    """The one of these ids that begins with `cell`. Raises UnknownNameError or UsageError."""
    near = [cell_id for cell_id in stored if cell_id.startswith(cell)]
    if not near:
        raise UnknownNameError("cell", cell, known=[cell_id[:12] for cell_id in stored], where=where)
    if len(near) > 1:
        raise UsageError(f"'{cell}' matches {len(near)} cells: {', '.join(near)}; type more of the id")
    return near[0]


def view_cell(folder: Path, cell: str) -> dict[str, Any]:
    """One stored cell with its samples and the place of its evidence, by the first letters of its id.

    Raises UnknownNameError, UsageError or StoreError.
    """
    from ttbench.store.store import Store

    cell_id = find_cell(folder, cell)
    record = Store(folder).read(cell_id)
    evidence = Store(folder).evidence_path(record)
    return {
        "cell_id": cell_id,
        "cell": record.cell.to_json(),
        "status": record.status,
        "reason": record.reason,
        "started": record.started,
        "run_id": record.run_id,
        "ttbench": record.ttbench,
        "cell_s": record.cell_s,
        "cell_cpu_s": record.cell_cpu_s,
        "load_average": record.load_average,
        "engine": record.engine,
        "kernel_path": dict(record.kernel_path),
        "choices": dict(record.choices),
        "samples": [{**sample.keys, **sample.values} for sample in record.samples],
        "evidence": str(evidence) if evidence.is_file() else None,
    }


def names(noun: str, root: Path = RUNS) -> list[str]:
    """Names alone, for shell completion: cheap, and empty rather than an error."""
    try:
        if noun == "targets":
            return sorted([*TASKS, *names("suites")])
        if noun == "suites":
            from ttbench.runs.suite import list_suites

            return sorted(list_suites())
        if noun == "papers":
            from ttbench.report.papers.preset import list_presets

            return sorted(list_presets())
        if noun == "runs":
            from ttbench.store.store import run_folders

            return [LAST, *(folder.name for folder in run_folders(root))]
        if noun == "corpora":
            return [*sorted(CORPORA), "text:", "hf:"]
        if noun == "checkpoints":
            from ttbench.checkpoints import catalogue

            return [*zoo_folders(), *catalogue.names(), *(f"{RANDOM}:{name}" for name in sizes())]
        registries = {"tasks": TASKS, "executors": EXECUTORS, "exporters": EXPORTERS}
        return list(NOUNS) if noun == "nouns" else sorted(registries[noun])
    except TtbenchError:
        return []
