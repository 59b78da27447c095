-- Applications: what is wanted, revision by revision, and what the engine must remember between two decisions.
CREATE TABLE apps (
    name       TEXT PRIMARY KEY,
    created_at REAL NOT NULL,
    revision   INTEGER NOT NULL,                -- the one wanted now
    wanted     TEXT NOT NULL,                   -- store.apps.Wanted: scale, stopped services, removal
    memory     TEXT NOT NULL                    -- plan's memory: rollouts, crash counts
) STRICT;

CREATE TABLE app_revisions (
    app     TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE,
    number  INTEGER NOT NULL,
    at      REAL NOT NULL,
    cause   TEXT NOT NULL,                      -- "up", "rollback to 3", "isolate web vm"
    spec    TEXT NOT NULL,                      -- spec.app.AppSpec without secret values
    pins    TEXT NOT NULL,                      -- service → store.apps.Pin
    PRIMARY KEY (app, number)
) STRICT;

CREATE TABLE app_members (
    instance_id    TEXT PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
    app            TEXT NOT NULL,
    service        TEXT NOT NULL,
    slot           INTEGER NOT NULL,
    fingerprint    TEXT NOT NULL,
    state          TEXT NOT NULL                -- store.apps.MemberState
) STRICT;

CREATE TABLE app_addresses (
    app        TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE,
    service    TEXT NOT NULL,
    network_id TEXT NOT NULL REFERENCES networks (id),
    address    TEXT NOT NULL,                   -- the service's virtual one
    PRIMARY KEY (app, service, network_id),
    UNIQUE (network_id, address)
) STRICT;

CREATE TABLE app_ports (
    app     TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE,
    service TEXT NOT NULL,
    ports   TEXT NOT NULL,                      -- spec.instance.PortMapping, host ports chosen
    PRIMARY KEY (app, service)
) STRICT;
