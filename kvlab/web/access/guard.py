"""The one gate in front of every route, WebSocket and static file (pure ASGI).

The token arrives in the address (``?token=``), in the header ``Authorization: Bearer`` or from the form of login.py.
The guard gives a browser a cookie and redirects it to the address without the token. A WebSocket sends the cookie or
the header.
"""

from base64 import b64encode
from collections.abc import Collection
from hashlib import sha256
from urllib.parse import parse_qsl, quote, unquote_plus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvlab.web.access import hosts, login
from kvlab.web.access.access_token import COOKIE_SECONDS, Keys, is_loopback

FORM = "application/x-www-form-urlencoded"
FORM_BYTES = 4096
POLICY_CLOSED = 1008  # WebSocket: closed for a reason of policy (RFC 6455)
SAFE = {
    "x-content-type-options": "nosniff",
    # With no-referrer a browser would send the form's origin as "null".
    "referrer-policy": "same-origin",
}
# A page loads from this server only, whatever names and texts are on it. Some browsers do not take "self" for
# ``sockets``. Streamlit's styles and those of figures are inline; figures use blob: and data: for images and workers.
POLICY = (
    "default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' {sockets}; media-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


class Guard:
    """Check every request. ``names``: of this machine. ``proxies``: hosts in KVLAB_HOSTS, whose pages may ask too.

    ``scripts``: the inline scripts of its pages; browsers run no other.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        names: Collection[str] = (),
        proxies: Collection[str] = (),
        scripts: Collection[str] = (),
    ):
        self.app, self.keys = app, keys
        self.names, self.proxies = {*names, *proxies}, set(proxies)
        self.scripts = " ".join(map(_hashed, scripts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = _without_token(scope)  # first, so that no log of this request contains the token
        answer = self._refused(scope, headers)
        policy = "default-src 'none'; frame-ancestors 'self'"
        if answer is None:  # then the host is a valid name
            policy = POLICY.format(scripts=self.scripts, sockets=_sockets(headers["host"].strip()))
        if answer is None and not self._known(headers):
            answer = await self._asked(scope, headers, receive, given)
        elif answer is None and given is not None and scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            answer = _onward(scope)
        if answer is None:
            await self.app(scope, receive, _safely(send, policy))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_CLOSED})
        else:
            answer.headers["cache-control"] = "no-store"
            await answer(scope, receive, _safely(send, policy))

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) > 1 or not hosts.host_allowed(host, self.names):
            return PlainTextResponse(login.HOST, 403)
        if not hosts.origin_allowed(headers.get("origin"), host, self.proxies):
            return PlainTextResponse(login.ORIGIN, 403)
        # However the server was started, outside requests need a token.
        if self.keys.token is None and not is_loopback((scope.get("server") or ("", 0))[0]):
            return PlainTextResponse(login.OPEN, 403)
        return None

    def _known(self, headers: Headers) -> bool:
        if self.keys.token is None:
            return True
        cookies = cookie_parser(headers.get("cookie", ""))
        return self.keys.known(cookies.get(cookie_name(headers), ""))

    async def _asked(self, scope: Scope, headers: Headers, receive: Receive, given: str | None) -> Response | None:
        """Check the token. Return None if the header has it, else a redirect with the cookie, or the login page."""
        bearer = _bearer(headers)
        if bearer is None and scope.get("method") == "POST" and headers.get("content-type", "") == FORM:
            given = await _posted(receive)
        if bearer is None and given is None:
            return HTMLResponse(login.login(), 401)
        if not self.keys.right(bearer if bearer is not None else given):
            if await self.keys.guesses.wrong():
                return HTMLResponse(login.login(login.WRONG), 401)
            return HTMLResponse(login.login(login.MANY), 429)
        if bearer is not None:
            return None
        answer = _onward(scope)
        # Not strict: a browser that follows a link on another site would not send a strict cookie.
        answer.set_cookie(
            cookie_name(headers),
            self.keys.cookie(),
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="lax",
            secure=scope["scheme"] == "https",
        )
        return answer


def cookie_name(headers: Headers) -> str:
    """Name the cookie after the port, because browsers share cookies between the ports of a host."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"kvlab-{port}" if port.isdigit() else "kvlab"


def _without_token(scope: Scope) -> str | None:
    """Remove the token from the request's query, in place, and return it; None without one."""
    others, given = [], None
    for part in scope.get("query_string", b"").split(b"&"):
        name, _, value = part.decode("latin-1").partition("=")
        if unquote_plus(name) == "token":
            given = unquote_plus(value)
        elif part:
            others.append(part)
    if given is not None:
        scope["query_string"] = b"&".join(others)
    return given


def _onward(scope: Scope) -> Response:
    """Redirect to the same address without the token. ``//name`` would lead to another host, so keep one slash."""
    query = scope["query_string"].decode("latin-1")
    target = "/" + quote(scope["path"].lstrip("/\\")) + (f"?{query}" if query else "")
    return RedirectResponse(target, 303)


def _bearer(headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() in ("bearer", "token") else None


async def _posted(receive: Receive) -> str:
    body, more = b"", True
    while more and len(body) <= FORM_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return dict(parse_qsl(body[:FORM_BYTES].decode("utf-8", "replace"))).get("token", "")


def _hashed(script: str) -> str:
    """Name an inline script in a policy."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def _sockets(host: str) -> str:
    """Name this server's WebSockets in a policy, which knows no IPv6 addresses."""
    return "" if host.startswith("[") else f"ws://{host} wss://{host}"


def _safely(send: Send, policy: str) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in {**SAFE, "content-security-policy": policy}.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers
