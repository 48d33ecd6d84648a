"""Keys, limits and usage on a whole cluster, through TLS: what ``molecule/cluster/clients.yml`` has set up."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testhosts import TestHosts

MODEL, OTHER = "demo/tiny-qwen2", "demo/tiny-embed"
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
# What molecule/cluster/clients.yml calls them.
ALICE, BOB, EMBEDDER, SLOW = "alice", "bob", "embedder", "slow"
REQUESTS = 1000
# Where programs write, and are.
PLACES = ["/etc", "/run", "/usr/local", "/opt/llm/app", "/var/lib/llm", "/var/lib/nginx", "/var/log", "/tmp", "/srv"]
# Ray exports its metrics every ten seconds.
EXPORT_S = 25.0
RELOAD_S = 10.0


@pytest.fixture(scope="session")
def keys() -> dict[str, str]:
    """Client to key."""
    return dict(json.loads(os.environ["LLM_CLIENT_KEYS"]))


@pytest.fixture(scope="session")
def context() -> ssl.SSLContext:
    """Trusts the private authority."""
    return ssl.create_default_context(cafile=os.environ["LLM_CA_FILE"])


@pytest.fixture
def http(base_url: str, context: ssl.SSLContext) -> Iterator[httpx.Client]:
    """Speaks TLS to the proxy, without a key."""
    limits = httpx.Limits(max_connections=100)
    with httpx.Client(base_url=base_url, verify=context, timeout=60, trust_env=False, limits=limits) as client:
        yield client


@pytest.fixture(autouse=True)
def _whole_again() -> None:
    """In the place of the tests' of faults, which ask without TLS."""


def chat(key: str, **more: Any) -> dict[str, Any]:
    """Arguments of a short chat."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **more}
    return {"json": body, "headers": {"Authorization": f"Bearer {key}"}}


def test_only_who_has_a_key_is_answered(http: httpx.Client, keys: dict[str, str]) -> None:
    assert http.post(CHAT, **chat("nobody" * 8)).status_code == 401
    assert http.post(CHAT, **chat(keys[ALICE])).status_code == 200
    anthropic = {"model": MODEL, "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
    assert http.post("/v1/messages", json=anthropic, headers={"x-api-key": keys[ALICE]}).status_code == 200
    assert http.get("/health").status_code == 200


def test_a_client_sees_and_uses_its_models_alone(http: httpx.Client, keys: dict[str, str]) -> None:
    mine = {"Authorization": f"Bearer {keys[EMBEDDER]}"}
    assert [model["id"] for model in http.get("/v1/models", headers=mine).json()["data"]] == [OTHER]
    assert http.get(f"/v1/models/{MODEL}", headers=mine).status_code == 404
    assert http.post(CHAT, **chat(keys[EMBEDDER])).json()["error"]["code"] == "model_not_found"
    assert http.post(EMBEDDINGS, json={"model": OTHER, "input": "Hello"}, headers=mine).status_code == 200
    everything = http.get("/v1/models", headers={"Authorization": f"Bearer {keys[ALICE]}"}).json()["data"]
    assert {model["id"] for model in everything} > {MODEL, OTHER}


def test_tokens_are_limited_by_what_the_engine_counts(http: httpx.Client, keys: dict[str, str]) -> None:
    """The client gets 200 tokens in a minute."""
    first = http.post(CHAT, **chat(keys[SLOW], max_tokens=60, ignore_eos=True))
    used = first.json()["usage"]["total_tokens"]
    second = http.post(CHAT, **chat(keys[SLOW], max_tokens=200, ignore_eos=True, stream=True))
    assert second.text.rstrip().endswith("[DONE]")
    assert "usage" not in second.text
    left = int(second.headers["x-ratelimit-remaining-tokens"])
    assert 200 - used <= left <= 200 - used + 40
    refused = http.post(CHAT, **chat(keys[SLOW]))
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    # It has had some 60 and 210 of 200, at 200 a minute.
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def counters(hosts: TestHosts) -> dict[str, int]:
    """Tokens that the engines have counted, as Ray exports them."""
    # On the host itself: the firewall lets nobody else in.
    read = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:18385/metrics').read().decode())"
    text = hosts.execute("worker1", ["python3", "-c", read]).stdout
    found = re.findall(r"^ray_vllm_(prompt|generation)_tokens_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)
    return {kind: int(sum(float(value) for one, value in found if one == kind)) for kind in ("prompt", "generation")}


def book(hosts: TestHosts) -> list[dict[str, Any]]:
    """What the replicas have written down."""
    text = hosts.execute("worker1", ["sh", "-c", "cat /var/lib/llm/usage/usage-*.jsonl"]).stdout
    return [json.loads(line) for line in text.splitlines()]


def added_up(entries: list[dict[str, Any]]) -> dict[str, int]:
    """Tokens of a book's entries."""
    kinds = {"prompt": "prompt_tokens", "generation": "completion_tokens"}
    return {kind: sum(entry[name] for entry in entries) for kind, name in kinds.items()}


