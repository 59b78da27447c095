"""skopeo and buildah: their environment, their progress, and what their last words mean.

Invariant: they see the storage of this home and no other, write temporary files into the scratch folder only, and are
ended and waited for when the caller is cancelled. Credentials come from auth.json, by the usual variables and places.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import tomllib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from twinhull.errors import NotFoundError, PermanentError, TemporaryError, TwinhullError, UserError
from twinhull.home import Home
from twinhull.image import scratch
from twinhull.sys import fs, proc

_PASSED_ON = (
    "REGISTRY_AUTH_FILE",
    "XDG_RUNTIME_DIR",
    "DOCKER_CONFIG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    *(name for word in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for name in (word, word.upper())),
)
_TAIL_LINES = 40
_LINE_LIMIT = 4000
_SYSTEM_REGISTRIES = Path("/etc/containers/registries.conf")
_LOGIN = "log in with `podman login REGISTRY` or `skopeo login REGISTRY` as the daemon's user (auth.json, REGISTRY_AUTH_FILE)"
_INSECURE = "for a registry without TLS say --tls-verify=false; for one with its own authority put ca.crt into /etc/containers/certs.d/HOST"
_MEANINGS: tuple[tuple[str, type[TwinhullError], str], ...] = (
    (r"^unshare: failed to execute", PermanentError, "install skopeo, buildah and mmdebstrap: `make setup`"),
    (r"no space left on device|disk quota exceeded", PermanentError, "free some with `twinhull system prune` or `twinhull image prune`"),
    (r"processing tar file|invalid tar header|unexpected EOF|breakout|Digest did not match", UserError, "the archive is damaged"),
    (r"server gave HTTP response to HTTPS client|x509:|tls: ", UserError, _INSECURE),
    (r"unauthorized|authentication required|invalid username/password|access to the resource is denied|denied:|403 ", UserError, _LOGIN),
    (r"manifest unknown|name unknown|repository name not known|404 ", NotFoundError, "check name and tag"),
    (r"did not resolve to an alias", NotFoundError, "write the registry's name too: docker.io/library/NAME"),
    (r"toomanyrequests|429 ", TemporaryError, "the registry limits its rate: wait, or log in"),
    (
        r"connection refused|no such host|i/o timeout|network is unreachable|no route to host|connection reset|deadline exceeded"
        r"|server misbehaving|temporary failure|pinging container registry|Client.Timeout|EOF$|50[0234] ",
        TemporaryError,
        "check the network, or take a base image from the distribution's archive: twinhull image bootstrap debian:bookworm",
    ),
)
_SOURCE = re.compile(r"^(?:creating build container: )?initializing source docker://\S+: ")
_LOGGED = re.compile(r'time="[^"]*" level=\w+ msg="(?:[^"\\]|\\.)*"(?:\\n|\n)?')
_REGISTRY_LEVEL = re.compile(r'level=(?:fatal|error) msg="((?:[^"\\]|\\.)*)"')


class ToolError(Exception):
    """A tool ended with an error: its status and last lines, for the caller to make sense of."""

    def __init__(self, tool: str, status: int, lines: Sequence[str]) -> None:
        super().__init__(f"{tool}: exit status {status}")
        self.tool = tool
        self.status = status
        self.lines = tuple(lines)

    @property
    def reason(self) -> str:
        """The last thing said, without logging's clothes."""
        said = [line for line in self.lines if line.strip()]
        if several := [line.strip()[2:] for line in said if line.startswith("\t* ")]:  # under "n errors occurred:"
            return "; ".join(several)
        for line in reversed(said):
            if match := _REGISTRY_LEVEL.search(line):
                return _unquote(match.group(1))
        for line in reversed(said):
            if line.lower().startswith("error"):
                return line.split(":", 1)[-1].strip() if line.lower().startswith("error:") else line
        return said[-1] if said else f"exit status {self.status}"


def explain(action: str, error: ToolError) -> TwinhullError:
    """The error for people: "pull x: …" with what to do."""
    reason = _LOGGED.sub("", _SOURCE.sub("", error.reason))
    for pattern, kind, hint in _MEANINGS:
        if re.search(pattern, reason):
            return kind(f"{action}: {reason}", hint)
    return PermanentError(f"{action}: {error.tool}: {reason}")


