"""The HTTP contract, asked of a running service: ``pytest tests/contract --base-url http://host:18080``.

It may be a service in production: the tests find its models themselves, send few tokens and break nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

_HERE = Path(__file__).parent
# Not beside the lock file, where no program may write in an installed copy.
_NODE_CACHE = _HERE.parents[1] / ".cache" / "contract-node"

# The modules beside this one, for the tests and for load.py alike.
sys.path.insert(0, str(_HERE))
pytest.register_assert_rewrite("contract")

from contract import CANARY, Service, chat  # noqa: E402  # the two lines above make it importable

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the address of the service and the key to it."""
    parser.addoption("--base-url", default="http://localhost:18080", help="the service, without /v1")
    key = os.environ.get("LLM_API_KEY", "not-needed")
    parser.addoption("--api-key", default=key, help="the key, where the service wants one; default: LLM_API_KEY's")


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    """The address of the service, without ``/v1``."""
    return str(request.config.getoption("--base-url")).rstrip("/")


@pytest.fixture(scope="session")
def api_key(request: pytest.FixtureRequest) -> str:
    """The key to the service."""
    return str(request.config.getoption("--api-key"))


@pytest.fixture(scope="session")
def service(base_url: str, api_key: str) -> Iterator[Service]:
    """The service, every answer of which is checked."""
    service = Service(base_url, api_key)
    yield service
    service.http.close()


@pytest.fixture(scope="session")
def behind_nginx(service: Service) -> bool:
    """Whether the address is nginx's, and not the gateway's own."""
    return "nginx" in service.http.get("/health/live").headers.get("server", "")


def _first_that(service: Service, path: str, **body: object) -> str:
    models = service.models()
    assert models, "the service lists no model"
    statuses = {model: service.http.post(path, json=chat(model, **body)).status_code for model in models}
    answering = [model for model, status in statuses.items() if status == 200]
    # A model that has another task is one thing, a service that is down another.
    assert answering or set(statuses.values()) <= {400, 404}, f"{path}: {statuses}"
    if not answering:
        pytest.skip(f"no model of this service takes {path}")
    return answering[0]


@pytest.fixture(scope="session")
def chat_model(service: Service) -> str:
    """The first model that chats."""
    return _first_that(service, "/v1/chat/completions")


@pytest.fixture(scope="session")
def embedding_model(service: Service) -> str:
    """The first model that embeds."""
    return _first_that(service, "/v1/embeddings", input=CANARY, messages=..., max_tokens=...)


@pytest.fixture(scope="session")
def context_length(service: Service, chat_model: str) -> int:
    """The context length of the chat model, in tokens."""
    response = service.post("/tokenize", json={"model": chat_model, "prompt": "Hello"})
    if response.status_code != 200:
        pytest.skip("the model doesn't tell its context length")
    return int(response.json()["max_model_len"])


@pytest.fixture(scope="session")
def node_sdk() -> Path:
    """A directory in which a program for Node can import the SDK."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is missing")
    lock = (_HERE / "node" / "package-lock.json").read_bytes()
    installed = _NODE_CACHE / "node_modules" / ".contract-lock.json"
    shutil.copytree(_HERE / "node", _NODE_CACHE, dirs_exist_ok=True)
    if not installed.exists() or installed.read_bytes() != lock:
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=_NODE_CACHE, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        installed.write_bytes(lock)
    return _NODE_CACHE
