//! One time base for driver and sink: they are threads of one process, so a send and an arrival can be subtracted.

use std::time::Instant;

/// A moment that times are counted from.
#[derive(Debug, Clone, Copy)]
pub struct Epoch(Instant);

impl Epoch {
    /// Now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since then.
    pub fn now_us(self) -> u64 {
        self.us_of(Instant::now())
    }

    /// Microseconds from then to `at`.
    pub fn us_of(self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0).as_micros()).unwrap_or(u64::MAX)
    }
}
