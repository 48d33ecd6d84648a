"""The state directory: where everything that outlives a command is kept, and its locks."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import MachineError, TestHostsError

Echo = Callable[[str], None]

_REPOSITORY = Path(__file__).resolve().parents[2]


def default_state_dir() -> Path:
    """`$TESTHOSTS_DIR`, or `.cache/testhosts` in the repository that this file is in."""
    configured = os.environ.get("TESTHOSTS_DIR")
    return Path(configured).absolute() if configured else _REPOSITORY / ".cache" / "testhosts"


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None if there is no such file.

    Raises:
        TestHostsError: the file holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise TestHostsError(
            f"{path} is damaged ({error}); remove it and run `testhosts down` for its network"
        ) from error
    if not isinstance(data, dict):
        raise TestHostsError(f"{path} is damaged (not an object); remove it and run `testhosts down` for its network")
    return data


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file as a whole: readers see the old text or the new one. A link at `path` is replaced, not followed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(mode)
    temporary.replace(path)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object as a whole."""
    write_atomically(path, json.dumps(data, indent=1, sort_keys=True) + "\n")


def give_to_caller(path: Path) -> None:
    """Under sudo, make a path belong to the user who called sudo."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if uid and gid:
        os.chown(path, int(uid), int(gid), follow_symlinks=False)


@dataclass(frozen=True)
class StateDir:
    """The layout of the state directory.

    `bases/` base trees, `layers/` committed layers, `networks/NAME/` what exists of a network, `ssh/` the key that
    opens every host, `locks/`. Only `ssh/` is open to the user who called sudo.
    """

    root: Path

    def make(self) -> None:
        """Make the directories that are missing.

        Raises:
            MachineError: they can't be made, or the path can't be used in an overlay's mount options.
        """
        if any(character in str(self.root) for character in ":,\\\n"):
            raise MachineError(
                f"state directory {self.root}: a path with a colon, comma or backslash can't hold overlays; "
                "set TESTHOSTS_DIR to another"
            )
        try:
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            for path in missing:
                give_to_caller(path)
            for path in (self.bases, self.layers, self.networks, self.locks):
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise MachineError(
                f"cannot make the state directory {self.root}: {error}; set TESTHOSTS_DIR to another place"
            ) from error

    @property
    def bases(self) -> Path:
        """Base trees, one a suite and recipe."""
        return self.root / "bases"

    @property
    def layers(self) -> Path:
        """Committed layers by key."""
        return self.root / "layers"

    @property
    def networks(self) -> Path:
        """One directory a network."""
        return self.root / "networks"

    @property
    def locks(self) -> Path:
        """Lock files."""
        return self.root / "locks"

    @property
    def ssh_key(self) -> Path:
        """The private key that is authorized for root in every host."""
        return self.root / "ssh" / "id_ed25519"

    def network(self, name: str) -> Path:
        """What exists of one network."""
        return self.networks / name

    @contextmanager
    def lock(self, name: str, echo: Echo) -> Iterator[None]:
        """Hold the lock of that name; wait, and say so, while another process holds it."""
        self.make()
        with (self.locks / f"{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                echo(f"waiting for another testhosts command ({name}) to end")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
