"""The real playbook with real ansible-playbook. The hosts' ssh port is a socket of the test, which counts who calls."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from .conftest import REPO, TOKEN
from .model_configs import LLAMA31_70B

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSIBLE_PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"
CHANGE = """\
- ansible.builtin.import_playbook: {preflight}
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.raw: touch /changed
"""


class Hosts:
    """A port on the loopback that stands for the ssh port of every host. It takes a call, counts it, and hangs up."""

    def __init__(self) -> None:
        self.calls = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.calls += 1
            connection.close()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """The counting hosts."""
    found = Hosts()
    yield found
    found.close()


class Site:
    """An inventory directory, and a playbook that changes hosts after preflight."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        self.all: dict[str, Any] = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "ansible_connection": "ansible.builtin.ssh",
            "llm_models": [{"id": "a/b"}],
            "llm_ray_auth_token": TOKEN,
        }
        self.inventory: dict[str, Any] = {
            "llm_cluster": {
                "children": {"ray_head": {"hosts": {"head1": {}}}, "ray_workers": {"hosts": {"worker1": {}}}}
            },
            "proxies": {"hosts": {"proxy1": {}}},
        }

    def run(self, *arguments: str, inventory: bool = True, playbook: Path | None = None) -> tuple[int, str]:
        """Write the inventory, run the playbook, and return its status and what it said."""
        (self.path / "group_vars").mkdir(exist_ok=True)
        (self.path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": self.inventory}}))
        (self.path / "group_vars/all.yml").write_text(yaml.safe_dump(self.all))
        if playbook is None:
            playbook = self.path.parent / "site.yml"
            playbook.write_text(CHANGE.format(preflight=REPO / "playbooks/preflight.yml"))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_SSH_RETRIES": "0",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOME": str(self.path.parent / "ansible"),
        }
        done = subprocess.run(
            [ANSIBLE_PLAYBOOK, *(["-i", self.path] if inventory else []), playbook, *arguments],
            cwd=REPO,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path, hosts: Hosts) -> Site:
    """A right inventory of counting hosts."""
    (tmp_path / "inventory").mkdir()
    return Site(tmp_path / "inventory", hosts.port)


def test_a_right_inventory_reaches_the_hosts(site: Site, hosts: Hosts) -> None:
    """Else the counts below would mean nothing."""
    status, output = site.run()
    assert "The inventory is consistent." in output
    assert hosts.calls > 0
    assert status != 0
    assert "ansible.builtin.raw" not in output, "a host can't be reached, so none is changed"


def test_a_wrong_inventory_touches_no_host(site: Site, hosts: Hosts) -> None:
    site.all["llm_modles"] = []
    site.all["llm_models"] = [{"id": "a/b", "replica": 2}, {"id": "a/b"}]
    site.all["llm_ray_auth_token"] = "{{ vault_llm_ray_auth_token }}"
    site.all["ray_node_gcs_port"] = 18000
    site.inventory["proxies"] = {"hosts": {"proxy1": {"llm_htp_port": 1}}}
    status, output = site.run()
    assert status != 0
    for line in (
        "6 error(s) in the inventory. No host was touched.",
        "- llm_modles = []: there is no such variable. Did you mean llm_models?",
        "- llm_htp_port = 1: there is no such variable. Did you mean llm_http_port? [host proxy1]",
        "- llm_ray_auth_token can't be rendered: 'vault_llm_ray_auth_token' is undefined.",
        "- llm_models[0].replica = 2: there is no such key. Did you mean replicas?",
        '- llm_models[1].id = "a/b": llm_models[0].id is the same.',
        "- llm_serve_port = 18000 and ray_node_gcs_port = 18000: the same port on one host.",
    ):
        assert line in output
    assert "Check the hosts" not in output
    assert hosts.calls == 0


@pytest.mark.parametrize(
    ("group", "value", "message"),
    [
        ("proxies", {"hosts": {}}, "Group proxies has no host"),
        ("ray_worker", {"hosts": {"worker1": {}}}, "Did you mean ray_workers?"),
    ],
)
def test_wrong_groups_touch_no_host(site: Site, hosts: Hosts, group: str, value: Any, message: str) -> None:
    site.inventory[group] = value
    status, output = site.run()
    assert (status != 0, hosts.calls) == (True, 0)
    assert message in output


