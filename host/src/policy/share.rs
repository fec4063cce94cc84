//! Who may use the calls that one process makes at once, so that slow destinations hold up nobody but themselves.

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
    fn the_smallest_pools_work() {
        for pool in 1..8 {
            assert!(allowed(Running { pool, all: 0, project: 0, lane: 0 }) >= 1, "{pool}");
            assert_eq!(allowed(Running { pool, all: pool, project: 0, lane: 0 }), 0, "{pool}");
        }
    }
}
