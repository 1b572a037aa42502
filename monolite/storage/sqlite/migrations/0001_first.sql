-- compatible-from: 1
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
    privacy    TEXT,
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
-- Written by documents/sqlite*.py. A collection exists from its first document or definition; from
-- DELETE on it has `deleted_at` and no name, and goes when its last row has gone. `fields` is JSON.
-- Changes up to `changes_expired_to` are no longer in the log whole.
CREATE TABLE collections (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id          INTEGER NOT NULL,
    name               TEXT    NOT NULL,
    version            INTEGER NOT NULL,
    fields             TEXT    NOT NULL,
    schema             TEXT,
    changes_expired_to INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    deleted_at         INTEGER
) STRICT;
CREATE UNIQUE INDEX collections_by_name ON collections (tenant_id, name) WHERE deleted_at IS NULL;
-- The target of the documents' foreign key.
CREATE UNIQUE INDEX collections_by_id ON collections (tenant_id, id);

-- `data` is JSONB. Ids that the server makes are UUIDv7, so an insert is an append in every tree. A
-- row outside WITHOUT ROWID keeps up to a page of its document in place. `seq` is the number of the
-- document's newest change, which is this row. Not STRICT: SQLite reads a STRICT table whole to add
-- a column to it, and promoted fields are added here while others write, as
--     promoted_7 TEXT GENERATED ALWAYS AS (…) VIRTUAL
CREATE TABLE documents (
    key           INTEGER PRIMARY KEY,
    tenant_id     INTEGER NOT NULL,
    collection_id INTEGER NOT NULL,
    id            TEXT    NOT NULL,
    data          BLOB    NOT NULL,
    revision      INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    FOREIGN KEY (tenant_id, collection_id) REFERENCES collections (tenant_id, id)
);
CREATE UNIQUE INDEX documents_by_id ON documents (tenant_id, collection_id, id);
-- Ends in the row's key, which is the order of creation.
CREATE INDEX documents_in_order ON documents (tenant_id, collection_id);
CREATE INDEX documents_by_change ON documents (tenant_id, collection_id, seq);

-- The generated columns of `documents`: promoted_N for the number N. Tenants whose fields agree in
-- path and kind share one, so it has no tenant. It goes when no collection has such a field.
CREATE TABLE promoted_columns (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    path   TEXT    NOT NULL,
    kind   TEXT    NOT NULL,
    UNIQUE (path, kind)
) STRICT;

-- Indexes of collections. Filled in slices while others write, so these are rows and their entries
-- a table, not indexes of SQLite's, which are built in one go. `built_to` is the last key that the
-- slices have passed. One that is `dropping` goes when its entries have gone.
CREATE TABLE document_indexes (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id     INTEGER NOT NULL,
    collection_id INTEGER NOT NULL,
    name          TEXT    NOT NULL,
    fields        TEXT    NOT NULL,
    included      TEXT    NOT NULL,
    tenant_only   INTEGER NOT NULL CHECK (tenant_only IN (0, 1)),
    declared      INTEGER NOT NULL CHECK (declared IN (0, 1)),
    state         TEXT    NOT NULL CHECK (state IN ('building', 'ready', 'dropping')),
    built_to      INTEGER NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX document_indexes_by_name
    ON document_indexes (tenant_id, collection_id, name) WHERE state <> 'dropping';

-- One entry for each document and index, written in the document's transaction. A value that is
-- missing, or not used by the index, is x'', which sorts behind numbers and text. `x1` and `x2` hold
-- the index's included fields: they are compared in the entry, without a look at the document.
CREATE TABLE document_index_entries (
    tenant_id INTEGER NOT NULL,
    index_id  INTEGER NOT NULL,
    v1        ANY     NOT NULL,
    v2        ANY     NOT NULL,
    v3        ANY     NOT NULL,
    key       INTEGER NOT NULL,
    x1        ANY     NOT NULL,
    x2        ANY     NOT NULL,
    PRIMARY KEY (tenant_id, index_id, v1, v2, v3, key)
) STRICT, WITHOUT ROWID;

-- What is no longer in `documents`: versions that were replaced, and deletions (no data). Versions
-- and live rows together are the change log, in the order of `seq`. Dropped after the retention.
CREATE TABLE document_changes (
    tenant_id     INTEGER NOT NULL,
    collection_id INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    type          TEXT    NOT NULL CHECK (type IN ('created', 'updated', 'deleted')),
    document_id   TEXT    NOT NULL,
    revision      INTEGER NOT NULL,
    data          BLOB,
    changed_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, collection_id, seq)
) STRICT, WITHOUT ROWID;

