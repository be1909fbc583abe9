"""A fitted map as a file that other programs can use: ``map.safetensors`` with a manifest in its metadata.

Reading it needs torch and safetensors alone. Tensors are float32, one name for each:

    SOURCE.KIND.LAYER.TEACHER.CLASS.weight [P, Q], .bias [Q], .mean [Q]; SOURCE.KIND.LAYER.share [A, Q], .mean [Q]

KIND is key or value; LAYER the student layer and TEACHER the teacher, both counted from 0 (layers among those with a
cache); CLASS the place of the row class in the manifest. P are the channels of the teacher layers named there side by
side, each head by head, and for a source that reads it the student's own token behind them; Q = H * D head by head.
Keys are those before RoPE if ``settings.keys`` says so.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kvlab.errors import ModelError
from kvlab.language import Message

if TYPE_CHECKING:
    from transformers import DynamicCache

    from kvlab.inject.stream import Stream

NAME = "map.safetensors"
PROJECTOR = "projector.safetensors"  # of an analysis
FORMAT, VERSION = "kvlab-map", 1
MANIFEST = "manifest"  # in the file's metadata


@dataclass(frozen=True)
class MapFile:
    """A map and what is known of it. ``manifest``: plain JSON."""

    manifest: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits of the map's numbers and of the models that it belongs to."""
        digest = hashlib.sha256(json.dumps([self.manifest["teachers"], self.manifest["student"]]).encode())
        for name in sorted(self.tensors):
            digest.update(name.encode())
            tensor = self.tensors[name].contiguous()
            digest.update(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))
        return digest.hexdigest()[:16]

    @property
    def sources(self) -> list[str]:
        return list(self.manifest["sources"])

    def save(self, path: Path | str) -> None:
        """Write the file as a whole or not at all. Raises OSError and SafetensorError."""
        manifest = {**self.manifest, "format": FORMAT, "version": VERSION, "id": self.id}
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        draft = Path(path).with_suffix(".partial")
        save_file(tensors, draft, {MANIFEST: json.dumps(manifest, ensure_ascii=False)})
        draft.replace(path)

    def handoff(self, teacher: Any, student: Any, text: Any, **options: Any) -> DynamicCache:
        """Read ``text`` with the teacher and return the student's cache of it. See ``kvlab.inject.handoff.handoff``."""
        from kvlab.inject.handoff import handoff

        return handoff(self, teacher, student, text, **options)

    def stream(self, teacher: Any, student: Any, **options: Any) -> Stream:
        """Return an empty text whose ``extend(more)`` gives the student's cache of all. See ``kvlab.inject.stream``."""
        from kvlab.inject.stream import Stream

        return Stream(self, teacher, student, **options)


def load_map(path: Path | str) -> MapFile:
    """Read a map; ``path`` of the file, or of the folder it lies in.

    The ``projector.safetensors`` of ``align --out`` is read too, with the ``alignment.json`` beside it.
    Raises ModelError ``map-unreadable``.
    """
    path = Path(path)
    if path.is_dir():
        path = next((place for name in (NAME, PROJECTOR) if (place := path / name).exists()), path / NAME)
    try:
        with safe_open(path, framework="pt") as file:
            manifest = json.loads((file.metadata() or {}).get(MANIFEST, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    except (OSError, SafetensorError, ValueError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error
    if manifest is None and path.name == PROJECTOR:
        return _of_analysis(path, tensors)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _unreadable(path, Message("a file without a map's manifest"))
    if manifest.get("version") != VERSION:
        raise _unreadable(path, Message("version {n} of the format", n=manifest.get("version")))
    return MapFile(manifest, tensors)


def _of_analysis(path: Path, tensors: dict[str, torch.Tensor]) -> MapFile:
    """Return the map of an analysis, KIND.LAYER.[inside-CLASS.]weight and bias, as one of the source "projected".

    Its models are known by their geometry.
    """
    file = path.with_name("alignment.json")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        read = about["layer_map"]["teacher_layers"]
        numbered = list(about["teacher"]["kv_layers"])
        problems, named = {}, {}
        for kind, layers in read.items():
            for place, of_layer in enumerate(layers):
                classes = _classes(tensors, f"{kind}.{place}.")
                problems[f"{kind}.{place}"] = {
                    "teacher_layers": [[numbered.index(layer) for layer in of_layer]],
                    "classes": [[[row_class] for row_class in classes] if len(classes) > 1 else [None]],
                }
                at = f"projected.{kind}.{place}"
                for number, row_class in enumerate(classes):
                    inside = f"inside-{row_class}." if row_class else ""
                    weight, bias = (tensors[f"{kind}.{place}.{inside}{part}"] for part in ("weight", "bias"))
                    zeros = torch.zeros_like(bias)
                    of_class = {"weight": weight, "bias": bias, "mean": zeros}
                    named |= {f"{at}.0.{number}.{part}": tensor for part, tensor in of_class.items()}
                named |= {f"{at}.share": torch.ones(1, len(zeros)), f"{at}.mean": zeros}
        identities = [{"name": about[role]["name"], "geometry": about[role]} for role in ("teacher", "student")]
        manifest = {"teachers": identities[:1], "student": identities[1], "settings": about["settings"]}
        sources = {"projected": {"features": "layers", "problems": problems}}
        return MapFile({**manifest, "sources": sources, "rows_fitted": about["data"]["rows_fit"]}, named)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, Message("{file} beside it: {reason}", file=file.name, reason=error)) from error


def _classes(tensors: dict[str, torch.Tensor], place: str) -> list[int]:
    """Return the classes of rows that have a map, 0 for exact ones."""
    found = [name.removeprefix(place).removesuffix("weight") for name in tensors if name.startswith(place)]
    marks = {part for part in found if part == "" or (part.startswith("inside-") and part.endswith("."))}
    return sorted(int(mark.removeprefix("inside-").rstrip(".") or 0) for mark in marks)


def _unreadable(path: Path, found: Message | str) -> ModelError:
    return ModelError(
        "map-unreadable",
        expected=Message("a map that inject wrote, {name}, version {n}, at {place}", name=NAME, n=VERSION, place=path),
        found=found,
        remedy=Message("write it anew: python -m kvlab inject ... --out DIR"),
    )
