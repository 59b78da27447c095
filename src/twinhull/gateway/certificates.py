"""Certificates of routes: files of the operator's, and those that ACME gives and renews.

Own ones lie in `Home.config`/certificates as *.pem: the chain and its key in one file; which hosts a file serves its certificate says.
ACME's lie in `Home.state`/gateway/acme, one NAME.pem a host, beside the account's key.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from twinhull.errors import UserError
from twinhull.sys import fs


@dataclass(frozen=True, slots=True)
class Certificate:
    """A chain and its key in one PEM file. hosts: lower case, wildcards as "*.name"; times: seconds since the epoch."""

    source: Path
    pem: bytes
    hosts: tuple[str, ...]
    not_before: float
    not_after: float

    @property
    def name(self) -> str:
        """Its file below the gateway's folder; the same as long as it comes from the same place."""
        return f"certificates/{hashlib.sha256(str(self.source).encode()).hexdigest()[:12]}.pem"

    def covers(self, host: str) -> bool:
        """RFC 6125: a wildcard stands for one label."""
        return host in self.hosts or f"*.{host.partition('.')[2]}" in self.hosts

    def due(self, now: float) -> bool:
        """Whether a third of its life or less is left (what Let's Encrypt recommends)."""
        return self.not_after - now <= (self.not_after - self.not_before) / 3


class Store:
    """Files only; who gets certificates from where is `acme.py`."""

    def __init__(self, config: Path, state: Path) -> None:
        self._own = config / "certificates"
        self._acme = state / "gateway" / "acme"

    @property
    def account(self) -> Path:
        """The ACME account's key."""
        return self._acme / "account.key"

    def select(self, wanted: Mapping[str, str]) -> dict[str, Certificate]:
        """Host → certificate, for hosts by kind ("acme", "own"). An ACME host without one yet is left out. Raises UserError."""
        own = self._own_ones() if "own" in wanted.values() else []
        found = {}
        for host, kind in sorted(wanted.items()):
            chosen = _best(own, host) if kind == "own" else self.acme(host)
            if chosen is None and kind == "own":
                raise UserError(f"no certificate for {host} in {self._own}", "put the chain and its key there, in one file NAME.pem")
            if chosen is not None:
                found[host] = chosen
        return found

    def acme(self, host: str) -> Certificate | None:
        """What ACME gave for a host, if it is there and readable."""
        try:
            return read(self._acme / f"{host}.pem")
        except (FileNotFoundError, UserError):
            return None

    def keep(self, host: str, pem: bytes) -> Certificate:
        """Store what ACME gave."""
        self.prepare()
        path = self._acme / f"{host}.pem"
        fs.write_atomic(path, pem, 0o600)
        return read(path)

    def prepare(self) -> None:
        """Make the folder of ACME's."""
        self._acme.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _own_ones(self) -> list[Certificate]:
        try:
            return [read(path) for path in sorted(self._own.glob("*.pem"))]
        except OSError as error:
            raise UserError(f"read certificates in {self._own}: {error}") from error


def read(path: Path) -> Certificate:
    """Raises UserError for a file that isn't a certificate with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = path.read_bytes()
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        key = load_pem_private_key(pem[pem.index(b"-----BEGIN", _key_at(pem)) :], None)
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a certificate chain with its unencrypted key: {error}", "both belong into one PEM file") from error
    if key.public_key() != leaf.public_key():
        raise UserError(f"{path}: the key is not the certificate's")
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return Certificate(path, pem, _hosts(leaf), _epoch(begin), _epoch(end))


def crt_list(certificates: Iterable[Certificate]) -> str:
    """The list that HAProxy reads: which names each serves it finds out itself."""
    return "".join(f"{name}\n" for name in sorted({one.name for one in certificates}))


def _key_at(pem: bytes) -> int:
    """Where the private key's block begins."""
    at = pem.find(b"PRIVATE KEY-----")
    if at < 0:
        raise ValueError("no private key")
    return pem.rindex(b"-----BEGIN", 0, at)


def _hosts(leaf: object) -> tuple[str, ...]:
    from cryptography import x509

    assert isinstance(leaf, x509.Certificate)
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))


def _best(certificates: list[Certificate], host: str) -> Certificate | None:
    """Of those that cover the host the one that lasts longest."""
    return max((one for one in certificates if one.covers(host)), key=lambda one: one.not_after, default=None)


def _epoch(moment: datetime.datetime) -> float:
    return moment.timestamp()
