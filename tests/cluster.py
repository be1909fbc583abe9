"""A real Slurm of two pretended nodes on this machine, for tests; everything lies in one folder."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.waiting import wait_until

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "munged")
SOON = 60  # seconds for the cluster to start, or to be gone
CONFIG = """
ClusterName=kvtest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10,socket={place}/munge/socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.%n.pid
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=30
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PropagateResourceLimits=NONE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=8000
PartitionName=gpu Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP GraceTime=120 PriorityTier=1
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=9
"""


def missing() -> str:
    """Why no cluster can be started here; empty where it can."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        packages = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
        return f"a real Slurm needs {', '.join(lacking)}: {packages}"
    if os.geteuid() != 0:
        return "a real Slurm is started as root here"
    try:
        import submitit  # noqa: F401
    except ImportError:
        return "submitit is missing: pip install -r requirements-slurm.txt"
    return ""


@contextmanager
def running(place: Path) -> Iterator[Cluster]:
    """A cluster whose nodes are idle. What runs inside finds it by SLURM_CONF."""
    cluster = Cluster(place)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(place / "slurm.conf")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


class Cluster:
    def __init__(self, place: Path):
        self.place = place

    def start(self) -> None:
        for name in ("munge", "state", "log", "spool/n1", "spool/n2"):
            (self.place / name).mkdir(parents=True)
        os.chmod(self.place, 0o755)
        key, munge = self.place / "munge" / "key", self.place / "munge"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        call("munged", "--force", *(f"--{option}={munge / name}" for option, name in files.items()))
        host = socket.gethostname().partition(".")[0]
        config = CONFIG.format(host=host, place=self.place, ports=free_ports(3))
        (self.place / "slurm.conf").write_text(config)
        self.control()
        for node in ("n1", "n2"):
            call("slurmd", "-N", node, "-f", str(self.place / "slurm.conf"))
        wait_until(lambda: call("sinfo", "-h", "-o", "%T") == "idle", SOON, "both nodes to be idle")

    def control(self) -> None:
        """Start the controller."""
        call("slurmctld", "-f", str(self.place / "slurm.conf"))

    def end_control(self) -> None:
        pid = int((self.place / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not psutil.pid_exists(pid), SOON, f"process {pid} to be gone")

    def end(self) -> None:
        """Cancel the jobs, then kill the daemons: a step that asks a dead controller would hold them for a minute."""
        with suppress(subprocess.SubprocessError):
            call("scancel", "--user", "root", "--full", "--signal=KILL")
        files = [*self.place.glob("slurm*.pid"), self.place / "munge" / "pid"]
        daemons = {int(file.read_text()) for file in files if file.exists()}
        left = [process for process in psutil.process_iter() if process.pid in daemons or self._works_here(process)]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, SOON)

    def _works_here(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return Path(process.cwd()).is_relative_to(self.place)
        return False


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)
    if done.returncode:
        raise subprocess.SubprocessError(f"{command}: {done.stderr}")
    return done.stdout.strip()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for probe in sockets:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports
