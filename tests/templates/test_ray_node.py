"""What ray_node puts on a host, as text, and what systemd makes of it."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Render


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="no systemd-tmpfiles here")
@pytest.mark.parametrize(("days", "left"), [(31, ["usage-2026-10.jsonl"]), (0, [])])
def test_old_books_of_usage_go(render: Render, tmp_path: Path, days: int, left: list[str]) -> None:
    """A file's ctime can't be set back, so none is older than 31 days, and all are older than none."""
    books = tmp_path / "usage"
    books.mkdir()
    (books / "usage-2026-10.jsonl").write_text("{}\n")
    rule = tmp_path / "llm-usage.conf"
    rule.write_text(render("ray_node", "llm-usage.conf.j2", ray_node_state_dir=str(tmp_path), ray_node_usage_days=days))
    subprocess.run(["systemd-tmpfiles", "--clean", str(rule)], check=True)
    assert [path.name for path in books.iterdir()] == left
