"""What the pages show is what the ledger holds: all of it, and as text, whoever wrote it."""

import html
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.rig.waiting import eventually
from tests.web import scenes
from tests.web.page import Page, Pages
from workers.database import Database
from workers.models import JobRun
from workers.periodic import utc_now

SCRIPT = "<script>alert('x')</script><img src=x onerror=alert(1)>"
EVERY_PAGE = ("/", "/runs", "/jobs/check_expired_coupons", "/dead-letters", "/nowhere")


@pytest.fixture
def page(pages: Pages, page_database: Database) -> Page:
    with page_database.transaction() as session:
        session.execute(text("DELETE FROM job_runs"))
    return pages()


def add(database: Database, **columns: Any) -> JobRun:
    run = scenes.new_run(**{"job": "check_expired_coupons", "status": "succeeded", **columns})
    with database.transaction() as session:
        session.add(run)
    return run


class TestInjection:
    def test_a_script_in_an_error_a_result_or_a_name_is_shown_as_text(
        self, page: Page, page_database: Database
    ) -> None:
        add(
            page_database,
            status="dead",
            error=f"{SCRIPT}\n\n{SCRIPT}",
            result={SCRIPT: SCRIPT},
            run_key=f"key {SCRIPT}",
            message_id=f"id {SCRIPT}",
            worker=SCRIPT,
            finished_at=utc_now(),
        )
        add(page_database, number=2, status="running", job=SCRIPT, result={SCRIPT: 1})
        key = {"key": f"key {SCRIPT}"}
        letter = {"id": f"id {SCRIPT}"}
        eventually(lambda: "&lt;img" in page.get("/").text)
        shown = [
            page.get("/").text,
            page.get("/runs").text,
            page.get("/jobs/check_expired_coupons").text,
            page.get("/run", params=key).text,
            page.get("/dead-letters").text,
            page.get("/dead-letters/default", params=letter).text,
        ]
        for each in shown:
            assert "<script>alert" not in each
            assert "<img" not in each
            assert "&lt;script&gt;alert" in each

    @pytest.mark.parametrize(
        "path",
        [
            f"/{SCRIPT}",
            f"/runs?job={SCRIPT}",
            f"/runs?status={SCRIPT}",
            f"/runs?before={SCRIPT}",
            f"/run?key={SCRIPT}",
            f"/run?key=x&asked={SCRIPT}",
            f"/jobs/{SCRIPT}",
            f"/dead-letters?done={SCRIPT}&count={SCRIPT}",
            f"/dead-letters/{SCRIPT}?id={SCRIPT}",
            f"/login?next={SCRIPT}",
            "/run?key=%00&asked=check_expired_coupons",
            "/run?key=%ff%ed%a0%80",
            "/runs?before=99999999999999999999",
            "/runs?before=%D9%A3",
            "/dead-letters?done=drop&count=%D9%A3",
            "/dead-letters/default?id=%00",
        ],
    )
    def test_nor_does_it_come_back_from_an_address(self, page: Page, path: str) -> None:
        answer = page.get(path, headers={"Accept": "text/html"})
        assert answer.status_code < 500
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text

    def test_no_page_runs_or_styles_what_is_written_in_it(self, page: Page) -> None:
        for path in EVERY_PAGE:
            answer = page.get(path, headers={"Accept": "text/html"})
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"
            assert " style=" not in answer.text
            assert "<script>" not in answer.text
            assert "http://" not in answer.text.replace("http://www.w3.org", "")
            assert "https://" not in answer.text


class TestSizes:
    def test_a_query_string_of_a_megabyte_is_refused(self, page: Page) -> None:
        for path in ("/", "/healthz", "/login", "/static/page.css"):
            assert page.get_at_any_length(f"{path}?q={'x' * 1_048_576}") == 414
            refused = page.get(f"{path}?q={'x' * 5_000}")
            assert refused.status_code == 414
            assert refused.text == "The address is too long.\n"
        assert page.get("/").status_code == 200

    def test_a_path_of_a_megabyte_is_refused(self, page: Page) -> None:
        assert page.get_at_any_length(f"/jobs/{'x' * 1_048_576}") == 414

    def test_a_huge_body_is_refused_told_in_advance_or_not(self, page: Page) -> None:
        def drop_by_drop() -> Any:
            for _ in range(50):
                yield b"x" * 100_000

        for path in ("/login", "/jobs/check_expired_coupons/run", "/"):
            assert page.client.post(path, content=b"x" * 5_000_000).status_code == 413
            assert page.client.post(path, content=drop_by_drop()).status_code == 413
        assert page.get("/").status_code == 200

    def test_whoever_reads_the_answer_only_after_sending_all_gets_it(self, page: Page) -> None:
        answer = page.send_all_then_read("POST /login HTTP/1.1", b"x" * 10_000_000)
        assert answer.startswith("HTTP/1.1 413 ")

    def test_a_huge_header_breaks_nothing(self, page: Page) -> None:
        try:
            assert page.get("/", headers={"X-Much": "x" * 5_000_000}).is_client_error
        except httpx.TransportError:
            page.client.close()
            page.client = httpx.Client(base_url=page.url, timeout=30)
        assert page.get("/").status_code == 200

    def test_a_form_of_many_fields_is_none(self, page: Page) -> None:
        fields = {f"f{number}": "" for number in range(100)}
        fields["form_token"] = page.form_token()
        assert page.post("/logout", fields).status_code == 403


class TestTheLedger:
    def test_is_shown_page_by_page_newest_first(self, page: Page, page_database: Database) -> None:
        for number in range(60):
            add(page_database, number=100 + number, run_key=f"run-{number:02}", worker="w:1")

        first = page.get("/runs").text
        assert first.index("key=run-59") < first.index("key=run-10")
        assert "key=run-09" not in first
        older = html.unescape(first.partition('rel="next"')[0].rpartition('href="')[2]).rstrip('" ')
        second = page.get(f"/runs{older}").text
        assert "key=run-09" in second
        assert "key=run-10" not in second

    def test_is_narrowed_down_by_job_and_status(self, page: Page, page_database: Database) -> None:
        add(page_database, number=1, run_key="good")
        add(page_database, number=2, run_key="bad", status="dead", error="no")
        add(page_database, number=3, run_key="other", job="check_expired_points")

        dead = page.get("/runs?status=dead").text
        assert "key=bad" in dead
        assert "key=good" not in dead
        of_one = page.get("/jobs/check-expired-coupons").text
        assert "key=good" in of_one
        assert "key=other" not in of_one.partition("<tbody>")[2]

    def test_one_run_is_shown_with_all_that_is_known(
        self, page: Page, page_database: Database
    ) -> None:
        now = utc_now()
        add(
            page_database,
            status="retrying",
            attempt=3,
            slot=now.replace(microsecond=0),
            started_at=now - timedelta(seconds=3),
            finished_at=now,
            error=scenes.ERROR,
            result={"coupons": 20_000},
        )
        key = f"check_expired_coupons@{now:%Y-%m-%dT%H:%M:%SZ}"
        shown = html.unescape(page.get("/run", params={"key": key}).text)
        for part in ("Will be retried", "canceling statement", "3.0 s", "worker-1:4", key):
            assert part in shown
        assert 'File "workers/marketplace/expiry.py", line 58, in expire_coupons' in shown
        assert "20\u202f000" in shown
