-- 0002_sending: callbacks, notifications, credentials for one send, deadlines and fallbacks.

-- How the project's leads are sent, and what its callbacks are signed with.
alter table projects add column sending text not null default '{}';          -- JSON
alter table projects add column callback_secrets text not null default '{}'; -- JSON, sealed

-- `callback`: made by the host for one origin of callback URLs. `send`: for one batch, and gone when that ends.
alter table credentials add column purpose text not null default 'standing' check (purpose in ('standing', 'callback', 'send'));
alter table credentials add column origin text;
create unique index credentials_origin on credentials (project_id, origin) where origin is not null;
drop index credentials_project;
create index credentials_standing on credentials (project_id, id) where purpose = 'standing';

-- Whether its callbacks were queued: once, whenever it ends again.
alter table batches add column told integer not null default 0 check (told in (0, 1));

-- Only deliveries of the kind `lead` are among the batch's counts.
alter table deliveries add column kind text not null default 'lead' check (kind in ('lead', 'callback', 'notification', 'fallback'));
alter table deliveries add column event text;                                -- JSON: what is told instead of the lead
alter table deliveries add column reason text;                               -- why the host made it
alter table deliveries add column deadline_at integer;
alter table deliveries add column overdue_at integer;                        -- when a fallback stood in for it
alter table jobs add column kind text not null default 'lead';
alter table jobs add column event text;

-- What happens by time alone: deadlines of deliveries, fallbacks for those not delivered by then, notifications of a project.
create table timers (
    due_at  integer not null,
    subject blob    not null,                 -- the delivery; for `notify`, the project
    kind    text    not null check (kind in ('deadline', 'fallback', 'notify')),
    rule    text    not null,                 -- which of the subject's rules
    data    text,                             -- JSON: the rule of a fallback
    primary key (due_at, subject, kind, rule)
) strict, without rowid;

-- What a notification rule has not told yet, and until when it keeps quiet.
create table notices (
    project_id  blob    not null,
    rule        text    not null,
    quiet_until integer not null,
    total       integer not null,
    data        text    not null,             -- JSON: how many of each kind, and the first ones
    primary key (project_id, rule)
) strict, without rowid;
