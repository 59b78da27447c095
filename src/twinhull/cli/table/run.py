"""Rows of `run`, `create`, `exec` and `attach`.

The options of `create` are InstanceSpec, flag by flag; `spec.py` of this package turns their values into its JSON.
"""

from __future__ import annotations

from twinhull.cli.option import DETACH_KEYS, SIG_PROXY, Argument, Command, Option

_PROCESS = (
    Option("--interactive", "keep stdin open and pass it on", short="-i", kind="switch", spec="stdin"),
    Option("--tty", "give it a terminal", short="-t", kind="switch", spec="tty"),
    Option("--env", "set a variable; KEY alone takes the value from here", short="-e", metavar="KEY[=VALUE]", repeat=True, spec="env"),
    Option("--env-file", "read variables from a file, one KEY=VALUE a line", metavar="FILE", repeat=True, complete="files", spec="env"),
    Option("--user", "user inside, by name or number", short="-u", metavar="USER[:GROUP]", spec="user"),
    Option("--workdir", "working directory inside", short="-w", metavar="PATH", aliases=("--cwd",), spec="workdir"),
)
_IDENTITY = (
    Option("--name", "a name to call it by (default: one is made up)", metavar="NAME", spec="name"),
    Option(
        "--runtime",
        "hull: container, sandbox or vm (also runc, crun, runsc, kata, krun)",
        metavar="RUNTIME",
        default="container",
        spec="runtime",
    ),
    Option("--hostname", "hostname inside", short="-h", metavar="NAME", spec="hostname"),
    Option("--label", "attach a label", short="-l", metavar="KEY[=VALUE]", repeat=True, spec="labels"),
    Option("--label-file", "read labels from a file", metavar="FILE", repeat=True, complete="files", spec="labels"),
    Option("--entrypoint", "replace the image's entrypoint: a word, a JSON list, or '' for none", metavar="WORD|JSON", spec="entrypoint"),
    Option("--init", "run an init that reaps orphans and passes signals on", kind="switch", spec="init"),
    Option("--rm", "remove it when it ends", kind="switch", spec="auto_remove"),
    Option("--restart", "no, always, unless-stopped, on-failure[:TRIES]", metavar="POLICY", default="no", spec="restart"),
    Option("--stop-signal", "signal that `stop` sends", metavar="SIGNAL", spec="stop_signal"),
    Option("--stop-timeout", "grace before `stop` kills", kind="duration", metavar="SECONDS", default="10s", spec="stop_timeout"),
    Option("--snapshot", "app: go on from a snapshot of the warm app (VMs)", choices=("app",), metavar="KIND", spec="snapshot"),
    Option(
        "--snapshot-reconnect",
        "the app may have volumes and secrets: it holds none open when the snapshot is made, and opens them anew (docs/security.md)",
        kind="switch",
        spec="snapshot_reconnect",
    ),
    Option("--cidfile", "write the id to a new file", metavar="FILE", complete="files"),
)
_DATA = (
    Option(
        "--volume",
        "mount a volume or a host path: SOURCE:TARGET[:ro]",
        short="-v",
        metavar="[SOURCE:]TARGET[:OPTIONS]",
        repeat=True,
        complete="volumes",
        spec="mounts",
    ),
    Option(
        "--mount",
        "the same in full: type=bind|volume|tmpfs,source=…,target=…[,readonly]",
        metavar="KEY=VALUE,…",
        repeat=True,
        spec="mounts",
    ),
    Option("--tmpfs", "a file system in memory: PATH[:size=64m,mode=1777]", metavar="PATH[:OPTIONS]", repeat=True, spec="mounts"),
    Option(
        "--secret",
        "a file that is never written to disk: PATH, or source=PATH,target=…,uid=…,gid=…,mode=…",
        metavar="SECRET",
        repeat=True,
        complete="files",
        spec="files",
    ),
    Option(
        "--config",
        "a read-only file: PATH, or source=PATH,target=…,uid=…,gid=…,mode=…",
        metavar="CONFIG",
        repeat=True,
        complete="files",
        spec="files",
    ),
    Option("--shm-size", "size of /dev/shm", kind="size", metavar="SIZE", default="64m", spec="shm_size"),
)
_NETWORK = (
    Option(
        "--publish", "publish a port: [[IP:]HOST:]PORT[/udp]; ranges as 8000-8010", short="-p", metavar="PORTS", repeat=True, spec="ports"
    ),
    Option("--publish-all", "publish every port the image exposes", short="-P", kind="switch", spec="ports"),
    Option(
        "--network",
        "a network's name with NAME:alias=…,ip=… if wanted; none; or host",
        metavar="NETWORK",
        repeat=True,
        complete="networks",
        aliases=("--net",),
        spec="networks",
    ),
    Option(
        "--network-alias", "a further DNS name on the first network", metavar="NAME", repeat=True, aliases=("--net-alias",), spec="networks"
    ),
    Option("--ip", "address on the first network", metavar="ADDRESS", spec="networks"),
    Option("--mac-address", "MAC on the first network", metavar="MAC", spec="networks"),
    Option("--add-host", "a line of /etc/hosts; host-gateway is the host", metavar="NAME:ADDRESS", repeat=True, spec="extra_hosts"),
    Option("--dns", "a name server instead of the network's", metavar="ADDRESS", repeat=True, spec="dns"),
    Option("--dns-search", "a search domain", metavar="DOMAIN", repeat=True, spec="dns_search"),
)
_LIMITS = (
    Option("--cpus", "processors, also in fractions", kind="number", metavar="NUMBER", spec="resources.cpus"),
    Option(
        "--cpu-shares", "weight against others (1024 is normal)", short="-c", kind="integer", metavar="WEIGHT", spec="resources.cpu_shares"
    ),
    Option("--cpuset-cpus", "only these processors", metavar="0-2,5", spec="resources.cpuset"),
    Option("--memory", "memory, e.g. 128m", short="-m", kind="size", metavar="SIZE", spec="resources.memory"),
    Option("--memory-swap", "memory plus swap; -1 is no limit", kind="size", metavar="SIZE", spec="resources.memory_swap"),
    Option("--pids-limit", "processes and threads; -1 is no limit", kind="count", metavar="NUMBER", spec="resources.pids"),
    Option("--device-read-bps", "bytes read a second: [DEVICE:]RATE", metavar="RATE", repeat=True, spec="resources.read_bps"),
    Option("--device-write-bps", "bytes written a second: [DEVICE:]RATE", metavar="RATE", repeat=True, spec="resources.write_bps"),
    Option("--device-read-iops", "reads a second: [DEVICE:]RATE", metavar="RATE", repeat=True, spec="resources.read_iops"),
    Option("--device-write-iops", "writes a second: [DEVICE:]RATE", metavar="RATE", repeat=True, spec="resources.write_iops"),
    Option("--ulimit", "a resource limit: NAME=SOFT[:HARD]", metavar="LIMIT", repeat=True, spec="ulimits"),
    Option("--sysctl", "a kernel setting of its namespaces", metavar="KEY=VALUE", repeat=True, spec="sysctls"),
)
_SECURITY = (
    Option("--read-only", "the root file system can't be written to", kind="switch", spec="security.read_only"),
    Option("--cap-add", "give a capability (or ALL)", metavar="CAP", repeat=True, spec="security.cap_add"),
    Option("--cap-drop", "take a capability (or ALL)", metavar="CAP", repeat=True, spec="security.cap_drop"),
    Option("--security-opt", "seccomp=FILE|unconfined, no-new-privileges[=false]", metavar="OPTION", repeat=True, spec="security"),
    Option("--privileged", "all capabilities, no seccomp, host devices: no containment", kind="switch", spec="security.privileged"),
)
_HEALTH = (
    Option("--health-cmd", "a shell command (or a JSON list) that tells health by its exit code", metavar="COMMAND", spec="health"),
    Option("--health-interval", "time between checks", kind="duration", metavar="DURATION", default="30s", spec="health.interval"),
    Option(
        "--health-timeout",
        "a check that takes longer has failed",
        kind="duration",
        metavar="DURATION",
        default="30s",
        spec="health.timeout",
    ),
    Option(
        "--health-retries", "failures in a row that mean unhealthy", kind="integer", metavar="NUMBER", default="3", spec="health.retries"
    ),
    Option(
        "--health-start-period",
        "failures don't count so long",
        kind="duration",
        metavar="DURATION",
        default="0s",
        spec="health.start_period",
    ),
    Option(
        "--health-start-interval",
        "time between checks in the start period",
        kind="duration",
        metavar="DURATION",
        default="5s",
        spec="health.start_interval",
    ),
    Option("--no-healthcheck", "no check, whatever the image says", kind="switch", spec="health"),
)
_LOGS = (Option("--log-opt", "max-size=16m or max-file=3", metavar="KEY=VALUE", repeat=True, spec="logging"),)
_PULL = (
    Option("--pull", "fetch the image: missing, always, never", metavar="WHEN", choices=("missing", "always", "never"), default="missing"),
    Option("--tls-verify", "check the registry's certificate when fetching (--tls-verify=false: don't)", kind="switch", default="true"),
    Option("--quiet", "don't show the fetching of an image", short="-q", kind="switch"),
)

