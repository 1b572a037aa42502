-- compatible-from: 1
--
-- What every subsystem stands on. Everything lies in the schema `monolite`, which is the whole
-- search path of a connection. Times are milliseconds since 1970 (UTC); names and ids are in the
-- collation "C", so that they sort as SQLite sorts them; tenant_id is the tenant's number, never
-- used again, and leads every key except where a row is found before its tenant is known.


-- Facts about this installation by name: which root secret its keys were peppered with
-- (`secret_fingerprint`). Written by the first server that starts; never deleted.
CREATE TABLE installation (
    name  text COLLATE "C" PRIMARY KEY,
    value text NOT NULL
);

-- Written by tenancy/postgres.py. A tenant's row goes last, when all its other rows have gone;
-- until then its state says 'deleting' and its name is free for another.
CREATE TABLE tenants (
    number                      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                          text   COLLATE "C" NOT NULL UNIQUE,
    name                        text   COLLATE "C" NOT NULL,
    state                       text   NOT NULL CHECK (state IN ('active', 'importing', 'deleting')),
    requests_per_minute_max     bigint,
    own_requests_per_minute_max bigint,
    created_at                  bigint NOT NULL
);
CREATE UNIQUE INDEX tenants_by_name ON tenants (name) WHERE state <> 'deleting';
CREATE INDEX tenants_unfinished ON tenants (number) WHERE state <> 'active';

-- API keys, found by id before the tenant is known. `digest` is HMAC-SHA-256 under the pepper, which
-- is not in the database. A revoked key stays, so that its id can't be given out again; it goes with
-- its tenant. Tenant 0 is the operator, which has no row, so there is no foreign key.
CREATE TABLE keys (
    id         text   COLLATE "C" PRIMARY KEY,
    tenant_id  bigint NOT NULL,
    name       text   NOT NULL,
    digest     bytea  NOT NULL,
    scopes     text   NOT NULL,
    privacy    text   CHECK (privacy IN ('private', 'public')),
    tier       text   CHECK (tier IN ('basic', 'standard', 'advanced')),
    created_at bigint NOT NULL,
    expires_at bigint,
    revoked_at bigint
);
CREATE INDEX keys_by_tenant ON keys (tenant_id, id);

-- Written by web/idempotency_postgres.py in the transaction of the effect; dropped 24 hours later.
-- `identity` is bytes, since a token's has a zero byte in it, which text can't hold. `body` is NULL
-- where the answer was too large to keep; it never holds a secret.
CREATE TABLE idempotent_answers (
    tenant_id   bigint NOT NULL,
    identity    bytea  NOT NULL,
    operation   text   COLLATE "C" NOT NULL,
    key         text   COLLATE "C" NOT NULL,
    fingerprint bytea  NOT NULL,
    status      bigint NOT NULL,
    headers     text   NOT NULL,
    body        bytea,
    expires_at  bigint NOT NULL,
    PRIMARY KEY (tenant_id, identity, operation, key)
);
CREATE INDEX idempotent_answers_by_expiry ON idempotent_answers (expires_at);
