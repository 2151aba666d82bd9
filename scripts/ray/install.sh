#!/bin/sh
# Ray alone in an environment of its own: install.sh VENV VENV-RAY. Where Ray sees aiohttp, its agents start slowly.
set -eu
venv=$1 own=$2
if "$own/bin/python" -c 'import ray' 2>/dev/null; then exit 0; fi
command -v unshare >/dev/null && [ "$(id -u)" = 0 ] || { echo "make ray needs root and unshare, for a network of its own" >&2; exit 2; }
"$venv/bin/python" -m venv "$own"
echo "installing ray into $own" >&2
"$own/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "ray>=2.40,<3"
"$own/bin/python" -c 'import ray'
