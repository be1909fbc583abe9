"""This server: its address and access, its one warm worker, and the run queue that it keeps moving.

The server starts and stops the worker itself, without any page.
"""

import getpass
import os
import re
import socket
import sys
from functools import cache
from pathlib import Path
from urllib.parse import quote

from streamlit import config
from streamlit.file_util import get_static_dir
from streamlit.web.server.server_util import get_url

from kvlab.errors import KvlabError
from kvlab.language import phrase, say
from kvlab.results.words import sentences
from kvlab.runs import run_queue, store
from kvlab.runs.places import slurm
from kvlab.runs.worker_client import Worker
from kvlab.web import language
from kvlab.web.access import hosts
from kvlab.web.access.access_token import NEW, VARIABLE, AccessError, Keys, is_loopback, keys

WILDCARDS = ("", "0.0.0.0", "::")
LONG_ENOUGH = 16  # characters of a token
# Printed in the terminal.
AT = "kvlab: {address}"
TUNNEL = phrase("From your own computer, first: {command}")
TUNNEL_THEN = phrase("From your own computer, first: {command}, then open {address} with the same token")
NO_TOKEN = phrase(
    "No access token: every account on this machine can open kvlab. With one: {setting} streamlit run app.py"
)
SHORT = phrase("This token is short and can be guessed: every guess is checked. Use at least {n} characters.")
CLEAR_TEXT = phrase("Beyond this machine the token travels unencrypted; the tunnel encrypts it.")
# Shown on the pages.
NOTE = phrase("kvlab runs on this machine and sends nothing anywhere.")
NOTE_OPEN = phrase(
    "There is no access token: every account on this machine can open this address ({setting} changes that)."
)
SETTING = f"{VARIABLE}={NEW}"


@cache
def entrance() -> Keys:
    """Return the keys of this server. Exit with a message if it would be open to everybody."""
    try:
        return keys(_address(), os.environ.get(VARIABLE), store.runs_root())
    except AccessError as error:
        sys.exit(str(error))


def names() -> set[str]:
    """Return the host names of this server, in lower case."""
    configured = config.get_option("browser.serverAddress") or ""
    known = {_address(), configured, socket.gethostname(), socket.getfqdn()}
    return {name.lower() for name in known if name}


def proxies() -> set[str]:
    return {name.strip().lower() for name in os.environ.get(hosts.VARIABLE, "").split(",") if name.strip()}


def scripts() -> list[str]:
    """Return the inline scripts of the pages: Streamlit's own, and those that tell the language."""
    page = (Path(get_static_dir()) / "index.html").read_text(encoding="utf-8")
    return [*re.findall(r"<script>(.*?)</script>", page, re.DOTALL), *language.SCRIPTS.values()]


def startup_text() -> str:
    """Return the text that the terminal shows at start: the only place where the token is written."""
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
    elif len(token) < LONG_ENOUGH:
        lines.append(say(SHORT, n=LONG_ENOUGH))
    if token is not None and not is_loopback(address):
        lines.append(say(CLEAR_TEXT))
    return "\n".join(lines)


def note() -> str:
    """Return the last line of every page."""
    warning = "" if entrance().token else say(NOTE_OPEN, setting=SETTING)
    return sentences(say(NOTE), warning)


def _address() -> str:
    return config.get_option("server.address") or ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "you"


@cache
def worker() -> Worker:
    """Return the worker of this server. It starts at the first question, if not before."""
    return Worker()


_problem: KvlabError | None = None  # of the last attempt; the pages show it


def recover_queue() -> KvlabError | None:
    """Put lost runs back into the queue and make sure that a keeper is running. Return the error if that fails."""
    global _problem
    try:
        run_queue.recover(store.runs_root())
        run_queue.attend(store.runs_root())
        _problem = None
    except KvlabError as error:
        _problem = error
    return _problem


def problem() -> KvlabError | None:
    """Restart a stalled queue and follow the jobs of Slurm; return the error if that fails, else None. Cheap."""
    root = store.runs_root()
    stalled = bool(run_queue.entries(root)) and run_queue.keeper(root) is None
    unreachable = slurm.look(root)
    return (recover_queue() if _problem is not None or stalled else None) or unreachable
