"""Every role has the files and the names of the house style, and its spec and its defaults say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROLES = sorted(path for path in (Path(__file__).parents[2] / "roles").iterdir() if path.is_dir())
FILES = ("defaults/main.yml", "meta/argument_specs.yml", "meta/main.yml", "tasks/main.yml")
# The cluster's variables belong to no single role; preflight holds their spec and defaults.
PREFIXES = {"preflight": ("preflight_", "llm_")}

pytestmark = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def load(file: Path) -> Any:
    """Return a YAML file, or an empty dictionary where there is none."""
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}


def entry_points(role: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return a role's entry points by name."""
    specs: Mapping[str, Mapping[str, Any]] = load(role / "meta/argument_specs.yml")["argument_specs"]
    return specs


def options(role: Path) -> dict[str, Mapping[str, Any]]:
    """Return the options of all entry points of a role."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry_point in entry_points(role).values():
        found |= entry_point.get("options") or {}
    return found


def nested(path: str, found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield options and the options in them, each with its path."""
    for name, option in found.items():
        yield f"{path}{name}", option
        yield from nested(f"{path}{name}.", option.get("options") or {})


def tasks(role: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the tasks of a role, each with its file."""
    for file in sorted((role / "tasks").glob("*.yml")):
        for task in load(file) or []:
            yield file, task


def test_files(role: Path) -> None:
    assert [file for file in FILES if not (role / file).is_file()] == []


def test_meta(role: Path) -> None:
    meta = load(role / "meta/main.yml")
    info = meta["galaxy_info"]
    assert meta["dependencies"] == []
    assert (info["author"], info["license"]) == ("GPU Cluster Platform maintainers", "Apache-2.0")
    assert info["min_ansible_version"] == "2.19"
    supported = {"Debian": {"bookworm", "trixie"}, "Ubuntu": {"jammy", "noble"}}
    assert [
        platform for platform in info["platforms"] if not set(platform["versions"]) <= supported[platform["name"]]
    ] == []


def test_every_default_is_specified(role: Path) -> None:
    assert sorted(set(load(role / "defaults/main.yml")) - set(options(role))) == []


def test_every_optional_argument_with_a_default_has_it_in_defaults(role: Path) -> None:
    defaults = load(role / "defaults/main.yml")
    assert sorted(name for name, option in options(role).items() if "default" in option and name not in defaults) == []


def test_no_required_argument_has_a_default(role: Path) -> None:
    defaults = load(role / "defaults/main.yml")
    assert sorted(name for name, option in options(role).items() if option.get("required") and name in defaults) == []


def test_spec_and_defaults_are_equal(role: Path) -> None:
    specified = {name: option["default"] for name, option in options(role).items() if "default" in option}
    defaults = load(role / "defaults/main.yml")
    assert {name: defaults[name] for name in specified if name in defaults} == {
        name: default for name, default in specified.items() if name in defaults
    }


def test_everything_is_described(role: Path) -> None:
    assert [name for name, entry in entry_points(role).items() if not entry.get("short_description")] == []
    assert [path for path, option in nested("", options(role)) if not option.get("description")] == []
    assert [path for path, option in nested("", options(role)) if "type" not in option] == []


def test_names_have_the_role_s_prefix(role: Path) -> None:
    prefixes = PREFIXES.get(role.name, (f"{role.name}_",))
    assert [name for name in options(role) if not name.startswith(prefixes)] == []
    for file in sorted((role / "vars").glob("*.yml")):
        assert [name for name in load(file) if not name.startswith(f"__{role.name}_")] == [], file


def test_main_is_a_table_of_contents(role: Path) -> None:
    for file, task in tasks(role):
        if file.name == "main.yml":
            actions = set(task) - {"name", "tags", "when", "vars", "become"}
            assert actions <= {"ansible.builtin.import_tasks", "ansible.builtin.import_role"}, task


def test_task_names_start_with_their_file(role: Path) -> None:
    for file, task in tasks(role):
        if file.name != "main.yml":
            assert task["name"].startswith(f"{file.stem} | "), f"{file}: {task['name']}"


def test_no_groups_inside_a_role(role: Path) -> None:
    """A role takes hosts as variables; only plays know groups."""
    for file in sorted(role.rglob("*")):
        if file.suffix in {".yml", ".j2"} and file.parent.name != "meta":
            assert "groups[" not in file.read_text(encoding="utf-8"), file


def test_templates_say_who_manages_them(role: Path) -> None:
    templates = {file: file.read_text(encoding="utf-8") for file in sorted((role / "templates").rglob("*.j2"))}
    parts = {
        name
        for text in (*templates.values(), *(file.read_text(encoding="utf-8") for file in role.rglob("*.yml")))
        for name in re.findall(r"(?:include|import|template',) *'([^']+\.j2)'", text)
    }
    for file in templates:
        if file.name in parts:  # it is put into another file, which says so
            continue
        head = "\n".join(file.read_text(encoding="utf-8").splitlines()[:4])
        assert "ansible_managed | comment" in head, file
        assert role.name in head, file
