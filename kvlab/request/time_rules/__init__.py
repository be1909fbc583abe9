"""The time rules, a file each: which teacher step stands for a student step. No torch here.

Every module of this package with a ``RULE`` is a rule. Settings, command lines, forms, analyses and reports find it
here; docs/adding-a-rule.md explains how to add one.
"""

import pkgutil
from importlib import import_module

from kvlab.request.time_rules.rule import TimeRule

_modules = (import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
_sorted = sorted((module.RULE for module in _modules if hasattr(module, "RULE")), key=lambda rule: rule.place)

RULES: dict[str, TimeRule] = {rule.name: rule for rule in _sorted}
MAPS = {name: rule.map for name, rule in RULES.items() if not rule.per_head}  # one map for all heads
CAUSAL = tuple(name for name, rule in RULES.items() if rule.causal)  # a prefix knows nothing of the text after it


def known(name: str) -> TimeRule:
    """Return a rule by its name; for an unknown rule of an old result, one with nothing but its name."""
    return RULES.get(name) or TimeRule(name, name, None)
