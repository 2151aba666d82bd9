"""`ttbench generate`, `check` and `train`: what is done with one checkpoint at a time."""

from __future__ import annotations

import codecs
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from rich.text import Text

from ttbench.checkpoints.tokenizer import Tokenizer
from ttbench.cli import console
from ttbench.cli.console import Column
from ttbench.engines.engine import Engine
from ttbench.errors import CheckpointError, GateError, UsageError
from ttbench.machine import measure
from ttbench.runs.suite import parse_ctx

LEAST_LOOKED = 128  # tokens; below, the probes that look far have nothing to look at
MARKS = {True: Text("ok", style="green"), False: Text("FAILED", style="bold red"), None: Text("n/a", style="dim")}


def generate(
    checkpoint: str,
    prompt: str,
    *,
    num_tokens: int,
    device: str,
    dtype: str,
    engine: str,
    attention: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Write the greedy continuation of `prompt` to stdout as it comes."""
    from ttbench.checkpoints.checkpoint import resolve
    from ttbench.checkpoints.loading import load_tokenizer
    from ttbench.checkpoints.special_tokens import no_tokenizer
    from ttbench.engines.kinds import load_engine

    data = sys.stdin.buffer.read() if prompt == "-" else os.fsencode(prompt)
    found = resolve(checkpoint, dtype=dtype, engine=engine)
    tokenizer = load_tokenizer(found)
    if tokenizer is None:
        raise CheckpointError(no_tokenizer(Path(found.path), found.name))
    if tokenizer.remark:
        console.say(tokenizer.remark, style="yellow")
    measure.pin_threads(threads or measure.default_threads())
    model = load_engine(found, device=device, dtype=dtype, attention=attention, engine=engine)
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = np.concatenate([np.asarray(start, dtype=np.int64), tokenizer.encode(data)])
    if len(ids) == 0:
        raise UsageError("the prompt is empty, and this tokenizer has no token to begin with; give some text")
    began = time.monotonic()
    pieces = []
    for piece in stream(model, tokenizer, ids, num_tokens=num_tokens):
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()
    took = time.monotonic() - began
    # one piece for each token, and one for what is left of a character
    written = len(pieces) - 1
    if as_json:
        document = {
            "checkpoint": found.name,
            "weights_digest": found.weights_digest,
            "prompt": data.decode(errors="replace"),
        }
        console.print_json({**document, "text": "".join(pieces), "num_tokens": written, "seconds": took})
        return
    sys.stdout.write("\n")
    ended = "" if written == num_tokens else ", the last before an end-of-text token"
    words = f"{len(ids)} tokens read, {written} written{ended} in {console.span(took)}"
    console.say(f"{words}; state {console.size(model.state_bytes)}", style="dim")


def stream(engine: Engine, tokenizer: Tokenizer, ids: Int[np.ndarray, "T"], *, num_tokens: int) -> Iterator[str]:
    """The greedy continuation of `ids`, as text, whole characters at a time, up to a token that ends a text.

    One piece for each token, and what is left of a character at the end.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    engine.reset(1, len(ids) + num_tokens)
    logits = engine.prefill(ids[None])
    for _ in range(num_tokens):
        token = int(logits[0].argmax())
        if token in tokenizer.end_ids:
            break
        yield decoder.decode(tokenizer.decode(np.array([token])))
        logits = engine.decode(np.array([token]))
    yield decoder.decode(b"", final=True)


def check(checkpoint: str, *, device: str, dtype: str, engine: str, ctx: str | None, as_json: bool) -> None:
    """Run the probes on a checkpoint, or on `architecture:NAME`, and print what they found.

    Raises GateError when one of them failed.
    """
    # Late, as in the other commands: torch.
    from ttbench.engines.check import check_architecture
    from ttbench.engines.kinds import check_engine as probe

    kind, _, name = checkpoint.partition(":")
    looked = None
    if ctx is not None:
        looked, *more = parse_ctx(ctx)
        if more or looked < LEAST_LOOKED:
            raise UsageError(f"--ctx of check is one length of at least {LEAST_LOOKED} tokens to look at; got '{ctx}'")
    if kind == "architecture":
        results = check_architecture(name, device=device, ctx=looked)
    else:
        results = probe(checkpoint, device=device, dtype=dtype, engine=engine, ctx=looked)
    if as_json:
        console.print_json([result.to_json() for result in results])
    else:
        columns = [Column(""), Column("probe"), Column("measured", numeric=True), Column("at most", numeric=True)]
        rows = [
            (
                MARKS[result.passed],
                result.name,
                None if result.measured is None else f"{result.measured:.3g}",
                None if result.limit is None else f"{result.limit:.3g} {result.unit}",
                result.explanation,
            )
            for result in results
        ]
        console.print_table(rows, [*columns, Column("what", wrap=True)])
    failed = [result.name for result in results if result.passed is False]
    if failed:
        raise GateError(
            f"'{checkpoint}' fails {len(failed)} of {len(results)} probes: {', '.join(failed)}; "
            "its scores are not those of its architecture"
        )
    console.say(f"'{checkpoint}' passes all {sum(result.passed is True for result in results)} probes that apply")


def train(names: Sequence[str], *, recipe: Path | None, share: float, out: Path, threads: int | None) -> None:
    """Train models of a recipe one after the other, and write each with its card to a folder below `out`.

    `share` is that of the recipe's tokens.
    """
    from ttbench.training import train as trainer
    from ttbench.training.card import ship
    from ttbench.training.recipe import RECIPE, find_trainees

    if not 0 < share <= 1:
        raise UsageError(f"--share {share:g} is not a share of the tokens; give a number above 0 and at most 1")
    settings, trainees = find_trainees(names, recipe or RECIPE)
    settings = settings.scaled(share)
    wanted = list(trainees)
    # Before the hours, not after them.
    taken = [name for name in wanted if (out / name).exists()]
    if taken:
        raise CheckpointError(f"{out / taken[0]} exists already; remove it or choose another folder with --out")
    measure.pin_threads(threads or measure.default_threads())
    for name in wanted:
        words = f"{settings.num_steps} steps, {console.count(settings.num_tokens)} tokens"
        console.say(f"training {name}: {words}, recipe {recipe or RECIPE}", style="bold")
        try:
            trained = trainer.train(
                trainees[name],
                settings,
                report=lambda at: console.say(trainer.describe(at)),
                resumed=lambda step: console.say(f"going on from step {step} of a run that was cut short"),
            )
        except KeyboardInterrupt:
            console.say("interrupted; the same command goes on from the last minute", style="yellow")
            raise
        command = ["ttbench", "train", name, *(["--recipe", str(recipe)] if recipe else [])]
        command += ["--share", f"{share:g}"] if share < 1 else []
        folder = ship(trained, settings, trainees[name], out / name, command=command, brief=share < 1)
        trainer.forget(trainees[name], settings)
        console.say(f"written to {folder}; look at its card, and run: ttbench check {folder}")


def grid(names: Sequence[str], rates: str, *, recipe: Path | None, threads: int | None, as_json: bool) -> None:
    """Train models of a recipe for a short while at each learning rate, and print what the trials score on valid."""
    from ttbench.training import grid as trials
    from ttbench.training import train as trainer
    from ttbench.training.recipe import RECIPE, find_trainees

    tried = _rates(rates)
    settings, trainees = find_trainees(names, recipe or RECIPE)
    measure.pin_threads(threads or measure.default_threads())
    done: list[trials.Trial] = []
    for trainee in trainees.values():
        for trial in trials.run_trials(trainee, settings, tried, report=lambda at: console.say(trainer.describe(at))):
            done.append(trial)
            console.say(f"{trial.model} at {trial.lr:g}: " + "  ".join(f"{k} {v:.3f}" for k, v in trial.scores.items()))
    if as_json:
        console.print_json([trial.to_json() for trial in done])
        return
    names_of_scores = list(done[0].scores)
    columns = [Column(""), *(Column(name, numeric=True) for name in ("lr", *names_of_scores, "CPU s"))]
    console.print_table(
        [
            (t.model, f"{t.lr:g}", *(f"{t.scores[name]:.3f}" for name in names_of_scores), f"{t.cpu_s:.0f}")
            for t in done
        ],
        columns,
        title=f"{console.count(done[0].num_tokens)} tokens, scored on the valid split",
        caption="code and prose: bits per byte; recall and needle: share of asked bytes that are right",
    )


def replay(checkpoint: str, names: Sequence[str], *, num_steps: int | None, threads: int | None, as_json: bool) -> None:
    """Run the first steps of a checkpoint's training again, and compare them with what its folder says.

    Raises GateError when they differ by more than another machine's rounding would make them, and CheckpointError when
    the folder's record is of another training than its config.
    """
    from ttbench.checkpoints.checkpoint import resolve
    from ttbench.training import replay as replays

    if names:
        raise UsageError(f"--replay {checkpoint} trains nothing; leave out {', '.join(names)}")
    folder = Path(resolve(checkpoint).path)
    record = replays.read_record(folder)
    replays.require_own(record, folder)
    wanted = threads or record.threads
    measure.pin_threads(wanted)
    total = min(replays.FIRST_STEPS, len(record.losses)) if num_steps is None else num_steps
    console.say(f"running {total} steps of '{checkpoint}' again, threads: {wanted}", style="bold")

    def tell(step: int, nats: float) -> None:
        if step % replays.DIGEST_EVERY == 0 and step <= len(record.losses):
            console.say(f"step {step}  loss {nats:.4f} nats, recorded {record.losses[step - 1]:.4f}")

    found = replays.replay(record, num_steps=total, report=tell)
    if as_json:
        console.print_json(found.to_json())
    if found.other_rows is not None:
        raise GateError(
            f"'{checkpoint}' was not trained on the rows that its recipe draws here: they differ by step "
            f"{found.other_rows}; another version of ttbench, of a corpus, or another recipe made it"
        )
    same = f"made with torch {record.torch} on {record.processor}, {record.threads} threads"
    if not found.holds:
        raise GateError(
            f"'{checkpoint}' does not learn here as its folder says: means over {replays.DIGEST_EVERY} steps differ by "
            f"up to {found.early:.2%} in the first {replays.EARLY_STEPS} steps, where other rounding makes "
            f"{replays.EARLY_TOLERANCE:.2%} at most, and by {found.late:.1%} after them, where it makes "
            f"{replays.LATE_TOLERANCE:.1%} at most ({same})"
        )
    differ = f"means over {replays.DIGEST_EVERY} losses differ by up to {max(found.early, found.late):.2%} ({same})"
    how = "every loss is the same to the bit" if found.identical else differ
    console.say(f"'{checkpoint}': {found.num_steps} steps read the same rows, and {how}", style="green")


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UsageError(f"--grid '{text}' is not a list of learning rates; write them as in --grid 2e-3,4e-3,8e-3")
    return rates