class Tools:
    """Runs them for one home."""

    def __init__(self, home: Home) -> None:
        self.home = home

    async def run(self, argv: Sequence[str], folder: Path) -> str:
        """Run to the end; stdout and stderr mixed. Raises ToolError."""
        return "\n".join([line async for line in self.stream(argv, folder)])

    async def stream(self, argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[str]:
        """Lines as they come, `folder` being working and temporary directory. Raises ToolError at the end.

        Each tool has a mount namespace of its own: containers/storage leaves mounts behind, most of all when it is killed.
        """
        environment = self.environment(folder) | dict(env or {})
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        process = await proc.start(
            ["unshare", "--mount", *argv], env=environment, cwd=folder, stdin=null, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        tail: list[str] = []
        try:
            assert process.stdout is not None
            async for line in lines(process.stdout):
                tail = [*tail[-_TAIL_LINES:], line]
                yield line
            status = await process.wait()
        finally:
            await proc.end(process)
        if status != 0:
            raise ToolError(os.path.basename(argv[0]), status, tail)

    def environment(self, folder: Path) -> dict[str, str]:
        """What the tools are told beside the clean environment."""
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        passed |= {"TMPDIR": str(folder), "CONTAINERS_REGISTRIES_CONF": str(self._registries(folder))}
        if self.home.images is not None:
            passed["CONTAINERS_STORAGE_CONF"] = str(self._storage_conf(self.home.images))
        elif "CONTAINERS_STORAGE_CONF" in os.environ:
            passed["CONTAINERS_STORAGE_CONF"] = os.environ["CONTAINERS_STORAGE_CONF"]
        return passed

    def _storage_conf(self, root: Path) -> Path:
        """This home's storage.conf, written if it isn't there."""
        path, run = self.home.run / "storage.conf", self.home.run / "storage"
        text = f'[storage]\ndriver = "overlay"\ngraphroot = {_quote(root)}\nrunroot = {_quote(run)}\n'
        if not path.exists() or path.read_text() != text:
            run.mkdir(parents=True, exist_ok=True)
            root.mkdir(parents=True, exist_ok=True)
            fs.write_atomic(path, text, sync=False)
        return path

    def _registries(self, folder: Path) -> Path:
        """The system's registries.conf; where it doesn't say where short names come from, docker.io, as in Docker."""
        try:
            text = _SYSTEM_REGISTRIES.read_text()
            table = tomllib.loads(text)
        except FileNotFoundError:
            text, table = "", {}
        except tomllib.TOMLDecodeError:
            return _SYSTEM_REGISTRIES  # the tool says what is wrong with it
        if "unqualified-search-registries" in table or "registries" in table:
            return _SYSTEM_REGISTRIES
        path = folder / "registries.conf"
        if not path.exists():
            path.write_text(f'unqualified-search-registries = ["docker.io"]\n{text}')
        return path


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines by newline or carriage return, however long; control characters are taken out, because it goes to a terminal."""
    rest, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
    while data := await reader.read(65536):
        *whole, rest = re.split(r"[\r\n]", rest + decoder.decode(data))
        rest = rest[-_LINE_LIMIT:]
        for line in whole:
            if line.strip():
                yield _printable(line)
    if rest.strip():
        yield _printable(rest)


def skopeo(*arguments: str, local: bool = False) -> list[str]:
    """argv. `local`: between places of this machine, where the signature policy doesn't apply."""
    return ["skopeo", *(["--insecure-policy"] if local else []), *arguments]


def check(home: Home, needed: int) -> None:
    """Whether `needed` bytes fit into the storage. Raises PermanentError."""
    root = home.images or Path("/var/lib")
    root.mkdir(parents=True, exist_ok=True)
    scratch.check_space(root, needed)


def _printable(line: str) -> str:
    return "".join(char if char == "\t" or char.isprintable() else "?" for char in line[:_LINE_LIMIT].rstrip())


def _quote(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _unquote(text: str) -> str:
    return text.replace('\\"', '"').replace("\\\\", "\\")
