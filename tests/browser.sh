#!/usr/bin/env bash
# Installs the browser that tests/test_page.py opens the report in, from Debian's packages; nothing where one is there.
set -euo pipefail
for program in chromium google-chrome "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
    if command -v "$program" >/dev/null; then exit; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "The report's page is not tested: Chromium is missing. sudo apt-get install chromium, or Google Chrome." >&2
    exit
fi
echo "Installing Chromium for tests: about a minute, the first time."
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null