-- How often indexes and fields were used, and which queries no index served. Added up in memory
-- and written every few seconds.
CREATE TABLE document_usage (
    tenant_id     INTEGER NOT NULL,
    collection_id INTEGER NOT NULL,
    subject       TEXT    NOT NULL CHECK (subject IN ('index', 'write', 'filter', 'unserved')),
    name          TEXT    NOT NULL,
    count         INTEGER NOT NULL,
    total_ms      REAL    NOT NULL,
    since         INTEGER NOT NULL,
    last_at       INTEGER,
    PRIMARY KEY (tenant_id, collection_id, subject, name)
) STRICT, WITHOUT ROWID;


-- ── Search ──────────────────────────────────────────────────────────────────────────────────────
-- Written by search/sqlite*.py. An index exists from its first document or definition; from DELETE
-- on it has `deleted_at`, and goes when its last row has gone. `version` grows with each write;
-- `position` is how far it has followed its `source`, JSON; `stamp` is that of its mapped file.
CREATE TABLE search_indexes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    model      TEXT    NOT NULL,
    dimensions INTEGER,
    source     TEXT,
    position   TEXT,
    stamp      BLOB    NOT NULL,
    version    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX search_indexes_by_name ON search_indexes (tenant_id, name)
    WHERE deleted_at IS NULL;

-- Documents by a key that is never used again: an upsert removes one row and adds another. `words`
-- is how many the text has.
CREATE TABLE search_documents (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  INTEGER NOT NULL,
    index_id   INTEGER NOT NULL,
    id         TEXT    NOT NULL,
    words      INTEGER NOT NULL,
    tokens     INTEGER,
    truncated  INTEGER NOT NULL CHECK (truncated IN (0, 1)),
    updated_at INTEGER NOT NULL,
    metadata   BLOB    NOT NULL,
    text       TEXT
) STRICT;
CREATE UNIQUE INDEX search_documents_by_id ON search_documents (tenant_id, index_id, id);
-- The order in which a mapped file takes them, and all that is read of them when it is opened.
CREATE INDEX search_documents_in_order ON search_documents (tenant_id, index_id, key, words);

-- A document's vector, float32 of length 1, under its key: apart, so that texts lie close together.
CREATE TABLE search_vectors (
    key    INTEGER PRIMARY KEY REFERENCES search_documents (key) ON DELETE CASCADE,
    vector BLOB NOT NULL
) STRICT;

-- Which documents have a word, by key; a word stands behind its index's number (search/sqlite_words.py).
CREATE VIRTUAL TABLE search_words USING fts5 (
    words, content = '', contentless_delete = 1, detail = none, tokenize = "ascii tokenchars '_~'"
);

-- Keys that went, for mapped files that are open, until each has taken them.
CREATE TABLE search_removals (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id INTEGER NOT NULL,
    index_id  INTEGER NOT NULL,
    key       INTEGER NOT NULL
) STRICT;
CREATE INDEX search_removals_by_index ON search_removals (tenant_id, index_id);

-- Everything of a document goes with its row.
CREATE TRIGGER search_documents_gone AFTER DELETE ON search_documents BEGIN
    DELETE FROM search_words WHERE rowid = old.key;
    INSERT INTO search_removals (tenant_id, index_id, key)
        VALUES (old.tenant_id, old.index_id, old.key);
END;


-- ── Sync ────────────────────────────────────────────────────────────────────────────────────────
-- Written by sync/sqlite*.py. How many live documents a tenant has, and the limits it tightened for
-- itself; NULL is the installation's.
CREATE TABLE sync_tenants (
    tenant_id          INTEGER PRIMARY KEY,
    document_count     INTEGER NOT NULL,
    blob_bytes_max     INTEGER,
    entry_count_max    INTEGER,
    document_count_max INTEGER,
    listener_count_max INTEGER
) STRICT;

