"""What clients get when a part dies, is full, changes or keeps silent, or when they themselves go away."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import h11
import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from testhosts import TestHosts

MODEL, OTHER = "demo/tiny-qwen2", "demo/tiny-embed"
UNAVAILABLE = {"model_loading", "service_unavailable"}
REPLICA = "pgrep --full '^ray::ServeReplica:model-demo-tiny-qwen2:'"
ENGINE = f"pgrep --parent $({REPLICA}) --full '^VLLM::EngineCore'"
# What a stream depends on, all of it on worker1: what finds the processes, and what kills them. They are found before
# the stream begins, since a busy host may take seconds for it. No pattern matches the shell that carries it.
KILL = "kill -9 $found"
VICTIMS = {
    "engine": (ENGINE, KILL),
    "replica": (REPLICA, KILL),
    "worker": ("systemctl show --property=MainPID --value ray-worker", "systemctl kill --signal=KILL ray-worker"),
}


def long_chat(**more: Any) -> dict[str, Any]:
    """A chat that streams for many seconds."""
    messages = [{"role": "user", "content": "Tell me a story"}]
    return {"model": MODEL, "messages": messages, "stream": True, "max_tokens": 1500, "ignore_eos": True, **more}


class Stream:
    """A chat that streams over a socket of its own.

    Attributes:
        socket: the connection.
        body: what of the answer's body has come.
    """

    def __init__(self, base_url: str, body: dict[str, Any]) -> None:
        address = urlsplit(base_url)
        content = json.dumps(body).encode()
        headers = [("Host", "test"), ("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        request = h11.Request(method="POST", target="/v1/chat/completions", headers=headers)
        self._http = h11.Connection(h11.CLIENT)
        self.socket = socket.create_connection((address.hostname, address.port), 10)
        self.socket.settimeout(30)
        for part in (request, h11.Data(data=content), h11.EndOfMessage()):
            self.socket.sendall(self._http.send(part) or b"")
        self.body = b""

    def _read(self) -> bool:
        """Read what comes next of the body; False at its end, in whatever way it ended."""
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(self.socket.recv(65536))
                    continue
            except (ConnectionResetError, h11.RemoteProtocolError):
                return False
            if isinstance(event, h11.Data):
                self.body += event.data
                return True
            if isinstance(event, h11.EndOfMessage):
                return False

    def read_events(self, number: int = 1) -> None:
        """Read until as many events have come."""
        while len(self.events()) < number:
            assert self._read(), self.body[-2000:]

    def read_to_end(self) -> None:
        """Read until the answer ends, in whatever way."""
        while self._read():
            pass

    def events(self) -> list[str]:
        """The data of the events that came whole."""
        return [line[6:] for line in self.body.decode(errors="replace").split("\n")[:-1] if line.startswith("data: ")]


@pytest.fixture
def open_stream(base_url: str) -> Iterator[Callable[..., Stream]]:
    """``open_stream(**body)`` begins a long chat over a socket of its own."""
    streams: list[Stream] = []

    def call(**body: Any) -> Stream:
        streams.append(Stream(base_url, long_chat(**body)))
        return streams[-1]

    yield call
    for stream in streams:
        stream.socket.close()


class Shell:
    """A shell in a host, opened before it is needed: a new connection to a busy host can take many seconds."""

    def __init__(self, hosts: TestHosts, host: str) -> None:
        self._process = subprocess.Popen(
            hosts.ssh_argv(host, ["sh"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.run("true")

    def find(self, command: str) -> None:
        """Keep what a command prints in the variable ``found``."""
        self.run(f'found=$({command}) && test -n "$found"')

    def run(self, command: str) -> None:
        """Run a command that prints nothing and succeeds."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}; echo $?\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "0\n", command

    def close(self) -> None:
        """End the shell."""
        self._process.communicate()


@pytest.fixture
def open_shell(hosts: TestHosts) -> Iterator[Callable[[str], Shell]]:
    """``open_shell(host)`` opens a shell."""
    shells: list[Shell] = []

    def call(host: str) -> Shell:
        shells.append(Shell(hosts, host))
        return shells[-1]

    yield call
    for shell in shells:
        shell.close()


@contextmanager
def stopped_engine(shell: Shell) -> Iterator[None]:
    """The model's engine doesn't move, and neither does what it has begun; ``shell`` has found it."""
    shell.run("kill -STOP $found")
    try:
        yield
    finally:
        shell.run("kill -CONT $found")


