"""The façade: everything that the command line, the demo, Molecule and pytest use."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroup, layers, network
from .base import ensure_base, ensure_ssh_key
from .errors import BootError, MachineError, SpecError
from .host import HostUnit
from .mounts import mount_overlay, mounted_below, remove_tree, require_netns, require_overlay, unmount
from .publish import Publisher
from .shell import require_programs, run
from .spec import Names, NetworkSpec, check_name
from .state import Echo, StateDir, default_state_dir, read_json, write_json

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

BOOT_SECONDS = 120.0
LAYER_DAYS = 14.0


def _silent(_: str) -> None:
    return None


def require_root() -> None:
    """Check that we are root.

    Raises:
        MachineError: we are not.
    """
    if os.geteuid() != 0:
        raise MachineError(
            "test hosts need root (mounts, namespaces, control groups): run the same command with sudo, "
            "for example `sudo PYTHONPATH=tools python3 -m testhosts …`"
        )


@dataclass(frozen=True)
class HostState:
    """What `list` says of one host; `pid` is the machine's number of the host's PID 1."""

    network: str
    host: str
    address: str
    state: str
    pid: int | None


class TestHosts:
    """One network of hosts, by name.

    Every method raises a `TestHostsError` that says what is wrong, where, and what to do about it. Methods that change
    something hold the network's lock, so that two processes don't race.
    """

    __test__ = False  # pytest must not take it for a test class

    def __init__(self, name: str, *, state_dir: Path | None = None, echo: Echo = _silent) -> None:
        """Name a network; nothing is made yet.

        Args:
            name: the network's name.
            state_dir: where everything is kept; `$TESTHOSTS_DIR` or the repository's `.cache/testhosts` by default.
            echo: gets one line of progress at a time.

        Raises:
            SpecError: the name is not allowed.
        """
        self.name = check_name(name, "network name")
        self.state = StateDir((state_dir or default_state_dir()).absolute())
        self.names = Names(name, str(self.state.root))
        self._echo = echo

    @property
    def _directory(self) -> Path:
        return self.state.network(self.name)

    @property
    def _record_file(self) -> Path:
        return self._directory / "network.json"

    @property
    def ssh_key(self) -> Path:
        """The private key that opens every host as root."""
        return self.state.ssh_key

    def spec(self) -> NetworkSpec | None:
        """What the network was brought up with, or None if there is no such network."""
        data = read_json(self._record_file)
        return None if data is None else NetworkSpec.from_json(data["spec"])

    def _require_spec(self) -> NetworkSpec:
        spec = self.spec()
        if spec is None:
            raise SpecError(
                f"there is no network {self.name!r} in {self.state.root}; "
                f"bring it up with `testhosts up --name {self.name} …`"
            )
        return spec

    def _unit(self, spec: NetworkSpec, host: str) -> HostUnit:
        return HostUnit(self.state, spec, self.names, spec.host(host))

    def _units(self, spec: NetworkSpec) -> list[HostUnit]:
        return [self._unit(spec, host.name) for host in spec.hosts]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        require_root()
        with self.state.lock(f"network.{self.name}", self._echo):
            yield

    # -- the whole network -------------------------------------------------------------------------------------------

    def up(self, spec: NetworkSpec, *, boot_seconds: float = BOOT_SECONDS) -> bool:
        """Bring the network up; False if all of it was up already.

        Hosts that run are left alone. A host that was up before and is off now boots on its overlay. What a run that
        was cut off left of a host is cleared first. Hosts and published ports can be added by a second `up`; anything
        else that differs needs a `down` first.

        Raises:
            SpecError: a network of that name is up with another subnet, suite, layer, bind or address.
            MachineError: the machine lacks something.
            BuildError: the base tree could not be built.
            BootError: a host did not come up in time.
        """
        if spec.name != self.name:
            raise SpecError(f"the spec is for network {spec.name!r}, not for {self.name!r}")
        with self._locked():
            require_programs()
            require_overlay()
            require_netns()
            cgroup.cgroup2_mount()
            started = time.monotonic()
            self._reconcile(spec)
            # All that can be refused is refused before anything is made.
            network.require_free_subnet(spec, self.names)
            publisher = Publisher(spec, self.names, self._directory)
            publisher.require_free(spec.publishes)
            layered = [layers.use_layer(self.state, key, spec.suite) for key in spec.layers]
            lowers = [ensure_base(self.state, spec.suite, self._echo), *layered]
            ensure_ssh_key(self.state)
            self._directory.mkdir(parents=True, exist_ok=True)
            write_json(self._record_file, {"spec": spec.to_json(), "lowers": [str(path) for path in lowers]})
            changed = network.ensure_network(spec, self.names)
            off = [unit for unit in self._units(spec) if not (unit.whole and unit.condition() != "off")]
            for unit in off:
                unit.stop(hard=True) if unit.whole else unit.clear(hard=True)
                unit.boot(lowers)
            self._wait(off, boot_seconds)
            changed |= publisher.ensure(spec.publishes)
            if not (off or changed):
                self._echo(f"network {self.name}: unchanged")
                return False
            self._echo(f"network {self.name}: up in {time.monotonic() - started:.1f} s")
            return True

    def _reconcile(self, spec: NetworkSpec) -> None:
        """Refuse a spec that differs from what is up, or clear what a run that was cut off left."""
        old = self.spec()
        if old is None:
            if self._directory.exists():
                self._clear(None)
            return
        if not any(unit.whole for unit in self._units(old)):
            self._echo(f"network {self.name}: clearing a run that was cut off")
            self._clear(old)
            return
        here, there = spec.to_json(), old.to_json()
        differing = [key for key in ("subnet", "suite", "layers", "binds") if here[key] != there[key]]
        differing += [f"host {host.name}" for host in old.hosts if host not in spec.hosts]
        if differing:
            raise SpecError(
                f"network {self.name} is up with another {', '.join(differing)}; take it down first "
                f"(`testhosts down --name {self.name}`), or use another --name and --subnet beside it"
            )

    def _wait(self, units: Sequence[HostUnit], boot_seconds: float) -> None:
        started = time.monotonic()

        def wait(unit: HostUnit) -> None:
            answer = unit.wait_ready(boot_seconds)
            self._echo(
                f"host {unit.host.name} ({unit.host.address}): {answer} after {time.monotonic() - started:.1f} s"
            )

        if units:
            with ThreadPoolExecutor(len(units)) as pool:
                for waiting in [pool.submit(wait, unit) for unit in units]:
                    waiting.result()

    def down(self, *, timeout_seconds: float = 10) -> bool:
        """Take the network down with all that it has on the machine, overlays too; False if there was nothing.

        Base trees and layers stay. Safe to call twice, and on a network that is half made.

        Args:
            timeout_seconds: how long hosts may take to power off before they are killed.
        """
        with self._locked():
            there = self._directory.exists()
            self._clear(self.spec(), timeout_seconds)
            self._echo(f"network {self.name}: {'down' if there else 'was not there'}")
            return there

    def _clear(self, spec: NetworkSpec | None, timeout_seconds: float = 10) -> None:
        if spec is not None:
            Publisher(spec, self.names, self._directory).stop()
            units = self._units(spec)
            with ThreadPoolExecutor(len(units)) as pool:
                for ending in [pool.submit(unit.stop, timeout_seconds) for unit in units]:
                    ending.result()
        # Whatever records say: nothing below our own control group, mounts, names may stay.
        if not cgroup.kill(self.names.cgroup) or not cgroup.remove(self.names.cgroup):
            raise MachineError(
                f"network {self.name}: control group {self.names.cgroup} can't be removed; "
                f"processes left: {cgroup.processes(self.names.cgroup)}"
            )
        network.remove_network(self.names)
        remove_tree(self._directory)

    def hosts(self) -> list[HostState]:
        """The hosts of this network and their states; empty if there is no such network."""
        require_root()
        spec = self.spec()
        return [
            HostState(self.name, unit.host.name, unit.host.address, unit.condition(), unit.leader)
            for unit in (self._units(spec) if spec else [])
        ]

    # -- one host ----------------------------------------------------------------------------------------------------

    def start(self, host: str, *, boot_seconds: float = BOOT_SECONDS) -> None:
        """Boot a host that is off on its overlay, and wait for it; nothing happens if it runs.

        Raises:
            BootError: it did not come up in time.
        """
        with self._locked():
            spec = self._require_spec()
            unit = self._unit(spec, host)
            if unit.condition() == "off":
                network.ensure_network(spec, self.names)
                unit.stop(hard=True)
                unit.boot(self._lowers())
            self._wait([unit], boot_seconds)

    def _lowers(self) -> list[Path]:
        data = read_json(self._record_file) or {}
        return [Path(path) for path in data["lowers"]]

    def stop(self, host: str, *, timeout_seconds: float = 30, hard: bool = False) -> None:
        """Power a host off, or cut its power with `hard`. Its overlay stays.

        Args:
            host: its name.
            timeout_seconds: how long it may take to power off before it is killed.
            hard: kill it at once.
        """
        with self._locked():
            self._unit(self._require_spec(), host).stop(timeout_seconds, hard)
            self._echo(f"host {host}: off")

    def reboot(self, host: str, *, boot_seconds: float = BOOT_SECONDS) -> None:
        """Reboot a host from inside and wait until it is back: same address, same overlay.

        Raises:
            BootError: it did not go down, or did not come back, in time.
        """
        with self._locked():
            unit = self._unit(self._require_spec(), host)
            unit.require_running()
            before = unit.leader
            run(unit.ssh(["systemctl", "--no-block", "reboot"]), check=False, timeout_seconds=30)
            deadline = time.monotonic() + boot_seconds
            while unit.leader in (before, None):
                if time.monotonic() > deadline:
                    raise BootError(
                        f"host {host} of network {self.name} did not reboot within {boot_seconds:g} s; "
                        f"see {unit.console}"
                    )
                time.sleep(0.1)
            self._wait([unit], boot_seconds)

    def ssh_argv(self, host: str, argv: Sequence[str] = ()) -> list[str]:
        """The ssh command line that runs a command in a host as root (an interactive shell without one)."""
        return self._unit(self._require_spec(), host).ssh(argv)

    def execute(
        self, host: str, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host as root, by ssh.

        Raises:
            CommandError: it failed (with `check`), or took too long.
        """
        unit = self._unit(self._require_spec(), host)
        unit.require_running()
        return run(unit.ssh(argv), check=check, timeout_seconds=timeout_seconds)

    def commit(self, host: str, layer: str, paths: Sequence[str]) -> bool:
        """Copy paths of a host, running or not, into a layer; False if there is a layer of that key already.

        Raises:
            SpecError: a path is missing in the host.
            BuildError: copying failed.
        """
        with self._locked():
            spec = self._require_spec()
            unit = self._unit(spec, host)
            mounted = unit.root in mounted_below(unit.root)
            if not mounted:
                if not unit.whole:
                    raise SpecError(f"host {host} of network {self.name} was never up; there is nothing to commit")
                mount_overlay(unit.root, self._lowers(), unit.directory / "upper", unit.directory / "work")
            try:
                made = layers.commit(self.state, unit.root, layer, paths, spec.suite, self._echo)
            finally:
                if not mounted:
                    unmount(unit.root)
            self._echo(f"layer {layer}: {'made' if made else 'unchanged, it is there already'}")
            return made

    # -- faults ------------------------------------------------------------------------------------------------------

    def partition(self, host: str) -> None:
        """Cut a host off from everything but its own loopback; it lasts until `heal`, also over a reboot."""
        with self._locked():
            network.partition(self.names, self._require_spec().host(host).name)

    def heal(self, host: str) -> None:
        """End a partition and plug the cable in; nothing happens if neither is broken."""
        with self._locked():
            spec = self._require_spec()
            network.heal(self.names, spec.host(host).name)
            network.set_link(spec, self.names, spec.host(host), up=True)

    def link_down(self, host: str) -> None:
        """Pull a host's cable until `heal`: unlike in a partition, the host sees that it has no carrier."""
        with self._locked():
            spec = self._require_spec()
            network.set_link(spec, self.names, spec.host(host), up=False)


