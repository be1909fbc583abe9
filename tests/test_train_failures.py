"""Every way to break off has advice, and a change of settings where one helps."""

import errno
import pickle

import pytest
import torch

from kvlab.errors import ModelError
from kvlab.request.settings import checked
from kvlab.request.train import TrainConfig
from kvlab.runs import failures
from kvlab.runs.failures import NotFinite, slow_hint
from tests.spoken import spoken


def advise(*arguments):
    return spoken(failures.advise(*arguments))


def test_memory_advice_is_the_next_thing_not_yet_done():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    config, seen = TrainConfig(), []
    for _ in range(6):
        found = advise(error, config, "training")
        assert found["kind"] == "out-of-memory"
        # What a button would launch is a good config.
        config = checked(TrainConfig, config.model_dump() | found["changes"])
        seen.append(found["changes"])
    assert seen[0] == {"batch_size": 1, "gradient_accumulation_steps": 4}
    assert seen[1] == {"gradient_checkpointing": True}
    assert seen[2:4] == [{"trainable": "lora"}, {"precision": "bf16"}] and seen[4] == {"max_tokens": 512}
    assert "--batch_size 1 --gradient_accumulation_steps 4" in advise(error, None, "training")["remedy"]


@pytest.mark.parametrize("message", ["DefaultCPUAllocator: can't allocate memory: you tried", "CUDA out of memory"])
def test_memory_errors_without_a_class_of_their_own(message):
    assert advise(RuntimeError(message), None, "training")["kind"] == "out-of-memory"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (2) must match the size of tensor b (12) at non-singleton dimension 1"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        IndexError("index 80 is out of bounds for dimension 0 with size 50"),
    ],
)
def test_shape_and_index_errors_name_the_switch_that_is_off_and_where(error):
    found = advise(error, TrainConfig(use_kv_projector=False), "training")
    assert found["kind"] == "shape" and found["changes"] == {"use_kv_projector": True}
    assert "--use_kv_projector" in found["remedy"] and "use_head_projector" in found["remedy"]
    assert "resample" not in found["remedy"]
    assert "both on" in advise(error, TrainConfig(), "training")["remedy"]


@pytest.mark.parametrize(
    "clash",
    [
        lambda: torch.zeros(2, 3) + torch.zeros(2, 4),
        lambda: torch.zeros(2, 3) @ torch.zeros(4, 5),
        lambda: torch.zeros(2, 3).view(5),
        lambda: torch.zeros(50)[torch.tensor(80)],
        lambda: torch.zeros(50).index_select(0, torch.tensor([80])),
        lambda: torch.nn.functional.embedding(torch.tensor([80]), torch.zeros(50, 2)),
        lambda: torch.zeros(50).gather(0, torch.tensor([80])),
    ],
    ids=["size", "product", "view", "index", "index_select", "embedding", "gather"],
)
def test_shape_and_index_errors_as_torch_words_them(clash):
    with pytest.raises((RuntimeError, IndexError)) as caught:
        clash()
    found = advise(caught.value, TrainConfig(use_safe_resample=False), "training")
    assert found["kind"] == "shape" and found["changes"] == {"use_safe_resample": True}
    assert "kv_alignment: use_safe_resample: true" in found["remedy"]


def test_nan_advice_depends_on_the_precision():
    error = NotFinite(7, ["loss"])
    assert advise(error, TrainConfig(precision="fp16"), "training")["changes"] == {"precision": "bf16"}
    assert advise(error, TrainConfig(lr=1e-3), "training")["changes"] == {"lr": pytest.approx(1e-4)}
    assert "step 7" in advise(error, None, "training")["found"]
    assert pickle.loads(pickle.dumps(error)).step == 7


def test_missing_modules_get_their_install_line():
    assert "pip install pyyaml" in advise(ModuleNotFoundError("No module", name="yaml"), None, "x")["remedy"]
    assert "pip install peft" in advise(ModuleNotFoundError("No module", name="peft.tuners"), None, "x")["remedy"]


def test_disk_models_and_the_unknown():
    assert advise(OSError(errno.ENOSPC, "No space left"), None, "saving")["kind"] == "disk-full"
    known = ModelError("model-not-found", expected="a", found="b", remedy="c")
    assert advise(known, None, "loading") == spoken(known) | {"changes": {}}
    assert "training.log" in advise(KeyError("x"), None, "training")["remedy"]


def test_a_slow_run_says_whether_the_gpu_and_mixed_precision_are_in_use():
    assert "no GPU" in slow_hint("cpu", "fp32", 0) and "2 GPUs" in slow_hint("cpu", "fp32", 2)
    assert "--bf16" in slow_hint("cuda:0", "fp32", 1) and "mixed precision" in slow_hint("cuda:0", "bf16", 1)
