"""A cluster on one machine: emulated hosts, joined by links of a chosen rate.

Each host is a network namespace with a hostname of its own (without one, MPI libraries take all hosts for the same
and use shared memory). Their virtual cables end in a bridge, in a namespace too. `tc … tbf` limits what leaves a host
and what the bridge hands to it. A script of a few lines starts commands on a host, as ssh would.

    python benchmarks/lab.py -n 2 --rate 1gbit -- tinydl train mlp

runs a command on two hosts, one rank each. Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SUBNET = "10.213.77"

AGENT = """\
#!/bin/sh
# Starts a command on an emulated host, called as ssh is: agent [-options] HOST COMMAND...
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1; shift
test ! -e {folder}/$host-is-off || exit 255
exec ip netns exec {prefix}-$host unshare --uts --ipc --mount sh -c \\
    'hostname "$0" && mount --bind {folder}/hosts /etc/hosts && exec sh -c "$1"' "$host" "$*"
"""


def missing() -> str | None:
    """Why there can be no lab here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "emulated hosts need Linux and root"
    for program in ("ip", "tc", "unshare"):
        if shutil.which(program) is None:
            return f"emulated hosts need the program {program} (Debian: iproute2, util-linux)"
    trial = f"tinydl-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", trial], check=True)
    return None


class Lab:
    """Hosts h0, h1, …, from ``with`` to the end of its block.

    Args:
        hosts: how many.
        rate: of each link, each way, as tc writes it; None does not limit it.

    Attributes:
        hosts: their names.
        agent: program that starts a command on a host: ``agent HOST COMMAND…``.
    """

    def __init__(self, hosts: int = 2, rate: str | None = "1gbit") -> None:
        self.rate = rate
        self.hosts = [f"h{k}" for k in range(hosts)]
        self._prefix = f"tinydl-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"

    def __enter__(self) -> Lab:
        self._folder = tempfile.TemporaryDirectory(prefix="tinydl-lab-")
        folder = Path(self._folder.name)
        addresses = [f"{self.address(k)} {host}" for k, host in enumerate(self.hosts)]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *addresses]) + "\n")
        self.agent = folder / "agent"
        self.agent.write_text(AGENT.format(prefix=self._prefix, folder=folder))
        self.agent.chmod(0o755)
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        switch = self._switch
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for k, host in enumerate(self.hosts):
            space = f"{self._prefix}-{host}"
            ip("netns", "add", space)
            ip(
                "-n",
                space,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                host,
                "netns",
                switch,
            )
            ip("-n", switch, "link", "set", host, "master", "bridge", "up")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "addr", "add", f"{self.address(k)}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            if self.rate:
                self._limit(space, "eth0")
                self._limit(switch, host)

    def _limit(self, space: str, device: str) -> None:
        # burst: what may pass at once after a pause; latency: how long a packet may wait before it is dropped
        words = f"qdisc add dev {device} root tbf rate {self.rate} burst 128kb latency 50ms"
        subprocess.run(["tc", "-n", space, *words.split()], check=True)

    def __exit__(self, *error: object) -> None:
        for space in [*(f"{self._prefix}-{host}" for host in self.hosts), self._switch]:
            with contextlib.suppress(subprocess.CalledProcessError):
                # Some are left over on a host that was switched off.
                for process in output_of("ip", "netns", "pids", space).split():
                    os.kill(int(process), signal.SIGKILL)
                ip("netns", "del", space, quiet=True)
        self._folder.cleanup()

    def address(self, host: int) -> str:
        """Of the host with this number."""
        return f"{SUBNET}.{host + 1}"

    def switch_off(self, host: str) -> None:
        """Nothing reaches the host any more, and no connection is closed: as when its power fails."""
        (Path(self._folder.name) / f"{host}-is-off").touch()
        ip("-n", self._switch, "link", "set", host, "down")

    def bytes_sent(self, host: str) -> int:
        """What has left the host through its link since it was made."""
        shown = output_of(
            "ip", "-n", f"{self._prefix}-{host}", "-json", "-stats", "link", "show", "eth0"
        )
        return json.loads(shown)[0]["stats64"]["tx"]["bytes"]

    def on(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` on ``host``."""
        return [str(self.agent), host, shlex.join(command)]

    def launch(self, python: str, command: Sequence[str], flags: Sequence[str] = ()) -> list[str]:
        """The command line that runs ``command`` on all hosts, by `tinydl launch` on the first, a rank on each."""
        where = ["--hosts", ",".join(self.hosts), "--agent", str(self.agent), "--threads", "1"]
        ranks = ["-n", str(len(self.hosts))]
        line = [python, "-m", "tinydl", "launch", *ranks, *where, *flags, "--", *command]
        return self.on(self.hosts[0], line)


def ip(*words: str, quiet: bool = False) -> None:
    subprocess.run(["ip", *words], check=True, stderr=subprocess.DEVNULL if quiet else None)


def output_of(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command on emulated hosts, one rank each.")
    parser.add_argument("-n", type=int, default=2, help="hosts")
    parser.add_argument(
        "--rate", default="1gbit", help="of each link, as tc writes it; 0: not limited"
    )
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    rate = None if arguments.rate == "0" else arguments.rate
    with Lab(arguments.n, rate) as lab:
        return subprocess.run(lab.launch(sys.executable, arguments.command)).returncode


if __name__ == "__main__":
    raise SystemExit(main())
