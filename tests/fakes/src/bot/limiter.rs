//! Rate limits as the Bot API is said to have them, by a clock that the test gives.

use std::collections::HashMap;

/// How many messages pass; zero means no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Per bot and second.
    pub per_second: u32,
    /// Per chat and second, once the burst is spent.
    pub chat_per_second: u32,
    /// How many pass at once in one chat.
    pub chat_burst: u32,
    /// Per group (negative chat id) and minute.
    pub group_per_minute: u32,
}

impl Limits {
    /// No limit at all.
    #[must_use]
    pub fn none() -> Self {
        Self { per_second: 0, chat_per_second: 0, chat_burst: 0, group_per_minute: 0 }
    }

    /// The figures that are commonly given for the real one.
    #[must_use]
    pub fn usual() -> Self {
        Self { per_second: 30, chat_per_second: 1, chat_burst: 3, group_per_minute: 20 }
    }
}

/// A bucket in thousandths of a message, so that whole milliseconds fill it exactly.
#[derive(Debug)]
struct Bucket {
    level: u64,
    at_ms: u64,
}

#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    buckets: HashMap<String, Bucket>,
    held_until_ms: HashMap<i64, u64>,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, buckets: HashMap::new(), held_until_ms: HashMap::new() }
    }

    /// Holds a chat: an early repeat is refused with the time that is left.
    pub(super) fn flood(&mut self, chat: i64, now_ms: u64, retry_after: u64) {
        self.held_until_ms.insert(chat, now_ms + retry_after * 1000);
    }

    /// Takes one message out of every limit that applies, or says after how many seconds to come back.
    pub(super) fn take(&mut self, token: &str, chat: i64, now_ms: u64) -> Result<(), u64> {
        if let Some(left) = self.held_until_ms.get(&chat).and_then(|until| until.checked_sub(now_ms)).filter(|left| *left > 0) {
            return Err(left.div_ceil(1000));
        }
        let limits = self.limits;
        let mut rules = Vec::new();
        if limits.per_second > 0 {
            // (name, capacity in messages, messages per second · 1000)
            rules.push((format!("bot {token}"), limits.per_second, u64::from(limits.per_second) * 1000));
        }
        if limits.chat_per_second > 0 {
            rules.push((format!("chat {token} {chat}"), limits.chat_burst.max(1), u64::from(limits.chat_per_second) * 1000));
        }
        if limits.group_per_minute > 0 && chat < 0 {
            rules.push((format!("group {token} {chat}"), limits.group_per_minute, u64::from(limits.group_per_minute) * 1000 / 60));
        }
        let waits = rules.iter().map(|(name, capacity, rate)| self.wait(name, *capacity, *rate, now_ms)).max().unwrap_or_default();
        if waits > 0 {
            return Err(waits);
        }
        for (name, _, _) in rules {
            if let Some(bucket) = self.buckets.get_mut(&name) {
                bucket.level -= 1000;
            }
        }
        Ok(())
    }

    /// Fills the bucket up to now; seconds until it holds a whole message.
    fn wait(&mut self, name: &str, capacity: u32, rate: u64, now_ms: u64) -> u64 {
        let full = u64::from(capacity) * 1000;
        let bucket = self.buckets.entry(name.to_owned()).or_insert(Bucket { level: full, at_ms: now_ms });
        let gained = now_ms.saturating_sub(bucket.at_ms) * rate / 1000;
        if gained > 0 {
            bucket.level = full.min(bucket.level + gained);
            bucket.at_ms = now_ms;
        }
        let missing = 1000_u64.saturating_sub(bucket.level);
        missing.div_ceil(rate.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_takes_a_burst_and_then_one_a_second() {
        let mut limiter = Limiter::new(Limits::usual());
        let results: Vec<_> = (0..4).map(|_| limiter.take("t", 7, 0)).collect();
        assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(1)]);
        assert_eq!(limiter.take("t", 8, 0), Ok(()), "another chat has its own limit");
        assert_eq!(limiter.take("t", 7, 999), Err(1));
        assert_eq!(limiter.take("t", 7, 1000), Ok(()));
    }

    #[test]
    fn a_group_takes_twenty_a_minute() {
        let mut limiter = Limiter::new(Limits { chat_per_second: 0, ..Limits::usual() });
        assert!((0..20).all(|_| limiter.take("t", -5, 0).is_ok()));
        assert!(limiter.take("t", -5, 0).is_err());
        assert!(limiter.take("t", -5, 4000).is_ok());
    }

    #[test]
    fn a_held_chat_says_how_long_is_left() {
        let mut limiter = Limiter::new(Limits::none());
        limiter.flood(7, 10_000, 35);
        assert_eq!(limiter.take("t", 7, 15_000), Err(30));
        assert_eq!(limiter.take("t", 7, 45_000), Ok(()));
    }
}
