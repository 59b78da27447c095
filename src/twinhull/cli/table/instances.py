"""Rows of what is done with instances that exist."""

from __future__ import annotations

from twinhull.cli.option import DETACH_KEYS, FILTER, FORCE, FORMAT, JSON, NO_TRUNC, QUIET, REMOVED, SIG_PROXY, Argument, Command, Option

_ONE = Argument("instance", "name, id, or the beginning of an id", complete="instances")
_MANY = Argument("instance", "names, ids, or beginnings of ids", most=0, complete="instances")
_RUNNING = Argument("instance", most=0, complete="running")
_SIGNAL = Option("--signal", "signal to send", short="-s", metavar="SIGNAL")
_GRACE = Option("--time", "grace before it is killed", short="-t", kind="duration", metavar="SECONDS", aliases=("--timeout",))

COMMANDS = (
    Command(
        "ps",
        "list instances",
        "listing:ps",
        (
            Option("--all", "also those that don't run", short="-a", kind="switch"),
            FILTER,
            FORMAT,
            JSON,
            QUIET,
            NO_TRUNC,
            Option("--last", "the last N made, whatever their state", short="-n", kind="integer", metavar="N"),
            Option("--latest", "the last one made", short="-l", kind="switch"),
        ),
        (),
        (
            ("twinhull ps -a", "everything"),
            ("twinhull ps -f runtime=vm -f label=app=shop", "virtual machines of one app"),
            ("twinhull ps --format '{{.Names}}\\t{{.Status}}'", "chosen columns"),
        ),
        aliases=("list", "container ls"),
        notes="Filters: name, id, status, label, ancestor, network, volume, runtime, health, exited. "
        "Several values of one key are alternatives; several keys must all match.",
    ),
    Command(
        "start",
        "start instances that don't run",
        "life:start",
        (
            Option("--attach", "connect to its output, and end with its exit code", short="-a", kind="switch"),
            Option("--interactive", "connect stdin too", short="-i", kind="switch"),
            DETACH_KEYS,
            SIG_PROXY,
        ),
        (_MANY,),
        (("twinhull start web", "start it again"), ("twinhull start -ai job", "start it and connect")),
    ),
    Command(
        "stop",
        "end instances: their stop signal, then KILL",
        "life:stop",
        (_GRACE, _SIGNAL, Option("--all", "all that run", short="-a", kind="switch")),
        (_RUNNING._replace(least=0),),
        (("twinhull stop web", ""), ("twinhull stop -t 1 web db", "with one second's grace")),
        needs_one_of=("instance", "all"),
    ),
    Command("restart", "stop and start instances", "life:restart", (_GRACE,), (_MANY,), (("twinhull restart web", ""),)),
    Command(
        "kill",
        "send a signal to instances",
        "life:kill",
        (_SIGNAL._replace(default="KILL"),),
        (_RUNNING,),
        (("twinhull kill -s HUP web", "make it read its configuration again"),),
    ),
    Command("pause", "freeze all processes of instances", "life:pause", (), (_RUNNING,), (("twinhull pause web", ""),)),
    Command("unpause", "thaw what was paused", "life:unpause", (), (_MANY,), (("twinhull unpause web", ""),)),
    Command(
        "rm",
        "remove instances",
        "life:remove",
        (
            FORCE._replace(help="end it first if it runs; a missing one is no error"),
            Option("--volumes", "remove its anonymous volumes too", short="-v", kind="switch"),
            Option("--all", "all that don't run (with --force: all)", short="-a", kind="switch"),
        ),
        (_MANY._replace(least=0),),
        (("twinhull rm -f web", "whether it runs or not"),),
        aliases=("remove",),
        needs_one_of=("instance", "all"),
    ),
    Command(
        "wait",
        "wait for instances and print their exit codes",
        "life:wait",
        (
            Option(
                "--condition",
                "what to wait for",
                metavar="WHAT",
                choices=("not-running", "next-exit", "removed", "healthy"),
                default="not-running",
            ),
        ),
        (_MANY,),
        (("twinhull wait job", "prints its exit code"), ("twinhull wait --condition healthy web", "returns when it is healthy")),
    ),
    Command(
        "logs",
        "show what an instance has written",
        "streams:logs",
        (
            Option("--follow", "go on as it writes", short="-f", kind="switch"),
            Option("--since", "from a time on: 10m, 2026-01-31T12:00:00Z, or seconds since 1970", metavar="WHEN"),
            Option("--until", "up to a time", metavar="WHEN"),
            Option("--tail", "only the last N lines, or all", short="-n", metavar="N", default="all"),
            Option("--timestamps", "put the time before each line", short="-t", kind="switch"),
            JSON._replace(help="an object a line: at, stream, text (base64 where it isn't UTF-8)"),
        ),
        (_ONE,),
        (("twinhull logs -f --since 10m --tail 100 -t web", ""),),
        notes="What it wrote to stdout goes to stdout, what it wrote to stderr to stderr.",
    ),
    Command(
        "cp",
        "copy files between here and an instance",
        "copying:copy",
        (
            Option("--archive", "keep numeric owner and group", short="-a", kind="switch"),
            Option("--follow-link", "copy what a symbolic link SOURCE points to", short="-L", kind="switch"),
            Option("--quiet", "no progress", short="-q", kind="switch"),
        ),
        (
            Argument("source", "PATH, INSTANCE:PATH, or - for a tar on stdin", complete="files"),
            Argument("target", "PATH, INSTANCE:PATH, or - for a tar on stdout", complete="files"),
        ),
        (
            ("twinhull cp ./site web:/srv", "a folder into /srv (or as /srv, if that isn't there)"),
            ("twinhull cp web:/etc/nginx/. conf", "the content of a folder"),
            ("twinhull cp web:/var/log - | tar t", "as a tar"),
        ),
        notes="Rules as in Docker: a SOURCE folder ending in /. means its content; a TARGET ending in / must be a folder. "
        "On the way out, links that "
        "lead outside TARGET, device nodes and pipes are left out with a warning, and set-user-ID bits are dropped; use - for everything.",
    ),
    Command(
        "stats",
        "show what instances use",
        "streams:stats",
        (
            Option("--all", "also those that don't run", short="-a", kind="switch"),
            Option("--no-stream", "once", kind="switch"),
            FORMAT,
            JSON,
            NO_TRUNC,
        ),
        (_RUNNING._replace(least=0),),
        (("twinhull stats", "a live table"), ("twinhull stats --no-stream --json web", "once, for programs")),
    ),
    Command(
        "top",
        "watch the services of all applications, or list the processes inside an instance",
        "top:top",
        (Option("--no-stream", "the table of services once", kind="switch"), FORMAT, JSON),
        (_ONE._replace(least=0, complete="running"),),
        (
            ("twinhull top", "a live table: how many instances are wanted and ready, why, and what they bear"),
            ("twinhull top --no-stream --json", "once, for programs"),
            ("twinhull top web", "the processes of an instance"),
        ),
    ),
    Command(
        "inspect",
        "everything about instances, images, networks or volumes as JSON",
        "listing:inspect",
        (
            Option(
                "--format",
                "a template such as '{{.state}}' or '{{json .spec.env}}' (see: twinhull help templates)",
                short="-f",
                metavar="FORMAT",
            ),
            JSON,
            Option("--type", "look only here", metavar="KIND", choices=("instance", "container", "image", "network", "volume")),
        ),
        (Argument("name", most=0, complete="instances"),),
        (
            ("twinhull inspect web", ""),
            ("twinhull inspect -f '{{.exit_code}}' job", "one field"),
            ("twinhull inspect -f '{{.State.Running}}' web", "Docker's names of the usual fields work too"),
        ),
    ),
    Command(
        "port",
        "list an instance's published ports",
        "listing:port",
        (FORMAT, JSON),
        (_ONE, Argument("port", "PORT[/PROTOCOL]: only this one", least=0)),
        (("twinhull port web 80", "0.0.0.0:8080"),),
    ),
    Command(
        "rename", "give an instance another name", "life:rename", (), (_ONE, Argument("new-name")), (("twinhull rename web old-web", ""),)
    ),
    Command(
        "update",
        "change the limits or restart policy of instances",
        "life:update",
        (
            Option("--cpus", "processors", kind="number", metavar="NUMBER", spec="resources.cpus"),
            Option("--cpu-shares", "weight against others", short="-c", kind="integer", metavar="WEIGHT", spec="resources.cpu_shares"),
            Option("--cpuset-cpus", "only these processors", metavar="0-2,5", spec="resources.cpuset"),
            Option("--memory", "memory", short="-m", kind="size", metavar="SIZE", spec="resources.memory"),
            Option("--memory-swap", "memory plus swap; -1 is no limit", kind="size", metavar="SIZE", spec="resources.memory_swap"),
            Option("--pids-limit", "processes and threads; -1 is no limit", kind="count", metavar="NUMBER", spec="resources.pids"),
            Option("--restart", "no, always, unless-stopped, on-failure[:TRIES]", metavar="POLICY"),
        ),
        (_MANY,),
        (("twinhull update -m 256m web", ""),),
    ),
    Command(
        "diff",
        "list what an instance changed in its file system",
        "listing:diff",
        (FORMAT, JSON),
        (_ONE,),
        (("twinhull diff web", ""),),
        notes="A: added, C: changed, D: deleted.",
    ),
    Command(
        "commit",
        "make an image of an instance's file system",
        "listing:commit",
        (
            Option("--message", "a remark in the image's history", short="-m", metavar="TEXT"),
            Option("--change", "apply a Containerfile instruction", short="-c", metavar="INSTRUCTION", repeat=True),
            QUIET,
        ),
        (_ONE, Argument("image", "name of the new image", least=0)),
        (("twinhull commit -c 'CMD [\"/srv/run\"]' web shop/web:patched", ""),),
    ),
    Command(
        "export",
        "write an instance's file system as a tar",
        "copying:export",
        (Option("--output", "a file instead of stdout", short="-o", metavar="FILE", complete="files"),),
        (_ONE,),
        (("twinhull export web > web.tar", ""),),
    ),
    Command(
        "container prune",
        "remove all instances that don't run",
        "life:prune",
        (FORCE._replace(help="don't ask"), FILTER._replace(short=""), REMOVED),
        (),
        (("twinhull container prune -f", ""),),
        aliases=("instance prune",),
    ),
)
