"""The contract around a model's application, with an application of a few lines in the engine's place."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from llm_gateway._contract import Contract, Slots
from llm_gateway._usage import Book

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Application = Callable[[Any, Any, Any], Awaitable[None]]

# Writes nothing, counts nothing.
BOOK = Book("m", None, lambda _: None)
SCOPE = {"type": "http", "method": "POST", "path": "/m/a/v1/completions", "root_path": "/m/a", "headers": []}
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]


def answering(status: int, *bodies: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> Application:
    """An application that sends one response, in pieces."""

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def ask(app: Application, *, dead: bool = False, keep_alive_s: float = 15) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body that come out of the contract."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def run() -> None:
        contract = Contract(app, slots=Slots(1, 0), engine_is_dead=lambda: dead, book=BOOK, keep_alive_s=keep_alive_s)  # type: ignore[arg-type]
        await contract(SCOPE, None, send)  # type: ignore[arg-type]

    asyncio.run(run())
    assert [m["type"] for m in sent] == ["http.response.start"] + ["http.response.body"] * (len(sent) - 1)
    assert [m.get("more_body", False) for m in sent[1:]] == [True] * (len(sent) - 2) + [False]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(m["body"] for m in sent[1:])


def error(body: bytes) -> tuple[str, str | None, str | None]:
    made = json.loads(body)["error"]
    assert made["message"]
    return made["type"], made["code"], made["param"]


def vllm(kind: str, code: int, message: str = "secret words", param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def test_a_good_answer_passes_untouched() -> None:
    assert ask(answering(200, b"a", b"b")) == (200, {}, b"ab")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, vllm("BadRequestError", 400, param="temperature"), (400, "invalid_request_error", None, "temperature")),
        (400, vllm("BadRequestError", 400, param="../etc"), (400, "invalid_request_error", None, None)),
        (404, vllm("NotFoundError", 404), (404, "invalid_request_error", "model_not_found", "model")),
        (404, vllm("Not Found", 404), (404, "invalid_request_error", "unknown_url", None)),
        (405, b"{}", (405, "invalid_request_error", "method_not_allowed", None)),
        (400, vllm("BadRequestError", 400, "n must be at least 1"), (400, "invalid_request_error", None, "n")),
        (400, vllm("BadRequestError", 400, "bad chat template"), (400, "invalid_request_error", None, "prompt")),
        (
            400,
            b'{"detail":"There was an error parsing the body"}',
            (400, "invalid_request_error", "invalid_json", None),
        ),
        (422, b"not json", (400, "invalid_request_error", None, None)),
        (501, vllm("NotImplementedError", 501), (400, "invalid_request_error", None, None)),
        (500, vllm("InternalServerError", 500), (500, "server_error", "internal_error", None)),
        (503, b"", (503, "service_unavailable_error", "service_unavailable", None)),
    ],
)
def test_errors_are_said_anew(status: int, body: bytes, expected: tuple[Any, ...]) -> None:
    got, headers, made = ask(answering(status, body[:5], body[5:]))
    assert (got, *error(made)) == expected
    assert b"secret" not in made
    assert headers["content-length"] == str(len(made))
    assert headers["x-llm-error-code"] == (expected[2] or "null")
    assert ("retry-after" in headers) == (got == 503)


def test_a_context_that_is_too_long_says_how_long_it_may_be() -> None:
    message = "This model's maximum context length is 2048 tokens. However, you requested 9 and secret."
    status, _, body = ask(answering(400, vllm("BadRequestError", 400, message, "input_tokens")))
    assert (status, *error(body)) == (400, "invalid_request_error", "context_length_exceeded", "prompt")
    assert b"2048" in body
    assert b"secret" not in body


def test_an_error_that_keeps_the_contract_already_passes() -> None:
    assert ask(answering(400, b"{}", headers=[(b"x-llm-error-code", b"null")]))[2] == b"{}"


def test_a_dead_engine_is_unavailable() -> None:
    status, headers, body = ask(answering(500, vllm("InternalServerError", 500)), dead=True)
    assert (status, error(body)[1], headers["retry-after"]) == (503, "service_unavailable", "2")


@pytest.mark.parametrize("dead", [False, True])
def test_a_stream_that_fails_is_never_a_whole_one(dead: bool) -> None:
    failing = answering(
        200, b'data: {"a":1}\n\n', b"data: " + vllm("E", 500) + b"\n\n", b"data: [DONE]\n\n", headers=STREAM
    )
    status, _, body = ask(failing, dead=dead)
    first, last, rest = body.split(b"\n\n")
    assert (status, first, rest) == (200, b'data: {"a":1}', b"")
    assert error(last.removeprefix(b"data: "))[1] == ("service_unavailable" if dead else "internal_error")
    assert b"secret" not in body


def test_named_events_fail_alike() -> None:
    failing = answering(200, b"event: error\ndata: " + vllm("E", 400) + b"\n\n", b"event: end\n\n", headers=STREAM)
    body = ask(failing)[2]
    assert error(body.removeprefix(b"data: "))[0] == "invalid_request_error"
    assert b"event: end" not in body


@pytest.mark.parametrize("begun", [False, True])
def test_an_exception_becomes_an_error(begun: bool) -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": STREAM})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        raise RuntimeError("secret")

    status, _, body = ask(app)
    assert status == (200 if begun else 500)
    assert error(body.removeprefix(b"data: 1\n\n").removeprefix(b"data: "))[1] == "internal_error"


def test_slots_hold_and_are_given_back() -> None:
    async def run() -> list[str]:
        slots, go_on, log = Slots(2, 1), asyncio.Event(), []

        async def app(_: Any, __: Any, send: Any) -> None:
            await go_on.wait()
            await answering(200)(None, None, send)

        contract = Contract(app, slots=slots, engine_is_dead=lambda: False, book=BOOK)

        async def one(method: str = "POST") -> None:
            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    log.append(f"{method} {message['status']}")

            await contract(SCOPE | {"method": method}, None, send)  # type: ignore[arg-type]

        waiting = [asyncio.ensure_future(one()) for _ in range(3)]
        await asyncio.sleep(0)
        await one()
        assert log == ["POST 503"]
        # A client that leaves gives its place to the next, a waiting one as well as a running one.
        for leaver in waiting[1:]:
            leaver.cancel()
        await asyncio.sleep(0.01)
        more = [asyncio.ensure_future(one()) for _ in range(2)]
        health = asyncio.ensure_future(one("GET"))
        await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(waiting[0], *more, health)
        return log

    assert sorted(asyncio.run(run())) == ["GET 200", "POST 200", "POST 200", "POST 200", "POST 503"]


def test_no_limit_on_waiting() -> None:
    async def run() -> None:
        slots = Slots(1, -1)

        async def one() -> None:
            async with slots:
                await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(500)))

    asyncio.run(run())


def test_a_silent_stream_is_kept_alive_by_comments() -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": STREAM})
        for body in (b"data: 1\n\n", b"data: 2\n\n"):
            await asyncio.sleep(0.25)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        await asyncio.sleep(0.25)

    _, _, body = ask(app, keep_alive_s=0.1)
    silence = rb"(: keep-alive\n\n)+"
    assert re.fullmatch(silence + rb"data: 1\n\n" + silence + rb"data: 2\n\ndata: \[DONE\]\n\n", body), body


def test_an_answer_in_one_piece_carries_no_comment() -> None:
    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})

    assert ask(app, keep_alive_s=0.1)[2] == b"{}"
