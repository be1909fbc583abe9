"""The gate in front of the app, request by request; tests/test_security.py has it before the real server."""

import asyncio
import hmac
import os

import pytest
from itsdangerous import TimestampSigner
from itsdangerous.encoding import base64_decode

from kvlab.web.access import access_token
from kvlab.web.access.access_token import FREE, SECRET, WAITING, AccessError, Guesses, Keys, is_loopback, keys
from kvlab.web.access.guard import Guard
from kvlab.web.access.hosts import host_allowed, origin_allowed

TOKEN = "pass-word-&-中"
ENCODED = b"pass-word-%26-%E4%B8%AD"
FORM = {"content-type": "application/x-www-form-urlencoded"}


async def inside(scope, receive, send):
    """An app that says it was reached and what query it saw."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["query_string"]})


class Clock:
    """A clock that goes on only by sleeping."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def guard(clock):
    return Guard(inside, Keys(TOKEN, guesses=Guesses(clock, clock.sleep)), names={"node7"}, proxies={"lab.example.org"})


def ask(*arguments, **named):
    return asyncio.run(asking(*arguments, **named))


async def asking(
    guard, path="/", query=b"", method="GET", body=b"", kind="http", server="127.0.0.1", scheme="http", more=(), **named
):
    """-> status (WebSocket: 101 or 403), headers, body, and the scope as the server may log it afterwards.

    ``body``: whole, or its pieces; ``more``: headers that may have the name of another.
    """
    headers = {"host": "127.0.0.1:8501"} | {name.replace("_", "-"): value for name, value in named.items()}
    scope = {
        "type": kind,
        "path": path,
        "query_string": query,
        "scheme": scheme,
        "server": (server, 8501),
        "headers": [(name.encode(), value.encode()) for name, value in (*headers.items(), *more)],
    } | ({"method": method} if kind == "http" else {})
    sent, pieces = [], iter((body,) if isinstance(body, bytes) else body)

    async def receive():
        piece = next(pieces, b"")
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def send(message):
        sent.append(message)

    await guard(scope, receive, send)
    if kind == "websocket":
        return {"websocket.accept": 101, "websocket.close": 403}[sent[0]["type"]], {}, b"", scope
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, sent[1]["body"], scope


def cookie_of(answer):
    return answer[1]["set-cookie"].split(";")[0]


def test_the_address_with_the_token_gives_a_cookie_and_leads_to_the_address_without(guard):
    status, headers, _, scope = ask(guard, "/alignment", b"run=a%20b&token=" + ENCODED + b"&view=heads")
    assert (status, headers["location"]) == (303, "/alignment?run=a%20b&view=heads")
    assert scope["query_string"] == b"run=a%20b&view=heads"
    cookie = headers["set-cookie"]
    assert cookie.startswith("kvlab-8501=") and "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert "pass-word" not in str(headers)
    known = cookie.split(";")[0]
    assert ask(guard, cookie=known)[0] == 200
    assert ask(guard, kind="websocket", cookie=known)[0] == 101
    again = ask(guard, "/runs", b"token=old", cookie=known)
    assert (again[0], again[1]["location"]) == (303, "/runs")


def test_the_form_gives_the_same(guard):
    answer = ask(guard, "/runs", b"runs=x", "POST", b"token=" + ENCODED, **FORM)
    assert (answer[0], answer[1]["location"]) == (303, "/runs?runs=x")
    assert ask(guard, cookie=cookie_of(answer))[0] == 200


def test_a_cookie_given_over_https_is_sent_over_https_only(guard):
    for scheme, secure in (("https", True), ("http", False)):
        by_address = ask(guard, query=b"token=" + ENCODED, scheme=scheme)
        by_form = ask(guard, method="POST", body=b"token=" + ENCODED, scheme=scheme, **FORM)
        for answer in (by_address, by_form):
            assert ("Secure" in answer[1]["set-cookie"].split("; ")) == secure


