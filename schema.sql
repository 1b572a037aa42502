-- The whole embedded schema, in the state that the newest migration leaves it in. A new database
-- is made from this file, an old one by the numbered migrations; a test holds the two equal.
--
-- Everywhere: tables are STRICT, times are milliseconds since 1970 (UTC), and tenant_id leads every
-- primary key and index, except where a row is found before its tenant is known.
-- `tenant_id` is the tenant's number, never used again. Number 0 is the operator.


-- ── Migrations ──────────────────────────────────────────────────────────────────────────────────
-- Written by storage/sqlite/migrate.py at start, read by it and by `monolite version`. Never
-- deleted. `compatible_from` is the oldest program's schema version that can run on this file.
CREATE TABLE schema_migrations (
    version         INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL,
    checksum        TEXT    NOT NULL,
    compatible_from INTEGER NOT NULL,
    applied_at      INTEGER NOT NULL
) STRICT;


-- ── Installation ────────────────────────────────────────────────────────────────────────────────
-- Facts about this installation by name: which root secret its keys were peppered with
-- (`secret_fingerprint`). Written at start and by `restore`; never deleted.
CREATE TABLE installation (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;


-- ── Tenancy ─────────────────────────────────────────────────────────────────────────────────────
-- Written by tenancy/sqlite.py. A tenant's row goes last, when all its other rows have gone; until
-- then its state says 'deleting' and its name is free for another.
CREATE TABLE tenants (
    number                      INTEGER PRIMARY KEY AUTOINCREMENT,
    id                          TEXT    NOT NULL UNIQUE,
    name                        TEXT    NOT NULL,
    state                       TEXT    NOT NULL CHECK (state IN ('active', 'importing', 'deleting')),
    requests_per_minute_max     INTEGER,
    own_requests_per_minute_max INTEGER,
    created_at                  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX tenants_by_name ON tenants (name) WHERE state <> 'deleting';

-- API keys, found by id before the tenant is known. `digest` is HMAC-SHA-256 under the pepper, which
-- is not in this file. A revoked key stays, so that its id can't be given out again; it goes with
-- its tenant.
CREATE TABLE keys (
    id         TEXT    PRIMARY KEY,
    tenant_id  INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    scopes     TEXT    NOT NULL,
    privacy    TEXT    CHECK (privacy IN ('private', 'public')),
    tier       TEXT    CHECK (tier IN ('basic', 'standard', 'advanced')),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_by_tenant ON keys (tenant_id, id) WHERE revoked_at IS NULL;


-- ── Replication ─────────────────────────────────────────────────────────────────────────────────
-- What a restored copy is compared with: each table's rows when last counted, and a digest of its
-- definition. Written hourly, at start and at stop by replication/manifest.py, read by `restore`
-- and the drill. `final` is 1 from stop to the next start: nothing was written after. A row goes
-- when its table does.
CREATE TABLE replica_manifest (
    table_name  TEXT    PRIMARY KEY,
    row_count   INTEGER NOT NULL,
    definition  TEXT    NOT NULL,
    final       INTEGER NOT NULL CHECK (final IN (0, 1)),
    recorded_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;


-- ── Idempotency ─────────────────────────────────────────────────────────────────────────────────
-- Written by web/idempotency_sqlite.py in the transaction of the effect; dropped 24 hours later.
-- `body` is NULL where the answer was too large to keep; it never holds a secret.
CREATE TABLE idempotent_answers (
    tenant_id   INTEGER NOT NULL,
    identity    TEXT    NOT NULL,
    operation   TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,
    status      INTEGER NOT NULL,
    headers     TEXT    NOT NULL,
    body        BLOB,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, identity, operation, key)
) STRICT, WITHOUT ROWID;
-- The purge is by age across tenants.
CREATE INDEX idempotent_answers_by_expiry ON idempotent_answers (expires_at);


-- ── Documents ───────────────────────────────────────────────────────────────────────────────────
-- Written by documents/sqlite.py. A collection exists from its first document.
CREATE TABLE collections (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX collections_by_name ON collections (tenant_id, name);
-- The target of the documents' foreign key.
CREATE UNIQUE INDEX collections_by_id ON collections (tenant_id, id);

-- `data` is JSONB. Ids that the server makes are UUIDv7, so an insert is an append in both trees. A
-- row outside WITHOUT ROWID keeps up to a page of its document in place.
CREATE TABLE documents (
    key           INTEGER PRIMARY KEY,
    tenant_id     INTEGER NOT NULL,
    collection_id INTEGER NOT NULL,
    id            TEXT    NOT NULL,
    data          BLOB    NOT NULL,
    revision      INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    FOREIGN KEY (tenant_id, collection_id) REFERENCES collections (tenant_id, id)
) STRICT;
CREATE UNIQUE INDEX documents_by_id ON documents (tenant_id, collection_id, id);
