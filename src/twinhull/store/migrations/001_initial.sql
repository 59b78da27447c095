-- Desired and observed state of one daemon. Times are seconds since the epoch. JSON columns hold frozen dataclasses.
CREATE TABLE instances (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE,
    spec          TEXT NOT NULL,
    image_id      TEXT NOT NULL,
    image_config  TEXT NOT NULL,
    id_slot       INTEGER NOT NULL UNIQUE,      -- which 65,536 host ids are its own
    created_at    REAL NOT NULL,
    desired       TEXT NOT NULL,                -- creating, running, stopped, removed
    state         TEXT NOT NULL,                -- plan/lifecycle.py
    started_at    REAL NOT NULL DEFAULT 0,
    finished_at   REAL NOT NULL DEFAULT 0,
    exit_code     INTEGER NOT NULL DEFAULT 0,
    oom_killed    INTEGER NOT NULL DEFAULT 0,
    exit_reason   TEXT NOT NULL DEFAULT '',
    error         TEXT NOT NULL DEFAULT '',
    restart_count INTEGER NOT NULL DEFAULT 0,
    published     TEXT NOT NULL DEFAULT '[]'    -- spec.instance.PortMapping, host ports chosen
) STRICT;

CREATE TABLE networks (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    number     INTEGER NOT NULL UNIQUE,         -- of its bridge
    record     TEXT NOT NULL                    -- network.base.NetworkRecord
) STRICT;

CREATE TABLE endpoints (
    instance_id TEXT NOT NULL REFERENCES instances (id) ON DELETE CASCADE,
    network_id  TEXT NOT NULL REFERENCES networks (id),
    position    INTEGER NOT NULL,               -- eth0, eth1 …
    number      INTEGER NOT NULL UNIQUE,        -- of its veth or tap
    address     TEXT NOT NULL,
    mac         TEXT NOT NULL,
    aliases     TEXT NOT NULL,
    PRIMARY KEY (instance_id, position),
    UNIQUE (network_id, address)
) STRICT;

CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    at         REAL NOT NULL,
    kind       TEXT NOT NULL,
    action     TEXT NOT NULL,
    id         TEXT NOT NULL,
    name       TEXT NOT NULL,
    attributes TEXT NOT NULL
) STRICT;
CREATE INDEX events_at ON events (at);