def test_no_hosts_are_an_error(site: Site) -> None:
    site.inventory = {"llm_cluster": {}}
    status, output = site.run()
    assert status != 0
    assert "The inventory has no hosts." in output


def test_values_are_rendered_first(site: Site, hosts: Hosts) -> None:
    site.all |= {"port": 70000, "llm_http_port": "{{ port + 1 }}"}
    status, output = site.run()
    assert (status != 0, hosts.calls) == (True, 0)
    assert "llm_http_port = 70001: not a port." in output


def test_extra_variables_are_checked_too(site: Site, hosts: Hosts) -> None:
    status, output = site.run("-e", "llm_http_prt=1", "-e", "llm_http_port=18000")
    assert (status != 0, hosts.calls) == (True, 0)
    assert "Did you mean llm_http_port?" in output


def test_a_secret_is_never_shown(site: Site, hosts: Hosts) -> None:
    site.all["llm_ray_auth_token"] = "sesame"
    status, output = site.run("-vvv")
    assert (status != 0, hosts.calls) == (True, 0)
    assert "llm_ray_auth_token (secret): must be 32 or more" in output
    assert "sesame" not in output


def test_no_inventory_is_an_error(site: Site) -> None:
    status, _ = site.run(inventory=False)
    assert status != 0


@pytest.mark.parametrize("name", ["example", "demo", "localhost"])
def test_the_shipped_inventories_are_right(site: Site, hosts: Hosts, name: str) -> None:
    extra = {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": hosts.port,
        "llm_ray_auth_token": TOKEN,
        "vault_llm_ray_auth_token": TOKEN,
    }
    _, output = site.run("-i", str(REPO / "inventories" / name), "-e", json.dumps(extra), inventory=False)
    assert "The inventory is consistent." in output


def test_other_plays_load_the_defaults_without_a_task(tmp_path: Path) -> None:
    """They are seen in the variables of roles and tasks, and what the inventory sets wins."""
    playbook = tmp_path / "play.yml"
    playbook.write_text("""\
- hosts: localhost
  gather_facts: false
  pre_tasks:
    - name: Load the defaults of the cluster's variables
      ansible.builtin.import_role: {name: preflight, tasks_from: defaults}
  tasks:
    - ansible.builtin.debug: {msg: "{{ llm_root_dir }} {{ llm_http_port }}"}
""")
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("all: {hosts: {localhost: {ansible_connection: local, llm_http_port: 80}}}")
    done = subprocess.run(
        [ANSIBLE_PLAYBOOK, "-i", inventory, playbook], cwd=REPO, check=False, capture_output=True, text=True
    )
    assert "/opt/llm 80" in done.stdout
    assert done.stdout.count("TASK [") == 1


PLAN = REPO / "playbooks/plan.yml"


def test_a_plan_needs_no_host(site: Site, hosts: Hosts) -> None:
    (site.path / "model_configs").mkdir()
    (site.path / "model_configs/a-b.json").write_text(json.dumps(LLAMA31_70B))
    site.all["preflight_gpus"] = [{"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "count": 8}]
    site.all["llm_models"] = [{"id": "a/b", "tensor_parallel_size": 8}]
    status, output = site.run(playbook=PLAN)
    assert status == 0, output
    assert "a/b    1 x 8            NVIDIA A100-SXM4-80GB  16.4 GiB" in output
    assert "Every model fits." in output
    assert "WARNING" not in output
    site.all["llm_models"] = [{"id": "a/b"}]
    status, output = site.run(playbook=PLAN)
    assert status != 0
    assert "Smallest change: set tensor_parallel_size: 4." in output
    assert hosts.calls == 0


def test_a_plan_asks_for_the_gpus(site: Site) -> None:
    status, output = site.run(playbook=PLAN)
    assert status != 0
    assert "Nobody says which GPUs worker1 has. Set preflight_gpus in the inventory" in output
