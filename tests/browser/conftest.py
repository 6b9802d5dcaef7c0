"""A real Chromium on a live API. Without one the tests are skipped on a laptop, and fail in CI."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from shared.settings import Settings
from shared.storage import ObjectStore
from shared.store import JobStore
from tests.support.api import ApiServer, StandIn, new_key

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's; Playwright's own cannot be downloaded everywhere."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no chromium; apt-get install chromium")
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_pool() -> str:
    """The pool of the API that serves the page."""
    return f"p{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def page_api(
    settings: Settings, objects: ObjectStore, page_pool: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """gunicorn with the page."""
    server = ApiServer(settings.model_copy(update={"pool": page_pool}), tmp_path_factory.mktemp("page"), processes=1)
    yield server
    server.process.stop()


@pytest.fixture
def worker(store: JobStore, objects: ObjectStore, page_pool: str) -> StandIn:
    """What a worker would write."""
    return StandIn(store, objects, page_pool)


@pytest.fixture
def page(chromium: Browser, page_api: ApiServer) -> Iterator[Page]:
    """An empty tab on the page; anything the browser complains about fails the test."""
    tab = chromium.new_page(viewport={"width": 1000, "height": 900})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.set_default_timeout(15_000)
    tab.goto(page_api.url)
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
