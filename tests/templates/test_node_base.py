"""What node_base puts on a host, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Evaluate, Render


def test_files_say_that_they_are_managed(render: Render) -> None:
    for template in ("90-llm-limits.conf.j2", "90-llm-sysctl.conf.j2"):
        lines = render("node_base", template).splitlines()
        assert "# Ansible managed" in lines[:3]
        assert "# Role: node_base" in lines[:4]


def test_sysctls(render: Render) -> None:
    text = render(
        "node_base", "90-llm-sysctl.conf.j2", node_base_sysctls={"vm.swappiness": 1, "net.ipv4.tcp_rmem": "1 2 3"}
    )
    assert text.splitlines()[-2:] == ["vm.swappiness = 1", "net.ipv4.tcp_rmem = 1 2 3"]


def test_limits(render: Render) -> None:
    text = render("node_base", "90-llm-limits.conf.j2", node_base_user="serve", node_base_nofile=1234)
    assert text.splitlines()[-2:] == ["serve - nofile 1234", "serve - memlock unlimited"]


def test_hosts_without_those_that_are_addresses(render: Render) -> None:
    hosts = {
        "gpu-1": "192.0.2.1",
        "192.0.2.2": "192.0.2.2",
        "2001:db8::3": "2001:db8::3",
        "localhost": "192.0.2.4",
        "localhost5": "2001:db8::5",
    }
    assert render("node_base", "hosts.j2", node_base_hosts=hosts).splitlines() == [
        "192.0.2.1 gpu-1",
        "2001:db8::5 localhost5",
    ]


def test_a_time_service_that_is_there_stays(evaluate: Evaluate) -> None:
    others = [{"package": "chrony", "service": "chrony"}, {"package": "ntpsec", "service": "ntpsec"}]
    for packages, expected in (({"bash": []}, []), ({"chrony": []}, others[:1])):
        found = evaluate(
            "node_base",
            "{{ __node_base_time_other }}",
            __node_base_time_others=others,
            ansible_facts={"packages": packages},
        )
        assert found == expected