CREATE = (*_PROCESS, *_IDENTITY, *_DATA, *_NETWORK, *_LIMITS, *_SECURITY, *_HEALTH, *_LOGS, *_PULL)
"""Everything that describes an instance."""

_IMAGE = Argument("image", "what to run", complete="images")
_COMMAND = Argument("command", "program and its arguments, instead of the image's", least=0, most=0)
_EXIT_CODES = "Exit code: the program's own; 125 if Twinhull failed, 126 if the program can't be run, 127 if it isn't there."

COMMANDS = (
    Command(
        "run",
        "make and start an instance of an image",
        "run:run",
        (Option("--detach", "leave it in the background and print its id", short="-d", kind="switch"), *CREATE, DETACH_KEYS, SIG_PROXY),
        (_IMAGE, _COMMAND),
        (
            ("twinhull run --rm -it debian:bookworm bash", "a shell in a container"),
            ("twinhull run --rm -it --runtime vm debian:bookworm bash", "the same in a virtual machine"),
            ("twinhull run -d --name web -p 8080:80 -m 128m --cpus .5 shop/web", "a server in the background"),
            ("twinhull run --rm -v data:/data alpine tar c /data > data.tar", "a volume's content as a tar"),
        ),
        notes=f"Options end at IMAGE; what follows is the program's. {_EXIT_CODES}",
        own_exit_codes=True,
        options_first=True,
    ),
    Command(
        "create",
        "make an instance without starting it",
        "run:create",
        CREATE,
        (_IMAGE, _COMMAND),
        (("twinhull create --name job debian:bookworm sleep 60", "make it now, start it with `twinhull start job`"),),
        options_first=True,
    ),
    Command(
        "exec",
        "run a further program inside a running instance",
        "run:execute",
        (
            Option("--detach", "don't wait for it", short="-d", kind="switch"),
            *(option._replace(spec="") for option in _PROCESS),
            Option("--privileged", "give the program all capabilities", kind="switch"),
            DETACH_KEYS,
            SIG_PROXY,
        ),
        (Argument("instance", complete="running"), Argument("command", "program and its arguments", most=0)),
        (
            ("twinhull exec -it web sh", "a shell inside"),
            ("twinhull exec web uname -r", "one command"),
            ("twinhull exec -i db psql < dump.sql", "stdin goes to the program"),
        ),
        notes=f"Options end at INSTANCE; what follows is the program's. {_EXIT_CODES}",
        own_exit_codes=True,
        options_first=True,
    ),
    Command(
        "attach",
        "connect to the streams of a running instance",
        "run:attach",
        (
            Option("--no-stdin", "don't pass stdin on", kind="switch"),
            Option("--logs", "show what it has written so far first", kind="switch"),
            DETACH_KEYS,
            SIG_PROXY,
        ),
        (Argument("instance", complete="running"),),
        (("twinhull attach web", "ctrl-p ctrl-q leaves it running"),),
        own_exit_codes=True,
    ),
)
