"""The rules as text, and as the kernel takes them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Evaluate, Render

SOCKETS: dict[str, Any] = {
    "sockets": [
        {"port": 22, "address": "0.0.0.0", "process": "sshd", "unit": "ssh.service"},
        {"port": 22, "address": "::", "process": "sshd", "unit": "ssh.service"},
        {"port": 2222, "address": "192.0.2.1", "process": "sshd", "unit": "ssh.service"},
        {"port": 111, "address": "0.0.0.0", "process": "systemd", "unit": "init.scope"},
        {"port": 6010, "address": "127.0.0.1", "process": "sshd", "unit": "session-1.scope"},
        {"port": 7000, "address": "0.0.0.0", "process": "sshd", "unit": "session-1.scope"},
        {"port": 8022, "address": "::1", "process": "sshd", "unit": "ssh.service"},
        {"port": 18000, "address": "0.0.0.0", "process": "haproxy", "unit": "ray-head.service"},
        {"port": 9, "address": "0.0.0.0", "process": None, "unit": None},
    ]
}
NO_SOCKET = {"stdout": "ActiveState=inactive\nListen=[::]:2223 (Stream)"}
SOCKET = {"stdout": "ActiveState=active\nListen=0.0.0.0:2022 (Stream)\nListen=[::]:2023 (Stream)"}
EVERYTHING: dict[str, Any] = {
    "firewall_service_ports": [18080, 18443],
    "firewall_open_tcp_ports": [9100, "9000-9199", "18080"],
    "firewall_service_udp_ports": [18443],
    "firewall_open_udp_ports": [51820],
    "firewall_ssh_ports": ["2200-2300"],
    "firewall_peer_addresses": ["10.0.0.1", "10.0.0.2", "2001:db8::1"],
    "firewall_trusted_networks": ["10.0.0.0/24", "2001:db8:1::/48"],
    "firewall_trusted_interfaces": ["docker0", "br-*"],
}

nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
no_nft = "no nft here: apt-get install nftables" if nft is None else "nft needs root" if os.geteuid() != 0 else ""
if not no_nft and subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0:
    no_nft = "no network namespace can be made here"


def rules(render: Render, **variables: Any) -> str:
    return render("firewall", "wanted.nft.j2", __firewall_sockets=SOCKETS, __firewall_ssh_socket=NO_SOCKET, **variables)


def elements(text: str, name: str) -> str:
    """The elements of a set, as they stand there."""
    body = text[text.index(f"\tset {name} ") :]
    body = body[: body.index("}\n")]
    return body.partition("elements = { ")[2].strip(" \n\t}")


def test_files_say_that_they_are_managed(render: Render) -> None:
    for template in (Path(__file__).parents[2] / "roles/firewall/templates").iterdir():
        text = render("firewall", template.name, __firewall_sockets=SOCKETS, __firewall_ssh_socket=NO_SOCKET)
        head = "\n".join(text.splitlines()[:5])
        assert "Ansible managed" in head
        assert "role: firewall" in head


def test_ssh_is_open_where_sshd_listens(evaluate: Evaluate) -> None:
    def ports(**variables: Any) -> Any:
        given: dict[str, Any] = {"__firewall_sockets": SOCKETS, "__firewall_ssh_socket": NO_SOCKET}
        return evaluate("firewall", "{{ __firewall_ssh_ports }}", **(given | variables))

    assert ports() == ["22", "2222"]
    assert ports(ansible_port=2022) == ["2022", "22", "2222"]
    assert ports(firewall_ssh_ports=["2200-2300", 22]) == ["22", "2200-2300", "2222"]
    assert ports(__firewall_sockets={"sockets": []}) == ["22"]
    assert ports(__firewall_sockets={"sockets": []}, __firewall_ssh_socket=SOCKET) == ["2022", "2023", "22"]


def test_addresses_are_sorted_by_kind(render: Render) -> None:
    text = rules(render, **EVERYTHING)
    assert elements(text, "trusted4") == "10.0.0.1, 10.0.0.2, 10.0.0.0/24"
    assert elements(text, "trusted6") == "2001:db8::1, 2001:db8:1::/48"


def test_nothing_but_ssh_is_open_by_itself(render: Render) -> None:
    text = rules(render)
    assert elements(text, "ssh") == "22, 2222"
    assert [elements(text, name) for name in ("open_tcp", "open_udp", "trusted4", "trusted6")] == [""] * 4


def test_the_last_word_is_drop_and_only_input_is_hooked(render: Render) -> None:
    lines = [line.strip() for line in rules(render).splitlines()]
    assert lines[-3:] == ["counter drop", "}", "}"]
    assert [line for line in lines if "hook" in line] == ["type filter hook input priority filter; policy accept;"]


@pytest.mark.skipif(bool(no_nft), reason=no_nft)
@pytest.mark.parametrize("variables", [{}, EVERYTHING, {"firewall_trusted_interfaces": []}])
def test_the_kernel_takes_the_rules(render: Render, tmp_path: Path, variables: dict[str, Any]) -> None:
    file = tmp_path / "rules.nft"
    file.write_text(rules(render, **variables))
    # Twice: what is there already is replaced.
    script = f"{nft} --check --file {file} && {nft} --file {file} && {nft} --file {file} && {nft} list ruleset"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("table inet llm") == 1
