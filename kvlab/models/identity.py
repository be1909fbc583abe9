"""Which model it is: configuration and tokenizer, so that a map is never used with another one."""

import hashlib
import json
from typing import Any

from kvlab.errors import ModelError
from kvlab.language import Message
from kvlab.models.loading import LoadedModel

MOST_NAMED = 8  # properties
# Of a configuration: where it lies, how it was loaded, and what leaves the numbers of a cache alone.
ELSEWHERE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_attn_implementation")


def identity(loaded: LoadedModel) -> dict[str, Any]:
    """Return what a map says of a model: its name, its configuration, and a fingerprint of its tokenizer."""
    config = {name: value for name, value in loaded.model.config.to_dict().items() if name not in ELSEWHERE}
    return {
        "name": loaded.name,
        "config": json.loads(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer_sha256": hashlib.sha256(loaded.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
    }


def check_same(expected: dict[str, Any], loaded: LoadedModel, role: Message) -> None:
    """Refuse another model than the one of a map, naming what differs. Raises ModelError ``map-mismatch``."""
    found = identity(loaded)
    wanted, config = expected["config"], found["config"]
    names = [name for name in sorted({*wanted, *config}) if wanted.get(name) != config.get(name)]
    differs = [
        Message("{property} {found} instead of {expected}", property=n, found=config.get(n), expected=wanted.get(n))
        for n in names[:MOST_NAMED]
    ]
    if found["tokenizer_sha256"] != expected["tokenizer_sha256"]:
        differs.append(Message("another tokenizer"))
    if differs:
        raise ModelError(
            "map-mismatch",
            expected=Message("the {role} that the map was fitted for, {name}", role=role, name=expected["name"]),
            found=Message("{name}: {differs}", name=loaded.name, differs=differs),
            remedy=Message("take that model, or fit a map for this one: python -m kvlab inject"),
        )
