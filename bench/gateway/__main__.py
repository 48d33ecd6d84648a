"""The way through the gateway, against what a user would pick instead. See README.md."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report
from arms import ARMS, BARE, NGINX, OURS, OURS_DIRECT, Arm, Stand, hosts
from engines import Engine
from lab import ROOT, Lab, stop_all
from load import Load
from plan import CONCURRENCIES, LONG, WARM_UP, Cell, cells, seed

if TYPE_CHECKING:
    from collections.abc import Callable

_RESULTS = Path(__file__).parent / "results"
_STARTED = time.monotonic()


def _say(line: str) -> None:
    seconds = int(time.monotonic() - _STARTED)
    print(f"{seconds // 60:3d}:{seconds % 60:02d}  {line}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/gateway", description=__doc__)
    parser.add_argument("--arms", type=_names(ARMS), default=list(ARMS), help=f"of {','.join(ARMS)} (default: all)")
    parser.add_argument(
        "--engines", type=_names(["mock", "real"]), default=["mock", "real"], help="of mock,real (default: both)"
    )
    parser.add_argument(
        "--concurrencies",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        default=CONCURRENCIES,
        help="requests in flight (default: 1,8,32,128)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of the mock engine (default: 3)")
    parser.add_argument("--real-rounds", type=int, default=2, help="of the real engine (default: 2)")
    parser.add_argument("--full", action="store_true", help="every combination of cells, see README.md")
    parser.add_argument("--ttft-ms", type=float, default=50, help="of the mock engine (default: 50)")
    parser.add_argument("--tpot-ms", type=float, default=20, help="of the mock engine (default: 20)")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="directory (default: bench/gateway/results)")
    parser.add_argument("--keep", action="store_true", help="leave the hosts up, for a profile or the next run")
    return parser.parse_args()


def _names(allowed: list[str] | dict[str, Arm]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(allowed)}")
        # In the order of the report.
        return [name for name in allowed if name in text.split(",")]

    return names


class Benchmark:
    """One run.

    Args:
        options: of the command line.
        data: what is written as raw.json, filled as it comes.
    """

    def __init__(self, options: argparse.Namespace, data: dict[str, Any]) -> None:
        self._options = options
        self._data = data
        # Every ratio is one to the bare engine.
        self._arms = [ARMS[name] for name in ARMS if name in options.arms or name == BARE.name]
        self._lab = Lab(hosts(self._arms), _say)
        self._stand = Stand(self._lab, self._arms, "real" in options.engines, _say)

    def run(self) -> None:
        """Bring everything up, measure, take everything down."""
        with ExitStack() as stack:
            stack.callback(self._clean_up)
            self._lab.up()
            self._in_all_hosts("installing in", self._stand.install, hosts(self._arms))
            self._data["versions"] |= self._stand.versions()
            load = stack.enter_context(Load(self._lab))
            for name in self._options.engines:
                engine = Engine(name, self._options.ttft_ms, self._options.tpot_ms)
                self._lab.thaw_all()
                self._in_all_hosts(
                    f"engine {name}: deploying in",
                    partial(self._stand.deploy, engine=engine),
                    hosts(self._arms)[1:],
                )
                rounds = self._options.rounds if name == "mock" else self._options.real_rounds
                for number in range(rounds):
                    self._round(load, name, number, rounds)

    def _clean_up(self) -> None:
        # A second Ctrl-C would leave the half of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop_all()
        if not self._options.keep:
            self._lab.down()

    def _in_all_hosts(self, what: str, task: Callable[[str], None], names: list[str]) -> None:
        _say(f"{what} {', '.join(names)}")
        pool = ThreadPoolExecutor(len(names))
        try:
            for running in as_completed([pool.submit(task, name) for name in names]):
                running.result()
        finally:
            # Where one fails, the others end when the hosts do.
            pool.shutdown(wait=False, cancel_futures=True)

    def _round(self, load: Load, engine: str, number: int, rounds: int) -> None:
        # Each arm begins a round in its turn, so that none is always the one after a certain other.
        turn = number % len(self._arms)
        for arm in self._arms[turn:] + self._arms[:turn]:
            self._stand.wake(arm)
            load.run(arm, WARM_UP, seed("warm", engine, number, arm.name))
            todo: list[tuple[Arm, Cell]] = [
                (arm, cell) for cell in cells(engine, self._options.concurrencies, self._options.full)
            ]
            if engine == "mock" and arm in (BARE, NGINX, OURS):
                todo.append((arm, LONG))
            if engine == "mock" and arm is OURS:
                todo.append((OURS_DIRECT, LONG))
            for way, cell in todo:
                record = self._measure(load, engine, number, way, cell)
                self._data["cells"].append(record)
                _say(f"{engine} {number + 1}/{rounds}  {report.progress(record)}")

    def _measure(self, load: Load, engine: str, number: int, arm: Arm, cell: Cell) -> dict[str, Any]:
        meter = self._stand.meter(arm)
        before = meter.cpu()
        result = load.run(arm, cell, seed(engine, number, arm.name, cell.name))
        cpu = meter.cpu().since(before)
        rss, pss = meter.memory()
        return {
            "engine": engine,
            "round": number,
            "arm": arm.name,
            **asdict(cell),
            **result,
            "cpu": asdict(cpu),
            "rss_mib": round(rss, 1),
            "pss_mib": round(pss, 1),
        }


def _machine() -> dict[str, Any]:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    memory = Path("/proc/meminfo").read_text().split()[1]
    model = next((row.split(":", 1)[1].strip() for row in cpus if row.startswith("model name")), platform.machine())
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / (1 << 20), 1),
        "cpu": model,
        "kernel": platform.release(),
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    # The results of an earlier run are no change of what is measured.
    changed = git("status", "--porcelain", "--", ".", ":!bench/gateway/results")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (", with changes" if changed else "")


def _shown(arguments: list[str]) -> list[str]:
    """The arguments without the directory of the results, which is this machine's."""
    at = next((i for i, argument in enumerate(arguments) if argument.split("=")[0] == "--results"), None)
    return arguments if at is None else arguments[:at] + arguments[at + (1 if "=" in arguments[at] else 2) :]


def main() -> int:
    """Run the benchmark; 1 where it failed or was interrupted: what was measured until then is in the report."""
    options = _options()
    # As Ctrl-C: everything that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    data: dict[str, Any] = {
        "command": shlex.join(["PYTHONPATH=tools", ".venv/bin/python", "bench/gateway", *_shown(sys.argv[1:])]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": {"project": _commit()},
        "mock": {"ttft_ms": options.ttft_ms, "tpot_ms": options.tpot_ms},
        "complete": False,
        "cells": [],
    }
    try:
        Benchmark(options, data).run()
        data["complete"] = True
    except KeyboardInterrupt:
        _say("interrupted")
    except Exception as error:  # said in a line, and what was measured is still written
        _say(f"failed: {error}")
    data["seconds"] = round(time.monotonic() - _STARTED)
    if data["cells"]:
        report.write(options.results, data)
        _say(f"written to {os.path.relpath(options.results)}")
    return 0 if data["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
