"""Model names: what a name stands for, and which models are here already.

Knows nothing of torch, so the web process can list and check names.
"""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from kvlab import demo
from kvlab.errors import ModelError
from kvlab.files import FORMS, SINGLE, Source, first_line

DEMO = tuple(f"demo/{name}" for name in demo.NAMES)
ALIASES = {"qwen2-7b": "Qwen/Qwen2-7B", "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"}


def resolve(name: str) -> Source:
    """What ``name`` stands for. Looks at the local disk only.

    Raises ModelError ``model-name-invalid``, or ``model-not-found`` for a folder that is not there.
    """
    name = _checked(name)
    if name in DEMO or name.startswith("demo/"):
        return _demo(name)
    if name.startswith(("/", "./", "~")) or name == "." or name.count("/") > 1:
        return _local(name)
    if name.casefold() in ALIASES:
        return Source(ALIASES[name.casefold()], None)
    if os.path.isfile(os.path.join(name, "config.json")):
        return _local(name)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise _invalid(name, first_line(error)) from None
    return Source(name, None)


def local_names() -> list[str]:
    """Names that need no network: the bundled models, then those in the Hugging Face cache, A to Z.

    Only models with a configuration and safetensors weights. A missing or broken cache counts as empty.
    """
    bundled = [name for name in DEMO if all((_demo_folder(name) / file).is_file() for file in ("config.json", SINGLE))]
    try:
        cached = [
            repo.repo_id
            for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos
            if repo.repo_type == "model" and any(_usable(revision) for revision in repo.revisions)
        ]
    except Exception:  # a damaged cache must not take the start page down
        cached = []
    return bundled + sorted(cached, key=str.casefold)


def _checked(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise _invalid(str(name or ""), "an empty name")
    name = name.strip()
    if not name.isprintable():
        raise _invalid(name, "control or invisible characters in the name")
    if max(len(part.encode()) for part in name.split("/")) > 255 or len(name) > 1000:
        raise _invalid(name[:40] + "...", f"a name of {len(name)} characters")
    if ".." in name.split("/") or "\\" in name:
        raise _invalid(name, f"{name!r}, which climbs out of its folder")
    return name.rstrip("/") or "/"


def _demo_folder(name: str) -> Path:
    return demo.DEMO / name.removeprefix("demo/")


def _demo(name: str) -> Source:
    folder = _demo_folder(name)
    if name not in DEMO or not folder.is_dir():
        raise ModelError(
            "model-not-found",
            expected=f"one of the bundled models: {', '.join(DEMO)}",
            found=f"no model {name!r}" if name not in DEMO else f"no folder {folder}",
            remedy="use one of these names; if the folder is missing, restore it with: git checkout kvlab/demo",
        )
    return Source(name, folder)


def _local(name: str) -> Source:
    try:
        folder = Path(name).expanduser().resolve()
    except RuntimeError as error:
        raise _invalid(name, first_line(error)) from None
    if not os.path.isdir(folder):  # unlike Path.is_dir, False for what may not be looked at
        raise ModelError(
            "model-not-found",
            expected="a folder with a model",
            found=f"no folder {folder}",
            remedy=f"check the spelling, or give {FORMS}",
        )
    return Source(str(folder), folder)


def _invalid(name: str, found: str) -> ModelError:
    return ModelError(
        "model-name-invalid",
        expected=FORMS,
        found=found if name in found else f"{name!r}: {found}" if name else found,
        remedy="give a folder by its absolute path and a Hub model by its id, owner/name",
    )


def _usable(revision) -> bool:
    names = {file.file_name for file in revision.files}
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)
