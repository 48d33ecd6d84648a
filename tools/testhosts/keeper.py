"""Runs one host: starts systemd-nspawn, and starts it again when the host reboots.

With --keep-unit nspawn doesn't reboot a container itself: it exits with status 133 and leaves the restart to its
caller (systemd-nspawn@.service has RestartForceExitStatus=133). This is that caller, a process of its own that needs
nothing but the standard library: `python -I keeper.py SPEC`, where SPEC is the JSON file that `testhosts` writes.

As on a real machine, what was set in the kernel at run time (addresses, routes, nft rules) is gone after a reboot.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_REBOOT_STATUS = 133
# The fault that `testhosts partition` sets belongs to the network, not to the host: it outlives a reboot.
PARTITION_TABLE = "testhosts_partition"


def _log(text: str) -> None:
    print(f"[testhosts keeper] {text}", flush=True)


def _forget_nft_rules(netns: str) -> None:
    enter = ["nsenter", f"--net=/run/netns/{netns}", "nft"]
    listed = subprocess.run([*enter, "list", "tables"], capture_output=True, text=True, check=False)
    for row in listed.stdout.splitlines():
        family, name = row.split()[1:3]
        if name != PARTITION_TABLE:
            subprocess.run([*enter, "delete", "table", family, name], check=False)


def _fresh_cgroup(paths: list[str]) -> None:
    for path in paths:
        for directory, _, _ in os.walk(path, topdown=False):
            for _attempt in range(100):
                try:
                    Path(directory).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)  # the last processes of the host are on their way out
    Path(paths[0]).mkdir(parents=True, exist_ok=True)


def main(path: str) -> int:
    """Run the host until it is powered off or killed; returns nspawn's exit status (128 + signal for a signal)."""
    spec: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    # First of all: what clears a dead run finds a keeper by its control group.
    (Path(spec["keeper_cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
    procs = Path(spec["cgroups"][0]) / "cgroup.procs"
    while True:
        _fresh_cgroup(spec["cgroups"])
        _forget_nft_rules(spec["netns"])
        for argv in spec["network_commands"]:
            subprocess.run(argv, check=True)
        _log(f"starting {spec['name']}")
        started = time.monotonic()
        status = subprocess.Popen(
            # The shell moves itself into the host's control group, then becomes nspawn: no thread-unsafe hook needed.
            ["/bin/sh", "-c", 'echo 0 >"$1" && shift && exec "$@"', "sh", str(procs), *spec["argv"]],
            env=spec["environment"],
        ).wait()
        if status != _REBOOT_STATUS:
            _log(f"{spec['name']} ended with status {status}")
            return status if status >= 0 else 128 - status
        _log(f"{spec['name']} reboots")
        time.sleep(max(0.0, 1 - (time.monotonic() - started)))  # a host that reboots at once must not spin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
