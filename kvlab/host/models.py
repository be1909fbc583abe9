"""Find models: resolve their names, find their files, and check that the files are complete.

Files lie in a local folder, in the Hugging Face cache or, until downloaded, on the Hub. Reads file names and small
JSON files, never weights, and knows nothing of torch, so the web process can list and check names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import HfApi, constants, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from kvlab.errors import ModelError
from kvlab.host import bundled, privacy
from kvlab.language import Message, phrase

DEMO = tuple(f"demo/{name}" for name in bundled.NAMES)
ALIASES = {"qwen2-7b": "Qwen/Qwen2-7B", "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0"}


def resolve(name: str) -> Source:
    """Return the model that ``name`` stands for. Looks at the local disk only.

    Raises ModelError ``model-name-invalid``, ``model-not-found`` for a missing folder, ``model-gguf`` for such a file.
    """
    name = _checked(name)
    if name.startswith("demo/"):
        return _demo(name)
    if name.startswith(("/", "./", "~")) or name == "." or name.count("/") > 1:
        return _local(name)
    if name.casefold() in ALIASES:
        return Source(ALIASES[name.casefold()], None)
    if _holds_a_model(Path(name)):
        return _local(name)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise _invalid(name, Message.read(first_line(error))) from None
    return Source(name, None)


def absolute(name: str) -> str:
    """Return the name, with the path of a local folder made absolute: a run may go on from another working folder.

    Raises as resolve.
    """
    source = resolve(name)
    bundled_name = name.strip() in DEMO
    return str(source.folder) if source.folder is not None and not bundled_name else name.strip()


def local_names() -> list[str]:
    """List the models that need no network: the bundled ones, then those in the Hugging Face cache, A to Z.

    Leaves out models without a configuration or safetensors weights.
    """
    demo = [name for name in DEMO if all((_demo_folder(name) / file).is_file() for file in ("config.json", SINGLE))]
    cached = []
    with suppress(Exception):  # a damaged cache must not break the start page
        models = [repo for repo in scan_cache_dir(constants.HF_HUB_CACHE).repos if repo.repo_type == "model"]
        cached = [repo.repo_id for repo in models if any(_usable(revision) for revision in repo.revisions)]
    return demo + sorted(cached, key=str.casefold)


def _checked(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise _invalid(str(name or ""), Message("an empty name"))
    name = name.strip()
    if not name.isprintable():
        raise _invalid(name, Message("control or invisible characters in the name"))
    if max(len(part.encode()) for part in name.split("/")) > 255 or len(name) > 1000:
        raise _invalid(name[:40] + "...", Message("a name of {n} characters", n=len(name)))
    if ".." in name.split("/") or "\\" in name:
        raise _invalid(name, Message("{name}, which climbs out of its folder", name=repr(name)))
    return name.rstrip("/") or "/"


def _demo_folder(name: str) -> Path:
    return bundled.DEMO / name.removeprefix("demo/")


def _demo(name: str) -> Source:
    folder = _demo_folder(name)
    if name not in DEMO or not folder.is_dir():
        raise ModelError(
            "model-not-found",
            expected=Message("one of the bundled models: {names}", names=list(DEMO)),
            found=Message("no folder {folder}" if name in DEMO else "no model {name}", name=repr(name), folder=folder),
            remedy=Message(
                "use one of these names; if the folder is missing, restore it with: git checkout kvlab/demo"
            ),
        )
    return Source(name, folder)


def _holds_a_model(place: Path) -> bool:
    """Return whether a folder has files of a model, also of one that cannot be read, or is such a file itself."""
    if place.suffix == ".gguf":
        return os.path.isfile(place)
    with suppress(OSError):
        return any(name in OF_A_MODEL or name.endswith(".gguf") for name in os.listdir(place))
    return False


def _local(name: str) -> Source:
    try:
        folder = Path(name).expanduser().resolve()
    except RuntimeError as error:
        raise _invalid(name, Message.read(first_line(error))) from None
    if folder.suffix == ".gguf" and os.path.isfile(folder):
        raise _gguf(str(folder.parent), folder.name)
    if not os.path.isdir(folder):  # unlike Path.is_dir, False without permission
        raise ModelError(
            "model-not-found",
            expected=Message("a folder with a model"),
            found=Message("no folder {folder}", folder=folder),
            remedy=Message("check the spelling, or give {forms}", forms=Message(FORMS)),
        )
    return Source(str(folder), folder)


def _invalid(name: str, problem: Message) -> ModelError:
    named = not name or name in problem
    return ModelError(
        "model-name-invalid",
        expected=Message(FORMS),
        found=problem if named else Message("{name}: {problem}", name=repr(name), problem=problem),
        remedy=Message("give a folder by its absolute path and a Hub model by its id, owner/name"),
    )


def _usable(revision) -> bool:
    names = {file.file_name for file in revision.files}
    return "config.json" in names and any(name.endswith(".safetensors") for name in names)


FORMS = phrase(
    "a demo model (demo/teacher, demo/teacher-b, demo/student), a Hugging Face id like Qwen/Qwen2-7B, or a local folder"
)

HUB_TIMEOUT = 5.0  # seconds after which the Hub counts as out of reach
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_JSON, DEEPEST_JSON = 16 * 2**20, 50  # bytes, and lists or objects in each other
UNREADABLE = (ValueError, KeyError, AttributeError, TypeError, OSError)  # of a damaged index
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
# The files of each part of a model on the Hub. kvlab never downloads pickles, ONNX or "original/" copies.
PARTS = {
    "config": ["config.json"],
    "tokenizer": ["tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "*.jinja"],
    "weights": [SINGLE, INDEX, "model-*.safetensors", "generation_config.json"],
}
PART_NAMES = {"config": phrase("config"), "tokenizer": phrase("tokenizer"), "weights": phrase("weights")}
OF_A_MODEL = ("config.json", "adapter_config.json")
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")


@dataclass(frozen=True)
class Source:
    """The origin of a model. Every spelling of the same model has the same ``name``."""

    name: str  # "demo/teacher", "Qwen/Qwen2-7B" or an absolute folder
    folder: Path | None  # None: a Hugging Face id


def folder_of(source: Source, part: str) -> Path:
    """Return the folder that holds ``part`` ("config", "tokenizer" or "weights") of a model; download it if needed.

    For an id, try the local cache first, then the Hub (not when HF_HUB_OFFLINE is set).
    Raises ModelError: ``model-offline``, ``model-not-found``, ``model-gated``, ``model-no-safetensors``,
    ``model-broken``, ``model-download-failed``.
    """
    folder = source.folder or _cached(source.name)
    if source.folder is None and (folder is None or not _has(part, folder)):
        folder = _download(source.name, part, folder)
    if not (folder / "config.json").is_file():
        raise _no_config(source.name, _file_names(folder))
    return folder


def weight_files(folder: Path, name: str) -> list[Path]:
    """List the safetensors files of a model folder. Raises ``model-no-safetensors`` or ``model-broken``."""
    try:
        files = _listed_weights(folder)
    except UNREADABLE as error:
        raise broken(name, Message("an unreadable {file} ({reason})", file=INDEX, reason=first_line(error))) from None
    if not files:
        raise _no_safetensors(name, _file_names(folder))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        counts = {"missing": len(missing), "n": len(files), "first": missing[0]}
        raise broken(name, Message("{missing} of {n} weight files missing ({first}, ...)", **counts))
    return files


def present_weights(folder: Path) -> list[Path]:
    """List the weight files in a model's folder if all are here; empty where one is missing. Asks no network."""
    with suppress(*UNREADABLE):
        files = _listed_weights(folder)
        return files if all(file.is_file() for file in files) else []
    return []


