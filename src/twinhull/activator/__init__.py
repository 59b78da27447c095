"""Stands in for services that sleep: holds what comes, has instances started, hands over. See base.py."""
