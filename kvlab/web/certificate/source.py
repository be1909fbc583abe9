"""Certificates for the page: read the sample and those under runs/."""

from kvlab.host import bundled
from kvlab.results.certificate import data
from kvlab.results.certificate.data import Certificate
from kvlab.runs.monitor import View
from kvlab.web import backend

KIND = "certificate"


def certificates() -> list[View]:
    """Return the latest certificates under runs/, newest first."""
    return backend.listed(KIND)


def certificate_of(run_id: str) -> Certificate:
    """Read a finished certificate, cached. Raises RunError or AlignError."""
    folder = bundled.CERTIFICATE if run_id == backend.SAMPLE else backend.folder_of(run_id)
    return backend.read_once(data.read, folder / data.NAME)
