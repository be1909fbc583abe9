"""The environment check finds what is there, and what was taken away."""

import importlib.metadata
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kvlab import PROJECT, doctor
from kvlab.doctor import Finding, examine
from kvlab.host import bundled, memory
from kvlab.host.memory import DeviceMemory, Gpu
from kvlab.language import Message, speaking

GIB = 1024**3


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if str(finding.name) == name]
    return found


@pytest.fixture
def requirements(tmp_path, monkeypatch):
    """Checks requirement lines against pretended installed versions."""

    def check(lines: str, **installed: str) -> list[Finding]:
        def version(name):
            if name not in installed:
                raise importlib.metadata.PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        (tmp_path / "requirements.txt").write_text(lines)
        return doctor.packages(tmp_path / "requirements.txt")

    return check


def test_this_environment_is_whole(tmp_path):
    findings = examine(runs=tmp_path / "runs")
    packages = [finding for finding in findings if str(finding.name).startswith("package ")]
    assert {"package torch", "package streamlit", "package nvidia-ml-py"} <= {str(finding.name) for finding in packages}
    assert [finding for finding in packages if finding.status == "fail"] == []
    expected = ["python", "memory", "runs folder", "tokenizer threads", "models", "server", "browser"]
    assert [name for finding in findings if (name := str(finding.name)) in expected] == expected
    assert {finding.status for finding in findings} <= {"ok", "warn", "fail"}
    assert all(finding.remedy for finding in findings if finding.status != "ok")
    assert len({str(finding.name) for finding in findings}) == len(findings)
    assert not (tmp_path / "runs").exists()


