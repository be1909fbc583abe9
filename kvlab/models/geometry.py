"""Find the geometry of a model's KV cache from its configuration alone, without weights and model names.

Build the model on the ``meta`` device, where tensors have shapes but no numbers, and let it read two tokens: its cache
then shows the real KV heads, widths and caching layers. Only where that pass is impossible (control flow that depends
on numbers), use the configuration's own fields.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoModelForCausalLM, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from kvlab.errors import ModelError
from kvlab.host.models import broken, first_line
from kvlab.language import Message
from kvlab.models import cache_names
from kvlab.shapes import Geometry, Positions

Shapes = dict[int, tuple[torch.Size, torch.Size]]  # cached layer -> shapes of keys and values [B, H, T, D]

# transformers sets torch's default dtype while it builds a model, for every thread of the process. Hold this lock to
# build or load a model. A skeleton is built in float32, the default, so that a forward elsewhere sees no change.
BUILDING = threading.Lock()


# The fields of a config.json by the ends of their names that transformers turns into a list or into modules before it
# checks anything, and the most of each: no published model has a quarter of these.
MOST = {"layers": 512, "n_layer": 512, "depth": 512, "labels": 30_000}
MODULES = 50_000  # of a model that is built without weights, a second for about 800


def check_counts(fields: Any, name: str) -> None:
    """Raise ``model-out-of-bounds`` for a count in a config.json, at any depth, for which building would not end."""
    for field, value in _counts(fields):
        most = next((most for ending, most in MOST.items() if field.endswith(ending)), None)
        if most is not None and not 0 <= value <= most:
            raise _out_of_bounds(name, Message("{field} from 0 to {most:,}", field=field, most=most), f"{value:.15g}")


def _counts(fields: Any) -> Iterator[tuple[str, float]]:
    for field, value in fields.items() if isinstance(fields, dict) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield field, value
        yield from _counts(value)


def _out_of_bounds(name: str, expected: Message, found: Message | str) -> ModelError:
    return ModelError(
        "model-out-of-bounds",
        expected=Message("{bounds} in the config.json of {name}", bounds=expected, name=name),
        found=found,
        remedy=Message("correct config.json, or take it from where the model was published"),
    )


def geometry_of(config: PretrainedConfig, name: str) -> Geometry:
    """Return the geometry of the causal language model that ``config`` describes; where layers differ, the first's.

    For a multimodal wrapper, describe its text model; ``parameters`` counts everything that is loaded.
    Raises ModelError: ``model-encoder-decoder``, ``model-not-causal``, ``model-no-kv-cache``, ``model-broken``,
    ``model-package-missing``, ``model-out-of-bounds``.
    """
    _refuse_non_causal(config, name)
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", 1)
    if isinstance(layers, int) and layers < 1:
        raise _out_of_bounds(name, Message("at least one layer"), str(layers))
    skeleton = _skeleton(config, name)
    try:
        return _described(skeleton, config, name)
    except ModelError:
        raise
    except Exception as error:  # values of a kind that transformers lets pass
        found = Message("a config.json whose model shows no cache: {reason}", reason=first_line(error))
        raise broken(name, found) from error


def _described(skeleton: PreTrainedModel, config: PretrainedConfig, name: str) -> Geometry:
    text = config.get_text_config()
    shapes = _cache_shapes(skeleton, text)
    if not shapes:
        raise ModelError(
            "model-no-kv-cache",
            expected=Message("{name} to keep a cache of keys and values", name=name),
            found=Message(
                "the architecture {kind}, which keeps none (no causal attention, or a recurrent state)",
                kind=repr(config.model_type),
            ),
            remedy=Message("choose a causal attention model, such as Llama, Qwen, Gemma, Mistral or GPT-2"),
        )
    first = min(shapes)
    layer_shapes = tuple((keys[1], keys[3], values[3]) for _, (keys, values) in sorted(shapes.items()))
    kv_heads, key_width, value_width = layer_shapes[0]
    latent_width = _of_layer(text, "kv_lora_rank", first)
    return Geometry(
        name=name,
        architecture=config.model_type,
        layers=text.num_hidden_layers,
        kv_layers=tuple(sorted(shapes)),
        kv_heads=kv_heads,
        query_heads=_of_layer(text, "num_attention_heads", first),
        key_width=key_width,
        value_width=value_width,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        positions=_positions(skeleton, text, first, key_width),
        max_positions=getattr(text, "max_position_embeddings", None),
        parameters=sum(parameter.numel() for parameter in skeleton.parameters()),  # tied weights appear once
        layer_shapes=layer_shapes,
        latent=kv_heads == 1 and key_width == latent_width,
        linear=_linear(skeleton),
    )


def _linear(skeleton: PreTrainedModel) -> int:
    """Count the weights that quantisation at load stores in fewer bits."""
    output = skeleton.get_output_embeddings()
    layers = [m for m in skeleton.modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not output]
    return sum(layer.weight.numel() for layer in layers)


def _refuse_non_causal(config: PretrainedConfig, name: str) -> None:
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            "model-encoder-decoder",
            expected=Message("{name} to be a decoder-only language model", name=name),
            found=Message(
                "an encoder-decoder ({kind}): its decoder's cache depends on a second input", kind=repr(kind)
            ),
            remedy=Message("choose a decoder-only model; pairs with an encoder are out of scope"),
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            "model-not-causal",
            expected=Message("{name} to be a causal language model", name=name),
            found=Message(
                "the architecture {kind}, for which transformers has no causal language model", kind=repr(kind)
            ),
            remedy=Message("choose a model for text generation"),
        )


def _skeleton(config: PretrainedConfig, name: str) -> PreTrainedModel:
    config = copy.deepcopy(config)  # building writes into it
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    try:
        with BUILDING, torch.device("meta"), _at_most(MODULES, name):
            skeleton = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        # bfloat16, because the grouped matrix product of expert layers has no other type on meta
        return skeleton.to(torch.bfloat16).eval()
    except ImportError as error:
        raise package_missing(name, error) from error
    except ModelError:
        raise
    except Exception as error:
        raise broken(
            name, Message("a config.json that no model can be built from: {reason}", reason=first_line(error))
        ) from error


@contextmanager
def _at_most(most: int, name: str) -> Iterator[None]:
    """Raise ``model-out-of-bounds`` when more modules are built in the block, whatever field asks for them."""
    built = 0

    def count(*_: Any) -> None:
        nonlocal built
        built += 1
        if built > most:
            raise _out_of_bounds(name, Message("a model of at most {n:,} modules", n=most), Message("more"))

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def package_missing(name: str, error: ImportError) -> ModelError:
    """Return the error of an architecture for which transformers needs another package."""
    return ModelError(
        "model-package-missing",
        expected=Message("every package that {name} needs", name=name),
        found=first_line(error),
        remedy=Message("install the package that is named, in the environment that runs kvlab"),
    )


def _cache_shapes(skeleton: PreTrainedModel, text: PretrainedConfig) -> Shapes:
    inputs = {"input_ids": torch.zeros(1, 2, dtype=torch.long, device="meta"), "use_cache": True}
    try:
        with torch.no_grad():
            return _held(cache_names.returned(skeleton.base_model(**inputs)))
    except Exception:  # whatever a model's own code raises without numbers
        expected = _shapes_by_configuration(skeleton, text)
    cache = DynamicCache(config=text) if expected else None
    with suppress(Exception), torch.no_grad():
        skeleton.base_model(**inputs | cache_names.passing(skeleton.base_model, cache))
    reached = _held(cache)  # the layers before the one that needs numbers; assume that later layers are like them
    like = next(iter(reached.values()), None)
    return {layer: reached.get(layer) or like or shape for layer, shape in expected.items()}


def _held(cache: DynamicCache | None) -> Shapes:
    """Return the shapes of the layers that hold keys."""
    return {
        index: (layer.keys.shape, layer.values.shape)
        for index, layer in enumerate(getattr(cache, "layers", []))
        if getattr(layer, "keys", None) is not None
    }


def _shapes_by_configuration(skeleton: PreTrainedModel, text: PretrainedConfig) -> Shapes:
    keeps = cache_names.argument(skeleton.base_model)
    # An architecture with both fields reads in both directions unless is_decoder is set.
    both_ways = hasattr(text, "add_cross_attention") and getattr(text, "is_decoder", None) is False
    if not keeps or both_ways or not hasattr(text, "num_hidden_layers"):
        return {}
    shapes = {}
    for layer, cache in enumerate(DynamicCache(config=text).layers):
        if isinstance(cache, DynamicLayer):  # not a recurrent state alone
            query_heads = _of_layer(text, "num_attention_heads", layer)
            heads = _of_layer(text, "num_key_value_heads", layer) or query_heads
            width = _of_layer(text, "head_dim", layer) or _of_layer(text, "hidden_size", layer) // query_heads
            shapes[layer] = (torch.Size([1, heads, 2, width]),) * 2
    return shapes


def _of_layer(text: PretrainedConfig, field: str, layer: int) -> Any:
    """Return a field of one layer, in configurations whose layers differ too; None where there is no such field."""
    try:
        value = getattr(text, field, None)
    except RuntimeError:  # transformers raises it for a field that differs by layer
        value = getattr(text.per_layer_config[layer], field, None)
    return value[layer] if isinstance(value, list | tuple) else value


def _positions(skeleton: PreTrainedModel, text: PretrainedConfig, layer: int, key_width: int) -> Positions:
    modules = dict(skeleton.base_model.named_modules())
    rotary = next((module for module in modules.values() if "Rotary" in type(module).__name__), None)
    parameters = _rope_parameters(text, layer)
    declares_alibi = any(
        getattr(part, "alibi", False) for part in (text, getattr(text, "attn_config", None)) if part is not None
    )
    if declares_alibi or hasattr(skeleton.base_model, "build_alibi_tensor"):
        return Positions("alibi")
    if rotary is not None or parameters or getattr(text, "rotary_dim", None):
        scaling = parameters.get("rope_type", "default")
        width = _rotary_width(rotary, text, layer, parameters, key_width)
        return Positions(
            "rope",
            theta=parameters.get("rope_theta"),
            scaling=None if scaling == "default" else scaling,
            rotary_width=None if width == key_width else width,
        )
    for name, module in modules.items():
        if isinstance(module, torch.nn.Embedding) and ("pos" in name.rpartition(".")[2] or name.endswith("wpe")):
            return Positions("learned")
        if "Sinusoidal" in type(module).__name__:
            return Positions("sinusoidal")
    return Positions("none")


def _layer_type(text: PretrainedConfig, layer: int) -> str | None:
    types = getattr(text, "layer_types", None)
    return types[layer] if types else None


def _rope_parameters(text: PretrainedConfig, layer: int) -> dict[str, Any]:
    """Return the rotary settings of a layer; models with two rotations keep one set per layer type."""
    parameters = getattr(text, "rope_parameters", None) or {}
    by_type = parameters.get(_layer_type(text, layer))
    return by_type if isinstance(by_type, dict) else parameters


def _rotary_width(rotary, text: PretrainedConfig, layer: int, parameters: dict[str, Any], key_width: int) -> int:
    for buffer in (f"{_layer_type(text, layer)}_inv_freq", "inv_freq"):
        frequencies = getattr(rotary, buffer, None)
        if frequencies is not None:
            return 2 * frequencies.shape[-1]
    share = parameters.get("partial_rotary_factor") or 1.0
    return getattr(text, "rotary_dim", None) or int(key_width * share)
