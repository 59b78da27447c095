"""Metrics that others keep and services scale by. Our own are in daemon/exposition.py: they are made of the engine's views."""
