"""Triton's interpreter prepares its language once for each launch."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

from ttbench.kernels.dispatch.twin import interpreted


class _Nothing:
    def restore(self) -> None:
        """Leave it to the launch, which prepared the language and puts it back."""


def prepare_once_per_launch() -> None:
    """Let device functions use the language that their launch has prepared.

    Triton 3.7 searches its whole language for what to exchange at each call of a device function too, and finds it
    exchanged: a third of the time of the kernels of neural memory.
    """
    from triton.runtime import interpreter

    prepare, modules_of = interpreter._patch_lang, dict[Any, set[str]]()
    prepared = set[str]()  # the modules of the language that the launch in progress has prepared

    def languages(fn: Any) -> set[str]:
        if fn not in modules_of:
            modules = filter(inspect.ismodule, fn.__globals__.values())
            modules_of[fn] = {each.__name__ for each in modules if each.__name__.startswith("triton.language")}
        return modules_of[fn]

    class Launch(interpreter.GridExecutor):
        def __call__(self, *args: Any, **kwargs: Any) -> None:
            try:
                super().__call__(*args, **kwargs)
            finally:
                prepared.clear()

    def prepare_once(fn: Any) -> Any:
        names = languages(fn)
        if names <= prepared:
            return _Nothing()
        prepared.update(names)
        return prepare(fn)

    interpreter.GridExecutor, interpreter._patch_lang = Launch, prepare_once


# Where Triton is missing, the tests of this folder are skipped.
with contextlib.suppress(ImportError):
    if interpreted():
        prepare_once_per_launch()