-- A document exists from its first entry. DELETE leaves a tombstone, which is a new row with the next
-- epoch and the `seq` of the old one, so that no number is given twice; the old row is 'removing' and
-- goes when its last entry has gone. `floor` is the highest number a snapshot has superseded, and
-- `floor_snapshot` that snapshot's own.
CREATE TABLE sync_documents (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id      INTEGER NOT NULL,
    name           TEXT    NOT NULL,
    state          TEXT    NOT NULL CHECK (state IN ('live', 'tombstone', 'removing')),
    epoch          INTEGER NOT NULL,
    seq            INTEGER NOT NULL,
    floor          INTEGER NOT NULL,
    floor_snapshot INTEGER NOT NULL,
    entry_count    INTEGER NOT NULL,
    byte_count     INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sync_documents_by_name
    ON sync_documents (tenant_id, name) WHERE state <> 'removing';
-- What waits for removal is looked for across tenants.
CREATE INDEX sync_documents_removing ON sync_documents (id) WHERE state = 'removing';

-- The log. `blob` is opaque and `digest` its SHA-256. `superseded` says that a snapshot or a newer
-- state stands in for it since `changed_at`: it is restorable for the grace period, then goes. A mark
-- and a time keep a row's size, so superseding rewrites no blob. `supersedes` are the numbers a
-- snapshot named. `kept_at` is when this replica's state before was last kept and not overwritten.
CREATE TABLE sync_entries (
    key         INTEGER PRIMARY KEY,
    tenant_id   INTEGER NOT NULL,
    document_id INTEGER NOT NULL,
    superseded  INTEGER NOT NULL CHECK (superseded IN (0, 1)),
    seq         INTEGER NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('state', 'update', 'snapshot')),
    replica     TEXT,
    supersedes  TEXT,
    created_at  INTEGER NOT NULL,
    changed_at  INTEGER NOT NULL,
    kept_at     INTEGER NOT NULL,
    digest      BLOB    NOT NULL,
    size        INTEGER NOT NULL,
    blob        BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX sync_entries_in_order
    ON sync_entries (tenant_id, document_id, superseded, seq);
CREATE UNIQUE INDEX sync_entries_by_replica
    ON sync_entries (tenant_id, document_id, replica) WHERE kind = 'state' AND superseded = 0;
CREATE INDEX sync_entries_by_content
    ON sync_entries (tenant_id, document_id, digest) WHERE kind <> 'state';
-- The end of the grace period is by age across tenants.
CREATE INDEX sync_entries_by_age ON sync_entries (changed_at) WHERE superseded = 1;
-- ── Streams ─────────────────────────────────────────────────────────────────────────────────────
-- Written by streams/sqlite*.py. A stream exists from its first event or definition; from DELETE on
-- it has `deleted_at` and no name, and goes when its rows have gone. It holds the places from
-- `first_seq` on. `last_…` are the newest event's as of the last trim; where there is a segment,
-- the newest one says it.
CREATE TABLE streams (
    id         INTEGER PRIMARY KEY,
    tenant_id  INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL,
    last_ms    INTEGER NOT NULL,
    last_n     INTEGER NOT NULL,
    max_length INTEGER,
    max_age_ms INTEGER,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX streams_by_name ON streams (tenant_id, name) WHERE deleted_at IS NULL;

-- Events, a row for each run of ids that count on from `ms`-`n`. `k` is the stream's number << 40 |
-- the place of the first, so a stream's rows lie together, in order, in the table's own tree.
-- `events` are "type \t data", joined by line breaks. Dropped by trims and with the stream.
CREATE TABLE stream_segments (
    k      INTEGER PRIMARY KEY,
    ms     INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    events BLOB    NOT NULL
) STRICT;

-- Consumer groups. `position` is the last place that was delivered, `position_…` its id. `fence` is
-- the newest delivery's, in microseconds; it only grows.
CREATE TABLE stream_groups (
    id             INTEGER PRIMARY KEY,
    tenant_id      INTEGER NOT NULL,
    stream_id      INTEGER NOT NULL,
    name           TEXT    NOT NULL,
    position       INTEGER NOT NULL,
    position_ms    INTEGER NOT NULL,
    position_n     INTEGER NOT NULL,
    fence          INTEGER NOT NULL,
    pending        INTEGER NOT NULL,
    max_deliveries INTEGER NOT NULL,
    claim_idle_ms  INTEGER NOT NULL,
    max_pending    INTEGER NOT NULL,
    created_at     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX stream_groups_by_name ON stream_groups (tenant_id, stream_id, name);

-- What is pending: a row for each range of places that is held alike. `k` is the group's number <<
-- 40 | the first place; bit i of `bits` (least significant first) says that place + i is pending.
-- `at` (microseconds) is the fence while `consumer_id` holds it, else when it may be delivered
-- again. A row goes with its last bit.
CREATE TABLE stream_leases (
    k           INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    consumer_id INTEGER,
    deliveries  INTEGER NOT NULL,
    count       INTEGER NOT NULL,
    bits        BLOB    NOT NULL
) STRICT;
CREATE INDEX stream_leases_by_time ON stream_leases (k >> 40, consumer_id IS NULL, at);

-- Everyone who ever asked a group. `seen_at` and `active_at` are written every few seconds.
CREATE TABLE stream_consumers (
    id        INTEGER PRIMARY KEY,
    tenant_id INTEGER NOT NULL,
    group_id  INTEGER NOT NULL,
    name      TEXT    NOT NULL,
    seen_at   INTEGER NOT NULL,
    active_at INTEGER
) STRICT;
CREATE UNIQUE INDEX stream_consumers_by_name ON stream_consumers (group_id, name);

-- Events that a group gave up, with a copy of each; gone when redriven, or with the group.
CREATE TABLE stream_dead_letters (
    tenant_id  INTEGER NOT NULL,
    group_id   INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    ms         INTEGER NOT NULL,
    n          INTEGER NOT NULL,
    event      BLOB    NOT NULL,
    deliveries INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    consumer   TEXT,
    dead_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, group_id, seq)
) STRICT, WITHOUT ROWID;

-- Webhooks, found by their stream's name, since streams may lie in Redis. The secrets are sealed
-- under a key that is not in this file (webhooks/sealing.py).
CREATE TABLE webhooks (
    tenant_id       INTEGER NOT NULL,
    stream          TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    url             TEXT    NOT NULL,
    types           TEXT,
    order_by        TEXT,
    concurrency     INTEGER NOT NULL,
    rate_per_s      INTEGER,
    secret          BLOB    NOT NULL,
    previous_secret BLOB,
    previous_until  INTEGER,
    state           TEXT    NOT NULL CHECK (state IN ('enabled', 'disabled')),
    reason          TEXT,
    failing_since   INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, stream, name)
) STRICT, WITHOUT ROWID;

-- What was sent where, and how it went. Written in the transaction that acknowledges the event;
-- dropped after a week, and all but the newest ten thousand of each webhook.
CREATE TABLE webhook_attempts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id   INTEGER NOT NULL,
    stream      TEXT    NOT NULL,
    webhook     TEXT    NOT NULL,
    event_id    TEXT,
    message_id  TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    status      INTEGER,
    error       TEXT,
    response    TEXT
) STRICT;
CREATE INDEX webhook_attempts_by_webhook ON webhook_attempts (tenant_id, stream, webhook, id);


