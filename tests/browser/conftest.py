"""A real Chromium on a live API. Without one the tests are skipped on a laptop, and fail in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from shared.store.jobs import JobStore
from tests.support.api import ApiServer, new_key
from tests.support.polling import PATIENCE_S

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = PATIENCE_S * 1000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's; Playwright's own cannot be downloaded everywhere."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium; apt-get install chromium")
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, live_api: ApiServer) -> Iterator[Page]:
    """An empty tab on the page; anything the browser complains about fails the test."""
    tab = chromium.new_page(viewport={"width": 1000, "height": 900})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.set_default_timeout(PATIENCE_MS)
    tab.goto(live_api.url)
    yield tab
    tab.close()
    assert [text for text in complaints if "401" not in text and "422" not in text] == []


@pytest.fixture
def signed_in(page: Page, store: JobStore, tenant: str) -> Page:
    """The page with a key."""
    page.fill("#key", new_key(store, tenant))
    page.click("text=Use key")
    page.wait_for_selector("#compose:not([hidden])")
    return page
