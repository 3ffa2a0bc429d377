"""What the suite promises: a class's full name selects its tests; packages have upper bounds."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from scheduling import CLASSES

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# ids in other words, some of which are a class's too: names of A1111, titles of differences
OTHER_WORDS = ("test_a1111.py", "test_quality.py", "parity/test_differences.py")


def ids(*options, **variables):
    """The ids of the tests that a run would have."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "dev", **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_ids_have_the_full_names_of_classes():
    """One `-k LCMScheduler` is enough."""
    short = {name.removesuffix("Scheduler") for name in CLASSES} - {""}
    ignored = [f"--ignore=tests/{name}" for name in OTHER_WORDS]
    found = ids(*ignored, "tests")
    assert sum("LCMScheduler" in test for test in found) > 100
    for test in found:
        words = {*re.findall(r"\w+", test.partition("[")[2])}
        assert all(f"{name}Scheduler" in words for name in short & words), test


def upper(requirement):
    """Whether newer versions are shut out."""
    return any(s.operator in ("==", "<", "<=") for s in Requirement(requirement).specifier)


@pytest.mark.parametrize("group", PROJECT["dependency-groups"])
def test_what_the_checks_install_has_an_upper_bound(group):
    for requirement in PROJECT["dependency-groups"][group]:
        assert upper(requirement), requirement


def test_the_citation_can_be_read():
    yaml = pytest.importorskip("yaml", reason="comes with huggingface_hub")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)  # what the format asks for
    assert cited["license"] == PROJECT["project"]["license"]
    assert cited["repository-code"] == PROJECT["project"]["urls"]["Homepage"]
    assert all(
        author.keys() <= {"name", "family-names", "given-names"} for author in cited["authors"]
    )


def test_links_of_the_index_are_the_projects():
    home = PROJECT["project"]["urls"]["Homepage"].removeprefix("https://github.com/")
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    assert all(f"/{home}/" in rule["replacement"] for rule in hook["substitutions"])


def test_extras_have_an_upper_bound_in_the_checks_only():
    lines = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    bounds = [line for line in lines if not line.startswith("#")]
    assert bounds == sorted(bounds)
    assert all(map(upper, bounds))
    bounded = {Requirement(line).name for line in bounds} | {"cmsched"}  # by the extra `all`
    bounded |= {Requirement(r).name for g in PROJECT["dependency-groups"].values() for r in g}
    extras = PROJECT["project"]["optional-dependencies"].values()
    for requirement in [*PROJECT["project"]["dependencies"], *(r for e in extras for r in e)]:
        assert not upper(requirement), requirement
        assert Requirement(requirement).name in bounded, requirement
