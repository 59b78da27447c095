"""The image with the programs that measure, made from Debian's archive once and kept by the daemon."""

from __future__ import annotations

DISTRIBUTION, SUITE = "debian", "bookworm"
PACKAGES = ("fio", "iperf3", "sysbench", "stress-ng", "wrk", "nginx-light", "python3")
IMAGE = "localhost/twinhull-compare-tools:1"
"""The number goes up when PACKAGES change, so that an old image isn't taken for a new one."""
