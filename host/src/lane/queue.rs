//! The lanes in memory: when each is next ready, and what it may do then. No I/O.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::ready::{Parked, Ready};
use crate::model::{CredentialId, CredentialState, Timestamp};
use crate::policy::breaker::{Breaker, Pause};
use crate::policy::rate::Bucket;
use crate::policy::share;

/// Due times that a lane remembers by itself; further ones are found by the sweep.
const REMEMBERED: usize = 1_024;

/// How long what was read of a credential is kept for the next lead when its lane has nothing to send.
const KEPT: Duration = Duration::from_secs(60);
/// Lanes known past which those without work are forgotten at once.
const KEPT_LANES: usize = 1_000;

/// What is known of a lane's credential.
pub(super) enum Standing {
    /// Not read yet, or changed since.
    Unread,
    /// It may deliver.
    Ready(Arc<Ready>),
    /// It may not; nothing is leased until something changes.
    Parked(Parked),
}

/// One lane.
pub(super) struct Lane {
    pub(super) standing: Standing,
    pub(super) breaker: Breaker,
    /// Calls that run.
    pub(super) calls: u32,
    /// When jobs are due, as far as is known.
    due: Due,
    /// The same of its bulk lane: one credential, so both share all else.
    bulk_due: Due,
    /// Calls for live leads that started while bulk work waited.
    since_bulk: u32,
    /// Its place in `Queue::order`.
    at: Option<(Timestamp, u64)>,
    /// Since when nothing is known to be due.
    idle_since: Option<Timestamp>,
}

/// Due times.
#[derive(Default)]
struct Due(BTreeSet<Timestamp>);

impl Due {
    fn first(&self) -> Option<Timestamp> {
        self.0.first().copied()
    }

    fn is_now(&self, now: Timestamp) -> bool {
        self.first().is_some_and(|at| at <= now)
    }

    fn remember(&mut self, due_at: Timestamp) {
        self.0.insert(due_at);
        if self.0.len() > REMEMBERED {
            self.0.pop_last();
        }
    }

    fn forget_until(&mut self, now: Timestamp) {
        self.0 = self.0.split_off(&Timestamp::from_millis(now.as_millis().saturating_add(1)));
    }
}

/// Calls that a ready lane may start now.
#[derive(Default)]
pub(super) struct Allowance {
    pub(super) calls: u32,
    /// Without what is kept for live leads.
    pub(super) spare: u32,
}

impl Lane {
    fn new() -> Self {
        Self {
            standing: Standing::Unread,
            breaker: Breaker::default(),
            calls: 0,
            due: Due::default(),
            bulk_due: Due::default(),
            since_bulk: 0,
            at: None,
            idle_since: None,
        }
    }

    /// There is nothing about it that must not be forgotten.
    fn is_plain(&self) -> bool {
        self.calls == 0 && self.first_due().is_none() && self.breaker == Breaker::default() && !matches!(self.standing, Standing::Parked(_))
    }

    fn first_due(&self) -> Option<Timestamp> {
        self.due.first().into_iter().chain(self.bulk_due.first()).min()
    }

    fn of(&mut self, bulk: bool) -> &mut Due {
        if bulk { &mut self.bulk_due } else { &mut self.due }
    }

    /// A job is due then.
    pub(super) fn remember(&mut self, bulk: bool, due_at: Timestamp) {
        self.of(bulk).remember(due_at);
    }

    /// All that was due by `now` has been leased.
    pub(super) fn emptied(&mut self, bulk: bool, now: Timestamp) {
        self.of(bulk).forget_until(now);
    }

    /// What the lane's live leads and its bulk work have to share.
    pub(super) fn ready(&self, calls: u32, spare: u32, now: Timestamp) -> share::Ready {
        share::Ready { calls, spare, live: self.due.is_now(now), bulk: self.bulk_due.is_now(now), since_bulk: self.since_bulk }
    }

    /// So many calls start.
    pub(super) fn shared(&mut self, split: share::Split, now: Timestamp) {
        if split.bulk > 0 {
            self.since_bulk = 0;
        } else if self.bulk_due.is_now(now) {
            self.since_bulk = self.since_bulk.saturating_add(split.live);
        }
    }

    /// Calls at once.
    fn limit(&self, ready: &Ready) -> u32 {
        ready.concurrency().min(self.breaker.ramp())
    }
}

/// All lanes that have work, in the order in which they become ready.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) lanes: HashMap<CredentialId, Lane>,
    /// Buckets by their key; lanes with the same key share one.
    pub(super) buckets: HashMap<String, Bucket>,
    order: BTreeSet<(Timestamp, u64, CredentialId)>,
    turn: u64,
}

impl Queue {
    pub(super) fn lane(&mut self, id: CredentialId) -> &mut Lane {
        self.lanes.entry(id).or_insert_with(Lane::new)
    }

