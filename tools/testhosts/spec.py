"""What a network of test hosts is to look like, and the names that follow from it."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import SpecError

# RFC 2544 sets this block aside for tests of network devices: no real network uses it.
TEST_BLOCK = ipaddress.IPv4Network("198.18.0.0/15")
DEFAULT_SUITE = "bookworm"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_LAYER_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,30}")


def check_name(value: str, what: str) -> str:
    """Check the name of a network or a host: a DNS label of at most 40 characters.

    Raises:
        SpecError: it is not one.
    """
    if not _NAME.fullmatch(value):
        raise SpecError(
            f"{what} {value!r} is not allowed: use lower-case letters, digits and inner dashes, at most 40 characters"
        )
    return value


def check_layer_key(value: str) -> str:
    """Check the key of a layer, which becomes the name of a directory.

    Raises:
        SpecError: it has characters that a key can't have.
    """
    if not _LAYER_KEY.fullmatch(value):
        raise SpecError(
            f"layer key {value!r} is not allowed: use letters, digits, dots, dashes and underscores, "
            "beginning with a letter or a digit, at most 100 characters"
        )
    return value


@dataclass(frozen=True)
class Host:
    """One host: its hostname and its address inside the network's subnet."""

    name: str
    address: str

    @classmethod
    def parse(cls, text: str) -> Host:
        """Read `HOST=ADDRESS`.

        Raises:
            SpecError: it is not of that form.
        """
        name, equals, address = text.partition("=")
        if not equals:
            raise SpecError(f"--host {text!r} is not HOST=ADDRESS, for example node1=198.18.10.11")
        check_name(name, "host name")
        try:
            return cls(name, str(ipaddress.IPv4Address(address)))
        except ValueError as error:
            raise SpecError(f"--host {text!r}: {address!r} is not an IPv4 address") from error


@dataclass(frozen=True)
class Bind:
    """A directory or file of the machine that every host sees read-only."""

    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Bind:
        """Read `SRC:DST`, both absolute; the source must exist.

        Raises:
            SpecError: it is not of that form, or there is no such source.
        """
        source, colon, target = text.partition(":")
        if not colon or ":" in target or not source.startswith("/") or not target.startswith("/"):
            raise SpecError(f"--bind-ro {text!r} is not SRC:DST with two absolute paths without colons")
        if not Path(source).exists():
            raise SpecError(f"--bind-ro {text!r}: {source} does not exist on this machine")
        return cls(source, target)


@dataclass(frozen=True)
class Publish:
    """A TCP port of the machine's loopback that leads to a port of a host."""

    port: int
    host: str
    host_port: int

    @classmethod
    def parse(cls, text: str) -> Publish:
        """Read `127.0.0.1:PORT=HOST:PORT`.

        Raises:
            SpecError: it is not of that form; only the loopback address can be published on.
        """
        match = re.fullmatch(r"127\.0\.0\.1:(\d{1,5})=([a-z0-9-]+):(\d{1,5})", text)
        if not match or not all(0 < int(port) < 65536 for port in (match[1], match[3])):
            raise SpecError(
                f"--publish {text!r} is not 127.0.0.1:PORT=HOST:PORT, for example 127.0.0.1:8443=node1:443 "
                "(test hosts are published on the loopback only)"
            )
        return cls(int(match[1]), match[2], int(match[3]))


