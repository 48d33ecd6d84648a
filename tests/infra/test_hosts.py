"""Units, ports and files of every host."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

import pytest


def test_units_run_and_start_at_boot(host: Any, me: Any) -> None:
    states = {
        unit: tuple(host.run("systemctl %s %s", verb, unit).stdout.strip() for verb in ("is-active", "is-enabled"))
        for unit in me.units
    }
    assert states == dict.fromkeys(me.units, ("active", "enabled"))


def test_no_unit_has_failed(host: Any) -> None:
    failed = host.check_output("systemctl list-units --state=failed --plain --no-legend --no-pager").split("\n")
    assert [line.split()[0] for line in failed if line.strip()] == []


def test_the_firewall_is_loaded(host: Any, expected: Any) -> None:
    if not expected.raw["firewall_enabled"]:
        pytest.skip("llm_firewall_enabled is false")
    # Its unit is active whatever has become of its table since.
    rules = host.run("nft --stateless list chain inet llm input")
    assert rules.rc == 0, (
        f"{rules.stderr.strip()}: has something flushed it? systemctl reload llm-firewall brings it back"
    )
    assert "hook input" in rules.stdout
    assert rules.stdout.split()[-3:] == ["drop", "}", "}"]


@dataclass(frozen=True)
class Listener:
    """A socket that listens, of the cluster's services."""

    port: int
    address: str
    program: str

    @property
    def open_to_others(self) -> bool:
        return self.address == "*" or not ipaddress.ip_address(self.address).is_loopback


def listeners(host: Any, service_user: str) -> list[Listener]:
    """Sockets of the service user, of nginx and of stunnel; others are none of ours."""
    user = host.user(service_user)
    uid = user.uid if user.exists else -1
    found = []
    for line in host.check_output("ss --no-header --listening --tcp --numeric --processes --extended").splitlines():
        local = line.split()[3]
        owner = re.search(r" uid:(\d+)", line)
        program = re.search(r'users:\(\("([^"]*)"', line)
        name = program.group(1) if program else "?"
        if (owner is not None and int(owner.group(1)) == uid) or name in ("nginx", "stunnel4"):
            address, _, port = local.rpartition(":")
            address = address.strip("[]").partition("%")[0].removeprefix("::ffff:")
            wildcard = address in ("*", "0.0.0.0", "::")
            found.append(Listener(int(port), "*" if wildcard else address, name))
    return found


def test_every_expected_port_is_listened_on(host: Any, me: Any, expected: Any) -> None:
    ports = {listener.port for listener in listeners(host, expected.service_user)}
    assert sorted(set(me.ports) - ports) == [], "nothing listens on these ports"


def test_nothing_else_is_open_to_others(host: Any, me: Any, expected: Any) -> None:
    first, last = (int(port) for port in host.file("/proc/sys/net/ipv4/ip_local_port_range").content_string.split())

    def allowed(listener: Listener) -> bool:
        if me.ports.get(listener.port, False) or listener.port in me.allowed_ports:
            return listener.address in ("*", me.address)
        if any(low <= listener.port <= high for low, high in me.allowed_ranges):
            return True
        # Channels between replicas and between an engine's processes: Ray and torch.distributed take any free port and
        # have no option for it.
        is_engine = listener.program.startswith(("ray::", "VLLM::"))
        return is_engine and first <= listener.port <= last and listener.port not in me.ports

    wrong = [
        listener
        for listener in listeners(host, expected.service_user)
        if listener.open_to_others and not allowed(listener)
    ]
    assert wrong == []


def test_files_and_their_modes(host: Any, me: Any) -> None:
    wrong = {}
    for file in me.files:
        there, wanted = host.file(file.path), (oct(file.mode), file.user, file.group)
        found = (oct(there.mode), there.user, there.group) if there.exists else "missing"
        if found != wanted:
            wrong[file.path] = {"found": found, "wanted": wanted}
    assert wrong == {}


def test_rendered_files_say_that_they_are_managed(host: Any, me: Any) -> None:
    # One that is missing is the test above's to tell.
    unmarked = [
        file.path
        for file in me.files
        if file.managed
        and host.run("! test -e %s || head -n 5 %s | grep -q 'Ansible managed'", file.path, file.path).rc != 0
    ]
    assert unmarked == []
