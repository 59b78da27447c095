"""The daemon's composition: home, lock, mount namespace, engine, API, signals.

Invariant: whatever ends this process, workloads run on; the next daemon of the same home takes them over.
`python -m twinhull.daemon.main` is what `twinhull daemon` and the systemd unit run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import io
import logging
import os
import resource
import signal
import sys
from dataclasses import dataclass, field

from twinhull import home as homes
from twinhull.daemon import lock
from twinhull.daemon.api.app import create_app
from twinhull.daemon.config import Config, load
from twinhull.daemon.serve import serve
from twinhull.engine.local import LocalEngine
from twinhull.engine.settings import Settings
from twinhull.errors import TwinhullError
from twinhull.gateway.settings import Settings as GatewaySettings
from twinhull.home import Home
from twinhull.sys.namespaces import prepare_daemon_namespace

_log = logging.getLogger("twinhull")


@dataclass
class _Stop:
    """How the daemon was told to end."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    all: bool = False

    def __call__(self, all: bool) -> None:
        self.all = self.all or all
        self.asked.set()


def run(home: Home, ready_fd: int | None = None) -> int:
    """Run until told to stop; the exit status. `ready_fd` gets one byte once the API answers, and is closed."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        _make_folders(home)
        config = load(home.config)
        held = lock.acquire(home)
        _raise_file_limit()
        prepare_daemon_namespace()
        asyncio.run(_main(home, config, ready_fd))
    except TwinhullError as error:
        print(f"twinhull daemon: {error.message}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return 2 if error.status < 500 else 1
    os.close(held)
    return 0


async def _main(home: Home, config: Config, ready_fd: int | None) -> None:
    stop = _Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, False)
    loop.add_signal_handler(signal.SIGUSR1, _log_tasks)
    engine = LocalEngine(home, _settings(config))
    await engine.open()
    gc.freeze()
    try:
        await _serve_until(stop, engine, home, config, ready_fd)
    finally:
        await engine.close(all=stop.all)
    _log.info("ended; %s", "all workloads were ended" if stop.all else "workloads run on")


async def _serve_until(stop: _Stop, engine: LocalEngine, home: Home, config: Config, ready_fd: int | None) -> None:
    app = create_app(engine, config, stop)
    server = asyncio.create_task(serve(app, home, config, lambda: _tell_ready(home, ready_fd)), name="api")
    waiter = asyncio.create_task(stop.asked.wait(), name="stop")
    await asyncio.wait({server, waiter}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    server.cancel() if not server.done() else None
    with contextlib.suppress(asyncio.CancelledError):
        await server


def _log_tasks() -> None:
    """What every task waits for, into the log: `kill -USR1`, as for a Go program's SIGQUIT, but it goes on."""
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        text = io.StringIO()
        task.print_stack(file=text)
        _log.info("%s", text.getvalue().rstrip())


def _tell_ready(home: Home, ready_fd: int | None) -> None:
    _log.info("ready on %s", home.socket)
    if ready_fd is not None:
        os.write(ready_fd, b"1")
        os.close(ready_fd)


def _settings(config: Config) -> Settings:
    return Settings(
        accelerator=config.vm.accelerator,
        parked=config.vm.parked,
        parked_memory=config.vm.parked_memory,
        allow_privileged=config.security.allow_privileged,
        allow_unconfined=config.security.allow_unconfined,
        network_pools=(config.network.pool,) if config.network.pool else (),
        log_max_size=config.logs.max_size,
        log_max_files=config.logs.max_files,
        scale_cpus=config.scale.cpus,
        scale_memory=config.scale.memory,
        use_window=config.scale.use_window,
        gateway=GatewaySettings(**dataclasses.asdict(config.gateway)),
    )


def _make_folders(home: Home) -> None:
    # The database has secrets, and set-user-id files of a volume are root's on disk (CVE-2021-41091): nobody else may walk in.
    for folder, mode in ((home.state, 0o700), (home.run, 0o711), (home.cache, 0o711), (home.config, 0o700)):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)


def _raise_file_limit() -> None:
    """Every instance costs a few descriptors; the hard limit is what the machine's owner allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="twinhull daemon", description="Run the daemon in the foreground.")
    parser.add_argument("--ready-fd", type=int, help="write one byte to this descriptor once the API answers")
    options = parser.parse_args()
    return run(homes.current(), options.ready_fd)


if __name__ == "__main__":
    sys.exit(main())
