"""`make audit` tells what it knows from what it could not ask."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("advisories", ROOT / "scripts" / "advisories.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


advisories = load_script()
SOUND = {"name": "yarl", "version": "1.25.1", "vulns": []}
SKIPPED = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited"}
VULNERABLE = {
    "name": "requests",
    "version": "2.19.0",
    "vulns": [
        {"id": "PYSEC-2018-28", "fix_versions": ["2.20.0"], "aliases": [], "description": ""},
        {"id": "PYSEC-2099-1", "fix_versions": [], "aliases": [], "description": ""},
    ],
}


def answer(*packages):
    return advisories.read_answer(json.dumps({"dependencies": packages, "fixes": []}), "")


def test_sound_packages_are_no_finding():
    found = answer(SOUND, SOUND)
    assert not found.bad
    assert found.text == "2 packages asked about, no known vulnerabilities"


def test_every_vulnerability_is_a_finding_with_its_remedy():
    found = answer(SOUND, VULNERABLE, SKIPPED)
    assert found.bad
    first, *rest = found.text.splitlines()
    assert first == "2 packages asked about (1 more are unknown to PyPI), 2 known vulnerabilities"
    assert [line.strip() for line in rest] == [
        "requests 2.19.0: PYSEC-2018-28, mended in 2.20.0",
        "requests 2.19.0: PYSEC-2099-1, mended in no version yet",
    ]


def test_a_service_that_knows_no_package_at_all_has_not_been_asked():
    assert answer(SKIPPED, SKIPPED) == advisories.Answer(advisories.NOT_ASKED)


@pytest.mark.parametrize(
    "complaint",
    [
        "Traceback ...\nrequests.exceptions.ProxyError: HTTPSConnectionPool(host='pypi.org')",
        "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\nERROR: advice",
    ],
)
def test_without_a_network_nothing_is_known_and_that_is_no_finding(complaint):
    assert advisories.read_answer("", complaint) == advisories.Answer(advisories.NOT_ASKED)


def test_a_file_that_cannot_be_read_is_a_finding():
    found = advisories.read_answer("", "WARNING: x\nERROR:pip_audit._cli:requests is not pinned")
    assert found.bad
    assert "requests is not pinned" in found.text
