-- compatible-from: 6
--
-- Routing of inference. A key may also name one of its tenant's data classes.
ALTER TABLE keys DROP CONSTRAINT keys_privacy_check;

-- A tenant's policy is JSON, as it was put.
CREATE TABLE ai_policies (
    tenant_id  bigint PRIMARY KEY REFERENCES tenants (number),
    policy     text   NOT NULL,
    updated_at bigint NOT NULL
);

-- What a day has seen, and what calls under way may still take; tenant 0 is the installation. Money
-- is in millionths of a US dollar. `warned` once 80 % of a limit were reached.
CREATE TABLE ai_days (
    tenant_id       bigint  NOT NULL,
    day             text    COLLATE "C" NOT NULL,
    tokens          bigint  NOT NULL DEFAULT 0,
    micros          bigint  NOT NULL DEFAULT 0,
    calls           bigint  NOT NULL DEFAULT 0,
    reserved_tokens bigint  NOT NULL DEFAULT 0,
    reserved_micros bigint  NOT NULL DEFAULT 0,
    warned          boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, day)
);

-- Calls to a cloud's model: a reservation until `outcome` is known, and the audit row from then on.
-- `day` is the tenant's, `total_day` the installation's. No text of a prompt is ever in it.
CREATE TABLE ai_calls (
    tenant_id         bigint NOT NULL REFERENCES tenants (number),
    id                text   COLLATE "C" NOT NULL,
    at                bigint NOT NULL,
    day               text   COLLATE "C" NOT NULL,
    total_day         text   COLLATE "C" NOT NULL,
    key_id            text   NOT NULL,
    subject           text,
    privacy           text   NOT NULL,
    tier              text   NOT NULL,
    reason            text   NOT NULL,
    provider          text   NOT NULL,
    model             text   NOT NULL,
    prompt_hash       bytea  NOT NULL,
    reserved_tokens   bigint NOT NULL,
    reserved_micros   bigint NOT NULL,
    lease_until       bigint NOT NULL,
    outcome           text   CHECK (outcome IN ('answered', 'cut_off', 'failed', 'lost')),
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    micros            bigint NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX ai_calls_by_lease ON ai_calls (lease_until) WHERE outcome IS NULL;
CREATE INDEX ai_days_by_day ON ai_days (day);
CREATE INDEX ai_calls_by_age ON ai_calls (at) WHERE outcome IS NOT NULL;
