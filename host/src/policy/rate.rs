//! Token buckets: how often a lane may call.

use std::time::Duration;

use crate::model::Timestamp;

/// A bucket of tokens, filled evenly. Pure: the time comes in.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    per_ms: f64,
    burst: f64,
    tokens: f64,
    at: Timestamp,
}

impl Bucket {
    /// A full bucket. `per_second` must be above zero and `burst` at least one; the manifest's check sees to both.
    pub fn new(per_second: f64, burst: u32, now: Timestamp) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_ms: (per_second / 1_000.0).max(1e-9), burst, tokens: burst, at: now }
    }

    fn refill(&mut self, now: Timestamp) {
        let passed = now.since(self.at).as_millis() as f64;
        self.tokens = (self.tokens + passed * self.per_ms).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Whole tokens there are now.
    pub fn available(&mut self, now: Timestamp) -> u32 {
        self.refill(now);
        // The small addition makes up for rounding, so that a token due at a millisecond is there at it.
        (self.tokens + 1e-6) as u32
    }

    /// Takes `count` tokens; the caller has asked for them before.
    pub fn take(&mut self, count: u32, now: Timestamp) {
        self.refill(now);
        self.tokens -= f64::from(count);
    }

    /// Puts back what was taken and not used.
    pub fn give_back(&mut self, count: u32) {
        self.tokens = (self.tokens + f64::from(count)).min(self.burst);
    }

    /// When the next whole token will be there.
    pub fn next_at(&mut self, now: Timestamp) -> Timestamp {
        self.at_least(1, now)
    }

    /// When so many tokens will be there, at most as many as the bucket holds.
    pub fn at_least(&mut self, tokens: u32, now: Timestamp) -> Timestamp {
        self.refill(now);
        let missing = (f64::from(tokens).min(self.burst) - self.tokens - 1e-6).max(0.0);
        now.plus(Duration::from_millis((missing / self.per_ms).ceil() as u64))
    }

    /// Takes over another rate; saved tokens stay up to the new burst.
    pub fn set_rate(&mut self, per_second: f64, burst: u32, now: Timestamp) {
        self.refill(now);
        self.per_ms = (per_second / 1_000.0).max(1e-9);
        self.burst = f64::from(burst.max(1));
        self.tokens = self.tokens.min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(2.0, 3, at(0));
        assert_eq!(bucket.available(at(0)), 3);
        bucket.take(3, at(0));
        assert_eq!(bucket.available(at(499)), 0);
        assert_eq!(bucket.next_at(at(499)), at(500));
        assert_eq!(bucket.available(at(500)), 1);
        assert_eq!(bucket.available(at(60_000)), 3);
    }

    #[test]
    fn never_gives_more_than_its_rate_in_any_window() {
        let mut bucket = Bucket::new(1.0 / 3.0, 20, at(0));
        let (mut given, mut now) = (Vec::new(), at(0));
        while now < at(600_000) {
            if bucket.available(now) > 0 {
                bucket.take(1, now);
                given.push(now);
            } else {
                now = bucket.next_at(now);
            }
        }
        for (i, start) in given.iter().enumerate().skip(20) {
            let within = given[i..].iter().take_while(|t| t.since(*start) < Duration::from_secs(60)).count();
            assert!(within <= 20, "{within} within a minute");
        }
        assert_eq!(given.len(), 20 + 199);
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away() {
        let mut bucket = Bucket::new(1.0, 1, at(10_000));
        bucket.take(1, at(10_000));
        assert_eq!(bucket.available(at(5_000)), 0);
        assert_eq!(bucket.available(at(10_500)), 0);
        assert_eq!(bucket.available(at(11_000)), 1);
    }
}
