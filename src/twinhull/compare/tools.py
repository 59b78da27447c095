"""The image with the programs that measure: what is in it, what its instances run, and how the daemon gets it.

It is made from Debian's archive once and kept by the daemon, so that nothing of it is installed on the host. What is measured in it, and
what in the user's own image, is said by each metric.
"""

from __future__ import annotations

from collections.abc import Callable

from twinhull.client import Client
from twinhull.engine.base import BootstrapSpec
from twinhull.errors import NotFoundError

DISTRIBUTION, SUITE = "debian", "bookworm"
PACKAGES = ("fio", "iperf3", "sysbench", "stress-ng", "wrk", "nginx-light", "python3")
IMAGE = "localhost/twinhull-compare-tools:1"
"""The number goes up when PACKAGES change, so that an old image isn't taken for a new one."""
PAGE, PORT = "/index.nginx-debian.html", 80
"""612 bytes, as in the published comparisons of nginx (EuroSys'21)."""
_NGINX = "events {} http { access_log off; keepalive_requests 1000000000; server { listen 80; root /var/www/html; } }"
SERVER = ("sh", "-c", f"echo '{_NGINX}' >/tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -g 'daemon off;'")
"""A web server of one worker."""
BOX = ("sh", "-c", f"echo '{_NGINX}' >/tmp/nginx.conf; nginx -c /tmp/nginx.conf; iperf3 -s -D >/dev/null; exec sleep 1000000000")
"""Servers that wait, and time for exec."""


def provide(client: Client, image: str, say: Callable[[str], None]) -> None:
    """See that the daemon has it; makes the default one, in about a minute. Raises what the daemon says."""
    try:
        client.image(image)
    except NotFoundError:
        if image != IMAGE:
            raise
        spec = BootstrapSpec(distribution=DISTRIBUTION, suite=SUITE, packages=PACKAGES, tag=image)
        for line in client.image_bootstrap(spec):
            say(line)
