"""Tests that ask a running cluster whether it is what its inventory says. They only read.

``playbooks/verify.yml`` writes the two files and runs them. By hand::

    pytest --config-file=tests/infra/pytest.ini tests/infra --hosts=ansible://all \
        --ansible-inventory=INVENTORY --llm-expected=EXPECTED.json
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# By path: where the tests are installed there is no package that they belong to.
_spec = importlib.util.spec_from_file_location("llm_expected", Path(__file__).with_name("expected.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["llm_expected"] = _module
_spec.loader.exec_module(_module)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--llm-expected", metavar="FILE", help="what the inventory promises, as playbooks/verify.yml writes it"
    )


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--llm-expected")
    if file is None:
        raise pytest.UsageError("--llm-expected=FILE is missing: run playbooks/verify.yml, which writes it")
    config.llm_expected = _module.load(file)  # type: ignore[attr-defined]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``url`` is every entrance to the API, ``model`` every model, ``name`` every id and alias."""
    expected = metafunc.config.llm_expected  # type: ignore[attr-defined]
    if "url" in metafunc.fixturenames:
        metafunc.parametrize("url", expected.urls)
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", [model.id for model in expected.models])
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", expected.names)


@pytest.fixture(scope="session")
def expected(pytestconfig: pytest.Config) -> Any:
    return pytestconfig.llm_expected  # type: ignore[attr-defined]


@pytest.fixture
def me(host: Any, expected: Any) -> Any:
    """What is expected of the host that is being asked."""
    return expected.host(host.backend.host)


class Client(httpx.Client):
    """Says in one line that nobody answers, instead of in three tracebacks."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        try:
            return super().send(request, **options)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        pytest.fail(f"{request.method} {request.url}: {reason}", pytrace=False)


@pytest.fixture
def client(url: str, expected: Any) -> Iterator[httpx.Client]:
    """Speaks to one entrance, and to no proxy of the control node's environment."""
    headers = {"Authorization": f"Bearer {expected.api_key}"}
    # Proxies are asked by their addresses, which no certificate needs to name; test_certificate.py looks at it.
    options = {"base_url": url, "headers": headers, "timeout": expected.request_timeout_seconds, "trust_env": False}
    with Client(**options, verify=False) as session:
        yield session
