-- 0001_initial: everything that sends leads.
--
-- Ids are UUIDv7 as 16 bytes, times are milliseconds since 1970 (UTC), words are spelt as in the API.
-- There are no foreign keys: the store's one writer keeps the tables together, in one transaction per turn.

create table projects (
    id             blob    not null primary key,
    external_id    text    not null unique,
    name           text    not null,
    default_region text    not null,
    time_zone      text    not null,
    locale         text    not null,
    dedup          text    not null,          -- JSON
    created_at     integer not null,
    updated_at     integer not null
) strict, without rowid;

create table api_keys (
    id           blob    not null primary key,
    project_id   blob,                        -- null: sees every project
    name         text    not null,
    hash         blob    not null unique,     -- SHA-256 of the key's text
    hint         text    not null,
    scopes       text    not null,            -- JSON array
    created_at   integer not null,
    expires_at   integer,
    revoked_at   integer,
    last_used_at integer
) strict, without rowid;
create index api_keys_project on api_keys (project_id, id);

create table credentials (
    id           blob    not null primary key, -- also the id of its lane
    project_id   blob    not null,
    entity       text,                        -- null: for the whole project
    channel      text    not null,
    name         text    not null,
    enabled      integer not null check (enabled in (0, 1)),
    config       text    not null,            -- JSON object
    secrets      text    not null,            -- JSON object of sealed secrets
    mapping      text    not null,            -- JSON object
    filter       text,
    retry        text,                        -- JSON
    state        text    not null,
    state_code   text,
    state_text   text,
    state_since  integer not null,
    version      integer not null,
    created_at   integer not null,
    updated_at   integer not null
) strict, without rowid;
create index credentials_project on credentials (project_id, id);

-- Plugins' small state. Values may be large, so the rows are not kept inside the key's tree.
create table kv (
    credential_id blob    not null,
    key           text    not null,
    value         blob    not null,
    version       integer not null,
    expires_at    integer,
    primary key (credential_id, key)
) strict;
create index kv_expires on kv (expires_at) where expires_at is not null;

create table pins (
    channel    text    not null,
    version    text    not null,
    digest     blob    not null,
    state      text    not null check (state in ('active', 'removed')),
    updated_at integer not null,
    primary key (channel, version)
) strict, without rowid;
create unique index pins_active on pins (channel) where state = 'active';

-- Answers kept for requests with an `Idempotency-Key`; sealed by the caller.
create table idempotency (
    scope      blob    not null primary key,
    body_hash  blob    not null,
    status     integer not null,
    body       blob    not null,
    expires_at integer not null
) strict;
create index idempotency_expires on idempotency (expires_at);

-- What a second lead with the same content is found by.
create table dedup (
    project_id blob    not null,
    hash       blob    not null,
    lead_id    blob    not null,
    expires_at integer not null,
    primary key (project_id, hash)
) strict, without rowid;
create index dedup_expires on dedup (expires_at);

create table leads (
    id          blob    not null primary key,
    project_id  blob    not null,
    batch_id    blob    not null,             -- its newest batch, whose state its own follows
    entity      text,
    external_id text,
    status      text    not null check (status in ('accepted', 'processing', 'completed', 'partial', 'failed', 'unrouted')),
    created_at  integer not null,
    payload     text    not null              -- the whole lead as JSON; never changed
) strict;
create index leads_project on leads (project_id, id);
create index leads_external on leads (project_id, external_id, id) where external_id is not null;
-- Completed leads are the many; this index holds the others only.
create index leads_open on leads (project_id, status, id) where status <> 'completed';

create table batches (
    id             blob    not null primary key,
    lead_id        blob    not null,
    project_id     blob    not null,
    total          integer not null,
    pending        integer not null check (pending >= 0),
    delivered      integer not null default 0 check (delivered >= 0),
    skipped        integer not null default 0 check (skipped >= 0),
    failed         integer not null default 0 check (failed >= 0),
    in_doubt       integer not null default 0 check (in_doubt >= 0),
    cancelled      integer not null default 0 check (cancelled >= 0),
    status         text    not null check (status in ('pending', 'completed', 'partial', 'failed', 'cancelled')),
    options        text    not null,          -- JSON
    correlation    text    not null,
    created_at     integer not null,
    finished_at    integer,
    check (total = pending + delivered + skipped + failed + in_doubt + cancelled),
    check ((status = 'pending') = (pending > 0))
) strict, without rowid;
create index batches_lead on batches (lead_id, id);

-- What became of each delivery. One that is `queued` here has a row in `jobs`; whether it is being sent is known there.
create table deliveries (
    id            blob    not null primary key,
    batch_id      blob    not null,
    lead_id       blob    not null,
    project_id    blob    not null,
    credential_id blob    not null,
    position      integer not null,           -- the order in which the batch was asked for
    channel       text    not null,
    status        text    not null check (status in ('queued', 'delivered', 'skipped', 'failed', 'in_doubt', 'cancelled')),
    attempts      integer not null default 0, -- counted ones; while there is a job, the job's count stands
    last_code     text,
    last_error    text,
    refs          text,                       -- JSON array
    url           text,
    settings      text,                       -- JSON object
    created_at    integer not null,
    finished_at   integer,
    -- Kept from the job when the delivery ends, for a retry by hand.
    fence         integer not null default 0,
    maybe_sent    integer not null default 0,
    memo          text
) strict, without rowid;
create index deliveries_batch on deliveries (batch_id, position);
create index deliveries_project on deliveries (project_id, id);
create index deliveries_dead on deliveries (project_id, status, id) where status in ('failed', 'in_doubt', 'cancelled');

create table attempts (
    delivery_id blob    not null,
    no          integer not null check (no >= 1),
    id          blob    not null,
    started_at  integer not null,
    duration_ms integer not null,
    outcome     text    not null,
    counted     integer not null check (counted in (0, 1)),
    code        text,
    message     text,
    exchanges   text,                         -- JSON array
    plugin      text    not null,
    correlation text    not null,
    node        text    not null,
    primary key (delivery_id, no)
) strict, without rowid;

-- The queue: only what is not finished, with all that a lease needs. A lease is a `due_at` in the future.
create table jobs (
    id          blob    not null primary key, -- the delivery's id
    lane_id     blob    not null,
    due_at      integer not null,             -- while `sending`: when the lease ends
    was_due     integer not null,             -- `due_at` before the last lease
    fence       integer not null default 0,   -- grows with every lease
    attempts    integer not null default 0,   -- counted ones that ended, lost ones included
    calls       integer not null default 0,   -- the number of the last attempt written
    sending     integer not null default 0 check (sending in (0, 1)),
    lost        integer not null default 0,   -- leases before the last one that were never answered, not yet among the attempts
    maybe_sent  integer not null default 0,
    memo        text,                         -- the plugin's last checkpoint
    batch_id    blob    not null,
    lead_id     blob    not null,
    correlation text    not null,
    settings    text
) strict, without rowid;
create index jobs_due on jobs (lane_id, due_at);
