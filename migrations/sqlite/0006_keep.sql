-- 0006_keep: how long things are kept, persons that were erased, leads that came again.

-- Ages of the project's own; what is absent follows the host's settings.
alter table projects add column retention text not null default '{}';        -- JSON

-- The number of the last attempt that was removed for its age; 0: none was.
alter table deliveries add column attempts_pruned integer not null default 0;

-- What else there is of a lead or a delivery, for the day it is removed.
create index dedup_lead on dedup (lead_id);
create index timers_subject on timers (subject);
create index deliveries_notification on deliveries (project_id, id) where kind = 'notification';

-- The last clean-up of each project; of what belongs to no project under sixteen zero bytes.
create table cleanups (
    scope    blob    not null primary key,
    due_at   integer not null,                -- the time in the schedule that it was for
    ended_at integer not null,
    removed  text    not null,                -- JSON: how many rows of each kind
    place    blob                             -- the delivery up to which no attempt is too old any more
) strict, without rowid;

-- Persons that were erased. While one is being erased, what was asked is kept sealed; afterwards only its fingerprint.
create table erasures (
    id          blob    not null primary key,
    project_id  blob    not null,
    key_id      blob    not null,             -- the API key that asked
    kind        text    not null check (kind in ('phone', 'email', 'lead_id')),
    fingerprint text    not null,
    asked       blob,                         -- sealed; null when it is done
    stage       text    not null check (stage in ('leads', 'words', 'merging', 'files', 'done')),
    counts      text    not null,             -- JSON
    received    text    not null,             -- JSON: which credentials had sent the person's data
    correlation text    not null,
    created_at  integer not null,
    finished_at integer
) strict, without rowid;
create index erasures_project on erasures (project_id, id);
create index erasures_running on erasures (id) where stage <> 'done';

-- Leads that came again: how often, and when last.
create table lead_repeats (
    lead_id blob    not null primary key,
    count   integer not null,
    last_at integer not null
) strict, without rowid;
