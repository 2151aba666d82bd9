#!/bin/sh
# An environment beside .venv, whose packages it sees, so that neither torch nor anything else is installed twice, and
# what else it needs: sh scripts/beside.sh FOLDER REQUIREMENT...
set -eu
cd "$(dirname "$0")/.."

folder=$1
shift
[ -x "$folder/bin/python" ] || .venv/bin/python -m venv "$folder"
site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
.venv/bin/python -c 'import os, sysconfig; print(sysconfig.get_path("purelib")); print(os.getcwd())' >"$site/ttbench-beside.pth"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$@"
