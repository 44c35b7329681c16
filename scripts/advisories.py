"""Asks pip-audit for known vulnerabilities of locked packages, a file after another.

A service that cannot be asked is no finding: not all who run this have a network. But neither is
it a pass, as which pip-audit counts it where whoever answers in PyPI's place knows no package.

    python scripts/advisories.py PIP_AUDIT LOCK_FILE ...
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

LIMIT_S = 600
NOT_ASKED = "PyPI's advisories could not be asked from here, so nothing is known of its packages"

# What pip-audit's complaint holds where nobody answered, or nobody who knows.
_NOBODY_THERE = ("requests.exceptions.", "ServiceError", "vulnerability feed", "redirecting")


@dataclass(frozen=True)
class Answer:
    """What is known of one lock file, in words. bad: vulnerabilities, or a file that is none."""

    text: str
    bad: bool = False


def read_answer(report: str, complaint: str) -> Answer:
    """The answer in what pip-audit printed: JSON, or a complaint that ends in its reason."""
    if not report.strip():
        if any(words in complaint for words in _NOBODY_THERE):
            return Answer(NOT_ASKED)
        reason = (complaint.strip().splitlines() or ["it said nothing"])[-1]
        return Answer(f"pip-audit cannot read it: {reason}", bad=True)
    packages = json.loads(report)["dependencies"]
    known = [one for one in packages if "skip_reason" not in one]
    if not known:
        return Answer(NOT_ASKED)
    findings = [
        f"{one['name']} {one['version']}: {found['id']}, mended in "
        f"{', '.join(found['fix_versions']) or 'no version yet'}"
        for one in known
        for found in one["vulns"]
    ]
    unknown = len(packages) - len(known)
    lines = [
        f"{len(known)} packages asked about"
        + (f" ({unknown} more are unknown to PyPI)" if unknown else "")
        + f", {len(findings) or 'no'} known vulnerabilities",
        *findings,
    ]
    return Answer("\n  ".join(lines), bool(findings))


def ask(pip_audit: str, lock: str) -> Answer:
    """Locks are complete and pinned, so nothing needs to be resolved or installed."""
    options = ("--format", "json", "--progress-spinner", "off", "--no-deps", "--disable-pip")
    try:
        done = subprocess.run(
            [pip_audit, *options, "--requirement", lock],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return Answer(NOT_ASKED)
    return read_answer(done.stdout, done.stderr)


def main(arguments: Sequence[str]) -> int:
    pip_audit, *locks = arguments
    bad = False
    for lock in locks:
        answer = ask(pip_audit, lock)
        print(f"{lock}: {answer.text}")
        bad |= answer.bad
    return int(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
