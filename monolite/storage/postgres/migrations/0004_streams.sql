-- compatible-from: 4
--
-- Streams lie in Redis; here are their webhooks and what was sent. A webhook is found by its
-- stream's name. The secrets are sealed under a key that is not in the database.
CREATE TABLE webhooks (
    tenant_id       bigint NOT NULL REFERENCES tenants (number),
    stream          text   COLLATE "C" NOT NULL,
    name            text   COLLATE "C" NOT NULL,
    url             text   NOT NULL,
    types           text,
    order_by        text,
    concurrency     bigint NOT NULL,
    rate_per_s      bigint,
    secret          bytea  NOT NULL,
    previous_secret bytea,
    previous_until  bigint,
    state           text   NOT NULL CHECK (state IN ('enabled', 'disabled')),
    reason          text,
    failing_since   bigint,
    created_at      bigint NOT NULL,
    updated_at      bigint NOT NULL,
    PRIMARY KEY (tenant_id, stream, name)
);

CREATE TABLE webhook_attempts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint NOT NULL,
    stream      text   COLLATE "C" NOT NULL,
    webhook     text   COLLATE "C" NOT NULL,
    event_id    text,
    message_id  text   NOT NULL,
    number      bigint NOT NULL,
    at          bigint NOT NULL,
    duration_ms bigint NOT NULL,
    status      bigint,
    error       text,
    response    text
);
CREATE INDEX webhook_attempts_by_webhook ON webhook_attempts (tenant_id, stream, webhook, id);
CREATE INDEX webhook_attempts_by_time ON webhook_attempts (at);
