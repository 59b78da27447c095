"""Metrics: those that others keep and services scale by (`sources`), and our own, for Prometheus (`exposition`)."""
