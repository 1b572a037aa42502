-- compatible-from: 5
--
-- Queues. At most `rate_count` in `rate_period_ms` are claimed; `rate_tokens` were left at `rate_at`.
-- NULL `retention_s` is the installation's.
CREATE TABLE job_queues (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id      bigint  NOT NULL REFERENCES tenants (number),
    name           text    COLLATE "C" NOT NULL,
    paused         boolean NOT NULL DEFAULT false,
    rate_count     bigint,
    rate_period_ms bigint,
    rate_tokens    double precision NOT NULL DEFAULT 0,
    rate_at        bigint  NOT NULL DEFAULT 0,
    retention_s    bigint,
    created_at     bigint  NOT NULL,
    updated_at     bigint  NOT NULL
);
CREATE UNIQUE INDEX job_queues_by_name ON job_queues (tenant_id, name);

-- Jobs. A partial index for each way to wait, so that a claim reads no job that isn't ready: `rank` is
-- the negative priority, `blocked` says that the concurrency key had no place free. `attempt` is how
-- often it was claimed. `secret` is what the token of the delivery under way says.
CREATE TABLE jobs (
    tenant_id         bigint  NOT NULL,
    queue_id          bigint  NOT NULL,
    key               bigint  GENERATED ALWAYS AS IDENTITY,
    id                text    COLLATE "C" NOT NULL,
    state             text    NOT NULL CHECK (state IN ('scheduled', 'available', 'running',
                                  'retryable', 'completed', 'discarded', 'cancelled')),
    blocked           boolean NOT NULL DEFAULT false,
    lane              integer NOT NULL,
    rank              integer NOT NULL,
    run_at            bigint  NOT NULL,
    attempt           integer NOT NULL,
    max_attempts      integer NOT NULL,
    timeout_ms        bigint,
    url               text,
    unique_key        text    COLLATE "C",
    concurrency_key   text    COLLATE "C",
    concurrency_limit integer NOT NULL,
    created_at        bigint  NOT NULL,
    finished_at       bigint,
    worker            text,
    secret            bigint,
    lease_expires_at  bigint,
    deadline          bigint,
    payload           text    NOT NULL,
    result            text,
    errors            text,
    PRIMARY KEY (tenant_id, id)
) WITH (fillfactor = 80);
CREATE INDEX jobs_ready ON jobs (tenant_id, queue_id, lane, rank, run_at, key)
    WHERE state = 'available' AND NOT blocked;
CREATE INDEX jobs_future ON jobs (tenant_id, queue_id, run_at, key)
    WHERE state IN ('scheduled', 'retryable');
CREATE INDEX jobs_blocked ON jobs (tenant_id, queue_id, concurrency_key, rank, run_at, key)
    WHERE blocked;
CREATE INDEX jobs_leased ON jobs (lease_expires_at) WHERE state = 'running';
CREATE INDEX jobs_listed ON jobs (tenant_id, queue_id, state, key);
CREATE INDEX jobs_finished ON jobs (queue_id, finished_at) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX jobs_unique ON jobs (tenant_id, queue_id, unique_key)
    WHERE unique_key IS NOT NULL AND finished_at IS NULL;

-- Changes of a queue's counts, added up by reading and folded now and then: one row to update would
-- make every claim wait for the one before it.
CREATE TABLE job_counts (
    tenant_id bigint NOT NULL,
    queue_id  bigint NOT NULL,
    state     text   NOT NULL,
    change    bigint NOT NULL
);
CREATE INDEX job_counts_by_queue ON job_counts (tenant_id, queue_id);

-- How many jobs of a concurrency key run; no row where none does.
CREATE TABLE job_concurrency (
    tenant_id       bigint  NOT NULL,
    queue_id        bigint  NOT NULL,
    concurrency_key text    COLLATE "C" NOT NULL,
    running         integer NOT NULL,
    PRIMARY KEY (tenant_id, queue_id, concurrency_key)
);

-- Schedules. Whoever moves `next_at` on adds the job, in one transaction. `job` is JSON.
CREATE TABLE job_schedules (
    tenant_id   bigint  NOT NULL REFERENCES tenants (number),
    name        text    COLLATE "C" NOT NULL,
    cron        text    NOT NULL,
    timezone    text    NOT NULL,
    queue       text    NOT NULL,
    job         text    NOT NULL,
    paused      boolean NOT NULL,
    next_at     bigint,
    last_at     bigint,
    last_job_id text,
    created_at  bigint  NOT NULL,
    updated_at  bigint  NOT NULL,
    PRIMARY KEY (tenant_id, name)
);
CREATE INDEX job_schedules_by_tick ON job_schedules (next_at) WHERE next_at IS NOT NULL;

-- Locks, held until `expires_at`. Names are compared whole: a hash only orders who looks at one.
CREATE TABLE locks (
    tenant_id   bigint NOT NULL REFERENCES tenants (number),
    namespace   text   COLLATE "C" NOT NULL,
    key         text   COLLATE "C" NOT NULL,
    owner       text   NOT NULL,
    token       bigint NOT NULL,
    acquired_at bigint NOT NULL,
    expires_at  bigint NOT NULL,
    PRIMARY KEY (tenant_id, namespace, key)
);

-- The last fencing number a tenant's locks were given. It only grows, and is kept.
CREATE TABLE lock_tokens (
    tenant_id bigint PRIMARY KEY REFERENCES tenants (number),
    last      bigint NOT NULL
);

-- Who waits, of every server, in the order of asking. `alive_until` is renewed while the request is
-- open, so that the line of a server that died moves on.
CREATE TABLE lock_waiters (
    ticket      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id   bigint NOT NULL REFERENCES tenants (number),
    namespace   text   COLLATE "C" NOT NULL,
    key         text   COLLATE "C" NOT NULL,
    owner       text   NOT NULL,
    since       bigint NOT NULL,
    alive_until bigint NOT NULL
);
CREATE INDEX lock_waiters_in_line ON lock_waiters (tenant_id, namespace, key, ticket);