def test_it_works_where_nothing_is_installed():
    # -S leaves out site-packages; only the repository and the standard library remain
    code = "from kvlab.doctor import examine; print(*[f'{f.status} {f.name}' for f in examine()], sep='\\n')"
    command = [sys.executable, "-S", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    lines = result.stdout.splitlines()
    assert {"fail package torch", "fail package psutil", "warn gpu", "warn memory", "warn models"} <= set(lines)
    assert "ok python" in lines


def test_a_missing_package_comes_with_its_install_command(requirements):
    (found,) = requirements("transformers>=5.17,<6\n")
    assert (str(found.name), found.status, str(found.found)) == ("package transformers", "fail", "not installed")
    assert str(found.remedy) == f"{sys.executable} -m pip install 'transformers>=5.17,<6'"


def test_comments_markers_and_includes_are_no_packages(requirements):
    lines = "# a comment\n-r other.txt\n\nnumpy>=2.0 ; python_version > '3'  # why\n"
    assert [str(finding.name) for finding in requirements(lines, numpy="2.4.6")] == ["package numpy"]


@pytest.mark.parametrize(
    ("wanted", "installed", "status"),
    [
        ("torch==2.13.0", "2.13.0", "ok"),
        ("torch==2.13.0", "2.13.0+cu130", "ok"),
        ("torch==2.13.0", "2.6.0", "warn"),
        ("torch>=5.17,<6", "5.17", "ok"),
        ("torch>=5.17,<6", "5.9.1", "fail"),
        ("torch>=5.17,<6", "6.0", "warn"),
        ("torch>=5.17, <6", "6.0.0.dev1", "warn"),
        ("torch>=2.0", "2", "ok"),
        ("torch>=12", "13.615.71", "ok"),
        ("torch", "0.1", "ok"),
        ("torch!=2.1.0", "2.1", "warn"),
    ],
)
def test_versions_are_compared_as_numbers(requirements, wanted, installed, status):
    (found,) = requirements(wanted, torch=installed)
    assert (found.status, bool(found.remedy)) == (status, status != "ok")
    assert installed in found.found


def test_no_list_of_requirements(tmp_path):
    (found,) = doctor.packages(tmp_path / "none.txt")
    assert found.status == "warn"


def test_an_old_python():
    assert doctor.python_version((3, 11, 0)).status == "ok"
    found = doctor.python_version((3, 10, 12))
    assert found.status == "fail" and "3.10.12" in found.found and "python3.11" in found.remedy


def gpu(**fields) -> Gpu:
    return Gpu(**{"index": 0, "name": "H100", "uuid": "GPU-a", "total": 80 * GIB, "free": 70 * GIB} | fields)


@pytest.fixture
def machine(monkeypatch):
    """Pretends GPUs, a driver and an installed torch."""

    def set_up(*gpus: Gpu, torch: str = "2.13.0", visible: str | None = None) -> list[Finding]:
        monkeypatch.setattr(memory, "gpus", lambda: list(gpus))
        monkeypatch.setattr(memory, "driver_version", lambda: "580.1")
        monkeypatch.setattr(importlib.metadata, "version", lambda name: torch)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return doctor.devices()

    return set_up


def test_a_gpu_in_good_order(machine):
    findings = machine(gpu(capability=(9, 0)))
    assert [str(finding.name) for finding in findings] == ["driver", "gpu 0", "mixed precision"]
    assert {finding.status for finding in findings} == {"ok"}
    assert str(named(findings, "driver").found) == "NVIDIA driver 580.1"
    assert str(named(findings, "gpu 0").found) == "H100, 70.0 GiB free of 80.0 GiB"
    assert "bfloat16" in named(findings, "mixed precision").found


def test_gpus_in_trouble(machine):
    findings = machine(
        gpu(capability=(7, 5), free=8 * GIB),
        gpu(capability=(9, 0), index=1, uuid="GPU-b"),
        torch="2.13.0+cpu",
        visible="",
    )
    assert named(findings, "gpu 0").status == "warn" and "90%" in named(findings, "gpu 0").found
    assert named(findings, "gpu 1").status == "ok"
    assert named(findings, "gpu visible").status == "warn"
    assert named(findings, "torch build").status == "warn"
    assert "no bfloat16" in named(findings, "mixed precision").found


def test_no_gpu_is_not_a_fault(machine):
    assert {finding.status for finding in machine()} == {"ok"}


def test_little_memory(monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda device: DeviceMemory("cpu", 8 * GIB, GIB, "cgroup"))
    found = doctor.host_memory()
    assert (found.status, str(found.found)) == ("warn", "1.0 GiB free of 8.0 GiB (granted to this job)")


def test_runs_can_be_written_and_nothing_is_left(tmp_path):
    found = doctor.runs_folder(tmp_path / "deep" / "runs")
    assert found.status == "ok" and str(tmp_path) in found.found
    assert list(tmp_path.iterdir()) == []


def test_runs_cannot_be_written(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = doctor.runs_folder(tmp_path)
    assert found.status == "fail" and "Permission denied" in found.found and str(tmp_path) in found.remedy


def test_runs_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("")
    assert doctor.runs_folder(tmp_path / "runs").status == "fail"


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    assert doctor.runs_folder(tmp_path).status == "warn"


@pytest.mark.parametrize(
    ("setting", "status"), [(None, "ok"), ("true", "ok"), ("1", "ok"), ("false", "warn"), ("0", "warn")]
)
def test_tokenizer_threads(monkeypatch, setting, status):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if setting:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", setting)
    assert doctor.tokenizer_threads().status == status


def test_demo_models_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(bundled, "DEMO", tmp_path)
    found = doctor.demo_models()
    assert found.status == "fail" and "demo/teacher-b" in found.found and "git checkout" in found.remedy


@pytest.mark.parametrize(
    ("configured", "environment", "token", "status"),
    [
        ("127.0.0.1", None, None, "ok"),
        ("localhost", None, None, "ok"),
        ("0.0.0.0", None, None, "warn"),
        ("", None, None, "warn"),
        ("127.0.0.1", "0.0.0.0", None, "warn"),
        ("0.0.0.0", None, "pa55", "ok"),
        ("0.0.0.0", "127.0.0.1", None, "ok"),
    ],
)
def test_where_the_server_listens(tmp_path, monkeypatch, configured, environment, token, status):
    for variable, value in (("STREAMLIT_SERVER_ADDRESS", environment), ("KVLAB_TOKEN", token)):
        monkeypatch.delenv(variable, raising=False)
        if value:
            monkeypatch.setenv(variable, value)
    (tmp_path / "config.toml").write_text(f'[server]\naddress = "{configured}"\n')
    found = doctor.server_address(tmp_path / "config.toml")
    assert found.status == status
    assert "pa55" not in f"{found.found} {found.remedy}"


def test_a_server_configuration_that_is_missing_or_garbage(tmp_path, monkeypatch):
    monkeypatch.delenv("STREAMLIT_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("KVLAB_TOKEN", raising=False)
    assert doctor.server_address(tmp_path / "none.toml").status == "warn"
    (tmp_path / "config.toml").write_text("[server\n")
    assert doctor.server_address(tmp_path / "config.toml").status == "warn"


def test_chromium_is_optional(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    found = doctor.browser()
    assert found.status == "ok" and "apt-get install chromium" in found.remedy


def probe(code: str, seconds: float = 60) -> Finding:
    return doctor.torch_probe(seconds, code)


def test_the_probe_reads_what_torch_says():
    answer = '{"version": "2.13.0", "built_for": "13.0", "devices": ["H100"], "bfloat16": true}'
    found = probe(f"print('noise'); print('''{answer}''')")
    assert (found.name, found.status) == ("torch", "ok")
    assert str(found.found) == "torch 2.13.0 built for CUDA 13.0 runs on H100; bfloat16"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import os; os.abort()", "exit code -6"),
        ("print('not json')", "exit code 0"),
        ("pass", "exit code 0"),
    ],
)
def test_a_torch_that_does_not_import(code, found):
    finding = probe(code)
    assert finding.status == "fail" and found in finding.found and "pip install torch" in finding.remedy


def test_a_torch_that_hangs():
    assert probe("import time; time.sleep(60)", seconds=0.5).status == "warn"


@pytest.mark.model
def test_the_deep_check_asks_torch_in_another_process():
    code = "import sys; from kvlab.doctor import examine; print(*[f.found for f in examine(deep=True)], sep='\\n');"
    code += "assert 'torch' not in sys.modules"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"torch {importlib.metadata.version('torch')}"[:10] in output


def test_findings_are_plain_data_in_either_language():
    finding = Finding(
        Message("gpu {n}", n=0), "warn", Message("not looked at: {error}", error="running"), "pip install x"
    )
    fields = json.loads(json.dumps(finding.to_dict()))
    assert (fields["status"], fields["remedy"]) == ("warn", "pip install x")
    assert [Message.read(fields[name]) for name in ("name", "found")] == [finding.name, finding.found]
    with speaking("zh"):
        assert str(Message.read(fields["found"])).endswith("running")  # a value, though a state is called so too


def test_a_system_without_limits_of_memory_is_warned_of(monkeypatch):
    monkeypatch.setattr(doctor, "limits_memory", lambda: True)
    assert doctor.reading_limits().status == "ok"
    monkeypatch.setattr(doctor, "limits_memory", lambda: False)
    finding = doctor.reading_limits()
    assert finding.status == "warn" and "time only" in finding.found and "Linux" in finding.remedy
