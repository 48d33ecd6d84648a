"""What each request has used: counted where the engine counts, told to nginx, to Prometheus, and to a book on the node.

The book has one line of JSON for each request that a model answered, in a file for each month. It never holds a prompt,
an answer or a key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from contextvars import ContextVar
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Scope

logger = logging.getLogger("ray.serve")

CLIENT_HEADER = b"x-llm-client"
# Of a response: tokens of the prompt, those of them that were cached, tokens of the completion.
USAGE_HEADER = b"x-llm-usage"
# Whom nobody has named: on Ray Serve's own port, and where no client needs a key.
ANYBODY = "-"

_NAME = re.compile(rb"[a-z0-9][a-z0-9._-]{0,63}\Z")
# Seconds between two looks at an engine that still works for a client that has left, and how many.
_LOOK_S, _LOOKS = 0.1, 300


class Tokens(NamedTuple):
    """Tokens of one request, as the engine counts them.

    Attributes:
        prompt: of the prompts that the engine has read; several answers to one prompt count it as often.
        cached: those of them that it had read before.
        completion: that it made.
    """

    prompt: int
    cached: int
    completion: int


class Work(Protocol):
    """What the engine does for a request: one for each prompt and answer in it."""

    def tokens(self) -> Tokens:
        """What it has counted so far."""

    def is_over(self) -> bool:
        """Whether it counts nothing more."""


class Usage:
    """What one request uses.

    Args:
        scope: of the request; see the ASGI specification.
        path: of the API, such as ``/v1/chat/completions``.

    Attributes:
        is_told: whether who passes the answer on wants to know what was used.
        status: of the response; 499 where the client has left before there was one.
    """

    def __init__(self, scope: Scope, path: str) -> None:
        headers = {name: value for name, value in scope["headers"] if name in (CLIENT_HEADER, b"x-request-id")}
        given = headers.get(CLIENT_HEADER)
        self.is_told = given is not None
        self.client = given.decode() if given is not None and _NAME.match(given) else ANYBODY
        self.request_id = headers.get(b"x-request-id", b"").decode(errors="replace")
        self.path = path
        self.status = 499
        self.began = time.time()
        self._work: list[Work] = []
        self._start = time.monotonic()
        self._first_s: float | None = None
        self._whole_s = 0.0

    def add(self, work: Work) -> None:
        """The engine begins to work for the request."""
        self._work.append(work)

    def answer_begins(self) -> None:
        """The first piece of the answer is there."""
        if self._first_s is None:
            self._first_s = time.monotonic() - self._start

    def request_ends(self) -> None:
        """The request is over, the engine's work for it perhaps not yet."""
        self._whole_s = time.monotonic() - self._start

    def is_over(self) -> bool:
        """Whether the engine works no more for the request."""
        return all(work.is_over() for work in self._work)

    def tokens(self) -> Tokens:
        """What the engine has counted for the request so far."""
        counts = [work.tokens() for work in self._work]
        return Tokens(*(sum(each) for each in zip(*counts, strict=True))) if counts else Tokens(0, 0, 0)

    def header(self) -> bytes:
        """The value of :data:`USAGE_HEADER`."""
        return b"%d %d %d" % self.tokens()

    def comment(self) -> bytes:
        """The same in a stream."""
        return b": usage " + self.header() + b"\n\n"

    def entry(self, model: str) -> dict[str, object]:
        """The request's line in the book."""
        prompt, cached, completion = self.tokens()
        return {
            "time": datetime.fromtimestamp(self.began, timezone.utc).isoformat(timespec="milliseconds"),
            "request_id": self.request_id,
            "client": self.client,
            "model": model,
            "path": self.path,
            "status": self.status,
            "prompt_tokens": prompt,
            "cached_tokens": cached,
            "completion_tokens": completion,
            "first_seconds": None if self._first_s is None else round(self._first_s, 4),
            "seconds": round(self._whole_s, 4),
        }


