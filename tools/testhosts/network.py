"""The network of the hosts: a bridge, masquerading, one namespace and one veth pair a host; and faults in it."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MachineError, SpecError
from .keeper import PARTITION_TABLE
from .shell import find_program, run

if TYPE_CHECKING:
    from .spec import Host, Names, NetworkSpec

_NETNS = Path("/run/netns")
# What this package did to the machine as a whole; /run is empty after a boot, as the kernel's settings are.
_MARKS = Path("/run/testhosts")
_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_KERNEL_HINT = (
    "if the text above says that something is not supported, the kernel lacks bridges, veth pairs or nft NAT "
    "(modules bridge, veth, nft_masq): use a kernel that has them"
)


def masquerade_rules(table: str, subnet: str) -> str:
    """nft commands that put the masquerade rule in place, whatever was in the table before."""
    return (
        f"add table ip {table}\n"
        f"flush table ip {table}\n"
        f"add chain ip {table} postrouting {{ type nat hook postrouting priority 100; }}\n"
        f"add rule ip {table} postrouting ip saddr {subnet} ip daddr != {subnet} masquerade\n"
    )


def partition_rules() -> str:
    """nft commands that drop everything which a host sends or gets, except on its loopback."""
    rows = [f"add table inet {PARTITION_TABLE}", f"flush table inet {PARTITION_TABLE}"]
    for hook, match in (("input", "iif"), ("output", "oif"), ("forward", None)):
        rows.append(
            f"add chain inet {PARTITION_TABLE} {hook} {{ type filter hook {hook} priority -500; policy drop; }}"
        )
        if match:
            rows.append(f'add rule inet {PARTITION_TABLE} {hook} {match} "lo" accept')
    return "\n".join(rows) + "\n"


def require_free_subnet(spec: NetworkSpec, names: Names) -> None:
    """Check that no other interface of the machine has addresses or routes in the subnet.

    Raises:
        MachineError: one has.
    """
    for route in json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"]).stdout or "[]"):
        destination = route.get("dst", "default")
        if destination == "default" or route.get("dev") in (names.bridge, None):
            continue
        if ipaddress.ip_network(destination, strict=False).prefixlen < 8:
            continue  # a VPN's half-default route holds everything
        if ipaddress.ip_network(destination, strict=False).overlaps(spec.network):
            raise MachineError(
                f"subnet {spec.subnet} is in use on this machine (route {destination} on {route['dev']}); choose "
                "another /24 of 198.18.0.0/15, or take down the network that has it (`testhosts list`)"
            )


def ensure_network(spec: NetworkSpec, names: Names) -> bool:
    """Make the bridge, the masquerade rule and forwarding; True if the bridge was not there before.

    Raises:
        MachineError: forwarding can't be turned on.
        CommandError: the kernel refused.
    """
    new = not _link_exists(names.bridge)
    if new:
        run(["ip", "link", "add", names.bridge, "type", "bridge"], hint=_KERNEL_HINT)
    run(["ip", "addr", "replace", f"{spec.gateway}/{spec.network.prefixlen}", "dev", names.bridge])
    run(["ip", "link", "set", names.bridge, "up"])
    run(["nft", "-f", "-"], stdin=masquerade_rules(names.table, spec.subnet), hint=_KERNEL_HINT)
    _forward_on(names)
    _firewall(names, open_it=True)
    return new


def remove_network(names: Names) -> None:
    """Remove what the network has on the machine, as far as it is there: namespaces, veth pairs, bridge, rules."""
    if _NETNS.is_dir():
        for path in sorted(_NETNS.glob(f"{names.netns_prefix}*")):
            run(["ip", "netns", "delete", path.name], check=False)
            path.unlink(missing_ok=True)  # a file that a cut-off `ip netns add` left without a mount
    for link in json.loads(run(["ip", "-j", "link", "show"]).stdout or "[]"):
        if link["ifname"].startswith(names.veth_prefix):
            run(["ip", "link", "delete", link["ifname"]], check=False)  # may be gone already, with its namespace
    _firewall(names, open_it=False)
    if _link_exists(names.bridge):
        run(["ip", "link", "delete", names.bridge])
    run(["nft", "delete", "table", "ip", names.table], check=False)  # there may be none
    _forward_off(names)


def ensure_host_network(spec: NetworkSpec, names: Names, host: Host) -> list[list[str]]:
    """Make a host's namespace and veth pair; returns the commands that configure them at each boot."""
    netns, veth = names.netns(host.name), names.veth(spec, host)
    usable = run(["ip", "-n", netns, "link", "show", "eth0"], check=False).returncode == 0
    if not (usable and _link_exists(veth)):
        remove_host_network(spec, names, host)
        run(["ip", "netns", "add", netns], hint=_KERNEL_HINT)
        run(["ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", netns], hint=_KERNEL_HINT)
    run(["ip", "link", "set", veth, "master", names.bridge])
    run(["ip", "link", "set", veth, "up"])
    ip = [find_program("ip") or "ip", "-n", netns]
    return [
        [*ip, "link", "set", "eth0", "down"],  # its routes go with it
        [*ip, "addr", "flush", "dev", "eth0"],
        [*ip, "link", "set", "lo", "up"],
        [*ip, "addr", "replace", f"{host.address}/{spec.network.prefixlen}", "dev", "eth0"],
        [*ip, "link", "set", "eth0", "up"],
        [*ip, "route", "replace", "default", "via", spec.gateway],
    ]


