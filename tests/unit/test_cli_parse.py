"""The parser: Docker's syntax, and errors that name the nearest flag."""

from __future__ import annotations

import pytest

from twinhull.cli import table
from twinhull.cli.main import resolve
from twinhull.cli.parse import Arguments, UsageError, parse


def given(line: str) -> Arguments:
    command, rest = resolve(line.split())
    return parse(command, rest)


@pytest.mark.parametrize(
    ("line", "options", "places"),
    [
        ("run -it img", {"interactive": True, "tty": True}, {"image": ["img"], "command": []}),
        ("run -itd img", {"interactive": True, "tty": True, "detach": True}, {"image": ["img"], "command": []}),
        ("run -itp8080:80 img", {"interactive": True, "tty": True, "publish": ["8080:80"]}, {"image": ["img"], "command": []}),
        ("run -p=80 -p 81 img", {"publish": ["80", "81"]}, {"image": ["img"], "command": []}),
        ("run -m=128m img", {"memory": 128 << 20}, {"image": ["img"], "command": []}),
        ("run -e=K=V img", {"env": ["K=V"]}, {"image": ["img"], "command": []}),
        ("run --memory=1g --cpus .5 img", {"memory": 1 << 30, "cpus": 0.5}, {"image": ["img"], "command": []}),
        ("run img cmd -x --rm -it", {}, {"image": ["img"], "command": ["cmd", "-x", "--rm", "-it"]}),
        ("run --rm -- img -x", {"rm": True}, {"image": ["img"], "command": ["-x"]}),
        ("run --rm=false --tty=true img", {"rm": False, "tty": True}, {"image": ["img"], "command": []}),
        ("run --memory-swap -1 img", {"memory_swap": -1}, {"image": ["img"], "command": []}),
        ("run --name a --name b img", {"name": "b"}, {"image": ["img"], "command": []}),
        ("run --net host --cwd / img", {"network": ["host"], "workdir": "/"}, {"image": ["img"], "command": []}),
        ("run -h me img", {"hostname": "me"}, {"image": ["img"], "command": []}),
        ("exec -it web sh -c x", {"interactive": True, "tty": True}, {"instance": ["web"], "command": ["sh", "-c", "x"]}),
        ("rm web -f db", {"force": True}, {"instance": ["web", "db"]}),
        ("stop -t 1m30s web", {"time": 90.0}, {"instance": ["web"]}),
        ("stop --timeout 3 web", {"time": 3.0}, {"instance": ["web"]}),
        ("logs web -f --tail 5", {"follow": True, "tail": "5"}, {"instance": ["web"]}),
        ("cp - web:/x", {}, {"source": ["-"], "target": ["web:/x"]}),
        ("image ls", {}, {"name": []}),
        ("images web", {}, {"name": ["web"]}),
        ("container stop web", {}, {"instance": ["web"]}),
        ("container ls -a", {"all": True}, {}),
        ("rmi a b", {}, {"image": ["a", "b"]}),
        ("commit web", {}, {"instance": ["web"], "image": []}),
        ("commit web img", {}, {"instance": ["web"], "image": ["img"]}),
        (
            "compose -f a.yaml -f b.yaml -p shop logs -f web",
            {"file": ["a.yaml", "b.yaml"], "project_name": "shop", "follow": True},
            {"service": ["web"]},
        ),
        ("compose --profile=x --ansi never up -d", {"profile": ["x"], "detach": True}, {"service": []}),
        ("compose logs -f web", {"follow": True}, {"service": ["web"]}),
        ("compose run -p 80:80 --file a web", {"publish": ["80:80"], "file": ["a"]}, {"service": ["web"], "command": []}),
        ("compose rm -sf", {"stop": True, "force": True}, {"service": []}),
        ("daemon", {}, {}),
        ("daemon -d", {"detach": True}, {}),
        ("daemon stop --all", {"all": True}, {}),
    ],
)
def test_taken(line: str, options: dict[str, object], places: dict[str, list[str]]) -> None:
    found = given(line)
    assert found.options == options
    assert found.places == places


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("run --memroy 1g img", "unknown option --memroy", "--memory"),
        ("run --detatch img", "unknown option --detatch", "--detach"),
        ("run -itX img", "unknown option -X in -itX", "run --help"),
        ("run", "run needs IMAGE", "run --help"),
        ("exec web", "exec needs COMMAND", "exec --help"),
        ("run --memory", "--memory needs a value: --memory SIZE", ""),
        ("run -m", "-m needs a value", ""),
        ("run -m 12q img", "-m '12q': use a size", ""),
        ("run --cpus many img", "use a number", ""),
        ("run --pull often img", "use one of missing, always, never", ""),
        ("run --rm=maybe img", "use true or false", ""),
        ("stop", "stop needs INSTANCE or --all", ""),
        ("rm", "rm needs INSTANCE or --all", ""),
        ("rename web", "rename needs NEW-NAME", ""),
        ("rename a b c", "rename takes no further argument: 'c'", ""),
        ("ps web", "ps takes no further argument", ""),
        ("rn web", "no command 'rn'", "twinhull run"),
        ("stpo web", "no command 'stpo'", "twinhull stop"),
        ("image lst", "no command 'image lst'", "image l"),
        ("frobnicate", "no command 'frobnicate'", "twinhull --help"),
        ("network connect a b", "no command 'network connect'", "networks are chosen"),
        ("compose -f a.yaml", "compose needs COMMAND", "compose --help"),
        ("compose -x up", "compose: unknown option -x", "compose --help"),
        ("deploy", "no command 'deploy'", "twinhull up"),
        ("run --gpus all img", "unknown option --gpus", "devices aren't passed in"),
    ],
)
def test_refused(line: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        given(line)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_short_h_is_help_where_it_is_nothing_else() -> None:
    assert given("ps -h").switch("help")
    assert given("image ls --help").switch("help")


def test_help_needs_no_arguments() -> None:
    assert given("run --help").switch("help")
    assert given("run -it --help").switch("help")


@pytest.mark.parametrize("line", ["", "-h", "--help", "image", "image --help", "system", "container"])
def test_a_first_word_alone_is_help(line: str) -> None:
    assert resolve(line.split())[0].words == "help"


def test_every_alias_leads_to_its_command() -> None:
    for command in table.every():
        for words in (command.words, *command.aliases):
            assert resolve(words.split())[0] == command, words
