"""The names in a certificate, when certbot is asked, and the hook that certbot runs."""

from __future__ import annotations

import base64
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Evaluate, Render


def test_addresses_are_no_dns_names(evaluate: Evaluate) -> None:
    names = ["llm.example.org", "*.example.org", "10.0.0.20", "2001:db8::20", "7.example", "::1"]
    assert evaluate("tls_certificate", "{{ __tls_certificate_alternatives }}", tls_certificate_names=names) == [
        "DNS:llm.example.org",
        "DNS:*.example.org",
        "IP:10.0.0.20",
        "IP:2001:db8::20",
        "DNS:7.example",
        "IP:::1",
    ]


RENEWAL = """\
[renewalparams]
server = https://acme-v02.api.letsencrypt.org/directory
webroot_path = /var/www/llm-acme,
"""


@pytest.mark.parametrize(
    ("text", "names", "variables", "due"),
    [
        ("", None, {}, True),
        (RENEWAL, ["DNS:b.example", "DNS:a.example"], {}, False),
        (RENEWAL, ["DNS:a.example"], {}, True),
        (RENEWAL, ["DNS:a.example", "DNS:b.example"], {"tls_certificate_acme_directory": "https://acme-v02"}, True),
        (RENEWAL, ["DNS:a.example", "DNS:b.example"], {"tls_certificate_acme_webroot": "/var/www"}, True),
    ],
)
def test_certbot_is_asked_only_for_what_is_not_there(
    evaluate: Evaluate, text: str, names: list[str] | None, variables: dict[str, Any], due: bool
) -> None:
    read = [{"content": base64.b64encode(text.encode()).decode()} if text else {"failed": True}, {}]
    has = {"skipped": True} if names is None else {"subject_alt_name": names}
    found = evaluate(
        "tls_certificate",
        "{{ __tls_certificate_acme_due }}",
        tls_certificate_names=["a.example", "b.example"],
        __tls_certificate_acme_read={"results": read},
        __tls_certificate_acme_has=has,
        **variables,
    )
    assert found is due


class Hook:
    """The hook in directories of the test, with a systemctl that notes how it was called."""

    def __init__(self, path: Path, render: Render) -> None:
        self.lineage, self.directory, self.calls = path / "live" / "llm", path / "tls", path / "calls"
        self.lineage.mkdir(parents=True)
        self.directory.mkdir()
        (self.lineage / "privkey.pem").write_text("new key\n")
        (self.lineage / "fullchain.pem").write_text("new chain\n")
        for name in ("privkey.pem", "fullchain.pem"):
            (self.directory / name).write_text("old\n")
        self.program = path / "llm-tls"
        self.program.write_text(
            render(
                "tls_certificate",
                "llm-tls.j2",
                tls_certificate_dir=str(self.directory),
                __tls_certificate_live_dir=str(self.lineage),
            )
        )
        self.bin = path / "bin"
        self.bin.mkdir()

    def run(self, lineage: str | None, *, active: bool = True) -> None:
        systemctl = self.bin / "systemctl"
        systemctl.write_text(f'#!/bin/sh\necho "$@" >>{self.calls}\n[ "$1" != is-active ] || {str(active).lower()}\n')
        systemctl.chmod(0o755)
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        if lineage:
            environment["RENEWED_LINEAGE"] = lineage
        subprocess.run(["/bin/sh", self.program], env=environment, check=True)

    def found(self) -> dict[str, str]:
        return {
            file.name: f"{file.stat().st_mode & 0o777:o} {file.read_text().strip()}"
            for file in self.directory.iterdir()
        }


@pytest.fixture
def hook(tmp_path: Path, render: Render) -> Hook:
    return Hook(tmp_path, render)


def test_hook_puts_both_files_and_reloads(hook: Hook) -> None:
    hook.run(str(hook.lineage))
    assert hook.found() == {"privkey.pem": "600 new key", "fullchain.pem": "644 new chain"}
    assert hook.calls.read_text().splitlines() == ["is-active --quiet nginx.service", "reload nginx.service"]


def test_hook_leaves_other_certificates_alone(hook: Hook) -> None:
    hook.run("/etc/letsencrypt/live/other")
    assert hook.found()["privkey.pem"].endswith(" old")
    assert not hook.calls.exists()


def test_hook_starts_no_nginx(hook: Hook) -> None:
    hook.run(None, active=False)
    assert hook.found()["fullchain.pem"] == "644 new chain"
    assert hook.calls.read_text().splitlines() == ["is-active --quiet nginx.service"]
