//! How often a key may be used. Every authenticated request counts, repeated and refused ones too: it is told from its
//! header alone, before anything of the body is read. Counted on each node by itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::http::StatusCode;

use super::error::ApiError;
use crate::model::{ApiKey, KeyId, RateLimit, Timestamp};
use crate::policy::rate::Bucket;

/// Most keys whose use is remembered.
const MAX_KEYS: usize = 10_000;

/// The use of keys in the last moments.
#[derive(Default)]
pub struct KeyLimits {
    buckets: Mutex<HashMap<KeyId, (RateLimit, Bucket)>>,
}

impl KeyLimits {
    /// Counts a request; 429 when the key has had its share. A key's own rate stands over the host's.
    pub fn check(&self, key: &ApiKey, default: Option<RateLimit>, now: Timestamp) -> Result<(), ApiError> {
        let Some(rate) = key.rate.or(default) else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(&key.id) {
            make_room(&mut buckets, now);
        }
        let full = || (rate, Bucket::new(f64::from(rate.per_sec), rate.burst, now));
        let (known, bucket) = buckets.entry(key.id).or_insert_with(full);
        if *known != rate {
            *known = rate;
            bucket.set_rate(f64::from(rate.per_sec), rate.burst, now);
        }
        if bucket.available(now) > 0 {
            bucket.take(1, now);
            return Ok(());
        }
        let wait = bucket.next_at(now).since(now);
        let seconds = u32::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX).max(1);
        let RateLimit { per_sec, burst } = rate;
        let detail = format!("the key may make {per_sec} requests a second, and {burst} at once after a rest; send this one again later");
        Err(ApiError { retry_after: Some(seconds), ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail) })
    }
}

/// A key that has rested is like one never seen. When none has, all start afresh: rather that than memory without an end.
fn make_room(buckets: &mut HashMap<KeyId, (RateLimit, Bucket)>, now: Timestamp) {
    buckets.retain(|_, (rate, bucket)| bucket.available(now) < rate.burst);
    if buckets.len() >= MAX_KEYS {
        buckets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;
    use crate::model::Scope;

    fn key(rate: Option<RateLimit>, now: Timestamp) -> ApiKey {
        ApiKey { rate, ..keys::new_key("x".into(), &keys::new_text().unwrap(), vec![Scope::LeadsWrite], now) }
    }

    #[test]
    fn a_burst_and_then_the_rate_with_the_wait_in_whole_seconds() {
        let limits = KeyLimits::default();
        let at = Timestamp::from_millis;
        let key = key(Some(RateLimit { per_sec: 2, burst: 3 }), at(0));
        for _ in 0..3 {
            limits.check(&key, None, at(0)).unwrap();
        }
        let refused = limits.check(&key, None, at(100)).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code, refused.retry_after), (429, "rate_limited", Some(1)));
        limits.check(&key, None, at(500)).unwrap();
        limits.check(&key, None, at(500)).unwrap_err();
        // A lower rate holds at once.
        let slower = ApiKey { rate: Some(RateLimit { per_sec: 1, burst: 1 }), ..key.clone() };
        limits.check(&slower, None, at(900)).unwrap_err();
        limits.check(&slower, None, at(1_400)).unwrap();
    }

    #[test]
    fn keys_without_a_rate_have_the_hosts_or_none() {
        let (limits, at) = (KeyLimits::default(), Timestamp::from_millis(0));
        let (one, other) = (key(None, at), key(None, at));
        let host = Some(RateLimit { per_sec: 1, burst: 1 });
        (0..100).for_each(|_| limits.check(&one, None, at).unwrap());
        limits.check(&one, host, at).unwrap();
        limits.check(&one, host, at).unwrap_err();
        limits.check(&other, host, at).unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded_and_those_at_work_are_kept() {
        let (limits, at) = (KeyLimits::default(), Timestamp::from_millis);
        let rate = Some(RateLimit { per_sec: 1, burst: 2 });
        let busy = key(rate, at(0));
        for n in 0..MAX_KEYS as i64 + 10 {
            let now = at(n * 10);
            limits.check(&key(rate, now), None, now).unwrap();
            let _ = limits.check(&busy, None, now);
        }
        assert!(limits.buckets.lock().unwrap().len() <= MAX_KEYS);
        let last = at(MAX_KEYS as i64 * 10 + 90);
        limits.check(&busy, None, last).unwrap_err();
    }
}
