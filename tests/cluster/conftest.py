"""Tests of a running cluster of test hosts, whose hosts they reach into.

``test_faults.py`` breaks things and sees what a client gets: ``./platform faults``, or by hand, with the demo up::

    pytest tests/cluster/test_faults.py --base-url http://198.18.10.13:18080 --network demo

``test_clients.py`` wants a proxy with the clients that Molecule's scenario ``cluster`` gives it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from testhosts import TestHosts

if TYPE_CHECKING:
    from collections.abc import Iterator

# Seconds in which a model must be back after its engine or its worker was killed.
RECOVERY_S = 240.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the address of the proxy and the name of the hosts' network."""
    parser.addoption("--base-url", required=True, help="the proxy, without /v1")
    parser.addoption("--silence-seconds", default=61, type=float, help="how long a stream is silent (default: 61)")
    parser.addoption("--network", required=True, help="name of the test hosts' network, such as demo")


@pytest.fixture(scope="session")
def base_url(pytestconfig: pytest.Config) -> str:
    """The address of the proxy."""
    return str(pytestconfig.getoption("--base-url"))


@pytest.fixture(scope="session")
def hosts(pytestconfig: pytest.Config) -> TestHosts:
    """The hosts: head1, worker1 and proxy1 of the demo's inventory."""
    state = os.environ.get("TESTHOSTS_DIR", Path(__file__).parents[2] / ".cache" / "testhosts")
    return TestHosts(pytestconfig.getoption("--network"), state_dir=Path(state))


@pytest.fixture
def client(base_url: str) -> Iterator[httpx.Client]:
    """Speaks to the proxy, and to no proxy of the control node's environment."""
    with httpx.Client(base_url=base_url, timeout=10, trust_env=False) as session:
        yield session


@pytest.fixture(autouse=True)
def _whole_again(base_url: str) -> Iterator[None]:
    """Begin and end with a cluster in which every model answers."""
    wait_until_ready(base_url)
    yield
    wait_until_ready(base_url)


def wait_until_ready(base_url: str) -> None:
    """Wait until every model answers, on three occasions in a row: HAProxies learn of a replica one after the other."""
    deadline = time.monotonic() + RECOVERY_S
    good = 0
    while good < 3:
        try:
            good = good + 1 if httpx.get(f"{base_url}/health/ready", trust_env=False).status_code == 200 else 0
        except httpx.HTTPError:
            good = 0
        assert time.monotonic() < deadline, "the cluster did not come back"
        time.sleep(1)
