//! The promises about batches, held against whatever may happen to a store in any order: sends, leases, answers (also late
//! and repeated ones), crashes, cancels, retries, deadlines, fallbacks, tasks, deleted credentials.
//!
//! In every committed state: a batch counts its deliveries, has the one status that follows and ended exactly when it says
//! so; each callback is there once; what is queued has a job and nothing else does; a lead is what its newest batch is; and
//! no timer is left over. `PROPTEST_CASES` tries more. Runs against each implementation (the list is at the end).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use leadwire::model::*;
use leadwire::policy::batch_status::{batch_status, lead_status};
use leadwire::store::*;
use proptest::prelude::*;
use serde_json::json;

use super::store_contract::*;

/// What may happen. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Send(Sent),
    /// The lanes with these bits, and of each so many.
    Lease {
        lanes: u8,
        most: u32,
    },
    Finish {
        which: usize,
        ending: usize,
        many: usize,
    },
    /// Answers that were given before, or that came too late.
    FinishAgain(usize),
    Release(usize),
    Extend(usize),
    CancelBatch(usize),
    CancelDelivery(usize),
    Retry(usize),
    Slice {
        kind: usize,
        rows: Vec<usize>,
        ends: bool,
        repeated: bool,
    },
    DeleteCredential(usize),
    Crash,
    /// So many seconds pass, and timers fire.
    Wait(u64),
}

