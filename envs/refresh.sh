#!/usr/bin/env bash
# Resolves envs/*.in again and writes the lock files. Needs `uv` on the PATH (pip install uv).
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
compile="uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url"
cat lock.txt lock-torch.txt >"$work/main.txt"  # what is locked stays, unless UPGRADE=--upgrade
$compile ${UPGRADE:-} requirements.in -o "$work/main.txt"
$compile --no-deps data.in -o "$work/data.txt"
python3 split_lock.py "$work/main.txt" "$work/data.txt" torch-cpu.sha256 .
$compile interop.in -o "$work/interop.txt"
echo dictionary-learning==0.1.0 | $compile --no-deps - -o "$work/alone.txt"
python3 split_lock.py "$work/interop.txt" "$work/alone.txt" torch-cpu.sha256 "$work"  # torch comes from the lock above
cp "$work/lock.txt" interop.lock
sed -E -n 's/^([a-z0-9._-]+==[^\\]*[^\\ ]) *\\?$/\1/p' lock.txt | grep -v '^rich==' >"$work/pins.txt"  # roc-validator wants an older rich
$compile -c "$work/pins.txt" tools.in | grep -v '^ *#' >tools.lock
