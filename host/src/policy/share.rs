//! Who may use the calls that one process makes at once, so that slow destinations hold up nobody but themselves, and
//! work on many rows holds up no live lead.

/// What is running now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Calls at once that the process makes, at least 1.
    pub pool: u32,
    /// In all lanes.
    pub all: u32,
    /// In the lanes of this lane's project.
    pub project: u32,
    /// In this lane.
    pub lane: u32,
}

/// How many more calls the lane may start. A quarter of the pool is kept for lanes that have no call running, and no project
/// has more than three quarters of it.
pub fn allowed(running: Running) -> u32 {
    let Running { pool, all, project, lane } = running;
    let common = pool - pool / 4;
    let further = common.saturating_sub(all);
    let first = u32::from(lane == 0);
    further.max(first).min(pool.saturating_sub(all)).min(common.saturating_sub(project))
}

/// Of so many calls for live leads that start while bulk work waits, the next one is for bulk work: so it never starves.
pub const BULK_TURN: u32 = 8;

/// What bulk work leaves of `limit` calls (or tokens) for a live lead that may come at any moment: a quarter, if there is more
/// than one.
pub fn kept(limit: u32) -> u32 {
    if limit <= 1 { 0 } else { (limit / 4).max(1) }
}

/// What a lane may start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Calls.
    pub calls: u32,
    /// Those of them that do not touch what is [`kept`].
    pub spare: u32,
    /// Live leads are due.
    pub live: bool,
    /// Bulk work is due.
    pub bulk: bool,
    /// Calls for live leads that started while bulk work waited, since it last had its turn.
    pub since_bulk: u32,
}

/// Who gets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Split {
    #[allow(missing_docs)]
    pub live: u32,
    #[allow(missing_docs)]
    pub bulk: u32,
}

/// Shares the calls of a lane between its live leads, which go first, and its bulk work. Bulk work also leaves half of the
/// process's calls to others, unless nothing else of the lane runs.
pub fn split(ready: Ready, running: Running) -> Split {
    let Ready { calls, spare, live, bulk, since_bulk } = ready;
    match (live, bulk) {
        (_, false) => Split { live: calls, bulk: 0 },
        (true, true) => {
            let turn = u32::from(since_bulk >= BULK_TURN).min(calls);
            Split { live: calls - turn, bulk: turn }
        }
        (false, true) => {
            let half = (running.pool / 2).saturating_sub(running.all).max(u32::from(running.lane == 0));
            Split { live: 0, bulk: spare.min(calls).min(half) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_alone_gets_three_quarters() {
        assert_eq!(allowed(Running { pool: 256, all: 0, project: 0, lane: 0 }), 192);
        assert_eq!(allowed(Running { pool: 256, all: 100, project: 100, lane: 100 }), 92);
        assert_eq!(allowed(Running { pool: 256, all: 192, project: 192, lane: 192 }), 0);
    }

    #[test]
    fn a_lane_without_a_call_gets_one_from_the_rest() {
        assert_eq!(allowed(Running { pool: 256, all: 192, project: 0, lane: 0 }), 1);
        assert_eq!(allowed(Running { pool: 256, all: 255, project: 3, lane: 0 }), 1);
        assert_eq!(allowed(Running { pool: 256, all: 256, project: 3, lane: 0 }), 0);
        assert_eq!(allowed(Running { pool: 256, all: 193, project: 3, lane: 1 }), 0);
    }

    #[test]
    fn no_project_takes_all_however_many_lanes_it_has() {
        let mut project = 0;
        while allowed(Running { pool: 256, all: project, project, lane: 0 }) > 0 {
            project += 1;
        }
        assert_eq!(project, 192);
        assert_eq!(allowed(Running { pool: 256, all: project, project: 0, lane: 0 }), 1);
    }

    #[test]
    fn live_leads_go_first_and_bulk_work_has_its_turn() {
        let idle = Running { pool: 256, all: 0, project: 0, lane: 0 };
        let ready = Ready { calls: 16, spare: 12, live: true, bulk: true, since_bulk: 0 };
        assert_eq!(split(ready, idle), Split { live: 16, bulk: 0 });
        assert_eq!(split(Ready { since_bulk: BULK_TURN, ..ready }, idle), Split { live: 15, bulk: 1 });
        assert_eq!(split(Ready { since_bulk: BULK_TURN, calls: 1, ..ready }, idle), Split { live: 0, bulk: 1 });
        assert_eq!(split(Ready { since_bulk: BULK_TURN, calls: 0, ..ready }, idle), Split::default());
        assert_eq!(split(Ready { live: false, ..ready }, idle), Split { live: 0, bulk: 12 });
        assert_eq!(split(Ready { bulk: false, ..ready }, idle), Split { live: 16, bulk: 0 });
    }

    #[test]
    fn bulk_work_leaves_half_of_the_process_to_others_but_never_stops() {
        let ready = Ready { calls: 16, spare: 12, live: false, bulk: true, since_bulk: 0 };
        assert_eq!(split(ready, Running { pool: 256, all: 120, project: 0, lane: 3 }).bulk, 8);
        assert_eq!(split(ready, Running { pool: 256, all: 128, project: 0, lane: 3 }).bulk, 0);
        assert_eq!(split(ready, Running { pool: 256, all: 200, project: 0, lane: 0 }).bulk, 1);
    }

    #[test]
    fn something_is_kept_wherever_there_is_more_than_one() {
        let kept: Vec<_> = [0, 1, 2, 3, 4, 8, 16, 30].map(kept).into();
        assert_eq!(kept, [0, 0, 1, 1, 1, 2, 4, 7]);
    }

    #[test]
    fn the_smallest_pools_work() {
        for pool in 1..8 {
            assert!(allowed(Running { pool, all: 0, project: 0, lane: 0 }) >= 1, "{pool}");
            assert_eq!(allowed(Running { pool, all: pool, project: 0, lane: 0 }), 0, "{pool}");
        }
    }
}
