"""In a real browser: the page keeps itself up to date, and can be worked with, by keyboard too."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from tests.rig.waiting import eventually
from tests.web import scenes
from tests.web.chromium import Visit
from tests.web.page import TOKEN, Page, Pages
from workers import runs
from workers.database import Database
from workers.periodic import utc_now

JOB = "cleanup_long_inactive_chats"

OpenVisit = Callable[..., Visit]


@pytest.fixture
def service(pages: Pages, page_database: Database) -> Page:
    """``python -m workers run``, one for all tests of the module, with an empty ledger."""
    page = pages("run")
    with page_database.transaction() as session:
        session.execute(text("DELETE FROM job_runs WHERE status = 'dead' OR job = 'demo'"))
    return page


def test_what_happens_shows_without_a_reload(
    service: Page, page_database: Database, visit: OpenVisit
) -> None:
    somebody = visit(service)
    somebody.tab.goto("/")
    expect(somebody.tab.locator("#pulse")).to_contain_text("Live")
    somebody.tab.evaluate("window.isTheSamePage = true")
    run_now = somebody.tab.get_by_role("button", name=f"Run {JOB} now")
    run_now.focus()
    handle = run_now.element_handle()

    # When something happens
    with page_database.transaction() as session:
        run = scenes.new_run(
            JOB, status="dead", number=77, error="it was a bad night", finished_at=utc_now()
        )
        session.add(run)

    # Then it shows, in the row, in the verdict and in the window's title
    row = somebody.tab.locator(f"#job-{JOB}")
    expect(row).to_contain_text("it was a bad night")
    expect(somebody.tab.get_by_role("heading", level=1)).to_contain_text("to look at")
    expect(somebody.tab).to_have_title(re.compile(r"^\(\d\) "))
    expect(somebody.tab.locator("#icon")).to_have_attribute("href", "/static/warning.svg")
    # And nobody's place on the page is lost
    assert somebody.tab.evaluate("window.isTheSamePage")
    assert handle.evaluate("element => element === document.activeElement")


def test_time_passes_on_the_page(service: Page, visit: OpenVisit) -> None:
    somebody = visit(service)
    somebody.tab.goto("/")
    due = somebody.tab.locator("#job-send_timeout_warnings time[data-due]")
    before = due.text_content()
    expect(due).not_to_have_text(before or "")


def test_run_now_runs_the_job_and_shows_how_it_went(
    service: Page, page_database: Database, visit: OpenVisit
) -> None:
    somebody = visit(service, width="phone")
    somebody.tab.goto("/")
    somebody.tab.get_by_role("button", name=f"Run {JOB} now").click()

    somebody.tab.wait_for_url("**/run?key=*")
    expect(somebody.tab.get_by_role("heading", level=1)).to_contain_text("Succeeded")
    expect(somebody.tab.locator("main")).to_contain_text("none: on demand")
    key = somebody.tab.locator(".facts-of-run .id").last.text_content()
    run = runs.find_run(page_database, key or "")
    assert run is not None
    assert (run.job, run.status, run.slot) == (JOB, "succeeded", None)


def test_a_dead_letter_is_sent_again_and_runs(
    service: Page, page_database: Database, visit: OpenVisit
) -> None:
    with page_database.transaction() as session:
        run = scenes.new_run(
            JOB, status="dead", number=78, attempt=4, error=scenes.ERROR, finished_at=utc_now()
        )
        session.add(run)

    somebody = visit(service, width="phone", theme="dark")
    somebody.tab.goto("/dead-letters")
    somebody.tab.get_by_role("link", name=JOB).click()
    expect(somebody.tab.locator("pre").first).to_contain_text("expire_user_coupons".upper())
    somebody.tab.get_by_role("button", name="Send again").click()

    expect(somebody.tab.get_by_role("status")).to_contain_text("Sent 1 dead letter again.")
    expect(somebody.tab.locator("main")).to_contain_text("There are none")

    def has_succeeded() -> bool:
        found = runs.find_run(page_database, run.run_key)
        return found is not None and (found.status, found.attempt) == ("succeeded", 5)

    eventually(has_succeeded, timeout_seconds=30)


def test_the_keyboard_is_enough(service: Page, page_database: Database, visit: OpenVisit) -> None:
    with page_database.transaction() as session:
        for number in range(200, 230):
            job = "process_customer_service_queue"
            session.add(scenes.new_run(job, status="succeeded", number=number))
    somebody = visit(service)
    somebody.tab.goto("/")
    focused = "(() => { const e = document.activeElement; return e.textContent.trim(); })()"
    press = somebody.tab.keyboard.press

    # The first stop leads past what is on every page
    press("Tab")
    assert somebody.tab.evaluate(focused) == "Skip to content"
    outline = somebody.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    press("Enter")
    assert somebody.tab.evaluate("document.activeElement.id") == "main"

    # Each job is two or three stops: its page, its last run, its button; not fifty for its strip
    seen: list[str] = []
    while len(seen) < 80 and "Run now" not in seen[-1:]:
        press("Tab")
        seen.append(somebody.tab.evaluate(focused))
    assert len(seen) < 8, seen

    press("Enter")
    somebody.tab.wait_for_url("**/run?key=*")
    expect(somebody.tab.get_by_role("heading", level=1)).to_contain_text("Succeeded")


def test_without_javascript_it_reads_acts_and_reloads(service: Page, visit: OpenVisit) -> None:
    somebody = visit(service, has_script=False)
    somebody.tab.goto("/")
    expect(somebody.tab.locator("meta[http-equiv=refresh]")).to_have_count(1)

    somebody.tab.get_by_role("button", name=f"Run {JOB} now").click()

    somebody.tab.wait_for_url("**/run?key=*")
    expect(somebody.tab.locator(".crumbs")).to_contain_text(JOB)


def test_a_script_in_an_error_does_not_run(
    service: Page, page_database: Database, visit: OpenVisit
) -> None:
    script = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    somebody = visit(service)
    somebody.tab.goto("/")
    expect(somebody.tab.locator("#pulse")).to_contain_text("Live")
    # It comes in by the way that the page is kept up to date, and then by its own page
    with page_database.transaction() as session:
        run = scenes.new_run(JOB, status="dead", number=79, error=script, finished_at=utc_now())
        session.add(run)
    expect(somebody.tab.locator(f"#job-{JOB}")).to_contain_text("onerror")
    assert somebody.tab.locator("main img").count() == 0
    somebody.tab.goto(f"/run?key={run.run_key}")
    expect(somebody.tab.locator("main")).to_contain_text(script)
    assert somebody.tab.title() != "owned"


def test_a_person_logs_in_once_and_out(pages: Pages, visit: OpenVisit) -> None:
    page = pages(OPS_TOKEN=TOKEN)
    somebody = visit(page, width="phone")
    somebody.tab.goto("/runs?status=dead")
    expect(somebody.tab).to_have_title(re.compile("Log in"))
    assert somebody.overflow() == 0
    token = somebody.tab.get_by_label("Token")
    expect(token).to_be_focused()
    token.fill(TOKEN)
    somebody.tab.keyboard.press("Enter")

    somebody.tab.wait_for_url("**/runs?status=dead")
    expect(somebody.tab.get_by_role("heading", level=1)).to_have_text("Runs")
    somebody.tab.get_by_role("button", name="Log out").click()
    somebody.tab.wait_for_url("**/login")
    # Whoever goes back in history finds nothing
    somebody.tab.goto("/")
    expect(somebody.tab).to_have_title(re.compile("Log in"))


def test_another_site_cannot_act_with_a_persons_session(
    pages: Pages, page_database: Database, visit: OpenVisit
) -> None:
    """The same machine by another name is another site to the browser."""
    page = pages(OPS_TOKEN=TOKEN)
    somebody = visit(page)
    somebody.tab.goto("/login")
    somebody.tab.get_by_label("Token").fill(TOKEN)
    somebody.tab.keyboard.press("Enter")
    expect(somebody.tab.get_by_role("heading", level=1)).to_be_visible()

    # Given a page elsewhere with a form for ours
    elsewhere = f"http://localhost:{page.port}/elsewhere"
    form = f'<form method="post" action="{page.url}/jobs/{JOB}/run"><button>Win</button></form>'
    somebody.context.route(
        elsewhere, lambda route: route.fulfill(body=form, content_type="text/html")
    )
    somebody.tab.goto(elsewhere)
    with somebody.tab.expect_response("**/run") as answer:
        somebody.tab.get_by_role("button", name="Win").click()

    assert answer.value.status in (401, 403)
    with page_database.transaction() as session:
        count = text("SELECT count(*) FROM outbox_messages WHERE published_at IS NULL")
        assert session.scalar(count) == 0
    # The browser itself says that the answer was no success; that is no complaint of our page
    somebody.complaints.clear()


def test_a_page_that_is_cut_off_says_so_and_comes_back(pages: Pages, visit: OpenVisit) -> None:
    page = pages.open()
    somebody = visit(page)
    somebody.tab.goto("/")
    pulse = somebody.tab.locator("#pulse")
    expect(pulse).to_contain_text("Live")

    page.process.kill()

    expect(pulse).to_contain_text("No news for", timeout=30_000)
    somebody.complaints.clear()
    page.restart()
    # It comes back by itself, and newly loaded, since its forms are of another process
    expect(pulse).to_contain_text("Live", timeout=30_000)
    somebody.tab.get_by_role("button", name=f"Run {JOB} now").click()
    somebody.tab.wait_for_url("**/run?key=*")
    somebody.complaints.clear()
