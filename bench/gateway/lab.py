"""The hosts that the benchmark runs on: a network of its own, by the project's tool for test hosts."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from engines import RUNTIME

from testhosts import Bind, CommandError, Host, NetworkSpec, TestHosts, base_id, has_layer
from testhosts.cgroup import cgroup2_mount
from testhosts.state import default_state_dir
from tiny_model import make_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "bench" / "gateway" / "inventory"
LOGS = ROOT / ".cache" / "bench-gateway" / "logs"
# The last number of each host's address; the inventory says the same of `ours1`.
_ADDRESSES = {"load1": 11, "bare1": 12, "ray1": 13, "ours1": 14}
_FREEZE_TIMEOUT_S = 10.0

_SITE_PACKAGES = f"{RUNTIME}/lib/python3*/site-packages"


_playbooks: list[subprocess.Popen[bytes]] = []
# Set when everything is to end: whoever waits for something gives up.
stopping = threading.Event()


def stop_all() -> None:
    """End what waits or works in threads."""
    stopping.set()
    for process in _playbooks:
        process.terminate()


def prefix() -> str:
    """The first three numbers of the hosts' addresses; the inventory reads the same variable."""
    return os.environ.get("BENCH_PREFIX") or "198.18.30"


def address(host: str) -> str:
    """The address of a host."""
    return f"{prefix()}.{_ADDRESSES[host]}"


