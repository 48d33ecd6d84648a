"""The checks of the inventory: one wrong thing at a time, and the words of the message that a user needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.clients import digest
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.inventory import inventory_errors

from .conftest import PORT_RANGES, PORTS, Inventory, Unrenderable

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[Inventory], Any]


@pytest.fixture
def errors(inventory: Inventory, roles: dict[str, Any]) -> Callable[[], list[str]]:
    """Check the inventory as the test has changed it."""
    return lambda: inventory_errors(inventory.hostvars, inventory.groups, roles, PORTS, PORT_RANGES)


def models(*changes: dict[str, Any]) -> Change:
    """One model per change, each right but for the change."""
    return lambda inventory: inventory.set("llm_models", [{"id": f"m{n}"} | change for n, change in enumerate(changes)])


def group(name: str, hosts: list[str]) -> Change:
    """The inventory with another group."""
    return lambda inventory: inventory.groups.update({name: hosts})


def var(name: str, value: Any, *hosts: str) -> Change:
    """The inventory with another variable."""
    return lambda inventory: inventory.set(name, value, *hosts)


def no_var(name: str, *hosts: str) -> Change:
    """The inventory without a variable."""
    return lambda inventory: inventory.remove(name, *hosts)


KEY = "k" * 32


def clients(*changes: dict[str, Any], name: str = "c0") -> Change:
    """One client per change, each right but for the change; the first one's name may be another."""
    named = {name if not n else f"c{n}": {"keys": [f"{KEY}{n}"]} | change for n, change in enumerate(changes)}
    return var("llm_api_keys", named)


def autoscaling(least: Any, most: Any, target: Any = 8, **more: Any) -> dict[str, Any]:
    """A model with autoscaling."""
    return {"autoscaling": {"min": least, "max": most, "target_ongoing_requests": target} | more}


