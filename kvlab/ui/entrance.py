"""Where this server listens and who may come in, from Streamlit's settings and the environment; said at start."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from functools import cache
from urllib.parse import quote

from streamlit import config
from streamlit.web.server.server_util import get_url

from kvlab.access import hosts
from kvlab.access.keys import NEW, VARIABLE, AccessError, Keys, is_loopback, keys
from kvlab.language import mark, say

WILDCARDS = ("", "0.0.0.0", "::")
# Of the terminal.
AT = "kvlab: {address}"
TUNNEL = mark("From your own computer, first: {command}")
TUNNEL_THEN = mark("From your own computer, first: {command}, then open {address} with the same token")
NO_TOKEN = mark(
    "No access token: every account on this machine can open kvlab. With one: {setting} streamlit run app.py"
)
CLEAR_TEXT = mark("Beyond this machine the token travels unencrypted; the tunnel encrypts it.")
# Of the pages.
NOTE = mark("kvlab runs on this machine and sends nothing anywhere.")
NOTE_OPEN = mark(
    "There is no access token: every account on this machine can open this address ({setting} changes that)."
)
SETTING = f"{VARIABLE}={NEW}"


@cache
def entrance() -> Keys:
    """The keys of this server. Ends the process with a message when it would be open to everybody."""
    try:
        return keys(_address(), os.environ.get(VARIABLE))
    except AccessError as error:
        sys.exit(str(error))


def names() -> set[str]:
    """Host names of this server, in lower case."""
    own = {_address(), config.get_option("browser.serverAddress") or "", socket.gethostname(), socket.getfqdn()}
    return {name.lower() for name in own if name}


def proxies() -> set[str]:
    return {name.strip().lower() for name in os.environ.get(hosts.VARIABLE, "").split(",") if name.strip()}


def said() -> str:
    """What the terminal shows at start. The only place where the token is ever written."""
    address, token = _address(), entrance().token
    shown = socket.gethostname() if address in WILDCARDS else address
    lines = [AT.format(address=get_url(shown) + (f"/?token={quote(token, safe='')}" if token else ""))]
    port = config.get_option("server.port")
    reached = "127.0.0.1" if address in WILDCARDS else address
    command = f"ssh -N -L {port}:{reached}:{port} {_user()}@{socket.gethostname()}"
    if shown == reached:
        lines.append(say(TUNNEL, command=command))
    else:
        lines.append(say(TUNNEL_THEN, command=command, address=get_url("127.0.0.1")))
    if token is None:
        lines.append(say(NO_TOKEN, setting=SETTING))
    elif not is_loopback(address):
        lines.append(say(CLEAR_TEXT))
    return "\n".join(lines)


def note() -> str:
    """The last line of every page."""
    note = say(NOTE)
    return note if entrance().token else say(" ").join([note, say(NOTE_OPEN, setting=SETTING)])


def _address() -> str:
    return config.get_option("server.address") or ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "you"
