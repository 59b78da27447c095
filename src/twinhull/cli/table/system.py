"""Rows of the machine, the daemon and the CLI itself."""

from __future__ import annotations

from twinhull.cli.option import FILTER, FORCE, FORMAT, JSON, Argument, Command, Option

COMMANDS = (
    Command("system df", "show what takes disk space", "system:usage", (FORMAT, JSON), (), (("twinhull system df", ""),)),
    Command(
        "system prune",
        "remove instances that don't run, and networks and images that nothing uses",
        "system:prune",
        (
            Option("--all", "also images with a name that no instance uses", short="-a", kind="switch"),
            Option("--volumes", "also volumes that nothing uses", kind="switch"),
            FORCE._replace(help="don't ask"),
        ),
        (),
        (("twinhull system prune -af --volumes", "down to what runs"),),
    ),
    Command(
        "system info",
        "show versions, runtimes and counts",
        "system:info",
        (FORMAT._replace(short="-f"), JSON),
        (),
        (("twinhull info", ""),),
        aliases=("info",),
    ),
    Command(
        "system events",
        "show what happens",
        "streams:events",
        (
            FILTER,
            FORMAT,
            JSON,
            Option("--since", "from a time on: 10m, 2026-01-31T12:00:00Z, or seconds since 1970", metavar="WHEN"),
            Option("--until", "up to a time, then end", metavar="WHEN"),
            Option("--no-follow", "show the past and end", kind="switch"),
        ),
        (),
        (("twinhull events --filter action=die", ""), ("twinhull events --json --since 1h --no-follow", "the last hour, for programs")),
        aliases=("events",),
        notes="Filters: kind, action, id, name, and any attribute.",
    ),
    Command(
        "daemon",
        "run the daemon",
        "daemon:run",
        (Option("--detach", "return once it answers", short="-d", kind="switch"),),
        (),
        (
            ("twinhull daemon --detach", "in the background"),
            ("TWINHULL_HOME=/tmp/a twinhull daemon", "a second one, with all of its things in /tmp/a"),
        ),
        aliases=("daemon start",),
    ),
    Command(
        "daemon stop",
        "end the daemon; workloads go on",
        "daemon:stop",
        (Option("--all", "end the workloads too", short="-a", kind="switch"),),
        (),
        (("twinhull daemon stop --all", ""),),
    ),
    Command(
        "daemon status",
        "tell whether the daemon runs",
        "daemon:status",
        (FORMAT, JSON),
        (),
        (("twinhull daemon status", "exit code 1 if it doesn't"),),
    ),
    Command(
        "doctor",
        "check this machine, and say how to mend what is missing",
        "system:doctor",
        (Option("--json", "for programs", kind="switch"),),
        (),
        (("twinhull doctor", ""),),
    ),
    Command(
        "version",
        "show the versions of the CLI and the daemon",
        "system:version",
        (FORMAT._replace(short="-f"), JSON),
        (),
        (("twinhull version", ""),),
    ),
    Command(
        "completion",
        "print a completion script",
        "completion:script",
        (),
        (Argument("shell", "bash, zsh or fish"),),
        (
            ("twinhull completion bash > /etc/bash_completion.d/twinhull", ""),
            ("twinhull completion zsh > /usr/local/share/zsh/site-functions/_twinhull", ""),
            ("twinhull completion fish > ~/.config/fish/completions/twinhull.fish", ""),
        ),
    ),
    Command(
        "help",
        "show help for a command or topic",
        "system:show_help",
        (),
        (Argument("command", "or `templates`", least=0, most=0),),
        (("twinhull help run", ""), ("twinhull help templates", "what --format understands")),
    ),
    Command("login", "log in to a registry (with skopeo)", "system:login", (), (Argument("registry", least=0, most=0),), (), hidden=True),
    Command("logout", "log out of a registry (with skopeo)", "system:login", (), (Argument("registry", least=0, most=0),), (), hidden=True),
    Command("__complete", "list names for completion", "completion:candidates", (), (Argument("kind"),), (), hidden=True),
)
