"""What stands in ``infra/rabbitmq``, and what its scripts make of it. No node is needed for it."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.rig.hardened import INFRA, USERS
from workers import messages
from workers.job import QUEUES
from workers.settings import Settings

FILES = (INFRA / "rabbitmq.conf", *sorted((INFRA / "conf.d").iterdir()))
LONGEST_RETRY_DELAY = timedelta(seconds=300)


class TestTheConfiguration:
    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
    def test_gives_a_reason_for_each_line(self, path: Path) -> None:
        # One comment may stand before several lines, as long as nothing is between them.
        for paragraph in path.read_text().strip().split("\n\n"):
            assert paragraph.startswith("#")

    @pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.name))
    def test_says_nothing_twice(self, path: Path) -> None:
        keys = re.findall(r"^([\w.]+) = ", path.read_text(), re.MULTILINE)
        assert keys
        assert len(keys) == len(set(keys))

    def test_lets_messages_wait_as_long_as_the_service_does(self) -> None:
        # Given the longest that a message may wait for its time, then for its turn, and then run
        longest_wait = messages.MAX_AHEAD + 2 * LONGEST_RETRY_DELAY
        hard_limit = timedelta(seconds=Settings.model_fields["hard_time_limit_seconds"].default)
        in_hand = longest_wait + 2 * hard_limit

        assert value("consumer_timeout") > in_hand / timedelta(milliseconds=1)

    def test_lets_no_message_in_that_is_far_too_large_and_each_that_is_not(self) -> None:
        assert messages.MAX_BODY_BYTES <= value("max_message_size") <= 2 * messages.MAX_BODY_BYTES


class TestCreateUsers:
    def create(self, folder: Path, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [
                *(sys.executable, str(INFRA / "create-users")),
                *("--urls", "urls.env", "definitions.json", *arguments),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @staticmethod
    def urls(folder: Path) -> dict[str, str]:
        lines = (folder / "urls.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @staticmethod
    def hashes(folder: Path) -> dict[str, str]:
        definitions = json.loads((folder / "definitions.json").read_text())
        return {user["name"]: user["password_hash"] for user in definitions["users"]}

    def test_makes_passwords_of_which_rabbitmq_gets_salted_hashes(self, tmp_path: Path) -> None:
        printed = self.create(tmp_path)

        urls, hashes = self.urls(tmp_path), self.hashes(tmp_path)
        assert set(hashes) == set(USERS)
        for user in USERS:
            password = unquote(urlsplit(urls[f"RABBITMQ_URL_{user.upper()}"]).password or "")
            assert len(password) >= 43
            assert password not in printed
            decoded = base64.b64decode(hashes[user])
            salt, digest = decoded[:4], decoded[4:]
            assert digest == hashlib.sha256(salt + password.encode()).digest()
        assert len(set(hashes.values())) == len(USERS)

    def test_lets_nobody_else_read_the_passwords(self, tmp_path: Path) -> None:
        # Given a file that somebody left open
        (tmp_path / "urls.env").touch(mode=0o666)

        self.create(tmp_path)

        assert (tmp_path / "urls.env").stat().st_mode & 0o777 == 0o600
        assert sorted(path.name for path in tmp_path.iterdir()) == ["definitions.json", "urls.env"]

    def test_run_again_changes_nothing(self, tmp_path: Path) -> None:
        self.create(tmp_path)
        before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]

        assert "as before" in self.create(tmp_path)

        assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before

    def test_changes_the_passwords_that_it_is_told_to_and_no_others(self, tmp_path: Path) -> None:
        self.create(tmp_path)
        urls, hashes = self.urls(tmp_path), self.hashes(tmp_path)

        self.create(tmp_path, "--rotate", "scheduler")

        changed = {name for name, url in self.urls(tmp_path).items() if url != urls[name]}
        assert changed == {"RABBITMQ_URL_SCHEDULER"}
        changed = {name for name, each in self.hashes(tmp_path).items() if each != hashes[name]}
        assert changed == {"scheduler"}

    def test_takes_over_new_rights_with_the_old_passwords(self, tmp_path: Path) -> None:
        # Given definitions of an earlier version, without one of the users and with other rights
        self.create(tmp_path)
        hashes = self.hashes(tmp_path)
        old = json.loads((tmp_path / "definitions.json").read_text())
        old["users"] = [user for user in old["users"] if user["name"] != "subscriber"]
        old["permissions"] = []
        (tmp_path / "definitions.json").write_text(json.dumps(old))

        self.create(tmp_path)

        new = json.loads((tmp_path / "definitions.json").read_text())
        assert new["permissions"] == template()["permissions"]
        kept = {name for name, each in self.hashes(tmp_path).items() if each == hashes[name]}
        assert kept == set(USERS) - {"subscriber"}

    def test_writes_urls_that_ask_for_the_servers_certificate(self, tmp_path: Path) -> None:
        self.create(tmp_path, "--host", "mq.example:5671", "--ca", "/etc/it's/ca.pem")

        url = urlsplit(self.urls(tmp_path)["RABBITMQ_URL_WORKER"])
        assert (url.scheme, url.hostname, url.port) == ("amqps", "mq.example", 5671)
        assert url.path == "/marketplace"
        (options,) = parse_qs(url.query)["ssl_options"]
        assert options == repr({"ca_certs": "/etc/it's/ca.pem"})

    @pytest.mark.parametrize(
        ("arguments", "code", "complaint"),
        [
            (("--rotate", "guest"), 2, "there is no user 'guest'"),
            (("--scheme", "http"), 2, "invalid choice: 'http'"),
            (("--urls", "no/such/folder"), 1, "No such file or directory"),
        ],
    )
    def test_says_what_is_wrong_and_writes_nothing(
        self, tmp_path: Path, arguments: tuple[str, ...], code: int, complaint: str
    ) -> None:
        assert complaint in self.create(tmp_path, *arguments, code=code)
        assert list(tmp_path.iterdir()) == []

    def test_leaves_a_file_alone_that_is_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "definitions.json").write_text('{"name": "app"}')

        assert "move it away first" in self.create(tmp_path, code=1)

        assert (tmp_path / "definitions.json").read_text() == '{"name": "app"}'


class TestTheDefinitions:
    def test_hold_no_password(self) -> None:
        # An empty hash is the password of nobody: who is let in is for create-users to say.
        assert {user["password_hash"] for user in template()["users"]} == {""}

    def test_name_each_user_once_with_rights_on_the_one_virtual_host(self) -> None:
        definitions = template()
        assert [user["name"] for user in definitions["users"]] == list(USERS)
        assert [each["user"] for each in definitions["permissions"]] == list(USERS)
        assert {each["vhost"] for each in definitions["permissions"]} == {"marketplace"}

    def test_make_nobody_an_administrator(self) -> None:
        tags = {user["name"]: user["tags"] for user in template()["users"]}
        assert tags.pop("monitoring") == ["monitoring"]
        assert set(map(tuple, tags.values())) == {()}

    def test_limit_no_queue_of_ours(self) -> None:
        names = [queue + suffix for queue in QUEUES for suffix in ("", ".DQ", ".XQ")]
        for policy in template()["policies"]:
            assert not any(re.search(policy["pattern"], name) for name in names)


def template() -> Any:
    return json.loads((INFRA / "definitions.json").read_text())


def value(key: str) -> int:
    """Return a number from rabbitmq.conf."""
    (found,) = re.findall(
        rf"^{re.escape(key)} = (\d+)$", (INFRA / "rabbitmq.conf").read_text(), re.MULTILINE
    )
    return int(found)
