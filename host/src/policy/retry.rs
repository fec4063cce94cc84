//! What follows an attempt: one pure function, the only place that decides it.

use std::time::Duration;

use super::outcome::{CallEnd, Outcome, Receipt, Refusal, Stop, Verdict};
use crate::model::{AttemptOutcome, DeliveryStatus, RemoteRef, RetryOverride, Timestamp};

/// Longest pause a remote side can ask for.
pub const MAX_REMOTE_PAUSE: Duration = Duration::from_secs(24 * 3_600);
/// Largest number of attempts a policy can have.
pub const MAX_TRIES: u32 = 100;

/// When to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryPolicy {
    /// A pause before each further attempt.
    Schedule(Vec<Duration>),
    /// `min(base · 2^n, max)`.
    Exponential {
        /// Attempts in all.
        tries: u32,
        #[allow(missing_docs)]
        base: Duration,
        #[allow(missing_docs)]
        max: Duration,
    },
}

impl Default for RetryPolicy {
    /// 3 attempts, 1 s doubling to 30 s.
    fn default() -> Self {
        Self::Exponential { tries: 3, base: Duration::from_secs(1), max: Duration::from_secs(30) }
    }
}

impl RetryPolicy {
    /// Reads the rules as an admin or a plugin's author writes them. The error says what is wrong with which part.
    pub fn parse(rules: &RetryOverride) -> Result<Self, String> {
        match rules {
            RetryOverride::Schedule { schedule } => {
                if schedule.len() >= MAX_TRIES as usize {
                    return Err(format!("a retry schedule has at most {} pauses", MAX_TRIES - 1));
                }
                schedule.iter().map(|text| parse_pause(text)).collect::<Result<_, _>>().map(Self::Schedule)
            }
            RetryOverride::Exponential { tries, base_ms, max_ms } => {
                if !(1..=MAX_TRIES).contains(tries) {
                    return Err(format!("tries must be 1 to {MAX_TRIES}"));
                }
                if *base_ms == 0 || base_ms > max_ms || *max_ms > RetryOverride::MAX_PAUSE_MS {
                    return Err(format!(
                        "base_ms must be at least 1 and at most max_ms, and max_ms at most {}",
                        RetryOverride::MAX_PAUSE_MS
                    ));
                }
                Ok(Self::Exponential { tries: *tries, base: Duration::from_millis(*base_ms), max: Duration::from_millis(*max_ms) })
            }
        }
    }

    /// Attempts in all.
    pub fn tries(&self) -> u32 {
        match self {
            Self::Schedule(pauses) => u32::try_from(pauses.len()).unwrap_or(u32::MAX).saturating_add(1),
            Self::Exponential { tries, .. } => *tries,
        }
    }

    /// The pause after `ended` counted attempts, without jitter; `None` when there is no further one.
    fn pause(&self, ended: u32) -> Option<Duration> {
        match self {
            Self::Schedule(pauses) => pauses.get(ended.checked_sub(1)? as usize).copied(),
            Self::Exponential { tries, base, max } => {
                (ended < *tries).then(|| base.saturating_mul(1_u32.checked_shl(ended.saturating_sub(1)).unwrap_or(u32::MAX)).min(*max))
            }
        }
    }
}

/// Reads `500ms`, `5s`, `10m`, `6h` or `1d`.
/// Reads a pause such as `5s` or `10m`; the error says how to write one.
pub fn parse_pause(text: &str) -> Result<Duration, String> {
    let explain = || format!("`{text}` is not a pause: write a whole number and ms, s, m, h or d, such as 10m, up to 30d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(explain)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| explain())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(explain()),
    };
    number.checked_mul(millis).filter(|ms| *ms <= RetryOverride::MAX_PAUSE_MS).map(Duration::from_millis).ok_or_else(explain)
}

/// What to do with a delivery that may have been sent, where the remote side cannot be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDoubt {
    /// The plugin looks before it creates.
    #[default]
    Look,
    /// Send again: at least once.
    Resend,
    /// Wait for a person: at most once.
    Hold,
}

