-- 0001_initial: everything. The tables and columns are those of SQLite (migrations/sqlite), so that one contract holds for both.
--
-- Ids are UUIDv7, times are milliseconds since 1970 (UTC) by the host's clock, words are spelt as in the API. JSON is text: its
-- order is kept, and it is never looked into on the way of a lead.
-- There are no foreign keys: they would add a lock and a write to each insert; one transaction keeps the rows together.

create table projects (
    id               uuid   not null primary key,
    external_id      text   not null unique,
    name             text   not null,
    default_region   text   not null,
    time_zone        text   not null,
    locale           text   not null,
    dedup            text   not null,            -- JSON
    sending          text   not null default '{}', -- JSON
    callback_secrets text   not null default '{}', -- JSON, sealed
    retention        text   not null default '{}', -- JSON: ages of its own; what is absent follows the host's settings
    created_at       bigint not null,
    updated_at       bigint not null
);

create table api_keys (
    id           uuid   not null primary key,
    project_id   uuid,                           -- null: sees every project
    name         text   not null,
    hash         bytea  not null unique,         -- SHA-256 of the key's text
    hint         text   not null,
    scopes       text   not null,                -- JSON array
    created_at   bigint not null,
    expires_at   bigint,
    revoked_at   bigint,
    last_used_at bigint,
    rate_per_sec bigint,                         -- null: the host's default
    rate_burst   bigint,
    rotated_from uuid,                           -- the key it took over from
    replaced_by  uuid                            -- the key that takes over
);
create index api_keys_project on api_keys (project_id, id);

create table credentials (
    id           uuid    not null primary key,   -- also the id of its lane
    project_id   uuid    not null,
    entity       text,                           -- null: for the whole project
    channel      text    not null,
    name         text    not null,
    enabled      boolean not null,
    config       text    not null,               -- JSON object
    secrets      text    not null,               -- JSON object of sealed secrets
    mapping      text    not null,               -- JSON object
    filter       text,
    retry        text,                           -- JSON
    state        text    not null,
    state_code   text,
    state_text   text,
    state_since  bigint  not null,
    version      bigint  not null,
    created_at   bigint  not null,
    updated_at   bigint  not null,
    -- `callback`: made by the host for one origin of callback URLs. `send`: for one batch, and gone when that ends.
    purpose      text    not null default 'standing' check (purpose in ('standing', 'callback', 'send')),
    origin       text
);
create unique index credentials_origin on credentials (project_id, origin) where origin is not null;
create index credentials_standing on credentials (project_id, id) where purpose = 'standing';

-- What a remote side asked for is kept over a restart.
create table lane_pauses (
    credential_id uuid   not null primary key,
    until         bigint not null,
    why           text   not null check (why in ('throttled', 'breaker_open'))
);

-- Plugins' small state. Keys are bytes: a plugin may put anything into one.
create table kv (
    credential_id uuid   not null,
    key           bytea  not null,
    value         bytea  not null,
    version       bigint not null,
    expires_at    bigint,
    primary key (credential_id, key)
);
create index kv_expires on kv (expires_at) where expires_at is not null;

create table pins (
    channel    text   not null,
    version    text   not null,
    digest     bytea  not null,
    state      text   not null check (state in ('active', 'removed')),
    updated_at bigint not null,
    primary key (channel, version)
);
create unique index pins_active on pins (channel) where state = 'active';

-- Answers kept for requests with an `Idempotency-Key`; sealed by the caller.
create table idempotency (
    scope      bytea   not null primary key,
    body_hash  bytea   not null,
    status     integer not null,
    body       bytea   not null,
    expires_at bigint  not null
);
create index idempotency_expires on idempotency (expires_at);

-- What a second lead with the same content is found by.
create table dedup (
    project_id uuid   not null,
    hash       bytea  not null,
    lead_id    uuid   not null,
    expires_at bigint not null,
    primary key (project_id, hash)
);
create index dedup_expires on dedup (expires_at);
create index dedup_lead on dedup (lead_id);

-- Leads that came again: how often, and when last.
create table lead_repeats (
    lead_id uuid   not null primary key,
    count   bigint not null,
    last_at bigint not null
);

-- The history: by week of the id, which carries the time. The host makes the weeks to come, and what is of none of them goes
-- into the default partition, so that nothing is ever refused.

create table leads (
    id          uuid   not null primary key,
    project_id  uuid   not null,
    batch_id    uuid   not null,                 -- its newest batch, whose state its own follows
    entity      text,
    external_id text,
    status      text   not null check (status in ('accepted', 'processing', 'completed', 'partial', 'failed', 'unrouted')),
    created_at  bigint not null,
    payload     text   not null                  -- the whole lead as JSON; never changed
) partition by range (id);
create index leads_project on leads (project_id, id);
create index leads_external on leads (project_id, external_id, id) where external_id is not null;
create index leads_entity on leads (project_id, entity, id) where entity is not null;
-- Completed leads are the many; this index holds the others only.
create index leads_open on leads (project_id, status, id) where status <> 'completed';
create table leads_default partition of leads default with (fillfactor = 85);

