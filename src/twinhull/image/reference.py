"""Names of images, by the grammar of the distribution project. Pure.

    reference = [domain "/"] path [":" tag] ["@" digest]      e.g. registry.example:5000/shop/web:1.2@sha256:…

Invariant: `str(parse(text))` parses to the same value, and a parsed reference can't be mistaken for an option, a path or an id.
Source: github.com/distribution/reference (the grammar in its documentation; 255 characters of name, 128 of tag).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from twinhull.errors import UserError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII)
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}", re.ASCII)
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME_LIMIT = 255
DOCKER = "docker.io"
LOCAL = "localhost"


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed name. `domain` "": a short name, still to be completed. `tag` and `digest` may both be ""."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """Domain and path."""
        return f"{self.domain}/{self.path}" if self.domain else self.path

    def tagged(self) -> Reference:
        """The same with tag "latest" if it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    def within(self, domain: str) -> Reference:
        """A short name completed; docker.io puts one-word names into "library/". A complete name is returned as it is."""
        if self.domain:
            return _library(self)
        return _library(replace(self, domain=domain))

    def candidates(self) -> tuple[Reference, ...]:
        """The complete names to look for on this machine, best first, as podman does."""
        tagged = self.tagged()
        if tagged.domain:
            return (tagged.within(tagged.domain),)
        return tagged.within(LOCAL), tagged.within(DOCKER)


def parse(text: str) -> Reference:
    """Raises UserError with the part that is wrong."""
    rest, at, digest = text.partition("@")
    if at and not (_DIGEST.fullmatch(digest) and (not digest.startswith("sha256:") or _SHA256.fullmatch(digest))):
        raise _bad(text, f"{digest!r} isn't a digest like sha256:<64 hexadecimal digits>")
    name, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _bad(text, f"{tag!r} isn't a tag (letters, digits, '_', '.', '-', at most 128)")
    domain, path = _split_domain(name)
    if domain and not _DOMAIN.fullmatch(domain):
        raise _bad(text, f"{domain!r} isn't the name of a registry")
    if not _PATH.fullmatch(path):
        raise _bad(text, _about_path(path))
    if len(name) > _NAME_LIMIT:
        raise _bad(text, f"the name is longer than {_NAME_LIMIT} characters")
    if not domain and _ID.fullmatch(path):
        raise _bad(text, "64 hexadecimal digits are an id, not a name")
    return Reference(domain, path, tag or "", digest)


def local(text: str) -> str:
    """The full name that a tag given by a user stands for: short names belong to "localhost". Raises UserError."""
    reference = parse(text)
    if reference.digest:
        raise _bad(text, "a tag can't contain a digest")
    return str(reference.tagged().within(LOCAL))


def remote(text: str) -> str:
    """The full name in a registry: short names belong to docker.io. Raises UserError."""
    return str(parse(text).tagged().within(DOCKER))


def is_id(text: str) -> bool:
    """Whether it is a full image id."""
    return _ID.fullmatch(text) is not None


def _library(reference: Reference) -> Reference:
    plain = reference.domain == DOCKER and "/" not in reference.path
    return replace(reference, path=f"library/{reference.path}") if plain else reference


def _split_tag(text: str) -> tuple[str, str | None]:
    """A colon behind the last slash begins the tag; one before it belongs to a port."""
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    return head + slash + name, tag if colon else None


def _split_domain(name: str) -> tuple[str, str]:
    """The first component is a registry if it couldn't be a folder: a dot, a port, capitals, or "localhost"."""
    first, slash, rest = name.partition("/")
    if slash and (first == LOCAL or first != first.lower() or any(char in first for char in ".:")):
        return first, rest
    return "", name


def _about_path(path: str) -> str:
    if not path:
        return "the name is empty"
    if path != path.lower():
        return f"{path!r} must be lower case"
    return f"{path!r} isn't a name (lower-case letters and digits, parted by '.', '_', '-' or '/')"


def _bad(text: str, reason: str) -> UserError:
    shown = text if len(text) <= 80 else text[:77] + "…"
    return UserError(f"bad image reference {shown!r}: {reason}", "a reference is [registry/]name[:tag][@digest]")
