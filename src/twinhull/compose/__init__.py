"""Reads compose files: text with positions in, an `AppSpec` out. Runs in the client; touches files and the environment, never the daemon."""