def playbook(log: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run the project's ``site.yml`` on the benchmark's inventory.

    Args:
        log: the name of the file that its output goes to.
        arguments: more of ansible-playbook's arguments.
        environment: what the inventory reads.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    tools = Path(sys.executable).parent
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / log).open("w+") as output:
        process = subprocess.Popen(
            [str(tools / "ansible-playbook"), f"--inventory={INVENTORY}", "site.yml", *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{tools}:{os.environ['PATH']}",
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "TESTHOSTS_DIR": str(default_state_dir()),
                "BENCH_PREFIX": prefix(),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _playbooks.append(process)
        try:
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
        if status != 0:
            output.seek(0)
            raise RuntimeError(f"site.yml failed; the end of {log}:\n{output.read()[-3000:]}")


class Lab:
    """The network, and what is done in its hosts.

    Args:
        hosts: those that are wanted.
        say: takes a line of progress.
    """

    def __init__(self, hosts: Sequence[str], say: Callable[[str], None]) -> None:
        self._hosts = hosts
        self._say = say
        self.network = TestHosts("bench", echo=say)
        self._frozen: set[Path] = set()

    # -- the whole network -------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Bring the hosts up, with the serving runtime already in them.

        The runtime is installed once by the platform's own role, on a host that exists only for that, and kept as a
        layer: Molecule's, where it has made one of the same lock, or ours.
        """
        make_model(ROOT / ".cache" / "models" / "tiny-qwen2")
        # Molecule's name for it, see molecule/shared/vars/testhosts.yml.
        theirs = f"runtime-{_role_digest()}"
        runtime = theirs if has_layer(theirs) else f"bench-{theirs}"
        if not has_layer(runtime):
            self._say("installing the serving runtime once, by the role serving_runtime: five minutes")
            seed = TestHosts("bench-seed", echo=self._say)
            seed.up(self._spec("bench-seed", ["ours1"], ()))
            try:
                playbook("runtime.log", ["--tags", "runtime"], {})
                seed.commit("ours1", runtime, ["/opt/llm/runtime", "/opt/llm/wheels"])
            finally:
                seed.down()
        layers = (runtime, *(key for key in [self.gateways_layer] if has_layer(key)))
        # A run that was killed leaves hosts, maybe frozen ones; one with --keep leaves them for us.
        self.thaw_all()
        hosts, kept = list(self._hosts), self.network.spec()
        if kept is not None:
            hosts += [host.name for host in kept.hosts if host.name not in hosts]
            layers = kept.layers
        self.network.up(self._spec("bench", hosts, layers))

    @property
    def gateways_layer(self) -> str:
        """The key of the layer with the gateways of the arms; it changes with their locks."""
        locks = sorted((ROOT / "bench" / "gateway" / "requirements").glob("*.lock"))
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in locks) + base_id("bookworm").encode())
        return f"bench-gateways-{digest.hexdigest()[:12]}"

    def _spec(self, name: str, hosts: Sequence[str], layers: tuple[str, ...]) -> NetworkSpec:
        models = Bind(str(ROOT / ".cache" / "models"), "/srv/llm/models")
        named = tuple(Host(host, address(host)) for host in hosts)
        return NetworkSpec(name, f"{prefix()}.0/24", named, layers=layers, binds=(models,))

    def down(self) -> None:
        """Take the network down; layers stay."""
        self.thaw_all()
        self.network.down()

    # -- one host ----------------------------------------------------------------------------------------------------

    def shell(self, host: str, script: str, timeout_s: float = 900) -> str:
        """Run a script in a host as root.

        Raises:
            testhosts.CommandError: it failed; with what it said.
        """
        return self.network.execute(host, ["sh", "-euc", script], timeout_seconds=timeout_s).stdout

    def put(self, host: str, path: str, data: bytes) -> None:
        """Write a file in a host, with the directories that lead to it."""
        quoted = shlex.quote(path)
        script = f'mkdir -p "$(dirname {quoted})" && cat >{quoted}'
        done = subprocess.run(self.network.ssh_argv(host, ["sh", "-euc", script]), input=data, check=False)
        if done.returncode != 0:
            raise CommandError(f"host {host}: {path} can't be written")

    def put_mock(self, host: str) -> None:
        """Put the mock engine where the runtime's Python, and so Ray's replicas, find it."""
        source = (Path(__file__).parent / "mock_engine.py").read_bytes()
        site = self.shell(host, f"echo {_SITE_PACKAGES}").strip()
        self.put(host, f"{site}/mock_engine.py", source)

    def start(self, host: str, unit: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Run a command in a host as a systemd service, in place of an older one of that name."""
        self.stop(host, unit)
        settings = [f"--setenv={key}={value}" for key, value in (environment or {}).items()]
        argv = [
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={unit}",
            "--property=LimitNOFILE=20000:20000",
            *settings,
        ]
        self.network.execute(host, [*argv, *command])

    def stop(self, host: str, unit: str) -> None:
        """Stop a service, if it runs."""
        self.network.execute(host, ["systemctl", "stop", unit], check=False)

    def install_packages(self, host: str, packages: Sequence[str]) -> None:
        """Install Debian packages in a host."""
        script = (
            "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update; apt-get -qq install -y --no-install-recommends"
        )
        self.shell(host, f"{script} {shlex.join(packages)} >/dev/null")

    # -- control groups ----------------------------------------------------------------------------------------------

    def cgroup(self, host: str) -> Path:
        """The directory of a host's control group on this machine."""
        return cgroup2_mount() / self.network.names.cgroup / host

    def unit_cgroups(self, host: str, patterns: Sequence[str]) -> list[Path]:
        """The control groups of a host's services whose names match."""
        services = self.cgroup(host) / "payload" / "system.slice"
        return sorted({path for pattern in patterns for path in services.glob(pattern) if path.is_dir()})

    def freeze(self, group: Path) -> None:
        """Stop every process of a control group from running until `thaw`, so that it takes no CPU from others."""
        self._set_frozen(group, True)

    def thaw(self, group: Path) -> None:
        """End a `freeze`."""
        self._set_frozen(group, False)

    def _set_frozen(self, group: Path, frozen: bool) -> None:
        (group / "cgroup.freeze").write_text("1" if frozen else "0")
        deadline = time.monotonic() + _FREEZE_TIMEOUT_S
        while f"frozen {int(frozen)}" not in (group / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{group.name} could not be {'frozen' if frozen else 'thawed'} in time")
            time.sleep(0.01)

    def thaw_all(self) -> None:
        """Let everything run."""
        tree = cgroup2_mount() / self.network.names.cgroup
        for control in tree.glob("**/cgroup.freeze"):
            control.write_text("0")


def _role_digest() -> str:
    """What Molecule calls its layer of the runtime by: a digest of the role's files, as `sha256sum` would list them."""
    role = ROOT / "roles" / "serving_runtime"
    files = sorted(str(path.relative_to(ROOT)) for path in role.rglob("*") if path.is_file())
    rows = "".join(f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  {name}\n" for name in files)
    return hashlib.sha256(rows.encode()).hexdigest()[:12]
