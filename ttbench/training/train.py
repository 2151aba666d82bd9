"""The zoo's trainer: one recipe for every architecture, from bytes to a shipped folder with its card.

AdamW, linear warm-up and cosine decay over all phases together, or anew where a phase names a peak; rows from
`ttbench.corpora.training_rows.mixture`, the same bytes in the same order for every model of a recipe. Progress is saved
to a cache folder outside the tree; the same command again goes on from there, and ends with the same weights as an
undisturbed run on the same machine and thread count. A run is locked against a second one.
"""

from __future__ import annotations

import dataclasses
import fcntl
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.code import code_digest, modules_digest
from ttbench.corpora.training_rows.mixture import Mixture, Rows
from ttbench.errors import CacheError, SuiteError, UnknownNameError, UnsupportedError, UsageError
from ttbench.machine import measure
from ttbench.machine.disk import sync
from ttbench.machine.user_cache import cache_folder
from ttbench.models.base import SequenceModel
from ttbench.registry import ARCHITECTURES
from ttbench.training import recipe as recipes
from ttbench.training.recipe import Recipe, Trainee
from ttbench.types import canonical_json, digest

SAVE_EVERY_S = 60.0
# What is written down of a training's beginning, for whoever runs it again: each loss, and the digest of the rows.
FIRST_STEPS = 200
DIGEST_EVERY = 50  # steps


_SAVED = ("step", "data_digest", "cpu_s", "wall_s", "curve")
_SAVED_LATER = ("first_losses", "first_digests", "begun")  # trainings begun before these were written lack them


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """What a running training tells."""

    name: str
    step: int
    num_steps: int
    loss: float  # weighted mean nats since the last report
    lr: float
    tokens_per_s: float
    seconds_left: float


@dataclass(kw_only=True)
class Training:
    """The mutable whole of a training run; what `save` writes and `load` reads."""

    model: SequenceModel
    optimizer: torch.optim.AdamW
    step: int = 0
    data_digest: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    curve: list[tuple[int, float]] = dataclasses.field(default_factory=list)  # step, mean nats since the last
    first_losses: list[float] = dataclasses.field(default_factory=list)  # nats of each of the first steps
    first_digests: dict[int, str] = dataclasses.field(default_factory=dict)  # step -> digest of the rows up to it
    # What the first steps were made with: code (its digest), threads, torch and processor, as text.
    begun: dict[str, str] = dataclasses.field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write whole or not at all."""
        scratch = path.with_suffix(".tmp")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                **{key: getattr(self, key) for key in (*_SAVED, *_SAVED_LATER)},
            },
            scratch,
        )
        with scratch.open("rb") as file:
            sync(file.fileno())
        scratch.replace(path)

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for key in _SAVED:
            setattr(self, key, saved[key])
        for key in _SAVED_LATER:
            setattr(self, key, saved.get(key, getattr(self, key)))


def build(trainee: Trainee, *, seed: int) -> SequenceModel:
    """The model of a trainee, initialised from `seed`.

    Raises SuiteError for one that cannot learn the next token, and for a field that its config does not have.
    """
    architecture: type[SequenceModel] = ARCHITECTURES.load(trainee.architecture)
    config = _read(trainee)
    torch.manual_seed(seed)
    model = architecture.from_config(config)
    if config.vocab_size < ByteTokenizer.vocab_size:
        raise SuiteError(
            f"zoo model '{trainee.name}' has vocab_size={config.vocab_size}, and its rows hold "
            f"{ByteTokenizer.vocab_size} tokens: 256 bytes, and one that begins a document"
        )
    if not model.strictly_causal:
        raise SuiteError(
            f"zoo model '{trainee.name}' is not causal: each of its outputs sees the token that comes next, so "
            "a loss on the next token would teach it to copy; choose a causal config"
        )
    return model


def built_config(trainee: Trainee) -> dict[str, Any]:
    """The config of a trainee's model, its defaults too. Raises SuiteError as `build` does."""
    return _read(trainee).to_json()


def _read(trainee: Trainee) -> Any:
    architecture: type[SequenceModel] = ARCHITECTURES.load(trainee.architecture)
    for dialect in architecture.DIALECTS:
        if dialect.matches(trainee.config):
            config = dialect.config(trainee.config)
            _require_known(trainee, known=config.to_json())
            return config
    names = ", ".join(dialect.name for dialect in architecture.DIALECTS)
    raise SuiteError(
        f"zoo model '{trainee.name}': none of the dialects of '{trainee.architecture}' ({names}) reads its config with "
        f"model_type={trainee.config.get('model_type')!r}"
    )