CASES: dict[str, tuple[Change, list[str]]] = {
    # Names
    "unknown variable": (var("llm_htp_port", 1), ["llm_htp_port = 1:", "Did you mean llm_http_port?"]),
    "unknown on one host": (var("llm_htp_port", 1, "worker2"), ["Did you mean llm_http_port?", "[host worker2]"]),
    "unknown, nothing near": (var("llm_zzzzzzzzz", 1), ["llm_zzzzzzzzz = 1:", "There are: llm_models,"]),
    "misspelt prefix": (var("lmm_models", []), ["lmm_models:", "Did you mean llm_models?"]),
    "secret without a twin": (
        var("vault_llm_ray_token", "sesame"),
        ["vault_llm_ray_token:", "vault_llm_ray_auth_token?"],
    ),
    "another role's variable": (var("demo_node_gcs_prt", 1), ["role demo_node", "Did you mean demo_node_gcs_port?"]),
    "unknown model key": (
        models({}, {"tensor_paralel_size": 2}),
        ["llm_models[1].tensor_paralel_size = 2:", "Did you mean tensor_parallel_size?"],
    ),
    "unknown nested key": (
        models(autoscaling(1, 2, maximum=3)),
        ["llm_models[0].autoscaling.maximum = 3:", "mean max?"],
    ),
    # Types
    "models no list": (var("llm_models", {"id": "x"}), ["llm_models (a dictionary): must be a list."]),
    "model no dictionary": (var("llm_models", ["x"]), ['llm_models[0] = "x": must be a dictionary.']),
    "number as a string": (models({"replicas": "2"}), ['llm_models[0].replicas = "2": must be a whole number']),
    "boolean for a number": (models({"replicas": True}), ["llm_models[0].replicas = true: must be a whole number"]),
    "string for a boolean": (var("llm_no_log", "false"), ['llm_no_log = "false": must be true or false']),
    "id not a string": (models({"id": 7}), ["llm_models[0].id = 7: must be a string (put it in quotes)."]),
    "no value": (var("llm_service_user", None), ["llm_service_user has no value."]),
    "key without a value": (models({"source": None}), ["llm_models[0].source: has no value."]),
    "wrong choice": (var("llm_accelerator", "cdua"), ['llm_accelerator = "cdua":', "Did you mean cuda?"]),
    "another role's type": (var("demo_node_environment", [1]), ["demo_node_environment = [1]: must be a dictionary."]),
    # Required
    "no models variable": (no_var("llm_models"), ["llm_models is not set", "group_vars/all"]),
    "not set on one host": (no_var("llm_models", "proxy1"), ["llm_models is not set", "[host proxy1]"]),
    "no token": (no_var("llm_ray_auth_token"), ["llm_ray_auth_token is not set", "secrets.token_urlsafe(32)"]),
    "no models": (var("llm_models", []), ["llm_models = []: no models.", "- id:"]),
    "model without an id": (var("llm_models", [{"source": "x"}]), ["llm_models[0].id: missing"]),
    "autoscaling without max": (
        models({"autoscaling": {"min": 1, "target_ongoing_requests": 8}}),
        ["llm_models[0].autoscaling.max: missing"],
    ),
    # Relations of models
    "duplicate id": (models({"id": "x"}, {"id": "x"}), ['llm_models[1].id = "x": llm_models[0].id is the same.']),
    "alias is an id": (
        models({"aliases": ["m1"]}, {}),
        ['llm_models[0].aliases[0] = "m1": llm_models[1].id is the same.'],
    ),
    "alias is its own id": (
        models({"aliases": ["m0"]}),
        ['llm_models[0].aliases[0] = "m0": llm_models[0].id is the same.'],
    ),
    "duplicate alias": (
        models({"aliases": ["x"]}, {"aliases": ["x"]}),
        ['llm_models[1].aliases[0] = "x": llm_models[0].aliases[0] is the same.'],
    ),
    "one slug for two": (
        models({"id": "a.b"}, {"id": "A/b"}),
        ['llm_models[1].id = "A/b": makes the route /m/a-b, as'],
    ),
    "space in an id": (models({"id": "a b"}), ['llm_models[0].id = "a b": can\'t be routed.']),
    "control character in an alias": (
        models({"aliases": ["a\n"]}),
        ['llm_models[0].aliases[0] = "a\\n": can\'t be routed.'],
    ),
    "empty id": (models({"id": ""}), ['llm_models[0].id = "": can\'t be routed.']),
    "relative source": (models({"source": "./m"}), ['llm_models[0].source = "./m":', "A path begins with /."]),
    "home as a source": (models({"source": "~/m"}), ['llm_models[0].source = "~/m":', "A path begins with /."]),
    "dots in a path": (models({"source": "/a/../b"}), ['llm_models[0].source = "/a/../b": not a plain absolute path.']),
    "replicas and autoscaling": (
        models({"replicas": 1} | autoscaling(1, 2)),
        ["llm_models[0].replicas = 1: autoscaling is given too"],
    ),
    "min above max": (models(autoscaling(3, 2)), ["llm_models[0].autoscaling.min = 3: greater than max = 2."]),
    "negative min": (models(autoscaling(-1, 2)), ["llm_models[0].autoscaling.min = -1: too small. Use 0 or more."]),
    "no replicas at all": (models(autoscaling(0, 0)), ["llm_models[0].autoscaling.max = 0: too small. Use 1 or more."]),
    "no target": (models(autoscaling(1, 2, 0)), ["target_ongoing_requests = 0: too small."]),
    "zero replicas": (models({"replicas": 0}), ["llm_models[0].replicas = 0: too small. Use 1 or more."]),
    "zero GPUs": (models({"tensor_parallel_size": 0}), ["llm_models[0].tensor_parallel_size = 0: too small."]),
    "queue below no limit": (
        models({"max_queued_requests": -2}),
        ["max_queued_requests = -2: too small. Use -1 or more."],
    ),
    "number in an environment": (models({"env": {"A": 1}}), ["llm_models[0].env.A", "must be a string"]),
    "bad environment name": (
        models({"env": {"A-B": "1"}}),
        ["llm_models[0].env", "not a name of an environment variable"],
    ),
    # Other values
    "short token": (
        lambda inventory: inventory.set("llm_ray_auth_token", "sesame"),
        ["llm_ray_auth_token (secret):", "has 6 characters", "secrets.token_urlsafe(32)"],
    ),
    "token with a space": (var("llm_ray_auth_token", "sesame " * 6), ["llm_ray_auth_token (secret):"]),
    "client no dictionary": (
        var("llm_api_keys", {"x": "sesame"}),
        ["llm_api_keys.x (secret): must be a dictionary."],
    ),
    "client's name": (clients({}, name="Al ice"), ["llm_api_keys.Al ice (secret): not a name for a client."]),
    "verify's name": (clients({}, name="verify"), ["llm_api_keys.verify (secret): this name is verify's own."]),
    "client without keys": (var("llm_api_keys", {"x": {}}), ["llm_api_keys.x.keys (secret): missing"]),
    "no keys": (clients({"keys": []}), ["llm_api_keys.c0.keys (secret): has 0 keys. Give one, or two"]),
    "three keys": (clients({"keys": [KEY, KEY + "1", KEY + "2"]}), ["llm_api_keys.c0.keys (secret): has 3 keys."]),
    "short key": (
        clients({"keys": ["sesame"]}),
        ["llm_api_keys.c0.keys[0] (secret): must be 32 to 256", "6 characters", "playbooks/keys.yml -e client=c0"],
    ),
    "short digest": (clients({"keys": ["sha256:" + "a" * 63]}), ["llm_api_keys.c0.keys[0] (secret): must be"]),
    "one key for two": (
        clients({"keys": [KEY]}, {"keys": [KEY]}),
        ["llm_api_keys.c1.keys[0] (secret): llm_api_keys.c0.keys[0] is the same."],
    ),
    "a key and its digest": (
        clients({"keys": [KEY]}, {"keys": [f"sha256:{digest(KEY)}"]}),
        ["llm_api_keys.c1.keys[0] (secret): llm_api_keys.c0.keys[0] is the same."],
    ),
    "no day": (clients({"expires": "2027-02-30"}), ["llm_api_keys.c0.expires (secret): not a day."]),
    "unknown key of a client": (
        clients({"requests_per_minut": 5}),
        ["llm_api_keys.c0.requests_per_minut (secret):", "Did you mean requests_per_minute?"],
    ),
    "client's unknown model": (
        clients({"models": ["A/b"]}),
        ['llm_models has no "A/b".', "Did you mean a/b?"],
    ),
    "no requests": (
        clients({"requests_per_minute": 0}),
        ["llm_api_keys.c0.requests_per_minute (secret): too small. Use 1 or more"],
    ),
    "burst alone": (var("llm_limits", {"burst": 5}), ["llm_limits.burst = 5: there is no requests_per_minute"]),
    "unknown limit": (var("llm_limits", {"rpm": 5}), ["llm_limits.rpm = 5: there is no such key."]),
    "no address for the proxies": (
        var("llm_virtual_address", "10.0.0"),
        ['llm_virtual_address = "10.0.0": not an address that a host can have.', "192.0.2.10"],
    ),
    "loopback for the proxies": (
        var("llm_virtual_address", "127.0.0.1"),
        ['llm_virtual_address = "127.0.0.1": not an address that a host can have.'],
    ),
    "one proxy with a virtual address": (
        var("llm_virtual_address", "10.0.0.9/24"),
        ['llm_virtual_address = "10.0.0.9/24": group proxies has one host (proxy1)', "Put another host in proxies"],
    ),
    "virtual address is a host's": (
        lambda inventory: (
            inventory.groups.update(proxies=["proxy1", "worker2"]),
            inventory.set("llm_virtual_address", "10.0.0.9/24"),
            inventory.set("llm_address", "10.0.0.9", "worker1"),
        ),
        ['llm_virtual_address = "10.0.0.9/24": this is the llm_address of host worker1.', "Choose a free address"],
    ),
    "no network": (
        var("firewall_trusted_networks", ["10.0.0.1", "10.0.0.1/8"]),
        ['firewall_trusted_networks[1] = "10.0.0.1/8": not an address', "has host bits set"],
    ),
    "everybody is trusted": (
        var("firewall_trusted_networks", ["0.0.0.0/0"]),
        ['firewall_trusted_networks[0] = "0.0.0.0/0": this is everybody.'],
    ),
    "no open port": (var("firewall_open_tcp_ports", [80, "9-7"]), ['firewall_open_tcp_ports[1] = "9-7": neither']),
    "no time to connect": (var("firewall_rollback_seconds", 3), ["firewall_rollback_seconds = 3: out of range."]),
    "router id of two bytes": (var("keepalived_router_id", 256), ["keepalived_router_id = 256: out of range."]),
    "books of less than a month": (var("ray_node_usage_days", 30), ["ray_node_usage_days = 30: less than a month."]),
    "root as the user": (var("llm_service_user", "root"), ['llm_service_user = "root":']),
    "relative directory": (var("llm_root_dir", "opt/llm"), ['llm_root_dir = "opt/llm": not an absolute path']),
    "the root as a directory": (var("llm_state_dir", "/"), ['llm_state_dir = "/": not an absolute path']),
    "differs between hosts": (
        var("llm_serve_port", 18001, "worker1"),
        ["llm_serve_port differs between hosts: 18000 on head1, worker2, proxy1; 18001 on worker1.", "group_vars/all"],
    ),
    "can't be rendered": (
        lambda inventory: inventory.hostvars.update(
            {host: Unrenderable(found, "llm_ray_auth_token") for host, found in inventory.hostvars.items()}
        ),
        ["llm_ray_auth_token can't be rendered: 'vault_llm_ray_auth_token' is undefined.", "token_urlsafe"],
    ),
    # Ports
    "port out of range": (var("llm_http_port", 65536), ["llm_http_port = 65536: not a port."]),
    "port zero": (var("llm_http_port", 0), ["llm_http_port = 0: not a port."]),
    "same port": (
        var("llm_http_port", 18443),
        ["llm_http_port = 18443 and llm_https_port = 18443: the same port on one host.", "[host proxy1]"],
    ),
    "same port, another role": (
        var("llm_dashboard_port", 18379),
        ["llm_dashboard_port = 18379 and demo_node_gcs_port = 18379: the same port on one host.", "[host head1]"],
    ),
    "another role's port out of range": (var("demo_node_gcs_port", 70000), ["demo_node_gcs_port = 70000: not a port."]),
    "port in a range": (
        var("llm_serve_port", 20500),
        ["llm_serve_port = 20500 and demo_node_first_port = 20000 to demo_node_last_port = 20999: the same port"],
    ),
    "range upside down": (var("demo_node_first_port", 21000), ["demo_node_first_port = 21000 to", "Exchange the two."]),
    # Groups
    "no head": (
        lambda inventory: inventory.groups.update(ray_head=[], llm_cluster=["worker1", "worker2"]),
        ["Group ray_head has no host: a cluster has exactly one head."],
    ),
    "two heads": (
        lambda inventory: inventory.groups.update(ray_head=["head1", "worker1"], ray_workers=["worker2"]),
        ["Group ray_head has 2 hosts (head1, worker1): a cluster has exactly one head."],
    ),
    "no proxies": (group("proxies", []), ["Group proxies has no host"]),
    "head not in the cluster": (
        group("llm_cluster", ["worker1", "worker2"]),
        ["Host head1 is in ray_head but not in llm_cluster."],
    ),
    "head is a worker": (
        group("ray_workers", ["head1", "worker1", "worker2"]),
        ["Host head1 is in ray_head and in ray_workers."],
    ),
    "neither head nor worker": (group("ray_workers", ["worker1"]), ["Host worker2 is in llm_cluster but neither in"]),
    "misspelt group": (
        group("ray_worker", ["worker1"]),
        ["Group ray_worker: there is no such group. Did you mean ray_workers?"],
    ),
}


