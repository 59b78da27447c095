"""What the commands do: one function per command, named in its row, `(Arguments) -> exit code`. Loaded when called."""