def remove_host_network(spec: NetworkSpec, names: Names, host: Host) -> None:
    """Remove a host's namespace and veth pair, if there are any."""
    netns, veth = names.netns(host.name), names.veth(spec, host)
    if (_NETNS / netns).exists():
        run(["ip", "netns", "delete", netns], check=False)
        (_NETNS / netns).unlink(missing_ok=True)
    if _link_exists(veth):
        run(["ip", "link", "delete", veth], check=False)


def partition(names: Names, host: str) -> None:
    """Cut a host off: it drops every packet except its loopback's.

    Raises:
        CommandError: the host has no namespace, or nft refused.
    """
    run(_inside(names, host, "nft", "-f", "-"), stdin=partition_rules())


def heal(names: Names, host: str) -> None:
    """End a partition, if there is one."""
    run(_inside(names, host, "nft", "delete", "table", "inet", PARTITION_TABLE), check=False)


def set_link(spec: NetworkSpec, names: Names, host: Host, up: bool) -> None:
    """Pull a host's cable, or plug it in: the machine's end of the veth pair goes down or up."""
    run(["ip", "link", "set", names.veth(spec, host), "up" if up else "down"])


def _inside(names: Names, host: str, *argv: str) -> list[str]:
    path = _NETNS / names.netns(host)
    if not path.exists():
        raise SpecError(f"host {host} has no network namespace {path.name}; is it up?")
    return ["nsenter", f"--net={path}", *argv]


def _link_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)  # /sys may show another namespace's devices
    except OSError:
        return False
    return True


def _forward_on(names: Names) -> None:
    (_MARKS / "networks").mkdir(parents=True, exist_ok=True)
    (_MARKS / "networks" / names.tag).touch()
    if _IP_FORWARD.read_text().strip() != "1":
        (_MARKS / "turned-ip-forward-on").touch()
        try:
            _IP_FORWARD.write_text("1")
        except OSError as error:
            raise MachineError(f"cannot turn on {_IP_FORWARD}: {error}; hosts could not reach packages") from error


def _forward_off(names: Names) -> None:
    """Turn forwarding off if this package turned it on and this was the last network."""
    networks, turned_on = _MARKS / "networks", _MARKS / "turned-ip-forward-on"
    if not networks.is_dir():
        return
    (networks / names.tag).unlink(missing_ok=True)
    if not any(networks.iterdir()):
        if turned_on.exists():
            _IP_FORWARD.write_text("0")
            turned_on.unlink()
        networks.rmdir()
        _MARKS.rmdir()


def _firewall(names: Names, open_it: bool) -> None:
    """Let the bridge's packets pass where the machine's firewall forwards nothing by default (Docker, ufw)."""
    if find_program("iptables") is None:
        return
    rules = run(["iptables", "-w", "-S", "FORWARD"], check=False).stdout.splitlines()
    for direction in ("-i", "-o"):
        rule = [direction, names.bridge, "-m", "comment", "--comment", "testhosts", "-j", "ACCEPT"]
        present = any(f"{direction} {names.bridge} " in row for row in rules)
        if open_it and not present and "-P FORWARD DROP" in rules:
            run(["iptables", "-w", "-I", "FORWARD", *rule])
        elif not open_it and present:
            run(["iptables", "-w", "-D", "FORWARD", *rule], check=False)
