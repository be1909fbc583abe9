"""Load a model and its tokenizer: name → configuration → geometry → weights.

Refuse everything that can be refused from small files, before reading any weight. Never execute anything from a model
repository: safetensors only, no remote code.
"""

import copy
import gc
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kvlab.errors import ModelError
from kvlab.host import launched, memory
from kvlab.host.models import broken, first_line, folder_of, present_weights, read_json, resolve, weight_files
from kvlab.host.weights import check_package, loaded_in, quantised, weight_bytes
from kvlab.language import Message
from kvlab.models.geometry import BUILDING, check_counts, geometry_of, package_missing
from kvlab.models.split import input_device, max_memory, places, spread_like
from kvlab.models.trial import tokenizer_tried
from kvlab.shapes import Geometry


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to read: in eval mode, without gradients.

    Its token ids go to ``device`` and its caches come to ``home``: the same one, but for a model that is spread over
    several. ``lock``: hold it across every forward. Models are shared between requests, and capture borrows their
    modules (hooks, rotary buffers) for as long as a forward lasts.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    geometry: Geometry
    device: torch.device
    dtype: torch.dtype
    home: torch.device | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", self.home or self.device)


def geometry(name: str) -> Geometry:
    """Return the geometry of a model from its configuration alone; fetch config.json when it is not here.

    Raises ModelError as resolve, folder_of and geometry_of do, and ``model-unknown-architecture``,
    ``model-remote-code``.
    """
    source = resolve(name)
    folder = folder_of(source, "config")
    return _with_weights(configuration(folder, source.name), source.name, present_weights(folder))


def load(
    name: str, device: str = "auto", dtype: str = "auto", load_in: str = "none", room: int | None = None
) -> LoadedModel:
    """Load a model and its tokenizer.

    ``device``: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:N". ``dtype``: "auto" (bfloat16 on a GPU
    that has it, float16 on an older one, float32 on the processor), "float32", "bfloat16", "float16".
    ``load_in``: "8bit" or "4bit" quantises the weights as they are read. ``room``: spread the weights over all GPUs and
    the host, and leave this many bytes on ``device``, where the caches come to.
    Raises ModelError as geometry does, and ``tokenizer-missing``, ``tokenizer-slow``, ``tokenizer-harmful``,
    ``model-memory``, ``model-dtype-invalid``, ``model-device-invalid``, ``model-no-safetensors``, ``model-broken``,
    ``model-quantised``, ``split-impossible``.
    """
    source = resolve(name)
    place = pick_device(device)
    number = pick_dtype(dtype, place)
    check_package(load_in)
    folder = folder_of(source, "config")
    config = configuration(folder, source.name)
    shape = _with_weights(config, source.name, present_weights(folder))
    shape = replace(shape, quantised=loaded_in(shape, load_in))
    tokenizer = _tokenizer(folder_of(source, "tokenizer"), source.name)
    needed = weight_bytes(shape, str(number).removeprefix("torch."), str(place))
    spread = None if room is None else max_memory(place, room, shape.quantised is not None)
    free = memory.device_memory(str(place)).free if spread is None else sum(spread.values())
    if needed > free:
        raise _too_big(source.name, needed, free, place)
    folder = folder_of(source, "weights")
    for file in weight_files(folder, source.name):
        _check_weights(file, source.name)
    where = {"device_map": {"": str(place)}} if spread is None else {"device_map": "auto", "max_memory": spread}
    if place.type == "cpu" and shape.quantised is None:
        where = {}
    if load_in != "none":
        where["quantization_config"] = _quantising(load_in, number)
    try:
        model = _read(folder, source.name, number, **where)
    except (torch.OutOfMemoryError, MemoryError) as error:
        free_memory()
        raise _too_big(source.name, needed, free, place) from error
    return LoadedModel(source.name, model, tokenizer, shape, input_device(model), number, place)


def rounded(*models: LoadedModel) -> list[Message]:
    """Return a note for results on each model whose weights are quantised."""
    return [
        Message(
            "The weights of {name} are rounded ({method}), and its keys and values with them. On the demo teacher, "
            "bitsandbytes nf4 moves keys by 5 to 7 %, int8 by less than 1 %.",
            name=loaded.name,
            method=loaded.geometry.quantised.method,
        )
        for loaded in models
        if loaded.geometry.quantised is not None
    ]


