"""The repository as a collection: it builds, installs without a network, and runs as `gpu_cluster.platform.site`."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def ansible(program: str, *arguments: str | Path, cwd: Path, collections: Path) -> str:
    """Run one of Ansible's programs as someone who has never seen the checkout; Galaxy can't be reached."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    environment |= {
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_GALAXY_SERVER": "http://127.0.0.1:9",
        "ANSIBLE_HOME": str(cwd / "home"),
        "ANSIBLE_NOCOLOR": "1",
    }
    done = subprocess.run(
        [BIN / program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("build")
    ansible("ansible-galaxy", "collection", "build", REPOSITORY, "--output-path", path, cwd=path, collections=path)
    (built,) = path.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collections")
    # --force: the environment's link to the checkout counts as installed.
    arguments = ("collection", "install", tarball, "-p", path, "--offline", "--force")
    ansible("ansible-galaxy", *arguments, cwd=path, collections=path)
    return path


def members(tarball: Path) -> list[PurePosixPath]:
    with tarfile.open(tarball) as archive:
        return [PurePosixPath(name) for name in archive.getnames()]


def test_the_collection_holds_what_runs_a_cluster_and_nothing_else(tarball: Path) -> None:
    paths = members(tarball)
    tops = {path.parts[0] for path in paths}
    assert {"LICENSE", "README.md", "MANIFEST.json", "meta", "playbooks", "plugins", "roles"} <= tops
    assert not tops & {"molecule", "platform", "pyproject.toml", "tools"}
    hidden = [path for path in paths if any(part.startswith(".") for part in path.parts)]
    assert not hidden, "caches, environments, generated secrets"
    assert not [path for path in paths if path.suffix in {".pyc", ".gz"}]
    assert {path.parts[1] for path in paths if path.parts[0] == "tests" and len(path.parts) > 1} == {"infra"}
    assert any(path.parts[:3] == ("app", "src", "llm_gateway") for path in paths), "the role serve_app installs it"
    assert not any(path.parts[:2] == ("app", "tests") for path in paths)


def test_the_installed_collection_runs_as_site(installed: Path, tmp_path: Path) -> None:
    inventory = installed / "ansible_collections" / "gpu_cluster" / "platform" / "inventories" / "demo"
    assert inventory.is_dir()
    output = ansible(
        "ansible-playbook", "gpu_cluster.platform.site", "-i", inventory, "--list-tasks",
        cwd=tmp_path, collections=installed,
    )  # fmt: skip
    for role in ("preflight", "node_base", "serving_runtime", "ray_node", "serve_app", "nginx_proxy"):
        assert role in output
    ansible(
        "ansible-playbook", "gpu_cluster.platform.site", "-i", inventory, "--syntax-check",
        cwd=tmp_path, collections=installed,
    )  # fmt: skip


def test_requirements_need_no_galaxy(tmp_path: Path) -> None:
    output = ansible(
        "ansible-galaxy", "collection", "install", "-r", REPOSITORY / "requirements.yml",
        cwd=tmp_path, collections=tmp_path / "none",
    )  # fmt: skip
    assert "Nothing to do" in output


def test_requirements_are_what_the_collection_depends_on() -> None:
    galaxy = yaml.safe_load((REPOSITORY / "galaxy.yml").read_text(encoding="utf-8"))
    requirements = yaml.safe_load((REPOSITORY / "requirements.yml").read_text(encoding="utf-8"))
    assert {entry["name"]: entry["version"] for entry in requirements["collections"]} == galaxy["dependencies"]