-- ── Jobs ────────────────────────────────────────────────────────────────────────────────────────
-- Written by jobs/sqlite*.py. A queue exists from its first job or definition and never goes. The
-- counts are of its jobs by state, kept in the transaction that moves them. At most `rate_count` in
-- `rate_period_ms` are claimed; `rate_tokens` were left at `rate_at`. NULL `retention_s` is the
-- installation's. `has_calls` says that some job of it named a URL.
CREATE TABLE job_queues (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id      INTEGER NOT NULL,
    name           TEXT    NOT NULL,
    paused         INTEGER NOT NULL CHECK (paused IN (0, 1)),
    rate_count     INTEGER,
    rate_period_ms INTEGER,
    rate_tokens    REAL    NOT NULL,
    rate_at        INTEGER NOT NULL,
    retention_s    INTEGER,
    has_calls      INTEGER NOT NULL CHECK (has_calls IN (0, 1)),
    scheduled      INTEGER NOT NULL,
    available      INTEGER NOT NULL,
    running        INTEGER NOT NULL,
    retryable      INTEGER NOT NULL,
    completed      INTEGER NOT NULL,
    discarded      INTEGER NOT NULL,
    cancelled      INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX job_queues_by_name ON job_queues (tenant_id, name);
CREATE INDEX job_queues_with_calls ON job_queues (id) WHERE has_calls = 1;

-- Jobs. `state` is NULL while one is live, and then exactly one of the four tables below has it;
-- `attempt` is how often it had been claimed when this row was last written. `errors` and `result`
-- are JSON. A finished one goes after its queue's retention. A claim doesn't touch this row.
CREATE TABLE jobs (
    key               INTEGER PRIMARY KEY,
    tenant_id         INTEGER NOT NULL,
    queue_id          INTEGER NOT NULL,
    id                TEXT    NOT NULL,
    state             TEXT    CHECK (state IN ('completed', 'discarded', 'cancelled')),
    attempt           INTEGER NOT NULL,
    finished_at       INTEGER,
    priority          INTEGER NOT NULL,
    run_at            INTEGER NOT NULL,
    flags             INTEGER NOT NULL,
    max_attempts      INTEGER NOT NULL,
    timeout_ms        INTEGER,
    url               TEXT,
    unique_key        TEXT,
    concurrency_key   TEXT,
    concurrency_limit INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    payload           TEXT    NOT NULL,
    result            TEXT,
    errors            TEXT
) STRICT;
CREATE UNIQUE INDEX jobs_by_id ON jobs (tenant_id, id);
-- For lists of finished jobs, and for their end.
CREATE INDEX jobs_finished ON jobs (tenant_id, queue_id, state, finished_at)
    WHERE finished_at IS NOT NULL;

-- What can be claimed, in the order of claims: `rank` is the negative priority. Lane 0 is for
-- workers, lane 1 for jobs whose URL the server calls.
CREATE TABLE job_ready (
    tenant_id INTEGER NOT NULL,
    queue_id  INTEGER NOT NULL,
    lane      INTEGER NOT NULL,
    rank      INTEGER NOT NULL,
    run_at    INTEGER NOT NULL,
    key       INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    flags     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, queue_id, lane, rank, run_at, key)
) STRICT, WITHOUT ROWID;