    /// Puts the lane where it belongs after anything about it changed; the turn keeps ready lanes in rotation.
    pub(super) fn place(&mut self, id: CredentialId, now: Timestamp) {
        let known = self.lanes.len();
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if let Some((at, turn)) = lane.at.take() {
            self.order.remove(&(at, turn, id));
        }
        let Some(mut ready_at) = lane.first_due() else {
            // Nothing known to be due. The next lead is mostly not far away, and reading a credential costs more than a call.
            lane.idle_since.get_or_insert(now);
            let kept = matches!(lane.standing, Standing::Ready(_)) && known <= KEPT_LANES;
            if lane.is_plain() && !kept {
                self.lanes.remove(&id);
            }
            return;
        };
        lane.idle_since = None;
        match &lane.standing {
            Standing::Parked(_) => return,
            Standing::Unread => {}
            Standing::Ready(ready) => {
                let limit = lane.limit(ready);
                let live = lane.due.first().filter(|_| lane.calls < limit);
                let live = live.map(|at| with_tokens(&mut self.buckets, ready, at, now, |_| 1));
                let bulk = lane.bulk_due.first().filter(|_| lane.calls + share::kept(limit) < limit);
                let bulk = bulk.map(|at| with_tokens(&mut self.buckets, ready, at, now, |burst| 1 + share::kept(burst)));
                // Else the end of a call places it again.
                let Some(at) = live.into_iter().chain(bulk).min() else { return };
                ready_at = at;
            }
        }
        if let Some((until, _)) = lane.breaker.paused(now) {
            ready_at = ready_at.max(until);
        }
        self.turn += 1;
        lane.at = Some((ready_at, self.turn));
        self.order.insert((ready_at, self.turn, id));
    }

    /// Forgets lanes that have had nothing to send for a while.
    pub(super) fn forget_idle(&mut self, now: Timestamp) {
        self.lanes.retain(|_, lane| !(lane.is_plain() && lane.idle_since.is_some_and(|since| now.since(since) >= KEPT)));
    }

    /// How each lane with something to send stands.
    pub(super) fn states(&self, now: Timestamp) -> impl Iterator<Item = CredentialState> {
        let busy = self.lanes.values().filter(|lane| lane.calls > 0 || lane.first_due().is_some());
        busy.map(move |lane| match (&lane.standing, lane.breaker.paused(now)) {
            (Standing::Parked(parked), _) => parked.state,
            (_, Some((_, Pause::BreakerOpen))) => CredentialState::BreakerOpen,
            (_, Some((_, Pause::Throttled))) => CredentialState::Throttled,
            (_, None) => CredentialState::Active,
        })
    }

    /// Up to `limit` lanes that are ready now, longest waiting first. Each must be placed again.
    pub(super) fn take_ready(&mut self, now: Timestamp, limit: usize) -> Vec<CredentialId> {
        let mut ready = Vec::new();
        while ready.len() < limit {
            match self.order.first().copied() {
                Some((at, turn, id)) if at <= now => {
                    self.order.remove(&(at, turn, id));
                    if let Some(lane) = self.lanes.get_mut(&id) {
                        lane.at = None;
                    }
                    ready.push(id);
                }
                _ => break,
            }
        }
        ready
    }

    /// When the next lane becomes ready.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _, _)| *at)
    }

    /// Calls that a ready lane may start now.
    pub(super) fn allowance(&mut self, id: CredentialId, now: Timestamp) -> Allowance {
        let Some(lane) = self.lanes.get(&id) else { return Allowance::default() };
        let Standing::Ready(ready) = &lane.standing else { return Allowance::default() };
        if lane.breaker.paused(now).is_some() {
            return Allowance::default();
        }
        let limit = lane.limit(ready);
        let mut calls = limit.saturating_sub(lane.calls);
        let mut spare = calls.saturating_sub(share::kept(limit));
        for limit in &ready.rates {
            let bucket = self.buckets.entry(limit.key.clone()).or_insert_with(|| Bucket::new(limit.per_second, limit.burst, now));
            let available = bucket.available(now);
            calls = calls.min(available);
            spare = spare.min(available.saturating_sub(share::kept(limit.burst)));
        }
        Allowance { calls, spare }
    }

    /// Takes the tokens of `calls` calls.
    pub(super) fn spend(&mut self, ready: &Ready, calls: u32, now: Timestamp) {
        for limit in &ready.rates {
            if let Some(bucket) = self.buckets.get_mut(&limit.key) {
                bucket.take(calls, now);
            }
        }
    }

    /// Puts back the tokens of calls that are not made after all.
    pub(super) fn give_back(&mut self, ready: &Ready, calls: u32) {
        for limit in &ready.rates {
            if let Some(bucket) = self.buckets.get_mut(&limit.key) {
                bucket.give_back(calls);
            }
        }
    }

    /// Every lane must look at its credential and plugin again.
    pub(super) fn unread_all(&mut self, now: Timestamp) {
        let ids: Vec<CredentialId> = self.lanes.keys().copied().collect();
        for id in ids {
            self.lane(id).standing = Standing::Unread;
            self.place(id, now);
        }
    }
}

/// When each bucket of a lane has `wanted(burst)` tokens, but not before `at`.
fn with_tokens(
    buckets: &mut HashMap<String, Bucket>,
    ready: &Ready,
    at: Timestamp,
    now: Timestamp,
    wanted: impl Fn(u32) -> u32,
) -> Timestamp {
    let mut ready_at = at;
    for limit in &ready.rates {
        let tokens = wanted(limit.burst);
        if let Some(bucket) = buckets.get_mut(&limit.key)
            && bucket.available(now) < tokens
        {
            ready_at = ready_at.max(bucket.at_least(tokens, now));
        }
    }
    ready_at
}
