"""The one gate in front of every route, WebSocket and static file (pure ASGI).

The token comes in the address (``?token=``), in the header ``Authorization: Bearer`` or from the form of login.py. A
browser gets a cookie for it and is sent on to the address without it; a WebSocket comes with the cookie or the header.
"""

from collections.abc import Collection
from urllib.parse import parse_qsl, quote, unquote_plus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvlab.web.access import hosts, login
from kvlab.web.access.access_token import Keys, is_loopback, same

FORM = "application/x-www-form-urlencoded"
FORM_BYTES = 4096
POLICY_CLOSED = 1008  # WebSocket: closed for a reason of policy (RFC 6455)
SAFE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "frame-ancestors 'self'",
    # Not no-referrer: with it a browser sends the form's origin as "null".
    "referrer-policy": "same-origin",
}


class Guard:
    """``names``: host names of this machine; ``proxies``: those in KVLAB_HOSTS, whose pages may ask as well."""

    def __init__(self, app: ASGIApp, keys: Keys, names: Collection[str] = (), proxies: Collection[str] = ()):
        self.app, self.keys = app, keys
        self.names, self.proxies = {*names, *proxies}, set(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = _without_token(scope)  # first of all: whoever logs this request finds no token in it
        answer = self._refused(scope, headers)
        if answer is None and not self._known(headers):
            answer = await self._asked(scope, headers, receive, given)
        elif answer is None and given is not None and scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            answer = _onward(scope)
        if answer is None:
            await self.app(scope, receive, _safely(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_CLOSED})
        else:
            answer.headers["cache-control"] = "no-store"
            await answer(scope, receive, _safely(send))

    def _refused(self, scope: Scope, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) > 1 or not hosts.host_allowed(host, self.names):
            return PlainTextResponse(login.HOST, 403)
        if not hosts.origin_allowed(headers.get("origin"), host, self.proxies):
            return PlainTextResponse(login.ORIGIN, 403)
        # However it was started: what is reached from outside has a token.
        if self.keys.token is None and not is_loopback((scope.get("server") or ("", 0))[0]):
            return PlainTextResponse(login.OPEN, 403)
        return None

    def _known(self, headers: Headers) -> bool:
        if self.keys.token is None:
            return True
        cookies = cookie_parser(headers.get("cookie", ""))
        return same(cookies.get(cookie_name(headers), ""), self.keys.cookie)

    async def _asked(self, scope: Scope, headers: Headers, receive: Receive, given: str | None) -> Response | None:
        """None: the header has the token. Otherwise the way in, or the page that asks for it."""
        bearer = _bearer(headers)
        if bearer is None and scope.get("method") == "POST" and headers.get("content-type", "") == FORM:
            given = await _posted(receive)
        if bearer is None and given is None:
            return HTMLResponse(login.login(), 401)
        if wait := self.keys.guesses.wait():
            return HTMLResponse(login.login(login.WAIT), 429, {"retry-after": str(int(wait) + 1)})
        if not self.keys.right(bearer if bearer is not None else given):
            return HTMLResponse(login.login(login.WRONG), 401)
        if bearer is not None:
            return None
        answer = _onward(scope)
        # Lax, not strict: a strict cookie is not sent on when the address was a link on another site.
        answer.set_cookie(
            cookie_name(headers), self.keys.cookie, httponly=True, samesite="lax", secure=scope["scheme"] == "https"
        )
        return answer


def cookie_name(headers: Headers) -> str:
    """Browsers share cookies between the ports of a host, so the port is in the name."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"kvlab-{port}" if port.isdigit() else "kvlab"


def _without_token(scope: Scope) -> str | None:
    """Takes the token out of the request's query, in place -> the token; None where there was none."""
    kept, given = [], None
    for part in scope.get("query_string", b"").split(b"&"):
        name, _, value = part.decode("latin-1").partition("=")
        if unquote_plus(name) == "token":
            given = unquote_plus(value)
        elif part:
            kept.append(part)
    if given is not None:
        scope["query_string"] = b"&".join(kept)
    return given


def _onward(scope: Scope) -> Response:
    """To the same address without the token; never to another host, which ``//name`` would be."""
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


def _safely(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SAFE.items():
                headers.setdefault(name, value)
        await send(message)

    return with_headers
