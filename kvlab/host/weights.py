"""How a model's weights are stored, and how many bytes they take once loaded. Reads headers, never weights. No torch.

A quantised folder keeps most weights in few bits, with scales beside them. transformers loads these as they are and
everything else (embeddings, norms) in the number type that is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import safe_open

from kvlab.errors import ModelError
from kvlab.language import Message
from kvlab.shapes import Geometry, Quantised

WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}  # bytes; all others one
PLAIN = ("F32", "F16", "BF16")
SCALE = 4 / 64  # bytes a weight: one float32 for each 64 weights of bitsandbytes, two 16-bit ones for 64 elsewhere
BITS = {"4bit": 4, "8bit": 8}  # of --load-in
METHODS = {"4bit": "bitsandbytes nf4", "8bit": "bitsandbytes int8"}
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def weight_bytes(geometry: Geometry, dtype: str, device: str) -> int:
    """Return the bytes of a model's weights on ``device``, unquantised ones in ``dtype``."""
    width, stored = DTYPE_BYTES[dtype], geometry.quantised
    if stored is None or _dequantised(stored.method, device):
        return geometry.parameters * width
    return stored.bytes + stored.numbers * width


def loaded_in(geometry: Geometry, load_in: str) -> Quantised | None:
    """Return how the weights are kept after ``--load-in``; ``none``: as they are stored.

    Raises ModelError ``model-quantised`` for a folder that is quantised already.
    """
    if load_in == "none":
        return geometry.quantised
    if geometry.quantised is not None:
        raise ModelError(
            "model-quantised",
            expected=Message("{name} with unquantised weights, for --load-in {bits}", name=geometry.name, bits=load_in),
            found=Message("weights quantised by {method}", method=geometry.quantised.method),
            remedy=Message("leave out --load-in: they are loaded as they are"),
        )
    return _estimated(METHODS[load_in], BITS[load_in], geometry.parameters, geometry.linear)


def check_package(load_in: str) -> None:
    """Raise ModelError ``model-package-missing`` when ``--load-in`` needs a package that is not installed."""
    if load_in != "none" and find_spec("bitsandbytes") is None:
        raise ModelError(
            "model-package-missing",
            expected=Message("the package bitsandbytes for --load-in {bits}", bits=load_in),
            found=Message("it is not installed"),
            remedy=Message("pip install -r requirements-quantised.txt, or leave out --load-in"),
        )


def quantised(settings: Any, parameters: int, linear: int, files: Sequence[Path] = ()) -> Quantised | None:
    """Return how a folder's weights are quantised; None where they are not.

    ``settings``: quantization_config of its config.json. ``files``: its weights; without them (not downloaded yet) the
    bytes are estimated from ``linear``, the weights of linear layers among all ``parameters``.
    """
    if not isinstance(settings, dict):
        return None
    bits, method = _bits(settings), _method(settings)
    if not files:
        return _estimated(method, bits, parameters, linear)
    kept, numbers = 0, 0
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_slice(name)
                count = 1
                for length in tensor.get_shape():
                    count *= length
                if tensor.get_dtype() in PLAIN and name.endswith(("weight", "bias")):
                    numbers += count
                else:
                    kept += count * WIDTHS.get(tensor.get_dtype(), 1)
    return Quantised(method, kept, numbers)


def _estimated(method: str, bits: int, parameters: int, linear: int) -> Quantised:
    return Quantised(method, int(linear * (bits / 8 + (SCALE if bits < 8 else 0))), parameters - linear)


def _method(settings: dict[str, Any]) -> str:
    name = str(settings.get("quant_method") or "bitsandbytes")
    if name.startswith("bitsandbytes"):
        four = settings.get("load_in_4bit") or name.endswith("4bit")
        return f"bitsandbytes {settings.get('bnb_4bit_quant_type', 'fp4') if four else 'int8'}"
    return name if name[-1:].isdigit() else f"{name}, {_bits(settings)} bits"


def _bits(settings: dict[str, Any]) -> int:
    """Return the bits of a quantised weight, wherever its method writes them; 8 where it says nothing."""
    if settings.get("load_in_4bit") or settings.get("quant_method") == "mxfp4":
        return 4
    groups = settings.get("config_groups")
    groups = groups.values() if isinstance(groups, dict) else ()
    inner = [group["weights"] for group in groups if isinstance(group, dict) and isinstance(group.get("weights"), dict)]
    found = [part.get("num_bits") or part.get("bits") or part.get("w_bit") for part in (*inner, settings)]
    return next((bits for bits in found if isinstance(bits, int)), 8)


def _dequantised(method: str, device: str) -> bool:
    """Return whether transformers restores the numbers of such weights on ``device``, which has no kernels for them."""
    if method not in ("fp8", "mxfp4"):
        return False
    return not device.startswith("cuda") or (method == "mxfp4" and find_spec("kernels") is None)