/// A delivery as the decision sees it.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Counted attempts before this one.
    pub attempts: u32,
    /// An attempt before this one may have been sent.
    pub maybe_sent: bool,
    #[allow(missing_docs)]
    pub policy: &'a RetryPolicy,
    #[allow(missing_docs)]
    pub on_doubt: OnDoubt,
}

/// What follows an attempt; made by [`next`] alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The delivery ends in this terminal status.
    End {
        #[allow(missing_docs)]
        status: DeliveryStatus,
        #[allow(missing_docs)]
        refs: Vec<RemoteRef>,
        #[allow(missing_docs)]
        url: Option<String>,
    },
    /// It is queued again.
    Again {
        #[allow(missing_docs)]
        due_at: Timestamp,
        /// Counted attempts so far.
        attempts: u32,
        /// What the next attempt is told.
        maybe_sent: bool,
    },
}

/// The decision: what is written of the attempt and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    #[allow(missing_docs)]
    pub outcome: AttemptOutcome,
    /// Whether the attempt counts.
    pub counted: bool,
    /// Why, for an admin; absent for success.
    pub why: Option<Refusal>,
    #[allow(missing_docs)]
    pub next: Next,
}

/// Decides what follows. `jitter` is in 0..1: up to a tenth of the pause is added.
pub fn next(outcome: &Outcome, standing: Standing<'_>, now: Timestamp, jitter: f64) -> Decision {
    match outcome {
        Outcome::Settled(verdict) => settled(verdict, standing, now, jitter),
        Outcome::Unsettled { end, maybe_sent } => unsettled(end, *maybe_sent, standing, now, jitter),
    }
}

fn settled(verdict: &Verdict, standing: Standing<'_>, now: Timestamp, jitter: f64) -> Decision {
    let end = |outcome, status, receipt: &Receipt, why: Option<&Refusal>| Decision {
        outcome,
        counted: true,
        why: why.cloned(),
        next: Next::End { status, refs: receipt.refs.clone(), url: receipt.url.clone() },
    };
    match verdict {
        Verdict::Delivered(receipt) => end(AttemptOutcome::Delivered, DeliveryStatus::Delivered, receipt, None),
        Verdict::Duplicate(receipt) => end(AttemptOutcome::Duplicate, DeliveryStatus::Delivered, receipt, None),
        Verdict::Skipped(why) => end(AttemptOutcome::Skipped, DeliveryStatus::Skipped, &Receipt::default(), Some(why)),
        Verdict::Rejected(why) => end(AttemptOutcome::Rejected, DeliveryStatus::Failed, &Receipt::default(), Some(why)),
        Verdict::Retry { after, maybe_sent, why } => retry(why.clone(), *after, *maybe_sent, standing, now, jitter),
    }
}

fn unsettled(end: &CallEnd, maybe_sent: bool, standing: Standing<'_>, now: Timestamp, jitter: f64) -> Decision {
    match end {
        CallEnd::Stopped(Stop::Internal(message)) => {
            retry(Refusal::new("plugin_internal", message), None, maybe_sent, standing, now, jitter)
        }
        CallEnd::Stopped(stop) => {
            let (why, _) = stopped(stop);
            if maybe_sent && standing.on_doubt == OnDoubt::Hold {
                return hold(why);
            }
            let next = Next::Again { due_at: now, attempts: standing.attempts, maybe_sent: maybe_sent || standing.maybe_sent };
            Decision { outcome: AttemptOutcome::Released, counted: false, why: Some(why), next }
        }
        CallEnd::Returned => {
            let why = Refusal::new("not_settled", "the plugin returned without saying what became of this lead");
            retry(why, None, maybe_sent, standing, now, jitter)
        }
        CallEnd::Failed(why) => retry(why.clone(), None, maybe_sent, standing, now, jitter),
    }
}

