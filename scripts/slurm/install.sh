#!/bin/sh
# Slurm, munge and MariaDB from Debian, without a service of theirs being started: policy-rc.d says 101 (forbidden)
# while they are installed, and is removed afterwards. Does nothing where they are there already.
set -eu
if command -v slurmctld >/dev/null && command -v slurmdbd >/dev/null && command -v munged >/dev/null && command -v mariadbd >/dev/null; then
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "make slurm installs slurm-wlm, slurmdbd, munge and mariadb-server by apt: run it as root, or install them first" >&2; exit 2; }
command -v apt-get >/dev/null || { echo "make slurm needs apt-get (Debian, Ubuntu), or Slurm, slurmdbd, munge and MariaDB on the PATH" >&2; exit 2; }
POLICY=/usr/sbin/policy-rc.d
# A container's image may forbid services already.
if [ -e "$POLICY" ]; then
    "$POLICY" munge start >/dev/null 2>&1 || [ $? = 101 ] || { echo "$POLICY is there and allows services: remove it first" >&2; exit 2; }
else
    trap 'rm -f "$POLICY"' EXIT INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -q -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server >/dev/null
echo "installed: $(slurmctld -V), $(munged --version | head -1), $(mariadbd --version | cut -d' ' -f1-4)"
