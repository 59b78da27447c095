"""Rows of applications: a compose file's life, and its services by their names."""

from __future__ import annotations

from twinhull.cli.option import FORMAT, JSON, QUIET, Argument, Command, Option
from twinhull.cli.table import config, load, members

FILES = (
    Option("--file", "compose file; repeats, later ones win", short="-f", metavar="FILE", repeat=True, complete="files"),
    Option("--project-name", "the application's name", short="-p", metavar="NAME", complete="apps"),
    Option("--profile", "a profile to enable; repeats", metavar="NAME", repeat=True),
    Option("--env-file", "variables for the file, instead of .env; repeats", metavar="FILE", repeat=True, complete="files"),
    Option("--project-directory", "what relative paths count from", metavar="FOLDER", complete="folders"),
)
"""Which application is meant."""
_SERVICES = Argument("service", "all services if none is named", least=0, most=0, complete="services")
_SERVICE = Argument("service", complete="services")
_COMMAND = Argument("command", "program and its arguments", least=0, most=0)
_GRACE = Option("--timeout", "grace before it is killed", short="-t", kind="duration", metavar="SECONDS")
_WAIT_TIMEOUT = Option("--wait-timeout", "give up waiting after this time", kind="duration", metavar="SECONDS")
_NO_WAIT = Option("--no-wait", "return at once", kind="switch")
_VIEW = JSON._replace(help="how it stands then, for programs")
_NO_PREFIX = Option("--no-log-prefix", "don't begin lines with the instance's name", kind="switch")


_QUIETLY = QUIET._replace(help="don't show how it goes")
_TTY = Option("--tty", "as it is anyway on a terminal", short="-t", kind="switch")
_NO_COLOR = Option("--no-color", "no colours", kind="switch")


def _without(letter: str) -> tuple[Option, ...]:
    """FILES where a short letter is docker compose's own for something else after the verb; before the verb it means the file's."""
    return tuple(option._replace(short="") if option.short == letter else option for option in FILES)


def _row(words: str, summary: str, handler: str, options: tuple[Option, ...], arguments: tuple[Argument, ...], *examples: str) -> Command:
    """A row with the options that say which application is meant."""
    return Command(words, summary, handler, (*FILES, *options), arguments, tuple((example, "") for example in examples))


