-- compatible-from: 2
--
-- Documents. A collection exists from its first document or definition; from DELETE on it has
-- `deleted_at` and no name, and goes when its last row has gone. `fields` is JSON. Changes up to
-- (`changes_expired_xid`, `changes_expired_seq`) are no longer in the log whole.
CREATE TABLE collections (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id           bigint NOT NULL REFERENCES tenants (number),
    name                text   COLLATE "C" NOT NULL,
    version             bigint NOT NULL,
    fields              text   NOT NULL,
    schema              text,
    changes_expired_xid xid8   NOT NULL,
    changes_expired_seq bigint NOT NULL,
    created_at          bigint NOT NULL,
    updated_at          bigint NOT NULL,
    deleted_at          bigint,
    -- The target of the documents' foreign key.
    UNIQUE (tenant_id, id)
);
CREATE UNIQUE INDEX collections_by_name ON collections (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX collections_deleted ON collections (id) WHERE deleted_at IS NOT NULL;

-- `key` is the order of creation. (`xid`, `seq`) is the place in the change log of the document's
-- newest change, which is this row: transactions commit in another order than their numbers are
-- drawn in, so readers stop below the oldest one that still runs.
CREATE SEQUENCE document_seq AS bigint CACHE 1;
CREATE TABLE documents (
    tenant_id     bigint NOT NULL,
    collection_id bigint NOT NULL,
    key           bigint GENERATED ALWAYS AS IDENTITY,
    id            text   COLLATE "C" NOT NULL,
    data          jsonb  NOT NULL,
    revision      bigint NOT NULL,
    xid           xid8   NOT NULL DEFAULT pg_current_xact_id(),
    seq           bigint NOT NULL DEFAULT nextval('document_seq'),
    created_at    bigint NOT NULL,
    updated_at    bigint NOT NULL,
    PRIMARY KEY (tenant_id, collection_id, key),
    FOREIGN KEY (tenant_id, collection_id) REFERENCES collections (tenant_id, id)
);
CREATE UNIQUE INDEX documents_by_id ON documents (tenant_id, collection_id, id);
CREATE INDEX documents_by_change ON documents (tenant_id, collection_id, xid, seq);
-- For `cs`, the filter that asks what an array or an object contains.
CREATE INDEX documents_by_content ON documents USING gin (data jsonb_path_ops);

-- The STORED columns of `documents`: promoted_N for the number N. They are made while the table is
-- empty; in a filled one PostgreSQL would write every row anew under a lock that nobody passes, and
-- a promoted field is its expression. Tenants whose fields agree in path and kind share one.
CREATE TABLE promoted_columns (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path   text   NOT NULL,
    kind   text   NOT NULL,
    UNIQUE (path, kind)
);

-- The indexes of `documents` that tenants asked for: documents_xN for the number N. Collections
-- whose indexes agree in `shape`, their fields' paths and kinds, share one; a tenant's own has its
-- tenant and collection. It goes when no collection names it any more.
CREATE TABLE built_indexes (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shape         text   NOT NULL,
    tenant_id     bigint,
    collection_id bigint,
    state         text   NOT NULL CHECK (state IN ('building', 'ready', 'dropping')),
    error         text,
    UNIQUE NULLS NOT DISTINCT (shape, tenant_id, collection_id)
);

-- What each collection calls them. `declared` is one that a field's `index` made.
CREATE TABLE document_indexes (
    id            bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     bigint  NOT NULL,
    collection_id bigint  NOT NULL,
    name          text    COLLATE "C" NOT NULL,
    fields        text    NOT NULL,
    tenant_only   boolean NOT NULL,
    declared      boolean NOT NULL,
    built         bigint  NOT NULL REFERENCES built_indexes (number),
    created_at    bigint  NOT NULL,
    UNIQUE (tenant_id, collection_id, name),
    FOREIGN KEY (tenant_id, collection_id) REFERENCES collections (tenant_id, id)
);
CREATE INDEX document_indexes_by_built ON document_indexes (built);

-- What is no longer in `documents`: versions that were replaced, and deletions (no data). Versions
-- and live rows together are the change log. Dropped after the retention.
CREATE TABLE document_changes (
    tenant_id     bigint NOT NULL,
    collection_id bigint NOT NULL,
    xid           xid8   NOT NULL DEFAULT pg_current_xact_id(),
    seq           bigint NOT NULL DEFAULT nextval('document_seq'),
    type          text   NOT NULL CHECK (type IN ('created', 'updated', 'deleted')),
    document_id   text   COLLATE "C" NOT NULL,
    revision      bigint NOT NULL,
    data          jsonb,
    changed_at    bigint NOT NULL,
    PRIMARY KEY (tenant_id, collection_id, xid, seq)
);
CREATE INDEX document_changes_by_age ON document_changes (changed_at);

-- How often fields were written and filtered by, and which queries no index served. Added up in
-- memory and written every few seconds. Of indexes PostgreSQL counts the scans itself.
CREATE TABLE document_usage (
    tenant_id     bigint NOT NULL,
    collection_id bigint NOT NULL,
    subject       text   NOT NULL CHECK (subject IN ('index', 'write', 'filter', 'unserved')),
    name          text   COLLATE "C" NOT NULL,
    count         bigint NOT NULL,
    total_ms      double precision NOT NULL,
    since         bigint NOT NULL,
    last_at       bigint,
    PRIMARY KEY (tenant_id, collection_id, subject, name)
);

-- RFC 7396.
CREATE FUNCTION merge_patch(target jsonb, patch jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    merged jsonb;
    member record;
BEGIN
    IF jsonb_typeof(patch) <> 'object' THEN
        RETURN patch;
    END IF;
    merged := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END;
    FOR member IN SELECT * FROM jsonb_each(patch) LOOP
        IF jsonb_typeof(member.value) = 'null' THEN
            merged := merged - member.key;
        ELSE
            merged := merged || jsonb_build_object(
                member.key, merge_patch(merged -> member.key, member.value)
            );
        END IF;
    END LOOP;
    RETURN merged;
END $$;
