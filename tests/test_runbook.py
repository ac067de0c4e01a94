"""Whatever names a problem leads to what to do about it."""

import re

import pytest

from tests.rig.environment import REPOSITORY
from workers.status.problems import KINDS

RUNBOOK = (REPOSITORY / "docs/runbook.md").read_text()
ALERTS = (REPOSITORY / "infra/prometheus/rules/jobs.yml").read_text()


def anchor(heading: str) -> str:
    """Return the address of a heading, as GitHub and others make it."""
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def sections() -> dict[str, str]:
    _, *parts = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)
    split = (part.partition("\n") for part in parts)
    return {anchor(heading): text for heading, _, text in split}


def test_each_problem_has_a_section() -> None:
    assert {kind.anchor for kind in KINDS.values()} <= sections().keys()


def test_each_alert_has_a_section() -> None:
    linked = set(re.findall(r"\.runbook }}#([a-z-]+)", ALERTS))
    assert linked == sections().keys()


def test_links_within_it_lead_somewhere() -> None:
    assert set(re.findall(r"\]\(#([a-z-]+)\)", RUNBOOK)) <= sections().keys()


@pytest.mark.parametrize(("name", "text"), sections().items(), ids=sections().keys())
def test_each_section_says_what_to_do(name: str, text: str) -> None:
    assert "\n- " in text, name