def list_networks(state_dir: Path | None = None) -> list[str]:
    """The names of the networks in a state directory, half-made ones too."""
    require_root()
    directory = StateDir((state_dir or default_state_dir()).absolute()).networks
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def has_layer(key: str, state_dir: Path | None = None) -> bool:
    """Whether a layer of that key can be used."""
    require_root()
    return layers.has_layer(StateDir((state_dir or default_state_dir()).absolute()), key)


def prune(*, days: float = LAYER_DAYS, state_dir: Path | None = None, echo: Echo = _silent) -> None:
    """Remove layers that no network uses and nothing used for `days`, and unused base trees of old recipes."""
    require_root()
    state = StateDir((state_dir or default_state_dir()).absolute())
    state.make()
    layer_keys: set[str] = set()
    bases: set[str] = set()
    for name in list_networks(state.root):
        spec = TestHosts(name, state_dir=state.root).spec()
        data = read_json(state.network(name) / "network.json")
        if spec is not None and data is not None:
            layer_keys.update(spec.layers)
            bases.add(Path(data["lowers"][0]).name)
    layers.prune(state, days, layer_keys, bases, echo)


def purge(*, state_dir: Path | None = None, echo: Echo = _silent) -> None:
    """Take every network down and remove the whole state directory, base trees and layers too.

    Raises:
        MachineError: the directory doesn't look like one of ours.
    """
    require_root()
    state = StateDir((state_dir or default_state_dir()).absolute())
    if not state.root.exists():
        return
    ours = {"bases", "layers", "networks", "locks", "ssh"}
    strangers = sorted({path.name for path in state.root.iterdir()} - ours)
    if strangers:
        raise MachineError(
            f"{state.root} holds things that are not of testhosts ({', '.join(strangers)}); "
            "is TESTHOSTS_DIR right? Nothing was removed"
        )
    for name in list_networks(state.root):
        TestHosts(name, state_dir=state.root, echo=echo).down()
    for name in sorted(ours):
        remove_tree(state.root / name)
    state.root.rmdir()
    echo(f"{state.root}: removed")
