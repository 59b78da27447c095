"""The daemon's configuration, `Home.config`/config.toml: read once at start, whole or not at all.

    [api]
    tcp = "0.0.0.0:7443"            # only with the three below
    cert = "/etc/twinhull/tls/cert.pem"
    key = "/etc/twinhull/tls/key.pem"
    token_file = "/etc/twinhull/token"
    hosts = ["build7.example.org"]  # further names in the Host header (localhost and addresses are always fine)

    [vm]
    accelerator = "auto"            # auto, kvm or tcg
    parked = 2                      # VMs of one shape that wait for their instances, as far as they were in demand lately; 0: none
    parked_memory = 268435456       # bytes for all of them

    [security]
    allow_privileged = false
    allow_unconfined = false

    [network]
    pool = "10.231.0.0/16"          # subnets of networks are taken from here; "" is the default

    [logs]
    max_size = 16777216             # bytes, for instances that don't say
    max_files = 3

    [scale]
    cpus = 6.0                      # CPUs and
    memory = 8589934592             # bytes that all instances together may ask for; 0: no bound
    use_window = 600.0              # seconds of use that `auto_resources` goes by

    [gateway]
    http = ":80"                    # "address:port", ":port" for all addresses, "" for none; taken with the first route
    https = ":443"
    acme_email = "ops@example.org"  # the certificate authority writes there when something is wrong
    acme_directory = "https://acme-v02.api.letsencrypt.org/directory"
    acme_ca = "tls/our-ca.pem"      # only for an authority that isn't publicly trusted
    trusted_proxies = ["10.0.0.0/8"]  # whose X-Forwarded-For and X-Request-ID are believed
    access_log = true               # one JSON object a request, in state/gateway/access.log
    log_max_size = 67108864         # bytes
    log_max_files = 3

Invariant: a `Config` has been checked. An unknown key is an error with file, line and the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from twinhull.errors import UserError
from twinhull.gateway.settings import LETS_ENCRYPT

FILE_NAME = "config.toml"
_ACCELERATORS = ("auto", "kvm", "tcg")
_LEAST_LOG = 4096
_MOST_PARKED = 64
_LEAST_USE, _MOST_USE = 12.0, 3600.0
"""Seconds. There is one look a second: fewer are no window, and all of them are gone through each time."""
_PATHS = ("cert", "key", "token_file", "acme_ca")
_TYPES: dict[Any, tuple[type, str]] = {
    str: (str, "a string"),
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple[str, ...]: (list, "a list of strings"),
}


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """[api]. `tcp`: "address:port", "" = UNIX socket only. Relative paths are below the configuration's folder."""

    tcp: str = ""
    cert: str = ""
    key: str = ""
    token_file: str = ""
    hosts: tuple[str, ...] = ()

    def check(self) -> None:
        """TCP takes a certificate, its key and a token, or isn't served at all."""
        if not self.tcp:
            return
        parse_address(self.tcp)
        missing = [name for name in ("cert", "key", "token_file") if not getattr(self, name)]
        if missing:
            raise UserError(
                f"api.tcp is set without api.{missing[0]}", "TCP is served with TLS and a token only: set cert, key and token_file"
            )


@dataclass(frozen=True, slots=True)
class VmConfig:
    """[vm]. auto: KVM if a probe boot works, else emulation; kvm: never emulate; tcg: always emulate. parked_memory: bytes."""

    accelerator: str = "auto"
    parked: int = 2
    parked_memory: int = 256 * 1024 * 1024

    def check(self) -> None:
        """One of the known accelerators, and numbers that make sense."""
        if self.accelerator not in _ACCELERATORS:
            raise UserError(f"vm.accelerator {self.accelerator!r} is not one of {', '.join(_ACCELERATORS)}")
        if not 0 <= self.parked <= _MOST_PARKED:
            raise UserError(f"vm.parked {self.parked} is not between 0 and {_MOST_PARKED}")
        if self.parked_memory < 0:
            raise UserError(f"vm.parked_memory {self.parked_memory} is negative")


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """[security]. What users of the API may ask for; both open the host to them."""

    allow_privileged: bool = False
    allow_unconfined: bool = False

    def check(self) -> None:
        """Any combination is valid."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """[network]. pool: the IPv4 range that networks' subnets are taken from; "" is the built-in one."""

    pool: str = ""

    def check(self) -> None:
        """A private IPv4 network of at least 256 addresses."""
        if not self.pool:
            return
        try:
            pool = ipaddress.IPv4Network(self.pool)
        except ValueError as error:
            raise UserError(f"network.pool: {error}", 'for example "10.231.0.0/16"') from error
        if pool.prefixlen > 24 or not pool.is_private:
            raise UserError(f"network.pool {self.pool} is not a private range of /24 or more", 'for example "10.231.0.0/16"')