def test_no_more_of_a_form_is_read_than_a_token_needs(guard):
    read = []
    pieces = (read.append(number) or b"x" * 1024 for number in range(100))
    assert ask(guard, method="POST", body=pieces, **FORM)[0] == 401
    assert len(read) == 5  # the first that leads beyond 4096 bytes is the last
    in_pieces = ask(guard, method="POST", body=(b"tok", b"en=", ENCODED), **FORM)
    assert in_pieces[0] == 303


def test_tokens_and_cookies_are_compared_in_constant_time(guard, monkeypatch):
    compared, real = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda given, right: compared.append(given) or real(given, right))
    cookie = cookie_of(ask(guard, query=b"token=" + ENCODED))
    assert TOKEN.encode() in compared
    assert ask(guard, cookie=cookie)[0] == 200 and compared[-1] == base64_decode(cookie.rpartition(".")[2])


@pytest.mark.parametrize("scheme", ["Bearer", "token"])
def test_a_program_sends_a_header(guard, scheme):
    for kind, expected in (("http", 200), ("websocket", 101)):
        assert ask(guard, kind=kind, authorization=f"{scheme} plain")[0] in (401, 403)
        plain = Guard(inside, Keys("plain"))
        assert ask(plain, kind=kind, authorization=f"{scheme} plain")[0] == expected


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"cookie": "kvlab-8501="},
        {"cookie": f"kvlab-8501={TOKEN.encode().hex()}"},
        {"cookie": "kvlab=1; kvlab-8501=x"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic cGFzcw=="},
    ],
)
def test_nobody_else_comes_in(guard, kind, headers):
    assert ask(guard, kind=kind, **headers)[0] == (401 if kind == "http" else 403)


def test_the_token_is_no_cookie():
    plain = Guard(inside, Keys("plain"))
    for cookie in ("kvlab-8501=plain", "kvlab=plain"):
        assert ask(plain, cookie=cookie)[0] == 401
        assert ask(plain, kind="websocket", cookie=cookie)[0] == 403


def test_a_websocket_takes_no_token_from_its_address(guard):
    status, _, _, scope = ask(guard, kind="websocket", query=b"a=1&token=" + ENCODED)
    assert status == 403 and scope["query_string"] == b"a=1"


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "///evil.example/x"])
def test_the_way_on_never_leads_to_another_host(guard, path):
    location = ask(guard, path, b"token=" + ENCODED)[1]["location"]
    assert location.startswith("/evil.example")


def test_answers_to_wrong_tokens_come_ever_more_slowly_and_to_the_right_one_at_once(guard, clock):
    for _ in range(FREE):
        assert ask(guard, query=b"token=guess")[0] == 401
    assert clock.slept == []
    for kind, expected in (("http", 401), ("websocket", 403)):
        for _ in range(4):
            assert ask(guard, kind=kind, authorization="Bearer guess")[0] == expected
    assert clock.slept == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert ask(guard, query=b"token=" + ENCODED)[0] == 303
    assert ask(guard, method="POST", body=b"token=" + ENCODED, **FORM)[0] == 303
    assert ask(guard)[0] == 401  # asking without a token is no guess
    assert len(clock.slept) == 8
    clock.now += 60
    assert ask(guard, method="POST", body=b"token=guess", **FORM)[0] == 401
    assert len(clock.slept) == 8


def test_a_flood_of_guesses_holds_few_answers_and_never_the_right_token(clock):
    """Three hundred at once, none of which is answered before the right one came."""

    async def flood():
        free = asyncio.Event()
        guesses = Guesses(clock, lambda seconds: free.wait())
        guard = Guard(inside, Keys(TOKEN, guesses=guesses))
        wrong = [asyncio.create_task(asking(guard, query=b"token=guess")) for _ in range(300)]
        await asyncio.sleep(0)
        answer = await asking(guard, query=b"token=" + ENCODED)
        assert answer[0] == 303 and sum(not task.done() for task in wrong) == WAITING
        free.set()
        return [(await task)[0] for task in wrong]

    answers = asyncio.run(flood())
    assert answers == [401] * (FREE + WAITING) + [429] * (300 - FREE - WAITING)


def test_wrong_tokens_are_remembered_in_bounded_memory(clock):
    guesses = Guesses(clock, clock.sleep)

    async def many():
        for _ in range(10 * WAITING):
            await guesses.wrong()

    asyncio.run(many())
    assert len(guesses._wrong) == WAITING


