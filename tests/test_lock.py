"""requirements.lock covers what pyproject.toml asks for at run time, on each Python and processor that we support."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def locked(python: str, machine: str) -> dict[str, Requirement]:
    """Name -> what the lock installs there. Each with at least one sha256."""
    place = {
        **{"python_full_version": f"{python}.9", "python_version": python, "platform_machine": machine},
        **{"sys_platform": "linux", "platform_python_implementation": "CPython", "implementation_name": "cpython"},
    }
    found = {}
    for entry in re.split(r"\n(?=\w)", LOCK):
        if entry.startswith("#"):
            continue
        requirement = Requirement(entry.partition("\\")[0])
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry
        if requirement.marker is None or requirement.marker.evaluate(place):
            assert canonicalize_name(requirement.name) not in found, f"two versions of {requirement.name} at once"
            found[canonicalize_name(requirement.name)] = requirement
    return found


def asked_for() -> list[Requirement]:
    (rows,) = re.findall(r"(?ms)^dependencies = \[\n(.*?)^\]", PYPROJECT)
    return [Requirement(text) for text in re.findall(r'"([^"]+)"', rows)]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_run_time_package_is_locked_at_a_version_that_is_allowed(python: str, machine: str) -> None:
    there = locked(python, machine)
    assert len(asked_for()) >= 10
    for requirement in asked_for():
        lock = there[canonicalize_name(requirement.name)]
        (pinned,) = lock.specifier
        assert pinned.operator == "=="
        assert requirement.specifier.contains(pinned.version), f"{requirement} is locked at {pinned.version}"


def test_what_the_locked_packages_need_is_locked_too() -> None:
    """As far as the installed ones tell, which pip would otherwise refuse with --require-hashes."""
    there = locked("3.12", "x86_64")
    for name in there:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, needs):
            if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.12", "extra": ""}):
                assert canonicalize_name(requirement.name) in there, f"{name} needs {requirement}"


def test_the_lock_says_how_it_is_made_and_leans_on_no_registry() -> None:
    assert "uv pip compile --universal" in LOCK.splitlines()[1]
    assert "--generate-hashes" in LOCK.splitlines()[1]
    assert "://" not in LOCK
    assert not re.search(r"(?m)^--(?!hash)", LOCK)
