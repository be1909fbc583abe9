"""Overview: the finding first, then the two models side by side and whether they fit."""

from kvlab.ui import overview

overview.page()
