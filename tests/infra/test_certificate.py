"""The certificate of every proxy: it lasts, has the names, and is the one that clients get."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from datetime import datetime, timezone
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

REMEDIES = {
    "files": "put a new one into tls_certificate_chain and tls_certificate_key, and run playbooks/proxy.yml",
    "private_ca": "run playbooks/proxy.yml, which renews it",
    "acme": "certbot on that host should have renewed it: journalctl -u certbot says why it hasn't",
}


@pytest.fixture
def certificate(host: Any, expected: Any) -> x509.Certificate:
    """The file that nginx reads."""
    raw = expected.raw
    if raw["tls_source"] == "none" or host.backend.host not in raw["proxies"]:
        pytest.skip("no certificate is promised here")
    file = host.file(f"{raw['tls_dir']}/fullchain.pem")
    assert file.exists, f"{file.path} is missing: run playbooks/proxy.yml"
    return x509.load_pem_x509_certificate(file.content)


def test_certificate_lasts(host: Any, expected: Any, certificate: x509.Certificate) -> None:
    end = certificate.not_valid_after_utc
    left = (end - datetime.now(timezone.utc)).days
    if left < expected.raw["certificate_days"]:
        when = (
            f"ends on {end:%Y-%m-%d %H:%M} UTC, in {left} days" if left >= 0 else f"ended on {end:%Y-%m-%d %H:%M} UTC"
        )
        remedy = REMEDIES[expected.raw["tls_source"]]
        pytest.fail(f"the certificate of {host.backend.host} {when}: {remedy}", pytrace=False)


def test_certificate_has_the_names(expected: Any, certificate: x509.Certificate) -> None:
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = alternatives.get_values_for_type(x509.IPAddress)
    patterns = [name.lower() for name in alternatives.get_values_for_type(x509.DNSName)]

    def covered(name: str) -> bool:
        try:
            return ipaddress.ip_address(name) in addresses
        except ValueError:
            return name in patterns or f"*.{name.partition('.')[2]}" in patterns

    assert [name for name in expected.raw["server_names"] if not covered(name)] == []


def test_clients_get_this_certificate(me: Any, expected: Any, certificate: x509.Certificate) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(
            (me.address, expected.raw["https_port"]), expected.request_timeout_seconds
        ) as connection,
        context.wrap_socket(connection) as tls,
    ):
        served = tls.getpeercert(binary_form=True)
    assert served == certificate.public_bytes(Encoding.DER), (
        "nginx has another certificate loaded than lies on disk: reload it"
    )
