//! When a lane stops trying: pauses after failures, and how it comes back.

use std::time::Duration;

use crate::model::Timestamp;

/// Failed calls in a row after which a lane is parked.
const FAILURES: u32 = 20;
/// The first pause of an open breaker; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause of an open breaker.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The first pause when the remote side says "slower" without a time; it doubles.
const FIRST_SLOWER: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_SLOWER: Duration = Duration::from_secs(60);

/// What one call showed of the remote side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// It answered sense: whatever became of the lead, the lane works.
    Good,
    /// The call failed, or every item of it must be tried again.
    Bad,
    /// It asked to wait.
    Slower(Option<Duration>),
    /// It is down.
    Down(Option<Duration>),
}

/// Why a lane waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// The remote side asked for it.
    Throttled,
    /// The breaker is open.
    BreakerOpen,
}

/// The health of one lane. Pure: the time comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    /// How many times it opened without a good call between.
    opened: u32,
    /// How many times the remote side said "slower" without a good call between.
    slowed: u32,
    paused_until: Timestamp,
    pause: Option<Pause>,
    /// Calls at once that the lane may make: one after a pause, doubling with each good call.
    ramp: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 0, opened: 0, slowed: 0, paused_until: Timestamp::from_millis(0), pause: None, ramp: u32::MAX }
    }
}

impl Breaker {
    /// Takes in what a call showed.
    pub fn record(&mut self, signal: &Signal, now: Timestamp) {
        match signal {
            Signal::Good => {
                *self = Self { ramp: self.ramp.saturating_mul(2), paused_until: self.paused_until, pause: self.pause, ..Self::default() };
            }
            // It began before the pause and tells of the same trouble: only a longer wish of the remote side says more.
            Signal::Bad if self.paused(now).is_some() => {}
            Signal::Down(after) | Signal::Slower(after) if self.paused(now).is_some() => {
                let why = if matches!(signal, Signal::Down(_)) { Pause::BreakerOpen } else { Pause::Throttled };
                self.pause_for(after.unwrap_or_default(), why, now);
            }
            Signal::Bad => self.fail(None, now),
            Signal::Down(after) => self.fail(*after, now),
            Signal::Slower(after) => {
                let own = doubled(FIRST_SLOWER, self.slowed, LONGEST_SLOWER);
                self.slowed = self.slowed.saturating_add(1);
                self.pause_for(after.unwrap_or(own), Pause::Throttled, now);
            }
        }
    }

    fn fail(&mut self, after: Option<Duration>, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        // After a pause the lane tries with one call: if that fails too, it waits again at once.
        if self.failures >= FAILURES || self.opened > 0 {
            let own = doubled(FIRST_PAUSE, self.opened, LONGEST_PAUSE);
            self.opened = self.opened.saturating_add(1);
            self.failures = 0;
            self.pause_for(after.map_or(own, |after| after.max(own)), Pause::BreakerOpen, now);
        } else if let Some(after) = after {
            self.pause_for(after, Pause::Throttled, now);
        }
    }

    fn pause_for(&mut self, pause: Duration, why: Pause, now: Timestamp) {
        let until = now.plus(pause);
        if until > self.paused_until {
            self.paused_until = until;
            self.pause = Some(why);
        }
        self.ramp = 1;
    }

    /// Until when the lane waits, and why; `None` when it does not.
    pub fn paused(&self, now: Timestamp) -> Option<(Timestamp, Pause)> {
        self.pause.filter(|_| self.paused_until > now).map(|why| (self.paused_until, why))
    }

    /// Calls at once that the lane may make.
    pub fn ramp(&self) -> u32 {
        self.ramp
    }

    /// Takes up a pause that was kept over a restart.
    pub fn resume(&mut self, until: Timestamp, why: Pause, now: Timestamp) {
        self.pause_for(until.since(now), why, now);
    }

    /// Forgets everything: an admin acted.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_millis(s * 1_000)
    }

    #[test]
    fn opens_after_failures_in_a_row_and_probes_with_one_call() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES - 1 {
            breaker.record(&Signal::Bad, at(0));
        }
        assert_eq!(breaker.paused(at(0)), None);
        breaker.record(&Signal::Good, at(0));
        for _ in 0..FAILURES {
            breaker.record(&Signal::Bad, at(0));
        }
        assert_eq!(breaker.paused(at(0)), Some((at(5), Pause::BreakerOpen)));
        assert_eq!(breaker.paused(at(5)), None);
        assert_eq!(breaker.ramp(), 1);
        breaker.record(&Signal::Bad, at(5));
        assert_eq!(breaker.paused(at(5)), Some((at(15), Pause::BreakerOpen)));
        breaker.record(&Signal::Good, at(15));
        assert_eq!(breaker.paused(at(15)), None);
        assert_eq!(breaker.ramp(), 2);
    }

    #[test]
    fn calls_that_were_under_way_when_it_opened_do_not_open_it_again() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES + 15 {
            breaker.record(&Signal::Bad, at(0));
        }
        assert_eq!(breaker.paused(at(0)), Some((at(5), Pause::BreakerOpen)));
        let mut breaker = Breaker::default();
        for _ in 0..16 {
            breaker.record(&Signal::Slower(None), at(0));
        }
        assert_eq!(breaker.paused(at(0)), Some((at(1), Pause::Throttled)));
        breaker.record(&Signal::Slower(Some(Duration::from_secs(9))), at(0));
        assert_eq!(breaker.paused(at(0)), Some((at(9), Pause::Throttled)));
    }

    #[test]
    fn waits_as_long_as_the_remote_side_says() {
        let mut breaker = Breaker::default();
        breaker.record(&Signal::Slower(Some(Duration::from_secs(35))), at(0));
        assert_eq!(breaker.paused(at(34)), Some((at(35), Pause::Throttled)));
        assert_eq!(breaker.paused(at(35)), None);
        breaker.record(&Signal::Slower(Some(Duration::from_secs(1))), at(10));
        assert_eq!(breaker.paused(at(34)), Some((at(35), Pause::Throttled)), "a shorter pause does not end a longer one");
    }

    #[test]
    fn a_pause_goes_on_after_a_restart() {
        let mut breaker = Breaker::default();
        breaker.resume(at(3_600), Pause::Throttled, at(10));
        assert_eq!((breaker.paused(at(3_599)), breaker.ramp()), (Some((at(3_600), Pause::Throttled)), 1));
        assert_eq!(breaker.paused(at(3_600)), None);
        let mut over = Breaker::default();
        over.resume(at(5), Pause::Throttled, at(10));
        assert_eq!(over.paused(at(10)), None);
    }

    #[test]
    fn its_own_pauses_double_up_to_a_minute() {
        let mut breaker = Breaker::default();
        let mut now = at(0);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            breaker.record(&Signal::Slower(None), now);
            assert_eq!(breaker.paused(now), Some((now.plus(Duration::from_secs(seconds)), Pause::Throttled)));
            now = now.plus(Duration::from_secs(seconds));
        }
    }
}
