#!/usr/bin/python
# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""Module ``gpu_cluster.platform.port_facts``."""

from __future__ import annotations

import ipaddress
import re
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: port_facts
short_description: The listening TCP sockets of a host, each with its process and its systemd unit
version_added: "0.1.0"
author: GPU Cluster Platform maintainers
description:
  - Reads C(/proc), so it needs no program, and it says the systemd unit, by which a service is told from a stranger.
    (M(community.general.listen_ports_facts) needs C(ss) or C(netstat) and doesn't know units.)
  - Needs root to see other users' processes. Changes nothing.
options:
  proc_root:
    description: Where procfs is mounted.
    type: path
    default: /proc
attributes:
  check_mode:
    description: Changes nothing, so it does the same in check mode.
    support: full
"""

EXAMPLES = r"""
- name: See who listens
  gpu_cluster.platform.port_facts:
  register: result
"""

RETURN = r"""
sockets:
  description: The sockets. Where the process can't be seen, C(pid), C(process) and C(unit) are null.
  returned: always
  type: list
  elements: dict
  sample: [{port: 80, address: "0.0.0.0", pid: 812, process: nginx, unit: nginx.service}]
"""

LISTEN = "0A"
# The innermost unit of a control group's path. Names have \x escapes for what isn't plain.
UNIT = re.compile(r"([^/]+\.(?:service|scope|socket))(?:/|$)")


def find_sockets(proc_root: Path) -> list[dict[str, Any]]:
    """Return the listening sockets, with their owners."""
    listening = []
    for name in ("tcp", "tcp6"):
        for line in read(proc_root / "net" / name).splitlines()[1:]:
            # sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode … (kernel docs: proc_net_tcp)
            fields = line.split()
            host, port = fields[1].split(":")
            if fields[3] == LISTEN:
                listening.append((int(port, 16), address(host), fields[9]))
    owners = find_owners(proc_root, {inode for _, _, inode in listening})
    sockets = []
    for number, where, inode in sorted(listening):
        pid = owners.get(inode)
        process = read(proc_root / str(pid) / "comm").strip() if pid else ""
        unit = unit_of(read(proc_root / str(pid) / "cgroup")) if pid else None
        sockets.append({"port": number, "address": where, "pid": pid, "process": process or None, "unit": unit})
    return sockets


def find_owners(proc_root: Path, inodes: set[str]) -> dict[str, int]:
    """Return the lowest process id that has each socket open: the one that opened it, not its children."""
    owners: dict[str, int] = {}
    for pid in sorted((int(path.name) for path in proc_root.glob("[0-9]*")), reverse=True):
        try:
            for descriptor in (proc_root / str(pid) / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    owners[target[8:-1]] = pid
        except OSError:  # the process or the descriptor has gone
            continue
    return owners


def address(text: str) -> str:
    """Return an address of ``/proc/net/tcp*``, which holds 32-bit words in the machine's byte order."""
    words = [bytes.fromhex(text[start : start + 8]) for start in range(0, len(text), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return str(ipaddress.ip_address(b"".join(words)))


def unit_of(cgroup: str) -> str | None:
    """Return the systemd unit in the text of ``/proc/<pid>/cgroup``, of either version of control groups."""
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd") and (found := UNIT.findall(path)):
            return str(found[-1])
    return None


def read(file: Path) -> str:
    """Return a file's text; nothing where it can't be read: IPv6 may be off, a process may have gone."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "proc_root": {"type": "path", "default": "/proc"},
        },
        supports_check_mode=True,
    )
    module.exit_json(sockets=find_sockets(Path(module.params["proc_root"])))


if __name__ == "__main__":
    main()
