-- compatible-from: 7
--
-- LoRA adapters. Of a model at most one is active; digests are SHA-256.
CREATE TABLE adapters (
    tenant_id    bigint  NOT NULL REFERENCES tenants (number),
    name         text    COLLATE "C" NOT NULL,
    model        text    NOT NULL,
    model_digest text    NOT NULL,
    architecture text    NOT NULL,
    rank         bigint  NOT NULL,
    alpha        double precision NOT NULL,
    tensors      bigint  NOT NULL,
    bytes        bigint  NOT NULL,
    digest       text    NOT NULL,
    is_active    boolean NOT NULL,
    created_at   bigint  NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- The file of an adapter, in pieces of 1 MiB.
CREATE TABLE adapter_pieces (
    tenant_id bigint NOT NULL,
    name      text   COLLATE "C" NOT NULL,
    seq       bigint NOT NULL,
    data      bytea  NOT NULL,
    PRIMARY KEY (tenant_id, name, seq)
);
