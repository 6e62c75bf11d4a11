#!/usr/bin/env bash
# Installs the file system without hard links of tests/linkless.py, from Debian's packages; nothing where it is there.
set -euo pipefail
if command -v sshfs >/dev/null && [ -e /usr/lib/openssh/sftp-server ]; then exit; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Tests of a file system without hard links will fail: sudo apt-get install sshfs openssh-sftp-server" >&2
    exit
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends sshfs openssh-sftp-server >/dev/null