create table batches (
    id             uuid    not null primary key,
    lead_id        uuid    not null,
    project_id     uuid    not null,
    total          integer not null,
    pending        integer not null check (pending >= 0),
    delivered      integer not null default 0 check (delivered >= 0),
    skipped        integer not null default 0 check (skipped >= 0),
    failed         integer not null default 0 check (failed >= 0),
    in_doubt       integer not null default 0 check (in_doubt >= 0),
    cancelled      integer not null default 0 check (cancelled >= 0),
    status         text    not null check (status in ('pending', 'completed', 'partial', 'failed', 'cancelled')),
    told           boolean not null default false, -- its callbacks were queued: once, whenever it ends again
    options        text    not null,             -- JSON
    correlation    text    not null,
    created_at     bigint  not null,
    finished_at    bigint,
    check (total = pending + delivered + skipped + failed + in_doubt + cancelled),
    check ((status = 'pending') = (pending > 0))
) partition by range (id);
create index batches_lead on batches (lead_id, id);
create index batches_project on batches (project_id, id);
create index batches_open on batches (project_id, status, id) where status <> 'completed';
create table batches_default partition of batches default with (fillfactor = 70);

-- What became of each delivery. One that is `queued` here has a row in `jobs`; whether it is being sent is known there.
create table deliveries (
    id            uuid    not null primary key,
    batch_id      uuid    not null,
    lead_id       uuid    not null,
    project_id    uuid    not null,
    credential_id uuid    not null,
    position      bigint  not null,              -- the order in which the batch was asked for
    channel       text    not null,
    status        text    not null check (status in ('queued', 'delivered', 'skipped', 'failed', 'in_doubt', 'cancelled')),
    attempts      bigint  not null default 0,    -- counted ones; while there is a job, the job's count stands
    last_code     text,
    last_error    text,
    refs          text,                          -- JSON array
    url           text,
    settings      text,                          -- JSON object
    created_at    bigint  not null,
    finished_at   bigint,
    -- Kept from the job when the delivery ends, for a retry by hand.
    fence         bigint  not null default 0,
    maybe_sent    boolean not null default false,
    memo          bytea,
    -- Only deliveries of the kind `lead` are among the batch's counts.
    kind          text    not null default 'lead' check (kind in ('lead', 'callback', 'notification', 'fallback')),
    event         text,                          -- JSON: what is told instead of the lead
    reason        text,                          -- why the host made it
    deadline_at   bigint,
    overdue_at    bigint,                        -- when a fallback stood in for it
    attempts_pruned bigint not null default 0    -- the number of the last attempt that was removed for its age; 0: none was
) partition by range (id);
create index deliveries_batch on deliveries (batch_id, position);
create index deliveries_project on deliveries (project_id, id);
create index deliveries_channel on deliveries (project_id, channel, id);
create index deliveries_credential on deliveries (credential_id, id);
create index deliveries_dead on deliveries (project_id, status, id) where status in ('failed', 'in_doubt', 'cancelled');
create index deliveries_dead_credential on deliveries (credential_id, status, id) where status in ('failed', 'in_doubt', 'cancelled');
create index deliveries_notification on deliveries (project_id, id) where kind = 'notification';
create table deliveries_default partition of deliveries default with (fillfactor = 85);

create table attempts (
    delivery_id uuid    not null,
    no          bigint  not null check (no >= 1),
    id          uuid    not null,
    started_at  bigint  not null,
    duration_ms bigint  not null,
    outcome     text    not null,
    counted     boolean not null,
    code        text,
    message     text,
    exchanges   text,                            -- JSON array
    plugin      text    not null,
    correlation text    not null,
    node        text    not null,
    operation   text    not null default 'deliver', -- what the plugin was asked to do
    primary key (delivery_id, no)
) partition by range (delivery_id);
create table attempts_default partition of attempts default;

