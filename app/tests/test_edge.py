"""What each of Serve's HTTP servers does before anything else."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

import llm_edge
from llm_edge import AnswerSoon, SaneHeaders


def ask(seconds: float, path: str = "/m/a/v1/models") -> tuple[float, list[dict[str, Any]], list[str]]:
    """How long it took, what was sent, and how the application ended."""
    sent: list[dict[str, Any]] = []
    ends: list[str] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        try:
            await asyncio.sleep(seconds)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.sleep(0.2)
            await send({"type": "http.response.body", "body": b"whole"})
            ends.append("answered")
        except asyncio.CancelledError:
            ends.append("cancelled")
            await send({"type": "http.response.start", "status": 499, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        await AnswerSoon(app)({"type": "http", "path": path}, None, send)  # type: ignore[arg-type]
        await asyncio.sleep(0)

    began = time.monotonic()
    asyncio.run(run())
    return time.monotonic() - began, sent, ends


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_edge, "_PATIENCE_S", 0.1)


def test_nobody_answers() -> None:
    seconds, sent, ends = ask(30)
    assert seconds < 5
    assert ends == ["cancelled"]
    assert [m.get("status") for m in sent] == [503, None]
    assert (b"retry-after", b"2") in sent[0]["headers"]
    error = json.loads(sent[1]["body"])["error"]
    assert (error["type"], error["param"], error["code"]) == ("service_unavailable_error", None, "model_loading")


def test_what_has_begun_is_not_cut_short() -> None:
    _, sent, ends = ask(0.0)
    assert ends == ["answered"]
    assert sent[-1]["body"] == b"whole"


def test_serves_own_paths_may_take_their_time() -> None:
    assert ask(0.2, "/-/routes")[2] == ["answered"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([b"r-1._"], True),
        ([b"a b"], False),
        ([b"x" * 129], False),
        ([b""], False),
        ([b"\xa1"], False),
        ([b"a", b"b"], False),
        ([], False),
    ],
)
def test_one_sane_id(given: list[bytes], kept: bool) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def app(scope: Any, _: Any, __: Any) -> None:
        seen.extend(scope["headers"])

    headers = [(b"x-request-id", value) for value in given]
    asyncio.run(SaneHeaders(app)({"type": "http", "headers": [(b"host", b"x"), *headers]}, None, None))  # type: ignore[arg-type]
    assert seen[0] == (b"host", b"x")
    ((name, value),) = seen[1:]
    assert name == b"x-request-id"
    assert value == given[0] if kept else len(value) == 32


@pytest.mark.parametrize("name", [b"x-request-disconnect-disabled", b"serve_multiplexed_model_id", b"x_session_id"])
def test_no_orders_to_serve(name: bytes) -> None:
    seen: list[bytes] = []

    async def app(scope: Any, _: Any, __: Any) -> None:
        seen.extend(name for name, _ in scope["headers"])

    asyncio.run(SaneHeaders(app)({"type": "http", "headers": [(name, b"\xa1")]}, None, None))  # type: ignore[arg-type]
    assert seen == [b"x-request-id"]
