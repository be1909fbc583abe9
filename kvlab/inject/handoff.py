"""Hand a text over: the teacher reads it, the student goes on from the cache that a map makes of the teacher's.

The student itself reads only what has no row of the map: special tokens, the first content tokens (sinks), tokens that
no teacher step stands for, the last ``read_last`` tokens, and always the last of all, which its next forward takes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, groupby, pairwise
from typing import Any

import torch
from transformers import DynamicCache

from kvlab.align.class_maps import ClassMaps
from kvlab.align.items import Item, check_ids, time_map
from kvlab.errors import AlignError
from kvlab.inject.fit import Fit, Source
from kvlab.inject.map_file import MapFile
from kvlab.inject.own import Problem, check_cache
from kvlab.inject.prefix import Inputs, Models, inputs_of
from kvlab.language import Message
from kvlab.models import chat
from kvlab.models.capture import CapturedBatch, captured
from kvlab.models.dry import rotations
from kvlab.models.forward import empty_cache, read_on
from kvlab.models.identity import check_same, fingerprint, identity
from kvlab.models.loading import LoadedModel
from kvlab.models.rotation import rotate
from kvlab.request.align import AlignSettings
from kvlab.request.documents import compose
from kvlab.request.prompts import LIMITS
from kvlab.request.uploads import Record
from kvlab.results.certificate.data import Certificate
from kvlab.shapes import KINDS, Document

SAVED = ("projected", "with-own-token", "own-tokens")  # sources that a map file holds
PARTS = ("weight", "bias", "mean")  # of a map, as a file names them
ROLES = (Message("teacher"), Message("student"))
Text = str | Sequence[Mapping[str, Any]]  # or the messages of a chat
LONGEST = LIMITS.text  # characters of a chat: as many as all prompts together may have


def map_file(
    fit: Fit, teachers: Sequence[LoadedModel], student: LoadedModel, settings: AlignSettings, **about: Any
) -> MapFile:
    """Return a fit as a map file. ``about``: what else the manifest says, such as documents and scores."""
    sources, tensors = {}, {}
    for name in SAVED:
        source = fit.sources.get(name)
        if source is None or source.correction is not None:
            continue
        problems = {}
        for (kind, layer), maps in source.maps.items():
            problems[f"{kind}.{layer}"] = {
                "teacher_layers": [list(layers[kind, layer]) for layers in fit.layers],
                "classes": [[None if c is None else list(c) for c in of_teacher.classes] for of_teacher in maps],
            }
            place = f"{name}.{kind}.{layer}"
            tensors[f"{place}.share"] = source.weights[kind, layer]
            tensors[f"{place}.mean"] = source.mean[kind, layer]
            for a, of_teacher in enumerate(maps):
                parts = zip(of_teacher.weights, of_teacher.biases, of_teacher.means, strict=True)
                for number, (weight, bias, mean) in enumerate(parts):
                    at = f"{place}.{a}.{number}"
                    tensors |= {f"{at}.weight": weight, f"{at}.bias": bias, f"{at}.mean": mean}
        sources[name] = {"features": source.features, "problems": problems}
    manifest = {
        "teachers": [identity(teacher) for teacher in teachers],
        "student": identity(student),
        "settings": settings.model_dump(mode="json"),
        "dtype": "float32",
        "sources": sources,
        "rows_fitted": fit.rows,
        **about,
    }
    return MapFile(manifest, {name: tensor.detach().float().cpu().clone() for name, tensor in tensors.items()})


def fit_of(found: MapFile, device: torch.device) -> Fit:
    """Return the fit that a map file holds, its numbers on ``device``."""
    tensors = {name: tensor.to(device) for name, tensor in found.tensors.items()}
    sources, layers = {}, []
    for name, about in found.manifest["sources"].items():
        source = Source(about["features"], {}, {}, {})
        layers = [{} for _ in found.manifest["teachers"]]
        for written, of_problem in about["problems"].items():
            kind, _, number = written.partition(".")
            problem, place = (kind, int(number)), f"{name}.{written}"
            source.weights[problem], source.mean[problem] = tensors[f"{place}.share"], tensors[f"{place}.mean"]
            source.maps[problem] = [
                ClassMaps(
                    [None if c is None else tuple(c) for c in classes],
                    *([tensors[f"{place}.{a}.{n}.{part}"] for n in range(len(classes))] for part in PARTS),
                )
                for a, classes in enumerate(of_problem["classes"])
            ]
            for a, of_teacher in enumerate(of_problem["teacher_layers"]):
                layers[a][problem] = tuple(of_teacher)
        sources[name] = source
    return Fit(layers, sources, found.manifest["rows_fitted"])


def handoff(
    found: MapFile,
    teacher: LoadedModel | Sequence[LoadedModel],
    student: LoadedModel,
    text: Text | Sequence[Text],
    *,
    caches: Sequence[DynamicCache] | None = None,
    certificate: Certificate | None = None,
    **options: Any,
) -> DynamicCache:
    """Return the student's cache of all tokens of ``text`` but the last, made from the teacher's.

    ``text``: a string; the messages of a chat, [{"role": ..., "content": ...}, ...], after the last of which an answer
    is expected where it is a user's; or several of either, which are padded on the left (``student.generate`` then
    takes ``attention_mask`` too). Messages are read by each model's own chat template if the map was fitted so
    (``--chat``), else as plain text.

    The cache has the attributes ``input_ids`` [B, T], to go on with (``student.generate(input_ids,
    past_key_values=cache)`` reads the last of them), ``attention_mask`` [B, T], ``replaced`` [B, T - 1] bool (tokens
    that the student has not read; without B for a single text), ``approximate`` (True where there is one), ``map_id``
    and ``certificate_id`` (None without one).

    ``caches``: of each teacher, where it has read the (single) text already; of these tokens and perhaps more.
    ``certificate``: refuse what it does not accept, and keep as many own layers as it asks for.
    ``options``: those of ``Handover``.
    Raises ModelError ``map-mismatch``, AlignError ``handoff-empty``, ``certificate-refuses``, ``cache-incomplete`` and
    ``injection-state``, and as ``capture`` and ``chat.read``.
    """
    if certificate is not None:
        own_layers = max(certificate.own_layers, options.get("own_layers", 0))
        options = {"source": certificate.source, **options, "own_layers": own_layers}
    hand = Handover(found, teacher, student, **options)
    several = not isinstance(text, str) and not (text and isinstance(text[0], Mapping))
    items = [hand.item(one) for one in (text if several else [text])]
    if not items or (several and caches is not None):
        raise AlignError(
            "handoff-empty",
            expected=Message("a text, or several texts without caches of the teacher"),
            found=Message("{n} texts", n=len(items)),
            remedy=Message("hand texts whose caches are there over one by one"),
        )
    if certificate is not None:
        for item in items:
            _check_accepted(certificate, found, hand, len(item.student))
    handed = [hand.filled(empty_cache(student), item, 0, hand.reading(caches)) for item in items]
    for cache in handed:
        cache.certificate_id = None if certificate is None else certificate.id
    return _side_by_side(student, handed) if several else handed[0]


def _check_accepted(certificate: Certificate, found: MapFile, hand: "Handover", length: int) -> None:
    known = [*found.manifest["teachers"], found.manifest["student"]]
    reason = certificate.accepts([fingerprint(model) for model in known], length).reason
    for this, certified in ((found.id, certificate.map_id), (hand.source, certificate.source)):
        if not reason and this != certified:
            reason = Message("{found} instead of {expected}", found=this, expected=certified)
    if reason:
        raise AlignError(
            "certificate-refuses",
            expected=Message("a text and models that the certificate {id} accepts", id=certificate.id),
            found=reason,
            remedy=Message("let the student read it, or make a certificate for it: python -m kvlab certify"),
        )


class Handover:
    """A map, its models, and how it is used; made once, for any number of texts.

    ``source``: "projected", or "with-own-token" (default, where the map has it), whose map also reads the student's own
    token. ``read_last``: so many tokens before the last are read by the student, after the cache of the others.
    ``own_layers``: the student's own keys and values in its first layers, which it computes itself.
    Raises ModelError ``map-mismatch`` and AlignError ``injection-state``.
    """

    def __init__(
        self,
        found: MapFile,
        teacher: LoadedModel | Sequence[LoadedModel],
        student: LoadedModel,
        source: str | None = None,
        read_last: int = 0,
        own_layers: int = 0,
    ):
        teachers = [teacher] if isinstance(teacher, LoadedModel) else list(teacher)
        for expected, loaded in zip(found.manifest["teachers"], teachers, strict=True):
            check_same(expected, loaded, ROLES[0])
        check_same(found.manifest["student"], student, ROLES[1])
        check_cache(student, empty_cache(student))
        self.teachers, self.student, self.map_id = teachers, student, found.id
        self.read_last, self.own_layers = read_last, own_layers
        self.settings = AlignSettings.model_validate(found.manifest["settings"])
        self.fit = fit_of(found, student.device)
        self.models = Models(teachers, [], student, self.settings)
        self.source = source or next(s for s in ("with-own-token", "projected") if s in self.fit.sources)

    def over(self, text: Text) -> DynamicCache:
        """Hand a text over, see ``handoff``."""
        return self.filled(empty_cache(self.student), self.item(text), 0)

    def item(self, text: Text) -> Item:
        """Read a text with all tokenizers. Raises AlignError ``handoff-empty``."""
        answering = False
        if isinstance(text, str):
            document = Document("handoff", text)
        else:
            made = compose(Record("message", 1, {"messages": list(text)}), LONGEST)
            document = Document("handoff", made.text, made.segments)
            answering = bool(made.segments) and made.segments[-1].name == "user"
        item = item_of(self.teachers, self.student, document, self.settings, answering)
        if len(item.student) < 2:
            raise AlignError(
                "handoff-empty",
                expected=Message("a text of at least two tokens"),
                found=str(len(item.student)),
                remedy=Message("let the student read it"),
            )
        return item

    def reading(self, caches: Sequence[DynamicCache] | None) -> Callable[[Item], list[CapturedBatch]] | None:
        """Return what takes the place of the teachers' forwards where their caches are there; see ``filled``."""
        if caches is None:
            return None
        pre_rope = self.settings.keys == "pre-rope"
        pairs = list(zip(self.teachers, caches, strict=True))
        return lambda first: [
            captured(loaded, tokens, cache, pre_rope) for (loaded, cache), tokens in zip(pairs, first.teachers)
        ]

    def filled(
        self,
        cache: DynamicCache,
        item: Item,
        start: int,
        read: Callable[[Item], list[CapturedBatch]] | None = None,
    ) -> DynamicCache:
        """Fill a student's cache, which holds the first ``start`` tokens, up to the last token of the item.

        ``read``: as ``inputs_of`` takes it.
        """
        student, cut = self.student, len(item.student) - 1
        ids = torch.from_numpy(item.student.ids)[None].to(student.device)
        inputs = inputs_of(self.models, self.fit, item, ids, cut, start, read)
        replaced = torch.zeros(cut, dtype=torch.bool, device=student.device)
        rows: dict[Problem, torch.Tensor] = {}
        if inputs is not None:
            steps = inputs.picked[0].student[1]
            replaced[steps] = True
            pre_rope = self.settings.keys == "pre-rope"
            rows = _rows(student, self.fit.sources[self.source], inputs, steps, ids[:, :cut], pre_rope)
        replaced[max(0, cut - self.read_last) :] = False
        own = first_layers(student, ids[:, :cut], self.own_layers) if self.own_layers else {}
        _fill(student, cache, ids[:, :cut], start, replaced, rows | own)
        cache.input_ids, cache.attention_mask = ids, torch.ones_like(ids)
        before = cache.replaced[:start] if start else replaced[:0]
        cache.replaced = torch.cat([before, replaced[start:]])
        cache.approximate, cache.map_id = bool(cache.replaced.any()), self.map_id
        return cache


