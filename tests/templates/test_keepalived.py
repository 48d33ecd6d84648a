"""keepalived.conf, as text and as keepalived reads it where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Render

PROXIES = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
FACTS = {
    "interfaces": ["lo"],
    "lo": {"device": "lo", "active": True, "ipv4": {"address": "192.0.2.1", "netmask": "255.255.255.0"}},
}
keepalived = shutil.which("keepalived", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def config(render: Render, own: str = PROXIES[0], **variables: Any) -> list[str]:
    given: dict[str, Any] = {
        "keepalived_address": "192.0.2.10",
        "keepalived_own_address": own,
        "keepalived_proxy_addresses": PROXIES,
        "ansible_facts": FACTS,
    }
    text = render("keepalived", "keepalived.conf.j2", **(given | variables))
    return [line.strip() for line in text.splitlines()]


def test_files_say_that_they_are_managed(render: Render) -> None:
    head = config(render)[:5]
    assert "# Ansible managed" in head
    assert "# role: keepalived" in head  # by this line the role knows its own file


def test_the_first_proxy_comes_first(render: Render) -> None:
    assert [line for own in PROXIES for line in config(render, own) if line.startswith("priority")] == [
        "priority 200",
        "priority 199",
        "priority 198",
    ]


def test_the_peers_are_the_others(render: Render) -> None:
    lines = config(render, PROXIES[1])
    start = lines.index("unicast_peer {")
    assert lines[start + 1 : lines.index("}", start)] == [PROXIES[0], PROXIES[2]]
    assert f"unicast_src_ip {PROXIES[1]}" in lines


def test_the_interface_is_the_one_with_the_network_unless_it_is_given(render: Render) -> None:
    assert "interface lo" in config(render)
    assert "interface bond0" in config(render, keepalived_interface="bond0")


def test_nobody_takes_the_address_back(render: Render) -> None:
    lines = config(render)
    assert "state BACKUP" in lines
    assert "nopreempt" in lines


@pytest.mark.skipif(keepalived is None, reason="no keepalived here: apt-get install keepalived")
def test_keepalived_takes_it(render: Render, tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    # The user of the checks is the role's, on the hosts.
    file.write_text("\n".join(config(render)).replace("script_user keepalived_script", "script_user root"))
    done = subprocess.run(
        ["setsid", "--wait", str(keepalived), "--config-test", f"--use-file={file}"], capture_output=True, text=True
    )
    # 143: before 2.2.8 it ends itself after a test with a check in it.
    assert (done.returncode in (0, 143), done.stdout + done.stderr) == (True, "")
