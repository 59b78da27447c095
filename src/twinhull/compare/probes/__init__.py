"""Attempts to get out, run inside an instance. See table.py."""
