"""SPECIFICATION.md says what is true: its table is what the code refuses, and the tests it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.conformance.test_refused import table

from twinhull.instance.factory import traits
from twinhull.spec.instance import Runtime

CHECKOUT = Path(__file__).parents[2]
FOLDERS = {"C": "conformance", "E": "e2e", "U": "unit"}
PAGES = ("README.md", "ARCHITECTURE.md", "SPECIFICATION.md", "docs/api.md", "docs/dependencies.md", "docs/adr/README.md")


@pytest.mark.parametrize("hull", list(Runtime))
def test_table_gives_each_reason_and_no_other(hull: Runtime) -> None:
    said = {feature: row[hull.value] for feature, row in table().items() if row[hull.value] != "yes"}
    said.pop("host-network", None)
    assert said == {feature: reason for feature, reason in traits(hull).reasons.items() if feature != "host-network"}


@pytest.mark.parametrize("hull", list(Runtime))
def test_table_tells_who_has_the_hosts_network(hull: Runtime) -> None:
    assert (table()["host-network"][hull.value] == "yes") == traits(hull).host_network


def test_every_test_that_is_named_exists() -> None:
    text = (CHECKOUT / "SPECIFICATION.md").read_text()
    named = re.findall(r"`([CEU])/(test_\w+\.py)`", text)
    assert len(named) > 20
    assert [f"{folder}/{name}" for folder, name in named if not (CHECKOUT / "tests" / FOLDERS[folder] / name).exists()] == []


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md", "docs/api.md", "docs/dependencies.md", "docs/adr/README.md"]
)
def test_links_between_documents_lead_somewhere(name: str) -> None:
    page = CHECKOUT / name
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_package_that_setup_installs_is_explained() -> None:
    text = (CHECKOUT / "docs" / "dependencies.md").read_text()
    lines = (CHECKOUT / "setup" / "packages.txt").read_text().splitlines()
    packages = [line.rstrip("?") for line in lines if line and not line.startswith("#")]
    assert [package for package in packages if package not in text] == []


def test_every_exception_of_a_hull_is_told() -> None:
    text = (CHECKOUT / "SPECIFICATION.md").read_text()
    reasons = [
        reason
        for page in (CHECKOUT / "tests").rglob("test_*.py")
        for reason in re.findall(r'mark\.except_for\(\s*"\w+",\s*"([^"]+)"', page.read_text())
    ]
    assert len(reasons) > 5
    assert [reason for reason in reasons if reason not in text] == []


def test_every_decision_is_listed() -> None:
    folder = CHECKOUT / "docs" / "adr"
    text = (folder / "README.md").read_text()
    assert [page.name for page in folder.glob("0*.md") if f"]({page.name})" not in text] == []