fn retry(mut why: Refusal, after: Option<Duration>, maybe_sent: bool, standing: Standing<'_>, now: Timestamp, jitter: f64) -> Decision {
    // Where the remote side cannot be asked, whoever reads this must know that a second one may be on its way.
    if maybe_sent && standing.on_doubt != OnDoubt::Look {
        why.message.push_str(" (it may have been sent all the same)");
    }
    // Under `hold`, an older doubt means that a person has decided to send again: only this attempt's own doubt counts.
    if maybe_sent && standing.on_doubt == OnDoubt::Hold {
        return hold(why);
    }
    let maybe_sent = maybe_sent || standing.maybe_sent;
    let ended = standing.attempts.saturating_add(1);
    let next = match standing.policy.pause(ended) {
        Some(pause) => {
            let pause = pause.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0);
            let pause = after.map_or(pause, |after| pause.max(after.min(MAX_REMOTE_PAUSE)));
            Next::Again { due_at: now.plus(pause), attempts: ended, maybe_sent }
        }
        None => Next::End { status: DeliveryStatus::Failed, refs: Vec::new(), url: None },
    };
    Decision { outcome: AttemptOutcome::Retry, counted: true, why: Some(why), next }
}

fn hold(why: Refusal) -> Decision {
    let next = Next::End { status: DeliveryStatus::InDoubt, refs: Vec::new(), url: None };
    Decision { outcome: AttemptOutcome::Retry, counted: true, why: Some(why), next }
}

/// What is found when a job's last lease was never answered: decided before any call is made. `None`: go on with a call
/// that is told `maybe_sent`.
pub fn lost(standing: Standing<'_>) -> Option<DeliveryStatus> {
    if standing.on_doubt == OnDoubt::Hold {
        return Some(DeliveryStatus::InDoubt);
    }
    // A plugin that takes its node down with it must not do so for ever.
    (standing.attempts >= standing.policy.tries()).then_some(DeliveryStatus::Failed)
}

/// What a stop means for the lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneStop {
    /// Pause for so long, or by the lane's own back-off.
    Pause(Option<Duration>),
    /// Park until an admin acts.
    Invalid,
    /// A failure for the breaker.
    Fault,
}

