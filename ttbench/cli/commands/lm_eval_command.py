"""`ttbench lm-eval -- ARGS`: lm-eval's own command line, with the checkpoints of ttbench among its models."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ttbench.errors import CorpusError, UsageError
from ttbench.lmeval.evaluation import OWN_TASKS, missing_data

MODEL = "ttbench"
TARGET = "ttbench.lmeval.model:EngineLM"
COMMANDS = ("run", "ls", "validate")
# lm-eval's options that say which model, where more tasks are, and which answers to take from a file.
MODEL_OPTIONS, CONFIG_OPTIONS, PATH_OPTIONS = ("--model", "-M"), ("--config", "-C"), ("--include_path",)
CACHE_OPTIONS, DEVICE_OPTIONS = ("--use_cache", "-c"), ("--device",)


def lm_eval(arguments: Sequence[str]) -> int:
    """Run lm-eval with these arguments; return its exit code.

    `--model ttbench` is registered, and taken where no model is named; ttbench's own tasks are found where no other
    `--include_path` is given.

    Raises:
        UsageError: nothing to do, or lm-eval's cache of answers is asked for.
        CorpusError: a task's data are not on this machine.
    """
    if not arguments:
        raise UsageError(
            "nothing to run; write for instance: ttbench lm-eval -- run --model_args checkpoint=ttt-linear "
            "--tasks social_iqa_evals --limit 20"
        )
    words = complete(arguments)
    # Late: seconds, and ttbench's other commands need none of it.
    import lm_eval.models  # noqa: F401  registers lm-eval's own models, which it does only while none is there
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.api.registry import model_registry
    from lm_eval.utils import setup_logging

    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)
    setup_logging()
    logging.getLogger("ttbench").setLevel(logging.INFO)
    with _command_line(words):
        parser = HarnessCLI()
        try:
            parser.execute(parser.parse_args())
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except ConnectionError as error:
            raise CorpusError(missing_data(error, task=_option(words, ("--tasks", "-t")) or "?")) from error
        except ValueError as error:
            # how lm-eval refuses names and combinations
            raise UsageError(f"lm-eval refuses this: {error}") from error
    return 0


def complete(arguments: Sequence[str]) -> list[str]:
    """The arguments with `run` in front where no command stands, and with ttbench's model and tasks.

    Raises UsageError on lm-eval's cache of answers.
    """
    words = list(arguments)
    if words[0] not in COMMANDS and words[0] not in ("-h", "--help"):
        words.insert(0, "run")
    if words[0] == "run" and _given(words, CACHE_OPTIONS):
        raise UsageError(
            "--use_cache looks answers up by request alone, so that a second checkpoint is given those of the first; "
            "leave it out. `ttbench run commonsense` keeps finished tasks by the digest of the weights"
        )
    helps = {"-h", "--help"} & set(words) or len(words) == 1
    if words[0] == "run" and not helps and not _given(words, CONFIG_OPTIONS):
        if not _given(words, MODEL_OPTIONS):
            words += ["--model", MODEL]
            # lm-eval would say cuda:0, and its own models then take what there is
            words += [] if _given(words, DEVICE_OPTIONS) else ["--device", "cpu"]
        if not _given(words, PATH_OPTIONS):
            words += ["--include_path", str(OWN_TASKS)]
    if words[0] in ("ls", "validate") and not helps and not _given(words, PATH_OPTIONS):
        words += ["--include_path", str(OWN_TASKS)]
    return words


def _given(words: Sequence[str], names: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in names for word in words)


def _option(words: Sequence[str], names: Sequence[str]) -> str | None:
    """The first value of an option; None when it is not there."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(words[index + 1 : index + 2]), None)
    return None


@contextmanager
def _command_line(words: Sequence[str]) -> Iterator[None]:
    """lm-eval reads sys.argv and nothing else."""
    before = sys.argv
    sys.argv = ["lm-eval", *words]
    try:
        yield
    finally:
        sys.argv = before
