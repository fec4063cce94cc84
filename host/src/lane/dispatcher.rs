//! The loop that leases: which lanes are ready, how much each may take, and what a call's end means for its lane.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::queue::{Allowance, Queue, Standing};
use super::ready::{self, Parked, Prepared, Ready};
use super::worker::{self, CallEnded, Learned};
use super::{LaneState, Message, Shared, lock};
use crate::fault::{self, Point};
use crate::metrics::OfChannel;
use crate::model::{BatchId, CredentialId, CredentialState, DeliveryStatus, LeadId, Notice, NoticeKind, ProjectId, StateReason, Timestamp};
use crate::policy::breaker::{Pause, Signal};
use crate::policy::outcome::Refusal;
use crate::policy::share::{self, Running};
use crate::store::{Finish, JobRef, LaneQuota, Leased, Next, StoreError};

/// Lanes that one lease statement serves.
const LANES_PER_LEASE: usize = 64;
/// Jobs of one lane in one lease statement.
const JOBS_PER_LANE: u32 = 500;
/// Timers that one transaction deals with.
const TIMERS_PER_TURN: u32 = 100;
/// A pause at least so long is kept over a restart.
const KEPT_PAUSE: Duration = Duration::from_secs(5);
/// Pause after the store failed.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// Works until `stop`; returns when the calls in flight have ended.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut plugins = shared.deps.registry.changes();
    let mut dispatcher = Dispatcher {
        queue: Queue::default(),
        calls: JoinSet::new(),
        next_sweep: shared.deps.clock.now(),
        next_timer: None,
        of_project: HashMap::new(),
        held: Vec::new(),
        shared: &shared,
    };
    loop {
        if plugins.has_changed().unwrap_or(false) {
            plugins.mark_unchanged();
            dispatcher.queue.unread_all(shared.deps.clock.now());
        }
        let next = dispatcher.turn().await;
        tokio::select! {
            () = stop.cancelled() => break,
            () = shared.wake.notified() => {}
            () = shared.deps.clock.sleep_until(next) => {}
            Some(ended) = dispatcher.calls.join_next(), if !dispatcher.calls.is_empty() => dispatcher.joined(ended),
            Ok(()) = plugins.changed() => plugins.mark_changed(),
        }
    }
    // What ends from here on is written by its own call; nobody leases any more.
    while dispatcher.calls.join_next().await.is_some() {}
}

struct Dispatcher<'a> {
    shared: &'a Arc<Shared>,
    queue: Queue,
    calls: JoinSet<()>,
    next_sweep: Timestamp,
    /// When the store next has something to do by time alone, as far as is known.
    next_timer: Option<Timestamp>,
    /// Calls that run, by project.
    of_project: HashMap<ProjectId, u32>,
    /// Lanes that would be ready, if others left them a call; the end of any call places them again.
    held: Vec<CredentialId>,
}

