"""The only raw spawns, atomic writes and system calls; below everything, forbidden to spec and plan."""
