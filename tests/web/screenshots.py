"""``make screenshots``: the pictures of docs/images, of the real page on sample data."""

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.rig.environment import REPOSITORY, forget_settings
from tests.rig.postgres import open_postgres
from tests.rig.processes import Processes
from tests.rig.waiting import eventually
from tests.web import scenes
from tests.web.chromium import Theme, Visit, open_chromium
from tests.web.page import Page
from workers import logs
from workers.database import Database

IMAGES = REPOSITORY / "docs" / "images"
PATIENCE_SECONDS = 60


def main() -> None:
    """Take them all."""
    forget_settings()
    logs.configure("console", "WARNING")
    postgres = open_postgres(None)
    folder = tempfile.TemporaryDirectory()
    processes = Processes(Path(folder.name))
    url = postgres.create_database()
    database = Database(url)
    try:
        scenes.write_past(database)
        page = Page(processes, {"DATABASE_URL": url}, "run", "--sample-data").wait()
        eventually(lambda: page.get("/readyz").status_code == 200, timeout_seconds=PATIENCE_SECONDS)
        take(page, database)
    finally:
        processes.kill_all()
        database.close()
        postgres.drop_database(url)
        postgres.close()
        folder.cleanup()


def take(page: Page, database: Database) -> None:
    """Take the pictures of a page that lives: all well first, then with failures."""
    scenes.write_work_in_hand(database)
    with open_chromium() as browser:
        _take_one(browser, page, "overview", "desktop", "light")
        _take_one(browser, page, "overview", "desktop", "dark")
        scenes.write_failures(database)
        _take_one(browser, page, "problems", "phone", "dark")


def _take_one(browser: Browser, page: Page, name: str, width: str, theme: Theme) -> None:
    visit = Visit(browser, page.url, width=width, theme=theme)
    visit.tab.goto("/")
    # The page is alive once it says so.
    expect(visit.tab.locator("#pulse")).to_contain_text("Live")
    IMAGES.mkdir(parents=True, exist_ok=True)
    visit.tab.screenshot(path=IMAGES / f"{name}-{theme}.png")
    visit.close()


if __name__ == "__main__":
    main()
