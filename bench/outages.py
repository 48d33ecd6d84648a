"""What a user sees when a part of the running demo is killed: seconds without an answer, fault by fault.

One command, as root, with the demo up: ``PYTHONPATH=tools .venv/bin/python bench/outages.py``. It asks the proxy for a
short chat four times a second, kills one thing at a time with SIGKILL, and prints a Markdown table. An outage is the
time from the first request that failed to the first one that was answered after the last failure.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from testhosts import TestHosts

_MODEL = "Qwen/Qwen2.5-32B-Instruct"
_PERIOD_S = 0.25
_REQUEST_TIMEOUT_S = 5.0
# Seconds of answers in a row after which the service counts as back; a host takes half a minute to begin its reboot.
_QUIET_S = 60.0
_GIVE_UP_S = 300.0


@dataclass
class Watch:
    """Asks for chats until it is told to stop.

    Attributes:
        url: of the proxy.
        failed: when each failed request began, and what was wrong with it.
        answered: when each answered request began.
    """

    url: str
    failed: list[tuple[float, str]] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Ask until ``stop`` is set."""
        body = {"model": _MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
        with httpx.Client(timeout=_REQUEST_TIMEOUT_S) as client:
            while not stop.wait(_PERIOD_S):
                began = time.monotonic()
                try:
                    status = str(client.post(f"{self.url}/v1/chat/completions", json=body).status_code)
                except httpx.HTTPError as error:
                    status = type(error).__name__
                if status == "200":
                    self.answered.append(began)
                else:
                    self.failed.append((began, status))

    def wait_until_quiet(self) -> bool:
        """Wait until there was no failure for a while; False when that takes too long."""
        began = time.monotonic()
        while time.monotonic() - began < _GIVE_UP_S:
            time.sleep(1)
            since = max([began, *(at for at, _ in self.failed)])
            if time.monotonic() - since > _QUIET_S and self.answered and self.answered[-1] > since:
                return True
        return False

    def outage(self) -> float:
        """Seconds from the first failure to the first answer after the last one; 0 where nothing failed."""
        if not self.failed:
            return 0.0
        last = self.failed[-1][0]
        return next(at for at in self.answered if at > last) - self.failed[0][0]


# What is killed, on which host, and how. No pattern matches the shell that carries it.
_REPLICA = "pgrep --full '^ray::ServeReplica:model-demo-tiny-qwen2:'"
_FAULTS = {
    "raylet of the worker": ("worker1", "kill -9 $(pgrep --oldest --full 'raylet/raylet ' --uid llm)"),
    "engine of the replica": ("worker1", f"kill -9 $(pgrep --parent $({_REPLICA}) --full '^VLLM::EngineCore')"),
    "replica": ("worker1", f"kill -9 $({_REPLICA})"),
    "Serve's proxy on the worker": ("worker1", "kill -9 $(pgrep --newest --full 'haproxy[.]cfg')"),
    "nginx, master": ("proxy1", "kill -9 $(systemctl show --property MainPID --value nginx)"),
    "every process of the head": ("head1", "systemctl kill --signal=KILL ray-head"),
    "reboot of the worker": ("worker1", "systemctl reboot"),
    "reboot of the head": ("head1", "systemctl reboot"),
}


def main() -> int:
    """Run the faults; 1 when the service didn't come back from one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="demo", help="name of the hosts' network (default: demo)")
    parser.add_argument("--url", default="http://localhost:18080", help="of the proxy")
    parser.add_argument("--only", choices=sorted(_FAULTS), action="append", help="only this fault; may be repeated")
    options = parser.parse_args()
    state = os.environ.get("TESTHOSTS_DIR", Path(__file__).parents[1] / ".cache" / "testhosts")
    hosts = TestHosts(options.network, state_dir=Path(state))
    print("| killed | seconds without an answer | failed requests | how they failed |\n|---|---|---|---|", flush=True)
    for name in options.only or _FAULTS:
        host, command = _FAULTS[name]
        watch, stop = Watch(options.url), threading.Event()
        thread = threading.Thread(target=watch.run, args=(stop,))
        thread.start()
        try:
            time.sleep(3)
            # A host that reboots cuts its own connection.
            hosts.execute(host, ["sh", "-c", command], check="reboot" not in command)
            back = watch.wait_until_quiet()
        finally:
            stop.set()
            thread.join()
        how = ", ".join(sorted({why for _, why in watch.failed})) or "-"
        seconds = f"{watch.outage():.1f}" if back else f"not back after {_GIVE_UP_S:.0f}"
        print(f"| {name} | {seconds} | {len(watch.failed)} | {how} |", flush=True)
        if not back:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
