-- 0004_lane_pauses: what a remote side asked for is kept over a restart.

create table lane_pauses (
    credential_id blob    not null primary key,
    until         integer not null,
    why           text    not null check (why in ('throttled', 'breaker_open'))
) strict, without rowid;
