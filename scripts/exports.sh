#!/bin/sh
# What `make exports` needs beside .venv: an environment with the extras `wandb` and `mlflow`, whose packages nobody
# else here needs.
set -eu
cd "$(dirname "$0")/.."

EXPORTS=${EXPORTS:-.venv-exports}

# The ranges are those of the extras in pyproject.toml.
needed=$(.venv/bin/python -c 'import tomllib; found = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*found["wandb"], *found["mlflow"])')
# shellcheck disable=SC2086
sh scripts/beside.sh "$EXPORTS" $needed
