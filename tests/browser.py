"""A real browser for the tests of pages: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Where there is none the tests are skipped, which CI does not let pass."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        said = "no Chromium here (apt install chromium): pages are not tested"
        if os.environ.get("FEED_BANDIT_CI") == "1":
            pytest.fail(said)
        pytest.skip(said)
    with sync_playwright() as playwright:
        # As root, as in containers, Chromium has no sandbox; it opens pages of this repository alone.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page of the browser in a profile of its own, and everything that a page must not do.

    :ivar faults: errors on the console, exceptions, and requests to any other host
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self._context = browser.new_context(**options)
        self.page: Page = self._context.new_page()
        self.faults: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._requested)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "data:")):
            self.faults.append(f"it asks another host: {request.url}")

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def is_wider_than_its_window(self) -> bool:
        """Whether one would have to scroll sideways."""
        found: bool = self.page.evaluate(
            "document.documentElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth"
        )
        return found

    def close(self) -> None:
        self._context.close()
