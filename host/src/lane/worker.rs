//! One call of a plugin for leased jobs, from its items to what is written of each.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::effects::{DeliverEffects, Kv, Settled};
use super::ready::Ready;
use super::{Message, Shared, convert};
use crate::fault::{self, Point};
use crate::model::{
    AttemptId, AttemptOutcome, BatchId, CredentialId, DeliveryId, DeliveryKind, DeliveryStatus, Exchange, LeadId, Purpose, Timestamp,
};
use crate::plugin::call::{self, CallReport};
use crate::policy::breaker::Signal;
use crate::policy::outcome::{CallEnd, Outcome, Refusal, Stop, Verdict};
use crate::policy::retry::{self, Decision, LaneStop, Standing};
use crate::store::{Finish, Leased, NewAttempt, Next, StoreError};
use crate::template::Passed;

/// What a call showed of its lane.
pub(super) struct Learned {
    /// Of the remote side; `None`: nothing, for example when no request was made.
    pub(super) signal: Option<Signal>,
    /// Park the lane until an admin acts: code and message.
    pub(super) invalid: Option<Refusal>,
    /// The plugin failed: what an admin hears.
    pub(super) fault: Option<Refusal>,
    /// What the call was made for, unless it was to tell people of such things: that must not go on for ever.
    pub(super) about: Option<(BatchId, LeadId)>,
    /// What it was called with.
    pub(super) ready: Arc<Ready>,
}

impl Learned {
    pub(super) fn of(ready: &Arc<Ready>, signal: Option<Signal>) -> Self {
        Self { signal, invalid: None, fault: None, about: None, ready: ready.clone() }
    }

    pub(super) fn lane(&self) -> CredentialId {
        self.ready.credential.id
    }
}

/// What a call means for its lane.
pub(super) struct CallEnded {
    pub(super) learned: Learned,
    /// Jobs of the lane that are queued again.
    pub(super) again: Vec<Timestamp>,
    /// Some of them may be of its bulk lane.
    pub(super) bulk: bool,
}

/// A job that is part of a call.
struct Work {
    leased: Leased,
    started_at: Timestamp,
    /// The attempts that were lost with the leases before this one.
    lost: Vec<NewAttempt>,
}

/// Makes one call and writes what became of each job. Always returns, whatever the plugin does.
pub(super) async fn run(shared: Arc<Shared>, ready: Arc<Ready>, jobs: Vec<Leased>) -> CallEnded {
    let bulk = jobs.iter().any(|job| job.lane.is_bulk_lane());
    let mut ended = CallEnded { learned: Learned::of(&ready, None), again: Vec::new(), bulk };
    ended.learned.about = jobs.iter().find(|job| job.kind != DeliveryKind::Notification).map(|job| (job.batch, job.lead.id));
    let leads = jobs.iter().filter(|job| job.kind == DeliveryKind::Lead).map(|job| job.job.delivery).collect();
    let call = Call { shared: &shared, ready: &ready, leads };
    let (mut work, mut items) = (Vec::new(), Vec::new());
    for leased in jobs {
        match call.begin(leased) {
            Begun::Call(begun) => {
                let (job, item) = *begun;
                work.push(Some(job));
                items.push(item);
            }
            Begun::Ended(finish) => call.finish(vec![*finish], &mut ended).await,
        }
    }
    if items.is_empty() {
        return ended;
    }
    let (settled, verdicts) = mpsc::unbounded_channel();
    let effects = DeliverEffects {
        kv: Kv { store: shared.deps.store.clone(), clock: shared.deps.clock.clone(), credential: ready.credential.id },
        jobs: work.iter().flatten().map(|work| work.leased.job).collect(),
        settled,
    };
    let (correlation, settings) = match work.iter().flatten().next() {
        Some(first) => (first.leased.correlation.clone(), first.leased.settings.clone()),
        None => return ended,
    };
    match ready.env(&shared.deps, Arc::new(effects), correlation, settings.as_ref(), false) {
        Ok(env) => {
            let calling = call::deliver(shared.deps.registry.engine(), &ready.plugin.inspected, env, items);
            // Verdicts are written while the call goes on; the channel closes when the call's state is dropped.
            let (report, ()) = tokio::join!(calling, call.write_settled(verdicts, &mut work, &mut ended));
            call.write_unsettled(report, &mut work, &mut ended).await;
        }
        Err(why) => {
            // The settings cannot work for this credential or this send: nothing was called.
            for job in work.iter_mut().filter_map(Option::take) {
                let finish = call.decided(job, call.refused(&why), Vec::new());
                call.finish(vec![finish], &mut ended).await;
            }
        }
    }
    ended
}