def _side_by_side(student: LoadedModel, handed: Sequence[DynamicCache]) -> DynamicCache:
    """Put caches of single texts into one, padded on the left."""
    longest = max(cache.input_ids.shape[1] for cache in handed)
    whole, layers = empty_cache(student), student.geometry.kv_layers

    def padded(x: torch.Tensor, axis: int, size: int, value: int = 0) -> torch.Tensor:
        lacking = [*x.shape[:axis], size - x.shape[axis], *x.shape[axis + 1 :]]
        return torch.cat([x.new_full(lacking, value), x], axis)

    for layer in layers:
        stored = [(cache.layers[layer].keys, cache.layers[layer].values) for cache in handed]
        whole.update(*(torch.cat([padded(x, 2, longest - 1) for x in of_kind]) for of_kind in zip(*stored)), layer)
    tokenizer = student.tokenizer
    filler = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    whole.input_ids = torch.cat([padded(cache.input_ids, 1, longest, filler) for cache in handed])
    whole.attention_mask = torch.cat([padded(cache.attention_mask, 1, longest) for cache in handed])
    whole.replaced = torch.stack([padded(cache.replaced, 0, longest - 1) for cache in handed])
    whole.approximate, whole.map_id = any(cache.approximate for cache in handed), handed[0].map_id
    whole.certificate_id = handed[0].certificate_id
    return whole