COMMANDS = (
    config.command(FILES),
    _row(
        "up",
        "make an application be as its compose file says",
        "apps:up",
        (
            Option("--detach", "leave it in the background", short="-d", kind="switch"),
            Option("--build", "build images first", kind="switch"),
            Option("--no-build", "never build", kind="switch"),
            Option("--pull", "fetch images: missing, always, never", metavar="WHEN", choices=("missing", "always", "never")),
            Option("--wait", "return when everything is ready (implies --detach)", kind="switch"),
            _WAIT_TIMEOUT,
            Option("--dry-run", "only show what would be done, and why", kind="switch"),
            Option("--remove-orphans", "remove services that the file no longer has", kind="switch"),
            Option("--no-deps", "leave alone what the named services depend on", kind="switch"),
            Option("--force-recreate", "replace instances even if nothing changed", kind="switch"),
            Option("--renew-anon-volumes", "replacements don't inherit anonymous volumes", short="-V", kind="switch"),
            Option("--scale", "SERVICE=COUNT; repeats", metavar="SERVICE=COUNT", repeat=True),
            _NO_PREFIX,
            _NO_COLOR,
            Option("--quiet-pull", "don't show the fetching of images", kind="switch"),
            JSON._replace(help="with --dry-run, --wait or --detach: for programs"),
        ),
        (_SERVICES,),
        "twinhull up",
        "twinhull up -d --build --wait",
        "twinhull up --dry-run",
        "twinhull up -d --no-deps web",
    )._replace(
        aliases=("compose up",),
        notes="Where services are named, only they and what they depend on become as the file says; all others stay as they are.",
    ),
    _row(
        "down",
        "stop and remove an application",
        "apps:down",
        (
            Option("--volumes", "its volumes too", short="-v", kind="switch"),
            Option("--remove-orphans", "as it is anyway: everything of the application goes", kind="switch"),
            _GRACE,
            JSON._replace(help="what was removed and what stays, for programs"),
        ),
        (),
        "twinhull down -v",
    )._replace(aliases=("compose down",)),
    _row(
        "scale",
        "set the number of instances of services; explain SERVICE: why the autoscaler chose its number",
        "apps:scale",
        (_NO_WAIT, _VIEW),
        (Argument("service=count", "or: explain SERVICE", most=0),),
        "twinhull scale web=5 worker=2",
        "twinhull scale explain web",
    )._replace(aliases=("compose scale",)),
    Command(
        "ls",
        "list applications",
        "apps:ls",
        (Option("--all", "as it is anyway: stopped ones too", short="-a", kind="switch"), FORMAT, JSON, QUIET),
        (),
        (("twinhull ls", ""),),
        aliases=("compose ls", "app ls"),
    ),
    _row("compose history", "show an application's revisions", "apps:history", (FORMAT, JSON), (), "twinhull compose history")._replace(
        aliases=("revisions",)
    ),
    _row(
        "rollback",
        "go back to an earlier revision, images included",
        "apps:rollback",
        (_NO_WAIT, _VIEW),
        (Argument("revision", "as `twinhull revisions` numbers them; the one before if none is given", least=0),),
        "twinhull rollback",
        "twinhull rollback 3",
    )._replace(
        aliases=("compose rollback",),
        notes="Services that the revision doesn't have are removed, once the others are as it says; named volumes stay.",
    ),
    _row(
        "rollout",
        "watch, pause, resume or abort a change that is under way",
        "apps:rollout",
        (FORMAT, JSON),
        (Argument("verb", "status, pause, resume or abort"), _SERVICES),
        "twinhull rollout status",
        "twinhull rollout abort web",
    )._replace(aliases=("compose rollout",)),
    _row(
        "isolate",
        "move a running service into another hull, without losing a request",
        "apps:isolate",
        (_NO_WAIT, _VIEW),
        (_SERVICE, Argument("runtime", "container, sandbox or vm")),
        "twinhull isolate payment vm",
        "twinhull isolate payment container",
    )._replace(aliases=("compose isolate",), notes="Lasts until the next `up`; for good, set `runtime:` in the file."),
    _row(
        "watch",
        "build, sync or restart services when files change (develop.watch)",
        "watching:watch",
        (Option("--no-up", "don't bring the application up first", kind="switch"),),
        (_SERVICES,),
        "twinhull watch",
    )._replace(aliases=("compose watch",)),
    _row(
        "compose ps",
        "list the instances of an application",
        "services:ps",
        (
            Option("--services", "only the services", kind="switch"),
            Option("--all", "as it is anyway: also those that don't run", short="-a", kind="switch"),
            Option("--status", "only those in a state: running, exited, paused, created", metavar="STATE", repeat=True),
            FORMAT,
            JSON,
            QUIET,
        ),
        (_SERVICES,),
        "twinhull compose ps",
    ),
    Command(
        "compose logs",
        "show what services write",
        "services:logs",
        (
            *_without("-f"),
            Option("--follow", "go on with what comes", short="-f", kind="switch"),
            Option("--tail", "only the last lines of each instance", short="-n", metavar="LINES"),
            Option("--since", "from a time on: 10m, 2026-01-31T12:00:00Z", metavar="WHEN"),
            Option("--until", "up to a time", metavar="WHEN"),
            Option("--timestamps", "begin each line with its time", short="-t", kind="switch"),
            _NO_PREFIX,
            _NO_COLOR,
            JSON._replace(help="an object a line: at, instance, stream, text (base64 where it isn't UTF-8)"),
        ),
        (_SERVICES,),
        (
            ("twinhull compose logs -f web", ""),
            ("twinhull compose -f shop.yaml logs --since 10m", "a file is named before the verb, or by --file"),
        ),
    ),
    _row(
        "compose exec",
        "run a further program in an instance of a service",
        "services:execute",
        (
            Option("--detach", "don't wait for it", short="-d", kind="switch"),
            Option("--interactive", "pass stdin on", short="-i", kind="switch", default="true"),
            _TTY,
            Option("--no-tty", "no terminal", short="-T", kind="switch", aliases=("--no-TTY",)),
            Option("--privileged", "give the program all capabilities", kind="switch"),
            Option("--env", "set a variable", short="-e", metavar="KEY=VALUE", repeat=True),
            Option("--user", "who runs it", short="-u", metavar="USER"),
            Option("--workdir", "where", short="-w", metavar="PATH"),
            Option("--index", "which instance of the service", kind="integer", metavar="N"),
        ),
        (_SERVICE, Argument("command", most=0)),
        "twinhull compose exec web sh",
    )._replace(own_exit_codes=True, options_first=True),
    Command(
        "compose run",
        "run a one-off instance of a service",
        "services:run",
        (
            *_without("-p"),
            Option("--detach", "leave it in the background", short="-d", kind="switch"),
            Option("--rm", "remove it when it ends", kind="switch"),
            Option("--build", "build its image first", kind="switch"),
            Option("--no-deps", "don't bring its dependencies up", kind="switch"),
            Option("--interactive", "pass stdin on", short="-i", kind="switch", default="true"),
            _TTY,
            Option("--no-tty", "no terminal", short="-T", kind="switch", aliases=("--no-TTY",)),
            Option("--env", "set a variable", short="-e", metavar="KEY=VALUE", repeat=True),
            Option("--label", "attach a label", short="-l", metavar="KEY[=VALUE]", repeat=True),
            Option("--user", "who runs it", short="-u", metavar="USER"),
            Option("--workdir", "where", short="-w", metavar="PATH"),
            Option("--entrypoint", "instead of the image's", metavar="PROGRAM"),
            Option("--name", "its name", metavar="NAME"),
            Option("--runtime", "container, sandbox or vm", metavar="RUNTIME"),
            Option("--volume", "mount a volume or a host path", short="-v", metavar="[SOURCE:]TARGET[:OPTIONS]", repeat=True),
            Option("--publish", "publish a port: [[IP:]HOST:]PORT[/udp]", short="-p", metavar="PORTS", repeat=True),
            Option("--service-ports", "publish the service's ports", short="-P", kind="switch"),
            Option("--quiet-pull", "don't show the fetching of its image", kind="switch"),
        ),
        (_SERVICE, _COMMAND),
        (("twinhull compose run --rm web python manage.py migrate", ""), ("twinhull compose -p shop run --rm -p 8080:80 web", "")),
        own_exit_codes=True,
        options_first=True,
        notes="As the file says now; instances of the service that run stay as they are. What it depends on is brought up first.",
    ),
    _row(
        "compose restart",
        "stop and start the instances of services, one after the other",
        "services:restart",
        (_GRACE,),
        (_SERVICES,),
        "twinhull compose restart web",
    ),
    _row("compose stop", "end the instances of services", "services:stop", (_GRACE,), (_SERVICES,), "twinhull compose stop"),
    _row("compose start", "start what was stopped", "services:start", (), (_SERVICES,), "twinhull compose start"),
    *members.commands(FILES),
    load.command(FILES),
    _row(
        "compose stats",
        "show what services use",
        "services:stats",
        (
            Option("--no-stream", "once", kind="switch"),
            FORMAT,
            JSON,
        ),
        (_SERVICES,),
        "twinhull compose stats",
    ),
    _row(
        "compose port",
        "show where a service's port is published",
        "services:port",
        (Option("--protocol", "tcp or udp", metavar="PROTOCOL", choices=("tcp", "udp"), default="tcp"), JSON),
        (_SERVICE, Argument("port", least=0)),
        "twinhull compose port web 80",
    ),
    _row("compose images", "list the images in use", "services:images", (FORMAT, JSON, QUIET), (_SERVICES,), "twinhull compose images"),
    _row("compose pull", "fetch the images of services", "services:pull", (_QUIETLY,), (_SERVICES,), "twinhull compose pull"),
    _row(
        "compose build",
        "build the images of services",
        "services:build",
        (
            Option("--no-cache", "from the start", kind="switch"),
            Option("--pull", "fetch newer base images", kind="switch"),
            Option("--build-arg", "KEY=VALUE for the build", metavar="KEY=VALUE", repeat=True),
            _QUIETLY,
        ),
        (_SERVICES,),
        "twinhull compose build web",
    ),
    _row("compose push", "push the images of services", "services:push", (_QUIETLY,), (_SERVICES,), "twinhull compose push"),
    _row("compose events", "show what happens in an application", "services:events", (JSON,), (), "twinhull compose events"),
)
