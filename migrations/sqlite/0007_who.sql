-- 0007_who: rotation and rates of keys, and the audit log.

alter table api_keys add column rate_per_sec integer;                        -- null: the host's default
alter table api_keys add column rate_burst integer;
alter table api_keys add column rotated_from blob;                           -- the key it took over from
alter table api_keys add column replaced_by blob;                            -- the key that takes over

-- Who did what. Ids carry the time, so lists and retention go by them.
create table audit (
    id         blob    not null primary key,
    at         integer not null,
    project_id blob,                          -- null: of the platform
    actor      blob,                          -- the key; null: the host itself
    actor_name text    not null,
    peer       text,
    node       text    not null,
    request_id text    not null,
    action     text    not null,
    object     text    not null,
    changes    text    not null               -- JSON array
) strict;
create index audit_project on audit (project_id, id);
create index audit_actor on audit (actor, id);
create index audit_action on audit (action, id);
create index audit_object on audit (object, id);