def one_of_many(http: httpx.Client, keys: dict[str, str], number: int) -> None:
    """One request of some kind; every eighth client leaves amid its stream."""
    random.seed(number)
    key = keys[random.choice((ALICE, BOB))]
    text = "word " * random.randint(1, 60)
    asked = {"messages": [{"role": "user", "content": text}], "max_tokens": random.randint(1, 12)}
    kind = number % 8
    if kind == 0:
        asked |= {"max_tokens": 300, "ignore_eos": True, "stream": True}
        with http.stream("POST", CHAT, **chat(key, **asked)) as response:
            for _, _line in zip(range(random.randint(1, 20)), response.iter_lines(), strict=False):
                pass
        return
    if kind == 1:
        headers = {"Authorization": f"Bearer {key}"}
        response = http.post(EMBEDDINGS, json={"model": OTHER, "input": [text, "Hello"]}, headers=headers)
    elif kind == 2:
        response = http.post(CHAT, **chat(key, **asked, n=2, temperature=1))
    elif kind == 3:
        # The same prompt again and again, which the engine has read before.
        response = http.post(CHAT, **chat(key, messages=[{"role": "user", "content": "the same " * 200}]))
    elif kind == 4:
        response = http.post(CHAT, **chat(key, **asked, temperature=-1))
        assert response.status_code == 400
        return
    else:
        response = http.post(CHAT, **chat(key, **asked, stream=kind > 5))
    assert response.status_code == 200, response.text


def test_usage_is_what_the_engines_count(http: httpx.Client, hosts: TestHosts, keys: dict[str, str]) -> None:
    time.sleep(EXPORT_S)
    before, entries_before = counters(hosts), len(book(hosts))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: one_of_many(http, keys, number), range(REQUESTS)))
    deadline = time.monotonic() + EXPORT_S
    while True:
        entries = book(hosts)[entries_before:]
        after = counters(hosts)
        counted = {kind: after[kind] - before[kind] for kind in after}
        if (added_up(entries) == counted and len(entries) == REQUESTS) or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert len(entries) == REQUESTS
    assert {entry["client"] for entry in entries} == {ALICE, BOB}
    assert added_up(entries) == counted
    assert min(added_up(entries).values()) > REQUESTS
    assert sum(entry["cached_tokens"] for entry in entries) > 0
    left_early = [entry for entry in entries if entry["path"] == CHAT and 20 < entry["completion_tokens"] < 300]
    assert left_early, "no client left amid its stream"


def test_keys_change_while_64_streams_go_on(
    base_url: str, context: ssl.SSLContext, hosts: TestHosts, keys: dict[str, str]
) -> None:
    """As keys.yml does it: another table, and a reload."""
    body = chat(keys[ALICE], stream=True, max_tokens=1200, ignore_eos=True)
    table = json.loads(hosts.execute("proxy1", ["cat", "/etc/nginx/llm-clients.json"]).stdout)
    added = "added" * 8
    other = json.loads(json.dumps(table))
    other["keys"] = {key: name for key, name in table["keys"].items() if name != BOB}
    other["keys"][hashlib.sha256(added.encode()).hexdigest()] = BOB

    def put(content: dict[str, Any]) -> None:
        text = base64.b64encode(json.dumps(content).encode()).decode()
        command = f"echo {text} | base64 -d >/etc/nginx/llm-clients.json && nginx -t -q && systemctl reload nginx"
        hosts.execute("proxy1", ["sh", "-c", command])

    def stream(_: int) -> list[str]:
        with (
            httpx.Client(base_url=base_url, verify=context, timeout=300, trust_env=False) as client,
            client.stream("POST", CHAT, **body) as response,
        ):
            assert response.status_code == 200
            return [line for line in response.iter_lines() if line.startswith("data: ")]

    def status(key: str) -> int:
        # A connection of its own: an old worker keeps those that it has.
        with httpx.Client(base_url=base_url, verify=context, timeout=60, trust_env=False) as client:
            return client.get("/v1/models", headers={"x-api-key": key}).status_code

    with ThreadPoolExecutor(64) as pool:
        streams = [pool.submit(stream, number) for number in range(64)]
        time.sleep(3)
        try:
            put(other)
            # The streams have both cores, and so the new workers take a moment to start.
            deadline = time.monotonic() + RELOAD_S
            while status(added) != 200 and time.monotonic() < deadline:
                time.sleep(0.2)
            assert status(added) == 200
            assert status(keys[BOB]) == 401
            assert not all(stream.done() for stream in streams), "the streams were over before the change"
        finally:
            put(table)
        answers = [stream.result() for stream in streams]
    assert {answer[-1] for answer in answers} == {"data: [DONE]"}
    assert min(len(answer) for answer in answers) > 600


def test_no_key_is_anywhere(hosts: TestHosts, keys: dict[str, str]) -> None:
    """Not in a log, a unit, a command line, an environment, or any file but memory's own; on any host."""
    pattern = "|".join(keys.values())
    search = f"""
found=$(
  grep -rlE '{pattern}' {" ".join(PLACES)} 2>/dev/null
  journalctl --no-pager --output=cat | grep -E '{pattern}'
  for process in /proc/[0-9]*; do
    [ "$process" = "/proc/$$" ] && continue
    tr '\\0' ' ' <$process/cmdline 2>/dev/null | grep -v 'found=' | grep -E '{pattern}' && echo $process
  done
)
echo "$found"
"""
    for host in ("head1", "worker1", "proxy1"):
        script = base64.b64encode(search.encode()).decode()
        # Through a pipe, so that the search finds itself nowhere.
        found = hosts.execute(host, ["sh", "-c", f"echo {script} | base64 -d | sh"], timeout_seconds=120).stdout
        assert found.strip() == "", f"{host}: {found[:2000]}"
