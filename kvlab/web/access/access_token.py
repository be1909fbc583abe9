"""The token, what stands for it in a browser's cookie, and how often it may be guessed."""

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
NEW, OFF = "new", "off"  # of the variable: a token is made at each start; none is asked for
WITHOUT_VARIABLE_ON_LOOPBACK = OFF
GUESSES = 30  # wrong tokens a minute, of all clients together: through a tunnel all have one address
MINUTE = 60.0  # seconds


class AccessError(KvlabError):
    """A server that everybody could use."""


class Guesses:
    """Wrong tokens of the last minute."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._wrong: deque[float] = deque(maxlen=GUESSES)

    def wait(self) -> float:
        """Seconds until another token is looked at; 0 at once."""
        if len(self._wrong) < GUESSES:
            return 0.0
        return max(0.0, self._wrong[0] + MINUTE - self._now())

    def wrong(self) -> None:
        self._wrong.append(self._now())


@dataclass(frozen=True)
class Keys:
    """``token`` None: nobody is asked. ``cookie`` is what a browser keeps instead of the token, of this server only:
    being random it cannot be guessed, and whoever sees it does not learn a token that was chosen."""

    token: str | None = field(repr=False)
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    guesses: Guesses = field(default_factory=Guesses, repr=False)

    def right(self, given: str) -> bool:
        """Whether ``given`` is the token, in a time that does not depend on how much of it is right."""
        right = self.token is not None and same(given, self.token)
        if not right:
            self.guesses.wrong()
        return right


def same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace"))


def keys(address: str, chosen: str | None) -> Keys:
    """For a server that listens on ``address`` ("" is every interface), with ``chosen`` from the environment.

    Raises AccessError ``access-open`` for no token beyond loopback.
    """
    wanted = (chosen or "").strip() or (WITHOUT_VARIABLE_ON_LOOPBACK if is_loopback(address) else NEW)
    if wanted == OFF and not is_loopback(address):
        raise AccessError(
            "access-open",
            expected=Message("an access token, as the server listens on {address}", address=address)
            if address
            else Message("an access token, as the server listens on every network interface"),
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
