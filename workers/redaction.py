"""Keeps passwords out of whatever is shown: logs, the ledger's errors, the reasons on the page.

Errors of libraries repeat what they were given, and a job's own error may repeat anything. So text
is cleaned where it leaves, not where it is made: of the secrets that this process knows, and of
whatever looks like a password in a URL or in a connection string.
"""

import json
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

HIDDEN = "***"

MIN_LENGTH = 6
"""Shorter secrets are hidden in URLs only: elsewhere, ``guest`` is a word like any other."""

IN_URL = re.compile(r"(://[^\s/:@'\"]*:)[^\s@'\"]+(?=@)")
IN_CONNECTION_STRING = re.compile(
    r"""(password\\?['"]?\s*[=:]\s*)(?:'[^']*'|"[^"]*"|[^\s,;&)}\]'"]+)""", re.IGNORECASE
)

_known: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """From now on, show none of these. Set once for a process, like its log."""
    for secret in secrets:
        if len(secret) >= MIN_LENGTH:
            # As it is, and as it stands within JSON.
            _known.update((secret, json.dumps(secret)[1:-1]))


def passwords_of(urls: str) -> set[str]:
    """Return the passwords in a URL, or in several with ``;`` between, as written and as meant."""
    passwords = {urlsplit(url.strip()).password or "" for url in urls.split(";")}
    return {form for password in passwords if password for form in (password, unquote(password))}


def redacted(text: str) -> str:
    """Return the text without secrets."""
    text = IN_URL.sub(rf"\1{HIDDEN}", text)
    text = IN_CONNECTION_STRING.sub(rf"\1{HIDDEN}", text)
    # The longest first: one secret may begin with another.
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text
