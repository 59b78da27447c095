"""A base image from the distribution's own archive, by mmdebstrap: no registry is needed to begin.

Where from: the host's apt sources for the same distribution; else deb.debian.org for Debian. What is made depends on the inputs and on the
dates of the Release files alone: both are the cache's key, so that a security update is never missed, and the same key gives the same tar.
Manual pages, translations and documentation (but for copyrights) are left out.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twinhull.errors import NotFoundError, PermanentError, TemporaryError, TwinhullError, UserError
from twinhull.home import Home
from twinhull.image import scratch
from twinhull.image.base import BootstrapSpec
from twinhull.image.tools import ToolError, Tools
from twinhull.sys import fs, proc

VARIANTS = ("extract", "custom", "essential", "apt", "required", "minbase", "buildd", "important", "debootstrap", "standard")
_DEBIAN = ("http://deb.debian.org/debian", "http://deb.debian.org/debian-security")
_ROLLING = ("sid", "unstable", "experimental")
_POCKETS = ("", "-updates", "-security")
_WORD = re.compile(r"[a-z][a-z0-9.-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?(?:=[A-Za-z0-9.+:~-]+)?")
_MIRROR = re.compile(r"(?:https?|file|copy)://?[^\s\[\]]+")
_SLIM = ("man", "locale", "doc", "info", "lintian")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HELPER = "/usr/lib/apt/apt-helper"


@dataclass(frozen=True, slots=True)
class Source:
    """One line of sources.list."""

    uri: str
    suite: str
    components: str = "main"

    def line(self) -> str:
        return f"deb {self.uri} {self.suite} {self.components}"

    @property
    def release(self) -> str:
        return f"{self.uri.rstrip('/')}/dists/{self.suite}/InRelease"


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system's tar in the cache."""

    path: Path
    digest: str
    """SHA-256 of the tar, hexadecimal."""
    date: int
    """SOURCE_DATE_EPOCH it was made with."""
    sources: tuple[Source, ...]


def check(spec: BootstrapSpec) -> None:
    """Raises UserError for what could never work, or could be taken for an option."""
    for what, text, pattern in (("distribution", spec.distribution, _WORD), ("suite", spec.suite, _WORD)):
        if not pattern.fullmatch(text):
            raise UserError(f"bad {what} {text!r}")
    if spec.variant not in VARIANTS:
        raise UserError(f"unknown variant {spec.variant!r}", f"use one of {', '.join(VARIANTS)}")
    for package in spec.packages:
        if not _PACKAGE.fullmatch(package):
            raise UserError(f"bad package name {package!r}")
    if spec.mirror and not _MIRROR.fullmatch(spec.mirror):
        raise UserError(f"bad mirror {spec.mirror!r}", "a mirror is an http, https or file URI")
    if spec.date < 0:
        raise UserError("a date is in seconds since 1970")


def sources(spec: BootstrapSpec, targets: list[dict[str, str]]) -> tuple[Source, ...]:
    """Where packages come from: the suite first, then its updates and security. `targets`: `apt-get indextargets`, parsed."""
    if spec.mirror:
        return (Source(spec.mirror, spec.suite),)
    bases = _host_bases(spec.distribution, targets)
    if not bases and spec.distribution == "debian":
        bases = {"": _DEBIAN[0], "-updates": _DEBIAN[0], "-security": _DEBIAN[1]}
    if "" not in bases:
        raise UserError(f"no mirror is known for {spec.distribution}", "name one with --mirror")
    pockets = _POCKETS[:1] if spec.suite in _ROLLING else _POCKETS
    return tuple(Source(bases[pocket], spec.suite + pocket) for pocket in pockets if pocket in bases)


def _host_bases(distribution: str, targets: list[dict[str, str]]) -> dict[str, str]:
    """pocket → the archive's URI, from the host's sources of the same distribution."""
    bases: dict[str, str] = {}
    for target in targets:
        if target.get("Origin", "").lower() == distribution and target.get("Created-By") == "Packages":
            release = target.get("Release", "")
            pocket = next((name for name in _POCKETS[1:] if release.endswith(name)), "")
            if "-" not in release.removesuffix(pocket):  # no backports, no proposed-updates
                bases.setdefault(pocket, target.get("Repo-URI", "").rstrip("/"))
    return {pocket: uri for pocket, uri in bases.items() if _MIRROR.fullmatch(uri)}


