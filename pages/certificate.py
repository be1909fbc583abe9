"""Certificate: may an engine hand the teacher's cache over? A verdict by gates, to take along."""

from kvlab.web.certificate import page

page.page()