@pytest.mark.parametrize(("change", "parts"), CASES.values(), ids=CASES.keys())
def test_one_wrong_thing_is_one_error(
    inventory: Inventory, errors: Callable[[], list[str]], change: Callable[[Inventory], Any], parts: list[str]
) -> None:
    change(inventory)
    found = errors()
    assert len(found) == 1, found
    assert [part for part in parts if part not in found[0]] == []
    assert "sesame" not in found[0]


RIGHT: dict[str, Change] = {
    "as it is": lambda _inventory: None,
    "-e gives strings": var("llm_http_port", "18081"),
    "own group": group("datacentre_2", ["worker1"]),
    "own variable": var("vllm_http_port", "x"),
    "a role's prefix is a common word": var("demo_node_favourite_colour", "blue"),
    "one host for everything": lambda inventory: inventory.groups.update(
        llm_cluster=["head1"], ray_head=["head1"], ray_workers=[], proxies=["head1"], all=["head1"]
    ),
    "address per host": var("llm_address", "10.0.0.1", "head1"),
    "address by facts": lambda inventory: inventory.hostvars.update(
        head1=Unrenderable(inventory.hostvars["head1"], "llm_address")
    ),
    "a host outside the cluster": lambda inventory: (
        inventory.groups["all"].append("other"),
        inventory.hostvars.update(other={"inventory_hostname": "other"}),
    ),
    "autoscaling to zero": models(autoscaling(0, 4, 0.5)),
    "engine is vLLM's business": models({"engine": {"anything": [1, {"x": None}]}}),
}


@pytest.mark.parametrize("change", RIGHT.values(), ids=RIGHT.keys())
def test_right_inventories_have_no_error(
    inventory: Inventory, errors: Callable[[], list[str]], change: Callable[[Inventory], Any]
) -> None:
    change(inventory)
    assert errors() == []


def test_all_errors_come_at_once(inventory: Inventory, errors: Callable[[], list[str]]) -> None:
    inventory.set("llm_htp_port", 1)
    inventory.set("llm_models", [{"id": "x", "replica": 1}, {"id": "x"}])
    inventory.groups["proxies"] = []
    assert len(errors()) == 4


def test_no_hosts(roles: dict[str, Any]) -> None:
    assert inventory_errors({}, {"all": [], "ungrouped": []}, roles) == [
        "The inventory has no hosts. Give one with -i, for example -i inventories/example.",
    ]


def test_secrets_of_an_environment_are_not_shown(inventory: Inventory, errors: Callable[[], list[str]]) -> None:
    inventory.set("llm_models", [{"environment": {"HF_TOKEN": "sesame"}, "env": {"HF_TOKEN": ["sesame"]}}])
    assert len(errors()) == 3
    assert "sesame" not in "".join(errors())
