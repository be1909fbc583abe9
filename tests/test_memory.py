"""The forecast by hand, and devices that are and are not there."""

import dataclasses
import json
import sys

import pytest

from kvlab.errors import ModelError
from kvlab.host import memory
from kvlab.host.memory import DeviceMemory, Forecast, Gpu, forecast, readable
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


def pretend(monkeypatch, total, free):
    monkeypatch.setattr(memory, "device_memory", lambda device: DeviceMemory("cuda:0", total, free, "nvml"))


def test_the_forecast_by_hand(monkeypatch):
    pretend(monkeypatch, 80 * GIB, 78 * GIB)
    result = forecast([TEACHER], STUDENT, "bfloat16", batch=2, tokens=100, device="cuda")
    teacher, student = result.models
    assert teacher.parameter_bytes == 15_231_233_024
    assert teacher.kv_bytes_per_token == 57_344  # 28 layers x 4 heads x (128 + 128) x 2 bytes
    assert teacher.kv_bytes == 57_344 * 200
    assert teacher.activation_bytes == 24 * 3584 * 2 * 200
    assert student.parameter_bytes == 2_200_096_768
    assert student.kv_bytes_per_token == 22_528  # 22 x 4 x (64 + 64) x 2
    assert result.activation_bytes == teacher.activation_bytes
    weights, caches = 15_231_233_024 + 2_200_096_768, (57_344 + 22_528) * 200
    assert result.total_bytes == weights + caches + 34_406_400
    assert result.share == pytest.approx((2 * GIB + result.total_bytes) / (80 * GIB))
    assert result.fits and result.limit == 0.8


def test_float32_doubles_everything_and_tokens_do_not_touch_weights(monkeypatch):
    pretend(monkeypatch, 80 * GIB, 80 * GIB)
    half = forecast([TEACHER], STUDENT, "fp16", 1, 64)
    whole = forecast([TEACHER], STUDENT, "float32", 1, 64)
    long = forecast([TEACHER], STUDENT, "float16", 4, 128)
    assert half.dtype == "float16" and whole.total_bytes == 2 * half.total_bytes
    weights = sum(model.parameter_bytes for model in half.models)
    assert long.total_bytes - weights == 8 * (half.total_bytes - weights)


def test_the_limit_counts_what_others_hold(monkeypatch):
    needs = forecast([], STUDENT, "bfloat16", 1, 1).total_bytes
    total = needs * 10
    pretend(monkeypatch, total, total - 6 * needs)
    assert forecast([], STUDENT, "bfloat16", 1, 1).fits  # 7/10
    pretend(monkeypatch, total, total - 7 * needs)
    at_limit = forecast([], STUDENT, "bfloat16", 1, 1)
    assert at_limit.share == pytest.approx(0.8) and not at_limit.fits


def test_a_model_given_twice_counts_once(monkeypatch):
    pretend(monkeypatch, 80 * GIB, 80 * GIB)
    once = forecast([TEACHER], TEACHER, "bfloat16", 1, 10)
    assert len(once.models) == 1
    assert forecast([TEACHER, TEACHER], STUDENT, "bfloat16", 1, 10).total_bytes == (
        forecast([TEACHER], STUDENT, "bfloat16", 1, 10).total_bytes
    )


def test_a_forecast_survives_json(monkeypatch):
    pretend(monkeypatch, 80 * GIB, 78 * GIB)
    result = forecast([TEACHER], STUDENT, "auto", 2, 100)
    assert result.dtype == "bfloat16"
    assert Forecast.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_processor_of_this_machine():
    result = forecast([], STUDENT, "auto", 1, 1, device="cpu")
    assert (result.device, result.dtype) == ("cpu", "float32")
    assert 0 < result.device_free <= result.device_total


@pytest.mark.parametrize(("batch", "tokens"), [(0, 1), (1, 0), (-1, 5)])
def test_nothing_to_forecast(batch, tokens):
    with pytest.raises(ValueError, match="at least 1"):
        forecast([], STUDENT, "auto", batch, tokens)


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