@dataclass(frozen=True, slots=True)
class LogsConfig:
    """[logs]. Rotation for instances whose specification leaves it open. max_size: bytes."""

    max_size: int = 16 * 1024 * 1024
    max_files: int = 3

    def check(self) -> None:
        """Sensible bounds."""
        if self.max_size < _LEAST_LOG:
            raise UserError(f"logs.max_size {self.max_size} is below {_LEAST_LOG} bytes")
        if not 1 <= self.max_files <= 1000:
            raise UserError(f"logs.max_files {self.max_files} is not between 1 and 1000")


@dataclass(frozen=True, slots=True)
class ScaleConfig:
    """[scale]. What all instances together may ask for (their `resources`); 0: no bound. memory: bytes.

    use_window: seconds of use that `auto_resources` goes by; with fewer a peak is forgotten sooner.
    """

    cpus: float = 0.0
    memory: int = 0
    use_window: float = 600.0

    def check(self) -> None:
        """Nothing negative."""
        if not 0 <= self.cpus < math.inf:
            raise UserError(f"scale.cpus {self.cpus} is not a number of CPUs")
        if self.memory < 0:
            raise UserError(f"scale.memory {self.memory} is negative")
        if not _LEAST_USE <= self.use_window <= _MOST_USE:
            raise UserError(f"scale.use_window {self.use_window:g} is not between {_LEAST_USE:g} and {_MOST_USE:g} seconds")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """[gateway]. Means the same as `gateway.settings.Settings`."""

    http: str = ":80"
    https: str = ":443"
    acme_email: str = ""
    acme_directory: str = LETS_ENCRYPT
    acme_ca: str = ""
    trusted_proxies: tuple[str, ...] = ()
    access_log: bool = True
    log_max_size: int = 64 * 1024 * 1024
    log_max_files: int = 3

    def check(self) -> None:
        """Addresses, networks, an https URL, sensible bounds."""
        for key in ("http", "https"):
            _check_listen(f"gateway.{key}", getattr(self, key))
        if self.http and self.http == self.https:
            raise UserError(f"gateway.https {self.https!r} is the same as gateway.http")
        if not self.acme_directory.startswith("https://"):
            raise UserError(f"gateway.acme_directory {self.acme_directory!r} is not an https URL")
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise UserError(f"gateway.trusted_proxies: {error}", 'for example ["10.0.0.0/8"]') from error
        if self.log_max_size < _LEAST_LOG:
            raise UserError(f"gateway.log_max_size {self.log_max_size} is below {_LEAST_LOG} bytes")
        if not 1 <= self.log_max_files <= 1000:
            raise UserError(f"gateway.log_max_files {self.log_max_files} is not between 1 and 1000")


