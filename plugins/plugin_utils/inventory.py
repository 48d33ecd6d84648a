# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with an inventory, found without any host.

Names, types, choices, requirements and defaults come from the roles' argument specs (lookup ``role_specs``). Only
relations, which a spec can't say, are written here and in :mod:`.relations`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from .certificates import certificate_errors, is_address
from .findings import Findings, as_text, did_you_mean, nearest, rendered, reporter, shown, shown_variable
from .option_values import UNUSABLE, checked, unquoted_number
from .relations import MAKE_TOKEN, RELATIONS, TOKEN_NAME, address_of, check_port_number

Groups = Mapping[str, Sequence[str]]
Hostvars = Mapping[str, Mapping[str, Any]]
Roles = Mapping[str, Mapping[str, Mapping[str, Any]]]
PREFIX = "llm_"
VAULT_PREFIX = "vault_llm_"
OWNER = "preflight"
# Not one value for the whole cluster; and its default needs facts.
PER_HOST = frozenset({"llm_address"})
HEAD, WORKERS, CLUSTER, PROXIES = "ray_head", "ray_workers", "llm_cluster", "proxies"
GROUPS = (HEAD, WORKERS, CLUSTER, PROXIES, "monitoring")
MISTYPED_PREFIX = re.compile(r"(vault_)?[lm]{2,4}_")
SOURCE, NAMES = "llm_tls_source", "llm_server_names"
# What the source `files` takes, in the role tls_certificate.
GIVEN: Mapping[str, str] = {
    "tls_certificate_chain": "the certificate in PEM, and after it the intermediates.",
    "tls_certificate_key": "its private key in PEM. Keep it in the vault, as vault_llm_tls_certificate_key.",
}


