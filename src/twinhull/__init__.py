"""Twinhull: one OCI image, run as a container or as a VM, by one word."""

__version__ = "0.1.0"
