#!/bin/sh
# Ray in an environment of its own, which sees the packages of ttbench's: install.sh VENV VENV-RAY
set -eu
venv=$1 own=$2
if "$own/bin/python" -c 'import ray, ttbench' 2>/dev/null; then exit 0; fi
command -v unshare >/dev/null && [ "$(id -u)" = 0 ] || { echo "make ray needs root and unshare, for a network of its own" >&2; exit 2; }
"$venv/bin/python" -m venv "$own"
echo "installing ray into $own" >&2
"$own/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "ray>=2.40,<3"
here=$("$own/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$here/ttbench-venv.pth"
pwd >>"$here/ttbench-venv.pth"
"$own/bin/python" -c 'import ray, ttbench'