enum Begun {
    Call(Box<(Work, crate::plugin::bindings::wit_outbound::Item)>),
    Ended(Box<Finish>),
}

struct Call<'a> {
    shared: &'a Arc<Shared>,
    ready: &'a Arc<Ready>,
    /// Those of its deliveries that are leads.
    leads: Vec<DeliveryId>,
}

impl Call<'_> {
    fn now(&self) -> Timestamp {
        self.shared.deps.clock.now()
    }

    fn standing(&self, leased: &Leased) -> Standing<'_> {
        Standing { attempts: leased.attempts, maybe_sent: leased.maybe_sent, policy: &self.ready.policy, on_doubt: self.ready.on_doubt }
    }

    /// Decides whether a job is called for at all: a lost lease, the filter and the mapping come first.
    fn begin(&self, leased: Leased) -> Begun {
        let now = self.now();
        let lost = (0..leased.lost).map(|_| self.lost_attempt(&leased, now)).collect();
        let mut work = Work { started_at: now, lost, leased };
        if work.leased.lost > 0
            && let Some(status) = retry::lost(self.standing(&work.leased))
        {
            let last = Some(("lost".to_owned(), "the node was lost while it was sending; it may have been sent".to_owned()));
            let next = Next::End { status, refs: Vec::new(), url: None };
            if let Some(attempt) = work.lost.last() {
                self.tell(&work.leased, attempt, &next);
            }
            return Begun::Ended(Box::new(Finish { job: work.leased.job, attempts: std::mem::take(&mut work.lost), last, next, now }));
        }
        match self.fields(&work.leased, now) {
            Ok(fields) => {
                let item = convert::item(&work.leased, fields);
                Begun::Call(Box::new((work, item)))
            }
            Err(verdict) => {
                let decision = retry::next(&Outcome::Settled(*verdict), self.standing(&work.leased), now, 0.0);
                Begun::Ended(Box::new(self.decided(work, decision, Vec::new())))
            }
        }
    }

    fn fields(&self, leased: &Leased, now: Timestamp) -> Result<String, Box<Verdict>> {
        let credential = &self.ready.credential;
        if let Some(event) = &leased.event {
            let fields = convert::event_fields(event, &leased.lead, self.ready, now);
            return fields.map_err(|why| Box::new(Verdict::Rejected(why)));
        }
        if self.ready.filter.is_none() && credential.mapping.is_empty() {
            return Ok("{}".into());
        }
        let data = convert::template_data(&leased.lead, self.ready, now);
        if let Some(filter) = &self.ready.filter {
            match filter.passes(&data) {
                Ok(Passed::Yes) => {}
                Ok(Passed::No(why)) => return Err(Box::new(Verdict::Skipped(convert::filtered(why)))),
                Err(why) => {
                    return Err(Box::new(Verdict::Rejected(Refusal::new(
                        "filter_invalid",
                        format!("the credential's filter failed: {why}"),
                    ))));
                }
            }
        }
        convert::map_fields(&credential.mapping, &data).map_err(|why| Box::new(Verdict::Rejected(why)))
    }

    fn refused(&self, why: &Refusal) -> Decision {
        let next = Next::End { status: DeliveryStatus::Failed, refs: Vec::new(), url: None };
        Decision { outcome: AttemptOutcome::Rejected, counted: true, why: Some(why.clone()), next }
    }

    fn attempt(&self, leased: &Leased, started_at: Timestamp, now: Timestamp, outcome: AttemptOutcome, counted: bool) -> NewAttempt {
        NewAttempt {
            id: AttemptId::new(now),
            started_at,
            duration_ms: u32::try_from(now.since(started_at).as_millis()).unwrap_or(u32::MAX),
            outcome,
            counted,
            code: None,
            message: None,
            exchanges: Vec::new(),
            plugin: self.ready.plugin.label.clone(),
            correlation: leased.correlation.clone(),
            node: self.shared.deps.config.node.clone(),
        }
    }

    fn lost_attempt(&self, leased: &Leased, now: Timestamp) -> NewAttempt {
        NewAttempt {
            code: Some("lost".into()),
            message: Some("the node ended or lost its lease before it could write what happened; it may have been sent".into()),
            ..self.attempt(leased, leased.due_at, now, AttemptOutcome::Lost, true)
        }
    }

    /// One line a call: what it ended as and what follows, found by the correlation id of the request that sent the lead.
    fn tell(&self, leased: &Leased, attempt: &NewAttempt, next: &Next) {
        let (delivery, outcome) = (leased.job.delivery, attempt.outcome.name());
        let follows = match next {
            Next::End { status, .. } => status.name(),
            Next::Again { .. } => DeliveryStatus::Queued.name(),
        };
        tracing::info!(
            delivery.id = %delivery,
            lead.id = %leased.lead.id,
            batch.id = %leased.batch,
            credential.id = %leased.lane.of_lane(),
            plugin = attempt.plugin,
            outcome,
            code = attempt.code,
            status = follows,
            duration_ms = attempt.duration_ms,
            correlation = attempt.correlation,
            "attempt of {delivery} ended as {outcome}; it is {follows}"
        );
    }

    /// The write that a decision asks for.
    fn decided(&self, work: Work, decision: Decision, exchanges: Vec<Exchange>) -> Finish {
        let now = self.now();
        let mut attempt = self.attempt(&work.leased, work.started_at, now, decision.outcome, decision.counted);
        attempt.code = decision.why.as_ref().map(|why| why.code.clone());
        attempt.message = decision.why.as_ref().map(|why| why.message.clone());
        attempt.exchanges = exchanges;
        self.tell(&work.leased, &attempt, &decision.next);
        let attempts = work.lost.into_iter().chain([attempt]).collect();
        let last = decision.why.map(|why| (why.code, why.message));
        Finish { job: work.leased.job, attempts, last, next: decision.next, now }
    }

    /// Writes each verdict as it comes, and those that come while one is written together.
    async fn write_settled(&self, mut verdicts: mpsc::UnboundedReceiver<Settled>, work: &mut [Option<Work>], ended: &mut CallEnded) {
        let mut batch = Vec::new();
        while verdicts.recv_many(&mut batch, 64).await > 0 {
            let mut finishes = Vec::with_capacity(batch.len());
            for settled in batch.drain(..) {
                let Some(job) = work.get_mut(settled.item).and_then(Option::take) else { continue };
                let bad = matches!(settled.verdict, Verdict::Retry { .. });
                match &mut ended.learned.signal {
                    Some(Signal::Good) => {}
                    signal => *signal = Some(if bad { Signal::Bad } else { Signal::Good }),
                }
                let decision = retry::next(&Outcome::Settled(settled.verdict), self.standing(&job.leased), self.now(), jitter());
                finishes.push(self.decided(job, decision, settled.exchanges));
            }
            self.finish(finishes, ended).await;
        }
    }

    async fn write_unsettled(&self, report: CallReport, work: &mut [Option<Work>], ended: &mut CallEnded) {
        let mut end = report.end;
        if !report.notes.is_empty() {
            end = with_notes(end, &report.notes);
        }
        let refused = self.nobody_mends(&end);
        match &end {
            _ if refused.is_some() => ended.learned.signal = Some(Signal::Bad),
            CallEnd::Returned => {}
            CallEnd::Failed(why) => {
                ended.learned.signal = Some(Signal::Bad);
                ended.learned.fault = Some(why.clone());
            }
            CallEnd::Stopped(stop) => {
                let mut learned = Learned { about: ended.learned.about, ..Learned::of(self.ready, None) };
                let (why, lane) = retry::stopped(stop);
                match lane {
                    LaneStop::Invalid => learned.invalid = Some(why),
                    LaneStop::Fault => {
                        learned.signal = Some(Signal::Bad);
                        learned.fault = Some(why);
                    }
                    LaneStop::Pause(after) if matches!(stop, Stop::RateLimited(_)) => learned.signal = Some(Signal::Slower(after)),
                    LaneStop::Pause(after) => learned.signal = Some(Signal::Down(after)),
                }
                // Before its jobs are due again, so that the lane does not take them up at once.
                self.shared.send([Message::Stopped(learned)]);
                ended.learned.signal = None;
            }
        }
        let mut finishes = Vec::new();
        for job in work.iter_mut().filter_map(Option::take) {
            let unsettled = refused.clone().map_or_else(|| end.clone(), CallEnd::Failed);
            let outcome = Outcome::Unsettled { end: unsettled, maybe_sent: report.maybe_sent };
            if end == CallEnd::Returned {
                ended.learned.signal = Some(Signal::Bad);
            }
            let decision = match (&refused, &self.ready.credential.purpose) {
                // It is gone when its batch ends, and nobody can write it again.
                (Some(why), Purpose::Send) => self.refused(why),
                _ => retry::next(&outcome, self.standing(&job.leased), self.now(), jitter()),
            };
            finishes.push(self.decided(job, decision, report.exchanges.clone()));
        }
        self.finish(finishes, ended).await;
    }

    /// Why a call stopped that would park a lane until an admin acts, where the credential is the host's own and has none:
    /// then it is the delivery that fails.
    fn nobody_mends(&self, end: &CallEnd) -> Option<Refusal> {
        let CallEnd::Stopped(stop) = end else { return None };
        let (why, lane) = retry::stopped(stop);
        (lane == LaneStop::Invalid && self.ready.credential.purpose != Purpose::Standing).then_some(why)
    }

    /// Counts what was written.
    fn count(&self, finish: &Finish) {
        let (metrics, channel) = (&self.shared.deps.metrics, self.ready.credential.channel.as_str());
        finish.attempts.iter().for_each(|attempt| metrics.attempt(channel, attempt.outcome, attempt.duration_ms));
        match &finish.next {
            Next::Again { .. } => metrics.again(channel),
            Next::End { status, .. } => {
                metrics.ended(channel, *status);
                let delivery = finish.job.delivery;
                if *status == DeliveryStatus::Delivered && self.leads.contains(&delivery) {
                    // An id begins with the time it was made.
                    let (seconds, nanos) = delivery.uuid().get_timestamp().map_or((0, 0), |at| at.to_unix());
                    let millis = i64::try_from(seconds).unwrap_or_default().saturating_mul(1_000) + i64::from(nanos / 1_000_000);
                    metrics.arrived(channel, Timestamp::from_millis(millis), finish.now);
                }
            }
        }
    }

    /// Writes, and tells who waits. A database that is away is tried again until the leases must be over anyway; then
    /// they are found lost, and the next attempt says that it may have been sent.
    async fn finish(&self, finishes: Vec<Finish>, ended: &mut CallEnded) {
        if finishes.is_empty() {
            return;
        }
        let again: Vec<Timestamp> = finishes
            .iter()
            .filter_map(|finish| match &finish.next {
                Next::Again { due_at, .. } => Some(*due_at),
                Next::End { .. } => None,
            })
            .collect();
        let clock = &self.shared.deps.clock;
        let until = clock.now().plus(self.shared.deps.config.lease_margin);
        let mut pause = std::time::Duration::from_millis(100);
        fault::pass(Point::LaneAnswered);
        loop {
            match self.shared.deps.store.finish(finishes.clone()).await {
                Ok(changes) => {
                    fault::pass(Point::LaneFinished);
                    for (finish, changed) in finishes.iter().zip(changes) {
                        if let Some(changed) = changed {
                            self.count(finish);
                            self.shared.followed(&changed);
                        }
                    }
                    break;
                }
                Err(StoreError::Unavailable(why)) if clock.now().plus(pause) < until => {
                    tracing::error!(error = why, "outcomes cannot be written; trying again");
                    clock.sleep_until(clock.now().plus(pause)).await;
                    pause = (pause * 2).min(std::time::Duration::from_secs(5));
                }
                Err(error) => {
                    tracing::error!(%error, count = finishes.len(), "outcomes were not written; the deliveries are tried again when their lease ends");
                    break;
                }
            }
        }
        ended.again.extend(again);
    }
}

/// Adds what the plugin did oddly to what the admin reads.
fn with_notes(end: CallEnd, notes: &[&str]) -> CallEnd {
    let also = notes.join("; ");
    match end {
        CallEnd::Returned => CallEnd::Failed(Refusal::new(
            "not_settled",
            format!("the plugin returned without saying what became of this lead; also, {also}"),
        )),
        CallEnd::Failed(why) => CallEnd::Failed(Refusal::new(why.code, format!("{}; also, {also}", why.message))),
        stopped @ CallEnd::Stopped(_) => stopped,
    }
}

fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the pause is merely not spread.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
