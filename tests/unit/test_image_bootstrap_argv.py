"""Where a base image comes from, and mmdebstrap's command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinhull.errors import UserError
from twinhull.image import bootstrap
from twinhull.image.base import BootstrapSpec
from twinhull.image.bootstrap import Source


def target(uri: str, release: str, origin: str = "Debian") -> str:
    codename = release.partition("/")[0]
    return f"MetaKey: main\nCodename: {codename}\nOrigin: {origin}\nRelease: {release}\nRepo-URI: {uri}/\nCreated-By: Packages\n"


HOST = bootstrap.parse_targets(
    "\n".join(
        [
            target("https://deb.nodesource.example/node", "nodistro", ". nodistro"),
            target("http://mirror.example/debian", "bookworm"),
            target("http://mirror.example/debian", "bookworm-updates"),
            target("http://mirror.example/sec", "bookworm-security"),
            target("http://other.example/debian", "bookworm-backports"),
            target("http://x.example/debian", "bookworm").replace("Packages", "DEP-11"),
        ]
    )
)


def test_the_hosts_mirror_is_used_for_any_suite_of_its_distribution() -> None:
    assert bootstrap.sources(BootstrapSpec(suite="trixie"), HOST) == (
        Source("http://mirror.example/debian", "trixie"),
        Source("http://mirror.example/debian", "trixie-updates"),
        Source("http://mirror.example/sec", "trixie-security"),
    )


def test_rolling_suites_have_no_pockets() -> None:
    assert bootstrap.sources(BootstrapSpec(suite="sid"), HOST) == (Source("http://mirror.example/debian", "sid"),)


def test_without_apt_sources_debian_comes_from_debian() -> None:
    assert [source.line() for source in bootstrap.sources(BootstrapSpec(), [])] == [
        "deb http://deb.debian.org/debian bookworm main",
        "deb http://deb.debian.org/debian bookworm-updates main",
        "deb http://deb.debian.org/debian-security bookworm-security main",
    ]


def test_a_mirror_named_is_the_only_one() -> None:
    assert bootstrap.sources(BootstrapSpec(mirror="http://m/debian"), HOST) == (Source("http://m/debian", "bookworm"),)


def test_an_unknown_distribution_needs_a_mirror() -> None:
    with pytest.raises(UserError, match="no mirror is known for ubuntu"):
        bootstrap.sources(BootstrapSpec("ubuntu", "noble"), HOST)


def test_argv() -> None:
    spec = BootstrapSpec(packages=("python3", "curl"))
    assert bootstrap.argv(spec, [Source("http://m/debian", "bookworm")], Path("/w/root.tar"), ['Acquire::http::Proxy "http://p"']) == [
        "mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::http::Proxy "http://p"', "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/info/*",
        "--dpkgopt=path-exclude=/usr/share/lintian/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--include=python3,curl", "bookworm", "/w/root.tar",
        "deb http://m/debian bookworm main",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    [
        BootstrapSpec(suite="--help"),
        BootstrapSpec(suite="a b"),
        BootstrapSpec(distribution="../x"),
        BootstrapSpec(variant="huge"),
        BootstrapSpec(packages=("-o", "x")),
        BootstrapSpec(packages=("a,b",)),
        BootstrapSpec(packages=("?narrow",)),
        BootstrapSpec(mirror="ftp://x"),
        BootstrapSpec(mirror="http://x y"),
        BootstrapSpec(mirror="http://x [trusted=yes]"),
        BootstrapSpec(date=-1),
    ],
)
def test_bad(spec: BootstrapSpec) -> None:
    with pytest.raises(UserError):
        bootstrap.check(spec)