def of(folder, token="mine"):
    return Guard(inside, keys("127.0.0.1", token, folder))


def test_a_cookie_survives_a_restart_and_ends_with_the_token_or_its_days(tmp_path, monkeypatch):
    cookie = cookie_of(ask(of(tmp_path), query=b"token=mine"))
    assert "mine" not in cookie
    for kind, expected in (("http", 200), ("websocket", 101)):
        assert ask(of(tmp_path), kind=kind, cookie=cookie)[0] == expected
    assert ask(of(tmp_path, "other"), cookie=cookie)[0] == 401
    assert ask(of(tmp_path / "elsewhere"), cookie=cookie)[0] == 401
    changed = cookie.replace("=in.", "=in2.")
    assert changed != cookie and ask(of(tmp_path), cookie=changed)[0] == 401
    now = TimestampSigner(b"").get_timestamp()
    for days, expected in ((29.9, 200), (30.1, 401), (-0.1, 401)):
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self, later=days: int(now + later * 24 * 3600))
        assert ask(of(tmp_path), cookie=cookie)[0] == expected


def test_a_browser_keeps_the_cookie_for_its_days(guard):
    assert "Max-Age=2592000" in ask(guard, query=b"token=" + ENCODED)[1]["set-cookie"]


def test_the_secret_is_of_this_account_alone(tmp_path):
    umask = os.umask(0)
    try:
        secret = keys("127.0.0.1", "mine", tmp_path / "runs").secret
    finally:
        os.umask(umask)
    file = tmp_path / "runs" / SECRET
    assert file.read_bytes() == secret and len(secret) == 32 and file.stat().st_mode & 0o777 == 0o600
    assert keys("127.0.0.1", "mine", tmp_path / "runs").secret == secret
    assert not keys("127.0.0.1", None, tmp_path / "none").token and not (tmp_path / "none").exists()


@pytest.mark.parametrize("how", ["readable", "short", "long", "link", "other account"])
def test_a_secret_that_others_may_know_is_replaced(tmp_path, monkeypatch, how):
    file, planted = tmp_path / SECRET, b"p" * 32
    file.write_bytes({"short": b"p" * 31, "long": b"p" * 33}.get(how, planted))
    file.chmod(0o640 if how == "readable" else 0o600)
    if how == "link":
        file.rename(tmp_path / "planted")
        file.symlink_to(tmp_path / "planted")
    if how == "other account":
        monkeypatch.setattr(access_token.os, "geteuid", lambda: 4242)
    secret = keys("127.0.0.1", "mine", tmp_path).secret
    assert not set(secret) <= set(planted) and len(secret) == 32
    assert file.read_bytes() == secret and not file.is_symlink() and file.stat().st_mode & 0o777 == 0o600


def test_where_no_secret_can_be_kept_cookies_end_with_the_server(tmp_path):
    (tmp_path / "file").touch()
    cookie = cookie_of(ask(guard := of(tmp_path / "file"), query=b"token=mine"))
    assert ask(guard, cookie=cookie)[0] == 200 and ask(of(tmp_path / "file"), cookie=cookie)[0] == 401


def test_the_page_without_the_token_has_nothing_of_the_request(guard):
    status, headers, body, _ = ask(guard, "/<script>", b"run=<script>&token=<script>")
    assert status == 401 and b"<script" not in body and b'method="post"' in body
    assert headers["cache-control"] == "no-store"


def test_every_answer_forbids_frames_sniffing_and_other_hosts(guard):
    inside_headers = ask(Guard(inside, Keys(None)))[1]
    for headers in (ask(guard)[1], inside_headers):
        policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert policy["frame-ancestors"] == "'self'" and policy["img-src"] == "'self' data: blob:"
        assert policy["default-src"] == policy["form-action"] == policy["base-uri"] == "'self'"
        assert policy["connect-src"] == "'self' ws://127.0.0.1:8501 wss://127.0.0.1:8501"
        assert "*" not in headers["content-security-policy"] and "unsafe" not in policy["script-src"]
        assert headers["x-content-type-options"] == "nosniff"
    assert "connect-src 'self' ;" in ask(guard, host="[::1]:8501")[1]["content-security-policy"]
    refused = ask(guard, host="evil.example; img-src *")
    assert refused[0] == 403 and "img-src" not in refused[1]["content-security-policy"]


