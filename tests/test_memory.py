"""The forecast by hand, and devices that are and are not there."""

import dataclasses
import sys

import pytest

from kvlab.errors import ModelError
from kvlab.host import memory
from kvlab.host.memory import DeviceMemory, Gpu, readable
from kvlab.shapes import Geometry, Positions
from kvlab.train import memory_watch
from kvlab.train.memory_watch import MemoryWatch

GIB = 1024**3
TEACHER = Geometry(
    name="teacher",
    architecture="qwen2",
    layers=28,
    kv_layers=tuple(range(28)),
    kv_heads=4,
    query_heads=28,
    key_width=128,
    value_width=128,
    hidden=3584,
    vocabulary=152064,
    positions=Positions("rope"),
    max_positions=32768,
    parameters=7_615_616_512,
)
STUDENT = dataclasses.replace(
    TEACHER,
    name="student",
    layers=22,
    kv_layers=tuple(range(22)),
    key_width=64,
    value_width=64,
    layer_shapes=(),  # derived anew
    hidden=2048,
    parameters=1_100_048_384,
)


def test_the_memory_of_a_model_by_hand():
    teacher = memory.model_memory(TEACHER, "bfloat16", batch=2, tokens=100)
    assert teacher.parameter_bytes == 15_231_233_024
    assert teacher.activation_bytes == 24 * 3584 * 2 * 200
    whole = memory.model_memory(TEACHER, "float32", batch=2, tokens=100)
    assert whole.parameter_bytes == 2 * teacher.parameter_bytes
    assert whole.activation_bytes == 2 * teacher.activation_bytes
    assert memory.LIMIT == 0.8  # the founding document's


def test_the_processor_of_this_machine():
    host = memory.device_memory("cpu")
    assert host.device == "cpu" and 0 < host.free <= host.total
    assert memory.dtype_name("auto", "cpu") == "float32" and memory.dtype_name("auto", "cuda:1") == "bfloat16"
    assert memory.dtype_name("fp16", "cpu") == "float16"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda:-1", "cuda:x", "mps", "", "cuda:0; rm"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ModelError) as caught:
        memory.device_memory(device)
    assert caught.value.kind == "model-device-invalid"


@pytest.mark.parametrize("dtype", ["int8", "", "float64", "bf17"])
def test_a_dtype_that_is_none(dtype):
    with pytest.raises(ModelError) as caught:
        memory.dtype_name(dtype, "cpu")
    assert caught.value.kind == "model-dtype-invalid"


GPUS = [Gpu(i, "H100", f"GPU-{letter}000-1", 80 * GIB, 70 * GIB, (9, 0)) for i, letter in enumerate("abc")]


@pytest.mark.parametrize(
    ("setting", "indices"),
    [(None, [0, 1, 2]), ("2,0", [2, 0]), ("GPU-b000", [1]), ("", []), ("1,7,0", [1]), ("-1", [])],
)
def test_which_gpus_cuda_would_see(monkeypatch, setting, indices):
    monkeypatch.setattr(memory, "gpus", lambda: GPUS)
    if setting is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert [gpu.index for gpu in memory.visible_gpus()] == indices


def test_the_driver_is_asked_where_torch_is_not_loaded(monkeypatch):
    monkeypatch.setattr(memory, "gpus", lambda: GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")
    assert memory.device_memory("auto") == DeviceMemory("cuda:0", 80 * GIB, 70 * GIB, "nvml")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0+cpu")
    assert memory.device_memory("auto").device == "cpu"


def test_a_batch_system_grants_less_than_the_machine_has(tmp_path, monkeypatch):
    group = tmp_path / "slurm" / "job_7"
    group.mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/slurm/job_7\n")
    (group / "memory.max").write_text("max\n")
    parent = tmp_path / "slurm"
    (parent / "memory.max").write_text(f"{2 * GIB}\n")
    (parent / "memory.current").write_text(f"{GIB}\n")
    (parent / "memory.stat").write_text(f"anon 5\ninactive_file {GIB // 2}\n")
    limits = list(memory.cgroup_limits(tmp_path, tmp_path / "membership"))
    assert limits == [(2 * GIB, GIB // 2)]  # file pages that can be dropped do not count as used
    monkeypatch.setattr(memory, "cgroup_limits", lambda: limits)
    host = memory.device_memory("cpu")
    assert (host.total, host.source) == (2 * GIB, "cgroup")
    assert host.free <= 3 * GIB // 2


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (15_231_233_024, "14.2 GiB"), (2**41, "2.0 TiB")],
)
def test_sizes_for_people(size, text):
    assert readable(size) == text


def test_a_gpu_is_watched_from_the_start_and_never_mixed_with_the_host(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "gpus", lambda: GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    asked, told = [], {"device_used": 3, "device_total": 10, "device_process": None}
    monkeypatch.setattr(memory_watch, "_by_driver", lambda uuid: asked.append(uuid) or told)
    watch = MemoryWatch(tmp_path, lambda: "loading", "cuda:0")
    line = watch.sample()  # torch is here, but no CUDA: asking it would begin to use the device
    assert asked == ["GPU-c000-1"] and line["device_used"] == 3 and line["torch_peak"] is None
    assert watch.peak()["peak"] == 3 and watch.peak_share == 0.3
    monkeypatch.setattr(memory, "gpus", list)
    monkeypatch.setattr(memory_watch, "_by_driver", lambda uuid: None)
    line = watch.sample()
    assert line["device_used"] is line["device_total"] is None and line["process_rss"] > 10
    assert watch.peak()["peak"] == 3
