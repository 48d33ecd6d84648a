# Copyright: GPU Cluster Platform maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the inventory says of the API's clients, as the proxies need it: digests in the place of keys."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from .models import slug

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
LIMITS = ("requests_per_minute", "burst", "concurrent_requests", "tokens_per_minute")


def digest(key: str) -> str:
    """Return the SHA-256 of a key in hexadecimal; of one that is given as ``sha256:…``, what is given.

    A plain digest is enough: a key that preflight takes is random and long, so that none can be found by trying.
    """
    given = DIGEST.fullmatch(key)
    return given[1] if given else hashlib.sha256(key.encode()).hexdigest()


def expiry(date: str) -> int:
    """Return the end of a day such as ``2027-06-30`` in UTC, in seconds of the epoch.

    Raises:
        ValueError: it is no such date.
    """
    day = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    return int((day + timedelta(days=1)).timestamp())


def client_table(
    clients: Mapping[str, Mapping[str, Any]], limits: Mapping[str, int], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return ``keys`` (digest to client), ``clients`` (client to what it may), and ``everyone``'s limits.

    Args:
        clients: client name to ``keys``, and what else ``llm_api_keys`` takes.
        limits: for a client that has none of its own, and for an address where no client needs a key.
        models: the inventory's models, whose ids and aliases the clients' ``models`` name.
    """
    slugs = {name: slug(model["id"]) for model in models for name in (model["id"], *(model.get("aliases") or ()))}
    return {
        "keys": {digest(key): name for name, client in clients.items() for key in client["keys"]},
        "clients": {
            name: {
                "expires": expiry(client["expires"]) if "expires" in client else None,
                "models": sorted({slugs[model] for model in client["models"]}) if "models" in client else None,
                **{limit: client.get(limit, limits.get(limit)) for limit in LIMITS},
            }
            for name, client in clients.items()
        },
        "everyone": {limit: limits.get(limit) for limit in LIMITS},
    }
