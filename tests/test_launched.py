"""The processes of one command: their number, what is refused, and how the others wait for the first."""

import os
import threading
import time

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from kvlab.errors import KvlabError
from kvlab.host import launched
from kvlab.runs import locks
from kvlab.runs.run_queue import RUN_LOCK
from kvlab.train import process
from kvlab.train.process import PASSED, REFUSED, perform
from tests.training import written


@pytest.fixture
def alone(monkeypatch):
    """No launcher, whatever started the tests."""
    for name in (*launched.RANK, *launched.COUNT, "MASTER_PORT", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_launcher_gives_each_process_its_number(alone):
    assert (launched.rank(), launched.count(), launched.first()) == (0, 1, True)
    alone.setenv("PMI_RANK", "2")
    alone.setenv("PMI_SIZE", "4")
    assert (launched.rank(), launched.count(), launched.first()) == (2, 4, False)
    alone.setenv("RANK", "0")  # torchrun's own go before those of MPI
    assert launched.first()


def test_accelerate_on_processors_is_refused_where_it_started_one_process_of_two(alone):
    flags = ["--cpu", "--num_processes", "2", "-m", "kvlab.train", "FOLDER"]
    alone.setattr("sys.argv", ["accelerate", *flags])
    options, *_ = _validate_launch_command(launch_command_parser().parse_args(flags))
    _, environment = prepare_simple_launcher_cmd_env(options)
    launched.check("auto")
    for name, value in environment.items():
        alone.setenv(name, value)
    with pytest.raises(KvlabError, match="torchrun --nproc_per_node N -m kvlab") as refused:
        launched.check("auto")
    assert refused.value.kind == "launcher-one-process"
    alone.setenv("OMPI_COMM_WORLD_SIZE", "2")  # with MPI there are two
    launched.check("auto")


def test_one_gpu_for_several_processes_is_refused(alone):
    launched.check("cuda:1")
    alone.setenv("WORLD_SIZE", "2")
    launched.check("cuda")
    with pytest.raises(KvlabError, match="cuda:1 for all of them") as refused:
        launched.check("cuda:1")
    assert refused.value.kind == "device-shared"


class Ending:
    """A run that ends at once with this verdict."""

    def __init__(self, verdict):
        self.verdict = verdict

    def __call__(self, *_):
        return self

    def go(self):
        return self.verdict


def test_other_processes_pass_when_their_part_is_done_and_end_after_the_first(tmp_path, alone):
    folder = written(tmp_path / "run", {})
    alone.setenv("RANK", "1")
    lock, ended = tmp_path / "run" / RUN_LOCK, []

    def other():
        ended.append(perform(folder, run=Ending("pending")))

    waiting = threading.Thread(target=other)
    with locks.owned(lock):
        waiting.start()
        time.sleep(0.3)
        assert not ended, "the first still writes"
    waiting.join()
    assert ended == [PASSED]


def test_a_refusal_of_another_process_waits_too_and_a_failure_does_not(tmp_path, alone):
    waits = []
    alone.setattr(process.locks, "wait_for_end", lambda *_: waits.append(1))
    alone.setenv("RANK", "1")
    assert perform(written(tmp_path / "refused", {"max_steps": -1})) == REFUSED and waits == [1]
    assert perform(written(tmp_path / "failed", {}), run=Ending) != REFUSED and waits == [1]
    assert not os.path.exists(tmp_path / "failed" / "status.json"), "only the first writes"
