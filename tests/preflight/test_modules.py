"""The modules, on recorded trees of /sys and /proc: they stand for the hardware and for a kernel's sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.gpu_cluster.platform.plugins.modules.gpu_facts import find_driver, find_gpus
from ansible_collections.gpu_cluster.platform.plugins.modules.port_facts import address, find_sockets, unit_of

from .conftest import REPO

# A DGX H100's first GPU, its NVSwitch (a bridge), a desktop card with its audio function, and Intel's display.
PCI = {
    "0000:1b:00.0": ("0x10de", "0x2330", "0x030200"),
    "0000:07:00.0": ("0x10de", "0x22a3", "0x068000"),
    "0000:01:00.0": ("0x10de", "0x2684", "0x030000"),
    "0000:01:00.1": ("0x10de", "0x22ba", "0x040300"),
    "0000:00:02.0": ("0x8086", "0x4680", "0x030000"),
}
OPEN_DRIVER = """\
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16-I3-B03-02-3)
GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)
"""
CLOSED_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.216.01  Tue Sep 17 16:54:04 UTC 2024\n"


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A sysfs with the devices of PCI."""
    for name, values in PCI.items():
        device = tmp_path / "bus/pci/devices" / name
        device.mkdir(parents=True)
        for file, value in zip(("vendor", "device", "class"), values, strict=True):
            (device / file).write_text(f"{value}\n")
    return tmp_path


def test_gpus_are_display_controllers_of_nvidia(sysfs: Path) -> None:
    assert find_gpus(sysfs) == [
        {"pci_address": "0000:01:00.0", "device_id": "0x2684"},
        {"pci_address": "0000:1b:00.0", "device_id": "0x2330"},
    ]


def test_no_pci_bus_is_no_gpu(tmp_path: Path) -> None:
    assert find_gpus(tmp_path) == []


@pytest.mark.parametrize(("text", "version"), [(OPEN_DRIVER, "570.86.15"), (CLOSED_DRIVER, "535.216.01"), ("", None)])
def test_driver_version(tmp_path: Path, text: str, version: str | None) -> None:
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text(text)
    assert find_driver(tmp_path) == version


def test_no_driver(tmp_path: Path) -> None:
    assert find_driver(tmp_path) is None


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


def test_modules_run_as_ansible_runs_them(sysfs: Path) -> None:
    arguments = json.dumps({"ANSIBLE_MODULE_ARGS": {"sysfs_root": str(sysfs), "proc_root": str(sysfs)}})
    done = subprocess.run(
        [sys.executable, REPO / "plugins/modules/gpu_facts.py", arguments], check=False, capture_output=True, text=True
    )
    assert [gpu["device_id"] for gpu in json.loads(done.stdout)["ansible_facts"]["llm_gpus"]] == ["0x2684", "0x2330"], (
        done
    )
