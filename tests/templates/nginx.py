"""A real nginx with the role's configuration, on loopback in front of a stand-in for Ray Serve."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Evaluate, Render

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = [
    {"id": "demo/tiny-qwen2", "aliases": ["Qwen/Qwen2.5-32B-Instruct"]},
    {"id": "other"},
]
FACTS = {
    "all_ipv6_addresses": ["fe80::1"],
    "os_family": "Debian",
    "distribution": "Debian",
    "distribution_major_version": "12",
}
MODULE = Path("/usr/lib/nginx/modules/ngx_http_lua_module.so")

no_nginx = (
    "no nginx with its Lua module here: apt-get install --no-install-recommends nginx libnginx-mod-http-lua lua-cjson"
    if not (shutil.which("nginx") and MODULE.exists())
    else "nginx binds and switches users as root only"
    if os.geteuid() != 0
    else ""
)
needs_nginx = pytest.mark.skipif(bool(no_nginx), reason=no_nginx)


def config(render: Render, **variables: Any) -> str:
    given = {"ansible_facts": FACTS, "nginx_proxy_backends": ["192.0.2.1", "192.0.2.2"], "nginx_proxy_models": MODELS}
    return render("nginx_proxy", "nginx.conf.j2", **(given | variables))


class ServeStandIn(BaseHTTPRequestHandler):
    """Stands in for Ray Serve: answers with what it was asked, and as the model's name orders."""

    protocol_version = "HTTP/1.1"
    server: StandInServer

    def log_message(self, *_: object) -> None:
        """No log on the test's screen."""

    def answer(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def event(self, data: str) -> None:
        text = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")

    def comment(self, text: str) -> None:
        line = f": {text}\n\n".encode()
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)
        if self.server.without_routes:
            self.answer(404, b"Path not found", "text/plain")
            return
        order = json.loads(body).get("order", "echo") if body.startswith(b"{") else "echo"
        if order == "stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.event("1")
            assert self.server.go_on.wait(20)
            self.event("2")
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        elif order == "used stream":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for token in range(json.loads(body).get("events", 2)):
                self.event(json.dumps({"n": token}))
            self.comment("usage 10 4 7")
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        elif order == "used":
            self.answer(200, b"{}", X_Llm_Usage="10 4 7")
        elif order == "hang up":
            self.close_connection = True
        elif order.startswith("broken"):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            piece = b"" if "at once" in order else b"9\r\ndata: 1\n\n\r\n"
            if "apart" in order:
                self.wfile.write(head)
                time.sleep(0.1)
                head = b""
            self.wfile.write(head + piece + (b"ff\r\ndata: par" if "in a piece" in order else b""))
            self.close_connection = True
        elif order == "backpressure":
            self.answer(503, b"Request dropped due to backpressure", "text/plain")
        elif order == "overloaded":
            self.answer(503, b"{}", X_Llm_Error_Code="overloaded")
        elif order == "failure":
            self.answer(500, b"{}", X_Llm_Error_Code="internal_error")
        elif order == "loading":
            self.answer(503, b"{}", X_Llm_Error_Code="model_loading")
        elif order == "crash":
            self.answer(500, b"Traceback (most recent call last)", "text/plain")
        elif order == "not found":
            self.answer(404, b"{}", X_Llm_Error_Code="unknown_url")
        elif order == "bad value":
            self.answer(
                400, b'{"error":{"message":"too hot","type":"invalid_request_error","param":"temperature","code":null}}'
            )
        else:
            seen = {
                "path": self.path,
                "method": self.command,
                "bytes": len(body),
                "headers": {k.lower(): v for k, v in self.headers.items()},
            }
            self.answer(
                200, json.dumps(seen).encode(), X_Request_Id="of-the-backend", X_Accel_Redirect="/_error/internal_error"
            )


class StandInServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int = 0) -> None:
        super().__init__((address, port), ServeStandIn)
        self.seen: list[str] = []
        self.without_routes = False
        self.go_on = threading.Event()
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def die(self) -> None:
        """Let go of the port and of every connection, as a killed process does."""
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """A client that went away is part of some tests."""


