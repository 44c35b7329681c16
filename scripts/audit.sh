#!/usr/bin/env bash
# Looks for unsafe code with bandit (settings in pyproject.toml), then for known vulnerabilities of the
# locked packages with pip-audit. Called by `make audit`; both tools live in .venv-audit. Ends with 1
# where either finds something, with 2 where it could not look at the code.
set -euo pipefail
CDPATH='' cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

readonly TOOLS=.venv-audit
readonly WANTED=requirements/audit.txt

if ! cmp -s "$WANTED" "$TOOLS/installed.txt"; then
  rm -rf "$TOOLS"
  if ! { .venv/bin/python -m venv "$TOOLS" &&
    "$TOOLS/bin/pip" install -qq --disable-pip-version-check -r "$WANTED"; } >&2; then
    rm -rf "$TOOLS"
    echo "audit: $WANTED could not be installed; see pip's words above, and run make audit again." >&2
    exit 2
  fi
  cp "$WANTED" "$TOOLS/installed.txt"
fi

status=0
if "$TOOLS/bin/bandit" --quiet --recursive -ll --configfile pyproject.toml gfn_ray jobs benchmarks clusters scripts; then
  echo 'bandit: nothing of medium or high severity'
else
  status=1
fi
.venv/bin/python scripts/advisories.py "$TOOLS/bin/pip-audit" requirements/*.lock || status=1
exit "$status"
