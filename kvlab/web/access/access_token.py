"""The access token, the cookie that replaces it in a browser, and the limit on wrong guesses."""

import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kvlab.errors import KvlabError
from kvlab.language import Message

VARIABLE = "KVLAB_TOKEN"
NEW, OFF = "new", "off"  # values of the variable: make a token at each start; ask for none
WITHOUT_VARIABLE_ON_LOOPBACK = OFF
GUESSES = 30  # wrong tokens a minute, of all clients together: through a tunnel all have one address
MINUTE = 60.0  # seconds


class AccessError(KvlabError):
    """Raised for a server that everybody could use."""


class Guesses:
    """The wrong tokens of the last minute."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._wrong: deque[float] = deque(maxlen=GUESSES)

    def wait(self) -> float:
        """Return the seconds until the server checks another token, 0 if it does so now."""
        if len(self._wrong) < GUESSES:
            return 0.0
        return max(0.0, self._wrong[0] + MINUTE - self._now())

    def wrong(self) -> None:
        self._wrong.append(self._now())


@dataclass(frozen=True)
class Keys:
    """The keys of one server. ``token`` None lets everybody in. A browser keeps ``cookie`` instead of the token.

    The cookie is random: nobody can guess it, and it does not reveal a token that somebody chose.
    """

    token: str | None = field(repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    guesses: Guesses = field(default_factory=Guesses, repr=False)

    def right(self, given: str) -> bool:
        """Return whether ``given`` is the token. The time taken does not depend on how much of it is right."""
        right = self.token is not None and same(given, self.token)
        if not right:
            self.guesses.wrong()
        return right


def same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace"))


def keys(address: str, chosen: str | None) -> Keys:
    """Return the keys of a server on ``address`` ("" is every interface). ``chosen``: the token of the environment.

    Raises AccessError ``access-open`` for no token beyond loopback.
    """
    wanted = (chosen or "").strip() or (WITHOUT_VARIABLE_ON_LOOPBACK if is_loopback(address) else NEW)
    if wanted == OFF and not is_loopback(address):
        expected = Message("an access token, as the server listens on every network interface")
        if address:
            expected = Message("an access token, as the server listens on {address}", address=address)
        raise AccessError(
            "access-open",
            expected=expected,
            found=f"{VARIABLE}={OFF}",
            remedy=Message(
                "leave {variable} out, and a token is made at start, or listen on 127.0.0.1", variable=VARIABLE
            ),
        )
    if wanted == OFF:
        return Keys(None)
    return Keys(secrets.token_urlsafe(24) if wanted == NEW else wanted)


def is_loopback(address: str) -> bool:
    if address.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
