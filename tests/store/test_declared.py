"""What a plug-in's task and architecture must declare: each mistake is one sentence before anything is measured."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any, ClassVar

import pytest

from ttbench.declare import parameter, text, whole
from ttbench.errors import PlugInError
from ttbench.models.stack import Mixer
from ttbench.registry import ARCHITECTURES, TASKS
from ttbench.store.declared import require_architecture, require_task
from ttbench.tasks.base import Task
from ttbench.types import Figure, Metric


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    limit: int = parameter(8, "sequences", "sequences")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BareParams:
    limit: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ListParams:
    depths: list[float] = dataclasses.field(default_factory=list)


class NoDataclass:
    limit = 8


SHARE = Metric(
    name="echo",
    label="recognised",
    unit="share",
    better="higher",
    statistic="proportion",
    numerator="hits",
    denominator="num_tokens",
    cluster="sequence",
)
BY = dataclasses.replace(SHARE, name="echo_by", axes=("context_len", "repetition"))


class Echo(Task):
    name, version, Params = "echo", 1, Params
    isolation, needs_corpus, default_ctx = "checkpoint", False, "48"
    columns: ClassVar[Any] = {
        "sequence": text("the sequence"),
        "repetition": whole("which repetition"),
        "num_tokens": whole("scored", "tokens"),
        "hits": whole("hit", "tokens"),
    }
    metrics = (SHARE, BY)
    figures = FIGURES = (
        Figure(name="echo", title="Echo", metric="echo"),
        Figure(name="by", title="Echo", metric="echo_by", kind="heatmap", y_axis="repetition"),
    )

    def measure(self, bench: Any) -> Any:
        raise NotImplementedError


def changed(**values: Any) -> type[Task]:
    return type("Changed", (Echo,), values)


def metrics(**values: Any) -> type[Task]:
    return changed(metrics=(dataclasses.replace(SHARE, **values), BY))


def test_a_task_that_is_well_declared_is_taken() -> None:
    require_task(Echo)
    require_task(changed(columns=None, figures=None))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Mixer, "no class made from ttbench.tasks.base.Task"),
        ("echo", "no class made from ttbench.tasks.base.Task, but 'echo'"),
        (type("Half", (Task,), {}), "does not define measure"),
        (type("Bare", (Task,), {"measure": Echo.measure}), "does not say its name"),
        (changed(metrics=SHARE), "its metrics is Metric(name='echo'"),
        (changed(metrics=("echo",)), "its metric number 1 is no Metric, but 'echo'"),
        (changed(isolation="process"), "its isolation 'process', which is none of checkpoint, cell"),
        (changed(Params=NoDataclass), "its Params is no dataclass"),
        (changed(Params=BareParams), "the parameter 'limit' has no default"),
        (changed(columns=["hits"]), "its columns is ['hits'], which is no mapping"),
        (changed(figures=Echo.FIGURES[0]), "which is no tuple"),
        (changed(Params=ListParams), "the parameter 'depths' is list[float], which no column holds"),
        (changed(metrics=(SHARE, SHARE)), "2 metrics are called 'echo'"),
        (changed(figures=(Echo.FIGURES[0],) * 2), "2 figures are called 'echo'"),
        (metrics(numerator="hitz"), "metric 'echo' has numerator 'hitz', which is none of its columns: sequence, rep"),
        (metrics(denominator="tokens"), "metric 'echo' has denominator 'tokens'"),
        (metrics(cluster="sequense"), "metric 'echo' has cluster 'sequense'"),
        (metrics(axes=("context_len", "depth")), "metric 'echo' has axes 'depth'"),
        (metrics(where={"phase": "x"}), "metric 'echo' has where 'phase'"),
        (metrics(valid="fair"), "metric 'echo' has valid 'fair'"),
        (metrics(statistic="mean"), "metric 'echo' has statistic 'mean', which is none of ratio, exp_ratio, prop"),
        (metrics(better="up"), "metric 'echo' has better 'up', which is none of lower, higher, neither"),
        (metrics(restates="bits"), "metric 'echo' restates 'bits', which is none of echo, echo_by"),
        (
            changed(figures=(dataclasses.replace(Echo.FIGURES[0], metric="bits"),)),
            "figure 'echo' shows 'bits', which is none of the metrics: echo, echo_by",
        ),
        (
            changed(figures=(dataclasses.replace(Echo.FIGURES[1], y_axis="repetiton"),)),
            "figure 'by' has axis 'repetiton', which is none of the axes of 'echo_by': context_len, repetition",
        ),
        (
            changed(figures=(dataclasses.replace(Echo.FIGURES[1], kind="map"),)),
            "figure 'by' has kind 'map', which is none of curve, heatmap, roofline",
        ),
    ],
)
def test_each_mistake_is_one_sentence(task: Any, said: str) -> None:
    with pytest.raises(PlugInError) as caught:
        require_task(task)
    assert said in str(caught.value)


@pytest.mark.parametrize("column", ["context_len", "param_limit", "choice_scan", "sample"])
def test_columns_that_every_row_has_and_those_of_parameters_and_models_are_known(column: str) -> None:
    require_task(metrics(cluster=column))


@pytest.mark.parametrize("name", list(TASKS))
def test_the_built_in_tasks_are_declared_so_too(name: str) -> None:
    require_task(TASKS.load(name))


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_built_in_architectures_are_such(name: str) -> None:
    require_architecture(ARCHITECTURES.load(name))


def test_what_is_no_architecture_is_refused() -> None:
    for wrong in (Mixer, None, "fading"):
        with pytest.raises(PlugInError, match=r"no class made from ttbench\.models\.base\.SequenceModel"):
            require_architecture(wrong)
    good: Any = ARCHITECTURES.load("s4d")
    for dialects in ((), None, "s4d", ("s4d",)):
        with pytest.raises(PlugInError, match="its DIALECTS must be a tuple of one Dialect at least"):
            require_architecture(type("Wrong", (good,), {"DIALECTS": dialects}))


def test_a_built_in_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_required", "ttbench.nowhere:at_all")
    TASKS.load("needle")


def test_a_registry_names_the_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(__name__)
    monkeypatch.setattr(module, "Wrong", metrics(numerator="hitz"), raising=False)
    monkeypatch.setattr(type(TASKS), "_all", lambda self: {"echo": f"{__name__}:Wrong"})
    with pytest.raises(PlugInError) as caught:
        TASKS.load("echo")
    assert str(caught.value).startswith(f"the task 'echo' of an installed plug-in ({__name__}:Wrong) cannot be used: m")
    assert str(caught.value).endswith("; mend or uninstall it")
    assert list(TASKS.usable()) == []
    # what fails when it is looked at is told too
    monkeypatch.setattr(module, "Wrong", changed(metrics=(dataclasses.replace(SHARE, where=None), BY)))
    with pytest.raises(PlugInError, match=r"cannot be used: TypeError: .*; mend or uninstall it"):
        TASKS.load("echo")
    assert list(TASKS.usable()) == []
    # what was mended is asked again
    monkeypatch.setattr(module, "Wrong", Echo)
    assert TASKS.load("echo") is Echo
    monkeypatch.setattr(module, "Wrong", metrics(cluster="sequense"))
    with pytest.raises(PlugInError, match="sequense"):
        TASKS.load("echo")