def read_json(file: Path) -> Any:
    """Read a JSON file of a model. Raises OSError, and ValueError also for a huge file and for brackets too deep."""
    size = file.stat().st_size
    if size > LARGEST_JSON:
        sizes = {"size": size / 2**20, "most": LARGEST_JSON / 2**20}
        raise ValueError(Message("{size:.0f} MiB; at most {most:g} are read", **sizes))
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(Message("brackets nested too deep")) from None
    level = [fields]
    for _ in range(DEEPEST_JSON):
        level = [inner for part in level for inner in _inside(part)]
    if level:
        raise ValueError(Message("brackets nested too deep"))
    return fields


def _inside(part: Any) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()


def first_line(error: BaseException) -> Message | str:
    """Return the first line of a library's message without its full stop; it names the problem. Keep a Message."""
    if error.args and isinstance(error.args[0], Message):
        return error.args[0]
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def broken(name: str, found: Message) -> ModelError:
    """Return the error of files that exist but cannot be read as a model."""
    how: Message | str = f"hf download {name} --force-download"
    if name.startswith("demo/"):
        how = "git checkout kvlab/demo"
    elif Path(name).is_absolute():
        how = Message("copy the folder from where it came")
    return ModelError(
        "model-broken",
        expected=Message("a readable model at {name}", name=name),
        found=found,
        remedy=Message("fetch the files again, a half-finished download is the usual cause: {how}", how=how),
    )


def _file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _cached(repo_id: str) -> Path | None:
    path = try_to_load_from_cache(repo_id, "config.json", cache_dir=constants.HF_HUB_CACHE)
    return Path(path).parent if isinstance(path, str | os.PathLike) else None


def _has(part: str, folder: Path) -> bool:
    if part == "config":
        return True
    if part == "tokenizer":
        return any((folder / file).is_file() for file in TOKENIZER_FILES)
    return bool(present_weights(folder))


def _listed_weights(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX)["weight_map"].values()
        return [folder / shard for shard in sorted(set(shards))]
    return [folder / SINGLE] if (folder / SINGLE).is_file() else []