impl Dispatcher<'_> {
    fn now(&self) -> Timestamp {
        self.shared.deps.clock.now()
    }

    fn joined(&self, ended: Result<(), tokio::task::JoinError>) {
        // A worker reports its end by a message; a panic in it is a defect, and its lane would wait for ever.
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a worker failed; its deliveries are tried again when their lease ends");
        }
    }

    /// Takes in what happened, leases what is ready, and says when to look again.
    async fn turn(&mut self) -> Timestamp {
        self.take_in().await;
        if self.now() >= self.next_sweep {
            self.sweep().await;
        }
        // Before leasing: what is past its deadline is not sent.
        self.fire_timers().await;
        let more = self.lease_ready().await;
        let now = self.now();
        if let Err(error) = more {
            tracing::error!(%error, "nothing could be leased; trying again");
            return now.plus(STORE_PAUSE);
        }
        let next_lane = if self.capacity() == 0 { None } else { self.queue.next_at() };
        let next = next_lane.into_iter().chain(self.next_timer).min();
        self.mark_idle(next, now);
        next.map_or(self.next_sweep, |at| at.min(self.next_sweep))
    }

    fn mark_idle(&self, next: Option<Timestamp>, now: Timestamp) {
        let inbox = lock(&self.shared.inbox);
        let idle = inbox.is_empty() && self.calls.is_empty() && next.is_none_or(|at| at > now);
        self.shared.idle.send_if_modified(|was| std::mem::replace(was, idle) != idle);
    }

    fn capacity(&self) -> u32 {
        let running = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        self.shared.deps.config.max_calls.saturating_sub(running)
    }

    async fn take_in(&mut self) {
        while let Some(ended) = self.calls.try_join_next() {
            self.joined(ended);
        }
        let messages = std::mem::take(&mut *lock(&self.shared.inbox));
        let now = self.now();
        for message in messages {
            match message {
                Message::Due(lane, due_at) => self.due(lane, due_at, now),
                Message::Changed(id) => self.changed(id, now),
                Message::Mended(id) => {
                    self.keep_pause(id, None).await;
                    self.queue.lane(id).breaker.reset();
                    self.changed(id, now);
                }
                Message::Stopped(learned) => self.learn(learned, now).await,
                Message::Ended(ended) => self.call_ended(ended, now).await,
                Message::Timer(due_at) => self.next_timer = Some(self.next_timer.map_or(due_at, |known| known.min(due_at))),
            }
        }
    }

    /// Something is due in a lane of either kind.
    fn due(&mut self, lane: CredentialId, due_at: Timestamp, now: Timestamp) {
        let id = lane.of_lane();
        self.queue.lane(id).remember(lane.is_bulk_lane(), due_at);
        self.queue.place(id, now);
    }

    fn changed(&mut self, id: CredentialId, now: Timestamp) {
        let lane = self.queue.lane(id);
        lane.standing = Standing::Unread;
        lane.remember(false, now);
        lane.remember(true, now);
        self.queue.place(id, now);
        lock(&self.shared.states).remove(&id);
    }

    async fn call_ended(&mut self, ended: CallEnded, now: Timestamp) {
        let id = ended.learned.lane();
        if let Some(calls) = self.of_project.get_mut(&ended.learned.ready.credential.project) {
            *calls = calls.saturating_sub(1);
        }
        // A call that may start now may be any of theirs.
        for held in std::mem::take(&mut self.held) {
            self.queue.place(held, now);
        }
        let lane = self.queue.lane(id);
        lane.calls = lane.calls.saturating_sub(1);
        for due_at in ended.again {
            lane.remember(false, due_at);
            if ended.bulk {
                lane.remember(true, due_at);
            }
        }
        self.learn(ended.learned, now).await;
    }

    async fn learn(&mut self, learned: Learned, now: Timestamp) {
        let id = learned.lane();
        let lane = self.queue.lane(id);
        let mut happened = Vec::new();
        if let Some(signal) = &learned.signal {
            let before = lane.breaker.paused(now);
            lane.breaker.record(signal, now);
            let after = lane.breaker.paused(now);
            let is_open = |pause: Option<(Timestamp, Pause)>| matches!(pause, Some((_, Pause::BreakerOpen)));
            if is_open(after) && !is_open(before) {
                self.shared.deps.metrics.breaker_opens.get_or_create(&of_channel(&learned.ready)).inc();
                happened.push((NoticeKind::BreakerOpen, "too many failures in a row".to_owned()));
            }
            let pause = after.filter(|pause| Some(*pause) != before && pause.0.since(now) >= KEPT_PAUSE);
            if pause.is_some() {
                self.keep_pause(id, pause).await;
            }
        }
        let lane = self.queue.lane(id);
        // An admin may have written the credential while the call ran: then this word is about the old one.
        let same = matches!(&lane.standing, Standing::Ready(ready) if Arc::ptr_eq(ready, &learned.ready));
        if let Some(why) = learned.invalid
            && same
        {
            happened.push((NoticeKind::CredentialInvalid, format!("{}: {}", why.code, why.message)));
            self.invalidate(id, why, now).await;
        }
        if learned.fault.is_some() {
            self.shared.deps.metrics.plugin_faults.get_or_create(&of_channel(&learned.ready)).inc();
        }
        happened.extend(learned.fault.map(|why| (NoticeKind::PluginFault, format!("{}: {}", why.code, why.message))));
        if let Some(about) = learned.about {
            self.note(&learned.ready, about, happened, now).await;
        }
        self.show(id, now);
        self.queue.place(id, now);
    }

    /// Notes what happened for the people of the project; a timer tells them.
    async fn note(&mut self, ready: &Ready, (batch, lead): (BatchId, LeadId), happened: Vec<(NoticeKind, String)>, now: Timestamp) {
        for (kind, why) in happened {
            let credential = &ready.credential;
            let why = format!("{}: {why}", credential.name);
            let about = Some((credential.id, credential.channel.clone()));
            let notice = Notice { kind, project: credential.project, batch, lead, credential: about, why: Some(why), at: now };
            match self.shared.deps.store.note(&notice).await {
                Ok(wanted) => self.next_timer = if wanted { Some(now) } else { self.next_timer },
                Err(error) => tracing::error!(%error, credential.id = %credential.id, "people could not be told of {}", kind.name()),
            }
        }
    }

    /// Keeps a pause over a restart, or forgets it. Without it the host would ask again too soon after one, no more.
    async fn keep_pause(&self, id: CredentialId, pause: Option<(Timestamp, Pause)>) {
        if let Err(error) = self.shared.deps.store.set_pause(id, pause).await {
            tracing::error!(%error, credential.id = %id, "the lane's pause could not be stored");
        }
    }

    /// Parks a lane until an admin acts.
    async fn invalidate(&mut self, id: CredentialId, why: Refusal, now: Timestamp) {
        let reason = StateReason { code: why.code, message: why.message };
        tracing::warn!(credential.id = %id, code = %reason.code, "credential invalid; its lane is parked until an admin acts");
        let stored = self.shared.deps.store.set_credential_state(id, CredentialState::Invalid, Some(reason.clone()), now).await;
        if let Err(error) = &stored {
            tracing::error!(%error, credential.id = %id, "the credential's state could not be stored");
        }
        self.queue.lane(id).standing = Standing::Parked(Parked { state: CredentialState::Invalid, reason, passing: stored.is_err() });
    }

    /// Shows the API what stands over the stored state.
    fn show(&mut self, id: CredentialId, now: Timestamp) {
        let lane = self.queue.lane(id);
        let passing = match (&lane.standing, lane.breaker.paused(now)) {
            (Standing::Parked(parked), _) if parked.passing => Some((parked.state, parked.reason.clone(), None)),
            (Standing::Parked(_), _) | (_, None) => None,
            (_, Some((until, Pause::Throttled))) => {
                let message = format!("the remote side asked to wait; sending goes on at {until}");
                Some((CredentialState::Throttled, StateReason { code: "throttled".into(), message }, Some(until)))
            }
            (_, Some((until, Pause::BreakerOpen))) => {
                let message = format!("too many failures in a row; tried again at {until}");
                Some((CredentialState::BreakerOpen, StateReason { code: "breaker_open".into(), message }, Some(until)))
            }
        };
        let mut states = lock(&self.shared.states);
        match passing {
            None => {
                states.remove(&id);
            }
            Some((state, reason, until)) => {
                let since = states.get(&id).filter(|known| known.state == state).map_or(now, |known| known.since);
                states.insert(id, LaneState { state, reason: Some(reason), since, until });
            }
        }
    }

    /// Finds work that no hint told of: after a start, and what a lane could not remember.
    async fn sweep(&mut self) {
        let now = self.now();
        self.queue.forget_idle(now);
        self.shared.deps.metrics.lanes(self.queue.states(now));
        match self.shared.deps.store.lanes().await {
            Ok(lanes) => {
                for found in lanes {
                    self.due(found.lane, found.due_at, now);
                }
                self.next_sweep = now.plus(self.shared.deps.config.sweep);
                self.read_timers(now).await;
            }
            Err(error) => {
                tracing::error!(%error, "the lanes could not be read; trying again");
                self.next_sweep = now.plus(STORE_PAUSE);
            }
        }
    }

    async fn read_timers(&mut self, now: Timestamp) {
        self.next_timer = self.shared.deps.store.next_timer().await.unwrap_or_else(|error| {
            tracing::error!(%error, "the timers could not be read; trying again");
            Some(now.plus(STORE_PAUSE))
        });
    }

    /// Does what is due by time alone.
    async fn fire_timers(&mut self) {
        let now = self.now();
        while self.next_timer.is_some_and(|at| at <= now) {
            match self.shared.deps.store.fire_timers(now, TIMERS_PER_TURN).await {
                Ok((changes, more)) => {
                    changes.iter().for_each(|changed| self.shared.followed(changed));
                    if !more {
                        self.read_timers(now).await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "deadlines could not be looked at; trying again");
                    self.next_timer = Some(now.plus(STORE_PAUSE));
                }
            }
        }
    }

    /// Leases for every lane that is ready, until none is or no call may start, or until something is told that may stop
    /// one: then the next turn goes on.
    async fn lease_ready(&mut self) -> Result<(), StoreError> {
        while self.capacity() > 0 && self.called_off().is_empty() {
            let now = self.now();
            let ids = self.queue.take_ready(now, LANES_PER_LEASE);
            if ids.is_empty() {
                return Ok(());
            }
            let leased = self.lease(&ids, now).await;
            for id in ids.into_iter().filter(|id| !self.held.contains(id)) {
                self.queue.place(id, now);
            }
            leased?;
        }
        Ok(())
    }

    async fn lease(&mut self, ids: &[CredentialId], now: Timestamp) -> Result<(), StoreError> {
        let mut quotas = Vec::new();
        let mut allowed = HashMap::new();
        let mut longest = 0;
        let mut running = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        for id in ids {
            self.read(*id, now).await?;
            self.show(*id, now);
            let Allowance { calls: wanted, spare } = self.queue.allowance(*id, now);
            let lane = self.queue.lane(*id);
            let Standing::Ready(ready) = &lane.standing else { continue };
            let ready = ready.clone();
            let of_project = self.of_project.entry(ready.credential.project).or_default();
            let pool = self.shared.deps.config.max_calls.max(1);
            let shares = Running { pool, all: running, project: *of_project, lane: lane.calls };
            let due = lane.ready(wanted.min(share::allowed(shares)), spare, now);
            let split = share::split(due, shares);
            let calls = split.live + split.bulk;
            // Not for want of its own tokens: then its place in the queue is when they are there.
            if calls == 0 && wanted > 0 && (due.live || spare > 0) {
                self.held.push(*id);
            }
            if calls > 0 {
                longest = longest.max(ready.plugin.manifest.limits.timeout_ms);
                lane.shared(split, now);
                for (lane, calls) in [(*id, split.live), (id.bulk_lane(), split.bulk)] {
                    if calls > 0 {
                        quotas.push(LaneQuota { lane, limit: calls.saturating_mul(ready.batch()).min(JOBS_PER_LANE) });
                    }
                }
                // Taken before the lease, because another lane of this round may live on the same tokens.
                self.queue.spend(&ready, calls, now);
                allowed.insert(*id, (ready, calls));
                running += calls;
                *of_project += calls;
            }
        }
        if quotas.is_empty() {
            return Ok(());
        }
        let until = now.plus(Duration::from_millis(longest.into())).plus(self.shared.deps.config.lease_margin);
        let leased = self.shared.deps.store.lease(&quotas, now, until).await;
        let called_off = self.called_off();
        let mut by_lane: HashMap<CredentialId, Vec<Leased>> = HashMap::new();
        for job in leased.as_deref().unwrap_or_default() {
            by_lane.entry(job.lane).or_default().push(job.clone());
        }
        for quota in quotas {
            let found = by_lane.get(&quota.lane).map_or(0, Vec::len) as u64;
            if leased.is_ok() && found < u64::from(quota.limit) {
                self.queue.lane(quota.lane.of_lane()).emptied(quota.lane.is_bulk_lane(), now);
            }
        }
        for (id, (ready, calls)) in allowed {
            let mut jobs = by_lane.remove(&id).unwrap_or_default();
            jobs.extend(by_lane.remove(&id.bulk_lane()).unwrap_or_default());
            let start = if called_off.contains(&id) { 0 } else { calls };
            self.queue.give_back(&ready, calls - start);
            self.start(&ready, jobs, (calls, start), now).await;
        }
        leased.map(|_| ())
    }

    /// Lanes of which something was told that has not been taken in: what was leased for them under the old state goes
    /// back. An admin whose pause was answered relies on it that no lead after that is sent.
    fn called_off(&self) -> HashSet<CredentialId> {
        let told = |message: &Message| match message {
            Message::Changed(id) | Message::Mended(id) => Some(*id),
            Message::Stopped(learned) => Some(learned.lane()),
            Message::Due(..) | Message::Ended(_) | Message::Timer(_) => None,
        };
        lock(&self.shared.inbox).iter().filter_map(told).collect()
    }

    /// Reads the credential of a lane that is new or changed.
    async fn read(&mut self, id: CredentialId, now: Timestamp) -> Result<(), StoreError> {
        if !matches!(self.queue.lane(id).standing, Standing::Unread) {
            return Ok(());
        }
        let standing = match ready::prepare(&self.shared.deps, id).await? {
            Prepared::Gone => {
                self.cancel_leftovers(id, now).await?;
                self.queue.lanes.remove(&id);
                lock(&self.shared.states).remove(&id);
                return Ok(());
            }
            Prepared::Parked { parked, state, passing } => {
                // The words are for the admin, who finds them at the credential; they may hold what was entered.
                tracing::warn!(credential.id = %id, code = %state.code, "the lane is parked: nothing of it is sent until this is mended");
                Standing::Parked(Parked { state: parked, reason: state, passing })
            }
            Prepared::Ready(ready) => match ready.stored_parking() {
                Some(parked) => Standing::Parked(parked),
                None => Standing::Ready(Arc::new(*ready)),
            },
        };
        let pause = self.shared.deps.store.pause(id).await?;
        let lane = self.queue.lane(id);
        lane.standing = standing;
        if let Some((until, why)) = pause.filter(|(until, _)| *until > now) {
            lane.breaker.resume(until, why, now);
        }
        Ok(())
    }

    /// Jobs that were being sent when their credential was deleted, and whose node was lost: nobody can send them.
    async fn cancel_leftovers(&self, id: CredentialId, now: Timestamp) -> Result<(), StoreError> {
        let until = now.plus(self.shared.deps.config.lease_margin);
        let both = [id, id.bulk_lane()].map(|lane| LaneQuota { lane, limit: JOBS_PER_LANE });
        loop {
            let leased = self.shared.deps.store.lease(&both, now, until).await?;
            if leased.is_empty() {
                return Ok(());
            }
            let last = Some(("credential_deleted".to_owned(), "its credential was deleted".to_owned()));
            let next = Next::End { status: DeliveryStatus::Cancelled, refs: Vec::new(), url: None };
            let finish = |job: &Leased| Finish { job: job.job, attempts: Vec::new(), last: last.clone(), next: next.clone(), now };
            let changes = self.shared.deps.store.finish(leased.iter().map(finish).collect()).await?;
            for changed in changes.into_iter().flatten() {
                self.shared.followed(&changed);
            }
        }
    }

    /// Starts at most `allowed` of the `planned` calls, whose tokens are taken, for what was leased: full batches of jobs with the same
    /// settings. Jobs with settings of their own may need more calls than that; what is left goes back into the queue.
    async fn start(&mut self, ready: &Arc<Ready>, jobs: Vec<Leased>, (planned, allowed): (u32, u32), now: Timestamp) {
        let id = ready.credential.id;
        let mut calls = into_calls(jobs, ready);
        let left: Vec<Leased> = calls.split_off((allowed as usize).min(calls.len())).into_iter().flatten().collect();
        if !left.is_empty() {
            left.iter().for_each(|job| self.queue.lane(id).remember(job.lane.is_bulk_lane(), now));
            let left: Vec<JobRef> = left.iter().map(|job| job.job).collect();
            if let Err(error) = self.shared.deps.store.release(&left, now).await {
                tracing::error!(%error, count = left.len(), "leases could not be given back; the deliveries are sent when these end");
            }
        }
        let count = u32::try_from(calls.len()).unwrap_or(u32::MAX);
        if let Some(of_project) = self.of_project.get_mut(&ready.credential.project) {
            *of_project = of_project.saturating_sub(planned.saturating_sub(count));
        }
        self.queue.give_back(ready, allowed.saturating_sub(count));
        self.queue.lane(id).calls += count;
        for jobs in calls {
            fault::pass(Point::LaneLeased);
            let (shared, ready) = (self.shared.clone(), ready.clone());
            shared.deps.metrics.calls.inc();
            self.calls.spawn(async move {
                let guard = EndGuard { shared: shared.clone(), ended: Some(CallEnded::broken(&ready)) };
                let ended = worker::run(shared, ready, jobs).await;
                guard.end(ended);
            });
        }
    }
}

