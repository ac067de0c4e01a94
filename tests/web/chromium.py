"""A real Chromium, without a window, that notes what pages complain about."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, sync_playwright
from playwright.sync_api import Page as Tab

from tests.rig.environment import REPOSITORY

Theme = Literal["light", "dark"]

WIDTHS = {"desktop": (1280, 900), "phone": (375, 812)}

FLAGS = (
    "--no-sandbox",  # which root has no use of
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """Start the installed Chromium, with a profile of its own that goes away with it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        yield browser
        browser.close()


def find_chromium() -> str:
    """Return the path of the installed browser.

    Raises:
        AssertionError: if there is none.
    """
    found = subprocess.run(
        [REPOSITORY / "scripts" / "find-chromium"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, "Chromium is not installed: run 'make test', or set CHROMIUM"
    return found.stdout.strip()


class Visit:
    """Somebody who looks at the page: a browser's window, its cookies, and what went wrong in it.

    Args:
        browser: whose.
        url: where the page is.
        width: of the window, by name.
        theme: what the person likes.
        has_script: whether JavaScript is on.
    """

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        width: str = "desktop",
        theme: Theme = "light",
        has_script: bool = True,
    ) -> None:
        wide, high = WIDTHS[width]
        self.context: BrowserContext = browser.new_context(
            base_url=url,
            viewport={"width": wide, "height": high},
            color_scheme=theme,
            java_script_enabled=has_script,
            reduced_motion="reduce",
            timezone_id="America/New_York",
        )
        self.tab: Tab = self.context.new_page()
        self.tab.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.tab.on("console", self._note)
        self.tab.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        script = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.tab.evaluate(script))

    def close(self) -> None:
        self.context.close()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")