-- What is to run later. Apart from what is ready, so that no claim reads past it: the claim that
-- finds one due moves it over.
CREATE TABLE job_future (
    tenant_id INTEGER NOT NULL,
    queue_id  INTEGER NOT NULL,
    run_at    INTEGER NOT NULL,
    key       INTEGER NOT NULL,
    rank      INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    flags     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, queue_id, run_at, key)
) STRICT, WITHOUT ROWID;

-- What was ready when its concurrency key had no place free. The one that ends lets the next go.
CREATE TABLE job_blocked (
    tenant_id       INTEGER NOT NULL,
    queue_id        INTEGER NOT NULL,
    concurrency_key TEXT    NOT NULL,
    rank            INTEGER NOT NULL,
    run_at          INTEGER NOT NULL,
    key             INTEGER NOT NULL,
    attempt         INTEGER NOT NULL,
    flags           INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, queue_id, concurrency_key, rank, run_at, key)
) STRICT, WITHOUT ROWID;

-- Leases: one row a claim, for all the jobs it gave to a worker. `keys` are theirs, 8 bytes each,
-- and `held` is how many are still held. `secret` is what their tokens say. Extending a job gives it
-- a row of its own. It goes with the last job held.
CREATE TABLE job_claims (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id  INTEGER NOT NULL,
    queue_id   INTEGER NOT NULL,
    worker     TEXT    NOT NULL,
    secret     INTEGER NOT NULL,
    claimed_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    held       INTEGER NOT NULL,
    keys       BLOB    NOT NULL
) STRICT;
-- Expired ones are looked for across tenants.
CREATE INDEX job_claims_by_expiry ON job_claims (expires_at);

-- What a worker holds. `deadline` is when its time-out ends the attempt, whatever was extended.
CREATE TABLE job_running (
    key       INTEGER PRIMARY KEY,
    tenant_id INTEGER NOT NULL,
    queue_id  INTEGER NOT NULL,
    claim_id  INTEGER NOT NULL,
    attempt   INTEGER NOT NULL,
    flags     INTEGER NOT NULL,
    deadline  INTEGER
) STRICT;

-- The unique keys of live jobs.
CREATE TABLE job_unique_keys (
    tenant_id  INTEGER NOT NULL,
    queue_id   INTEGER NOT NULL,
    unique_key TEXT    NOT NULL,
    key        INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, queue_id, unique_key)
) STRICT, WITHOUT ROWID;

-- How many jobs of a concurrency key run; no row where none does.
CREATE TABLE job_concurrency (
    tenant_id       INTEGER NOT NULL,
    queue_id        INTEGER NOT NULL,
    concurrency_key TEXT    NOT NULL,
    running         INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, queue_id, concurrency_key)
) STRICT, WITHOUT ROWID;

