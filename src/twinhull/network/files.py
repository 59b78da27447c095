"""The contents of /etc/hosts and /etc/resolv.conf inside an instance. Pure; semantics as in Docker."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from twinhull.errors import UserError

HOST_GATEWAY = "host-gateway"
"""The word in `--add-host name:host-gateway` that stands for the gateway of the instance's default network."""
_LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)


def check_name(name: str) -> str:
    """A name for DNS or /etc/hosts: labels of letters, digits, - and _, at most 253 characters. Raises UserError."""
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise UserError(f"host name {name!r}: use labels of letters, digits, - and _, at most 63 characters each")
    return name


def parse_extra_host(text: str, host_gateway: str) -> tuple[str, str]:
    """(address, name) of "name:address" or "name=address"; brackets around IPv6 are allowed. Raises UserError."""
    name, mark, address = text.partition("=" if "=" in text else ":")
    address = address.removeprefix("[").removesuffix("]")
    if address == HOST_GATEWAY:
        address = host_gateway
    try:
        return str(ipaddress.ip_address(address)), check_name(name)
    except ValueError as error:
        hint = "without a network there is no host-gateway" if mark and not address else "write name:address"
        raise UserError(f"extra host {text!r}: {error}", hint) from error


def hosts(
    hostname: str, addresses: Iterable[str], extra_hosts: Sequence[str] = (), host_gateway: str = "", aliases: Sequence[str] = ()
) -> bytes:
    """/etc/hosts: the loopback names, the extra hosts, then the instance's own addresses with its name.

    Without any address the name stands at 127.0.1.1, so that programs that look up their own name don't hang.
    """
    lines = ["{}\t{}".format(*parse_extra_host(text, host_gateway)) for text in extra_hosts]
    names = " ".join(dict.fromkeys([*_own_names(hostname), *aliases]))
    lines += [f"{address}\t{names}" for address in (list(addresses) or ["127.0.1.1"])]
    return (_LOCAL + "\n".join(lines) + "\n").encode()


def resolv_conf(nameserver: str, dns: Sequence[str] = (), search: Sequence[str] = ()) -> bytes:
    """/etc/resolv.conf of an instance on a network.

    `nameserver` is the gateway of its default network, which answers names and hands the rest to `dns` (given to `attach_*`).
    Only where `dns` names a loopback address, the instance's own, are they listed here instead. "." in `search` means none.
    """
    servers = list(dns) if not nameserver or any(_loopback(server) for server in dns) else [nameserver]
    domains = [] if "." in search else [check_name(domain) for domain in search]
    lines = [f"nameserver {ipaddress.ip_address(server)}" for server in servers]
    lines += [f"search {' '.join(domains)}"] if domains else []
    return ("\n".join([*lines, "options ndots:0"]) + "\n").encode()


def check_dns(servers: Sequence[str]) -> tuple[str, ...]:
    """Addresses of DNS servers that somebody asked for. Raises UserError."""
    try:
        return tuple(str(ipaddress.ip_address(server)) for server in servers)
    except ValueError as error:
        raise UserError(f"DNS server: {error}") from error


def _own_names(hostname: str) -> list[str]:
    short = hostname.partition(".")[0]
    return [hostname] if short == hostname else [hostname, short]


def _loopback(server: str) -> bool:
    return ipaddress.ip_address(server).is_loopback