def _with_weights(config: PretrainedConfig, name: str, files: Sequence[Path]) -> Geometry:
    """Return the geometry with how the weights are stored; ``files`` is empty while they are not here."""
    shape = geometry_of(config, name)
    settings = getattr(config, "quantization_config", None)
    try:
        return replace(shape, quantised=quantised(settings, shape.parameters, shape.linear, files))
    except (SafetensorError, OSError):  # load says which file is damaged
        return replace(shape, quantised=quantised(settings, shape.parameters, shape.linear))


def _quantising(load_in: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if load_in == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def random_like(loaded: LoadedModel, seed: int) -> LoadedModel:
    """Build the same architecture, tokenizer, device and number type with freshly initialised weights.

    The same seed gives the same weights on the same kind of device; torch's own random state does not change. A
    quantised model's are not quantised. Raises ModelError ``model-memory`` when the weights do not fit into the free
    memory.
    """
    spread = places(loaded.model)
    shape = replace(loaded.geometry, quantised=None)
    unquantised = shape.parameters * loaded.dtype.itemsize
    # A spread model is made on the processor, then goes the same ways.
    made_on = torch.device("cpu") if spread else loaded.device
    wanted = {device: size * unquantised // sum(spread.values()) for device, size in spread.items()}
    for device, needed in ({str(made_on): unquantised} | wanted).items():
        free = memory.device_memory(device).free
        if needed > free:
            raise _too_big(Message("{name} with random weights", name=loaded.name), needed, free, device)
    config = copy.deepcopy(loaded.model.config)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    try:
        with BUILDING, _seeded(seed, made_on), made_on:
            model = AutoModelForCausalLM.from_config(config, dtype=loaded.dtype, trust_remote_code=False)
        model = model.eval().requires_grad_(False)
        model = spread_like(model, loaded.model) if spread else model
    except (torch.OutOfMemoryError, MemoryError) as error:
        free_memory()
        raise _too_big(Message("{name} with random weights", name=loaded.name), needed, free, device) from error
    name = f"{loaded.name} with random weights"
    return LoadedModel(name, model, loaded.tokenizer, shape, loaded.device, loaded.dtype, loaded.home)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Start torch's random numbers on the processor and on ``device`` at ``seed``; restore them afterwards."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.random.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def reader(name: str) -> LoadedModel:
    """Return a model's name, geometry and tokenizer without its weights (``model`` is None): enough to read documents.

    Raises ModelError as ``geometry`` does, and ``tokenizer-missing``, ``tokenizer-slow``,
    ``tokenizer-harmful``.
    """
    shape = geometry(name)
    tokenizer = _tokenizer(folder_of(resolve(name), "tokenizer"), shape.name)
    return LoadedModel(shape.name, None, tokenizer, shape, torch.device("meta"), torch.float32)


class ModelCache:
    """The last ``max_models`` models used, shared by every caller in the process.

    Models are built one at a time; a cached model is returned without waiting for another to load. A model dropped
    while a caller still computes with it leaves memory when that caller releases it.
    """

    def __init__(self, max_models: int = 3):
        if max_models < 1:
            raise ValueError(f"max_models must be at least 1, got {max_models}")
        self.max_models = max_models
        self._models: OrderedDict[tuple, LoadedModel] = OrderedDict()
        self._access = threading.Lock()
        self._construction = threading.Lock()

    def get(
        self, name: str, device: str = "auto", dtype: str = "auto", load_in: str = "none", room: int | None = None
    ) -> LoadedModel:
        """Return the model and load it if necessary; drop the others when memory is short. Raises as load.

        A model that is spread over several devices stays there, whatever ``room`` the next caller needs.
        """
        place = pick_device(device)
        key = (resolve(name).name, str(place), str(pick_dtype(dtype, place)), load_in, room is not None)
        if (cached := self._find(key)) is not None:
            return cached
        with self._construction:
            if (cached := self._find(key)) is not None:
                return cached
            self._shrink(self.max_models - 1)
            try:
                loaded = load(name, device, dtype, load_in, room)
            except ModelError as error:
                if error.kind != "model-memory" or not self._models:
                    raise
                self.release()
                loaded = load(name, device, dtype, load_in, room)
            with self._access:
                self._models[key] = loaded
            return loaded

    def release(self) -> None:
        """Drop every model and free its memory."""
        self._shrink(0)

    def names(self) -> list[str]:
        """List the names of the models held, the least recently used first."""
        with self._access:
            return [name for name, *_ in self._models]

    def _find(self, key: tuple) -> LoadedModel | None:
        with self._access:
            if key in self._models:
                self._models.move_to_end(key)
            return self._models.get(key)

    def _shrink(self, count: int) -> None:
        with self._access:
            dropped = len(self._models) > count
            while len(self._models) > count:
                self._models.popitem(last=False)
        if dropped:
            free_memory()


def free_memory() -> None:
    """Run the garbage collector and return the GPU's cached blocks to the driver."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pick_device(device: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N"; of several processes each has its own GPU.

    Raises ``model-device-invalid``.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and launched.count() > 1:
        device = f"cuda:{launched.local_rank()}"
    return torch.device(memory.device_memory(device).device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the number type for ``dtype`` on ``device``; raises ``model-dtype-invalid``."""
    if dtype == "auto" and device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    return getattr(torch, memory.dtype_name(dtype, device.type))


def configuration(folder: Path, name: str) -> PretrainedConfig:
    """Read the configuration in ``folder``; refuse an architecture that transformers itself does not know."""
    try:
        fields = read_json(folder / "config.json")
        kind = fields["model_type"]
    except (OSError, ValueError) as error:
        raise broken(name, Message("a config.json that is not JSON: {reason}", reason=first_line(error))) from None
    except (KeyError, TypeError):
        raise broken(name, Message("a config.json without model_type")) from None
    if not isinstance(kind, str):
        raise broken(name, Message("a config.json whose model_type is no name: {kind}", kind=repr(kind)[:100]))
    check_counts(fields, name)
    if kind not in CONFIG_MAPPING:
        if fields.get("auto_map"):
            raise ModelError(
                "model-remote-code",
                expected=Message("{name} to be of an architecture that transformers contains", name=name),
                found=Message("{kind}, defined by program files in the model's repository", kind=repr(kind)),
                remedy=Message(
                    "code from model repositories is never run here; choose a version of the model that "
                    "transformers supports (often named ...-hf)"
                ),
            )
        raise ModelError(
            "model-unknown-architecture",
            expected=Message("{name} to be of an architecture that the installed transformers knows", name=name),
            found=repr(kind),
            remedy=Message("it may be newer than the installed version: pip install --upgrade transformers"),
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # configurations check themselves, each in its own way
        raise broken(
            name, Message("a config.json that transformers refuses: {reason}", reason=first_line(error))
        ) from error


def _tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    tokenizer_tried(folder, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except BaseException as error:  # each tokenizer class fails in its own way, Rust's with no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ModelError(
            "tokenizer-missing",
            expected=Message("a tokenizer of {name} (tokenizer.json and tokenizer_config.json)", name=name),
            found=first_line(error),
            remedy=Message("put the tokenizer files of the model it was trained from into {folder}", folder=folder),
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            "tokenizer-slow",
            expected=Message("a fast tokenizer of {name}, which tells where in the text each token lies", name=name),
            found=Message("{kind}, which does not", kind=type(tokenizer).__name__),
            remedy=Message(
                "convert it to a tokenizer.json once (tokenizers' converters, or the model's -hf version) "
                "and put that file into {folder}",
                folder=folder,
            ),
        )
    return tokenizer


def _check_weights(file: Path, name: str) -> None:
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise broken(name, Message("{file} unreadable: {reason}", file=file.name, reason=first_line(error))) from error


def _read(folder: Path, name: str, dtype: torch.dtype, **where: Any) -> PreTrainedModel:
    try:
        with BUILDING:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **where,
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except ImportError as error:
        raise package_missing(name, error) from error
    except Exception as error:
        if "can't allocate memory" in str(error):  # torch's processor allocator raises a bare RuntimeError
            raise MemoryError(first_line(error)) from error
        raise broken(name, Message("weights that do not load: {reason}", reason=first_line(error))) from error
    if report["missing_keys"]:
        # transformers would fill these with random numbers and say so in a log only
        missing = sorted(report["missing_keys"])
        raise broken(
            name, Message("weights without {n} of the model's tensors ({first}, ...)", n=len(missing), first=missing[0])
        )
    return model.eval().requires_grad_(False)


def _too_big(name: Message | str, needed: int, free: int, device: torch.device | str) -> ModelError:
    gpus = torch.cuda.device_count()
    teacher = Message("; a teacher: --load-in 4bit or 8bit")
    if gpus > 1:
        teacher = Message("; a teacher: --load-in 4bit or 8bit, or --split-teacher over {n} GPUs", n=gpus)
    return ModelError(
        "model-memory",
        expected=Message(
            "{size} of free memory on {device} for the weights of {name}",
            size=memory.readable(needed),
            device=device,
            name=name,
        ),
        found=Message("{size} free", size=memory.readable(free)),
        remedy=Message(
            "close what else uses the device, choose --dtype bfloat16, a smaller model or another device{teacher}",
            teacher=teacher,
        ),
    )
