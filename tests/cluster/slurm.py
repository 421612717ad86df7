"""A SLURM of a few nodes on this machine, for tests: Debian's packages, as root, without systemd, cgroups or containers.

    python tests/cluster/slurm.py start FOLDER     # installs what is missing; what runs already is left alone
    eval "$(python tests/cluster/slurm.py environment FOLDER)"   # then sinfo, sbatch, squeue and others are those of this SLURM
    python tests/cluster/slurm.py stop FOLDER      # ends what was started from FOLDER, its jobs first, and nothing else

All of it lies in FOLDER: keys, configuration, state and logs. It has its own ports and its own munged, and writes nothing elsewhere: a
machine with a SLURM of its own is not touched. The commands of SLURM are found through FOLDER/bin, which names the configuration for them:
Snakemake's plugin removes SLURM_CONF from the environment of the steps that it starts.

Partitions: `cpu` (the default), `short` (its nodes, for an hour at most), `low` (a node of its own; its jobs are requeued as soon as one in
`urgent` needs that node) and `gpu` (a node whose GPUs are links to /dev/null). Memory is polled every second, and a step above what it
asked for is killed: its job ends as FAILED, not as OUT_OF_MEMORY, which takes cgroups.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

MARK = "METABENCH_TEST_SLURM"
"""Environment variable with the folder, in every process that belongs to it: daemons, and jobs that are submitted with `environment`."""

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
WITH_DATABASE = ("slurmdbd", "mariadb-server")
COMMANDS = ("sacct", "sacctmgr", "salloc", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun", "sstat")
SECONDS = 60.0
"""In which a daemon has to answer, or to end."""

KEY_BYTES = 128


class Unavailable(Exception):
    """There can be no SLURM here; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What the cluster is like; each may be given in the environment, as METABENCH_SLURM_NODES=4.

    Attributes:
        nodes: of the partition `cpu`; `low` and `gpu` have one more each.
        cpus: that each node claims to have.
        memory: MiB that each node claims to have.
        gpus: of the node of the partition `gpu`; 0 for no such partition.
        port: the first of its ports, all on 127.0.0.1.
        database: 1 for accounting, with slurmdbd and MariaDB, an account `physics` that root may use, and no job without an account.
        extra: more lines of slurm.conf; the last value of a key counts.
    """

    nodes: int = 2
    cpus: int = 8
    memory: int = 65536
    gpus: int = 4
    port: int = 16817
    database: int = 0
    extra: str = ""

    @classmethod
    def from_environment(cls) -> Settings:
        given = {field.name: os.environ.get(f"METABENCH_SLURM_{field.name.upper()}") for field in fields(cls)}
        return cls(**{name: value if name == "extra" else int(value) for name, value in given.items() if value is not None})

    @property
    def names(self) -> list[str]:
        """All nodes: those of `cpu`, that of `low`, and that of `gpu`, where there is one."""
        return [f"node{number + 1}" for number in range(self.nodes + 1 + bool(self.gpus))]


class Slurm:
    """The SLURM of a folder; `start` and `stop` may be called again at any time."""

    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.folder = folder.resolve()
        self.settings = settings or Settings.from_environment()

    # What others need

    @property
    def environment(self) -> dict[str, str]:
        """What commands and workflows must have in their environment to use this SLURM."""
        path = os.pathsep.join((str(self.folder / "bin"), os.environ["PATH"]))
        return {"PATH": path, "SLURM_CONF": str(self._configuration), MARK: str(self.folder)}

    def ask(self, *command: str, timeout: float = 30.0) -> str:
        """Return what a command says on its standard output; raise CalledProcessError where it fails."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, f"{shlex.join(command)}: {done.stderr}")
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """Return all processes that belong to this SLURM and still run, except this one."""
        return [process for process in psutil.process_iter() if process.pid != os.getpid() and self._belongs(process)]

    # Starting

    def start(self) -> None:
        """Install what is missing and start what does not run. Raises Unavailable where that cannot be."""
        install(PACKAGES + (WITH_DATABASE if self.settings.database else ()))
        for name, mode in (("", 0o755), ("bin", 0o755), ("etc", 0o755), ("log", 0o755), ("run", 0o755), ("spool", 0o755)):
            self._make(name, mode)
        for name in ("state", "munge", "gpus"):
            self._make(name, 0o755 if name != "state" else 0o700)
        if not self._runs("slurmctld"):
            self._configure()
        self._start_munge()
        if self.settings.database:
            self._start_database()
        self._launch("slurmctld", ["slurmctld", "-D"], lambda: "UP" in self.ask("scontrol", "ping"))
        names = self.settings.names
        for name in names:
            self._make(f"spool/{name}", 0o755)
            self._launch(f"slurmd-{name}", ["slurmd", "-D", "-N", name])
        # A node that was drained, or down, when this SLURM was stopped is so in the saved state.
        for line in self.ask("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines():
            node, state = line.split()
            if any(word in state for word in ("drain", "down", "inval")):
                with suppress(subprocess.CalledProcessError):
                    self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self._wait("slurmctld", self._all_idle)

    def _make(self, name: str, mode: int) -> None:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)  # munged refuses a key in a folder that others write to

    def _all_idle(self) -> bool:
        states = [line.split()[1] for line in set(self.ask("sinfo", "-h", "-N", "-o", "%N %t").splitlines())]
        return len(states) == len(self.settings.names) and all(state in ("idle", "mix", "alloc") for state in states)

    @property
    def _configuration(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    @property
    def _munge_socket(self) -> Path:
        return self.folder / "munge" / "socket"

    def _configure(self) -> None:
        for command in COMMANDS:
            real = shutil.which(command)
            if real is None or Path(real).parent == self.folder / "bin":
                real = f"/usr/bin/{command}"
            shim = self.folder / "bin" / command
            shim.write_text(f"#!/bin/sh\nSLURM_CONF={shlex.quote(str(self._configuration))} exec {real} \"$@\"\n")
            shim.chmod(0o755)
        self._configuration.write_text("\n".join((*self._lines(), *self.settings.extra.splitlines(), "")))
        gres = ["AutoDetect=off"]
        for number in range(self.settings.gpus):
            # slurmd wants a device; the digits that end its name are those of CUDA_VISIBLE_DEVICES.
            device = self.folder / "gpus" / f"nvidia{number}"
            device.unlink(missing_ok=True)
            device.symlink_to("/dev/null")
            gres.append(f"NodeName={self.settings.names[-1]} Name=gpu Type=null File={device}")
        (self.folder / "etc" / "gres.conf").write_text("\n".join((*gres, "")))

    def _lines(self) -> list[str]:
        chosen, host, folder = self.settings, socket.gethostname().split(".")[0], self.folder
        fixed = {
            "ClusterName": "metabench",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": chosen.port,
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket},cred_expire=5",  # a requeued job waits for as long
            "CredType": "cred/munge",
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": folder / "spool" / "%n",
            "SlurmctldPidFile": folder / "run" / "slurmctld.own",
            "SlurmdPidFile": folder / "run" / "slurmd-%n.own",
            "SlurmctldLogFile": folder / "log" / "slurmctld.log",
            "SlurmdLogFile": folder / "log" / "slurmd-%n.log",
            "MailProg": "/bin/true",
            # Without cgroups: processes are found in /proc, and memory is polled.
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=1",
            "JobAcctGatherParams": "OverMemoryKill",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "sched_interval=2,bf_interval=2,batch_sched_delay=0",
            "PriorityType": "priority/basic",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "SlurmdParameters": "config_overrides",  # nodes may claim more than this machine has
            "ReturnToService": 2,
            "PropagateResourceLimits": "NONE",
            "JobRequeue": 0,  # as on many clusters: a job is requeued if it was submitted with --requeue
            "KillWait": 5,
            "CompleteWait": 0,
            "MinJobAge": 600,  # squeue knows how a job ended for as long
            "MessageTimeout": 30,
            "AccountingStorageType": "accounting_storage/none",
        }
        if chosen.database:
            fixed |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": chosen.port + 1,
                "AccountingStoragePass": self._munge_socket,
                "AccountingStorageEnforce": "associations",
            }
        nodes = []
        for number, name in enumerate(chosen.names):
            gpus = f" Gres=gpu:null:{chosen.gpus} Feature=accelerated" if chosen.gpus and name == chosen.names[-1] else ""
            nodes.append(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={chosen.port + 10 + number} "
                f"CPUs={chosen.cpus} RealMemory={chosen.memory}{gpus} State=UNKNOWN"
            )
        usual = "DefMemPerCPU=500 DefaultTime=00:10:00 State=UP"
        plain, low = ",".join(chosen.names[: chosen.nodes]), chosen.names[chosen.nodes]
        partitions = [
            f"PartitionName=cpu Nodes={plain} Default=YES MaxTime=1-00:00:00 PriorityTier=5 PreemptMode=OFF {usual}",
            f"PartitionName=short Nodes={plain} MaxTime=01:00:00 PriorityTier=5 PreemptMode=OFF {usual}",
            f"PartitionName=low Nodes={low} MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 {usual}",
            f"PartitionName=urgent Nodes={low} MaxTime=1-00:00:00 PriorityTier=9 PreemptMode=OFF {usual}",
        ]
        if chosen.gpus:
            nodes.insert(0, "GresTypes=gpu")
            partitions.append(
                f"PartitionName=gpu Nodes={chosen.names[-1]} MaxTime=1-00:00:00 PriorityTier=5 PreemptMode=OFF {usual}"
            )
        return [*(f"{key}={value}" for key, value in fixed.items()), *nodes, *partitions]

    def _start_munge(self) -> None:
        key = self.folder / "munge" / "key"
        if not key.is_file():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(KEY_BYTES))
        of = {"key-file": key, "socket": self._munge_socket, "seed-file": "seed", "log-file": "log", "pid-file": "pid"}
        options = [f"--{name}={self.folder / 'munge' / Path(value)}" for name, value in of.items()]
        self._launch("munged", ["munged", "--foreground", "--num-threads=2", *options], self._munge_answers)

    def _munge_answers(self) -> bool:
        return bool(self.ask("munge", "--no-input", "--socket", str(self._munge_socket)))

    def _start_database(self) -> None:
        data, logs, port = self.folder / "database", self.folder / "log", self.settings.port
        if not (data / "mysql").is_dir():
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir()
            shutil.chown(data, "mysql", "mysql")
            of = ["--no-defaults", "--user=mysql", f"--datadir={data}", "--auth-root-authentication-method=socket", "--skip-test-db"]
            self.ask("mariadb-install-db", *of, timeout=120)
        # Not in FOLDER: the path of a socket has a hundred characters at most.
        door = f"/tmp/metabench-slurm-{port}.sock"
        query = ["mariadb", "--no-defaults", "--user=root", f"--socket={door}", "--execute"]
        of = [f"--datadir={data}", f"--socket={door}", f"--port={port + 2}", f"--pid-file={data}/pid", f"--log-error={logs}/mariadb.log"]
        of += ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=64M", "--innodb-lock-wait-timeout=900"]
        command = ["mariadbd", "--no-defaults", "--user=mysql", "--bind-address=127.0.0.1", *of]
        self._launch("mariadbd", command, lambda: bool(self.ask(*query, "SELECT 1")))
        user = "slurm@'127.0.0.1'"
        self.ask(*query, f"CREATE DATABASE IF NOT EXISTS accounts; CREATE USER IF NOT EXISTS {user} IDENTIFIED BY 'slurm'")
        self.ask(*query, f"GRANT ALL ON accounts.* TO {user}")
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket}",
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": port + 1,
            "SlurmUser": "root",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": port + 2,
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "accounts",
            "LogFile": logs / "slurmdbd.log",
            "PidFile": self.folder / "run" / "slurmdbd.own",
        }
        path = self.folder / "etc" / "slurmdbd.conf"
        path.touch(mode=0o600)  # slurmdbd insists
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self._launch("slurmdbd", ["slurmdbd", "-D"], lambda: self.ask("sacctmgr", "-n", "list", "cluster") is not None)
        if "metabench" not in self.ask("sacctmgr", "-n", "list", "cluster", "format=cluster"):
            self.ask("sacctmgr", "-i", "add", "cluster", "metabench")
        if "physics" not in self.ask("sacctmgr", "-n", "list", "account", "format=account"):
            self.ask("sacctmgr", "-i", "add", "account", "physics", "cluster=metabench", "description=tests", "organization=tests")
            self.ask("sacctmgr", "-i", "add", "user", "root", "account=physics")

    def _launch(self, name: str, command: Sequence[str], ready: Callable[[], bool] | None = None) -> None:
        """Start a daemon in the foreground of its own session, unless it runs, and wait until `ready`."""
        if not self._runs(name):
            with (self.folder / "log" / f"{name}.out").open("ab") as said:
                process = subprocess.Popen(
                    command,
                    env=os.environ | self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
            # With its start: the number may be another process's one day.
            (self.folder / "run" / f"{name}.pid").write_text(f"{process.pid} {psutil.Process(process.pid).create_time()}")
        if ready:
            self._wait(name, ready)

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while True:
            with suppress(subprocess.CalledProcessError):
                if ready():
                    return
            if not self._runs(name) or time.monotonic() > end:
                logs = [(self.folder / "log" / f"{name}{ending}") for ending in (".out", ".log")]
                words = "\n".join(path.read_text(errors="replace")[-2000:] for path in logs if path.is_file())
                raise RuntimeError(f"{name} {'does not answer' if self._runs(name) else 'ended'}:\n{words}")
            time.sleep(0.1)

    # Stopping

    def stop(self) -> list[str]:
        """End all jobs and daemons that were started from the folder; return what had to be killed, by name."""
        if self._runs("slurmctld"):
            with suppress(subprocess.SubprocessError):
                self._end_jobs()
        daemons = [path.stem for path in sorted((self.folder / "run").glob("*.pid"))]
        # slurmctld waits for nodes and database, and all of them for munged.
        for group in ("slurmd-", "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self._end([process for name in daemons if name.startswith(group) for process in self._recorded(name)])
        left = self.processes()
        names = [f"{process.pid} {' '.join(process.cmdline())[:200]}" for process in left if process.is_running()]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        return names

    def _end_jobs(self) -> None:
        """Cancel all jobs and wait: slurmstepd, under which they run, outlives slurmd."""
        self.ask("scancel", "--user", "root")
        end = time.monotonic() + 2 * SECONDS
        while self.ask("squeue", "--noheader").strip() and time.monotonic() < end:
            time.sleep(0.1)

    def _end(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        psutil.wait_procs(processes, timeout=SECONDS / 2)

    def _recorded(self, name: str) -> list[psutil.Process]:
        """Return the process of a daemon, in a list that is empty where it does not run."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            pid, started = (self.folder / "run" / f"{name}.pid").read_text().split()
            process = psutil.Process(int(pid))
            if process.create_time() == float(started) and process.status() != psutil.STATUS_ZOMBIE:
                return [process]
        return []

    def _runs(self, name: str) -> bool:
        return bool(self._recorded(name))

    def _belongs(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.name() == "slurmstepd":
                # It writes its title over its environment; its node's log, in the folder, is open.
                files = [os.readlink(file) for file in Path(f"/proc/{process.pid}/fd").iterdir()]
                return any(Path(file).is_relative_to(self.folder / "log") for file in files)
            return process.environ().get(MARK) == str(self.folder)
        return False


def install(packages: Sequence[str]) -> None:
    """Install the packages that are missing, without starting their services. Raises Unavailable where that cannot be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Unavailable("a SLURM of one's own needs Linux and root: its daemons start jobs in the name of others")
    if shutil.which("apt-get") is None or shutil.which("dpkg-query") is None:
        raise Unavailable("SLURM is installed from Debian's packages, and there is no apt-get here")
    asked = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages], capture_output=True, text=True, check=False
    )
    there = {line.split()[0] for line in asked.stdout.splitlines() if line.endswith(" installed")}
    missing = [package for package in packages if package not in there]
    if not missing:
        return
    # Debian asks this file whether a service may be started; 101 says no.
    policy = Path("/usr/sbin/policy-rc.d")
    placed = not policy.exists()
    if placed:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(
                ["apt-get", "-qq", *arguments],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if done.returncode and arguments[0] == "install":
                raise Unavailable(f"apt-get could not install {', '.join(missing)}: {done.stderr.strip()[-300:]}")
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"apt-get took too long to install {', '.join(missing)}") from error
    finally:
        if placed:
            policy.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("start", "stop", "environment"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    slurm = Slurm(given.folder)
    if given.action == "environment":
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in slurm.environment.items()))
    elif given.action == "stop":
        sys.exit("\n".join(("these had to be killed:", *left)) if (left := slurm.stop()) else 0)
    else:
        try:
            slurm.start()
        except Unavailable as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
