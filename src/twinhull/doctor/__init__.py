"""`twinhull doctor`: is this machine fit, and if not, what mends it."""

from twinhull.doctor.report import main

__all__ = ["main"]
