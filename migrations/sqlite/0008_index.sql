-- 0008_index: the words of a lead come into their index after the lead, in the order of the numbers.

-- Up to which number of `lead_docs` leads are in the index of words. What has a larger number waits: the numbers are the
-- queue, so nothing is forgotten by a crash, and nobody has to look for it.
create table search_progress (
    id   integer not null primary key check (id = 1),
    done integer not null                     -- a `doc`
) strict;
-- Leads above the old `last` had their words from the beginning; looking at them once more does no harm.
insert into search_progress (id, done)
select 1, case when done >= last then (select coalesce(max(doc), 0) from lead_docs) else done end from search_backfill;
drop table search_backfill;
