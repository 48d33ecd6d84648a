"""The HTTP contract, asked of a running service: ``pytest tests/contract --base-url http://host:18080``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the address of the service."""
    parser.addoption("--base-url", default="http://localhost:18080", help="the service, without /v1")


@pytest.fixture(scope="session")
def base_url(request: pytest.FixtureRequest) -> str:
    """The address of the service, without ``/v1``."""
    return str(request.config.getoption("--base-url"))