def _require_known(trainee: Trainee, *, known: Mapping[str, Any]) -> None:
    """A field that nobody reads is a slip: without this, its default would be trained in silence."""
    for field in trainee.config:
        if field not in known:
            where = f"the config of zoo model '{trainee.name}'"
            raise SuiteError(str(UnknownNameError("field", field, known=known, where=where)))


def make_optimizer(model: SequenceModel, *, lr: float, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with decay on matrices only: not on vectors, norms, biases, the embedding table, or what is `undecayed`."""
    table = model.get_parameter("embed.weight")
    left = {id(p) for name, p in model.named_parameters() if name.split(".")[-1] in model.undecayed}
    decay = [p for p in model.parameters() if p.ndim >= 2 and p is not table and id(p) not in left]
    decayed = {id(p) for p in decay}
    rest = [p for p in model.parameters() if id(p) not in decayed]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=recipe.betas, eps=1e-8, fused=True)


def weighted_loss(model: SequenceModel, rows: Rows, *, autocast: bool) -> Tensor:
    """Mean nats over the targets, weighted as the rows say."""
    inputs, targets, weights = (torch.from_numpy(a) for a in (rows.inputs, rows.targets, rows.weights))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = model(inputs)
        wanted = weights.flatten().nonzero()[:, 0]
        logits = model.head(hidden.flatten(0, 1)[wanted])
    nats = F.cross_entropy(logits.float(), targets.flatten()[wanted], reduction="none")
    weight = weights.flatten()[wanted]
    return (nats * weight).sum() / weight.sum()


def train(
    trainee: Trainee,
    recipe: Recipe,
    *,
    cache: Path | None = None,
    report: Callable[[TrainingProgress], None] = lambda progress: None,
    report_every_s: float = 10.0,
    resumed: Callable[[int], None] = lambda step: None,
    stop_after_s: float | None = None,
) -> Training:
    """Train a model by a recipe to its end, or go on with a run that was cut short.

    Args:
        cache: folder for the progress file; by default the user's cache folder.
        resumed: told the step at which an earlier run is taken up.
        stop_after_s: seconds after which to save and return unfinished.

    Raises UsageError when the loss is not finite, another process is at the same training, or other code began it.
    """
    recipe = recipe.seeded(trainee)
    path = progress_path(recipe, trainee, cache)
    with _alone(path, trainee.name):
        return _train(
            trainee,
            recipe,
            path,
            report=report,
            report_every_s=report_every_s,
            resumed=resumed,
            stop_after_s=stop_after_s,
        )


def forget(trainee: Trainee, recipe: Recipe, *, cache: Path | None = None) -> None:
    """Remove the progress of a training whose result is written, so that the next one begins anew."""
    progress_path(recipe, trainee, cache).unlink(missing_ok=True)


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold the lock of a progress file; the kernel lets go of it when the process ends, however it ends."""
    with path.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another process is training '{name}' by this recipe; wait for it or stop it") from error
        yield


def _train(
    trainee: Trainee,
    recipe: Recipe,
    path: Path,
    *,
    report: Callable[[TrainingProgress], None],
    report_every_s: float,
    resumed: Callable[[int], None],
    stop_after_s: float | None,
) -> Training:
    run, mixture = begin(trainee, recipe)
    if path.exists():
        today = run.begun
        run.load(path)
        if run.begun["code"] != today["code"]:
            raise UsageError(
                f"training '{trainee.name}' was begun by other code, at step {run.step} of {recipe.num_steps}: two "
                f"halves are no training; go on with the code of then, or remove {path} to begin anew"
            )
        resumed(run.step)
    started = reported = saved = time.monotonic()
    clock, losses, first_step = (time.monotonic(), time.process_time()), [], run.step
    while run.step < recipe.num_steps:
        losses.append(learn(run, mixture, recipe, trainee))
        now = time.monotonic()
        over = stop_after_s is not None and now - started > stop_after_s
        if now - reported >= report_every_s or run.step == recipe.num_steps or over:
            mean = sum(losses) / len(losses)
            if not math.isfinite(mean):
                raise UsageError(
                    f"training '{trainee.name}' diverged at step {run.step}; lower its lr, now {trainee.lr}"
                )
            run.curve.append((run.step, mean))
            losses, reported = [], now
            ahead, behind = (run.step, recipe.num_steps), (first_step, run.step)
            left = _work(recipe, run.model, *ahead) / _work(recipe, run.model, *behind)
            done = sum(_step_tokens(recipe, step) for step in range(first_step, run.step))
            report(
                TrainingProgress(
                    name=trainee.name,
                    step=run.step,
                    num_steps=recipe.num_steps,
                    loss=mean,
                    lr=trainee.lr * recipe.lr_share(run.step - 1),
                    tokens_per_s=done / (now - started),
                    seconds_left=left * (now - started),
                )
            )
        if now - saved >= SAVE_EVERY_S or run.step == recipe.num_steps or over:
            run.wall_s += time.monotonic() - clock[0]
            run.cpu_s += time.process_time() - clock[1]
            clock, saved = (time.monotonic(), time.process_time()), now
            run.save(path)
        if over:
            break
    return run


def begin(trainee: Trainee, recipe: Recipe) -> tuple[Training, Mixture]:
    """A training before its first step, and the rows that it will read."""
    recipe = recipe.seeded(trainee)
    model = build(trainee, seed=recipe.seed)
    environment = measure.environment()
    begun = {
        "code": training_code(trainee),
        "threads": str(torch.get_num_threads()),
        "torch": environment.packages.get("torch", "?"),
        "processor": environment.processor,
    }
    training = Training(model=model, optimizer=make_optimizer(model, lr=trainee.lr, recipe=recipe), begun=begun)
    return training, Mixture(seed=recipe.seed, answer_weight=recipe.answer_weight)


def training_code(trainee: Trainee) -> str:
    """Digest of the code that decides a training: the model's, that of its rows, and this module's."""
    parts = {
        "model": code_digest(architecture=trainee.architecture, task=None, engine="eager"),
        "rows": modules_digest([Mixture.__module__]),
        "steps": digest(Path(__file__).read_bytes()),
        "schedule": digest(Path(recipes.__file__).read_bytes()),
    }
    return digest(canonical_json(parts))


def progress_path(recipe: Recipe, trainee: Trainee, cache: Path | None) -> Path:
    """Where a run keeps its progress: named by everything that decides its result."""
    own = dataclasses.asdict(trainee)
    for name in ("mix", "seed"):
        if own[name] is None:
            # trainings begun before models could have one of their own keep their name
            del own[name]
    settings = {"recipe": dataclasses.asdict(recipe), "trainee": own}
    architecture: type[SequenceModel] = ARCHITECTURES.load(trainee.architecture)
    key = digest(canonical_json({**settings, "version": architecture.version}))[:12]
    folder = (cache or cache_folder()) / "train"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(
            f"cannot make {folder}, where training that is cut short goes on from: {error.strerror or error}; "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return folder / f"{trainee.name}-{key}.pt"


def _work(recipe: Recipe, model: SequenceModel, first: int, last: int) -> float:
    """Work of the steps from `first` to before `last`: steps of other phases have other rows, longer or more of them.

    In FLOP of reading the rows, in proportion to which learning from them costs; in tokens where there is no formula.
    """
    try:
        cost = type(model).cost(model.config, dtype_bytes=4)
    except UnsupportedError:
        cost = None
    work, start = 0.0, 0
    for phase in recipe.phases:
        num = max(0, min(last, start + phase.num_steps) - max(first, start))
        row = phase.context_len if cost is None else cost.prefill_flops(phase.context_len)
        work, start = work + num * phase.batch_size * row, start + phase.num_steps
    return work


def _step_tokens(recipe: Recipe, step: int) -> int:
    phase = recipe.phases[recipe.locate(step)[0]]
    return phase.context_len * phase.batch_size


def learn(run: Training, mixture: Mixture, recipe: Recipe, trainee: Trainee) -> float:
    """One step of a training: read its rows, follow the gradient. Returns the loss in nats."""
    number, step = recipe.locate(run.step)
    phase = recipe.phases[number]
    mix = trainee.mix or phase.mix
    rows = mixture.batch(mix, stream=number, step=step, batch_size=phase.batch_size, num_tokens=phase.context_len)
    run.data_digest = rows.digest(run.data_digest)
    for group in run.optimizer.param_groups:
        group["lr"] = trainee.lr * recipe.lr_share(run.step)
    loss = weighted_loss(run.model, rows, autocast=trainee.autocast)
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), recipe.clip)
    run.optimizer.step()
    run.step += 1
    nats = loss.item()
    if run.step <= FIRST_STEPS:
        run.first_losses.append(nats)
        if run.step % DIGEST_EVERY == 0:
            run.first_digests[run.step] = run.data_digest
    return nats


def describe(progress: TrainingProgress) -> str:
    """One plain line of progress."""
    return (
        f"{progress.name}  step {progress.step}/{progress.num_steps}  loss {progress.loss:.4f} nats  "
        f"lr {progress.lr:.2e}  {progress.tokens_per_s:,.0f} tokens/s  {progress.seconds_left / 60:.1f} min left"
    )
