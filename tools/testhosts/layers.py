"""Layers: paths of a host, kept to be put below the overlays of other hosts."""

from __future__ import annotations

import os
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from .base import base_id
from .errors import BuildError, SpecError
from .mounts import remove_tree
from .shell import run
from .spec import check_layer_key
from .state import Echo, StateDir, read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINK_LIMIT = 40


def _facts(state: StateDir, key: str) -> Path:
    return state.layers / f".{key}.json"


def has_layer(state: StateDir, key: str) -> bool:
    """Whether there is a whole layer of that key, made on a base tree of the present recipe."""
    check_layer_key(key)
    facts = read_json(_facts(state, key))
    return facts is not None and (state.layers / key).is_dir() and facts["base"] == base_id(str(facts["suite"]))


def use_layer(state: StateDir, key: str, suite: str) -> Path:
    """The directory of a layer, noted as used today.

    Raises:
        SpecError: there is no such layer, or it was made on another base tree.
    """
    facts = read_json(_facts(state, key))
    if facts is None or not (state.layers / key).is_dir():
        raise SpecError(
            f"there is no layer {key!r} in {state.layers}; make it with `testhosts commit … --layer {key} PATH…`"
        )
    if facts["base"] != base_id(suite):
        raise SpecError(
            f"layer {key!r} was made on base tree {facts['base']}, not on {base_id(suite)}; "
            "make it again under another key"
        )
    os.utime(_facts(state, key))
    return state.layers / key


def commit(state: StateDir, root: Path, key: str, paths: Sequence[str], suite: str, echo: Echo) -> bool:
    """Copy paths of a host's tree into a new layer; False if the key is there already.

    Ownership, modes, times, links and extended attributes stay. A layer adds and replaces files; it can't remove one.

    Raises:
        SpecError: a path is relative, missing, or the whole tree.
        BuildError: copying failed.
    """
    check_layer_key(key)
    if has_layer(state, key):
        return False
    resolved = [resolve(root, path) for path in paths]
    if not resolved:
        raise SpecError("commit: name at least one path")
    with state.lock(f"layer.{key}", echo):
        if has_layer(state, key):
            return False
        for leftover in state.layers.glob(f".tmp-{key}.*"):
            remove_tree(leftover)
        temporary = state.layers / f".tmp-{key}.{os.getpid()}"
        temporary.mkdir()
        temporary.chmod(0o755)
        try:
            done = run(
                ["env", "-C", str(root), "cp", "-a", "--parents", "--reflink=auto", "--", *resolved, str(temporary)],
                check=False, timeout_seconds=None,
            )  # fmt: skip
            if done.returncode != 0:
                raise BuildError(f"layer {key}: copying failed: {done.stderr.strip()[-2000:]}")
            remove_tree(state.layers / key)
            temporary.rename(state.layers / key)
        except BaseException:
            remove_tree(temporary)
            raise
        write_json(_facts(state, key), {"suite": suite, "base": base_id(suite), "paths": list(paths)})
    return True


def resolve(root: Path, path: str) -> str:
    """A path of a host's tree, relative to its root, with the links in its directories followed inside the tree.

    Copying `/bin/x` as it stands would put a directory `bin` over the host's link to `usr/bin`.

    Raises:
        SpecError: it is relative, missing, or the whole tree.
    """
    if not path.startswith("/"):
        raise SpecError(f"commit: {path!r} is not an absolute path of the host")
    todo = list(PurePosixPath(path).parts[1:])[::-1]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        here = root.joinpath(*done, part)
        if todo and here.is_symlink():
            links += 1
            target = PurePosixPath(here.readlink())
            if links > _LINK_LIMIT:
                raise SpecError(f"commit: {path}: too many links")
            if target.is_absolute():
                done = []
            todo += [piece for piece in target.parts if piece != "/"][::-1]
            continue
        done.append(part)
    if not done:
        raise SpecError("commit: the whole tree can't be a layer; name the paths that matter")
    if not os.path.lexists(root.joinpath(*done)):
        raise SpecError(f"commit: the host has no {path}")
    return str(PurePosixPath(*done))


def prune(state: StateDir, days: float, layers_in_use: set[str], bases_in_use: set[str], echo: Echo) -> None:
    """Remove layers that no network uses and that nothing has used for some days, and base trees of old recipes."""
    limit = time.time() - days * 86400
    for directory in sorted(state.layers.iterdir()):
        key = directory.name
        if key.startswith(".tmp-") and directory.stat().st_mtime < limit:
            remove_tree(directory)
        elif not key.startswith(".") and key not in layers_in_use:
            facts = _facts(state, key)
            if not facts.exists() or facts.stat().st_mtime < limit:
                facts.unlink(missing_ok=True)
                remove_tree(directory)
                echo(f"layer {key}: removed")
    for directory in sorted(state.bases.iterdir()):
        name = directory.name
        if not name.startswith(".") and name != base_id(name.rpartition("-")[0]) and name not in bases_in_use:
            remove_tree(directory)
            echo(f"base {name}: removed (made by an older recipe)")
