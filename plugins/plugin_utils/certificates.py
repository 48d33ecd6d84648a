# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with the names of the service, and with a certificate and key that were given for them."""

from __future__ import annotations

import ipaddress
import itertools
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
CHAIN, KEY = "tls_certificate_chain", "tls_certificate_key (secret)"


def is_address(name: str) -> bool:
    """Return whether a name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_name(name: str) -> bool:
    """Return whether a name is an IP address or a DNS name in lower case, maybe with ``*`` as its first part."""
    return is_address(name) or (len(name) <= 253 and NAME.fullmatch(name) is not None)


def certificate_errors(chain: str, key: str, names: Sequence[str] = (), now: datetime | None = None) -> list[str]:
    """Return what is wrong with a certificate, each with the fix.

    Args:
        chain: certificates in PEM, the server's own first.
        key: its private key in PEM.
        names: DNS names and IP addresses that it must be valid for.
        now: the time; the default is this moment.
    """
    errors = []
    certificates: list[x509.Certificate] = []
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        errors.append(
            f"{CHAIN}: no certificate in PEM. Begin with the server's own (-----BEGIN CERTIFICATE-----), and put the"
            " intermediates after it."
        )
    private_key = None
    try:
        private_key = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        errors.append(f"{KEY}: no private key in PEM without a passphrase. Decrypt it, and keep it in the vault.")
    if not certificates:
        return errors
    own = certificates[0]
    if private_key and _public(private_key.public_key()) != _public(own.public_key()):
        errors.append(
            f"{KEY}: not the key of the first certificate in {CHAIN}. Put the server's own certificate first, and its"
            " key here."
        )
    for number, (certificate, issuer) in enumerate(itertools.pairwise(certificates), start=1):
        if certificate.issuer != issuer.subject:
            errors.append(
                f"{CHAIN}: certificate {number + 1} isn't the issuer of certificate {number}. Put each one's issuer"
                " after it."
            )
    if own.not_valid_after_utc <= (now or datetime.now(timezone.utc)):
        errors.append(f"{CHAIN}: the certificate ended on {own.not_valid_after_utc:%Y-%m-%d}. Get a new one.")
    valid_for = _names(own)
    missing = [name for name in names if not any(_covers(pattern, name) for pattern in valid_for)]
    if missing:
        errors.append(
            f"{CHAIN}: not valid for {', '.join(missing)}, of llm_server_names, but for"
            f" {', '.join(valid_for) or 'no name'}. Get one for all names, or remove these."
        )
    return errors


def _public(key: object) -> bytes:
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return found


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = map(str, alternatives.get_values_for_type(x509.IPAddress))
    return [*alternatives.get_values_for_type(x509.DNSName), *addresses]


def _covers(pattern: str, name: str) -> bool:
    if is_address(name):
        return is_address(pattern) and ipaddress.ip_address(pattern) == ipaddress.ip_address(name)
    if pattern.lower() == name:
        return True
    # A star stands for exactly one part.
    return pattern.startswith("*.") and not name.startswith("*.") and name.partition(".")[2] == pattern[2:].lower()
