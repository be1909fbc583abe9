"""Which model it is: configuration, tokenizer and weights, so that a map is never used with another one."""

import hashlib
import json
from typing import Any

import torch

from kvlab.errors import ModelError
from kvlab.language import Message
from kvlab.models.loading import LoadedModel

MOST_NAMED = 8  # properties
# Of a configuration: where it lies, how it was loaded, and what leaves the numbers of a cache alone.
ELSEWHERE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_attn_implementation")


SAMPLED = 16  # numbers of every parameter


def identity(loaded: LoadedModel) -> dict[str, Any]:
    """Return what a map says of a model: name, revision, configuration, hashes of its tokenizer and its weights."""
    config = {name: value for name, value in loaded.model.config.to_dict().items() if name not in ELSEWHERE}
    return {
        "name": loaded.name,
        "config": json.loads(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer_sha256": hashlib.sha256(loaded.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "revision": getattr(loaded.model.config, "_commit_hash", None),
        "weights_sha256": _weights(loaded.model),
    }


@torch.inference_mode()
def _weights(model: torch.nn.Module) -> str | None:
    """Return a hash of the first numbers of every parameter, in bfloat16: the same for float32 and bfloat16.

    None where they are not at hand, quantised, or in float16, which rounds small numbers otherwise.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters(), key=lambda named: named[0]):
        if parameter.device.type == "meta" or parameter.dtype not in (torch.float32, torch.bfloat16):
            return None
        first = parameter.flatten()[:SAMPLED].to(torch.bfloat16).view(torch.int16).cpu()
        digest.update(name.encode() + first.numpy().tobytes())
    return digest.hexdigest()


def fingerprint(identity: dict[str, Any]) -> str:
    """Return sixteen hexadecimal digits of an identity; its name does not count."""
    said = {name: value for name, value in identity.items() if name not in ("name", "revision")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def check_same(expected: dict[str, Any], loaded: LoadedModel, role: Message) -> None:
    """Refuse another model than the one of a map, naming what differs. Raises ModelError ``map-mismatch``."""
    found = identity(loaded)
    wanted, config = expected.get("config"), found["config"]
    if wanted is None:  # of an analysis
        wanted, config = ({**about, "name": ""} for about in (expected["geometry"], loaded.geometry.to_dict()))
        wanted, config = (json.loads(json.dumps(about)) for about in (wanted, config))
    names = [name for name in sorted({*wanted, *config}) if wanted.get(name) != config.get(name)]
    differs = [
        Message("{property} {found} instead of {expected}", property=n, found=config.get(n), expected=wanted.get(n))
        for n in names[:MOST_NAMED]
    ]
    if expected.get("tokenizer_sha256") not in (None, found["tokenizer_sha256"]):
        differs.append(Message("another tokenizer"))
    weights = {expected.get("weights_sha256"), found["weights_sha256"]} - {None}
    if not differs and len(weights) > 1:  # else said already
        differs.append(Message("other weights"))
    if differs:
        raise ModelError(
            "map-mismatch",
            expected=Message("the {role} that the map was fitted for, {name}", role=role, name=expected["name"]),
            found=Message("{name}: {differs}", name=loaded.name, differs=differs),
            remedy=Message("take that model, or fit a map for this one: python -m kvlab inject"),
        )
