"""Who may read the page and act on it: the keys, and nothing about HTTP.

Whoever knows ``OPS_TOKEN`` may. A browser shows it once, in a form, and gets a session: a signed
time that cannot be turned back into the token, and that ends when the token is changed. Nothing is
stored, so sessions outlive a restart and hold for any number of processes.

Without a token the page is for this machine alone (`workers.web.server` sees to that), and
everybody who gets there may.
"""

import hashlib
import hmac
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable

SESSION_SECONDS = 7 * 24 * 3600
"""How long a browser is not asked for the token again."""

WRONG_TOKENS = 10
WRONG_TOKENS_SECONDS = 60
"""So many wrong tokens, in so many seconds, may come from one address."""

REMEMBERED_ADDRESSES = 10_000


class Keys:
    """The token, and what is derived from it."""

    def __init__(self, token: str | None, *, clock: Callable[[], float] = time.time) -> None:
        self.is_open = token is None
        """Whether everybody who gets here may read and act."""
        self._clock = clock
        self._token_digest = _digest(token) if token is not None else None
        # Slow on purpose: a stolen cookie is no quick way to guess a weak token.
        self._secret = (
            os.urandom(32)
            if token is None
            else hashlib.scrypt(token.encode(), salt=b"operations page", n=2**14, r=8, p=1)
        )

    def is_token(self, given: str) -> bool:
        """Tell whether this is the token, in a time that does not depend on it."""
        if self._token_digest is None:
            return False
        return hmac.compare_digest(_digest(given), self._token_digest)

    def new_session(self) -> str:
        """Make a session that begins now."""
        began = f"{self._clock():.0f}.{os.urandom(8).hex()}"
        return f"{began}.{self._sign('session', began)}"

    def is_session(self, given: str) -> bool:
        """Tell whether this is a session of ours that has not ended."""
        began, _, signature = given.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", began).encode()):
            return False
        return 0 <= self._clock() - int(began.partition(".")[0]) + 1 <= SESSION_SECONDS

    def form_token(self, session: str) -> str:
        """Make what each form carries, so that no other site can send it in a person's name."""
        return self._sign("form", session)

    def is_form_token(self, given: str, session: str) -> bool:
        return hmac.compare_digest(given.encode(), self.form_token(session).encode())

    def _sign(self, purpose: str, value: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{value}".encode(), "sha256").hexdigest()


class Throttle:
    """Slows down whoever tries tokens, by the address that they come from.

    Behind a proxy all share its address: while somebody tries there, nobody can log in, but
    sessions go on.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def note_wrong_token(self, address: str) -> None:
        """Count a wrong token."""
        failures = self._failures.setdefault(address, deque(maxlen=WRONG_TOKENS))
        failures.append(self._clock())
        self._failures.move_to_end(address)
        if len(self._failures) > REMEMBERED_ADDRESSES:
            self._failures.popitem(last=False)

    def wait_seconds(self, address: str) -> int:
        """Tell in how many seconds another token may be tried; 0: now."""
        failures = self._failures.get(address)
        if failures is None or len(failures) < WRONG_TOKENS:
            return 0
        left = failures[0] + WRONG_TOKENS_SECONDS - self._clock()
        return max(0, int(left) + 1) if left > 0 else 0


def _digest(token: str) -> bytes:
    # Of one length, whatever the length of what is compared.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