@dataclass
class Proxy:
    """A running nginx with two backends, of which the second may be absent.

    Attributes:
        https: its address by TLS, where the test has given it a certificate.
    """

    url: str
    directory: Path
    config_file: Path
    backends: list[StandInServer]
    process: subprocess.Popen[bytes] = field(init=False)
    client: httpx.Client = field(init=False)
    https: str = ""

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        if hasattr(self, "client"):
            self.client.close()
        self.client = httpx.Client(base_url=self.url, timeout=20, trust_env=False)

    def put_clients(self, evaluate: Evaluate, **variables: Any) -> None:
        """Write the table of clients, as the role does; nginx reads it when it is reloaded."""
        table = evaluate("nginx_proxy", "{{ __nginx_proxy_client_table }}", nginx_proxy_models=MODELS, **variables)
        (self.directory / "llm-clients.json").write_text(json.dumps(table))

    def reload(self) -> None:
        """Reload nginx, and wait until only new workers take connections; a client's idle ones are closed."""
        before = set(self.workers())
        self.process.send_signal(signal.SIGHUP)
        for _ in range(100):
            if set(self.workers()) - before:
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"nginx did not reload: {(self.directory / 'error.log').read_text()[-1000:]}")
        # nginx gives the new ones a tenth of a second before it tells the old ones.
        time.sleep(0.3)
        self.connect()

    def workers(self) -> list[int]:
        """PIDs of nginx's workers, those included that only end their streams."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def chat(
        self, model: object = "demo/tiny-qwen2", path: str = "/v1/chat/completions", **more: Any
    ) -> httpx.Response:
        return self.client.post(path, json={"messages": [], "model": model} | more)

    def seen(self) -> int:
        return sum(len(backend.seen) for backend in self.backends)

    def last_log(self, request_id: str) -> dict[str, Any]:
        for _ in range(50):
            for line in (self.directory / "access.log").read_text().splitlines():
                entry = json.loads(line)
                if entry["request_id"] == request_id:
                    return dict(entry)
            time.sleep(0.1)
        raise AssertionError(f"no log line of {request_id}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def running_proxy(
    render: Render,
    evaluate: Evaluate,
    directory: Path,
    before: Callable[[int], dict[str, Any]] | None = None,
    **more: Any,
) -> Iterator[Proxy]:
    """nginx with two backends.

    Args:
        render: the fixture.
        evaluate: the fixture.
        directory: where its files go.
        before: is told the backends' port, and gives more variables: for what stands in between.
        more: variables of the role.
    """
    for parent in (directory, *directory.parents[:2]):
        parent.chmod(0o755)  # workers run as www-data
    first = StandInServer("127.0.0.1")
    port, listen = first.server_address[1], free_port()
    second = StandInServer("127.0.0.2", port)
    variables = {
        "nginx_proxy_backends": ["127.0.0.1", "127.0.0.2"],
        "nginx_proxy_backend_port": port,
        "nginx_proxy_http_port": listen,
        "nginx_proxy_listen_addresses": ["127.0.0.1"],
        "nginx_proxy_log_dir": str(directory),
        "nginx_proxy_max_body_mib": 8,
        "nginx_proxy_worker_processes": "2",
        "nginx_proxy_worker_connections": 128,
        "__nginx_proxy_script_file": str(directory / "llm.lua"),
        "__nginx_proxy_clients_script_file": str(directory / "llm_clients.lua"),
        "__nginx_proxy_clients_file": str(directory / "llm-clients.json"),
        "__nginx_proxy_pid_file": str(directory / "nginx.pid"),
        "__nginx_proxy_temp_dir": str(directory),
    } | more
    for script in ("llm.lua", "llm_clients.lua"):
        (directory / script).write_text(render("nginx_proxy", f"{script}.j2", **variables))
    if before is not None:
        variables |= before(port)
    config_file = directory / "nginx.conf"
    config_file.write_text(config(render, **variables))
    running = Proxy(f"http://127.0.0.1:{listen}", directory, config_file, [first, second])
    running.put_clients(evaluate, **more)
    test = subprocess.run(["nginx", "-t", "-q", "-c", str(config_file)], capture_output=True, text=True, check=False)
    assert test.returncode == 0, test.stderr
    for backend in (first, second):
        threading.Thread(target=backend.serve_forever, daemon=True).start()
    with subprocess.Popen(["nginx", "-c", str(config_file), "-g", "daemon off;"], stderr=subprocess.DEVNULL) as process:
        running.process = process
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", listen), 1):
                break
            time.sleep(0.05)
        yield running
        running.client.close()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    for backend in running.backends:
        backend.die()


def assert_error(
    response: httpx.Response,
    status: int,
    code: str | None,
    kind: str = "invalid_request_error",
    param: str | None = None,
) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert len(response.headers.get_list("x-request-id")) == 1
    error = response.json()["error"]
    assert error.pop("message").strip()
    assert error == {"type": kind, "param": param, "code": code}
    assert ("retry-after" in response.headers) == (status in (429, 503))
