#!/bin/sh
# Lock what `make run` and `make test` install, hashes included. Needs uv; run it after changing pyproject.toml.
# PyTorch is not locked: which build fits is for each machine to say. The Makefile names its version.
set -eu
cd "$(dirname "$0")/.."
lock() { out=$1; shift; uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header "$@" -o "requirements/$out"; }
lock run.txt pyproject.toml --group build
lock test.txt pyproject.toml --group build --group test --group check
without_torch=$(mktemp)
trap 'rm "$without_torch"' EXIT
echo "torch; python_version < '3'" > "$without_torch"
lock engines.txt -c requirements/test.txt --override "$without_torch" \
    pyproject.toml --extra transformers --extra embeddings --extra hub --group models
