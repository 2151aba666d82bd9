"""`make mutants`: would the tests notice a wrong number? Changes the code in small ways, and runs the tests each time.

A sample of each module's mutations (`mutations.py`), the same for the same seed, is tried in a copy of the tree. First
those of the module's own tests run that call the changed function, then, where they pass, the rest of its own tests
and those of all other files that import it (`mutant_tests.py`, `mutant_reach.py`), each time the quickest first and for
two processor minutes at most. A mutant is killed when a test fails, crashes, or needs many times its usual time, as it
does when the code loops for ever. Outcomes are kept in `.cache/mutants/outcomes.jsonl`, so that an interrupted run goes
on; an outcome holds until the module, or the tests that decided it, change.

    python scripts/mutants.py [--sample 4] [--seed 0] [--jobs 2] [--only PART-OF-PATH ...] [--minutes MINUTES]
        [--own] [--report]

`--own` leaves out the second round, and keeps kills alone: it is quick, and its survivors may be killed by the others.
A smaller sample is part of a larger one. After `--minutes` no further mutant is begun. `--report` writes
docs/mutants.md, where each survivor's reason, written by hand, is kept. The exit code is 1 when fewer than 95 % are
killed, a survivor has no reason, or a mutant was not tried.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

from mutant_outcomes import KEPT, keep, kept, sample
from mutant_page import PAGE, page, reasons
from mutant_tests import ROOT
from mutant_trees import run

SCOPE = ("kernels/**/*.py", "tasks/**/*.py", "report/**/*.py")
LEAST_SHARE = 0.95


def modules(only: Sequence[str]) -> list[str]:
    """The modules in scope, in the order of the parts of their paths that were given."""
    paths = [str(path.relative_to(ROOT)) for pattern in SCOPE for path in sorted((ROOT / "ttbench").glob(pattern))]
    return [*dict.fromkeys(path for part in only or [""] for path in paths if part in path)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=4, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the paths of the modules to try, in this order")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no mutant after so many")
    parser.add_argument("--own", action="store_true", help="the tests of each mutant's own module alone")
    parser.add_argument("--report", action="store_true", help="write docs/mutants.md")
    given = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    # Once, before the forks: torch and what the tests need beside it.
    import beartype, hypothesis, jaxtyping, matplotlib.figure, numpy, pandas, pyarrow.parquet, pytest, rich.console  # noqa
    import safetensors.torch, scipy.stats, tokenizers, torch, transformers, typer.testing, yaml  # noqa

    torch.set_num_threads(1)
    paths, known = modules(given.only), kept()
    until, drawing = time.monotonic() + 60 * given.minutes, {"num_mutants": given.sample, "seed": given.seed}
    print(f"{given.sample} mutants of each of {len(paths)} modules; {len(known)} outcomes are known", flush=True)
    for each in run(paths, known, **drawing, own=given.own, jobs=given.jobs, until=until):
        if each.killed_by or not given.own:
            keep(each)
        end = f"killed by {each.killed_by}" if each.killed_by else f"SURVIVED ({each.key})"
        print(f"{each.path} {each.function}: {each.before} -> {each.after}: {end}", flush=True)
    # A module that cannot be imported would be noticed without tests, and is no mutant.
    drawn = [mutant for path in paths for mutant in sample(path, ROOT, **drawing, known=known)]
    wanted = [mutant for mutant in drawn if mutant.key not in known or not known[mutant.key].stillborn]
    outcomes = [known[mutant.key] for mutant in wanted if mutant.key in known]
    if given.report:
        PAGE.write_text(page(wanted, outcomes, command=" ".join(sys.argv)), "utf-8")
    survivors = [each for each in outcomes if each.killed_by is None]
    open_ones = [each for each in survivors if not reasons().get(each.key)]
    share = 1 - len(survivors) / max(len(outcomes), 1)
    print(
        f"{share:.1%} of {len(outcomes)} killed; {len(survivors)} survivors, {len(open_ones)} of them without a "
        f"reason; {len(wanted) - len(outcomes)} not tried"
    )
    return int(share < LEAST_SHARE or bool(open_ones) or len(outcomes) < len(wanted))


if __name__ == "__main__":
    sys.exit(main())
