"""The access token, the signed cookie that replaces it in a browser, and the slow answers to wrong guesses."""

import asyncio
import hashlib
import hmac
import ipaddress
import os
import secrets
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kvlab.errors import KvlabError
from kvlab.language import Message

if TYPE_CHECKING:
    from itsdangerous import TimestampSigner

VARIABLE = "KVLAB_TOKEN"
NEW, OFF = "new", "off"  # values of the variable: make a token at each start; ask for none
WITHOUT_VARIABLE_ON_LOOPBACK = OFF
FREE = 5  # wrong tokens within a minute that are answered at once
MINUTE = 60.0  # seconds
LONGEST = 10.0  # seconds that the answer to a wrong token waits at most
WAITING = 100  # answers that wait at the same time; further wrong tokens are refused at once
SECRET, SECRET_BYTES = ".cookie-secret", 32  # in the folder of the runs: signs the cookies
COOKIE_SECONDS = 30 * 24 * 3600
INSIDE = b"in"  # what the cookie says


class AccessError(KvlabError):
    """Raised for a server that everybody could use."""


class Guesses:
    """The wrong tokens of the last minute, of all clients together: through a tunnel all have one address.

    Each makes the answers to the next ones slower. Every token is checked, so nobody's guesses keep the owner out.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ):
        self._now, self._sleep = now, sleep
        self._wrong: deque[float] = deque(maxlen=WAITING)
        self._waiting = 0

    async def wrong(self) -> bool:
        """Note a wrong token and wait before it is answered. Return False, at once, if too many answers wait."""
        now = self._now()
        slower = sum(at > now - MINUTE for at in self._wrong) - FREE
        self._wrong.append(now)
        if slower < 0:
            return True
        if self._waiting >= WAITING:
            return False
        self._waiting += 1
        try:
            await self._sleep(min(LONGEST, 0.2 * 2**slower))
        finally:
            self._waiting -= 1
        return True


@dataclass(frozen=True)
class Keys:
    """The keys of one server. ``token`` None lets everybody in. A browser keeps a signed cookie instead of the token.

    ``secret`` signs it, together with the token: another token ends all sessions. The cookie reveals neither.
    """

    token: str | None = field(repr=False)
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES), repr=False)
    guesses: Guesses = field(default_factory=Guesses, repr=False)

    def right(self, given: str) -> bool:
        """Return whether ``given`` is the token. The time taken does not depend on how much of it is right."""
        return self.token is not None and same(given, self.token)

    def cookie(self) -> str:
        """Return a cookie that lets a browser in for COOKIE_SECONDS."""
        return self._signer().sign(INSIDE).decode()

    def known(self, cookie: str) -> bool:
        """Return whether this server, or an earlier one with the same token and secret, gave this cookie."""
        from itsdangerous import BadSignature

        try:
            return self._signer().unsign(cookie.encode(errors="replace"), max_age=COOKIE_SECONDS) == INSIDE
        except BadSignature:  # an expired one too
            return False

    def _signer(self) -> "TimestampSigner":
        from itsdangerous import TimestampSigner  # here: doctor runs where no package is installed

        key = hmac.digest(self.secret, (self.token or "").encode(errors="replace"), "sha256")
        return TimestampSigner(key, salt="kvlab access", digest_method=hashlib.sha256)


def same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode(errors="replace"))


def keys(address: str, chosen: str | None, folder: Path) -> Keys:
    """Return the keys of a server on ``address`` ("" is every interface). ``chosen``: the token of the environment.

    ``folder``: of the runs, where the secret lies. Raises AccessError ``access-open`` for no token beyond loopback.
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
    return Keys(secrets.token_urlsafe(24) if wanted == NEW else wanted, kept_secret(folder))


def kept_secret(folder: Path) -> bytes:
    """Return the secret that signs cookies, kept in ``folder`` for this account alone; make it at the first start.

    Replace a file that is damaged, of another account, a link, or that others may read. Where none can be kept, the
    secret and all cookies end with the server.
    """
    file = folder / SECRET
    new = secrets.token_bytes(SECRET_BYTES)
    try:
        if kept := _own_secret(file):
            return kept
        folder.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            written.write(new)
    except OSError:
        pass
    return new


def _own_secret(file: Path) -> bytes | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        mine = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
        kept = opened.read(SECRET_BYTES + 1) if mine else b""
    return kept if len(kept) == SECRET_BYTES else None


def is_loopback(address: str) -> bool:
    if address.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False
