"""Who may read and act: nobody by guessing, by lying about names, or through another's browser."""

import httpx
import psutil
import pytest
from sqlalchemy import text

from tests.rig.waiting import eventually
from tests.web.page import TOKEN, Page, Pages
from workers.database import Database
from workers.web.access import (
    SESSION_SECONDS,
    WRONG_TOKENS,
    WRONG_TOKENS_SECONDS,
    Keys,
    Throttle,
)
from workers.web.gate import safe_target

JOB = "auto_end_timeout_chats"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PAGES = ("/", "/events", "/runs", "/run?key=x", f"/jobs/{JOB}", "/dead-letters", "/metrics")
ACTS = (f"/jobs/{JOB}/run", "/dead-letters/low/requeue", "/dead-letters/low/drop")


@pytest.fixture(autouse=True)
def _nothing_asked_for(page_database: Database) -> None:
    with page_database.transaction() as session:
        session.execute(text("DELETE FROM outbox_messages"))


def asked_for(database: Database) -> int:
    """Count the runs that pages have asked for."""
    with database.transaction() as session:
        return int(session.scalar(text("SELECT count(*) FROM outbox_messages")) or 0)


def log_in(page: Page, token: str = TOKEN, **options: object) -> httpx.Response:
    return page.post("/login", {"token": token, "next": "/runs"}, **options)


class TestWithAToken:
    @pytest.fixture
    def page(self, pages: Pages) -> Page:
        return pages(OPS_TOKEN=TOKEN)

    def test_nothing_is_shown_or_done_without_it(
        self, pages: Pages, page_database: Database
    ) -> None:
        page = pages.open(OPS_TOKEN=TOKEN)
        for path in PAGES:
            refused = page.get(path)
            assert refused.status_code == 401, path
            assert refused.headers["www-authenticate"] == "Bearer"
            assert page.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
            # A browser is asked for it
            asked = page.get(path, headers={"Accept": "text/html"})
            assert asked.status_code == 303
            assert asked.headers["location"].startswith("/login?next=/")
        for path in ACTS:
            assert page.post(path, {"id": "x"}).status_code == 401
        assert asked_for(page_database) == 0

    def test_health_is_open_and_says_no_secrets(self, page: Page) -> None:
        assert page.get("/healthz").text == "ok\n"
        assert page.get("/readyz").status_code == 503  # no scheduler lives
        assert TOKEN not in page.get("/readyz").text

    def test_a_program_shows_it_in_a_header(self, page: Page, page_database: Database) -> None:
        assert page.get("/", headers=BEARER).status_code == 200
        assert "jobs_database_up 1" in page.get("/metrics", headers=BEARER).text

        # No form, no origin: no other site can make a browser send this header
        accepted = page.post(f"/jobs/{JOB}/run", {}, headers=BEARER)

        assert accepted.status_code == 202
        assert accepted.json()["job"] == JOB
        assert asked_for(page_database) == 1

    def test_a_browser_shows_it_once_and_gets_a_session(self, page: Page) -> None:
        logged_in = log_in(page)

        assert logged_in.status_code == 303
        assert logged_in.headers["location"] == "/runs"
        cookie = logged_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" not in cookie  # over plain HTTP, which a browser would not send it back to
        assert TOKEN not in cookie
        assert page.get("/").status_code == 200

        # Behind a proxy that speaks https, the cookie is for https only
        assert (
            "Secure" in log_in(page, headers={"X-Forwarded-Proto": "https"}).headers["set-cookie"]
        )

        # Until it logs out
        page.client.cookies.clear()
        log_in(page)
        ended = page.post("/logout", {"form_token": page.form_token()})
        assert 'ops_session=""' in ended.headers["set-cookie"]
        assert page.get("/").status_code == 401

    def test_a_session_that_somebody_made_up_is_none(self, page: Page) -> None:
        began, nonce, signature = log_in(page).cookies["ops_session"].split(".")
        for forged in (
            f"{int(began) + 1}.{nonce}.{signature}",
            f"{began}.{nonce}.{'0' * 64}",
            f"{began}.{nonce}",
            "",
            ".",
            "é.é.é",
        ):
            page.client.cookies.clear()
            refused = page.get("/", headers={"Cookie": f"ops_session={forged}".encode()})
            assert refused.status_code == 401, forged

    def test_the_secret_never_shows(self, page: Page) -> None:
        log_in(page)
        for path in (*PAGES, "/login", "/nowhere"):
            if path == "/events":
                continue
            text = page.get(path).text
            assert TOKEN not in text
            assert "postgresql://" not in text
        assert TOKEN not in page.process.output

    def test_guessing_is_slowed_down_and_sessions_go_on(self, pages: Pages) -> None:
        page = pages.open(OPS_TOKEN=TOKEN)
        log_in(page)
        for _ in range(WRONG_TOKENS):
            assert log_in(page, token="guess").status_code == 401

        # Then even the right one has to wait, be it in the form or in a header
        refused = log_in(page)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= WRONG_TOKENS_SECONDS
        other = httpx.get(f"{page.url}/", headers=BEARER)
        assert other.status_code == 429
        # But not who is in already; nor does a made-up address help
        assert page.get("/").status_code == 200
        assert log_in(page, headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 429


class TestWithoutAToken:
    def test_the_page_is_for_this_machine_alone(self, pages: Pages) -> None:
        page = pages()
        page.process.wait_for_output("for this machine only")

        assert page.get("/").status_code == 200
        assert page.get("/", headers={"Host": f"localhost:{page.port}"}).status_code == 200
        # A name that somebody points at 127.0.0.1 is refused, health included
        for host in (
            "evil.example",
            f"evil.example:{page.port}",
            "localhost.evil.example",
            "[::",
            "",
        ):
            for path in ("/", "/healthz"):
                assert page.get(path, headers={"Host": host}).status_code == 421, host

    def test_it_listens_on_the_local_address_only(self, pages: Pages) -> None:
        def addresses(page: Page) -> set[str]:
            connections = psutil.Process(page.process.pid).net_connections()
            return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}

        assert addresses(pages()) == {"127.0.0.1"}
        assert addresses(pages(OPS_TOKEN=TOKEN)) == {"0.0.0.0"}  # noqa: S104