def item_of(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    document: Document,
    settings: AlignSettings,
    answering: bool = False,
) -> Item:
    """Read a document with all tokenizers. Raises as ``check_ids`` and ``chat.read``."""
    read = (chat.read(m.tokenizer, document, settings.chat, answering) for m in (*teachers, student))
    *of_teachers, own = read
    for loaded, tokens in zip((*teachers, student), (*of_teachers, own)):
        check_ids(loaded, tokens)
    maps = tuple(time_map(tokens, own, document, settings) for tokens in of_teachers)
    return Item(document, tuple(of_teachers), own, maps, 0, True, 0)


def _rows(
    student: LoadedModel, source: Source, inputs: Inputs, steps: torch.Tensor, ids: torch.Tensor, pre_rope: bool
) -> dict[Problem, torch.Tensor]:
    """The map's rows as the student would have cached them, [H, T, D] with zeros where there is none."""
    turns = rotations(student, ids) if pre_rope else {}
    rows = {}
    for problem, features in inputs.features[source.features].items():
        heads = student.geometry.layer_shapes[problem[1]][0]
        predicted = source.predict(problem, features, inputs.row_classes)
        x = predicted.unflatten(1, (heads, -1)).transpose(0, 1)
        if problem in turns:
            turn = turns[problem]
            x = rotate(x[None], replace(turn, cos=turn.cos[:, :, steps], sin=turn.sin[:, :, steps]))[0]
        rows[problem] = x.new_zeros(heads, ids.shape[1], x.shape[-1]).index_copy_(1, steps, x).to(student.dtype)
    return rows


