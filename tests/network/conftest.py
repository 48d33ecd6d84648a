"""Tests of the firewall, of HTTP/3, and of the proxies' common address, in the hosts of the scenario ``network``.

By hand, after ``./platform molecule converge -s network``::

    pytest tests/network --network molecule-network
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testhosts import TestHosts


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the name of the hosts' network."""
    parser.addoption("--network", required=True, help="name of the test hosts' network, such as molecule-network")


@pytest.fixture(scope="session")
def hosts(pytestconfig: pytest.Config) -> TestHosts:
    """The hosts: proxy1, proxy2, node1, and outside1, which is none of the cluster's."""
    state = os.environ.get("TESTHOSTS_DIR", Path(__file__).parents[2] / ".cache" / "testhosts")
    return TestHosts(pytestconfig.getoption("--network"), state_dir=Path(state))


@pytest.fixture(scope="session")
def addresses(hosts: TestHosts) -> dict[str, str]:
    """Host to its address."""
    spec = hosts.spec()
    assert spec is not None, "the hosts are not up"
    return {host.name: host.address for host in spec.hosts}