def check_error(response: httpx.Response, codes: set[str]) -> None:
    """A 503 of the contract."""
    assert response.status_code == 503, response.text
    error = response.json()["error"]
    assert error.pop("message")
    assert error.pop("code") in codes
    assert error == {"type": "service_unavailable_error", "param": None}
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("victim", ["engine", "replica", "worker"])
def test_a_broken_stream_is_never_a_whole_one(
    victim: str,
    open_stream: Callable[..., Stream],
    open_shell: Callable[[str], Shell],
    hosts: TestHosts,
    client: httpx.Client,
) -> None:
    found, command = VICTIMS[victim]
    shell = open_shell("worker1")
    shell.run(f"engine=$({ENGINE})")
    shell.find(found)
    # The host itself kills in mid-stream, however long a word to it takes: a whole stream takes some seconds.
    shell.run("kill -STOP $engine")
    stream = open_stream(max_tokens=1900)
    shell.run(f"kill -CONT $engine; sleep 0.7; {command}")
    killed = time.monotonic()
    stream.read_events()
    stream.read_to_end()
    assert time.monotonic() - killed < 5
    error = json.loads(stream.events()[-1])["error"]
    assert error.pop("message")
    assert error == {"type": "service_unavailable_error", "param": None, "code": "service_unavailable"}
    assert "[DONE]" not in stream.events()

    # The truth within 2 s, and from then on an answer within 1 s until the model is back.
    while time.monotonic() - killed < 2:
        time.sleep(0.05)
    assert client.get("/health").json()["models"][MODEL] != "ok"
    head = next(state.address for state in hosts.hosts() if state.host == "head1")
    assert httpx.get(f"http://{head}:18000/health", trust_env=False).json()["models"][MODEL] != "ok"
    assert client.get("/health/ready").status_code == 503
    assert MODEL not in {model["id"] for model in client.get("/v1/models").json()["data"]}
    for _ in range(5):
        began = time.monotonic()
        response = client.post("/v1/chat/completions", json=long_chat(stream=False, max_tokens=1))
        assert time.monotonic() - began < 1
        check_error(response, UNAVAILABLE)


def test_nothing_hangs_while_a_model_comes_back(open_shell: Callable[[str], Shell], client: httpx.Client) -> None:
    shell = open_shell("worker1")
    shell.find(REPLICA)
    shell.run(KILL)
    answers, late = 0, 0
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        began = time.monotonic()
        response = client.post("/v1/chat/completions", json=long_chat(stream=False, max_tokens=1))
        seconds = time.monotonic() - began
        if response.status_code == 200:
            break
        check_error(response, UNAVAILABLE)
        assert seconds < 2
        answers += 1
        late += seconds > 1
        # The neighbour doesn't notice.
        assert client.post("/v1/embeddings", json={"model": OTHER, "input": "Hello"}).status_code == 200
        time.sleep(0.2)
    assert response.status_code == 200
    assert answers > 10
    # HAProxy asks again after a second where it met a replica that was just going, or coming.
    assert late <= 2


def test_a_stream_whose_haproxy_dies(open_stream: Callable[..., Stream], open_shell: Callable[[str], Shell]) -> None:
    shells = [open_shell(host) for host in ("head1", "worker1")]
    for shell in shells:
        shell.find("pgrep --full 'haproxy[.]cfg'")
    stream = open_stream(max_tokens=1900)
    stream.read_events()
    for shell in shells:
        shell.run(KILL)
    stream.read_to_end()
    assert "error" in json.loads(stream.events()[-1])
    assert "[DONE]" not in stream.events()


# Prints the share of a core that the engine takes, four times a second, thirty times.
WATCH = f"""
import os, subprocess, time
found = lambda command: subprocess.check_output(["sh", "-c", command], text=True).split()
engine = found("{ENGINE}")
pids = engine + found("pgrep --parent " + engine[0])
def ticks():
    return sum(sum(map(int, open(f"/proc/{{p}}/stat").read().rpartition(")")[2].split()[11:13])) for p in pids)
before = ticks()
for _ in range(30):
    time.sleep(0.25)
    now = ticks()
    print((now - before) / os.sysconf("SC_CLK_TCK") / 0.25, flush=True)
    before = now
"""


def test_a_client_that_leaves_frees_the_engine(open_stream: Callable[..., Stream], hosts: TestHosts) -> None:
    streams = [open_stream(max_tokens=1900) for _ in range(8)]
    for stream in streams:
        stream.read_events()
    threading.Timer(3, lambda: [stream.socket.close() for stream in streams]).start()
    shares = [float(line) for line in hosts.execute("worker1", ["python3", "-c", WATCH]).stdout.split()]
    # The watch begins a little after the timer, so what it sees of the busy time is less than 3 s.
    assert max(shares[:4]) > 0.5, "the engine had nothing to do before the clients left"
    assert max(shares[20:]) < 0.5, "the engine still works 2 s after the clients have left"


