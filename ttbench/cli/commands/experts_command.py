"""`ttbench train-experts`: makes the experts of a recipe, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttbench.adapt.expert_training.lessons import course_path, read_course
from ttbench.adapt.experts import save_expert
from ttbench.cli import console
from ttbench.errors import CheckpointError, UnknownNameError
from ttbench.machine import measure

if TYPE_CHECKING:
    from ttbench.adapt.expert_training.trainer import Step

REPORT_EVERY_S = 10.0


def train_experts(
    names: Sequence[str], *, recipe: Path | None, checkpoint: str | None, out: Path, threads: int | None
) -> None:
    """Train experts of a recipe over its base, or over another checkpoint, and write each to a folder below `out`."""
    # Late, as in the other commands: torch.
    from ttbench.adapt.decompositions import DecompositionCache
    from ttbench.adapt.expert_training.trainer import train_expert
    from ttbench.checkpoints.checkpoint import resolve
    from ttbench.checkpoints.loading import load_tokenizer
    from ttbench.checkpoints.special_tokens import no_tokenizer
    from ttbench.engines.kinds import load_engine

    path = recipe or course_path()
    course = read_course(path)
    for name in names:
        if name not in course.lessons:
            raise UnknownNameError("expert", name, known=course.lessons, where=str(path))
    wanted = list(names or course.lessons)
    # Before the minutes, not after them.
    taken = [name for name in wanted if (out / name).exists()]
    if taken:
        raise CheckpointError(f"{out / taken[0]} exists already; remove it or choose another folder with --out")
    base = resolve(checkpoint or course.base)
    tokenizer = load_tokenizer(base)
    if tokenizer is None:
        raise CheckpointError(
            f"{no_tokenizer(Path(base.path), base.name)}; without one nothing can be read that experts are trained on"
        )
    measure.pin_threads(threads or measure.default_threads())
    engine = load_engine(base, device="cpu", dtype="float32", attention=None)
    cache = DecompositionCache()
    for name in wanted:
        lesson = course.lessons[name]
        console.say(f"training {name} over {base.name}: {lesson.steps} steps, recipe {path}", style="bold")
        teller = _Teller(lesson.objective)
        expert = train_expert(engine, base, tokenizer, lesson, cache=cache, report=teller)
        save_expert(expert, out / name)
        told = expert.training
        console.say(
            f"written to {out / name}: {console.count(expert.num_params)} parameters, valid nats a token "
            f"{told['valid_nats_before']} before and {told['valid_nats_after']} after"
        )


class _Teller:
    """One plain line of progress every ten seconds."""

    def __init__(self, objective: str) -> None:
        self._what = "nats a token" if objective == "next-token" else "of the answers right"
        self._told = 0.0

    def __call__(self, step: Step) -> None:
        if step.seconds - self._told >= REPORT_EVERY_S or step.step == step.num_steps:
            self._told = step.seconds
            left = step.seconds / step.step * (step.num_steps - step.step)
            console.say(
                f"{step.name}  step {step.step}/{step.num_steps}  {step.shown:.3f} {self._what}  "
                f"{left / 60:.1f} min left"
            )