class _Enough(Exception):
    """The first layers have cached."""


@torch.inference_mode()
def first_layers(student: LoadedModel, ids: torch.Tensor, count: int) -> dict[Problem, torch.Tensor]:
    """ids [1, T] -> the student's own keys and values [H, T, D] of its first ``count`` layers with a cache.

    Nothing above them is computed.
    """
    cache = empty_cache(student)
    layers = student.geometry.kv_layers
    store = cache.update

    def update(keys, values, layer, *args, **kwargs):
        if count < len(layers) and layer == layers[count]:
            raise _Enough
        return store(keys, values, layer, *args, **kwargs)

    cache.update = update
    try:
        read_on(student, cache, ids)
    except _Enough:
        pass
    finally:
        del cache.update
    found = {}
    for position, layer in enumerate(layers[:count]):
        for kind, x in zip(KINDS, (cache.layers[layer].keys, cache.layers[layer].values), strict=True):
            found[kind, position] = x[0]
    return found


@torch.inference_mode()
def _fill(
    student: LoadedModel,
    cache: DynamicCache,
    ids: torch.Tensor,
    start: int,
    replaced: torch.Tensor,
    rows: dict[Problem, torch.Tensor],
) -> None:
    """Fill a cache from ``start`` on, in the order of the text: with the rows where they replace, else by a forward."""
    marks = replaced[start:].tolist()
    counts = [sum(1 for _ in group) for _, group in groupby(marks)]
    for first, last in pairwise(accumulate(counts, initial=start)):
        if replaced[first]:
            for position, layer in enumerate(student.geometry.kv_layers):
                keys, values = (rows[kind, position][None, :, first:last] for kind in KINDS)
                cache.update(keys, values, layer)
        else:
            read_on(student, cache, ids[:, first:last])
