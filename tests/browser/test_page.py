"""The web page as a person uses it, in Chromium."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from shared.store.jobs import JobStore
from tests.support.api import ApiServer, StandIn, new_key, picture

SHOTS = os.environ.get("DREAMQUEUE_TEST_SHOTS")  # a folder: keep screenshots to look at
EVIL = '<img src=x onerror="document.title=1">'


def shot(page: Page, name: str) -> None:
    """A screenshot, where somebody wants to look."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def newest(store: JobStore, tenant: str) -> str:
    """The id of the tenant's newest job."""
    return store.list_jobs(tenant, limit=1).jobs[0].id


def test_from_prompt_to_ranked_pictures(signed_in: Page, live_worker: StandIn, store: JobStore, tenant: str) -> None:
    page = signed_in
    expect(page.locator("#empty")).to_be_visible()
    page.fill("#prompt", "a red apple")
    page.fill("#seed", "0")
    page.click("text=Make it")
    card = page.locator("li.job").first
    expect(card.locator(".state")).to_have_text("queued")
    job_id = newest(store, tenant)
    claim = live_worker.claim(job_id)
    expect(card.locator(".state")).to_have_text("running")
    live_worker.store.progress(claim, {"fraction": 0.4, "stage": "sample", "step": 40, "total": 100})
    live_worker.preview(claim, 40, picture("orange", (64, 64)))
    expect(card.locator(".stage")).to_contain_text("sample 40/100")
    expect(card.locator("img[alt=preview]")).to_have_js_property("naturalWidth", 64)
    shot(page, "running")
    live_worker.finish(claim, [picture(colour, (64, 64)) for colour in ("red", "crimson", "brown", "tomato")])
    expect(card.locator(".state")).to_have_text("succeeded")
    expect(card.locator("figure")).to_have_count(4)
    expect(card.locator("figcaption").first).to_contain_text("#1 score 0.300seed 7")
    for index in range(4):
        expect(card.locator("figure img").nth(index)).to_have_js_property("naturalWidth", 64)
    assert store.get(tenant, job_id).spec["seed"] == 0
    shot(page, "done")
    page.reload()
    expect(page.locator("li.job figure img").first).to_have_js_property("naturalWidth", 64)


def test_cancel_and_again(signed_in: Page, live_worker: StandIn, store: JobStore, tenant: str) -> None:
    page = signed_in
    page.fill("#prompt", "a green tree")
    page.click("text=Dream")
    page.click("text=Make it")
    card = page.locator("li.job").first
    card.locator(".pause").click()
    expect(card.locator(".state")).to_have_text("paused")
    card.locator(".pause").click()
    expect(card.locator(".state")).to_have_text("queued")
    card.locator(".cancel").click()
    expect(card.locator(".state")).to_have_text("cancelled")
    card.locator(".retry").click()
    expect(page.locator("li.job")).to_have_count(2)
    claim = live_worker.claim(newest(store, tenant))
    expect(page.locator("li.job").first.locator(".state")).to_have_text("running")
    live_worker.store.fail(claim, {"code": "non_finite", "message": "the latent became NaN", "retryable": False})
    expect(page.locator("li.job").first.locator(".error")).to_have_text("the latent became NaN")
    shot(page, "failed")


def test_classify_an_uploaded_picture(
    signed_in: Page, live_worker: StandIn, store: JobStore, tenant: str, tmp_path: Path
) -> None:
    page = signed_in
    (tmp_path / "a.png").write_bytes(picture())
    page.click("text=Name")
    page.set_input_files("#picture", tmp_path / "a.png")
    page.fill("#labels", "apple, pear")
    page.click("text=Make it")
    expect(page.locator("li.job")).to_have_count(1)
    claim = live_worker.claim(newest(store, tenant))
    labels = [{"label": "apple", "probability": 0.9}, {"label": "pear", "probability": 0.1}]
    live_worker.finish(claim, classifications=[{"image": claim.spec["images"][0], "labels": labels}])
    expect(page.locator(".labels li").first).to_contain_text("apple 0.90")
    shot(page, "classified")


def test_vary_a_picture(signed_in: Page, live_worker: StandIn, store: JobStore, tenant: str, tmp_path: Path) -> None:
    page = signed_in
    (tmp_path / "a.png").write_bytes(picture())
    page.click("text=Imagine")
    page.set_input_files("#varied", tmp_path / "a.png")
    page.fill("#n", "3")
    page.fill("#keep", "2")
    page.click("text=Make it")
    expect(page.locator("li.job")).to_have_count(1)
    claim = live_worker.claim(newest(store, tenant))
    assert claim.spec["image"].startswith("img_")
    assert (claim.spec["prompts"], claim.spec["n"], claim.spec["keep"]) == ([], 3, 2)
    shot(page, "varied")


def test_what_is_wrong_is_said(signed_in: Page) -> None:
    page = signed_in
    page.click("text=Make it")
    expect(page.locator("#refusal")).to_have_text("Say what to make.")
    page.fill("#prompt", "x")
    page.fill("#n", "4")
    page.fill("#keep", "9")
    page.click("text=Make it")
    expect(page.locator("#refusal")).to_contain_text("keep is 9 but n is only 4")
    expect(page.locator("li.job")).to_have_count(0)


def test_a_wrong_key_is_refused(page: Page) -> None:
    page.fill("#key", "dq_000000000000_wrong")
    page.click("text=Use key")
    expect(page.locator("#sign-in")).to_be_visible()
    expect(page.locator("#fleet")).to_have_text("this API key is not valid")


def test_prompts_are_text_never_markup(signed_in: Page) -> None:
    page = signed_in
    page.fill("#prompt", EVIL)
    page.click("text=Make it")
    expect(page.locator("li.job h2")).to_have_text(EVIL)
    assert page.title() == "dreamqueue"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(
    chromium: Browser, live_api: ApiServer, live_worker: StandIn, store: JobStore, tenant: str, scheme: str
) -> None:
    context = chromium.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(live_api.url)
    page.fill("#key", new_key(store, tenant))
    page.click("text=Use key")
    page.fill("#prompt", "a very long prompt " * 10 + "x" * 80)
    page.click("text=Make it")
    expect(page.locator("li.job")).to_have_count(1)
    live_worker.finish(live_worker.claim(newest(store, tenant)), [picture("teal", (64, 64))] * 3)
    expect(page.locator("figure")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"
    shot(page, f"phone-{scheme}")
    context.close()


def test_the_docs_page_shows_the_api(page: Page, live_api: ApiServer) -> None:
    page.goto(f"{live_api.url}/docs")
    expect(page.locator("#operations-jobs-submit_job")).to_be_visible()  # drawn by a script of 1.5 MB
    shot(page, "docs")
