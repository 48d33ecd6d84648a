"""The module ``port_facts``, on recorded files of /proc, which stand for a kernel's sockets, and on real ones."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from ansible_collections.gpu_cluster.platform.plugins.modules.port_facts import address, find_sockets, unit_of


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/nginx.service\n", "nginx.service"),
        ("0::/system.slice/ray-head.service/workers\n", "ray-head.service"),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/web.service\n", "web.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"),
        ("12:pids:/x\n1:name=systemd:/system.slice/nginx.service\n0::/\n", "nginx.service"),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_unit_of_a_control_group(cgroup: str, unit: str | None) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.skipif(sys.byteorder != "little", reason="the recorded addresses are of a little-endian machine")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("00000000000000000000000001000000", "::1"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
    ],
)
def test_address(text: str, expected: str) -> None:
    assert address(text) == expected


def test_recorded_sockets(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    counters = "00000000:00000000 00:00000000 00000000     0        0"
    (tmp_path / "net/tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        f"   0: 00000000:46A0 00000000:0000 0A {counters} 111 1 0 100 0 0 10 0\n"
        f"   1: 0100007F:0019 00000000:0000 0A {counters} 222 1 0 100 0 0 10 0\n"
        f"   2: 0100007F:46A0 0100007F:B5F4 01 {counters} 333 1 0 100 0 0 10 0\n"
    )
    for pid in (40, 9):  # a worker of nginx, and its master
        (tmp_path / str(pid) / "fd").mkdir(parents=True)
        (tmp_path / str(pid) / "fd/6").symlink_to("socket:[111]")
        (tmp_path / str(pid) / "comm").write_text("nginx\n")
        (tmp_path / str(pid) / "cgroup").write_text("0::/system.slice/nginx.service\n")
    assert find_sockets(tmp_path) == [
        {"port": 25, "address": "127.0.0.1", "pid": None, "process": None, "unit": None},
        {"port": 18080, "address": "0.0.0.0", "pid": 9, "process": "nginx", "unit": "nginx.service"},
    ]


def test_a_real_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [each for each in find_sockets(Path("/proc")) if each["port"] == port]
    assert [(each["address"], each["pid"]) for each in found] == [("127.0.0.1", os.getpid())]