-- The queue: only what is not finished, with all that a lease needs. A lease is a `due_at` in the future.
create table jobs (
    id          uuid    not null primary key,    -- the delivery's id
    lane_id     uuid    not null,
    due_at      bigint  not null,                -- while `sending`: when the lease ends
    was_due     bigint  not null,                -- `due_at` before the last lease
    fence       bigint  not null default 0,      -- grows with every lease
    attempts    bigint  not null default 0,      -- counted ones that ended, lost ones included
    calls       bigint  not null default 0,      -- the number of the last attempt written
    sending     boolean not null default false,
    lost        bigint  not null default 0,      -- leases before the last one that were never answered, not yet among the attempts
    maybe_sent  boolean not null default false,
    memo        bytea,                           -- the plugin's last checkpoint
    batch_id    uuid    not null,
    lead_id     uuid    not null,
    correlation text    not null,
    settings    text,
    channel     text    not null,
    kind        text    not null default 'lead',
    event       text,
    deadline_at bigint,                          -- of the delivery; a retry by hand has none
    stop        boolean not null default false   -- its batch was cancelled while it was being sent: no further attempt
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
-- Rows that are due at the same time come in the order in which they were written.
create index jobs_due on jobs (lane_id, due_at);

-- What happens by time alone: deadlines of deliveries, fallbacks for those not delivered by then, notifications of a project.
create table timers (
    due_at  bigint not null,
    subject uuid   not null,                     -- the delivery; for `notify`, the project
    kind    text   not null check (kind in ('deadline', 'fallback', 'notify')),
    rule    text   not null,                     -- which of the subject's rules
    data    text,                                -- JSON: the rule of a fallback
    primary key (due_at, subject, kind, rule)
);
-- What else there is of a delivery, for the day it is removed.
create index timers_subject on timers (subject);

-- What a notification rule has not told yet, and until when it keeps quiet.
create table notices (
    project_id  uuid   not null,
    rule        text   not null,
    quiet_until bigint not null,
    total       bigint not null,
    data        text   not null,                 -- JSON: how many of each kind, and the first ones
    primary key (project_id, rule)
);

-- Leads by contact: `p` and the digits of a number in E.164 (as sent, when it could not be understood), or `e` and an
-- address in small letters.
create table lead_contacts (
    key     text collate "C" not null,
    lead_id uuid not null,
    primary key (key, lead_id)
);

-- Leads by word, newest first within a project. A tree of rows and not an inverted index (GIN): that one gives what matches in no
-- order, so a common word would read all of its leads for one page.
create table lead_words (
    project_id uuid not null,
    word       text collate "C" not null,
    lead_id    uuid not null,
    primary key (project_id, word, lead_id)
);

-- Leads whose words are not among those yet: they are brought in slice by slice, beside the way of a lead.
create table leads_unindexed (
    lead_id uuid not null primary key
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

-- Work on many rows. The cursor moves in the transaction that changes the rows it passes.
create table tasks (
    id           uuid   not null primary key,
    project_id   uuid,                           -- null: of every project
    kind         text   not null check (kind in ('deliveries_retry', 'leads_resend', 'credential_cancel')),
    status       text   not null check (status in ('running', 'completed', 'cancelled')),
    asked        text   not null,                -- JSON: the rows it is about, and what to do with them
    rate         bigint not null check (rate > 0),
    total        bigint not null,                -- rows that matched when it began
    done         bigint not null default 0,      -- rows looked at
    changed      bigint not null default 0,      -- rows something was done for
    errors       bigint not null default 0,
    first_errors text   not null default '[]',   -- JSON array
    cursor       bytea,                          -- where the next slice begins; null at first
    correlation  text   not null,
    created_at   bigint not null,
    finished_at  bigint
);
create index tasks_project on tasks (project_id, id);
create index tasks_running on tasks (id) where status = 'running';

-- What changed, for those who follow live. One row for each transaction that changed something they may see, numbered in the order
-- in which these become visible: the number is given under a lock that is held until the commit.
create table events (
    seq  bigint generated by default as identity primary key,
    at   bigint not null,                        -- the newest of its changes
    body bytea  not null                         -- packed (store/event_log.rs): ids, words, numbers; no personal data, no secrets
);
-- Up to which number rows were removed. Numbers may be missing in between, so the oldest row does not say.
create table events_pruned (
    id  integer not null primary key check (id = 1),
    seq bigint  not null
);
insert into events_pruned (id, seq) values (1, 0);

-- The last clean-up of each project; of what belongs to no project under sixteen zero bytes.
create table cleanups (
    scope    uuid   not null primary key,
    due_at   bigint not null,                    -- the time in the schedule that it was for
    ended_at bigint not null,
    removed  text   not null,                    -- JSON: how many rows of each kind
    place    uuid                                -- the delivery up to which no attempt is too old any more
);

-- Persons that were erased. While one is being erased, what was asked is kept sealed; afterwards only its fingerprint.
create table erasures (
    id          uuid   not null primary key,
    project_id  uuid   not null,
    key_id      uuid   not null,                 -- the API key that asked
    kind        text   not null check (kind in ('phone', 'email', 'lead_id')),
    fingerprint text   not null,
    asked       bytea,                           -- sealed; null when it is done
    stage       text   not null check (stage in ('leads', 'tables', 'done')),
    counts      text   not null,                 -- JSON
    received    text   not null,                 -- JSON: which credentials had sent the person's data
    correlation text   not null,
    created_at  bigint not null,
    finished_at bigint
);
create index erasures_project on erasures (project_id, id);
create index erasures_running on erasures (id) where stage <> 'done';

-- Who did what. Ids carry the time, so lists and retention go by them.
create table audit (
    id         uuid   not null primary key,
    at         bigint not null,
    project_id uuid,                             -- null: of the platform
    actor      uuid,                             -- the key; null: the host itself
    actor_name text   not null,
    peer       text,
    node       text   not null,
    request_id text   not null,
    action     text   not null,
    object     text   not null,
    changes    text   not null                   -- JSON array
);
create index audit_project on audit (project_id, id);
create index audit_actor on audit (actor, id);
create index audit_action on audit (action, id);
create index audit_object on audit (object, id);