/// A stop in words for the admin, and what it means for the lane.
pub fn stopped(stop: &Stop) -> (Refusal, LaneStop) {
    match stop {
        Stop::RateLimited(after) => (
            Refusal::new("rate_limited", "the remote side asked to send more slowly"),
            LaneStop::Pause(after.map(|a| a.min(MAX_REMOTE_PAUSE))),
        ),
        Stop::Unavailable(after) => (
            Refusal::new("unavailable", "the remote side is down or answers with server errors"),
            LaneStop::Pause(after.map(|a| a.min(MAX_REMOTE_PAUSE))),
        ),
        Stop::CredentialInvalid(message) => (Refusal::new("credential_invalid", message), LaneStop::Invalid),
        Stop::Misconfigured(message) => (Refusal::new("misconfigured", message), LaneStop::Invalid),
        Stop::Internal(message) => (Refusal::new("plugin_internal", message), LaneStop::Fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn again(outcome: &Outcome, attempts: u32, policy: &RetryPolicy, jitter: f64) -> Option<i64> {
        let standing = Standing { attempts, maybe_sent: false, policy, on_doubt: OnDoubt::Look };
        match next(outcome, standing, NOW, jitter).next {
            Next::Again { due_at, .. } => Some(due_at.as_millis() - NOW.as_millis()),
            Next::End { .. } => None,
        }
    }

    fn retry_after(after: Option<u64>) -> Outcome {
        Outcome::Settled(Verdict::Retry { after: after.map(Duration::from_secs), maybe_sent: false, why: Refusal::new("http_503", "busy") })
    }

    #[test]
    fn three_tries_doubling_with_up_to_a_tenth_of_jitter() {
        let policy = RetryPolicy::default();
        assert_eq!(again(&retry_after(None), 0, &policy, 0.0), Some(1_000));
        assert_eq!(again(&retry_after(None), 0, &policy, 1.0), Some(1_100));
        assert_eq!(again(&retry_after(None), 1, &policy, 0.0), Some(2_000));
        assert_eq!(again(&retry_after(None), 2, &policy, 0.0), None);
    }

    #[test]
    fn exponential_stops_at_its_maximum_and_never_overflows() {
        let policy = RetryPolicy::parse(&RetryOverride::Exponential { tries: 100, base_ms: 1_000, max_ms: 30_000 }).unwrap();
        assert_eq!(again(&retry_after(None), 5, &policy, 0.0), Some(30_000));
        assert_eq!(again(&retry_after(None), 98, &policy, 0.0), Some(30_000));
        assert_eq!(again(&retry_after(None), 99, &policy, 0.0), None);
    }

    #[test]
    fn a_schedule_has_one_attempt_more_than_pauses() {
        let policy = RetryPolicy::parse(&RetryOverride::Schedule { schedule: vec!["5s".into(), "1m".into()] }).unwrap();
        assert_eq!(policy.tries(), 3);
        assert_eq!(again(&retry_after(None), 0, &policy, 0.0), Some(5_000));
        assert_eq!(again(&retry_after(None), 1, &policy, 0.0), Some(60_000));
        assert_eq!(again(&retry_after(None), 2, &policy, 0.0), None);
    }

    #[test]
    fn the_remotes_wish_wins_when_it_is_longer_up_to_a_day() {
        let policy = RetryPolicy::default();
        assert_eq!(again(&retry_after(Some(7)), 0, &policy, 0.0), Some(7_000));
        assert_eq!(again(&retry_after(Some(0)), 0, &policy, 0.0), Some(1_000));
        assert_eq!(again(&retry_after(Some(999_999)), 0, &policy, 0.0), Some(24 * 3_600_000));
    }

    #[test]
    fn bad_rules_say_what_is_wrong() {
        for bad in ["5", "s", "5 s", "-1s", "5w", "31d", "99999999999999999999s", ""] {
            let rules = RetryOverride::Schedule { schedule: vec![bad.into()] };
            assert!(RetryPolicy::parse(&rules).unwrap_err().contains("not a pause"), "{bad}");
        }
        for (tries, base_ms, max_ms) in [(0, 1, 1), (101, 1, 1), (1, 0, 1), (1, 2, 1)] {
            assert!(RetryPolicy::parse(&RetryOverride::Exponential { tries, base_ms, max_ms }).is_err());
        }
    }

    #[test]
    fn a_stop_costs_no_attempt_but_a_defect_does() {
        let policy = RetryPolicy::default();
        let standing = Standing { attempts: 1, maybe_sent: false, policy: &policy, on_doubt: OnDoubt::Look };
        let stop = |stop| next(&Outcome::Unsettled { end: CallEnd::Stopped(stop), maybe_sent: false }, standing, NOW, 0.0);
        for free in [Stop::RateLimited(None), Stop::CredentialInvalid("x".into()), Stop::Unavailable(None), Stop::Misconfigured("x".into())]
        {
            let decision = stop(free);
            assert!(!decision.counted);
            assert_eq!(decision.next, Next::Again { due_at: NOW, attempts: 1, maybe_sent: false });
        }
        let decision = stop(Stop::Internal("odd answer".into()));
        assert!(decision.counted);
        assert!(matches!(decision.next, Next::Again { attempts: 2, .. }));
    }

    #[test]
    fn hold_ends_in_doubt_only_when_it_may_have_been_sent() {
        let policy = RetryPolicy::default();
        let standing = Standing { attempts: 0, maybe_sent: false, policy: &policy, on_doubt: OnDoubt::Hold };
        let outcome = |maybe_sent| Outcome::Settled(Verdict::Retry { after: None, maybe_sent, why: Refusal::new("timeout", "no answer") });
        assert!(matches!(next(&outcome(true), standing, NOW, 0.0).next, Next::End { status: DeliveryStatus::InDoubt, .. }));
        assert!(matches!(next(&outcome(false), standing, NOW, 0.0).next, Next::Again { .. }));
        assert_eq!(lost(standing), Some(DeliveryStatus::InDoubt));
        assert_eq!(lost(Standing { on_doubt: OnDoubt::Resend, ..standing }), None);
        assert_eq!(lost(Standing { on_doubt: OnDoubt::Resend, attempts: 3, ..standing }), Some(DeliveryStatus::Failed));
    }

    #[test]
    fn maybe_sent_is_never_forgotten() {
        let policy = RetryPolicy::default();
        let standing = Standing { attempts: 0, maybe_sent: true, policy: &policy, on_doubt: OnDoubt::Look };
        assert!(matches!(next(&retry_after(None), standing, NOW, 0.0).next, Next::Again { maybe_sent: true, .. }));
    }
}
