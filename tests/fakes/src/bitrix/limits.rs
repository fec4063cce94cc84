//! The portal's two limits: requests in a leaking bucket, and the running time of each method in ten minutes.

use std::collections::HashMap;

/// A count of running time begins anew after this long.
const WINDOW_MS: u64 = 600_000;

/// How the portal limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that leak away in a second; zero means no limit.
    pub per_second: u32,
    /// Requests that the bucket holds.
    pub burst: u32,
    /// Running time of one method in ten minutes, in seconds; zero means no limit.
    pub operating_s: f64,
    /// What each command adds to its method's running time, in seconds.
    pub command_s: f64,
}

impl Limits {
    /// No limit at all.
    #[must_use]
    pub fn none() -> Self {
        Self { per_second: 0, burst: 0, operating_s: 0.0, command_s: 0.001 }
    }

    /// As the vendor gives them for all plans but the largest.
    #[must_use]
    pub fn usual() -> Self {
        Self { per_second: 2, burst: 50, operating_s: 480.0, command_s: 0.1 }
    }
}

#[derive(Debug, Default)]
pub(super) struct Limiter {
    /// In thousandths of a request.
    level: u64,
    at_ms: u64,
    methods: HashMap<String, Operating>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Operating {
    pub(super) used_s: f64,
    pub(super) reset_at_ms: u64,
}

impl Limiter {
    /// Takes one request; false when the bucket is full.
    pub(super) fn take(&mut self, limits: &Limits, now_ms: u64) -> bool {
        if limits.per_second == 0 {
            return true;
        }
        let leaked = now_ms.saturating_sub(self.at_ms) * u64::from(limits.per_second);
        self.level = self.level.saturating_sub(leaked);
        self.at_ms = now_ms;
        if self.level + 1000 > u64::from(limits.burst) * 1000 {
            return false;
        }
        self.level += 1000;
        true
    }

    /// Counts one run of a method; `Err` when its time is used up.
    pub(super) fn run(&mut self, method: &str, limits: &Limits, now_ms: u64) -> Result<Operating, Operating> {
        let entry = self.methods.entry(method.to_owned()).or_default();
        if now_ms >= entry.reset_at_ms {
            *entry = Operating { used_s: 0.0, reset_at_ms: now_ms + WINDOW_MS };
        }
        if limits.operating_s > 0.0 && entry.used_s >= limits.operating_s {
            return Err(*entry);
        }
        entry.used_s += limits.command_s;
        Ok(*entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_of_fifty_leaks_two_a_second() {
        let (mut limiter, limits) = (Limiter::default(), Limits::usual());
        assert!((0..50).all(|_| limiter.take(&limits, 0)));
        assert!(!limiter.take(&limits, 0) && !limiter.take(&limits, 499));
        assert!(limiter.take(&limits, 500) && !limiter.take(&limits, 500));
        assert!((0..50).all(|_| limiter.take(&limits, 60_000)));
    }

    #[test]
    fn a_method_is_blocked_alone_until_its_count_begins_anew() {
        let (mut limiter, limits) = (Limiter::default(), Limits { operating_s: 1.0, command_s: 0.6, ..Limits::none() });
        assert!(limiter.run("a", &limits, 0).is_ok() && limiter.run("a", &limits, 0).is_ok());
        let blocked = limiter.run("a", &limits, 1000).unwrap_err();
        assert_eq!(blocked.reset_at_ms, WINDOW_MS);
        assert!(limiter.run("b", &limits, 1000).is_ok());
        assert!(limiter.run("a", &limits, WINDOW_MS).is_ok());
    }
}
