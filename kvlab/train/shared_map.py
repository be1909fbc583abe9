"""Take the frozen maps of a run from another that fitted the very same: arms of one seed differ in training only."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kvlab.align.items import Item
from kvlab.align.unfinished import CODE, hash_of_file
from kvlab.models.loading import LoadedModel
from kvlab.request.align import AlignSettings
from kvlab.train import maps

KEY = "asked_for"  # in the metadata of the file
LOOKED_AT = 50  # of the newest runs


def key(
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    items: Sequence[Item],
    kind_of_map: str,
    settings: AlignSettings,
) -> str | None:
    """Hash all that ``maps.fit`` depends on: weights, tokens, settings, device and code. None for weights on disk."""
    asked = hashlib.sha256()
    versions = [CODE, hash_of_file(Path(maps.__file__)), torch.__version__, kind_of_map]
    asked.update(json.dumps([*versions, settings.model_dump(mode="json")]).encode())
    for model in (*teachers, student):
        asked.update(f"{model.device.type} {model.geometry}".encode())
        for name, tensor in model.model.state_dict().items():
            if tensor.is_meta:  # on disk
                return None
            # The exclusive or of all elements, and their sum, as equal elements cancel out in the former.
            contents = torch.hash_tensor(tensor).view(torch.int64).item(), float(tensor.sum(dtype=torch.float32))
            asked.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {contents}".encode())
    for item in items:
        asked.update(repr((item.document, item.repeated)).encode())
        for tokens in (*item.teachers, item.student):
            for part in (tokens.ids, tokens.spans, tokens.special):
                asked.update(part.tobytes())
    return asked.hexdigest()


def of_another_run(folder: Path, wanted: str, file: str) -> Path | None:
    """Return the ``file`` with maps of this key in one of the newest runs beside ``folder``; None if there is none."""
    others = sorted((other for other in folder.parent.glob(f"*/{file}") if other.parent != folder), reverse=True)
    return next((other for other in others[:LOOKED_AT] if _key_of(other) == wanted), None)


def _key_of(file: Path) -> str | None:
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get(KEY)
    except (OSError, SafetensorError):  # being written, damaged, or not ours to read
        return None
