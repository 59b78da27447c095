"""Secrets on this machine: the external ones that people keep here by name, and the copies that applications run with.

    state/secrets/_external/NAME     a line of JSON (id, created_at), then the content
    state/secrets/_key               keys the digests below, so that a path in `inspect` can't be used to guess a short content
    state/secrets/APP/DIGEST         a value that came with the application
    state/secrets/APP/NAME/DIGEST    what the external secret NAME was at an `up`

Laws: files are 0600 in folders of 0700. `up` copies, so a running revision and a rollback keep what they began with, and a changed
secret is a changed path, thus a new fingerprint, at the next `up` only. No application's name begins with "_". Contents are never
part of a dataclass, an error or an event.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from twinhull.engine.base import SecretView
from twinhull.engine.launch import FILE_LIMIT
from twinhull.engine.names import check as check_name
from twinhull.errors import ConflictError, NotFoundError, PermanentError, UserError
from twinhull.spec.app import AppSpec
from twinhull.sys import fs, trees

Users = dict[str, tuple[str, ...]]
"""External secret → the services that use it, as APP/SERVICE."""


class SecretStore:
    """See the module. Blocking: small files, synced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._external = folder / "_external"
        self._lock = threading.Lock()

    # external ones

    def create(self, name: str, content: bytes, *, replace: bool = False) -> SecretView:
        """Keep it. Raises ConflictError for one that is there, unless `replace`; UserError for nothing or more than FILE_LIMIT."""
        path = self._path(name)
        if not content:
            raise UserError(f"secret {name} would be empty", "the file or the command that it comes from gave nothing")
        if len(content) > FILE_LIMIT:
            raise UserError(f"secret {name} is too large: at most {FILE_LIMIT} bytes")
        view = SecretView(secrets.token_hex(16), name, len(content), time.time())
        head = json.dumps({"id": view.id, "created_at": view.created_at}).encode()
        with self._lock:
            if path.exists() and not replace:
                raise ConflictError(f"secret {name} exists", f"twinhull secret create --replace {name} gives it another content")
            self._write(path, head + b"\n" + content)
        return view

    def list(self, users: Users) -> tuple[SecretView, ...]:
        """All, by name."""
        names = sorted(path.name for path in self._external.glob("[!.]*"))
        found = []
        for name in names:
            with contextlib.suppress(NotFoundError):  # removed meanwhile
                found.append(self.view(name, users))
        return tuple(found)

    def view(self, name: str, users: Users) -> SecretView:
        """One. Raises NotFoundError."""
        view, _ = self._read(name)
        return replace(view, used_by=users.get(name, ()))

    def remove(self, name: str) -> None:
        """Copies of applications stay. Raises NotFoundError."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise _missing(name) from None

    # copies of applications

    def place(self, app: str, name: str, value: str | None, *, store: bool) -> Path:
        """The file with a value, or if that is None, with what the external secret is now. Without `store` it isn't made yet.

        Raises NotFoundError for an external secret that isn't there.
        """
        content = self._read(name)[1] if value is None else value.encode()
        folder = self._folder / app / name if value is None else self._folder / app
        path = folder / hashlib.blake2b(content, key=self._key(), digest_size=32).hexdigest()
        if store and not path.exists():
            self._write(path, content)
        return path

    def forget(self, app: str) -> None:
        """Remove an application's copies."""
        if (self._folder / app).exists():
            trees.remove(self._folder / app)

    def users(self, specs: Iterable[AppSpec]) -> Users:
        """Who uses which external secret, by the sources that `place` gave to their files."""
        found: Users = {}
        for spec in specs:
            for service in spec.services.values():
                for name in dict.fromkeys(self._named(file.source) for file in service.template.files if file.secret):
                    found[name] = (*found.get(name, ()), f"{spec.name}/{service.name}")
        found.pop("", None)
        return found

    def _named(self, source: str) -> str:
        """The external secret that a file is a copy of, "" for another file."""
        path = Path(source)
        return path.parent.name if path.parent.parent.parent == self._folder else ""

    # inside

    def _path(self, name: str) -> Path:
        return self._external / check_name(name)

    def _read(self, name: str) -> tuple[SecretView, bytes]:
        try:
            head, _, content = self._path(name).read_bytes().partition(b"\n")
        except FileNotFoundError:
            raise _missing(name) from None
        try:
            fields = json.loads(head)
            return SecretView(fields["id"], name, len(content), fields["created_at"]), content
        except (ValueError, KeyError, TypeError):
            raise PermanentError(f"read secret {name}: its file is damaged", f"twinhull secret create --replace {name}") from None

    def _key(self) -> bytes:
        path = self._folder / "_key"
        with self._lock:
            if not path.exists():
                self._write(path, secrets.token_bytes(32))
            return path.read_bytes()

    def _write(self, path: Path, data: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for below in reversed(path.relative_to(self._folder).parents[:-1]):
            (self._folder / below).mkdir(mode=0o700, exist_ok=True)
        fs.write_atomic(path, data, 0o600)


def _missing(name: str) -> NotFoundError:
    return NotFoundError(f"external secret {name} doesn't exist", f"twinhull secret create {name} FILE")
