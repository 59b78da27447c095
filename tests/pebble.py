"""Certificates for tests: signed by themselves, or from Let's Encrypt's test server, Pebble (setup/test-packages.sh)."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ENVIRONMENT = {"PATH": "/usr/bin", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}


def self_signed(path: Path, *hosts: str) -> None:
    """A certificate and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)


def commands(folder: Path, validity: int = 157766400) -> tuple[tuple[list[str], list[str]], str, Path]:
    """(argv of a DNS server that leads every name to 127.0.0.1 and of Pebble, which asks there on port 80), the directory's URL, its root.

    validity: of the certificates it gives, in seconds. It answers on ports 14000, 8053 and 8055 of the loopback.
    """
    own = folder / "pebble.pem"
    self_signed(own, "localhost")
    configuration = {
        "pebble": {
            "listenAddress": "127.0.0.1:14000",
            "managementListenAddress": "127.0.0.1:15000",
            "certificate": str(own),
            "privateKey": str(own),
            "httpPort": 80,
            "tlsPort": 443,
            "certificateValidityPeriod": validity,
        }
    }
    (folder / "pebble.json").write_text(json.dumps(configuration))
    dns = ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", "127.0.0.1:8053"]
    dns += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", "127.0.0.1:8055"]
    server = ["pebble", "-config", str(folder / "pebble.json"), "-dnsserver", "127.0.0.1:8053", "-strict"]
    return (dns, server), "https://localhost:14000/dir", own
