"""Waiting for a deploy, and finding out why one failed."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from llm_gateway.__main__ import deploy
from llm_gateway._serve_api import ServeApi, ServeApiError
from llm_gateway._watch import DeployError, root_cause, wait_until_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOG = """\
(ServeReplica:model-m:ModelServer:m pid=7) INFO starting
(EngineCore pid=9) ERROR 11-23 01:02:03 [core.py:900] Traceback (most recent call last):
(EngineCore pid=9) ERROR 11-23 01:02:03 [core.py:900] ValueError: No available memory for the cache blocks.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


class StandInForDashboard(BaseHTTPRequestHandler):
    """Answers like the Ray dashboard from a list of states, one per poll; the last one stays."""

    states: ClassVar[list[dict[str, Any]]] = []
    requests: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_GET(self) -> None:
        self.requests.append(("GET", self.path.split("?")[0], self.headers.get("Authorization")))
        if self.path.startswith("/api/serve"):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            self._answer(json.dumps({"applications": state}))
        elif self.path.startswith("/api/v0/actors"):
            actors = [
                {"actor_id": "a0", "class_name": "ServeReplica:gateway:Gateway", "state": "DEAD", "end_time_ms": 9},
                {
                    "actor_id": "a1",
                    "class_name": "ServeReplica:model-m:ModelServer:m",
                    "state": "DEAD",
                    "end_time_ms": 5,
                },
            ]
            self._answer(json.dumps({"data": {"result": {"result": actors}}}))
        else:
            assert "actor_id=a1" in self.path
            self._answer(LOG)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.requests.append(("PUT", body, self.headers.get("Authorization")))
        self._answer("refused: no such thing", 400 if "bad" in body else 200)

    def _answer(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ServeApi]:
    (tmp_path / "token").write_text("t0ken\n")
    StandInForDashboard.requests.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInForDashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield ServeApi(f"http://127.0.0.1:{server.server_port}", tmp_path / "token")
    server.shutdown()
    server.server_close()
    thread.join()


def application(status: str, message: str = "", replicas: tuple[str, ...] = ()) -> dict[str, Any]:
    states = [{"state": state} for state in replicas]
    return {"status": status, "message": message, "deployments": {"d": {"message": message, "replicas": states}}}


def wait(api: ServeApi, timeout_s: float = 10) -> list[str]:
    said: list[str] = []
    clock = iter(range(1000))
    wait_until_running(api, ["model-m"], timeout_s, said.append, lambda: float(next(clock)), lambda _: None)
    return said


def test_progress_is_said_once_per_change(api: ServeApi) -> None:
    starting = {"model-m": application("DEPLOYING", replicas=("STARTING",))}
    StandInForDashboard.states = [{}, starting, starting, {"model-m": application("RUNNING", replicas=("RUNNING",))}]
    said = [line.split("s  ", 1)[1] for line in wait(api)]
    assert said == ["model-m: DEPLOYING (1 starting)", "model-m: RUNNING (1 running)"]


def test_a_failure_names_its_root_cause(api: ServeApi) -> None:
    StandInForDashboard.states = [
        {"model-m": application("DEPLOY_FAILED", "The deployment failed to start 3 times in a row.")}
    ]
    with pytest.raises(DeployError, match=r"application model-m failed: ValueError: No available memory") as failed:
        wait(api)
    assert "3 times" in str(failed.value)


def test_an_application_that_is_to_go_is_waited_for(api: ServeApi) -> None:
    running = {"model-m": application("RUNNING")}
    StandInForDashboard.states = [{**running, "model-old": application("DELETING")}, running]
    assert len(wait(api)) == 2


def test_late_is_an_error_too(api: ServeApi) -> None:
    StandInForDashboard.states = [{"model-m": application("DEPLOYING")}]
    with pytest.raises(DeployError, match="not running after 10 s: model-m"):
        wait(api)


def test_the_token_goes_along_and_a_refusal_says_why(api: ServeApi) -> None:
    api.deploy({"applications": []})
    assert StandInForDashboard.requests[-1] == ("PUT", '{"applications": []}', "Bearer t0ken")
    with pytest.raises(ServeApiError, match="HTTP 400: refused: no such thing"):
        api.deploy({"bad": 1})


def test_only_what_is_new_is_deployed(api: ServeApi) -> None:
    config = {"applications": [{"name": "model-m", "args": {"a": 1}}]}
    StandInForDashboard.states = [{}]
    assert deploy(api, config, 0)
    given = {"name": "model-m", "args": {"a": 1}, "route_prefix": "/"}
    StandInForDashboard.states = [{"model-m": {**application("RUNNING"), "deployed_app_config": given}}]
    assert not deploy(api, config, 0)
    config["applications"][0]["args"] = {"a": 2}
    assert deploy(api, config, 0)


def test_no_dashboard() -> None:
    with pytest.raises(ServeApiError, match=r"127\.0\.0\.1:9 doesn't answer"):
        ServeApi("http://127.0.0.1:9").deploy({})


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        ("nothing wrong", None),
        ("RuntimeError: See root cause above.", "RuntimeError: See root cause above."),
        (
            "torch.OutOfMemoryError: CUDA\nRuntimeError: Engine core initialization failed.",
            "torch.OutOfMemoryError: CUDA",
        ),
        ("INFO ValueErrors are counted: no", None),
    ],
)
def test_root_cause(log: str, cause: str | None) -> None:
    assert root_cause(log) == cause
