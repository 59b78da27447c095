"""A certificate by ACME (RFC 8555) with the proof over HTTP, in one blocking call for a thread."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinhull import __version__
from twinhull.errors import TemporaryError
from twinhull.gateway.settings import Settings
from twinhull.sys import fs

if TYPE_CHECKING:
    from acme.client import ClientV2

_PATIENCE = datetime.timedelta(seconds=90)
_NETWORK_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Issuer:
    """provide(path, text): have the gateway answer http://HOST`path` with `text`, at once. account: where the account's key is kept."""

    settings: Settings
    account: Path
    provide: Callable[[str, str], None]

    def issue(self, host: str) -> bytes:
        """PEM: the chain and a new key. Raises TemporaryError with what the authority said."""
        import acme.errors
        import requests

        try:
            return self._issue(host)
        except (acme.errors.Error, requests.RequestException, TimeoutError, OSError) as error:
            text = _told(error)
            raise TemporaryError(f"get a certificate for {host} from {self.settings.acme_directory}: {text}", _HINT, 60.0) from error

    def _issue(self, host: str) -> bytes:
        from acme import challenges, crypto_util

        connection = self._connect()
        private = _new_key()
        order = connection.new_order(crypto_util.make_csr(private, domains=[host]))
        for authorization in order.authorizations:
            for challenge in authorization.body.challenges:
                if isinstance(challenge.chall, challenges.HTTP01) and authorization.body.status.name != "valid":
                    response, text = challenge.response_and_validation(connection.net.key)
                    self.provide(challenge.chall.path, text)
                    connection.answer_challenge(challenge, response)
        done = connection.poll_and_finalize(order, datetime.datetime.now() + _PATIENCE)
        return str(done.fullchain_pem).encode() + private

    def _connect(self) -> ClientV2:
        """A client with an account: a new key registers, a known one finds its account again."""
        from acme import client, errors, messages
        from josepy.jwa import ES256
        from josepy.jwk import JWKEC

        verify: Any = self.settings.acme_ca or True  # requests takes a file, too
        network = client.ClientNetwork(
            JWKEC(key=_account_key(self.account)),
            alg=ES256,
            user_agent=f"twinhull/{__version__}",
            verify_ssl=verify,
            timeout=_NETWORK_SECONDS,
        )
        directory = client.ClientV2.get_directory(self.settings.acme_directory, network)
        connection = client.ClientV2(directory, network)
        wanted = messages.NewRegistration.from_data(email=self.settings.acme_email or None, terms_of_service_agreed=True)
        try:
            network.account = connection.new_account(wanted)
        except errors.ConflictError as error:
            known = messages.RegistrationResource(body=messages.Registration(), uri=error.location)
            network.account = connection.query_registration(known)
        return connection


_HINT = "the host's name must lead to this machine, and its port 80 to the gateway"


def _told(error: Exception) -> str:
    """What the authority found wrong, else the error itself."""
    failed = [
        str(challenge.error.detail)
        for authorization in getattr(error, "failed_authzrs", ())
        for challenge in authorization.body.challenges
        if challenge.error is not None
    ]
    return "; ".join(failed) or str(error) or type(error).__name__


def _new_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _account_key(path: Path) -> Any:
    """The key of the file; a new one if there is none."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fs.write_atomic(path, _new_key(), 0o600)
    return load_pem_private_key(path.read_bytes(), None)
