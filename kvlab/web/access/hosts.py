"""The host names that this server answers to, and the pages that may talk to it.

Another site may point its own name at this address (DNS rebinding); the Host header then names that site. Nobody can
point an IP address elsewhere, so every IP address passes.
"""

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

VARIABLE = "KVLAB_HOSTS"  # names of a proxy in front of this server, separated by commas
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z_.-]+)(:[0-9]{1,5})?", re.ASCII)


def name_of(host: str) -> str | None:
    """Return the name in a Host header: ``localhost:8501`` -> ``localhost``; None for an invalid header."""
    match = _HOST.fullmatch(host.strip().lower())
    return match[1].strip("[]").rstrip(".") if match else None


def host_allowed(host: str, names: Collection[str]) -> bool:
    """Return whether this server answers to ``host``. ``names``: of this machine, in lower case."""
    name = name_of(host)
    return name is not None and (name == "localhost" or name in names or _is_number(name))


def origin_allowed(origin: str | None, host: str, proxies: Collection[str]) -> bool:
    """Return whether a page of ``origin`` may ask: a page of this server or a proxy. Programs send no origin.

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