def parse_targets(text: str) -> list[dict[str, str]]:
    """`apt-get indextargets`: paragraphs of "Key: value"."""
    paragraphs = (paragraph.splitlines() for paragraph in text.split("\n\n"))
    return [dict(line.split(": ", 1) for line in lines if ": " in line) for lines in paragraphs if lines]


def argv(spec: BootstrapSpec, where: Iterable[Source], target: Path, apt_options: Iterable[str] = ()) -> list[str]:
    """mmdebstrap's command line; as root it mounts /proc and /sys into what it makes (see `Tools.stream`)."""
    command = ["mmdebstrap", "--mode=root", f"--variant={spec.variant}", "--format=tar"]
    command += ['--aptopt=Acquire::Languages "none"', *(f"--aptopt={option}" for option in apt_options)]
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _SLIM] + ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    command += [f"--include={','.join(spec.packages)}"] if spec.packages else []
    return [*command, spec.suite, str(target), *(source.line() for source in where)]


def image_config(spec: BootstrapSpec, root: Root) -> dict[str, Any]:
    """The image's `config` object."""
    labels = {
        "title": spec.distribution,
        "version": spec.suite,
        "source": root.sources[0].uri,
        "created": moment(root.date),
        "description": f"{spec.distribution} {spec.suite} ({spec.variant}) from the distribution's archive",
    }
    return {
        "Env": [_PATH],
        "Cmd": ["/bin/bash" if spec.variant != "extract" else "/bin/sh"],
        "Labels": {f"org.opencontainers.image.{key}": value for key, value in labels.items()},
    }


def moment(seconds: int) -> str:
    """RFC 3339."""
    from twinhull.image.layout import timestamp

    return timestamp(seconds)