#[derive(Debug, Clone)]
struct Sent {
    deliveries: usize,
    allow_failures: bool,
    deadline: bool,
    inline: bool,
    fallback: bool,
    /// An older lead is sent again.
    again: Option<usize>,
    /// Seconds.
    delay: u64,
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let delay = prop_oneof![4 => Just(0_u64), 1 => 1..40_u64];
    (0..4_usize, flags, prop::option::weighted(0.3, any::<usize>()), delay).prop_map(
        |(deliveries, (allow_failures, deadline, inline, fallback), again, delay)| Sent {
            deliveries,
            allow_failures,
            deadline,
            inline: inline && deliveries > 0,
            fallback,
            again,
            delay,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => sent().prop_map(Step::Send),
        6 => (any::<u8>(), 1..6_u32).prop_map(|(lanes, most)| Step::Lease { lanes, most }),
        8 => (any::<usize>(), 0..7_usize, 1..5_usize).prop_map(|(which, ending, many)| Step::Finish { which, ending, many }),
        2 => any::<usize>().prop_map(Step::FinishAgain),
        1 => any::<usize>().prop_map(Step::Release),
        1 => any::<usize>().prop_map(Step::Extend),
        1 => any::<usize>().prop_map(Step::CancelBatch),
        2 => any::<usize>().prop_map(Step::CancelDelivery),
        3 => any::<usize>().prop_map(Step::Retry),
        3 => (0..3_usize, prop::collection::vec(any::<usize>(), 0..5), any::<bool>(), any::<bool>())
            .prop_map(|(kind, rows, ends, repeated)| Step::Slice { kind, rows, ends, repeated }),
        1 => any::<usize>().prop_map(Step::DeleteCredential),
        1 => Just(Step::Crash),
        3 => prop_oneof![2 => 1..30_u64, 1 => 30..200_u64].prop_map(Step::Wait),
    ]
}

/// What is known of a batch beside the store.
struct Known {
    lead: LeadId,
    /// What its first end told: decided then, whatever comes after it.
    told: Option<Vec<&'static str>>,
    inline: Option<CredentialId>,
    was: BatchStatus,
}

struct Watched {
    rule: String,
    delivery: DeliveryId,
    due_at: Timestamp,
}

/// All rows of the machine's project.
struct Rows {
    batches: BTreeMap<BatchId, Batch>,
    deliveries: BTreeMap<DeliveryId, Delivery>,
    leads: HashMap<LeadId, LeadStatus>,
}

impl Rows {
    fn of(&self, batch: BatchId, kind: DeliveryKind) -> impl Iterator<Item = &Delivery> {
        self.deliveries.values().filter(move |one| one.batch_id == batch && one.kind == kind)
    }
}

struct Machine {
    backend: Box<dyn Backend>,
    /// `None` while it is killed.
    open: Option<Arc<dyn Store>>,
    project: ProjectId,
    lanes: Vec<CredentialId>,
    to: Vec<CredentialId>,
    now: Timestamp,
    known: BTreeMap<BatchId, Known>,
    leads: Vec<Lead>,
    newest: HashMap<LeadId, BatchId>,
    /// Answers that are still owed, and those that were given.
    leases: Vec<JobRef>,
    answered: Vec<JobRef>,
    fences: HashMap<DeliveryId, i64>,
    watched: Vec<Watched>,
    /// When each lead was last sent.
    sent_at: HashMap<LeadId, Timestamp>,
    /// A running task, how many slices it has done, and when it was made.
    task: Option<(TaskId, u8, Timestamp)>,
    rows: Rows,
}

const RULE_SEC: u64 = 20;
const DEADLINE: Duration = Duration::from_secs(15);

impl Machine {
    async fn new(backend: Box<dyn Backend>) -> Self {
        let store = backend.open(100_000).await;
        let project = project_id();
        let standing = |_| credential(project);
        let made: Vec<Credential> = (0..6).map(standing).collect();
        for one in &made {
            store.create_credential(one, None).await.unwrap();
        }
        let ids: Vec<CredentialId> = made.iter().map(|one| one.id).collect();
        Self {
            backend,
            open: Some(store),
            project,
            lanes: ids[..3].to_vec(),
            to: ids[3..].to_vec(),
            now: at(0),
            known: BTreeMap::new(),
            leads: Vec::new(),
            newest: HashMap::new(),
            sent_at: HashMap::new(),
            leases: Vec::new(),
            answered: Vec::new(),
            fences: HashMap::new(),
            watched: Vec::new(),
            task: None,
            rows: Rows { batches: BTreeMap::new(), deliveries: BTreeMap::new(), leads: HashMap::new() },
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.open.clone().unwrap()
    }

    /// The key of what a number chooses.
    fn pick<K: Copy, V>(from: &BTreeMap<K, V>, n: usize) -> Option<K> {
        from.keys().nth(n % from.len().max(1)).copied()
    }

    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        self.now = self.now.plus(Duration::from_secs(1));
        let (store, now) = (self.store(), self.now);
        let changes = match step {
            Step::Send(sent) => {
                let (intake, inline) = self.intake(sent);
                self.note(&intake, inline);
                accept(&*store, intake).await;
                Vec::new()
            }
            Step::Lease { lanes, most } => self.lease(*lanes, *most).await?,
            Step::Finish { which, ending, many } => self.finish(*which, *ending, *many).await?,
            Step::FinishAgain(n) => self.finish_again(*n).await?,
            Step::Release(n) => {
                if let Some(job) = self.some_lease(*n) {
                    store.release(&[job], now).await.unwrap();
                    self.answered.push(job);
                }
                Vec::new()
            }
            Step::Extend(n) => {
                if let Some(job) = self.some_lease(*n) {
                    store.extend_lease(&[job], now.plus(Duration::from_secs(90))).await.unwrap();
                    self.leases.push(job);
                }
                Vec::new()
            }
            Step::CancelBatch(n) => match Self::pick(&self.known, *n) {
                Some(id) => store.cancel_batch(id, now).await.unwrap().map(|(_, changed)| changed).into_iter().collect(),
                None => Vec::new(),
            },
            Step::CancelDelivery(n) => match Self::pick(&self.rows.deliveries, *n) {
                Some(id) => store.cancel_delivery(id, now).await.unwrap().into_iter().collect(),
                None => Vec::new(),
            },
            Step::Retry(n) => match Self::pick(&self.rows.deliveries, *n) {
                Some(id) => store.retry_delivery(id, now).await.unwrap().into_iter().collect(),
                None => Vec::new(),
            },
            Step::Slice { kind, rows, ends, repeated } => self.slice(*kind, rows, *ends, *repeated).await?,
            Step::DeleteCredential(n) => {
                let all: Vec<_> = self.lanes.iter().chain(&self.to).copied().collect();
                store.delete_credential(all[n % all.len()], now).await.unwrap().unwrap_or_default()
            }
            Step::Crash => {
                // What the callers of the store had heard is forgotten with them.
                drop(store);
                self.open = None;
                self.open = Some(self.backend.open(100_000).await);
                Vec::new()
            }
            Step::Wait(seconds) => self.wait(*seconds).await?,
        };
        self.check(&changes).await
    }