def _download(repo_id: str, part: str, cached: Path | None) -> Path:
    # Ask one short question first: without a network, the library's downloads retry for half a minute.
    try:
        info = HfApi().model_info(repo_id, timeout=HUB_TIMEOUT)
    except Exception as error:
        local_files = _file_names(cached) if part == "weights" and cached is not None else []
        if any(file.endswith(OTHER_WEIGHTS) for file in local_files):
            raise _no_safetensors(repo_id, local_files) from error
        _raise_for_hub(repo_id, part, error)
    files = sorted(sibling.rfilename for sibling in info.siblings or [])
    if "config.json" not in files:
        raise _no_config(repo_id, files)
    if SINGLE not in files and INDEX not in files:
        raise _no_safetensors(repo_id, files)
    patterns = PARTS["config"] + (PARTS[part] if part != "config" else [])
    cache = constants.HF_HUB_CACHE
    try:
        with privacy.as_in(Path(cache)):
            return Path(snapshot_download(repo_id, allow_patterns=patterns, cache_dir=cache, etag_timeout=HUB_TIMEOUT))
    except Exception as error:
        _raise_for_hub(repo_id, part, error)


def _raise_for_hub(repo_id: str, part: str, error: Exception) -> NoReturn:
    if isinstance(error, GatedRepoError):
        raise ModelError(
            "model-gated",
            expected=Message("access to {name}", name=repo_id),
            found=Message("a gated model: its owner asks for a licence to be accepted"),
            remedy=Message(
                "accept the licence at https://huggingface.co/{name}, then log in here: hf auth login", name=repo_id
            ),
        ) from error
    if isinstance(error, RepositoryNotFoundError):
        raise ModelError(
            "model-not-found",
            expected=Message(FORMS),
            found=Message(
                "no model {name} on the Hugging Face Hub, nor a folder of that name here", name=repr(repo_id)
            ),
            remedy=Message("check the spelling; for a private model log in first: hf auth login"),
        ) from error
    place = {"part": Message(PART_NAMES[part]), "name": repo_id, "folder": constants.HF_HUB_CACHE}
    no_entry = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
    on_disk = isinstance(error, OSError) and error.errno is not None and error.filename is not None
    if no_entry or on_disk:
        raise ModelError(
            "model-download-failed",
            expected=Message("{part} of {name} downloaded to {folder}", **place),
            found=first_line(error),
            remedy=Message("check free space and permissions there, or set HF_HOME to another disk"),
        ) from error
    status = f" (HTTP {error.response.status_code})" if isinstance(error, HfHubHTTPError) else ""
    raise ModelError(
        "model-offline",
        expected=Message("{part} of {name} in the local cache {folder}, or the Hub in reach", **place),
        found=Message("neither: {reason}", reason=f"{first_line(error)}{status}"),
        remedy=Message(
            "on a machine with network run: hf download {name} and copy the cache here, or give a local "
            "folder; the demo models need no network",
            name=repo_id,
        ),
    ) from error


def _no_config(name: str, files: list[str]) -> ModelError:
    if packed := next((file for file in files if file.endswith(".gguf")), None):
        return _gguf(name, packed)
    found = Message("no config.json among {n} files", n=len(files))
    if "adapter_config.json" in files:
        found = Message("an adapter without its base model (adapter_config.json); merge it and save it first")
    return broken(name, found)


def _gguf(name: str, file: str) -> ModelError:
    """Return the error of a GGUF model, with the command that unpacks it once."""
    program = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T, GgufConfig as G; "
        f"f = dict(pretrained_model_name_or_path={name!r}, gguf_file={file!r}); "
        "M.from_pretrained(**f, quantization_config=G(dequantize=True)).save_pretrained('FOLDER'); "
        "T.from_pretrained(**f).save_pretrained('FOLDER')"
    )
    return ModelError(
        "model-gguf",
        expected=Message(
            "weights of {name} as {single}, or in parts with {index}", name=name, single=SINGLE, index=INDEX
        ),
        found=Message("a model packed as GGUF: {file}", file=file),
        remedy=Message(
            "convert it once with: {command} and give FOLDER (rounded weights stay rounded; the model that it was made "
            "from is better)",
            command=f'pip install gguf && python -c "{program}"',
        ),
    )


def _no_safetensors(name: str, files: list[str]) -> ModelError:
    others = [file for file in files if file.endswith(OTHER_WEIGHTS)]
    if others and all(file.endswith(".gguf") for file in others):
        return _gguf(name, others[0])
    program = (
        f"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{name}').save_pretrained('FOLDER')"
    )
    convert = Message(
        "other formats are refused, because pickles can run code when read; convert the weights once on a machine "
        "you trust: {command} and copy the tokenizer files",
        command=f'python -c "{program}"',
    )
    return ModelError(
        "model-no-safetensors",
        expected=Message(
            "weights of {name} as {single}, or in parts with {index}", name=name, single=SINGLE, index=INDEX
        ),
        found=Message("only {files}", files=others[:3]) if others else Message("no weight files"),
        remedy=convert if others else Message("put the weights beside config.json, or give the folder that has them"),
    )