def inventory_errors(
    hostvars: Hostvars,
    groups: Groups,
    roles: Roles,
    ports: Mapping[str, Sequence[str]] | None = None,
    port_ranges: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return every error of an inventory, each with the variable, the value and the fix.

    Args:
        hostvars: host name to its variables. A variable that can't be rendered raises when it's read.
        groups: group name to its hosts.
        roles: role name to ``options`` and ``defaults``, as the lookup ``role_specs`` returns them.
        ports: name of a port's variable to the hosts that listen on it.
        port_ranges: ``first`` and ``last``, names of variables, and ``hosts``.
    """
    findings = Findings()
    spec = {name: option for name, option in roles[OWNER]["options"].items() if name.startswith(PREFIX)}
    hosts = [str(host) for host in groups.get("all", ())]
    members = sorted({host for name in GROUPS for host in groups.get(name, ())}, key=hosts.index)

    check_groups(groups, hosts, findings)
    check_names(hostvars, hosts, spec, roles, findings)
    values = {host: read(hostvars[host], host, spec, findings) for host in hosts}
    check_required(values, members or hosts, spec, findings)
    check_one_value(values, members, spec, roles[OWNER]["defaults"], findings)
    check_values(values, spec, findings)
    check_clients_models(values, findings)
    check_certificate(hostvars, groups, values, roles[OWNER]["defaults"], findings)
    check_proxies_address(values, list(groups.get(PROXIES, ())), findings)
    check_other_roles(hostvars, hosts, roles, findings)
    check_ports(hostvars, roles, ports or {}, port_ranges, findings)
    return findings.texts(hosts)


def check_groups(groups: Groups, hosts: Sequence[str], findings: Findings) -> None:
    """Find groups that are missing, misspelt, or don't fit together."""
    if not hosts:
        findings.add("The inventory has no hosts. Give one with -i, for example -i inventories/example.")
        return
    for name in groups:
        if name not in (*GROUPS, "all", "ungrouped") and (near := nearest(str(name), GROUPS, 0.8)):
            findings.add(f"Group {name}: there is no such group. Did you mean {near}?")
    heads, workers = list(groups.get(HEAD, ())), list(groups.get(WORKERS, ()))
    cluster, proxies = list(groups.get(CLUSTER, ())), list(groups.get(PROXIES, ()))
    if len(heads) != 1:
        has = f"has {len(heads)} hosts ({', '.join(heads)})" if heads else "has no host"
        findings.add(
            f"Group {HEAD} {has}: a cluster has exactly one head. Leave one host in {HEAD}; put others in {WORKERS}."
        )
    if not proxies:
        findings.add(f"Group {PROXIES} has no host: nothing would answer users. Put a host in it; the head may be one.")
    for host in heads:
        if host in workers:
            findings.add(
                f"Host {host} is in {HEAD} and in {WORKERS}. Take it out of {WORKERS};"
                " a head without workers runs the models."
            )
    for name, members in ((HEAD, heads), (WORKERS, workers)):
        for host in members:
            if host not in cluster:
                findings.add(f"Host {host} is in {name} but not in {CLUSTER}. Make {name} a child group of {CLUSTER}.")
    for host in cluster:
        if host not in heads and host not in workers:
            findings.add(f"Host {host} is in {CLUSTER} but neither in {HEAD} nor in {WORKERS}. Put it in one of them.")


def check_names(
    hostvars: Hostvars, hosts: Sequence[str], spec: Mapping[str, Any], roles: Roles, findings: Findings
) -> None:
    """Find variables that no role knows.

    Under ``llm_`` every unknown name is an error. A role's prefix may be a common word, so there only a near miss is.
    """
    twins = [f"vault_{name}" for name in spec]
    twins += [
        f"{VAULT_PREFIX}{name}"
        for role in roles.values()
        for name, option in role["options"].items()
        if option.get("no_log") and not name.startswith(PREFIX)
    ]
    for host in hosts:
        for name in map(str, hostvars[host]):
            if name in spec or name in twins:
                continue
            if name.startswith(VAULT_PREFIX):
                findings.add(f"{name}: no variable takes this secret. {did_you_mean(name, twins)}", [host])
            elif name.startswith(PREFIX):
                findings.add(
                    f"{name}{shown_variable(hostvars[host], name)}: there is no such variable."
                    f" {did_you_mean(name, spec)}",
                    [host],
                )
            elif MISTYPED_PREFIX.match(name) and (near := nearest(name, (*spec, *twins), 0.9)):
                findings.add(f"{name}: there is no such variable. Did you mean {near}?", [host])
            elif (
                (role := role_of(name, roles))
                and name not in roles[role]["options"]
                and (near := nearest(name, roles[role]["options"], 0.85))
            ):
                findings.add(f"{name}: role {role} has no such variable. Did you mean {near}?", [host])


def read(variables: Mapping[str, Any], host: str, spec: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Return the cluster variables of a host, rendered; ``UNUSABLE`` where that fails."""
    values: dict[str, Any] = {}
    for name in spec:
        if name not in variables:
            continue
        try:
            values[name] = rendered(variables, name)
        except Exception as error:  # whatever a template, a lookup or a vault raises
            if name in PER_HOST:  # it may need facts; the checks of the hosts see it
                continue
            fix = f"Set what it refers to. {MAKE_TOKEN if name == TOKEN_NAME else ''}".rstrip()
            findings.add(f"{name} can't be rendered: {str(error).rstrip('.')}. {fix}", [host])
            values[name] = UNUSABLE
        else:
            if values[name] is None:
                findings.add(f"{name} has no value. Give it one, or remove the line.", [host])
                values[name] = UNUSABLE
    return values


def check_required(
    values: Mapping[str, Mapping[str, Any]], members: Sequence[str], spec: Mapping[str, Any], findings: Findings
) -> None:
    """Find hosts for which a required variable is not set."""
    for name, option in spec.items():
        missing = [host for host in members if option.get("required") and name not in values[host]]
        if missing:
            fix = MAKE_TOKEN if name == TOKEN_NAME else "Set it in the inventory's group_vars/all."
            findings.add(f"{name} is not set, and it is required. {fix}", missing)


def check_one_value(
    values: Mapping[str, Mapping[str, Any]],
    members: Sequence[str],
    spec: Mapping[str, Any],
    defaults: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Find cluster variables that are not the same on all hosts of the cluster."""
    for name, option in spec.items():
        if name in PER_HOST:
            continue
        hosts_by_value: dict[str, list[str]] = defaultdict(list)
        for host in members:
            value = values[host].get(name, defaults.get(name, UNUSABLE))
            if value is not UNUSABLE:
                hosts_by_value[as_text(value)].append(host)
        if len(hosts_by_value) > 1:
            found = "; ".join(
                f"{'one' if option.get('no_log') else shown(name, json.loads(value)).removeprefix(' = ').strip()}"
                f" on {', '.join(hosts)}"
                for value, hosts in hosts_by_value.items()
            )
            findings.add(f"{name} differs between hosts: {found}. Set it once, in the inventory's group_vars/all.")


def check_values(values: Mapping[str, Mapping[str, Any]], spec: Mapping[str, Any], findings: Findings) -> None:
    """Check each distinct value once, against the spec and then its relations."""
    for name, option in spec.items():
        distinct: dict[str, tuple[Any, list[str]]] = {}
        for host, variables in values.items():
            if variables.get(name, UNUSABLE) is not UNUSABLE:
                distinct.setdefault(as_text(variables[name]), (variables[name], []))[1].append(host)
        for value, hosts in distinct.values():
            say = reporter(findings, hosts, secret=bool(option.get("no_log")))
            usable = checked(name, unquoted_number(value, option), option, say)
            if usable is UNUSABLE:
                continue
            if name.endswith("_port"):
                check_port_number(name, usable, say)
            if name in RELATIONS:
                RELATIONS[name](name, usable, say)


def check_certificate(
    hostvars: Hostvars,
    groups: Groups,
    values: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Any],
    findings: Findings,
) -> None:
    """Find a source of certificates that lacks names, or the certificate itself."""
    for host in groups.get(PROXIES, ()):
        source = values[host].get(SOURCE, defaults.get(SOURCE))
        names = values[host].get(NAMES, defaults.get(NAMES))
        if not isinstance(source, str) or not isinstance(names, (list, tuple)):  # noted by check_values()
            continue
        names = [name for name in names if isinstance(name, str)]
        say = reporter(findings, [])
        if source in ("private_ca", "acme") and not names:
            say(
                NAMES,
                names,
                f'no names, and {SOURCE} = "{source}" needs them. List what users write, for example:'
                f" {NAMES}: [llm.example.org]",
            )
        if source == "acme":
            for number, name in enumerate(names):
                if is_address(name) or name.startswith("*"):
                    say(
                        f"{NAMES}[{number}]",
                        name,
                        "an ACME server asks on port 80 of a whole DNS name, so it gives no certificate for this."
                        f" Remove it, or choose another {SOURCE}.",
                    )
        if source == "files":
            check_files(hostvars[host], host, names, findings)


def check_files(variables: Mapping[str, Any], host: str, names: Sequence[str], findings: Findings) -> None:
    """Find a given certificate that is missing, or doesn't fit."""
    found = {}
    for name, what in GIVEN.items():
        try:
            found[name] = str(rendered(variables, name)) if name in variables else ""
        except Exception as error:  # whatever a template, a lookup or a vault raises
            findings.add(f"{name} can't be rendered: {str(error).rstrip('.')}. Set what it refers to.", [host])
            continue
        if not found[name]:
            findings.add(f'{name} is not set, and {SOURCE} = "files" needs it: {what}', [host])
    if len(found) == len(GIVEN) and all(found.values()):
        for text in certificate_errors(*found.values(), names):
            findings.add(text, [host])


def check_other_roles(hostvars: Hostvars, hosts: Sequence[str], roles: Roles, findings: Findings) -> None:
    """Check the variables of the other roles against their specs, as far as they can be rendered without facts."""
    for host in hosts:
        for name in map(str, hostvars[host]):
            role = role_of(name, roles)
            option = roles[role]["options"].get(name) if role else None
            if option is None or option.get("type", "str") in ("str", "path"):  # Ansible makes a string of anything
                continue
            try:
                value = rendered(hostvars[host], name)
            except Exception:  # may need facts
                continue
            say = reporter(findings, [host], secret=bool(option.get("no_log")))
            usable = checked(name, unquoted_number(value, option), option, say)
            if usable is not UNUSABLE and name in RELATIONS:
                RELATIONS[name](name, usable, say)


def check_proxies_address(values: Mapping[str, Mapping[str, Any]], proxies: Sequence[str], findings: Findings) -> None:
    """The address that proxies share needs two of them, and is no host's own."""
    found = {values[host].get("llm_virtual_address", "") for host in proxies}
    text = found.pop() if len(found) == 1 else ""
    address = address_of(text)
    if address is None:
        return  # none, or noted already
    say = reporter(findings, ())
    if len(proxies) < 2:
        say(
            "llm_virtual_address",
            text,
            f"group {PROXIES} has one host ({proxies[0]}), and an address can only move between two or more."
            f" Put another host in {PROXIES}, or remove the variable.",
        )
    for host, variables in values.items():
        if address == address_of(variables.get("llm_address")):
            say(
                "llm_virtual_address",
                text,
                f"this is the llm_address of host {host}. Choose a free address in the network of the proxies.",
            )


def check_ports(
    hostvars: Hostvars,
    roles: Roles,
    ports: Mapping[str, Sequence[str]],
    port_ranges: Sequence[Mapping[str, Any]],
    findings: Findings,
) -> None:
    """Find ports that two variables claim on one host."""
    claims: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for host, numbers in ports_by_host(hostvars, roles, ports).items():
        claims[host] += [(port, port, f"{name} = {port}") for name, port in numbers.items()]
        for name, port in numbers.items():
            if not name.startswith(PREFIX):
                check_port_number(name, port, reporter(findings, [host]))
    for port_range in port_ranges:
        for host in port_range["hosts"]:
            first = port_of(hostvars[host], roles, port_range["first"])
            last = port_of(hostvars[host], roles, port_range["last"])
            if first is None or last is None:
                continue
            name = f"{port_range['first']} = {first} to {port_range['last']} = {last}"
            if first > last:
                findings.add(f"{name}: the first is greater than the last. Exchange the two.", [host])
            claims[host].append((first, last, name))
    for host, claimed in claims.items():
        for one, other in itertools.combinations(claimed, 2):
            if one[0] <= other[1] and other[0] <= one[1]:
                findings.add(f"{one[2]} and {other[2]}: the same port on one host. Change one of the two.", [host])


def ports_by_host(hostvars: Hostvars, roles: Roles, ports: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return for each host the port numbers that the platform listens on, by the name of their variable."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for name, hosts in ports.items():
        for host in hosts:
            port = port_of(hostvars[host], roles, name)
            if port is not None:
                found[host][name] = port
    return found


def port_of(variables: Mapping[str, Any], roles: Roles, name: str) -> int | None:
    """Return a port: the inventory's, else the default of the role that owns it; None where it isn't a number."""
    owner = role_of(name, roles) or OWNER
    try:
        value = rendered(variables, name) if name in variables else roles[owner]["defaults"].get(name)
    except Exception:  # noted by read()
        return None
    value = unquoted_number(value, {"type": "int"})
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def check_clients_models(values: Mapping[str, Mapping[str, Any]], findings: Findings) -> None:
    """Find models that a client may use and that there are not."""
    for host, variables in values.items():
        models, clients = variables.get("llm_models", UNUSABLE), variables.get("llm_api_keys", UNUSABLE)
        if not isinstance(models, (list, tuple)) or not isinstance(clients, Mapping):
            continue
        names = [
            name
            for model in models
            if isinstance(model, Mapping)
            for name in (model.get("id"), *(model.get("aliases") or ()))
            if isinstance(name, str)
        ]
        for client, given in clients.items():
            for model in (given.get("models") or ()) if isinstance(given, Mapping) else ():
                if isinstance(model, str) and model not in names:
                    findings.add(
                        f"llm_api_keys.{client}.models: llm_models has no {json.dumps(model)}."
                        f" {did_you_mean(model, names)}",
                        [host],
                    )


def role_of(name: str, roles: Roles) -> str | None:
    """Return the role (not preflight) whose prefix a variable has."""
    return max((role for role in roles if role != OWNER and name.startswith(f"{role}_")), key=len, default=None)