    fn intake(&self, sent: &Sent) -> (Intake, Option<CredentialId>) {
        let now = self.now;
        let mut lanes = self.lanes[..sent.deliveries].to_vec();
        let own = Credential { id: CredentialId::new(now), purpose: Purpose::Send, created_at: now, ..credential(self.project) };
        if sent.inline {
            lanes[0] = own.id;
        }
        let mut intake = intake(self.project, &lanes, now);
        if let Some(n) = sent.again.filter(|_| !self.leads.is_empty()) {
            intake.lead = self.leads[n % self.leads.len()].clone();
        }
        intake.deliveries.iter_mut().for_each(|one| one.due_at = now.plus(Duration::from_secs(sent.delay)));
        let callback = |n: usize| vec![Callback { credential: self.to[n], channel: "telegram".to_owned(), settings: None, template: None }];
        let callbacks = Callbacks { then: callback(0), catch: callback(1), finally: callback(2) };
        intake.options = BatchOptions { allow_failures: sent.allow_failures, callbacks, ..BatchOptions::default() };
        intake.extras.deadline_at = sent.deadline.then(|| now.plus(DEADLINE));
        if sent.fallback {
            let target = |id: &CredentialId| FallbackTarget { credential: *id, channel: "telegram".to_owned(), settings: None };
            let rule = |name: &str, to: &[CredentialId], within: u64| FallbackRule {
                name: name.to_owned(),
                channel: Some("webhook".to_owned()),
                credential: None,
                within_sec: within as u32,
                to: to.iter().map(target).collect(),
            };
            let rules = [rule("first", &self.to[..1], RULE_SEC), rule("second", &self.to[1..], 2 * RULE_SEC)];
            intake.extras.watches = Watch::all(&rules, &intake.deliveries);
        }
        if !sent.inline {
            return (intake, None);
        }
        let id = own.id;
        intake.options.inline = vec![id];
        intake.extras.credentials = vec![own];
        (intake, Some(id))
    }

    fn note(&mut self, intake: &Intake, inline: Option<CredentialId>) {
        let lead = intake.lead.id;
        if !self.newest.contains_key(&lead) {
            self.leads.push(intake.lead.clone());
        }
        self.newest.insert(lead, intake.batch);
        self.sent_at.insert(lead, self.now);
        // One without deliveries ends as it begins.
        let empty = intake.deliveries.is_empty();
        let told = empty.then(|| vec!["catch", "finally"]).filter(|_| !intake.options.callbacks.is_empty());
        let was = if empty { batch_status(&BatchCounts::default()) } else { BatchStatus::Pending };
        self.known.insert(intake.batch, Known { lead, told, inline, was });
        for watch in &intake.extras.watches {
            self.watched.push(Watched { rule: watch.rule.name.clone(), delivery: watch.delivery, due_at: watch.due_at });
        }
    }

    async fn lease(&mut self, lanes: u8, most: u32) -> Result<Vec<Changed>, TestCaseError> {
        let mut all: Vec<_> = self.lanes.iter().chain(&self.to).copied().collect();
        all.extend(self.known.values().filter_map(|known| known.inline));
        let both = all.iter().flat_map(|lane| [*lane, lane.bulk_lane()]);
        let chosen = both.enumerate().filter(|(n, _)| lanes & (1 << (n % 8)) != 0);
        let quotas: Vec<_> = chosen.map(|(_, lane)| LaneQuota { lane, limit: most }).collect();
        let leased = self.store().lease(&quotas, self.now, self.now.plus(Duration::from_secs(60))).await.unwrap();
        let mut of_lane: HashMap<CredentialId, u32> = HashMap::new();
        for one in &leased {
            let fence = self.fences.insert(one.job.delivery, one.job.fence);
            prop_assert!(fence.is_none_or(|before| before < one.job.fence), "the fence grows with every lease, also over a retry");
            prop_assert!(one.due_at <= self.now);
            *of_lane.entry(one.lane).or_default() += 1;
            self.leases.push(one.job);
        }
        prop_assert!(of_lane.values().all(|count| *count <= most));
        Ok(Vec::new())
    }

    fn some_lease(&mut self, n: usize) -> Option<JobRef> {
        let at = n.checked_rem(self.leases.len())?;
        Some(self.leases.swap_remove(at))
    }