-- Schedules. `next_at` is the next tick, NULL while paused; whoever moves it on adds the job, in one
-- transaction. `job` is the job to add, JSON.
CREATE TABLE job_schedules (
    tenant_id   INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    cron        TEXT    NOT NULL,
    timezone    TEXT    NOT NULL,
    queue       TEXT    NOT NULL,
    job         TEXT    NOT NULL,
    paused      INTEGER NOT NULL CHECK (paused IN (0, 1)),
    next_at     INTEGER,
    last_at     INTEGER,
    last_job_id TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;
-- Due ones are looked for across tenants.
CREATE INDEX job_schedules_by_tick ON job_schedules (next_at) WHERE next_at IS NOT NULL;


-- ── Locks ───────────────────────────────────────────────────────────────────────────────────────
-- Written by locks/sqlite.py. A lock is held until `expires_at`; an expired row stays until the next
-- holder or the hourly sweep. Who waits is known to the server alone, since waiting ends with it.
CREATE TABLE locks (
    tenant_id   INTEGER NOT NULL,
    namespace   TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    token       INTEGER NOT NULL,
    acquired_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, namespace, key)
) STRICT, WITHOUT ROWID;

-- The last fencing number a tenant's locks were given. It only grows, and is kept.
CREATE TABLE lock_tokens (
    tenant_id INTEGER PRIMARY KEY,
    last      INTEGER NOT NULL
) STRICT;


-- ── Routing of inference ────────────────────────────────────────────────────────────────────────
-- Written by inference/routing/sqlite.py. A tenant's policy is JSON, as it was put.
CREATE TABLE ai_policies (
    tenant_id  INTEGER PRIMARY KEY,
    policy     TEXT    NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- What a day has seen, and what calls under way may still take; tenant 0 is the installation. Money
-- is in millionths of a US dollar. `warned` once 80 % of a limit were reached.
CREATE TABLE ai_days (
    tenant_id       INTEGER NOT NULL,
    day             TEXT    NOT NULL,
    tokens          INTEGER NOT NULL,
    micros          INTEGER NOT NULL,
    calls           INTEGER NOT NULL,
    reserved_tokens INTEGER NOT NULL,
    reserved_micros INTEGER NOT NULL,
    warned          INTEGER NOT NULL CHECK (warned IN (0, 1)),
    PRIMARY KEY (tenant_id, day)
) STRICT, WITHOUT ROWID;

-- Calls to a cloud's model: a reservation until `outcome` is known, and the audit row from then on.
-- `day` is the tenant's, `total_day` the installation's. No text of a prompt is ever in it.
CREATE TABLE ai_calls (
    tenant_id         INTEGER NOT NULL,
    id                TEXT    NOT NULL,
    at                INTEGER NOT NULL,
    day               TEXT    NOT NULL,
    total_day         TEXT    NOT NULL,
    key_id            TEXT    NOT NULL,
    subject           TEXT,
    privacy           TEXT    NOT NULL,
    tier              TEXT    NOT NULL,
    reason            TEXT    NOT NULL,
    provider          TEXT    NOT NULL,
    model             TEXT    NOT NULL,
    prompt_hash       BLOB    NOT NULL,
    reserved_tokens   INTEGER NOT NULL,
    reserved_micros   INTEGER NOT NULL,
    lease_until       INTEGER NOT NULL,
    outcome           TEXT    CHECK (outcome IN ('answered', 'cut_off', 'failed', 'lost')),
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    micros            INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT, WITHOUT ROWID;
-- Reservations that a dead server left are looked for across tenants.
CREATE INDEX ai_calls_by_lease ON ai_calls (lease_until) WHERE outcome IS NULL;
CREATE INDEX ai_days_by_day ON ai_days (day);
CREATE INDEX ai_calls_by_age ON ai_calls (at) WHERE outcome IS NOT NULL;


-- ── LoRA adapters ───────────────────────────────────────────────────────────────────────────────
-- Written by inference/adapters/sqlite.py. Of a model at most one is active; digests are SHA-256.
CREATE TABLE adapters (
    tenant_id    INTEGER NOT NULL,
    name         TEXT    NOT NULL,
    model        TEXT    NOT NULL,
    model_digest TEXT    NOT NULL,
    architecture TEXT    NOT NULL,
    rank         INTEGER NOT NULL,
    alpha        REAL    NOT NULL,
    tensors      INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    digest       TEXT    NOT NULL,
    is_active    INTEGER NOT NULL CHECK (is_active IN (0, 1)),
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) STRICT, WITHOUT ROWID;

-- The file of an adapter, in pieces of 1 MiB.
CREATE TABLE adapter_pieces (
    tenant_id INTEGER NOT NULL,
    name      TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    data      BLOB    NOT NULL,
    PRIMARY KEY (tenant_id, name, seq)
) STRICT;
