"""What requests have used: told, written down and counted, with numbers in the engine's place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from llm_gateway import _usage
from llm_gateway._contract import Contract, Slots
from llm_gateway._usage import Book, Tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Application = Callable[[Any, Any, Any], Awaitable[None]]

STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]
HEADERS = [(b"x-llm-client", b"alice"), (b"x-request-id", b"r1")]


class Engine:
    """One prompt and answer."""

    def __init__(self, *tokens: int) -> None:
        self.counted = Tokens(*tokens)
        self.over = True

    def tokens(self) -> Tokens:
        return self.counted

    def is_over(self) -> bool:
        return self.over


def app(
    *bodies: bytes, headers: Any = (), works: tuple[Engine, ...] = (Engine(10, 4, 7),), status: int = 200
) -> Application:
    """An application that has the engine work and sends one response, in pieces."""

    async def call(_: Any, __: Any, send: Any) -> None:
        usage = _usage.current()
        assert usage is not None
        for work in works:
            usage.add(work)
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return call


def ask(
    application: Application,
    directory: Path | None = None,
    *,
    headers: Any = HEADERS,
    leaves_at: int = 99,
    wait_s: float = 0,
) -> tuple[list[dict[str, Any]], list[dict[str, object]]]:
    """The messages that come out of the contract, and what was counted."""
    sent: list[dict[str, Any]] = []
    counted: list[dict[str, object]] = []

    async def send(message: dict[str, Any]) -> None:
        if len(sent) >= leaves_at:
            raise asyncio.CancelledError
        sent.append(message)

    async def run() -> None:
        book = Book("demo/model", directory, counted.append)
        contract = Contract(application, slots=Slots(1, 0), engine_is_dead=lambda: False, book=book)  # type: ignore[arg-type]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/m/a/v1/completions",
            "root_path": "/m/a",
            "headers": headers,
        }
        with contextlib.suppress(asyncio.CancelledError):
            await contract(scope, None, send)  # type: ignore[arg-type]
        await asyncio.sleep(wait_s)

    asyncio.run(run())
    return sent, counted


def body(sent: list[dict[str, Any]]) -> bytes:
    return b"".join(message.get("body", b"") for message in sent)


def test_an_answer_tells_in_a_header() -> None:
    sent, _ = ask(app(b"{}"))
    assert sent[0]["headers"] == [(b"x-llm-usage", b"10 4 7")]
    assert body(sent) == b"{}"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((b"data: 1\n\n", b"data: [DONE]\n\n"), b"data: 1\n\n: usage 10 4 7\n\ndata: [DONE]\n\n"),
        ((b"event: message_stop\ndata: {}\n\n",), b"event: message_stop\ndata: {}\n\n: usage 10 4 7\n\n"),
    ],
)
def test_a_stream_tells_in_a_comment_before_its_end(pieces: tuple[bytes, ...], expected: bytes) -> None:
    sent, _ = ask(app(*pieces, headers=STREAM))
    assert body(sent) == expected
    assert sent[0]["headers"] == STREAM


def test_who_names_no_client_is_told_nothing() -> None:
    sent, counted = ask(app(b"{}"), headers=[])
    assert sent[0]["headers"] == []
    assert counted[0]["client"] == "-"
    sent, _ = ask(app(b"data: [DONE]\n\n", headers=STREAM), headers=[])
    assert body(sent) == b"data: [DONE]\n\n"


@pytest.mark.parametrize("name", [b"", b"Alice", b"a b", b"a" * 65, b'a"', b"\xff"])
def test_only_a_sane_name_is_a_client(name: bytes) -> None:
    _, counted = ask(app(b"{}"), headers=[(b"x-llm-client", name)])
    assert counted[0]["client"] == "-"


def test_several_prompts_and_answers_add_up(tmp_path: Path) -> None:
    _, counted = ask(app(b"{}", works=(Engine(10, 0, 5), Engine(10, 10, 6))), tmp_path)
    assert [counted[0][f"{kind}_tokens"] for kind in ("prompt", "cached", "completion")] == [20, 10, 11]


def test_the_book_has_one_line_of_each_request_and_nothing_of_what_it_said(tmp_path: Path) -> None:
    ask(app(b'{"secret": "words"}'), tmp_path)
    ask(app(b"data: words\n\n", headers=STREAM), tmp_path)
    ask(app(b"words", status=400, works=()), tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("usage-20")
    assert "words" not in file.read_text()
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [entry["status"] for entry in entries] == [200, 200, 400]
    entry = entries[0]
    assert entry.pop("time").startswith(file.stem.removeprefix("usage-"))
    assert 0 <= entry.pop("first_seconds") <= entry.pop("seconds") < 5
    assert entry == {
        "request_id": "r1",
        "client": "alice",
        "model": "demo/model",
        "path": "/v1/completions",
        "status": 200,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 7,
    }


def test_a_client_that_leaves_pays_for_what_the_engine_did_until_it_stopped(tmp_path: Path) -> None:
    work = Engine(10, 0, 3)
    work.over = False

    async def call(scope: Any, receive: Any, send: Any) -> None:
        async def go_on() -> None:
            await asyncio.sleep(0.05)
            work.counted, work.over = Tokens(10, 0, 5), True

        task = asyncio.create_task(go_on())
        await app(b"data: 1\n\n", b"data: 2\n\n", headers=STREAM, works=(work,))(scope, receive, send)
        await task

    _, counted = ask(call, tmp_path, leaves_at=2, wait_s=0.5)
    assert [entry["completion_tokens"] for entry in counted] == [5]
    assert json.loads(next(tmp_path.iterdir()).read_text())["completion_tokens"] == 5


def test_a_failure_after_the_start_is_still_a_whole_answer() -> None:
    async def fails(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    sent, counted = ask(fails)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 500
    assert counted[0]["status"] == 500


def test_a_full_disk_is_no_client_s_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = tmp_path / "missing"
    sent, counted = ask(app(b"{}"), missing)
    assert sent[0]["status"] == 200
    assert len(counted) == 1
    assert "can't be written" in caplog.text


def test_a_new_month_is_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Book("m", tmp_path, lambda _: None)
    for now in (1793491199.0, 1793491201.0):  # the last second of October 2026, and the second one of November
        monkeypatch.setattr("time.time", lambda now=now: now)
        book.close(_usage.Usage({"headers": []}, "/v1/completions"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["usage-2026-10.jsonl", "usage-2026-11.jsonl"]
    assert oct((tmp_path / "usage-2026-10.jsonl").stat().st_mode & 0o777 & ~os.umask(os.umask(0))) == "0o640"