def test_a_full_model_says_so_at_once(
    open_stream: Callable[..., Stream], open_shell: Callable[[str], Shell], client: httpx.Client
) -> None:
    # 16 may run and 48 may wait, see the demo's inventory.
    shell = open_shell("worker1")
    shell.find(ENGINE)
    with stopped_engine(shell):
        accepted = [open_stream(max_tokens=20) for _ in range(64)]
        time.sleep(2)
        for _ in range(20):
            began = time.monotonic()
            response = client.post("/v1/chat/completions", json=long_chat())
            assert time.monotonic() - began < 1
            check_error(response, {"overloaded"})
        began = time.monotonic()
        assert client.get("/health/ready").status_code == 200
        assert time.monotonic() - began < 1
    for stream in accepted:
        stream.read_to_end()
        assert stream.events()[-1] == "[DONE]"


def test_a_slow_reader_does_not_slow_others(open_stream: Callable[..., Stream], client: httpx.Client) -> None:
    slow = open_stream(max_tokens=1900)
    slow.read_events()
    for _ in range(5):
        began = time.monotonic()
        response = client.post("/v1/chat/completions", json=long_chat(stream=False, max_tokens=16))
        assert response.status_code == 200
        assert time.monotonic() - began < 5
    slow.read_to_end()
    assert slow.events()[-1] == "[DONE]"


def test_one_id_from_the_proxy_to_the_engine(client: httpx.Client, hosts: TestHosts) -> None:
    request_id = f"trace-{time.time_ns()}"
    body = long_chat(stream=False, max_tokens=1)
    response = client.post("/v1/chat/completions", json=body, headers={"X-Request-Id": request_id})
    assert response.headers["x-request-id"] == request_id
    assert response.json()["id"] == f"chatcmpl-{request_id}"
    time.sleep(1)
    assert hosts.execute("proxy1", ["grep", "-c", request_id, "/var/log/nginx/access.log"]).stdout.strip() == "1"
    search = f"grep -rlF {request_id} /var/lib/llm/ray/session_latest/logs | grep -c replica_model"
    assert int(hosts.execute("worker1", ["sh", "-c", search]).stdout) >= 1


# Gives another model another limit, as an operator's change of the inventory would, and waits until it runs.
CHANGE_OTHER = """
import os, subprocess, sys, yaml
path = "/etc/llm/serve/config.yaml"
config = yaml.safe_load(open(path))
if sys.argv[1] == "change":
    model = next(a["args"]["model"] for a in config["applications"] if a["name"] == "model-demo-tiny-embed")
    model["max_queued_requests"] = 100
    path = "/tmp/changed.yaml"
    yaml.safe_dump(config, open(path, "w"))
environment = config["applications"][0]["runtime_env"]["env_vars"] | {
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/etc/llm/ray/token"}
wait = ["--wait", "--timeout=300"] if sys.argv[1] == "change" else []
command = [sys.executable, "-m", "llm_gateway", "deploy", *wait, path, "--dashboard=http://127.0.0.1:18265"]
sys.exit(subprocess.run(command, env=os.environ | environment).returncode)
"""


def pids(hosts: TestHosts) -> dict[str, str]:
    """The processes of each model's replica."""
    found = {}
    for slug in ("demo-tiny-qwen2", "demo-tiny-embed"):
        replica = f"$(pgrep --full '^ray::ServeReplica:model-{slug}:')"
        found[slug] = hosts.execute(
            "worker1", ["sh", "-c", f"echo {replica} $(pgrep --parent {replica} | sort)"]
        ).stdout
    return found


def test_a_stream_outlives_silence_a_reload_and_another_models_change(
    open_stream: Callable[..., Stream],
    open_shell: Callable[[str], Shell],
    hosts: TestHosts,
    pytestconfig: pytest.Config,
) -> None:
    silence = float(pytestconfig.getoption("--silence-seconds"))
    python = "/opt/llm/runtime/current/bin/python"
    before = pids(hosts)
    shell = open_shell("worker1")
    shell.find(ENGINE)
    stream = open_stream(max_tokens=1900)
    stream.socket.settimeout(silence + 60)
    stream.read_events()
    try:
        with stopped_engine(shell):
            stopped = time.monotonic()
            hosts.execute("proxy1", ["systemctl", "reload", "nginx"])
            hosts.execute("head1", [python, "-c", CHANGE_OTHER, "change"], timeout_seconds=330)
            time.sleep(max(0.0, stopped + silence - time.monotonic()))
        stream.read_to_end()
        after = pids(hosts)
    finally:
        hosts.execute("head1", [python, "-c", CHANGE_OTHER, "restore"])
    assert stream.events()[-1] == "[DONE]"
    # So that no proxy on the way takes the silence for a death.
    assert stream.body.count(b": keep-alive") >= silence // 15 - 1
    assert after["demo-tiny-qwen2"] == before["demo-tiny-qwen2"]
    assert after["demo-tiny-embed"] != before["demo-tiny-embed"]
