-- 0009_stop: what is being sent while its batch is cancelled gets no further attempt.

alter table jobs add column stop integer not null default 0 check (stop in (0, 1));
