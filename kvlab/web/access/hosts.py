"""Which names this server answers to, and which pages may talk to it.

A page of another site may point its own name at this address (DNS rebinding): the Host header then names that site. A
number cannot be pointed elsewhere, so every IP address passes.
"""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

VARIABLE = "KVLAB_HOSTS"  # further names, separated by commas: those of a proxy in front
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z_.-]+)(:[0-9]{1,5})?", re.ASCII)


def name_of(host: str) -> str | None:
    """``localhost:8501`` -> ``localhost``; None for anything that is no Host header."""
    match = _HOST.fullmatch(host.strip().lower())
    return match[1].strip("[]").rstrip(".") if match else None


def host_allowed(host: str, names: Collection[str]) -> bool:
    """``names`` are those of this machine, in lower case."""
    name = name_of(host)
    return name is not None and (name == "localhost" or name in names or _is_number(name))


def origin_allowed(origin: str | None, host: str, proxies: Collection[str]) -> bool:
    """Whether a page of ``origin`` may ask: this server's own, or one of a proxy. Programs send no origin.

    Ports count: another account's server on the same machine is another site.
    """
    if origin is None:
        return True
    try:
        parts = urlsplit(origin.strip().lower())
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return False  # also "null"
    return parts.netloc == host.strip().lower() or name_of(parts.netloc) in proxies


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
