#!/bin/sh
# Lock what `make run` and `make test` install, hashes included. Needs uv; run it after changing pyproject.toml.
set -eu
cd "$(dirname "$0")/.."
lock() { out=$1; shift; uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header "$@" -o "requirements/$out"; }
lock run.txt pyproject.toml --group build
lock test.txt pyproject.toml --group build --group test --group check
