"""What an operator says about the gateway: [gateway] of config.toml, as the gateway takes it."""

from __future__ import annotations

from dataclasses import dataclass

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, slots=True)
class Settings:
    """http, https: "address:port", ":port" (all addresses) or "" (not served). log_max_size: bytes.

    acme_ca: a PEM file, for an ACME server that isn't publicly trusted. trusted_proxies: addresses or networks whose X-Forwarded-… and
    X-Request-ID are believed.
    """

    http: str = ":80"
    https: str = ":443"
    acme_directory: str = LETS_ENCRYPT
    acme_email: str = ""
    acme_ca: str = ""
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    log_max_size: int = 64 * 1024 * 1024
    log_max_files: int = 3
