"""The API contract around a model's own application: errors, streams that break, limits, and what was used.

An ASGI middleware, because on the fast path a request meets nothing of ours but the replica itself.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from llm_gateway import _usage, _vllm_errors
from llm_gateway._errors import CODE_HEADER, ApiError
from llm_gateway._usage import USAGE_HEADER, Usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llm_gateway._usage import Book

logger = logging.getLogger("ray.serve")

# Seconds of silence in a stream after which a comment goes out, so that no proxy on the way takes it for dead. vLLM can
# do that too (`sse_keep_alive_interval`), with a task for each piece: half as much CPU again in the replica.
_KEEP_ALIVE_S = 15.0
_KEEP_ALIVE = b": keep-alive\n\n"

# The end of a stream of OpenAI's older protocols; clients read no further.
_DONE = b"data: [DONE]"
# How an error begins in a stream of vLLM's: chat and completions, and the two protocols with named events.
_ERROR_EVENTS = (b'data: {"error"', b"event: error")


class Slots:
    """A limit on requests that run and on requests that wait, first come first served.

    Args:
        running: requests at the same time.
        waiting: requests that wait for one of them to end; -1: no limit.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(running)
        self._running = running
        self._most_waiting = waiting
        self._taken = 0

    async def __aenter__(self) -> None:
        """Wait for a slot.

        Raises:
            ApiError: there is none, and too many requests wait already.
        """
        if self._most_waiting >= 0 and self._taken >= self._running + self._most_waiting:
            raise ApiError(503, "The model is at its capacity. Try again in a few seconds.", "overloaded")
        self._taken += 1
        try:
            await self._free.acquire()
        except BaseException:
            self._taken -= 1
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the slot back."""
        self._taken -= 1
        self._free.release()


class Contract:
    """ASGI middleware that makes a model's application keep the API contract.

    Args:
        app: the model's application.
        slots: the limit on POST requests.
        engine_is_dead: tells whether the replica can't answer any more.
        book: where it is written down what POST requests have used.
        keep_alive_s: seconds of silence in a stream after which a comment goes out.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        slots: Slots,
        engine_is_dead: Callable[[], bool],
        book: Book,
        keep_alive_s: float = _KEEP_ALIVE_S,
    ) -> None:
        self._app = app
        self._slots = slots
        self._engine_is_dead = engine_is_dead
        self._book = book
        self._keep_alive_s = keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        usage = Usage(scope, path) if scope["method"] == "POST" else None
        answer = _Answer(path, send, self._engine_is_dead, self._keep_alive_s, usage)
        try:
            if usage is not None:
                _usage.begin(usage)
                async with self._slots:
                    await self._app(scope, receive, answer.send)
            else:
                await self._app(scope, receive, answer.send)
        except ApiError as error:
            await answer.fail(error)
        except Exception:
            logger.exception("A request failed.")
            await answer.fail(_vllm_errors.from_response(500, b"", path=path, engine_is_dead=self._engine_is_dead()))
        finally:
            answer.close()
            if usage is not None:
                self._book.close(usage)


class _Answer:
    """What the application sends, made to fit."""

    def __init__(
        self,
        path: str,
        send: Send,
        engine_is_dead: Callable[[], bool],
        keep_alive_s: float,
        usage: Usage | None,
    ) -> None:
        self._path = path
        self._usage = usage
        # Of an answer that is no stream: it waits for what was used.
        self._held: Message | None = None
        self._send = send
        self._engine_is_dead = engine_is_dead
        self._keep_alive_s = keep_alive_s
        self._keeper: asyncio.Task[None] | None = None
        self._last_sent = 0.0
        self._error_status = 0
        self._error_body = b""
        self._is_stream = False
        self._is_begun = False
        self._is_over = False

    async def send(self, message: Message) -> None:
        """Take a message of the application's."""
        if self._is_over:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._error_status:
            self._error_body += message.get("body", b"")
            if not message.get("more_body"):
                await self.fail(self._translated(self._error_status, self._error_body))
        elif self._is_stream and message.get("body", b"").startswith(_ERROR_EVENTS):
            await self.fail(self._translated(500, message["body"]))
        else:
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        """Send a piece of a good answer; around the last one goes what was used, to who wants to know it."""
        usage = self._usage
        if usage is not None:
            usage.answer_begins()
        if self._held is not None:
            assert usage is not None
            self._held["headers"] = [*self._held.get("headers", ()), (USAGE_HEADER, usage.header())]
            await self._send(self._held)
            self._held, self._is_begun = None, True
        elif self._keeper is not None:
            self._last_sent = time.monotonic()
            is_last = not message.get("more_body")
            if usage is not None and usage.is_told and (is_last or message.get("body", b"").startswith(_DONE)):
                message["body"] = usage.comment() + message.get("body", b"")
                self._usage = None
            if is_last:
                self.close()
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """End the answer with an error: the whole of it where nothing was sent, else the last event of a stream."""
        if self._is_over:
            return
        self._is_over = True
        self.close()
        if self._usage is not None and not self._is_begun:
            self._usage.status = error.status
        if self._is_begun:
            body = error.event() if self._is_stream else b""
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
            return
        body = error.body()
        headers = {**error.headers(), "content-length": str(len(body))}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def close(self) -> None:
        """Send nothing more on its own."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    async def _keep_alive(self) -> None:
        """Break each silence of the stream; a comment fits in, as each message of vLLM's is a whole event."""
        self._last_sent = time.monotonic()
        while True:
            rest = self._last_sent + self._keep_alive_s - time.monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
                continue
            self._last_sent = time.monotonic()
            await self._send({"type": "http.response.body", "body": _KEEP_ALIVE, "more_body": True})

    async def _start(self, message: Message) -> None:
        headers = dict(message.get("headers", ()))
        if message["status"] >= 400 and CODE_HEADER.encode() not in headers:
            self._error_status = message["status"]
            return
        self._is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        if self._usage is not None:
            self._usage.status = message["status"]
            if self._usage.is_told and not self._is_stream:
                self._held = message
                return
        self._is_begun = True
        await self._send(message)
        if self._is_stream:
            self._keeper = asyncio.create_task(self._keep_alive())

    def _translated(self, status: int, body: bytes) -> ApiError:
        if self._is_stream:
            status = _status_of(body) or status
        if status >= 500:
            logger.error("The engine failed at %s: %s", self._path, body[:2000].decode(errors="replace"))
        error = _vllm_errors.from_response(status, body, path=self._path, engine_is_dead=self._engine_is_dead())
        # Not in the engine's words below 500: they may be the request's. Who must have them turns on DEBUG.
        logger.debug("The engine said: %s", body[:2000].decode(errors="replace"))
        logger.info("The engine refused %s with %d, parameter %s.", self._path, status, error.param)
        return error


def _status_of(event: bytes) -> int | None:
    """The status in the data of an error event."""
    try:
        error: Any = json.loads(event.split(b"data: ", 1)[1])["error"]
        return int(error["code"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None
