#!/usr/bin/env bash
# Installs what tests/slurm needs from Debian's packages, and starts none of it; nothing is done where all is there.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" != 0 ]; then
    echo "A SLURM to test on needs root: sudo make test-cluster (in a container: a privileged one)." >&2
    exit 1
fi
# One program of each package.
missing=()
for program in slurmctld slurmd sbatch slurmdbd munged mariadbd ip nsenter hostname; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[ ${#missing[@]} = 0 ] && exit
packages="slurmctld slurmd slurm-client slurmdbd munge mariadb-server iproute2 util-linux hostname"
if ! command -v apt-get >/dev/null; then
    echo "A SLURM to test on lacks ${missing[*]}, and only Debian's apt-get can install them here: $packages" >&2
    exit 1
fi
echo "Installing SLURM and MariaDB for tests: about half a minute, the first time."
# The packages' services stay off: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
apt-get -qq update
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $packages >/dev/null
