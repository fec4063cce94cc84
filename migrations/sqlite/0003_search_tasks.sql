-- 0003_search_tasks: what lists and searches walk along, and tasks that work through many rows.

-- Leads by contact: `p` and the digits of a number in E.164 (as sent, when it could not be understood), or `e` and an
-- address in small letters.
create table lead_contacts (
    key     text not null,
    lead_id blob not null,
    primary key (key, lead_id)
) strict, without rowid;

-- The numbers of leads in the index of words, which knows no other ids. A number of the table's own: SQLite may renumber
-- the rows of a table without one when the file is compacted.
create table lead_docs (
    doc     integer not null primary key,
    lead_id blob    not null unique
) strict;
insert into lead_docs (lead_id) select id from leads order by id;

-- The words come in one spelling already, side by side with a space between: the tokenizer only cuts.
create virtual table lead_words using fts5 (words, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii');

-- Leads from before these tables, up to `last`, are brought into them slice by slice while the host runs.
create table search_backfill (
    id   integer not null primary key check (id = 1),
    done integer not null,                    -- a `doc`
    last integer not null
) strict;
insert into search_backfill (id, done, last) select 1, 0, coalesce(max(doc), 0) from lead_docs;

create index leads_entity on leads (project_id, entity, id) where entity is not null;
create index batches_project on batches (project_id, id);
create index batches_open on batches (project_id, status, id) where status <> 'completed';
create index deliveries_channel on deliveries (project_id, channel, id);
create index deliveries_credential on deliveries (credential_id, id);
create index deliveries_dead_credential on deliveries (credential_id, status, id) where status in ('failed', 'in_doubt', 'cancelled');

-- What the plugin was asked to do.
alter table attempts add column operation text not null default 'deliver';

-- Work on many rows. The cursor moves in the transaction that changes the rows it passes.
create table tasks (
    id          blob    not null primary key,
    project_id  blob,                         -- null: of every project
    kind        text    not null check (kind in ('deliveries_retry', 'leads_resend', 'credential_cancel')),
    status      text    not null check (status in ('running', 'completed', 'cancelled')),
    asked       text    not null,             -- JSON: the rows it is about, and what to do with them
    rate        integer not null check (rate > 0),
    total       integer not null,             -- rows that matched when it began
    done        integer not null default 0,   -- rows looked at
    changed     integer not null default 0,   -- rows something was done for
    errors      integer not null default 0,
    first_errors text   not null default '[]', -- JSON array
    cursor      blob,                         -- where the next slice begins; null at first
    correlation text    not null,
    created_at  integer not null,
    finished_at integer
) strict, without rowid;
create index tasks_project on tasks (project_id, id);
create index tasks_running on tasks (id) where status = 'running';