@dataclass(frozen=True, slots=True)
class Config:
    """All of config.toml."""

    api: ApiConfig = field(default_factory=ApiConfig)
    vm: VmConfig = field(default_factory=VmConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    logs: LogsConfig = field(default_factory=LogsConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)


def load(folder: Path) -> Config:
    """The configuration in `folder`; the defaults if there is no file. Raises UserError."""
    path = folder / FILE_NAME
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"read {path}: {error}") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """From the file's text; `path` is for messages and for relative paths. Raises UserError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from error
    source = _Source(path, text)
    source.refuse_unknown(document, [entry.name for entry in dataclasses.fields(Config)], "")
    hints = get_type_hints(Config)
    return Config(**{name: source.section(hints[name], name, table) for name, table in document.items()})


def parse_address(text: str) -> tuple[str, int]:
    """ "address:port" or "[v6]:port" of `api.tcp`. Raises UserError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        raise UserError(f"api.tcp {text!r} is not address:port", 'for example "0.0.0.0:7443"') from None
    if not 0 <= number < 65536:
        raise UserError(f"api.tcp: port {number} is out of range")
    return host, number


def _check_listen(name: str, text: str) -> None:
    """ "", ":port", "address:port" or "[v6]:port"."""
    host, colon, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]") or "::")
        right = not text or (bool(colon) and 0 < int(port) < 65536)
    except ValueError:
        right = False
    if not right:
        raise UserError(f"{name} {text!r} is not address:port or :port", 'for example ":80", or "" for none')


@dataclass(frozen=True, slots=True)
class _Source:
    """The text that errors point into."""

    path: Path
    text: str

    def section(self, kind: type[Any], name: str, table: Any) -> Any:
        """One table as its dataclass, checked."""
        if not isinstance(table, dict):
            raise UserError(f"{self._at(name, '')}: {name} is not a table", f"write [{name}]")
        hints = get_type_hints(kind)
        self.refuse_unknown(table, list(hints), name)
        values = {key: self._value(name, key, value, hints[key]) for key, value in table.items()}
        section = kind(**values)
        try:
            section.check()
        except UserError as error:
            raise UserError(f"{self._at(name, _key_in(error.message, values))}: {error.message}", error.hint) from error
        return section

    def refuse_unknown(self, table: dict[str, Any], known: list[str], section: str) -> None:
        """A key that nobody reads is a mistake."""
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
                place = self._at(section, key) if section else self._at(key, "")
                raise UserError(f"{place}: unknown key {f'{section}.{key}' if section else key!r}", hint)

    def _value(self, section: str, key: str, value: Any, hint: Any) -> Any:
        kind, words = _TYPES[hint]
        if kind is float and type(value) is int:
            value = float(value)
        listed = value if isinstance(value, list) else []
        if type(value) is not kind or not all(isinstance(entry, str) for entry in listed):
            raise UserError(f"{self._at(section, key)}: {section}.{key} is not {words}")
        return self._absolute(key, tuple(listed) if kind is list else value)

    def _absolute(self, key: str, value: Any) -> Any:
        """Paths count from the configuration's folder."""
        return str(self.path.parent / value) if key in _PATHS and value else value

    def _at(self, section: str, key: str) -> str:
        """ "file:line" of a key, or of its section, as well as a plain search tells."""
        return f"{self.path}:{_line(self.text, section, key)}"


def _key_in(message: str, keys: dict[str, Any]) -> str:
    """The key that a section's complaint is about."""
    return next((key for key in keys if re.search(rf"\.{key}\b", message)), "")


def _line(text: str, section: str, key: str) -> int:
    """The line of `key` in `section` (either as [section] or as dotted keys), else the section's, else 1."""
    current, found = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*[\"']?([^\]\"']+?)[\"']?\s*\]", line)
        if header:
            current = header[1]
            found = number if current == section else found
        elif _names(line, section, key, current):
            return number
    return found


def _names(line: str, section: str, key: str, current: str) -> bool:
    """Whether a line sets the key, or begins the section with a dotted key or an inline table."""
    name, quoted = rf"[\"']?{re.escape(section)}[\"']?\s*", rf"[\"']?{re.escape(key)}[\"']?\s*="
    if key and current == section:
        return re.match(rf"\s*{quoted}", line) is not None
    pattern = rf"\s*{name}(\.\s*{quoted}|=.*[{{,]\s*{quoted})" if key else rf"\s*{name}[.=]"
    return not current and re.match(pattern, line) is not None
