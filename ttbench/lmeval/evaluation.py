"""One of lm-eval's tasks, run by lm-eval on an `EngineLM`: its samples, scores, standard errors and version.

Prompts, choices, metrics and errors are lm-eval's own code. Its seeds are its defaults (0 for random, 1234 for numpy
and few-shot examples), so that a number here is the number of its command line. The data come from where the task
says, mostly the Hugging Face hub or its cache.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ttbench.errors import CorpusError, MissingDataError, UsageError
from ttbench.types import canonical_json, digest

if TYPE_CHECKING:
    from lm_eval.api.task import Task as LMEvalTask

    from ttbench.lmeval.model import EngineLM

# Tasks that ship with ttbench, in lm-eval's format.
OWN_TASKS = Path(__file__).parent / "tasks"
# The set that papers on recurrent models report, and lm-eval's folder of each: reading all of lm-eval's 14,683 entries
# to find one of them takes seconds.
FOLDERS: Mapping[str, str] = {
    "wikitext": "wikitext",
    "lambada_openai": "lambada",
    "piqa": "piqa",
    "hellaswag": "hellaswag",
    "winogrande": "winogrande",
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "social_iqa": "siqa",
    "boolq": "super_glue/boolq",
}
RANDOM_SEED, OTHER_SEED = 0, 1234  # lm-eval's defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """One number that lm-eval reports."""

    metric: str  # acc
    filter: str  # none, strict-match, ...
    value: float
    stderr: float | None  # lm-eval's standard error; None where it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutcome:
    """What lm-eval found."""

    task: str
    version: str  # of the task
    release: str  # of lm-eval
    dataset: str  # where the data came from
    num_fewshot: int
    num_questions: int  # that the task has in all
    data_digest: str  # of the questions that were asked
    samples: tuple[Mapping[str, Any], ...]  # lm-eval's own records, one per question and filter
    aggregates: tuple[Aggregate, ...]


def load_task(name: str) -> LMEvalTask:
    """A task of lm-eval, or of ttbench, with its data. Seeds Python's and numpy's global generators, as lm-eval does.

    Raises:
        UsageError: there is no such task, or it stands for several.
        MissingDataError: its data are not here and cannot be fetched.
    """
    # Late, as in all of ttbench.lmeval: a second or two.
    import lm_eval.tasks

    random.seed(RANDOM_SEED)
    np.random.seed(OTHER_SEED)
    folder = FOLDERS.get(name)
    if name in own_tasks():
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=OWN_TASKS)
    elif folder is not None:
        place = Path(lm_eval.tasks.__file__).parent / folder
        manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=place)
    else:
        manager = lm_eval.tasks.TaskManager()
    if name not in manager.all_subtasks:
        raise UsageError(_no_task(name, manager))
    with _data_of(name):
        return manager.load([name])["tasks"][name]


def own_tasks() -> list[str]:
    """Tasks that ship with ttbench."""
    return sorted(path.stem for path in OWN_TASKS.glob("*.yaml"))


def _no_task(name: str, manager: Any) -> str:
    release = version("lm-eval")
    if name in manager.all_tasks:
        return f"'{name}' stands for several tasks of lm-eval {release}; name one of them: lm-eval ls tasks shows them"
    known = [*manager.all_subtasks, *FOLDERS, *own_tasks()]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"lm-eval {release} has no task '{name}'{hint} ttbench lm-eval -- ls tasks lists all"


@contextlib.contextmanager
def _data_of(name: str) -> Iterator[None]:
    """Turn whatever says that data are missing into one error that says what to do."""
    try:
        yield
    except CorpusError:
        raise
    except (OSError, ValueError) as error:
        raise MissingDataError(missing_data(error, task=name)) from error


def missing_data(error: BaseException, *, task: str) -> str:
    """What to do when a task's data are not on this machine."""
    said = next(iter(str(error).splitlines()), type(error).__name__)
    return (
        f"the data of lm-eval's task '{task}' are not on this machine and could not be fetched ({said}). Run it once "
        "where the hub answers, and copy the cache (HF_HOME) here; social_iqa_evals needs no hub"
    )


def evaluate(task: LMEvalTask, model: EngineLM, *, num_fewshot: int | None, limit: int | None) -> TaskOutcome:
    """Run a task that `load_task` gave; its settings are changed in place.

    Args:
        num_fewshot: worked examples before each question; None: the task's own number.
        limit: the first so many questions; None: all.

    Raises what the model raises.
    """
    import lm_eval.evaluator

    name = str(task.task_name)
    if num_fewshot is not None or task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    task.set_fewshot_seed(seed=OTHER_SEED)
    # One process with the seeds of its pool: the same draws, and nothing that a dying worker leaves behind.
    with _environment("DISABLE_MULTIPROC", "1"):
        found: Any = lm_eval.evaluator.evaluate(lm=model, task_dict={"tasks": {name: task}}, limit=limit)
    samples = tuple(found["samples"][name])
    asked = sorted({(sample["doc_id"], sample["doc_hash"]) for sample in samples})
    source = [task.get_config(key) for key in ("dataset_path", "dataset_name")]
    return TaskOutcome(
        task=name,
        version=str(found["versions"][name]),
        release=version("lm-eval"),
        dataset=" ".join(str(part) for part in source if part) or name,
        num_fewshot=int(found["n-shot"][name]),
        num_questions=int(found["n-samples"][name]["original"]),
        data_digest=digest(canonical_json(asked)),
        samples=samples,
        aggregates=tuple(_aggregates(found["results"][name])),
    )


def _aggregates(results: Mapping[str, Any]) -> Iterator[Aggregate]:
    """lm-eval writes "acc,none" beside "acc_stderr,none", and "N/A" where it has no error."""
    for key, value in results.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        error = results.get(f"{metric}_stderr,{filtered}")
        stderr = float(error) if isinstance(error, int | float) and error == error else None
        yield Aggregate(metric=metric, filter=filtered, value=float(value), stderr=stderr)


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
