"""In a real browser: every page fits, on desktop and phone, by day and night, well or not."""

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import quote

import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from tests.web import scenes
from tests.web.chromium import WIDTHS, Theme, Visit
from tests.web.page import Pages
from workers.database import Database

# Wider than any phone, in one word.
LONG = "x" * 400


class Scene(NamedTuple):
    """What there is to see, and where."""

    name: str
    paths: tuple[str, ...]


@pytest.fixture(scope="module", params=["empty", "busy", "failing"])
def scene(request: pytest.FixtureRequest, page_database: Database) -> Scene:
    with page_database.transaction() as session:
        session.execute(text("DELETE FROM job_runs; DELETE FROM service_processes"))
    paths = ["/", "/runs", "/runs?status=running", "/jobs/check_expired_coupons", "/dead-letters"]
    if request.param != "empty":
        scenes.write_processes(page_database)
        scenes.write_past(page_database)
        scenes.write_work_in_hand(page_database)
    if request.param == "failing":
        scenes.write_failures(page_database, error=f"{LONG}\n{scenes.ERROR}{LONG}")
        paths += _let_all_fall_silent(page_database)
    return Scene(request.param, tuple(paths))


def _let_all_fall_silent(database: Database) -> list[str]:
    """Return where a dead run is to be seen."""
    with database.transaction() as session:
        session.execute(text("UPDATE service_processes SET seen_at = now() - interval '5 minutes'"))
        key, message_id = session.execute(
            text("SELECT run_key, message_id FROM job_runs WHERE status = 'dead' LIMIT 1")
        ).one()
    return [f"/run?key={quote(key)}", f"/dead-letters/default?id={message_id}"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_its_window_and_breaks_no_rule(
    scene: Scene, theme: Theme, width: str, pages: Pages, visit: Callable[..., Visit]
) -> None:
    somebody = visit(pages(), width=width, theme=theme)
    for path in scene.paths:
        somebody.tab.goto(path)

        assert somebody.overflow() == 0, path
        is_dark = "matchMedia('(prefers-color-scheme: dark)').matches"
        assert somebody.tab.evaluate(is_dark) is (theme == "dark")
        paper = somebody.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(19, 21, 23)" if theme == "dark" else "rgb(251, 251, 249)")
        # Nothing is said by colour alone: each mark stands beside its word, or is named
        assert somebody.tab.locator("main h1").count() == 1


def test_the_verdict_comes_first(scene: Scene, pages: Pages, visit: Callable[..., Visit]) -> None:
    somebody = visit(pages(), width="phone")
    somebody.tab.goto("/")
    verdict = somebody.tab.get_by_role("heading", level=1)
    expected = {
        "empty": "things are wrong",
        "busy": "All is well",
        "failing": "things are wrong",
    }[scene.name]
    expect(verdict).to_contain_text(expected)
    box = verdict.bounding_box()
    assert box is not None
    assert box["y"] < 200
    if scene.name == "failing":
        first = somebody.tab.locator(".problems li").first
        expect(first).to_contain_text("No scheduler is alive")
        expect(first).to_contain_text("Start one: periodiq workers")


def test_small_text_is_readable(scene: Scene, pages: Pages, visit: Callable[..., Visit]) -> None:
    """WCAG AA: a contrast of 4.5 between text and what lies behind it."""
    for theme in ("light", "dark"):
        somebody = visit(pages(), theme=theme)
        somebody.tab.goto(scene.paths[0])
        low = somebody.tab.evaluate(CONTRASTS)
        assert low == []


CONTRASTS = """() => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) =>
    0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (colour.startsWith("rgb(")) return parse(colour);
    }
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.nodeValue.trim() || !element.checkVisibility()) continue;
    if (element.closest("svg, noscript, script")) continue;
    const [a, b] = [parse(getComputedStyle(element).color), behind(element)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${walker.currentNode.nodeValue.trim()}`);
  }
  return low;
}"""
