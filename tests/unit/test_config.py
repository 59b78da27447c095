"""config.toml: defaults, every key, and errors that say where."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from twinhull.daemon.config import Config, load, parse, parse_address
from twinhull.errors import UserError

WHERE = Path("/etc/twinhull/config.toml")

EVERYTHING = """
# a comment
[api]
tcp = "0.0.0.0:7443"
cert = "tls/cert.pem"
key = "/keys/key.pem"
token_file = "token"
hosts = ["build7.example.org"]

[vm]
accelerator = "kvm"
[security]
allow_privileged = true
allow_unconfined = true
[network]
pool = "10.231.0.0/16"
[logs]
max_size = 1_048_576
max_files = 5
"""


def test_without_a_file_the_defaults_are_closed(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config == Config()
    assert (config.api.tcp, config.security.allow_privileged, config.security.allow_unconfined) == ("", False, False)


def test_everything() -> None:
    config = parse(EVERYTHING, WHERE)
    assert config.api.tcp == "0.0.0.0:7443"
    assert config.api.hosts == ("build7.example.org",)
    assert config.vm.accelerator == "kvm"
    assert (config.security.allow_privileged, config.security.allow_unconfined) == (True, True)
    assert (config.network.pool, config.logs.max_size, config.logs.max_files) == ("10.231.0.0/16", 1 << 20, 5)


def test_paths_count_from_the_folder_of_the_file() -> None:
    api = parse(EVERYTHING, WHERE).api
    assert (api.cert, api.key, api.token_file) == ("/etc/twinhull/tls/cert.pem", "/keys/key.pem", "/etc/twinhull/token")


def test_the_documented_example_is_valid() -> None:
    from twinhull.daemon import config

    lines = (config.__doc__ or "").split("    [api]", 1)[1].split("\n\nInvariant")[0]
    assert parse("[api]" + "\n".join(line.removeprefix("    ") for line in lines.splitlines()), WHERE).api.tcp


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("[vm]\naccelerater = 'kvm'", 2, "unknown key 'vm.accelerater'", "did you mean 'accelerator'?"),
        ("\n\n[vms]\n", 3, "unknown key 'vms'", "did you mean 'vm'?"),
        ("[vm]\naccelerator = 'tcg'\n[logs]\n# accelerator\nzzz = 1", 5, "unknown key 'logs.zzz'", "known here: max_size, max_files"),
        ("vm.accelerater = 'kvm'", 1, "unknown key 'vm.accelerater'", "did you mean"),
        ("security = {allow_priviliged = true}", 1, "unknown key 'security.allow_priviliged'", "did you mean 'allow_privileged'?"),
        ("\ntcp = '1:2'", 2, "unknown key 'tcp'", "known here"),
        ("[vm]\naccelerator = 'hvf'", 2, "vm.accelerator 'hvf' is not one of auto, kvm, tcg", ""),
        ("[security]\n\nallow_privileged = 'yes'", 3, "security.allow_privileged is not true or false", ""),
        ("[security]\nallow_privileged = 1", 2, "is not true or false", ""),
        ("[logs]\nmax_size = true", 2, "logs.max_size is not a whole number", ""),
        ("[logs]\nmax_files = 3\nmax_size = 10", 3, "logs.max_size 10 is below", ""),
        ("[logs]\nmax_files = 0", 2, "is not between", ""),
        ("[scale]\nuse_window = 3", 2, "scale.use_window 3 is not between 12 and 3600 seconds", ""),
        ("[network]\npool = '10.0.0.1/16'", 2, "has host bits set", ""),
        ("[network]\npool = '8.8.0.0/16'", 2, "is not a private range", ""),
        ("[network]\npool = '10.0.0.0/30'", 2, "is not a private range", ""),
        ("[api]\nhosts = 'one'", 2, "is not a list of strings", ""),
        ("[api]\nhosts = [1]", 2, "is not a list of strings", ""),
        ("[api]\ntcp = 'everywhere'", 2, "is not address:port", ""),
        ("[api]\ntcp = '127.0.0.1:70000'", 2, "out of range", ""),
        ("[api]\ntcp = '127.0.0.1:7443'\ncert = 'c'\nkey = 'k'", 2, "without api.token_file", "TLS and a token only"),
        ("vm = 5", 1, "vm is not a table", "write [vm]"),
    ],
)
def test_errors_say_where_and_what(text: str, place: int, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, WHERE)
    assert str(caught.value).startswith(f"{WHERE}:{place}: "), caught.value
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_text_that_is_not_toml_says_where(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[api\n")
    with pytest.raises(UserError, match=r"config\.toml: .*line 1"):
        load(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"read .*config"):
        load(tmp_path)


@pytest.mark.parametrize(("text", "pair"), [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::]:7443", ("::", 7443)), ("0.0.0.0:0", ("0.0.0.0", 0))])
def test_addresses(text: str, pair: tuple[str, int]) -> None:
    assert parse_address(text) == pair


def test_the_gateway(tmp_path: Path) -> None:
    from twinhull.gateway.settings import Settings

    text = '[gateway]\nhttp = "127.0.0.1:8080"\nhttps = ""\nacme_ca = "ca.pem"\ntrusted_proxies = ["::1", "10.0.0.0/8"]\naccess_log = false'
    config = parse(text, WHERE).gateway
    assert (config.http, config.https, config.acme_ca, config.access_log) == ("127.0.0.1:8080", "", "/etc/twinhull/ca.pem", False)
    assert Settings(**dataclasses.asdict(load(tmp_path).gateway)) == Settings()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('http = "80"', "gateway.http '80' is not"),
        ('https = "example.org:443"', "gateway.https"),
        ('https = ":0"', "gateway.https ':0' is not"),
        ('http = ":443"', "is the same"),
        ('acme_directory = "http://x"', "not an https URL"),
        ('trusted_proxies = ["10.0.0.1/8"]', "gateway.trusted_proxies"),
        ("log_max_size = 1", "gateway.log_max_size"),
        ("log_max_files = 0", "gateway.log_max_files"),
    ],
)
def test_a_wrong_gateway_is_told_with_its_line(line: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        parse(f"[gateway]\n{line}", WHERE)
    assert str(WHERE) in str(raised.value)
