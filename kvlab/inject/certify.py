"""Make a certificate: a functional test and its map, tried on longer texts, timed, and judged by gates."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from kvlab import __version__
from kvlab.align.run import load
from kvlab.inject import run
from kvlab.inject.handoff import Handover, fit_of
from kvlab.inject.hybrid import groups_of
from kvlab.inject.latency import latency
from kvlab.inject.lengths import Tried, beyond
from kvlab.inject.map_file import NAME, MapFile, load_map
from kvlab.inject.prefix import Models
from kvlab.inject.scores import per_token
from kvlab.inject.tasks import evaluate
from kvlab.language import DEFAULT, Message
from kvlab.models.identity import fingerprint
from kvlab.models.loading import LoadedModel, ModelCache
from kvlab.request import prompts, settings
from kvlab.request.certify import CertifyRequest
from kvlab.request.task_files import Tasks, read_tasks
from kvlab.results.alignment.data import plain
from kvlab.results.certificate import data, verdict
from kvlab.results.certificate.data import Certificate, ModelId
from kvlab.results.certificate.page import certificate_html
from kvlab.results.certificate.verdict import known
from kvlab.results.function.data import DocumentDamage, Injection
from kvlab.shapes import Document, Progress, no_progress


def compute(
    request: CertifyRequest,
    documents: Sequence[Document],
    cache: ModelCache,
    progress: Progress,
    folder: Path,
    language: str = DEFAULT,
) -> Certificate:
    """Make a certificate and write it, its page, its map, and the functional test that it stands on, into a folder.

    Raises as ``run.compute`` and ``load_map``.
    """
    tasks = read_tasks(request.tasks) if request.tasks else None  # before the work begins
    for name in (data.NAME, NAME):  # an earlier map would pass for one that could not be written
        (folder / name).unlink(missing_ok=True)
    test = run.compute(request, documents, cache, progress, folder)
    run.write(test, folder, language)
    teachers, student = load(request, cache, progress)
    found = load_map(folder / NAME)
    certificate = certify(request, test, found, teachers, student, documents, tasks, progress)
    (folder / data.REPORT).write_text(certificate_html(certificate, language), encoding="utf-8")
    data.write(certificate, folder)
    return certificate


def certify(
    request: CertifyRequest,
    test: Injection,
    found: MapFile,
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    documents: Sequence[Document],
    tasks: Tasks | None = None,
    progress: Progress = no_progress,
) -> Certificate:
    """Judge a functional test and the map that it fitted. ``documents``: those of the test."""
    gates, source = request.gates, verdict.source_of(test)
    ladder = verdict.rungs(test, gates, source)
    called, own_layers, why = verdict.verdict(test, ladder, gates)
    longest = test.data["longest_fitted"]
    models = Models(teachers, [], student, request.settings)
    tried, costs, scores, notes = [], [], [], list(test.notes)
    judged = dict.fromkeys(row.document for row in test.documents)
    texts = [document for document in documents if document.id in judged]
    if test.reproduces:
        fit = fit_of(found, student.device)
        times = request.lengths.beyond
        tried, said = beyond(models, fit, texts, longest, times, source, own_layers, progress)
        notes += said
        hand = Handover(found, teachers, student, source, own_layers=own_layers)
        costs, said = latency(hand, [document.text for document in texts], request.lengths.timed, progress=progress)
        notes += said
        if tasks is not None:
            notes += [Message("{where}: {problem}", where=p.where, problem=p.message) for p in tasks.problems]
            scores, said = evaluate(hand, tasks.items, request.markers, request.injection.new_tokens, progress)
            notes += said
    lengths = [_length(of_length) for of_length in tried]
    return Certificate(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        kvlab=__version__,
        map_id=found.id,
        teachers=tuple(map(_model, found.manifest["teachers"])),
        student=_model(found.manifest["student"]),
        settings=plain(test.settings),
        prompts=test.prompts,
        documents_sha256=test.data["documents_sha256"],
        documents_fitted=test.data["documents_fitted"],
        documents_judged=test.data["documents_judged"],
        rows_fitted=test.data["rows_fitted"],
        share_replaced=known(test.data.get("share_replaced")),
        longest_fitted=longest,
        source=source,
        gates=gates,
        verdict=called,
        own_layers=own_layers,
        why=plain(why),
        longest=verdict.longest_of(lengths, gates, longest),
        rungs=tuple(ladder),
        injected=tuple(_continuations(test)),
        groups=tuple(_groups(test, source, ladder)),
        documents=tuple(data.OfDocument(**plain(asdict(row))) for row in test.documents if row.variant == source),
        heads=tuple(_heads(test, source)),
        outputs=tuple(_outputs(test, source)),
        lengths=tuple(lengths),
        answers=tuple(_answers(test)),
        latency=tuple(costs),
        tasks=tuple(scores),
        notes=tuple(map(plain, notes)),
        surroundings=_surroundings(student, test),
    ).signed()


def _model(identity: dict[str, Any]) -> ModelId:
    return ModelId(
        name=identity["name"],
        architecture=identity["config"]["model_type"],
        fingerprint=fingerprint(identity),
        revision=identity.get("revision"),
    )


def _length(tried: Tried) -> data.Length:
    damaged = tried.damaged
    (kl, kl_se), (gain, gain_se) = damaged.mean("kl"), tried.own_tokens.less(damaged, "kl")
    return data.Length(
        tokens=tried.tokens,
        times=tried.times,
        kl=known(kl),
        kl_se=known(kl_se),
        kl_p95=known(damaged.kl_quantile(0.95)),
        below_own_tokens=known(gain),
        below_own_tokens_se=known(gain_se),
        n=damaged.n,
        documents=len(damaged),
    )


def _continuations(test: Injection) -> list[data.Continuation]:
    names = [name for name in data.Continuation.model_fields if name != "variant"]
    main = test.at(test.injection["prefix"])
    return [data.Continuation(variant=row.variant, **plain({n: getattr(row, n) for n in names})) for row in main]


def _groups(test: Injection, source: str, ladder: Sequence[data.Rung]) -> list[data.Group]:
    p95 = ladder[0].groups_p95 if ladder else {}
    groups: dict[str, list[DocumentDamage]] = {}
    for row in test.documents:
        for group in groups_of(row) if row.variant == source else ():
            groups.setdefault(group, []).append(row)
    made = []
    for group, rows in sorted(groups.items()):
        label, _, name = group.partition(": ")
        counts = [row.n for row in rows]
        kl, se = per_token([row.kl * row.n for row in rows], counts)
        same, _ = per_token([row.same_choice * row.n for row in rows], counts)
        numbers = {"kl": known(kl), "kl_se": known(se), "same_choice": known(same)}
        of_group = {"kl_p95": p95.get(group), "n": sum(counts), "documents": len(rows)}
        made.append(data.Group(label=label, name=name, **numbers, **of_group))
    return made


def _heads(test: Injection, source: str) -> list[data.Head]:
    """Return R² = 1 - error of the source, and of all that it is compared with."""
    rows = []
    for cell in test.projection:
        errors = {"projected": cell.error, **cell.controls}
        r2 = {name: known(1 - error) for name, error in errors.items()}
        place = {"kind": cell.kind, "layer": cell.layer, "head": cell.head, "n": cell.n}
        rows.append(data.Head(**place, r2=r2.pop(source), controls=r2))
    return rows


def _outputs(test: Injection, source: str) -> list[data.Output]:
    return [
        data.Output(
            layer=cell.layer,
            head=cell.head,
            cosine=known(cell.cosines.get(source)),
            error=known({"projected": cell.error, **cell.controls}.get(source)),
            n=cell.n,
        )
        for cell in test.attention
        if cell.kind == "both"
    ]


def _answers(test: Injection) -> list[data.Answers]:
    names = ("variant", "right", "se", "less_own", "less_own_se", "documents")
    return [data.Answers(**plain({n: getattr(row, n) for n in names})) for row in test.accuracy if row.documents]


def _surroundings(student: LoadedModel, test: Injection) -> dict[str, Any]:
    place = student.device
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    dtype = str(student.dtype).removeprefix("torch.")
    versions = {package: version for package, version in test.versions.items() if package != "kvlab"}
    return {"device": name, "dtype": dtype, "threads": torch.get_num_threads(), **versions}


def make(folder: Path, progress: Progress, cache: ModelCache) -> None:
    """Make the certificate that ``config.yaml`` and ``prompts.jsonl`` of a run folder ask for, and write it there."""
    request = settings.read(CertifyRequest, folder)
    compute(request, prompts.read_prompts(folder / prompts.RUN_PROMPTS), cache, progress, folder)