@dataclass(frozen=True)
class NetworkSpec:
    """A network of hosts.

    Attributes:
        name: tells it apart from the machine's other networks.
        subnet: an IPv4 network in CIDR form; its first address is the gateway (the bridge).
        hosts: at least one.
        suite: the Debian release of the base tree.
        layers: keys of committed layers, the first at the bottom.
        binds: read-only bind mounts of every host.
        publishes: loopback ports of the machine.
        allow_any_subnet: accept a subnet outside 198.18.0.0/15.

    Raises:
        SpecError: on construction, for anything that doesn't fit together.
    """

    name: str
    subnet: str
    hosts: tuple[Host, ...]
    suite: str = DEFAULT_SUITE
    layers: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = ()
    publishes: tuple[Publish, ...] = ()
    allow_any_subnet: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "network name")
        if not _SUITE.fullmatch(self.suite):
            raise SpecError(f"suite {self.suite!r} is not the name of a Debian release, such as bookworm")
        for key in self.layers:
            check_layer_key(key)
        network = self.network
        if not 16 <= network.prefixlen <= 29:
            raise SpecError(f"subnet {self.subnet} must have a prefix between /16 and /29, usually /24")
        if not self.allow_any_subnet and not network.subnet_of(TEST_BLOCK):
            raise SpecError(
                f"subnet {self.subnet} is outside {TEST_BLOCK}, the block set aside for tests; choose one inside it, "
                "or pass --allow-any-subnet if you know that no real network uses it"
            )
        if not self.hosts:
            raise SpecError(f"network {self.name}: name at least one host with --host HOST=ADDRESS")
        _refuse_repeats("host name", [host.name for host in self.hosts])
        _refuse_repeats("host address", [host.address for host in self.hosts])
        _refuse_repeats("published port", [str(publish.port) for publish in self.publishes])
        _refuse_repeats("layer", list(self.layers))
        taken = (network.network_address, network.broadcast_address, ipaddress.IPv4Address(self.gateway))
        for host in self.hosts:
            address = ipaddress.IPv4Address(host.address)
            if address not in network or address in taken:
                raise SpecError(
                    f"host {host.name}: {address} is not a free address of {network} ({self.gateway} is the gateway)"
                )
        names = {host.name for host in self.hosts}
        for publish in self.publishes:
            if publish.host not in names:
                raise SpecError(
                    f"--publish 127.0.0.1:{publish.port}: there is no host {publish.host!r} among {sorted(names)}"
                )

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The subnet as a network.

        Raises:
            SpecError: it is not one.
        """
        try:
            return ipaddress.IPv4Network(self.subnet)
        except ValueError as error:
            raise SpecError(f"subnet {self.subnet!r} is not an IPv4 network such as 198.18.10.0/24: {error}") from error

    @property
    def gateway(self) -> str:
        """The bridge's address: the subnet's first."""
        return str(self.network.network_address + 1)

    def host(self, name: str) -> Host:
        """The host of that name.

        Raises:
            SpecError: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise SpecError(f"network {self.name} has no host {name!r}; it has: {known}")

    def to_json(self) -> dict[str, Any]:
        """The spec as plain data, for the state file."""
        return {
            "name": self.name,
            "subnet": self.subnet,
            "hosts": [[host.name, host.address] for host in self.hosts],
            "suite": self.suite,
            "layers": list(self.layers),
            "binds": [[bind.source, bind.target] for bind in self.binds],
            "publishes": [[publish.port, publish.host, publish.host_port] for publish in self.publishes],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkSpec:
        """The inverse of `to_json`; the subnet was accepted when it was written."""
        return cls(
            name=data["name"],
            subnet=data["subnet"],
            hosts=tuple(Host(*row) for row in data["hosts"]),
            suite=data["suite"],
            layers=tuple(data["layers"]),
            binds=tuple(Bind(*row) for row in data["binds"]),
            publishes=tuple(Publish(*row) for row in data["publishes"]),
            allow_any_subnet=True,
        )


def _refuse_repeats(what: str, values: list[str]) -> None:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise SpecError(f"{what} given more than once: {', '.join(repeated)}")


@dataclass(frozen=True)
class Names:
    """The names that a network has on the machine.

    They derive from the network's name and the state directory, through a hash: names that share a prefix, and
    two checkouts that use the same name, stay apart. Interface names fit the kernel's 15 characters.
    """

    network: str
    state_dir: str

    @property
    def tag(self) -> str:
        """Six hexadecimal digits."""
        return hashlib.sha256(f"{self.state_dir}\0{self.network}".encode()).hexdigest()[:6]

    @property
    def bridge(self) -> str:
        """The bridge between the hosts."""
        return f"th{self.tag}br"

    @property
    def table(self) -> str:
        """The nft table with the masquerade rule."""
        return f"testhosts_{self.tag}"

    @property
    def cgroup(self) -> str:
        """The cgroup that holds everything of this network, below the cgroup2 mount."""
        return f"testhosts-{self.tag}"

    def veth(self, spec: NetworkSpec, host: Host) -> str:
        """The machine's end of a host's veth pair."""
        offset = int(ipaddress.IPv4Address(host.address)) - int(spec.network.network_address)
        return f"th{self.tag}v{offset}"

    @property
    def veth_prefix(self) -> str:
        """What every veth of this network begins with."""
        return f"th{self.tag}v"

    def netns(self, host: str) -> str:
        """A host's network namespace."""
        return f"{self.netns_prefix}{host}"

    @property
    def netns_prefix(self) -> str:
        """What every network namespace of this network begins with."""
        return f"th{self.tag}-"

    def machine(self, host: str) -> str:
        """What systemd-nspawn calls a host."""
        return f"th{self.tag}-{host}"
