"""Overview: the finding first, then the two models side by side and whether they fit."""

from kvlab.web import overview

overview.page()