class Bootstrap:
    """Makes roots and keeps them in the home's cache."""

    def __init__(self, home: Home, tools: Tools) -> None:
        self.home = home
        self.tools = tools
        self.folder = home.cache / "bootstrap"
        self.root: Root | None = None
        """Set when `make` has ended."""

    async def make(self, spec: BootstrapSpec, work: Path) -> AsyncIterator[str]:
        """Progress lines; `root` afterwards."""
        check(spec)
        wanted = sources(spec, parse_targets(await self._apt("apt-get", "indextargets")))
        try:
            dated = await self._dates(wanted, work)
        except TemporaryError as error:
            old = self._newest(spec)
            if old is None or spec.refresh:
                raise
            yield f"W: {error.message}; taking the root of {moment(old.date)} from the cache"
            self.root = old
            return
        self.root = None if spec.refresh else self._cached(_key(spec, dated))
        if self.root is not None:
            yield f"cached: root of {spec.distribution} {spec.suite} {self.root.digest[:12]}"
            return
        async for line in self._fresh(spec, dated, work):
            yield line

    async def _fresh(self, spec: BootstrapSpec, dated: dict[Source, int], work: Path) -> AsyncIterator[str]:
        date = spec.date or max(dated.values())
        part = work / "root.tar"
        work.chmod(0o755)  # apt's own user works below
        options = [
            line.rstrip(";")
            for line in (await self._apt("apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy")).splitlines()
        ]
        try:
            async for line in self.tools.stream(argv(spec, dated, part, options), work, {"SOURCE_DATE_EPOCH": str(date)}):
                yield line
        except ToolError as error:
            raise _failure(spec, error) from error
        digest = await asyncio.to_thread(_digest, part)
        self.root = self._keep(spec, dated, Root(part, digest, date, tuple(dated)))

    async def _dates(self, wanted: tuple[Source, ...], work: Path) -> dict[Source, int]:
        """The Release file's date of each source. An archive may lack the updates or security of a suite, but not the suite itself."""
        texts = await asyncio.gather(*(self._release(source, work / f"release-{number}") for number, source in enumerate(wanted)))
        dated = {source: _date(text) for source, text in zip(wanted, texts, strict=True) if text}
        if wanted[0] not in dated:
            raise NotFoundError(
                f"bootstrap: {wanted[0].uri} has no suite {wanted[0].suite!r}", "check its spelling; --mirror names another archive"
            )
        return dated

    async def _release(self, source: Source, target: Path) -> str:
        """Its text, "" where the archive says it isn't there. Raises TemporaryError where no archive answers."""
        options = ["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=15"]
        result = await proc.run([_HELPER, *options, "download-file", source.release, str(target)], env=_proxies(), check=False)
        if result.status == 0:
            return target.read_text("utf-8", "replace")
        said = result.stderr.decode("utf-8", "replace") + result.text
        if "404" in said or "File not found" in said:
            return ""
        reason = next((line for line in said.splitlines() if line.startswith("E:")), "no answer")
        raise TemporaryError(
            f"bootstrap: {source.uri} can't be reached: {reason.removeprefix('E: ')}", "check the network, or name a --mirror"
        )

    async def _apt(self, *command: str) -> str:
        """The host's apt configuration; "" where the host has no apt."""
        try:
            return (await proc.run(command, check=False)).text
        except PermanentError:
            return ""

    def _cached(self, key: str) -> Root | None:
        return _root(self.folder / f"{key}.json")

    def _newest(self, spec: BootstrapSpec) -> Root | None:
        roots = [root for note in self.folder.glob(f"{inputs(spec)}-*.json") if (root := _root(note))]
        return max(roots, key=lambda root: root.date, default=None)

    def _keep(self, spec: BootstrapSpec, dated: dict[Source, int], root: Root) -> Root:
        """Move it into the cache; older roots of the same inputs make room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = _key(spec, dated)
        path, note = self.folder / f"{key}.tar", self.folder / f"{key}.json"
        for old in self.folder.glob(f"{inputs(spec)}-*"):
            old.unlink(missing_ok=True)
        os.rename(root.path, path)
        body = {"digest": root.digest, "date": root.date, "sources": [asdict(source) for source in root.sources]}
        fs.write_atomic(note, json.dumps(body), sync=False)
        return Root(path, root.digest, root.date, root.sources)


def _root(note: Path) -> Root | None:
    """An entry of the cache; one that is damaged or half gone counts as none."""
    try:
        body = json.loads(note.read_bytes())
        root = Root(note.with_suffix(".tar"), body["digest"], body["date"], tuple(Source(**item) for item in body["sources"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return root if root.path.exists() else None


def inputs(spec: BootstrapSpec) -> str:
    """The first half of a cache key: what was asked for, whatever the archive holds."""
    fields = asdict(spec) | {"tag": "", "refresh": False, "packages": sorted(set(spec.packages))}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _key(spec: BootstrapSpec, dated: dict[Source, int]) -> str:
    text = json.dumps([[source.line(), date] for source, date in dated.items()])
    return f"{inputs(spec)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _date(release: str) -> int:
    match = re.search(r"^Date: (.*)$", release, re.MULTILINE)
    try:
        return int(email.utils.parsedate_to_datetime(match[1] if match else "").timestamp())
    except (ValueError, TypeError) as error:
        raise PermanentError("bootstrap: the archive's Release file has no date") from error


def _failure(spec: BootstrapSpec, error: ToolError) -> TwinhullError:
    said = [line.removeprefix("E: ").strip() for line in error.lines if line.startswith("E: ")]
    reason = next(
        (line for line in said if not line.startswith(("mmdebstrap failed", "apt-get", "env --chdir"))), said[-1] if said else error.reason
    )
    if any("No space left on device" in line for line in error.lines):
        return scratch.disk_full(Path("the cache"))
    if "Unable to locate package" in reason or "has no installation candidate" in reason:
        return UserError(f"bootstrap: {reason}", f"is it in {spec.distribution} {spec.suite}?")
    return PermanentError(f"bootstrap {spec.distribution} {spec.suite}: {reason}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.lower() in ("http_proxy", "https_proxy", "no_proxy")}