    async fn finish(&mut self, which: usize, ending: usize, many: usize) -> Result<Vec<Changed>, TestCaseError> {
        let mut finished = Vec::new();
        for n in 0..many {
            let Some(job) = self.some_lease(which.wrapping_add(n)) else { break };
            let maybe_sent = n % 2 == 0;
            let next = match (ending + n) % 7 {
                0 => Next::Again { due_at: self.now.plus(Duration::from_secs(3)), attempts: 1, maybe_sent },
                1 | 2 => end(DeliveryStatus::Failed),
                3 => end(DeliveryStatus::InDoubt),
                4 => end(DeliveryStatus::Skipped),
                _ => end(DeliveryStatus::Delivered),
            };
            finished.push(finish(job, next, self.now));
        }
        let jobs: Vec<JobRef> = finished.iter().map(|one| one.job).collect();
        let changed = self.store().finish(finished).await.unwrap();
        for (job, changed) in jobs.iter().zip(&changed) {
            let late = self.fences.get(&job.delivery).is_some_and(|newest| *newest > job.fence);
            prop_assert!(!(late && changed.is_some()), "another lease stands");
        }
        self.answered.extend(jobs);
        Ok(changed.into_iter().flatten().collect())
    }

    async fn finish_again(&mut self, n: usize) -> Result<Vec<Changed>, TestCaseError> {
        let Some(at) = n.checked_rem(self.answered.len()) else { return Ok(Vec::new()) };
        let job = self.answered[at];
        let changed = self.store().finish(vec![finish(job, end(DeliveryStatus::Failed), self.now)]).await.unwrap();
        prop_assert_eq!(changed, vec![None], "it was answered before");
        prop_assert!(!self.store().checkpoint(job, "late").await.unwrap());
        Ok(Vec::new())
    }

    async fn slice(&mut self, kind: usize, rows: &[usize], ends: bool, repeated: bool) -> Result<Vec<Changed>, TestCaseError> {
        let (id, place, began) = match self.task {
            Some(known) => known,
            None => {
                let id = TaskId::new(self.now);
                let task = Task {
                    id,
                    project: Some(self.project),
                    kind: TaskKind::DeliveriesRetry,
                    status: TaskStatus::Running,
                    asked: json!({}),
                    rate: 1,
                    progress: TaskProgress::default(),
                    cursor: None,
                    correlation: String::new(),
                    created_at: self.now,
                    finished_at: None,
                };
                self.store().create_task(&task, None).await.unwrap();
                (id, 0, self.now)
            }
        };
        let ids: Vec<DeliveryId> = rows.iter().filter_map(|n| Self::pick(&self.rows.deliveries, *n)).collect();
        let mut sends = Vec::new();
        let again = if kind == 2 && !self.leads.is_empty() { rows } else { &[] };
        for n in again {
            let sent = Sent {
                deliveries: 1 + n % 3,
                allow_failures: true,
                deadline: false,
                inline: false,
                fallback: true,
                again: Some(*n),
                delay: 0,
            };
            let intake = self.intake(&sent).0;
            // Sent again since the task was made, by whomever: not once more.
            if self.sent_at[&intake.lead.id] <= began {
                self.note(&intake, None);
            }
            sends.push(intake);
        }
        let work = |sends: Vec<Intake>| match kind {
            0 => SliceWork::Retry(ids.clone()),
            1 => SliceWork::Cancel(ids.clone()),
            _ => SliceWork::Send(sends),
        };
        let slice = |work| Slice {
            task: id,
            from: (place > 0).then(|| vec![place]),
            to: (!ends).then(|| vec![place + 1]),
            work,
            looked_at: rows.len() as u32,
            errors: Vec::new(),
            now: self.now,
        };
        let done = self.store().do_slice(slice(work(sends))).await.unwrap();
        let Some(done) = done else { return Err(TestCaseError::fail("a slice from where the task stands was not done")) };
        prop_assert!(done.due.iter().all(|lane| lane.is_bulk_lane()));
        if repeated {
            let fresh = if kind == 2 { vec![intake(self.project, &self.lanes, self.now)] } else { Vec::new() };
            prop_assert_eq!(self.store().do_slice(slice(work(fresh))).await.unwrap(), None, "done before");
        }
        self.task = (!ends && place < 200).then_some((id, place + 1, began));
        // A new batch of a lead is no change of an old one.
        Ok(if kind == 2 { Vec::new() } else { done.batches })
    }

