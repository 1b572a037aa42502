-- compatible-from: 3
--
-- The relay. How many live documents a tenant has, and the limits it tightened for itself; NULL is
-- the installation's.
CREATE TABLE sync_tenants (
    tenant_id          bigint PRIMARY KEY REFERENCES tenants (number),
    document_count     bigint NOT NULL,
    blob_bytes_max     bigint,
    entry_count_max    bigint,
    document_count_max bigint,
    listener_count_max bigint
);

-- A document exists from its first entry. DELETE leaves a tombstone, which is a new row with the next
-- epoch and the `seq` of the old one, so that no number is given twice; the old row is 'removing' and
-- goes when its last entry has gone. Whoever writes locks the row first, so a document's entries are
-- committed in the order of their numbers. `floor` is the highest number a snapshot has superseded,
-- and `floor_snapshot` that snapshot's own.
CREATE TABLE sync_documents (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      bigint NOT NULL REFERENCES tenants (number),
    name           text   COLLATE "C" NOT NULL,
    state          text   NOT NULL CHECK (state IN ('live', 'tombstone', 'removing')),
    epoch          bigint NOT NULL,
    seq            bigint NOT NULL,
    floor          bigint NOT NULL,
    floor_snapshot bigint NOT NULL,
    entry_count    bigint NOT NULL,
    byte_count     bigint NOT NULL,
    created_at     bigint NOT NULL,
    updated_at     bigint NOT NULL
);
CREATE UNIQUE INDEX sync_documents_by_name
    ON sync_documents (tenant_id, name) WHERE state <> 'removing';
CREATE INDEX sync_documents_removing ON sync_documents (id) WHERE state = 'removing';

-- The log. `blob` is opaque and `digest` its SHA-256. `superseded` says that a snapshot or a newer
-- state stands in for it since `changed_at`: it is restorable for the grace period, then goes.
-- `supersedes` are the numbers a snapshot named. `kept_at` is when this replica's state before was
-- last kept and not overwritten.
CREATE TABLE sync_entries (
    tenant_id   bigint  NOT NULL,
    document_id bigint  NOT NULL,
    superseded  boolean NOT NULL,
    seq         bigint  NOT NULL,
    kind        text    NOT NULL CHECK (kind IN ('state', 'update', 'snapshot')),
    replica     text    COLLATE "C",
    supersedes  text,
    created_at  bigint  NOT NULL,
    changed_at  bigint  NOT NULL,
    kept_at     bigint  NOT NULL,
    digest      bytea   NOT NULL,
    size        bigint  NOT NULL,
    blob        bytea   NOT NULL,
    PRIMARY KEY (tenant_id, document_id, superseded, seq)
);
-- What is encrypted doesn't compress, and trying costs.
ALTER TABLE sync_entries ALTER COLUMN blob SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX sync_entries_by_replica
    ON sync_entries (tenant_id, document_id, replica) WHERE kind = 'state' AND NOT superseded;
CREATE INDEX sync_entries_by_content
    ON sync_entries (tenant_id, document_id, digest) WHERE kind <> 'state';
CREATE INDEX sync_entries_by_age ON sync_entries (changed_at) WHERE superseded;
