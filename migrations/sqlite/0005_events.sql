-- 0005_events: what changed, for those who follow live. One row for each transaction that changed something they may see.

create table events (
    seq  integer not null primary key,        -- grows by one with each row; the newest row is never removed
    at   integer not null,                    -- the newest of its changes
    body blob    not null                     -- packed (store/event_log.rs): ids, words, numbers; no personal data, no secrets
) strict;
