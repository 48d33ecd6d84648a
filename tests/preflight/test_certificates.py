"""What can be wrong with a given certificate, its key and the names of the service."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.certificates import certificate_errors, is_name
from ansible_collections.gpu_cluster.platform.plugins.plugin_utils.inventory import inventory_errors
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from .conftest import PORTS, Inventory, Unrenderable

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime.now(timezone.utc)


class Issued:
    """A certificate and its key, in PEM."""

    def __init__(
        self, name: str, names: tuple[str, ...] = (), issuer: Issued | None = None, end: datetime | None = None
    ) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer.subject if issuer else self.subject)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=2))
            .not_valid_after(end or NOW + timedelta(days=90))
        )
        if names:
            alternatives: list[x509.GeneralName] = [
                x509.IPAddress(ip_address(name)) if ":" in name or name[0].isdigit() else x509.DNSName(name)
                for name in names
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        signer = issuer.private if issuer else self.private
        self.pem = builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def key(self, passphrase: str = "") -> str:
        encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


ROOT = Issued("root")
BETWEEN = Issued("between", issuer=ROOT)
OWN = Issued("own", ("llm.example.org", "*.llm.example.org", "10.0.0.20", "2001:db8::20"), BETWEEN)
OLD = Issued("old", ("llm.example.org",), end=NOW - timedelta(days=1))
NAMES = ["llm.example.org", "a.llm.example.org", "10.0.0.20", "2001:db8:0::20"]


@pytest.mark.parametrize("chain", [OWN.pem, OWN.pem + BETWEEN.pem, OWN.pem + BETWEEN.pem + ROOT.pem])
def test_right(chain: str) -> None:
    assert certificate_errors(chain, OWN.key(), NAMES) == []


WRONG: dict[str, tuple[str, str, list[str], list[str]]] = {
    "no certificate": ("sesame", OWN.key(), [], ["tls_certificate_chain: no certificate in PEM."]),
    "no key": (OWN.pem, "sesame", [], ["tls_certificate_key (secret): no private key in PEM"]),
    "encrypted key": (OWN.pem, OWN.key("sesame"), [], ["without a passphrase"]),
    "another key": (OWN.pem, ROOT.key(), [], ["tls_certificate_key (secret): not the key of the first certificate"]),
    "wrong order": (BETWEEN.pem + OWN.pem, BETWEEN.key(), [], ["certificate 2 isn't the issuer of certificate 1."]),
    "over": (OLD.pem, OLD.key(), [], [f"the certificate ended on {NOW - timedelta(days=1):%Y-%m-%d}."]),
    "other names": (
        OWN.pem,
        OWN.key(),
        ["llm.example.org", "a.b.llm.example.org", "10.0.0.21"],
        ["not valid for a.b.llm.example.org, 10.0.0.21, of llm_server_names, but for llm.example.org, *.llm"],
    ),
    "a star is no star's": (OWN.pem, OWN.key(), ["*.example.org"], ["not valid for *.example.org"]),
    "no names": (BETWEEN.pem, BETWEEN.key(), ["llm.example.org"], ["but for no name."]),
}


@pytest.mark.parametrize(("chain", "key", "names", "parts"), WRONG.values(), ids=WRONG.keys())
def test_one_wrong_thing_is_one_error(chain: str, key: str, names: list[str], parts: list[str]) -> None:
    found = certificate_errors(chain, key, names)
    assert len(found) == 1, found
    assert [part for part in parts if part not in found[0]] == []
    assert "sesame" not in found[0]


@pytest.mark.parametrize(
    "name", ["llm.example.org", "*.example.org", "localhost", "xn--bcher-kva.example", "10.0.0.1", "::1"]
)
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "LLM.example.org",
        "https://x",
        "x:443",
        "x/y",
        "a..b",
        "-a.b",
        "10.0.0",
        "10.0.0.256",
        "a.*.b",
        "x.",
        "a\n",
        "ü.de",
    ],
)
def test_no_names(name: str) -> None:
    assert not is_name(name)


# --- In an inventory -------------------------------------------------------------------------------------------------


@pytest.fixture
def errors(inventory: Inventory, roles: dict[str, Any]) -> Callable[..., list[str]]:
    """Check the right inventory with some variables set for all hosts."""

    def call(**variables: Any) -> list[str]:
        for name, value in variables.items():
            inventory.set(name, value)
        return inventory_errors(inventory.hostvars, inventory.groups, roles, PORTS)

    return call


GIVEN = {
    "llm_tls_source": "files",
    "llm_server_names": ["llm.example.org"],
    "tls_certificate_chain": OWN.pem,
    "tls_certificate_key": OWN.key(),
}


@pytest.mark.parametrize(
    "variables",
    [
        {"llm_tls_source": "none", "llm_server_names": ["llm.example.org"]},
        {"llm_tls_source": "private_ca", "llm_server_names": ["llm.example.org", "10.0.0.20"]},
        {"llm_tls_source": "acme", "llm_server_names": ["llm.example.org"]},
        GIVEN,
        GIVEN | {"llm_server_names": []},
    ],
)
def test_right_inventories(errors: Callable[..., list[str]], variables: dict[str, Any]) -> None:
    assert errors(**variables) == []


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        ({"llm_tls_source": "acem"}, ['llm_tls_source = "acem":', "Did you mean acme?"]),
        ({"llm_tls_source": "private_ca"}, ["llm_server_names = []: no names", '"private_ca" needs them']),
        ({"llm_tls_source": "acme", "llm_server_names": []}, ["llm_server_names = []: no names", "[llm.example.org]"]),
        (
            {"llm_tls_source": "acme", "llm_server_names": ["x.example", "10.0.0.20"]},
            ['llm_server_names[1] = "10.0.0.20": an ACME server asks on port 80'],
        ),
        ({"llm_tls_source": "acme", "llm_server_names": ["*.x.example"]}, ['llm_server_names[0] = "*.x.example": an']),
        ({"llm_server_names": ["https://x"]}, ['llm_server_names[0] = "https://x": neither a DNS name']),
        ({"llm_server_names": ["x", "y", "x"]}, ['llm_server_names[2] = "x": llm_server_names[0] is the same.']),
        ({"llm_server_names": "x"}, ['llm_server_names = "x": must be a list.']),
        (
            GIVEN | {"tls_certificate_chain": ""},
            ["tls_certificate_chain is not set", '"files" needs it', "[host proxy1]"],
        ),
        (GIVEN | {"tls_certificate_key": ROOT.key()}, ["tls_certificate_key (secret): not the key"]),
        ({"llm_tls_key": "-----BEGIN sesame"}, ["llm_tls_key (not shown): there is no such variable."]),
    ],
)
def test_wrong_inventories(errors: Callable[..., list[str]], variables: dict[str, Any], parts: list[str]) -> None:
    found = errors(**variables)
    assert len(found) == 1, found
    assert [part for part in parts if part not in found[0]] == []
    assert "sesame" not in found[0]
    assert "PRIVATE" not in found[0]


def test_a_key_that_is_missing_in_the_vault(inventory: Inventory, errors: Callable[..., list[str]]) -> None:
    inventory.hostvars["proxy1"] = Unrenderable(inventory.hostvars["proxy1"], "tls_certificate_key")
    variables = {name: value for name, value in GIVEN.items() if name != "tls_certificate_key"}
    assert errors(**variables) == [
        "tls_certificate_key can't be rendered: 'vault_tls_certificate_key' is undefined. Set what it refers to."
        " [host proxy1]"
    ]


def test_the_key_s_twin_in_the_vault_is_known(
    inventory: Inventory, roles: dict[str, Any], errors: Callable[..., list[str]]
) -> None:
    inventory.set("vault_llm_tls_certificate_key", "sesame")
    (error,) = errors()
    assert "no variable takes this secret" in error
    roles = roles | {"tls_certificate": {"options": {"tls_certificate_key": {"no_log": True}}, "defaults": {}}}
    assert inventory_errors(inventory.hostvars, inventory.groups, roles, PORTS) == []
