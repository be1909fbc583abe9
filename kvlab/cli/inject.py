"""``python -m kvlab inject``: flags <-> InjectionRequest. No torch until a request is known to be right."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from kvlab.cli import flags
from kvlab.language import say, speaking
from kvlab.request import inject
from kvlab.request.inject import InjectionRequest, InjectSettings
from kvlab.results.function import data as results
from kvlab.shapes import Document


def add(parser: argparse.ArgumentParser) -> None:
    """The flags of a functional test."""
    flags.add(parser, "injection.json is written", "what is printed and of function.html")
    for name, kind in (("prefix", float), ("documents", int), ("swap_layers", int), ("seconds", float)):
        flags.setting(parser, InjectSettings, name, type=kind)
    for name in ("forwards", "texts", "new_tokens"):
        flags.setting(parser, InjectSettings, name, type=int)
    flags.setting(parser, InjectSettings, "curve", type=float, nargs="*", metavar="SHARE")


def request_of(options: argparse.Namespace) -> InjectionRequest:
    """Raises AlignError ``request-invalid``."""
    own = {name: getattr(options, name) for name in InjectSettings.model_fields}
    return inject.checked({**flags.fields_of(options), "injection": own})


def run(options: argparse.Namespace, documents_of: Callable[[], list[Document]], bar: Callable) -> int:
    """Carry the test out -> exit code: 1 where the student's own cache does not reproduce its logits.

    ``documents_of`` reads the prompts that the options name, ``bar`` is a context that gives a Progress.
    """
    asked = request_of(options)
    inject.check_causal(asked.settings.time)
    from transformers.utils import logging as transformers_logging

    from kvlab.inject import run as folder
    from kvlab.inject import run as perform
    from kvlab.models.loading import ModelCache, geometry

    transformers_logging.disable_progress_bar()
    documents = documents_of()
    for name in {*options.teacher, options.student}:
        geometry(name)  # refuse what cannot be used before loading anything
    with bar() as progress:
        found = perform.compute(asked, documents, ModelCache(), progress)
    folder.write(found, options.out, options.language)
    with speaking(options.language):
        print(results.sentence(found))
        for note in found.notes:
            print(say("Note: {note}", note=note))
        print(say("Written: {files}", files=f"{options.out}/{results.JSON_NAME}, {folder.REPORT_NAME}"))
    return 0 if found.reproduces else 1