def test_the_policy_names_the_inline_scripts_of_the_pages():
    """The hash of the example in the CSP specification."""
    page = Guard(inside, Keys(None), scripts=["alert('Hello, world.');"])
    policy = ask(page)[1]["content-security-policy"]
    assert "script-src 'self' 'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='" in policy


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"host": "localhost:9000"}, True),
        ({"host": "[::1]:8501"}, True),
        ({"host": "10.0.0.7:8501"}, True),
        ({"host": "NODE7:8501"}, True),
        ({"host": "localhost.:8501"}, True),  # the same name, with the root of all names
        ({"host": "node7."}, True),
        ({"host": "node7.evil.example"}, False),
        ({"host": "evil.example:8501"}, False),
        ({"host": ""}, False),
        ({"host": "127.0.0.1@evil.example"}, False),
        ({"origin": "http://127.0.0.1:8501"}, True),
        ({"origin": "https://lab.example.org"}, True),
        ({"origin": "http://127.0.0.1:8502"}, False),  # another account's server
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:8501.evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "file://"}, False),
    ],
)
def test_other_names_and_other_sites_are_refused_with_and_without_a_token(kind, headers, passes):
    open_guard = Guard(inside, Keys(None), names={"node7"}, proxies={"lab.example.org"})
    let_in = {"http": 200, "websocket": 101}[kind]
    assert ask(open_guard, kind=kind, **headers)[0] == (let_in if passes else 403)
    if not passes:
        guarded = Guard(inside, Keys("plain"), names={"node7"}, proxies={"lab.example.org"})
        assert ask(guarded, kind=kind, authorization="Bearer plain", **headers)[0] == 403


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("second", ["127.0.0.1:8501", "evil.example"])
def test_a_request_with_two_host_headers_is_refused(kind, second):
    """A server behind may go by another one than the gate."""
    twice = [("host", second)]
    assert ask(Guard(inside, Keys(None)), kind=kind, more=twice)[0] == 403
    assert ask(Guard(inside, Keys("plain")), kind=kind, more=twice, authorization="Bearer plain")[0] == 403


def test_without_a_token_nothing_is_answered_beyond_loopback():
    for kind in ("http", "websocket"):
        assert ask(Guard(inside, Keys(None)), kind=kind, server="192.168.1.5", host="192.168.1.5")[0] == 403


@pytest.mark.parametrize(
    ("address", "chosen", "expected"),
    [
        ("127.0.0.1", None, None),
        ("localhost", "", None),
        ("::1", "off", None),
        ("127.0.0.1", "mine", "mine"),
        ("0.0.0.0", "mine", "mine"),
    ],
)
def test_which_token(address, chosen, expected, tmp_path):
    assert keys(address, chosen, tmp_path).token == expected


@pytest.mark.parametrize(("address", "chosen"), [("0.0.0.0", None), ("", ""), ("node7", None), ("127.0.0.1", "new")])
def test_a_token_is_made(address, chosen, tmp_path):
    first, second = keys(address, chosen, tmp_path), keys(address, chosen, tmp_path)
    assert len(first.token) == 32 and first.token != second.token and not second.known(first.cookie())
    assert first.token not in repr(first) and repr(first.secret) not in repr(first)


def test_no_token_beyond_loopback_is_refused(tmp_path):
    with pytest.raises(AccessError) as caught:
        keys("0.0.0.0", "off", tmp_path)
    assert caught.value.kind == "access-open"


def test_loopback_is_read_as_an_address():
    assert [is_loopback(a) for a in ("127.9.9.9", "LOCALHOST", "[::1]", "127.evil.example", "")] == [True] * 3 + [
        False
    ] * 2


def test_host_and_origin_alone():
    assert not host_allowed("localhost.evil.example", ())
    assert origin_allowed(None, "localhost", ())
    assert not origin_allowed("http://[", "localhost", ())
