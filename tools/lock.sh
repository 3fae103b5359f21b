#!/usr/bin/env bash
# Write requirements/run.txt and requirements/dev.txt: the versions of constraints.txt, with the SHA-256 of every file that pip may install.
#
#   pip install uv && bash tools/lock.sh
#
# Python 3.11.5 at least, because the documentation's pymdown-extensions asks for it.
# To take newer versions, change constraints.txt first (uv pip compile pyproject.toml --extra dev --universal --upgrade-package NAME).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p requirements

lock() {
    uv pip compile pyproject.toml --quiet --universal --python-version 3.11.5 -c constraints.txt --generate-hashes --no-annotate \
        --custom-compile-command "bash tools/lock.sh" -o "$@"
}
lock requirements/run.txt --extra video
lock requirements/dev.txt --extra dev
