#!/usr/bin/env bash
# Runs all tests, two at a time, and then those that must have the machine's Ray to themselves.
# Called by `make test`, which hands on what it was given as ARGS.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly NOTHING_SELECTED=5  # pytest's exit status
readonly PYTEST=(.venv/bin/python -m pytest --durations=15 --durations-min=1)

ran=no
status=0
run() {
  local code=0
  "${PYTEST[@]}" "$@" || code=$?
  if ((code != NOTHING_SELECTED)); then ran=yes; else code=0; fi
  if ((code)); then status=$code; fi
}

# A file at a time to a worker: what is dear in it, a finished job or an engine, is made once. Jobs
# come first, so that short tests fill what they leave.
run -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone' "$@"
run -m alone "$@"
if [[ $ran == no ]]; then status=$NOTHING_SELECTED; fi
echo "test: $((SECONDS / 60)) min $((SECONDS % 60)) s in all"
exit "$status"