class TestActing:
    """Whatever the browser of somebody is made to send, only our own pages act."""

    @pytest.fixture(params=["with a token", "without"])
    def page(self, pages: Pages, request: pytest.FixtureRequest) -> Page:
        if request.param == "without":
            return pages()
        page = pages(OPS_TOKEN=TOKEN)
        log_in(page)
        return page

    def test_from_our_own_page(self, page: Page, page_database: Database) -> None:
        done = page.post(
            f"/jobs/{JOB}/run",
            {"form_token": page.form_token()},
            headers={"Origin": page.url, "Sec-Fetch-Site": "same-origin"},
        )
        assert done.status_code == 303
        assert done.headers["location"].startswith("/run?key=")
        assert asked_for(page_database) == 1

    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1"},
        ],
        ids=str,
    )
    def test_not_from_another_site_even_with_the_forms_token(
        self, page: Page, page_database: Database, headers: dict[str, str]
    ) -> None:
        form = {"form_token": page.form_token(), "id": "x"}
        for path in ACTS:
            refused = page.post(path, form, headers=headers)
            assert refused.status_code == 403
            assert "another site" in refused.text
        assert asked_for(page_database) == 0

    def test_not_without_the_forms_token(self, page: Page, page_database: Database) -> None:
        for form in ({}, {"form_token": ""}, {"form_token": "0" * 64}, {"form_token": "é"}):
            for path in ACTS:
                refused = page.post(path, {**form, "id": "x"}, headers={"Origin": page.url})
                assert refused.status_code == 403
                assert "reload it" in refused.text
        assert asked_for(page_database) == 0

    def test_not_by_a_link(self, page: Page, page_database: Database) -> None:
        for path in ACTS:
            assert page.get(path, params={"form_token": page.form_token()}).status_code == 405
        assert asked_for(page_database) == 0

    def test_not_with_another_kind_of_body(self, page: Page, page_database: Database) -> None:
        refused = page.client.post(f"/jobs/{JOB}/run", json={"form_token": page.form_token()})
        assert refused.status_code == 415
        assert asked_for(page_database) == 0

    def test_not_on_what_does_not_exist(self, page: Page) -> None:
        form = {"form_token": page.form_token(), "id": "x"}
        for path in (
            "/jobs/make_coffee/run",
            "/dead-letters/attic/requeue",
            "/dead-letters/low/eat",
        ):
            assert page.post(path, form).status_code == 404, path
        assert page.post("/dead-letters/low/requeue", {"form_token": form["form_token"]}).is_error


def test_a_form_token_of_one_session_is_none_of_anothers(pages: Pages) -> None:
    page = pages(OPS_TOKEN=TOKEN)
    log_in(page)
    of_mine = page.form_token()
    page.client.cookies.clear()
    log_in(page)
    assert page.form_token() != of_mine
    assert page.post(f"/jobs/{JOB}/run", {"form_token": of_mine}).status_code == 403


class TestKeys:
    def test_sessions_outlive_a_restart_but_not_a_new_token(self) -> None:
        session = Keys(TOKEN).new_session()
        assert Keys(TOKEN).is_session(session)
        assert not Keys("another").is_session(session)

    def test_sessions_end(self) -> None:
        now = 1_000_000.0
        keys = Keys(TOKEN, clock=lambda: now)
        session = keys.new_session()
        now += SESSION_SECONDS - 1
        assert keys.is_session(session)
        now += 2
        assert not keys.is_session(session)

    def test_without_a_token_nothing_opens_the_gate(self) -> None:
        keys = Keys(None)
        assert keys.is_open
        assert not keys.is_token("")
        assert not Keys(TOKEN).is_token("")


class TestThrottle:
    def test_forgets_in_time_and_knows_addresses_apart(self) -> None:
        now = 0.0
        throttle = Throttle(clock=lambda: now)
        for _ in range(WRONG_TOKENS):
            assert throttle.wait_seconds("a") == 0
            throttle.note_wrong_token("a")
        assert throttle.wait_seconds("a") == WRONG_TOKENS_SECONDS + 1
        assert throttle.wait_seconds("b") == 0
        now += WRONG_TOKENS_SECONDS
        assert throttle.wait_seconds("a") == 0


@pytest.mark.parametrize(
    ("target", "where"),
    [
        ("/runs?status=dead", "/runs?status=dead"),
        ("//evil.example/x", "/"),
        ("///evil.example/x", "/"),
        ("////evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_logging_in_leads_to_our_own_pages_only(target: str, where: str) -> None:
    assert safe_target(target) == where


def test_a_stream_ends_with_the_page(pages: Pages) -> None:
    page = pages.open()
    with page.client.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        eventually(lambda: next(lines) == "event: beat")
        page.process.terminate()
        for _ in lines:
            pass
    assert page.process.wait(timeout_seconds=10) == 0
    # Not by force, after a wait
    assert "timeout graceful shutdown exceeded" not in page.process.output