fn of_channel(ready: &Ready) -> OfChannel {
    OfChannel { channel: ready.credential.channel.clone() }
}

/// Reports a call's end also when its worker panics, so that its lane never waits for a call that is gone.
struct EndGuard {
    shared: Arc<Shared>,
    ended: Option<CallEnded>,
}

impl EndGuard {
    fn end(mut self, ended: CallEnded) {
        self.ended = Some(ended);
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.shared.deps.metrics.calls.dec();
        if let Some(ended) = self.ended.take() {
            self.shared.send([Message::Ended(ended)]);
        }
    }
}

impl CallEnded {
    fn broken(ready: &Arc<Ready>) -> Self {
        Self { learned: Learned::of(ready, Some(Signal::Bad)), again: Vec::new(), bulk: false }
    }
}

/// Splits leased jobs into calls. Jobs with settings of their own go alone: a call has one config.
fn into_calls(jobs: Vec<Leased>, ready: &Ready) -> Vec<Vec<Leased>> {
    let batch = ready.batch().max(1) as usize;
    let mut calls: Vec<Vec<Leased>> = Vec::new();
    let mut open: Vec<Leased> = Vec::new();
    for job in jobs {
        if job.settings.is_some() {
            calls.push(vec![job]);
            continue;
        }
        open.push(job);
        if open.len() == batch {
            calls.push(std::mem::take(&mut open));
        }
    }
    if !open.is_empty() {
        calls.push(open);
    }
    // A lease that was lost is dealt with now: giving it back would forget that.
    calls.sort_by_key(|jobs| !jobs.iter().any(|job| job.lost > 0));
    calls
}
