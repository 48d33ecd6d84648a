"""The ways to the engine that are compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lab
from engines import ENGINE_PORT, MODEL, RUNTIME
from usage import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engines import Engine
    from lab import Lab

_HERE = Path(__file__).parent
_READY_TIMEOUT_S = 300.0
_SETTLE_S = 3.0
# What the real engine needs of the distribution: it compiles kernels as it starts. As in the role serving_runtime.
_ENGINE_PACKAGES = ("g++", "gcc", "libnuma1", "python3-dev", "util-linux")
_GATEWAYS = "/opt/bench"  # the environments of the gateways from the package index, in `bare1`
_ENGINE_UNIT = "bench-engine"
# Serve's title for the replica that runs the engine; both our application and ray.serve.llm's own name it by the model.
_ENGINE_TITLE = rf"^ray::ServeReplica:.*:{MODEL.replace('/', '--')}"


@dataclass(frozen=True)
class Arm:
    """One way.

    Attributes:
        name: how the command line and the raw data call it.
        title: how the report calls it.
        host: where it runs, gateway and engine.
        port: where it answers.
        units: the gateway's services, as patterns; for Ray the engine is a process among them.
        path: what its API stands below.
    """

    name: str
    title: str
    host: str
    port: int
    units: tuple[str, ...]
    path: str = ""

    @property
    def url(self) -> str:
        """What ``/v1`` is appended to."""
        return f"http://{lab.address(self.host)}:{self.port}{self.path}"


_RAY_UNITS = ("ray-*.service", "llm-*.service")
BARE = Arm("bare", "bare engine", "bare1", ENGINE_PORT, ())
NGINX = Arm("nginx", "plain nginx", "bare1", 8100, ("bench-nginx.service",))
RAY = Arm("ray", "ray.serve.llm as it comes", "ray1", 8000, ("bench-ray.service",))
OURS = Arm("ours", "this platform", "ours1", 18080, (*_RAY_UNITS, "nginx.service"))
ROUTER = Arm("vllm-router", "vllm-router", "bare1", 8200, ("bench-vllm-router.service",))
LITELLM = Arm("litellm", "LiteLLM proxy", "bare1", 8300, ("bench-litellm.service",))
# Only where nginx itself is in question.
OURS_DIRECT = Arm("ours-direct", "this platform without nginx", "ours1", 18000, _RAY_UNITS, "/m/bench-model")

ARMS = {arm.name: arm for arm in (BARE, NGINX, RAY, OURS, ROUTER, LITELLM)}


def hosts(arms: Sequence[Arm]) -> list[str]:
    """The hosts that these arms need, and the one that the load comes from."""
    return list(dict.fromkeys(["load1", *(arm.host for arm in arms)]))


class Stand:
    """The arms, installed and started in their hosts.

    Args:
        lab_: the hosts.
        arms: those that are wanted.
        real: whether the real engine will be asked for.
        say: takes a line of progress.
    """

    def __init__(self, lab_: Lab, arms: Sequence[Arm], real: bool, say: Callable[[str], None]) -> None:
        self._lab = lab_
        self._arms = arms
        self._real = real
        self._say = say

    # -- install -----------------------------------------------------------------------------------------------------

    def install(self, host: str) -> None:
        """Install what a host needs, but not the engine: that follows with `deploy`."""
        if host == "load1":
            self._lab.put(host, "/opt/bench-load/load_worker.py", (_HERE / "load_worker.py").read_bytes())
            return
        self._lab.put_mock(host)
        # The platform's own roles install what `ours1` needs.
        packages = list(_ENGINE_PACKAGES) if self._real and host != "ours1" else []
        if host == "bare1" and NGINX in self._arms:
            packages.append("nginx")
        if packages:
            self._lab.install_packages(host, packages)
        if host == "bare1":
            self._install_gateways()

    def _install_gateways(self) -> None:
        if NGINX in self._arms:
            self._lab.shell("bare1", "systemctl disable --now --quiet nginx")
            self._lab.put("bare1", "/etc/bench/nginx.conf", (_HERE / "files" / "nginx.conf").read_bytes())
        if LITELLM in self._arms:
            self._lab.put("bare1", "/etc/bench/litellm.yaml", (_HERE / "files" / "litellm.yaml").read_bytes())
        # Both, whichever is wanted: they are one layer.
        if {ROUTER, LITELLM} & set(self._arms):
            for name in (ROUTER.name, LITELLM.name):
                self._install_from_index(name)
            self._lab.network.commit("bare1", self._lab.gateways_layer, [_GATEWAYS])

    def _install_from_index(self, name: str) -> None:
        """Make a gateway's environment from wheels that this machine fetches: only it is sure to reach the index."""
        lock = (_HERE / "requirements" / f"{name}.lock").read_bytes()
        venv = f"{_GATEWAYS}/{name}"
        if self._lab.shell("bare1", f"cat {venv}/whole.lock 2>/dev/null || true").encode() == lock:
            return
        self._say(f"{name}: fetching and installing what its lock names")
        wheels = lab.ROOT / ".cache" / "bench-gateway" / "wheels" / name
        wheels.mkdir(parents=True, exist_ok=True)
        platforms = ["linux", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 36))]
        # It warns of every directory of this machine's settings that isn't there.
        fetched = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
                *("--require-hashes", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp"),
                *(f"--platform={platform}_x86_64" for platform in platforms),
                *("--dest", str(wheels), "--requirement", str(_HERE / "requirements" / f"{name}.lock")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if fetched.returncode != 0:
            raise RuntimeError(f"{name}: its wheels can't be fetched: {fetched.stderr[-2000:]}")
        self._lab.shell("bare1", f"rm -rf {venv} {venv}.wheels; mkdir -p {_GATEWAYS} {venv}.wheels")
        with subprocess.Popen(["tar", "-C", str(wheels), "-cf", "-", "."], stdout=subprocess.PIPE) as packed:
            unpack = self._lab.network.ssh_argv("bare1", ["tar", "-C", f"{venv}.wheels", "-xf", "-"])
            subprocess.run(unpack, stdin=packed.stdout, check=True)
        self._lab.put("bare1", f"{venv}.wheels/lock", lock)
        options = f"--quiet --no-deps --require-hashes --no-index --no-cache-dir --find-links={venv}.wheels"
        self._lab.shell(
            "bare1",
            f"python3 -m venv {venv}; PIP_CONFIG_FILE=/dev/null TMPDIR={_GATEWAYS} {venv}/bin/python -m pip install "
            f"{options} -r {venv}.wheels/lock; mv {venv}.wheels/lock {venv}/whole.lock; rm -rf {venv}.wheels",
        )

    # -- start -------------------------------------------------------------------------------------------------------

    def deploy(self, host: str, engine: Engine) -> None:
        """Put an engine behind a host's gateways, in place of the one that was there, and wait until all answer.

        Raises:
            RuntimeError: a gateway doesn't answer in time.
        """
        match host:
            case "bare1":
                self._deploy_bare(engine)
            case "ray1":
                self._deploy_ray(engine)
            case "ours1":
                # Ours checks the inventory at each deploy, and does nothing that is done already.
                environment = {"BENCH_ENGINE": engine.name, **engine.mock_environment}
                lab.playbook(f"ours-{engine.name}.log", ["--skip-tags", "verify"], environment)
        for arm in self._arms:
            if arm.host == host:
                self._wait_ready(arm)

    def _wait_ready(self, arm: Arm) -> None:
        """As `wait_ready`, but a gateway that has ended isn't waited for, and what it said is told."""
        units = arm.units if arm.host == "bare1" else ()
        try:
            wait_ready(arm, lambda: not units or bool(self._lab.unit_cgroups(arm.host, units)))
        except RuntimeError as error:
            named = " ".join(f"--unit={unit}" for unit in units)
            said = self._lab.shell(arm.host, f"journalctl --no-pager --output=cat --lines=15 {named}")
            raise RuntimeError(f"{error}. The end of its log:\n{said}") from error

    def _deploy_bare(self, engine: Engine) -> None:
        units = {unit.removesuffix(".service") for arm in self._arms if arm.host == "bare1" for unit in arm.units}
        # A gateway that sees its engine go away may take its time to believe that it is back.
        for unit in units:
            self._lab.stop("bare1", unit)
        self._lab.start("bare1", _ENGINE_UNIT, engine.bare_command, engine.environment)
        wait_ready(BARE)
        environments = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        commands = {
            "bench-nginx": ["/usr/sbin/nginx", "-c", "/etc/bench/nginx.conf", "-g", "daemon off;"],
            "bench-vllm-router": [
                *(f"{_GATEWAYS}/vllm-router/bin/vllm-router", "--worker-urls", f"http://127.0.0.1:{ENGINE_PORT}"),
                *("--host", "0.0.0.0", "--port", str(ROUTER.port), "--log-level", "warning"),
            ],
            "bench-litellm": [
                *(f"{_GATEWAYS}/litellm/bin/litellm", "--config", "/etc/bench/litellm.yaml"),
                # One worker a core, as its documentation advises.
                *("--host", "0.0.0.0", "--port", str(LITELLM.port), "--num_workers", "2"),
            ],
        }
        for unit in sorted(units):
            self._lab.start("bare1", unit, commands[unit], environments)

    def _deploy_ray(self, engine: Engine) -> None:
        address = lab.address("ray1")
        if self._lab.network.execute("ray1", ["systemctl", "is-active", "bench-ray"], check=False).returncode != 0:
            self._lab.start(
                "ray1",
                "bench-ray",
                [
                    *(f"{RUNTIME}/bin/ray", "start", "--head", "--block", "--node-ip-address", address),
                    # The host sees the whole machine, and Serve's replicas each ask for a whole core.
                    *("--num-cpus", "8", "--memory", str(6000 << 20), "--object-store-memory", str(128 << 20)),
                    # Its default range holds the ports of everything else.
                    *("--min-worker-port", "20000", "--max-worker-port", "20999"),
                ],
                {"RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{RUNTIME}/bin:/usr/bin:/bin", "HOME": "/root"},
            )
        self._lab.put("ray1", "/etc/bench/serve.yaml", engine.serve_config(RAY.port).encode())
        # Until the dashboard takes it.
        self._lab.shell(
            "ray1",
            f"export RAY_ADDRESS={address}:6379; i=0; until {RUNTIME}/bin/serve deploy -a http://127.0.0.1:8265 "
            "/etc/bench/serve.yaml; do i=$((i+1)); [ $i -lt 30 ]; sleep 2; done >/tmp/deploy.log 2>&1",
        )

    # -- measure -----------------------------------------------------------------------------------------------------

    def wake(self, arm: Arm) -> None:
        """Let one arm run, and nothing else; then wait until it answers."""
        for host in hosts(self._arms)[1:]:
            if host == arm.host:
                self._lab.thaw(self._lab.cgroup(host))
            else:
                self._lab.freeze(self._lab.cgroup(host))
        for other in self._arms:
            if other.host == "bare1" == arm.host:
                for group in self._lab.unit_cgroups("bare1", other.units):
                    (self._lab.thaw if other is arm else self._lab.freeze)(group)
        wait_ready(arm)
        # What has piled up while it was frozen: timers, health checks, metrics.
        time.sleep(_SETTLE_S)

    def meter(self, arm: Arm) -> Meter:
        """What measures an arm's processes."""
        own_engine = arm.host == "bare1"
        return Meter(
            gateway=self._lab.unit_cgroups(arm.host, arm.units),
            engine=self._lab.unit_cgroups(arm.host, [f"{_ENGINE_UNIT}.service"]) if own_engine else [],
            engine_title=None if own_engine else _ENGINE_TITLE,
            load=self._lab.cgroup("load1"),
        )

    def versions(self) -> dict[str, str]:
        """What runs in the arms."""
        scripts = {
            "vLLM": ("load1", f"{RUNTIME}/bin/python -c 'from importlib.metadata import *; print(version(\"vllm\"))'"),
            "Ray": ("load1", f"{RUNTIME}/bin/python -c 'from importlib.metadata import *; print(version(\"ray\"))'"),
            "Python": ("load1", f"{RUNTIME}/bin/python -c 'import platform; print(platform.python_version())'"),
        }
        if "bare1" in hosts(self._arms):
            scripts["nginx"] = ("bare1", "nginx -v 2>&1 | sed 's,.*/,,' || true")
        return {name: self._lab.shell(host, script).strip() for name, (host, script) in scripts.items()} | {
            name: _pinned(name) for name in (ROUTER.name, LITELLM.name)
        }


def _pinned(name: str) -> str:
    lock = (_HERE / "requirements" / f"{name}.lock").read_text()
    return next(row.split("==")[1].split()[0] for row in lock.splitlines() if row.startswith(f"{name}=="))


def wait_ready(arm: Arm, lives: Callable[[], bool] = lambda: True) -> None:
    """Return when an arm has answered a chat.

    Args:
        arm: whom to ask.
        lives: whether there is any use in waiting.

    Raises:
        RuntimeError: it hasn't, in time; with what it said last.
    """
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}).encode()
    request = urllib.request.Request(
        f"{arm.url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                if "choices" in json.load(response):
                    return
                said = "an answer without choices"
        except urllib.error.HTTPError as error:
            said = f"{error.code} {error.read()[:300]!r}"
        except (OSError, ValueError) as error:
            said = str(error)
        if time.monotonic() > deadline or lab.stopping.is_set() or not lives():
            raise RuntimeError(f"{arm.name} doesn't answer: {said}")
        time.sleep(0.5)
