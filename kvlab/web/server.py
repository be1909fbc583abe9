"""This server: where it listens and who may enter, its one warm worker, and the queue of runs that it takes up.

The server starts and stops the worker itself; no page is needed for that.
"""

import getpass
import os
import socket
import sys
from functools import cache
from urllib.parse import quote

from streamlit import config
from streamlit.web.server.server_util import get_url

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.results.words import sentences
from kvlab.runs import run_queue, store
from kvlab.runs.worker_client import Worker
from kvlab.web.access import hosts
from kvlab.web.access.access_token import NEW, VARIABLE, AccessError, Keys, is_loopback, keys

WILDCARDS = ("", "0.0.0.0", "::")
# Of the terminal.
AT = "kvlab: {address}"
TUNNEL = phrase("From your own computer, first: {command}")
TUNNEL_THEN = phrase("From your own computer, first: {command}, then open {address} with the same token")
NO_TOKEN = phrase(
    "No access token: every account on this machine can open kvlab. With one: {setting} streamlit run app.py"
)
CLEAR_TEXT = phrase("Beyond this machine the token travels unencrypted; the tunnel encrypts it.")
# Of the pages.
NOTE = phrase("kvlab runs on this machine and sends nothing anywhere.")
NOTE_OPEN = phrase(
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
    return sentences(say(NOTE), not entrance().token and say(NOTE_OPEN, setting=SETTING))


def _address() -> str:
    return config.get_option("server.address") or ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "you"


@cache
def worker() -> Worker:
    """Not started yet; starts at the latest when it is first asked."""
    return Worker()


_problem: KvlabError | None = None  # of the last attempt; the pages say it


def take_up() -> KvlabError | None:
    """Put back what lost its place, and see that a keeper is at work -> what stands in the way, if anything does."""
    global _problem
    try:
        run_queue.recover(store.runs_root())
        run_queue.attend(store.runs_root())
        _problem = None
    except KvlabError as error:
        _problem = error
    return _problem


def problem() -> KvlabError | None:
    """What keeps the queue from going on now; tries again first. Cheap while all is well."""
    root = store.runs_root()
    stands_still = bool(run_queue.entries(root)) and run_queue.keeper(root) is None
    return take_up() if _problem is not None or stands_still else None