    async fn wait(&mut self, seconds: u64) -> Result<Vec<Changed>, TestCaseError> {
        self.now = self.now.plus(Duration::from_secs(seconds));
        let before = self.read().await;
        let mut changes: BTreeMap<BatchId, Changed> = BTreeMap::new();
        loop {
            let (some, more) = self.store().fire_timers(self.now, 3).await.unwrap();
            for changed in some {
                changes.entry(changed.batch).or_insert_with(|| Changed::only(changed.batch, changed.lead)).merge(changed);
            }
            if !more {
                break;
            }
        }
        let next = self.store().next_timer().await.unwrap();
        prop_assert!(next.is_none_or(|at| at > self.now), "what was due is done and gone");
        let after = self.read().await;
        let (due, later) = std::mem::take(&mut self.watched).into_iter().partition::<Vec<_>, _>(|watched| watched.due_at <= self.now);
        self.watched = later;
        for Watched { rule, delivery, .. } in due {
            let withdrawn = |rows: &Rows| {
                use DeliveryStatus::{Cancelled, Delivered, Skipped};
                matches!(rows.deliveries[&delivery].status, Delivered | Skipped | Cancelled)
            };
            let targets = if rule == "first" { 1 } else { 2 };
            let made = after.deliveries.values().filter(|one| {
                let reason = one.reason.as_deref().unwrap_or_default();
                reason.contains(&format!("`{rule}`")) && reason.contains(&delivery.to_string())
            });
            match (withdrawn(&before), withdrawn(&after)) {
                (true, _) => prop_assert_eq!(made.count(), 0, "nobody waits for it"),
                (false, false) => prop_assert_eq!(made.count(), targets, "once"),
                // Cancelled meanwhile by the deadline of a sibling.
                (false, true) => prop_assert!([0, targets].contains(&made.count())),
            }
        }
        Ok(changes.into_values().collect())
    }

    async fn read(&self) -> Rows {
        let store = self.store();
        let mut query = ListQuery { project: Some(self.project), limit: 200, ..ListQuery::default() };
        let mut rows = Rows { batches: BTreeMap::new(), deliveries: BTreeMap::new(), leads: HashMap::new() };
        loop {
            let found = store.batches(&query).await.unwrap();
            rows.batches.extend(found.items.into_iter().map(|batch| (batch.id, batch)));
            query.before = found.next;
            if found.next.is_none() {
                break;
            }
        }
        loop {
            let found = store.deliveries(&query).await.unwrap();
            rows.deliveries.extend(found.items.into_iter().map(|one| (one.id, one)));
            query.before = found.next;
            if found.next.is_none() {
                break;
            }
        }
        loop {
            let found = store.leads(&query).await.unwrap();
            rows.leads.extend(found.items.into_iter().map(|record| (record.lead.id, record.status)));
            query.before = found.next;
            if found.next.is_none() {
                break;
            }
        }
        rows
    }

    async fn check(&mut self, changes: &[Changed]) -> Result<(), TestCaseError> {
        let rows = self.read().await;
        prop_assert_eq!(rows.batches.len(), self.known.len());
        let mut ends: HashMap<BatchId, Vec<BatchStatus>> = HashMap::new();
        for changed in changes {
            ends.entry(changed.batch).or_default().extend(changed.ended);
        }
        for (id, known) in &mut self.known {
            let batch = &rows.batches[id];
            let mut counted = BatchCounts::default();
            for delivery in rows.of(*id, DeliveryKind::Lead) {
                counted.total += 1;
                *counted.of(delivery.status) += 1;
            }
            prop_assert_eq!(batch.counts, counted);
            prop_assert_eq!(batch.status, batch_status(&counted));
            prop_assert_eq!(batch.finished_at.is_some(), batch.status != BatchStatus::Pending);
            let ended = known.was == BatchStatus::Pending && batch.status != BatchStatus::Pending;
            let said = ends.remove(id).unwrap_or_default();
            prop_assert_eq!(said, if ended { vec![batch.status] } else { Vec::new() }, "an end is told once, by the write that made it");
            if ended {
                known.told.get_or_insert_with(|| {
                    let failed = batch.status == BatchStatus::Failed;
                    if failed { vec!["then", "catch", "finally"] } else { vec!["then", "finally"] }
                });
            }
            known.was = batch.status;
            let told = rows.of(*id, DeliveryKind::Callback).map(moment).collect::<BTreeSet<_>>();
            prop_assert_eq!(rows.of(*id, DeliveryKind::Callback).count(), told.len());
            let expected: BTreeSet<String> = known.told.iter().flatten().map(|moment| (*moment).to_owned()).collect();
            prop_assert_eq!(told, expected);
            if self.newest[&known.lead] == *id {
                prop_assert_eq!(rows.leads[&known.lead], lead_status(&counted), "a lead is what its newest batch is");
            }
        }
        for known in self.known.values() {
            if let Some(own) = known.inline {
                let gone = self.store().credential(own).await.unwrap().is_none();
                prop_assert_eq!(gone, known.told.is_some(), "credentials for one send are erased at the first end");
            }
        }
        prop_assert!(ends.is_empty(), "a batch changed that nobody sent: {:?}", ends);
        self.check_queue(&rows, changes).await?;
        self.rows = rows;
        Ok(())
    }

