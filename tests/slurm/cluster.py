"""A real SLURM of two nodes on one machine, started from nothing in seconds and gone with the process that started it.

Everything lives in a PID namespace whose init ends when its standard input does: nothing outlives the tests, however
they end. Each node is a further PID namespace in it, so that one SIGKILL to its init is a power cut. The namespaces
have no names, and what listens in them cannot be reached from outside.

    controller (10.99.0.1)   munged, mariadbd, slurmdbd, slurmctld; the clients' network too
    node1      (10.99.0.1)   slurmd
    node2      (10.99.0.2)   slurmd, behind a link that can be cut
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

T = TypeVar("T")
NODES = ("node1", "node2")
PROGRAMS = (
    *("slurmctld", "slurmd", "slurmdbd", "sbatch", "sacct", "munged", "mariadbd", "mariadb-install-db"),
    *("ip", "unshare", "nsenter", "mount", "hostname"),
)
# More CPUs than the machine has, and GPUs that are character devices: what is tested is who gets what, not how fast.
SLURM_CONF = """
ClusterName=test
SlurmctldHost=controller(10.99.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
MailProg=/bin/true

NodeName=node1 NodeAddr=10.99.0.1 CPUs=8 RealMemory=16000 Gres=gpu:2 Weight=2
NodeName=node2 NodeAddr=10.99.0.2 CPUs=8 RealMemory=16000 Gres=gpu:2 Weight=1
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
PartitionName=low Default=YES Nodes=node1,node2 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=node1,node2 PriorityTier=10 PreemptMode=OFF
PartitionName=other Nodes=node2 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2000
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxArraySize=2001
KillWait=5
OverTimeLimit=0
SlurmdTimeout=5

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=10.99.0.1
AccountingStoragePass={folder}/munge.socket
AccountingStorageTRES=gres/gpu
"""
GRES_CONF = """
AutoDetect=off
NodeName=node[1-2] Name=gpu File={folder}/gpu[0-1]
"""
SLURMDBD_CONF = """
DbdHost=controller
DbdAddr=10.99.0.1
SlurmUser=root
PidFile={folder}/slurmdbd.pid
AuthInfo=socket={folder}/munge.socket
StorageType=accounting_storage/mysql
StorageUser=root
"""


class Queued(NamedTuple):
    """A line of the queue; elements of an array each have their own, ``12_3``."""

    job: str
    state: str
    node: str


class Start(NamedTuple):
    """What became of one start of a job."""

    state: str
    exit_code: str
    node: str


class Cluster:
    """``with Cluster() as cluster``: running and idle inside, gone after."""

    def __enter__(self) -> Cluster:
        """RuntimeError where it cannot run: what is missing, or the daemons' logs."""
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        missing = [program for program in PROGRAMS if not shutil.which(program, path=path)]
        if missing or os.geteuid() != 0:
            lacks = " and ".join([*(["root"] if os.geteuid() != 0 else []), *missing])
            raise RuntimeError(
                f"A SLURM to test on lacks {lacks}: run `make test-cluster` as root on Debian or Ubuntu."
            )
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SQUEUE"))}
        self.environment |= {"PATH": path, "SLURM_CONF": f"{self.folder}/slurm.conf"}
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._altered: set[str] = set()  # nodes to start again before the next test
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started.values():
            process.communicate()  # the first is init: its input is closed, so it ends and everything with it
        shutil.rmtree(self.folder)

    # What a test asks

    def command(self, *argv: str) -> list[str]:
        """``argv`` as a client in the controller's network; for subprocess, together with ``environment``."""
        return ["nsenter", f"--net={self._network['node1']}", "--", *argv]

    def run(self, *argv: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """A client's command, to its end; whether it failed is left to the caller."""
        env = {**self.environment, **environment}
        return subprocess.run(self.command(*argv), cwd=cwd, env=env, capture_output=True, text=True)

    def ask(self, *argv: str) -> str:
        """What a command prints; RuntimeError when it fails."""
        done = self.run(*argv)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stdout}{done.stderr}")
        return done.stdout

    def queue(self) -> list[Queued]:
        """Waiting, running and completing jobs. With the controller stopped it takes 9 s to fail."""
        lines = self.ask("squeue", "--array", "--noheader", "--format=%i|%T|%N").splitlines()
        return [Queued(*line.split("|")) for line in lines]

    def accounting(self, job: str) -> list[Start]:
        """Every start of a job, in order, so restarts are one fewer; some seconds behind the queue."""
        chosen = ("--jobs", job, "--allocations", "--duplicates", "--noheader", "--parsable2")
        lines = self.ask("sacct", *chosen, "--format=State,ExitCode,NodeList").splitlines()
        return [Start(*line.split("|")) for line in lines]

    def nodes(self) -> dict[str, str]:
        """Each node's state: idle, mixed, allocated, completing, down, drained, ...; with * when it does not answer."""
        lines = self.ask("sinfo", "--Node", "--noheader", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def processes_on(self, node: str) -> list[psutil.Process]:
        """The jobs' processes on a node, slurmstepd too; under this machine's ids, which are not those jobs see."""
        if node not in self._started:
            return []
        found = []
        for process in self._init_of(node).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if process.name() != "slurmd":
                    found.append(process)
        return found

    def is_idle(self) -> bool:
        """Nothing queued, every node free, and no process of a job left on any."""
        free = all(state == "idle" for state in self.nodes().values())
        return free and not self.queue() and not any(map(self.processes_on, NODES))

    def wait(self, condition: Callable[[], T], seconds: float = 30) -> T:
        """The first true value of ``condition``; TimeoutError, with all that is known, when there is none in time."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so after {seconds} s\n{self.report()}")
            time.sleep(0.1)
        return value

    def report(self) -> str:
        """The queue, the nodes, and how each daemon's log ends."""
        parts = []
        for argv in (("squeue",), ("sinfo", "--Node", "--long")):
            parts.append("".join([*argv, "\n", (done := self.run(*argv)).stdout, done.stderr]))
        return "\n".join([*parts, self._logs()])

    # What a test does to it

    def kill_node(self, node: str) -> None:
        """A power cut: slurmd and all that jobs run there are gone at once, with no signal that could be caught."""
        self._init_of(node).kill()
        self._started.pop(node).wait()
        if node == "node2":
            self.cut_link()  # a machine that is off does not refuse connections; seen as DOWN in 6 s instead of 26

    def start_node(self, node: str) -> None:
        """Returns when the node has registered with the controller."""
        if node == "node2":
            self.join_link()
        now = time.time()
        script = 'hostname "$0"; slurmd -D & wait'  # a shell as init, since it reaps what jobs leave behind
        own = ("unshare", "--uts", "--pid", "--kill-child", "--mount-proc")
        self._spawn(node, *own, "sh", "-c", script, node, network=self._network[node])
        self._altered.discard(node)

        def registered() -> bool:
            since = re.search(r"SlurmdStartTime=(\d\S+)", self.run("scontrol", "show", "node", node).stdout)
            return since is not None and datetime.fromisoformat(since[1]).timestamp() >= int(now)

        self.wait(registered)

    def cut_link(self) -> None:
        """Node2 cannot be reached any more; what runs there goes on."""
        self._altered.add("node2")
        self.ask("ip", "link", "set", "cable", "down")

    def join_link(self) -> None:
        self.ask("ip", "link", "set", "cable", "up")

    def hide(self, node: str, folder: Path) -> None:
        """An empty folder is all that a node sees there, until it is started again."""
        self._altered.add(node)
        self.ask(
            "nsenter", f"--mount=/proc/{self._init_of(node).pid}/ns/mnt", "mount", "-t", "tmpfs", "none", str(folder)
        )

    def stop_controller(self) -> None:
        [slurmctld] = psutil.Process(self._started["slurmctld"].pid).children()
        slurmctld.terminate()
        self._started.pop("slurmctld").wait()

    def start_controller(self) -> None:
        """Returns when it answers."""
        self._spawn("slurmctld", "slurmctld", "-D")
        self.wait(lambda: self.run("scontrol", "ping").returncode == 0)

    def cancel_all(self) -> None:
        """Every job, whoever's; what runs is killed, as SIGTERM alone can take as long as KillWait."""
        if jobs := [entry.job for entry in self.queue()]:
            self.run("scancel", *jobs)
        for process in [process for node in NODES for process in self.processes_on(node)]:
            with suppress(psutil.NoSuchProcess):
                if process.name() != "slurmstepd":  # it has to tell the controller
                    process.kill()

    def reset(self) -> None:
        """Running and idle again, whatever a test has done to it."""
        if "slurmctld" not in self._started:
            self.start_controller()
        self.cancel_all()
        for node in self._altered & self._started.keys():
            self.kill_node(node)
        for node in NODES:
            if node not in self._started:
                self.start_node(node)
        self.wait(self._resumed_and_idle, 60)

    def _resumed_and_idle(self) -> bool:
        for node, state in self.nodes().items():
            if state.startswith(("down", "drain")):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")
        return self.is_idle()

    # How it starts

    def _start(self) -> None:
        self.folder.chmod(0o755)  # munge insists
        (self.folder / "state").mkdir()
        for gpu in ("gpu0", "gpu1"):
            os.mknod(self.folder / gpu, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        for name, text in (("slurm.conf", SLURM_CONF), ("gres.conf", GRES_CONF), ("slurmdbd.conf", SLURMDBD_CONF)):
            (self.folder / name).touch(0o600 if name == "slurmdbd.conf" else 0o644)
            (self.folder / name).write_text(text.replace("{folder}", str(self.folder)))

        self._init = self._hold("init", "unshare", "--pid", "--kill-child", "--net", "--uts")
        self._network = {"node1": f"/proc/{self._init}/ns/net"}
        self.ask("nsenter", f"--uts=/proc/{self._init}/ns/uts", "hostname", "controller")
        far = self._hold("link", *self._inside(self._network["node1"]), "unshare", "--net")
        self._network["node2"] = f"/proc/{far}/ns/net"
        self.ask("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", str(far))
        for address, network in (("10.99.0.1/24", self._network["node1"]), ("10.99.0.2/24", self._network["node2"])):
            for change in (["address", "add", address, "dev", "cable"], ["link", "set", "cable", "up"]):
                self.ask("nsenter", f"--net={network}", "ip", *change)

        files = self.folder
        (files / "munge.key").write_bytes(os.urandom(1024))
        (files / "munge.key").chmod(0o600)
        munge = [f"--{file}-file={files}/munge.{file}" for file in ("key", "pid", "seed")]
        self._spawn("munged", "munged", "--foreground", f"--socket={files}/munge.socket", *munge)
        own = ("--no-defaults", "--user=root", f"--datadir={files}/mariadb")
        self.ask("mariadb-install-db", *own, "--auth-root-authentication-method=socket", "--skip-test-db")
        places = (f"--socket={files}/mariadb.socket", f"--pid-file={files}/mariadb.pid")
        self._spawn("mariadbd", "mariadbd", *own, *places, "--skip-networking")
        self.wait((files / "mariadb.socket").exists)
        self._spawn("slurmdbd", "env", f"MYSQL_UNIX_PORT={files}/mariadb.socket", "slurmdbd", "-D")
        self.wait(lambda: self.run("sacctmgr", "--immediate", "add", "cluster", "test").returncode == 0)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait(self.is_idle)

    def _hold(self, name: str, *argv: str) -> int:
        """New namespaces, held by a process that ends with its standard input; its id."""
        script = "ip link set lo up && echo made && exec cat"
        with open(self.folder / f"{name}.log", "ab") as log:
            held = subprocess.Popen(
                [*argv, "sh", "-c", script], env=self.environment, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._started[name] = held
        assert held.stdout
        if not held.stdout.readline():
            raise RuntimeError(f"No namespaces here (a container has to be privileged).\n{self._logs()}")
        [holder] = psutil.Process(held.pid).children()
        return holder.pid

    def _inside(self, network: str) -> list[str]:
        return ["nsenter", f"--target={self._init}", "--pid", "--uts", f"--net={network}", "--"]

    def _spawn(self, name: str, *argv: str, network: str | None = None) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self._started[name] = subprocess.Popen(
                [*self._inside(network or self._network["node1"]), *argv], env=self.environment,
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _init_of(self, node: str) -> psutil.Process:
        [unshare] = psutil.Process(self._started[node].pid).children()
        [init] = unshare.children()
        return init

    def _logs(self) -> str:
        ends = ((log.name, log.read_text(errors="replace").splitlines()[-15:]) for log in self.folder.glob("*.log"))
        return "\n".join("\n".join([f"--- {name}", *lines]) for name, lines in sorted(ends))
