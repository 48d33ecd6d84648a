"""The marker of the tests that boot real hosts: leave them out with `-m "not hosts"`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "hosts: boots real hosts; needs root, and takes half a minute")
