"""The table against everything that is read off it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from twinhull.cli import docs, table
from twinhull.cli import help as help_texts
from twinhull.cli.main import handler, resolve
from twinhull.cli.option import GLOBAL
from twinhull.cli.parse import parse
from twinhull.cli.verbs import completion
from twinhull.errors import TwinhullError

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def test_words_are_unique() -> None:
    names = table.names(hidden=True)
    assert len(names) == len(set(names))


def test_spellings_are_unique_within_a_command() -> None:
    for command in table.every():
        spellings = [spelling for option in (*GLOBAL, *command.options) for spelling in option.spellings]
        assert len(spellings) == len(set(spellings)), command.words


def test_every_command_has_a_handler_and_examples() -> None:
    for command in table.every():
        assert callable(handler(command)), command.words
        assert command.examples or command.hidden, command.words
        assert not command.summary.endswith("."), command.words


def test_hot_words_lie_where_the_table_says() -> None:
    for module in ("run", "instances"):
        for command in table.rows(module):
            if " " not in command.words:
                assert table._HOT[command.words] == module
    for words, module in table._HOT.items():
        assert any(words == command.words for command in table.rows(module))


def test_examples_parse() -> None:
    """The table's own examples are right, as far as the shell lets us split them."""
    import shlex

    for command in table.every():
        for line, _ in command.examples:
            first = line.split(" | ")[-1] if line.startswith("docker") else line.split(" | ")[0]
            words = [word for word in shlex.split(first.partition(" > ")[0].partition(" < ")[0]) if not word.startswith("TWINHULL_HOME=")]
            assert words[0] == "twinhull"
            found, rest = resolve(words[1:])
            assert found == command, line
            parse(found, rest)


def test_docs_are_current() -> None:
    assert DOCS.read_text() == docs.text(), "run: .venv/bin/python -m twinhull.cli.docs > docs/cli.md"


def test_overview_has_every_command_once() -> None:
    text = help_texts.overview()
    for command in table.every():
        if not command.hidden:
            lines = [line for line in text.splitlines() if line.startswith(f"  {command.words}") and line.endswith(f"  {command.summary}")]
            assert len(lines) == 1, command.words


def test_help_of_wait_is_as_it_was() -> None:
    assert help_texts.text("wait") == GOLDEN_WAIT


def test_help_of_a_first_word_lists_its_commands() -> None:
    assert "volume prune" in help_texts.text("volume")
    assert "Usage: twinhull stop [OPTIONS] [INSTANCE…]" in help_texts.text("container stop")


def test_help_of_nonsense_suggests() -> None:
    with pytest.raises(TwinhullError) as caught:
        help_texts.text("imagge ls")
    assert caught.value.hint == "did you mean image ls?"


GOLDEN_WAIT = """Usage: twinhull wait [OPTIONS] INSTANCE…

Wait for instances and print their exit codes.

Arguments:
  INSTANCE                          names, ids, or beginnings of ids

Options:
      --condition WHAT              what to wait for (not-running, next-exit, removed, healthy) [not-running]

Examples:
  twinhull wait job
      prints its exit code
  twinhull wait --condition healthy web
      returns when it is healthy
"""


def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "twinhull.bash"
    script.write_text(completion.bash())
    for words, expected in (
        (["twinhull", "st"], {"start", "stop", "stats"}),
        (["twinhull", "image", "l"], {"ls", "list", "load"}),
        (["twinhull", "run", "--mem"], {"--memory", "--memory-swap"}),
        (["twinhull", "image", "ls", "--dig"], {"--digests"}),
        (["twinhull", "run", "--pull", "a"], {"always"}),
        (["twinhull", "stop", "w"], {"web"}),
        (["twinhull", "run", "--network", "w"], {"web-networks"}),
        (["twinhull", "isolate", "w"], {"web-services"}),
    ):
        assert _bash(script, words) == expected, words


def _bash(script: Path, words: list[str]) -> set[str]:
    """What bash offers for the last word, with a `twinhull` that knows names."""
    fake = 'twinhull() { case "$2" in running|instances) echo web;; *) echo "web-$2";; esac; }'
    quoted = " ".join(f"'{word}'" for word in words)
    line = f'source {script}; {fake}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _twinhull; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_have_every_flag(shell: str) -> None:
    text = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}[shell]()
    for command in table.every():
        for option in command.options if not command.hidden else ():
            assert (f"-l {option.flag[2:]}" if shell == "fish" else option.flag) in text


HEAVY = {
    "argparse",
    "asyncio",
    "dataclasses",
    "inspect",
    "pydantic",
    "httpx",
    "rich",
    "typing_extensions",
    "subprocess",
    "difflib",
    "tempfile",
    "shutil",
}


@pytest.mark.parametrize("line", ["run img", "exec web true", "ps", "logs web", "start web", "stop web", "version", "cp a web:/b"])
def test_hot_verbs_import_nothing_heavy(line: str, tmp_path: Path) -> None:
    """Whatever the verb needs up to its first call to the daemon (there is none)."""
    code = f"import sys; from twinhull.cli.main import dispatch; dispatch({line.split()!r}); print(*sys.modules, file=sys.stdout)"
    environment = {"TWINHULL_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not HEAVY & set(done.stdout.split())
    assert len(done.stdout.split()) < 130
