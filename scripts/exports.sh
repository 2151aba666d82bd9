#!/bin/sh
# What `make exports` needs beside .venv: an environment with the extras `wandb` and `mlflow`, whose packages nobody
# else here needs.
set -eu
cd "$(dirname "$0")/.."

EXPORTS=${EXPORTS:-.venv-exports}

# Beside .venv, whose packages it sees, so that neither torch nor anything else is installed twice.
[ -x "$EXPORTS/bin/python" ] || .venv/bin/python -m venv "$EXPORTS"
site=$("$EXPORTS/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import os, sysconfig; print(sysconfig.get_path("purelib")); print(os.getcwd())' >"$site/ttbench-exports.pth"
# The ranges are those of the extras in pyproject.toml.
.venv/bin/python -c 'import tomllib; found = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*found["wandb"], *found["mlflow"], sep="\n")' >"$EXPORTS/requirements.txt"
"$EXPORTS/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --requirement "$EXPORTS/requirements.txt"
