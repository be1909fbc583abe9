"""Controls that a projected cache must beat, a file each: other rows in the place of the projected ones.

Every module here is a control of the functional test. Rooms without torch read its constants and never import it
(kvlab.request.declared): ``WORDS``, ``LOOK`` of its line (colour, marker, dash), ``PLACE`` in lists.
``rows(projected, mean, order)`` gives [N, Q] of one kind and layer from the projected rows [N, Q], the student's mean
[Q] and a random order [N], which differs between keys and values. ``identity`` and ``random`` have no ``rows``: they
are read and fitted like the teachers (kvlab.inject.fit).
A module with ``SOURCE = True`` is no control but a further source, judged against the student's own tokens.
"""

from importlib import import_module

from kvlab.request.declared import CONTROLS

_modules = {name: import_module(control["module"]) for name, control in CONTROLS.items()}
ROWS = {name: module.rows for name, module in _modules.items() if hasattr(module, "rows")}