_of_request: ContextVar[Usage | None] = ContextVar("llm_usage", default=None)


def begin(usage: Usage) -> None:
    """What the engine does from here on, in this context, is done for this request."""
    _of_request.set(usage)


def current() -> Usage | None:
    """The usage of the request in whose context this runs; None outside of any, as in the replica's own first one."""
    return _of_request.get()


class Book:
    """Writes down what requests have used.

    Args:
        model: the model's id.
        directory: where the months' files are; None writes none.
        count: is called with each entry, for metrics.
    """

    def __init__(self, model: str, directory: Path | None, count: Callable[[dict[str, object]], None]) -> None:
        self._model = model
        self._directory = directory
        self._count = count
        self._month = ""
        self._file = -1
        self._is_failing = False
        self._late: set[asyncio.Task[None]] = set()

    def close(self, usage: Usage) -> None:
        """Write a request down that is over, as soon as the engine has stopped too: a client may have left it."""
        usage.request_ends()
        if usage.is_over():
            self._write(usage)
            return
        task = asyncio.create_task(self._write_later(usage))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _write_later(self, usage: Usage) -> None:
        for _ in range(_LOOKS):
            if usage.is_over():
                break
            await asyncio.sleep(_LOOK_S)
        self._write(usage)

    def _write(self, usage: Usage) -> None:
        entry = usage.entry(self._model)
        self._count(entry)
        if self._directory is None:
            return
        try:
            # One write at the end of the file: several replicas of a node share it, and their lines don't mix.
            os.write(self._opened(str(entry["time"])[:7]), json.dumps(entry).encode() + b"\n")
            self._is_failing = False
        except OSError:
            # Once, not with each request: a full disk must not be filled by its own complaints.
            if not self._is_failing:
                logger.exception("What requests use can't be written to %s.", self._directory)
            self._is_failing = True

    def _opened(self, month: str) -> int:
        assert self._directory is not None
        if month != self._month:
            if self._file >= 0:
                os.close(self._file)
                self._file, self._month = -1, ""
            path = self._directory / f"usage-{month}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._month = month
        return self._file


def directory() -> Path | None:
    """Where the book is on this node: what ``LLM_USAGE_DIR`` names."""
    named = os.environ.get("LLM_USAGE_DIR")
    return Path(named) if named else None


# Seconds; of first pieces and of whole answers.
_BOUNDARIES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


def metrics(boundaries: Sequence[float] = _BOUNDARIES) -> Callable[[dict[str, object]], None]:
    """Ray's metrics of what requests use; it needs a running Ray.

    Clients are the inventory's, so their number is known; times go without them.
    """
    from ray.util.metrics import Counter, Histogram

    clients = ("client", "model")
    requests = Counter("llm_requests", "Requests that a model answered.", (*clients, "status"))
    tokens = {
        kind: Counter(f"llm_{kind}_tokens", f"Tokens: {text}.", clients)
        for kind, text in (
            ("prompt", "of prompts"),
            ("cached", "of prompts, read before"),
            ("completion", "of answers"),
        )
    }
    first = Histogram("llm_first_seconds", "Seconds to the first piece of an answer.", list(boundaries), ("model",))
    whole = Histogram("llm_request_seconds", "Seconds to the end of an answer.", list(boundaries), ("model",))

    def count(entry: dict[str, object]) -> None:
        model = {"model": str(entry["model"])}
        client = {"client": str(entry["client"]), **model}
        requests.inc(1, {**client, "status": str(entry["status"])})
        for kind, counter in tokens.items():
            number = entry[f"{kind}_tokens"]
            # Ray refuses to add nothing.
            if isinstance(number, int) and number > 0:
                counter.inc(number, client)
        for histogram, name in ((first, "first_seconds"), (whole, "seconds")):
            seconds = entry[name]
            if isinstance(seconds, float):
                histogram.observe(seconds, model)

    return count
