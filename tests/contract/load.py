"""Thousands of good and bad requests at once, and none of them may be answered outside the contract.

``python tests/contract/load.py --base-url http://host:18080 --requests 10000 --concurrency 32``

Ends with 1 where an answer was outside the contract or another than the request's own, where it was a 5xx other than
503 `overloaded`, where a connection broke, or where the first byte took more than five seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import aiohttp
from contract import CANARY, Answer, chat, strict_json, violations

_FIRST_BYTE_LIMIT_S = 5.0
_TOTAL_LIMIT_S = 60.0
_PROGRESS_S = 5.0
_SHOWN_FAILURES = 20
_CHAT = "/v1/chat/completions"
_LONG = "context_length_exceeded"
# The seed of the mix: the same one every time.
_SEED = 1


@dataclass(frozen=True)
class Request:
    """A kind of request.

    Args:
        name: for the report.
        weight: how many of it there are in the mix, relative to the others.
        path: from the root.
        body: JSON of it is sent; bytes as they are; none with None.
        status: the right one.
        code: the right one of an error.
        method: the HTTP method.
        media_type: of the body.
        cut: the client leaves: ``body`` in the middle of its own body, ``wait`` before an answer comes, ``answer`` in
            the middle of it.
    """

    name: str
    weight: int
    path: str
    body: dict[str, Any] | bytes | None = None
    status: int = 200
    code: str | None = None
    method: str = "POST"
    media_type: str = "application/json"
    cut: str = ""

    @cached_property
    def content(self) -> bytes | None:
        """The body as it is sent."""
        return json.dumps(self.body).encode() if isinstance(self.body, dict) else self.body


@dataclass
class Report:
    """What came of the requests."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    # Seconds to the first byte of an answer, and to its last.
    first_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "-")
    failures: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many requests are over."""
        return self.statuses.total()


def requests_for(model: str) -> list[Request]:
    """The kinds of requests, for a model that chats."""
    long_chat = chat(model, messages=[{"role": "user", "content": "Hello " * 100}], max_tokens=2)
    bad = chat(model, messages=[{"role": CANARY, "content": CANARY}])
    return [
        Request("chat", 20, _CHAT, chat(model, max_tokens=2)),
        Request("chat streamed", 20, _CHAT, chat(model, max_tokens=3, stream=True)),
        Request("chat long", 4, _CHAT, long_chat),
        Request("completion", 4, "/v1/completions", {"model": model, "prompt": CANARY, "max_tokens": 1}),
        Request(
            "completion streamed",
            4,
            "/v1/completions",
            {"model": model, "prompt": "a", "max_tokens": 2, "stream": True},
        ),
        Request("cut stream", 3, _CHAT, chat(model, max_tokens=64, stream=True), cut="answer"),
        Request("cut answer", 2, _CHAT, chat(model, max_tokens=64), cut="wait"),
        Request("cut body", 2, _CHAT, chat(model), cut="body"),
        Request("models", 4, "/v1/models", method="GET"),
        Request("model", 2, f"/v1/models/{model}", method="GET"),
        Request("health", 3, "/health", method="GET"),
        Request("live", 1, "/health/live", method="GET"),
        Request("ready", 1, "/health/ready", method="GET"),
        Request("no body", 2, _CHAT, b"", 400, "invalid_json"),
        Request("no JSON", 2, _CHAT, f'{{"model": "{CANARY}'.encode(), 400, "invalid_json"),
        Request("NaN", 2, _CHAT, json.dumps(chat(model, temperature=float("nan"))).encode(), 400, "invalid_json"),
        Request("deep", 1, _CHAT, b"[" * 100_000 + b"]" * 100_000, 400, "invalid_json"),
        Request("no object", 2, _CHAT, b"[5]", 400, None),
        Request("no model", 2, _CHAT, {"messages": []}, 400, None),
        Request("max_tokens", 3, _CHAT, chat(model, max_tokens=0), 400, None),
        Request("temperature", 3, _CHAT, chat(model, temperature="hot"), 400, None),
        Request("role", 3, _CHAT, bad, 400, None),
        Request("role streamed", 2, _CHAT, bad | {"stream": True}, 400, None),
        Request("context", 1, _CHAT, chat(model, messages=[{"role": "user", "content": "a " * 5_000_000}]), 400, _LONG),
        Request("unknown model", 3, _CHAT, chat(CANARY), 404, "model_not_found"),
        Request("unknown card", 2, f"/v1/models/{CANARY}", None, 404, "model_not_found", "GET"),
        Request("unknown URL", 2, f"/v1/{CANARY}", chat(model), 404, "unknown_url"),
        Request("method", 2, _CHAT, None, 405, "method_not_allowed", "GET"),
        Request("method to read", 1, "/v1/models", {}, 405, "method_not_allowed"),
        Request("media type", 2, _CHAT, chat(model), 415, "unsupported_media_type", media_type="text/plain"),
    ]


class _LeftError(Exception):
    """The client has left, as it was to."""


async def _read(response: aiohttp.ClientResponse, request: Request) -> bytes:
    if request.cut == "answer" and response.status == 200:
        await response.content.readany()
        response.close()
        raise _LeftError
    return await response.read()


async def _leave_early(session: aiohttp.ClientSession, base_url: str, request: Request) -> None:
    """Send half of the request, or all of it, and go away without waiting for the answer."""
    body = request.content or b""

    async def half() -> Any:
        yield body[: len(body) // 2]
        raise _LeftError

    data = half() if request.cut == "body" else body
    headers = {"Content-Type": request.media_type, "Content-Length": str(len(body))}
    try:
        async with asyncio.timeout(0.1):
            async with session.post(base_url + request.path, data=data, headers=headers):
                pass
    except (TimeoutError, aiohttp.ClientError, _LeftError):
        pass


async def ask(session: aiohttp.ClientSession, base_url: str, request: Request, number: int, report: Report) -> None:
    """Make one request and put what came of it into the report."""
    start = time.monotonic()
    if request.cut in ("body", "wait"):
        await _leave_early(session, base_url, request)
        report.statuses[request.name, "left"] += 1
        return
    sent_id = f"load-{number}"
    headers = {"X-Request-Id": sent_id} | ({} if request.body is None else {"Content-Type": request.media_type})
    first_s, outcome, found = 0.0, "broken", []
    try:
        async with session.request(request.method, base_url + request.path, data=request.content, headers=headers) as r:
            first_s = time.monotonic() - start
            outcome = str(r.status)
            names = tuple((name.lower(), value) for name, value in r.headers.items())
            answer = Answer(request.method, request.path, r.status, names, await _read(r, request), sent_id)
            found = [*violations(answer), *_wrong_answer(answer, request)]
            if answer.status == 503:
                outcome += f" {_code(answer)}"
    except _LeftError:
        outcome = "left"
    except (aiohttp.ClientError, TimeoutError) as error:
        first_s = first_s or time.monotonic() - start
        found = [f"{type(error).__name__}: {error}"]
    total_s = time.monotonic() - start
    if first_s > _FIRST_BYTE_LIMIT_S:
        found.append(f"{first_s:.1f} s to the first byte")
    report.statuses[request.name, outcome] += 1
    report.first_s.append(first_s)
    report.total_s.append(total_s)
    report.slowest = max(report.slowest, (total_s, f"{request.name} {sent_id}"))
    report.failures += [f"{request.name} ({sent_id}, {outcome}): {violation}" for violation in found]


def _code(answer: Answer) -> str | None:
    try:
        code: str | None = strict_json(answer.body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code


def _wrong_answer(answer: Answer, request: Request) -> list[str]:
    if answer.status in (429, 503):
        # The service may have enough to do; it must not be down.
        return [] if _code(answer) in ("overloaded", "rate_limit_exceeded") else [f"down: {answer.body[:300]!r}"]
    if answer.status != request.status:
        return [f"{answer.status}, not {request.status}: {answer.body[:300]!r}"]
    if answer.status != 200 and _code(answer) != request.code:
        return [f"the code {_code(answer)!r}, not {request.code!r}"]
    return []


async def _model_of(session: aiohttp.ClientSession, base_url: str) -> str:
    async with session.get(f"{base_url}/v1/models") as response:
        models = [model["id"] for model in (await response.json())["data"]]
    for model in models:
        async with session.post(base_url + _CHAT, json=chat(model)) as response:
            if response.status == 200:
                return str(model)
    raise SystemExit("no model of this service chats")


async def load(base_url: str, api_key: str, requests: int, concurrency: int) -> Report:
    """Make the requests, as many at a time as is asked for."""
    report = Report()
    limits = aiohttp.ClientTimeout(total=_TOTAL_LIMIT_S)
    headers = {"Authorization": f"Bearer {api_key}"}
    async with aiohttp.ClientSession(
        headers=headers, timeout=limits, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        kinds = requests_for(await _model_of(session, base_url))
        mix = random.Random(_SEED).choices(kinds, [kind.weight for kind in kinds], k=requests)
        numbered = iter(enumerate(mix))

        async def worker() -> None:
            for number, request in numbered:
                await ask(session, base_url, request, number, report)

        async def progress() -> None:
            for last in itertools.accumulate(itertools.repeat(_PROGRESS_S)):
                await asyncio.sleep(_PROGRESS_S)
                shown = f"{last:.0f} s: {report.done} of {requests}, {len(report.failures)} failures"
                print(shown, file=sys.stderr, flush=True)

        telling = asyncio.create_task(progress())
        await asyncio.gather(*(worker() for _ in range(concurrency)))
        telling.cancel()
    return report


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)] if values else 0.0


def show(report: Report, seconds: float) -> None:
    """Print the report."""
    for (name, outcome), count in sorted(report.statuses.items()):
        print(f"{name:<20} {outcome:<18} {count:>7}")
    print(f"\n{report.done} requests in {seconds:.1f} s, {report.done / seconds:.1f}/s")
    for name, values in (("first byte", report.first_s), ("last byte", report.total_s)):
        print(f"{name}: p50 {_percentile(values, 50) * 1e3:.0f} ms, p99 {_percentile(values, 99) * 1e3:.0f} ms")
    print(f"slowest: {report.slowest[0]:.2f} s, {report.slowest[1]}")
    print(f"failures: {len(report.failures)}")
    for failure in report.failures[:_SHOWN_FAILURES]:
        print(f"- {failure}")
    if len(report.failures) > _SHOWN_FAILURES:
        print(f"- and {len(report.failures) - _SHOWN_FAILURES} more")


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default="http://localhost:18080", help="the service, without /v1")
    key = os.environ.get("LLM_API_KEY", "not-needed")
    parser.add_argument("--api-key", default=key, help="the key, where the service wants one; default: LLM_API_KEY's")
    parser.add_argument("--requests", type=int, default=10_000, help="how many")
    parser.add_argument("--concurrency", type=int, default=32, help="how many at a time")
    args = parser.parse_args()
    start = time.monotonic()
    try:
        report = asyncio.run(load(args.base_url.rstrip("/"), args.api_key, args.requests, args.concurrency))
    except aiohttp.ClientError as error:
        raise SystemExit(f"the service doesn't answer: {error}") from None
    show(report, time.monotonic() - start)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
