"""A fit of the demo pair as a map file, for the tests of handing over."""

import warnings
from functools import cache

from kvlab.inject.fit import fit
from kvlab.inject.handoff import map_file
from kvlab.inject.prefix import Models
from kvlab.inject.split import split
from kvlab.models.loading import load
from kvlab.request import prompts
from kvlab.request.align import AlignSettings
from kvlab.shapes import no_progress

FEW = {"random_teacher": False, "layers": "depth", "folds": 3}


def fitted(teacher, student, documents, settings):
    """The models of a functional test, its fit, and the documents that it judges."""
    parts = split([teacher], student, documents, [], settings, most=2)
    found = fit([teacher], [], student, parts, settings, no_progress)
    return Models([teacher], [], student, settings), found, parts.judged


@cache
def demo():
    """Models, fit, judged items and map file of the demo pair."""
    teacher, student = load("demo/teacher"), load("demo/student")
    settings = AlignSettings(**FEW)
    models, found, judged = fitted(teacher, student, prompts.samples()[:30], settings)
    return models, found, judged, map_file(found, [teacher], student, settings, documents=30)


def stored(cache, student):
    """Keys and values of every cached layer, in their order."""
    layers = [cache.layers[layer] for layer in student.geometry.kv_layers]
    return [x for layer in layers for x in (layer.keys, layer.values)]


def generated(student, handed, count):
    """The next tokens [B, count] behind a cache that was handed over."""
    mask = {"attention_mask": handed.attention_mask}
    with warnings.catch_warnings():  # transformers renames the argument
        warnings.simplefilter("ignore", FutureWarning)
        told = {"max_new_tokens": count, "do_sample": False, **mask}
        said = student.model.generate(handed.input_ids, past_key_values=handed, **told)
    return said[:, handed.input_ids.shape[1] :].tolist()