    async fn check_queue(&self, rows: &Rows, changes: &[Changed]) -> Result<(), TestCaseError> {
        let waiting: Vec<_> = rows.deliveries.values().filter(|one| !one.status.is_terminal()).collect();
        prop_assert_eq!(self.store().backlog(), waiting.len() as u64);
        let wanted: BTreeSet<CredentialId> = waiting.iter().map(|one| one.credential_id).collect();
        let lanes: BTreeSet<CredentialId> = self.store().lanes().await.unwrap().iter().map(|found| found.lane.of_lane()).collect();
        prop_assert_eq!(lanes, wanted, "what is queued has a job, and nothing else does");
        // Whoever made deliveries of the host's own said so, so that they go at once. An intake knows by itself.
        let made = rows.deliveries.values().filter(|one| one.kind != DeliveryKind::Lead && !self.rows.deliveries.contains_key(&one.id));
        let mut made: Vec<_> = made.filter(|one| rows.batches[&one.batch_id].counts.total > 0).map(|one| one.credential_id).collect();
        let mut queued: Vec<_> = changes.iter().flat_map(|changed| changed.queued.iter().copied()).collect();
        made.sort_unstable();
        queued.sort_unstable();
        prop_assert_eq!(made, queued);
        Ok(())
    }

    /// Whatever was left open ends, and then nothing is left.
    async fn end(&mut self) -> Result<(), TestCaseError> {
        self.take(&Step::Wait(3_600)).await?;
        for _ in 0..200 {
            if self.store().backlog() == 0 {
                break;
            }
            self.take(&Step::Lease { lanes: u8::MAX, most: 500 }).await?;
            let owed: HashSet<JobRef> = self.leases.iter().copied().collect();
            let many = owed.len().max(1);
            self.take(&Step::Finish { which: 0, ending: 5, many }).await?;
            self.take(&Step::Wait(61)).await?;
        }
        prop_assert_eq!(self.store().backlog(), 0, "everything comes to an end");
        prop_assert!(self.known.values().all(|known| known.was != BatchStatus::Pending));
        prop_assert_eq!(self.store().next_timer().await.unwrap(), None, "no timer is left over");
        for delivery in self.rows.deliveries.keys() {
            let numbers: Vec<u32> = self.store().attempts(*delivery).await.unwrap().iter().map(|attempt| attempt.no).collect();
            prop_assert!(numbers.iter().copied().eq(1..=numbers.len() as u32), "{:?}", numbers);
        }
        Ok(())
    }
}

fn moment(callback: &Delivery) -> String {
    callback.event.as_ref().unwrap().data["callback"].as_str().unwrap().to_owned()
}

fn run(backend: Box<dyn Backend>, steps: &[Step]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut machine = Machine::new(backend).await;
        for step in steps {
            machine.take(step).await?;
        }
        machine.end().await
    })
}

/// `PROPTEST_CASES` says how many; without it as many as a test may take.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(16);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() }
}

mod sqlite {
    use super::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn whatever_happens_the_promises_about_batches_hold(steps in prop::collection::vec(step(), 1..70)) {
            run(Box::new(Sqlite::new()), &steps)?;
        }
    }
}

mod postgres {
    use super::*;

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn whatever_happens_the_promises_about_batches_hold(steps in prop::collection::vec(step(), 1..70)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let backend = runtime.block_on(Postgres::new());
            run(Box::new(backend), &steps)?;
        }
    }
}
