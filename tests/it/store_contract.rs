//! What every `Store` must do: one function per behaviour, run against each implementation (the list is at the end).
//!
//! Time is a parameter of the store, so nothing here waits for a clock.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use leadwire::model::*;
use leadwire::policy::batch_status::{batch_status, lead_status};
use leadwire::store::postgres::{PostgresOptions, PostgresStore};
use leadwire::store::sqlite::{SqliteStore, StoreOptions};
use leadwire::store::*;
use leadwire_tests::postgres::Database;
use serde_json::json;

/// An empty database that may be opened again and again.
#[async_trait]
pub(super) trait Backend: Send + Sync {
    async fn open(&self, max_backlog: u64) -> Arc<dyn Store>;
}

pub(super) struct Sqlite {
    dir: tempfile::TempDir,
}

impl Sqlite {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn open(&self, max_backlog: u64) -> Arc<dyn Store> {
        let options = StoreOptions { max_backlog, ..StoreOptions::default() };
        Arc::new(SqliteStore::open(&self.dir.path().join("leadwire.db"), options).await.unwrap())
    }
}

pub(super) struct Postgres {
    database: Database,
}

impl Postgres {
    pub(super) async fn new() -> Self {
        Self { database: Database::new().await }
    }
}

#[async_trait]
impl Backend for Postgres {
    async fn open(&self, max_backlog: u64) -> Arc<dyn Store> {
        let options = PostgresOptions { max_backlog, ..PostgresOptions::default() };
        Arc::new(PostgresStore::open(&self.database.url(), options).await.unwrap())
    }
}

const T0: i64 = 1_767_225_600_000;
const LEASE_MS: i64 = 60_000;

/// So many milliseconds after the test's beginning.
pub(super) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(T0 + ms)
}

fn lease_end(now: Timestamp) -> Timestamp {
    now.plus(Duration::from_millis(LEASE_MS as u64))
}

fn lead(project: ProjectId, now: Timestamp) -> Lead {
    Lead {
        id: LeadId::new(now),
        project,
        entity: Some("landing-7".to_owned()),
        external_id: None,
        title: Some("Заявка \"с сайта\"".to_owned()),
        name: Some("Иван 🙂".to_owned()),
        company: None,
        phones: vec![Phone { raw: "8 916".to_owned(), e164: None }],
        emails: vec!["ivan@example.com".to_owned()],
        comment: Some("\u{0}\n\\ end".to_owned()),
        value: Some(Money { minor: 150_000, exponent: 2, currency: "RUB".to_owned() }),
        origin: Origin::default(),
        fields: serde_json::from_value(json!({"b": 1.50, "a": [null, true]})).unwrap(),
        created_at: now,
    }
}

pub(super) fn intake(project: ProjectId, lanes: &[CredentialId], now: Timestamp) -> Intake {
    let deliveries = lanes
        .iter()
        .map(|lane| NewDelivery {
            id: DeliveryId::new(now),
            credential_id: *lane,
            channel: "webhook".to_owned(),
            due_at: now,
            settings: None,
        })
        .collect::<Vec<_>>();
    let status = if deliveries.is_empty() { LeadStatus::Unrouted } else { LeadStatus::Accepted };
    Intake {
        lead: lead(project, now),
        status,
        dedup: None,
        batch: BatchId::new(now),
        options: BatchOptions::default(),
        deliveries,
        correlation: "0197-correlation".to_owned(),
        idempotency: None,
        extras: IntakeExtras::default(),
    }
}

pub(super) fn lanes(count: usize) -> Vec<CredentialId> {
    (0..count).map(|_| CredentialId::new(at(0))).collect()
}

pub(super) fn project_id() -> ProjectId {
    ProjectId::new(at(0))
}

fn new_attempt(outcome: AttemptOutcome, counted: bool, now: Timestamp) -> NewAttempt {
    NewAttempt {
        id: AttemptId::new(now),
        started_at: now,
        duration_ms: 12,
        outcome,
        counted,
        code: Some("http_500".to_owned()),
        message: None,
        exchanges: Vec::new(),
        plugin: "webhook@1.0.0".to_owned(),
        correlation: "0197-correlation".to_owned(),
        node: "node-1".to_owned(),
    }
}

pub(super) fn finish(job: JobRef, next: Next, now: Timestamp) -> Finish {
    let outcome = match &next {
        Next::End { status: DeliveryStatus::Delivered, .. } => AttemptOutcome::Delivered,
        Next::End { status: DeliveryStatus::Skipped, .. } => AttemptOutcome::Skipped,
        Next::End { .. } => AttemptOutcome::Rejected,
        Next::Again { .. } => AttemptOutcome::Retry,
    };
    Finish { job, attempts: vec![new_attempt(outcome, true, now)], last: None, next, now }
}

pub(super) fn end(status: DeliveryStatus) -> Next {
    Next::End { status, refs: Vec::new(), url: None }
}

fn again(due_at: Timestamp, attempts: u32) -> Next {
    Next::Again { due_at, attempts, maybe_sent: false }
}

/// Everything due in these lanes.
pub(super) async fn lease(store: &dyn Store, lanes: &[CredentialId], now: Timestamp) -> Vec<Leased> {
    let quotas: Vec<_> = lanes.iter().map(|lane| LaneQuota { lane: *lane, limit: 1_000 }).collect();
    store.lease(&quotas, now, lease_end(now)).await.unwrap()
}

pub(super) async fn lease_one(store: &dyn Store, lane: CredentialId, now: Timestamp) -> Leased {
    let mut leased = lease(store, &[lane], now).await;
    assert_eq!(leased.len(), 1);
    leased.remove(0)
}

pub(super) async fn finish_one(store: &dyn Store, job: JobRef, next: Next, now: Timestamp) -> Option<Changed> {
    store.finish(vec![finish(job, next, now)]).await.unwrap().remove(0)
}

pub(super) async fn accept(store: &dyn Store, intake: Intake) -> Accepted {
    match store.accept(intake).await.unwrap() {
        Written::New(accepted) => accepted,
        other => panic!("{other:?}"),
    }
}

/// A lead with one delivery for each lane: its lead, batch and deliveries.
async fn send(store: &dyn Store, lanes: &[CredentialId], now: Timestamp) -> (LeadId, BatchId, Vec<DeliveryId>) {
    let intake = intake(project_id(), lanes, now);
    let ids = (intake.lead.id, intake.batch, intake.deliveries.iter().map(|delivery| delivery.id).collect());
    assert_eq!(accept(store, intake).await, Accepted::New);
    ids
}

pub(super) async fn status(store: &dyn Store, id: DeliveryId) -> DeliveryStatus {
    store.delivery(id).await.unwrap().unwrap().status
}

pub(super) async fn lead_state(store: &dyn Store, id: LeadId) -> LeadStatus {
    store.lead(id).await.unwrap().unwrap().status
}

pub(super) async fn counts(store: &dyn Store, id: BatchId) -> BatchCounts {
    store.batch(id).await.unwrap().unwrap().counts
}

/// Until every lead is found by its words.
pub(super) async fn searchable(store: &dyn Store) {
    while store.index_leads(1_000).await.unwrap() {}
}

// ---- intake

async fn an_accepted_lead_is_there_with_all_it_promised(backend: &dyn Backend) {
    let store = backend.open(100).await;
    store.ping().await.unwrap();
    let (project, lanes) = (project_id(), lanes(2));
    let mut intake = intake(project, &lanes, at(0));
    intake.lead.external_id = Some("form-1".to_owned());
    intake.deliveries[1].settings = Some(json!({"url": "https://x.example", "n": 1.5}));
    intake.deliveries[1].due_at = at(500);
    intake.options.allow_failures = false;
    let (lead, batch) = (intake.lead.clone(), intake.batch);
    let asked = intake.deliveries.clone();
    assert_eq!(store.accept(intake).await.unwrap(), Written::New(Accepted::New));

    let record = LeadRecord { lead: lead.clone(), status: LeadStatus::Accepted };
    assert_eq!(store.lead(lead.id).await.unwrap().unwrap(), record);
    assert_eq!(store.lead_by_external_id(project, "form-1").await.unwrap().unwrap(), record);
    assert!(store.lead_by_external_id(project_id(), "form-1").await.unwrap().is_none());
    assert!(store.lead(LeadId::new(at(0))).await.unwrap().is_none());

    let stored = store.batch(batch).await.unwrap().unwrap();
    assert_eq!(stored.counts, BatchCounts { total: 2, pending: 2, ..BatchCounts::default() });
    assert_eq!((stored.lead_id, stored.project, stored.status), (lead.id, project, BatchStatus::Pending));
    assert_eq!((stored.created_at, stored.finished_at, stored.options.allow_failures), (at(0), None, false));
    assert_eq!(store.batches_of_lead(lead.id).await.unwrap(), [stored]);

    let deliveries = store.deliveries_of_batch(batch).await.unwrap();
    assert_eq!(deliveries.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [asked[0].id, asked[1].id]);
    let second = &deliveries[1];
    assert_eq!((second.status, second.due_at, second.attempts), (DeliveryStatus::Queued, Some(at(500)), 0));
    assert_eq!((second.credential_id, second.project, second.lead_id), (lanes[1], project, lead.id));
    assert_eq!((&second.settings, second.channel.as_str()), (&asked[1].settings, "webhook"));
    assert_eq!(store.delivery(second.id).await.unwrap().as_ref(), Some(second));
    assert_eq!(store.backlog(), 2);

    let leased = lease(&*store, &lanes, at(500)).await;
    assert_eq!(leased.len(), 2);
    assert_eq!(*leased[1].lead, lead);
    assert_eq!((&leased[1].settings, leased[1].due_at), (&asked[1].settings, at(500)));
    assert_eq!((leased[1].batch, leased[1].correlation.as_str()), (batch, "0197-correlation"));
}

async fn a_lead_that_nobody_wants_is_unrouted(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lead, batch, _) = send(&*store, &[], at(0)).await;
    assert_eq!(lead_state(&*store, lead).await, LeadStatus::Unrouted);
    let batch = store.batch(batch).await.unwrap().unwrap();
    assert_eq!((batch.counts, batch.status, batch.finished_at), (BatchCounts::default(), BatchStatus::Completed, Some(at(0))));
    assert_eq!(store.backlog(), 0);
}

async fn a_second_lead_with_the_same_key_is_a_duplicate_until_the_first_is_forgotten(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    let with_key = |project: ProjectId, now: i64| {
        let mut intake = intake(project, &lanes, at(now));
        intake.dedup = Some(DedupKey { hash: [7; 32], expires_at: at(now + 1_000) });
        intake
    };
    let first = with_key(project, 0);
    let of = first.lead.id;
    assert_eq!(accept(&*store, first).await, Accepted::New);
    let second = with_key(project, 999);
    let (lead, batch) = (second.lead.id, second.batch);
    assert_eq!(accept(&*store, second).await, Accepted::Duplicate { of });
    assert!(store.lead(lead).await.unwrap().is_none());
    assert!(store.batch(batch).await.unwrap().is_none());
    assert_eq!(store.backlog(), 1);
    assert_eq!(accept(&*store, with_key(project_id(), 999)).await, Accepted::New, "another project");
    let third = with_key(project, 1_000);
    let of = third.lead.id;
    assert_eq!(accept(&*store, third).await, Accepted::New, "the first is forgotten");
    assert_eq!(accept(&*store, with_key(project, 1_001)).await, Accepted::Duplicate { of });
}

async fn equal_leads_that_arrive_together_are_stored_once(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200u8 {
        let store = store.clone();
        let mut intake = intake(project, &lanes, at(0));
        intake.dedup = Some(DedupKey { hash: [n % 10; 32], expires_at: at(1_000) });
        tasks.spawn(async move { (n % 10, intake.lead.id, accept(&*store, intake).await) });
    }
    let (mut first, mut duplicates) = (HashMap::new(), Vec::new());
    for (key, id, accepted) in tasks.join_all().await {
        match accepted {
            Accepted::New => assert_eq!(first.insert(key, id), None),
            Accepted::Duplicate { of } => duplicates.push((key, of)),
            Accepted::Gone => panic!("it was never there"),
        }
    }
    assert_eq!((first.len(), duplicates.len(), store.backlog()), (10, 190, 10));
    assert!(duplicates.iter().all(|(key, of)| first[key] == *of));
}

async fn the_same_request_gets_the_same_answer_and_writes_nothing(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    let keyed = |body: u8, now: i64| {
        let mut intake = intake(project, &lanes, at(now));
        let id = intake.lead.id;
        let key = Idempotency { scope: [1; 32], body_hash: [body; 32], expires_at: at(now + 1_000) };
        let answer: AnswerOf = Arc::new(move |accepted| StoredAnswer { status: 202, body: format!("{id} {accepted:?}").into_bytes() });
        intake.idempotency = Some((key, answer));
        intake
    };
    let first = keyed(1, 0);
    let (key, id) = (first.idempotency.as_ref().unwrap().0.clone(), first.lead.id);
    assert_eq!(store.idempotent(&key, at(0)).await.unwrap(), None);
    assert_eq!(store.accept(first).await.unwrap(), Written::New(Accepted::New));
    let answer = StoredAnswer { status: 202, body: format!("{id} New").into_bytes() };
    assert_eq!(store.accept(keyed(1, 999)).await.unwrap(), Written::Replayed(answer.clone()));
    assert_eq!(store.accept(keyed(2, 999)).await.unwrap(), Written::KeyReused);
    assert_eq!(store.idempotent(&key, at(999)).await.unwrap(), Some(Written::Replayed(answer)));
    let other = Idempotency { body_hash: [9; 32], ..key.clone() };
    assert_eq!(store.idempotent(&other, at(999)).await.unwrap(), Some(Written::KeyReused));
    assert_eq!(store.idempotent(&key, at(1_000)).await.unwrap(), None, "forgotten in time");
    assert_eq!(store.backlog(), 1);
    assert_eq!(store.accept(keyed(2, 1_000)).await.unwrap(), Written::New(Accepted::New));

    // The same key many times at once: one effect.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let store = store.clone();
        let mut intake = keyed(1, 2_000);
        intake.idempotency.as_mut().unwrap().0.scope = [5; 32];
        tasks.spawn(async move { store.accept(intake).await.unwrap() });
    }
    let written = tasks.join_all().await;
    assert_eq!(written.iter().filter(|written| matches!(written, Written::New(_))).count(), 1);
    assert_eq!(written.iter().filter(|written| matches!(written, Written::Replayed(_))).count(), 49);
}

async fn answers_of_requests_without_effect_are_kept(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let key = Idempotency { scope: [3; 32], body_hash: [4; 32], expires_at: at(1_000) };
    let answer = |status| StoredAnswer { status, body: Vec::new() };
    store.keep_answer(&key, &answer(200), at(0)).await.unwrap();
    store.keep_answer(&key, &answer(500), at(1)).await.unwrap();
    assert_eq!(store.idempotent(&key, at(2)).await.unwrap(), Some(Written::Replayed(answer(200))));
    let later = Idempotency { expires_at: at(3_000), ..key.clone() };
    store.keep_answer(&later, &answer(500), at(1_000)).await.unwrap();
    assert_eq!(store.idempotent(&key, at(1_001)).await.unwrap(), Some(Written::Replayed(answer(500))));
}

async fn intake_is_refused_past_the_backlog_limit_and_nothing_else_is(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let lanes = lanes(4);
    let (_, _, deliveries) = send(&*store, &lanes, at(0)).await;
    send(&*store, &lanes, at(0)).await;
    let refused = store.accept(intake(project_id(), &lanes, at(0))).await;
    assert!(matches!(refused, Err(StoreError::Overloaded { backlog: 8 })), "{refused:?}");
    send(&*store, &lanes[..2], at(0)).await;
    assert_eq!(store.backlog(), 10);
    assert!(store.accept(intake(project_id(), &lanes[..1], at(0))).await.is_err());
    send(&*store, &[], at(0)).await;
    assert_eq!(lease(&*store, &lanes, at(0)).await.len(), 10);
    let store2 = store.clone();
    drop(store);
    assert!(store2.cancel_delivery(deliveries[0], at(LEASE_MS)).await.unwrap().is_some());
    assert_eq!(store2.backlog(), 9);
    send(&*store2, &lanes[..1], at(0)).await;
}

async fn a_panicking_or_impossible_request_harms_no_neighbour(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    let existing = intake(project, &lanes, at(0));
    let taken = (existing.lead.id, existing.batch);
    accept(&*store, existing).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let store = store.clone();
        let mut intake = intake(project, &lanes, at(0));
        if n % 3 == 1 {
            (intake.lead.id, intake.batch) = taken; // an id twice: no statement can work
        }
        if n % 3 == 2 {
            let key = Idempotency { scope: [n; 32], body_hash: [0; 32], expires_at: at(1) };
            intake.idempotency = Some((key, Arc::new(|_| panic!("no answer for you"))));
        }
        tasks.spawn(async move { (n, store.accept(intake).await) });
    }
    for (n, result) in tasks.join_all().await {
        assert_eq!(result.is_ok(), n % 3 == 0, "{n}: {result:?}");
        assert!(!matches!(result, Err(StoreError::Unavailable(_))));
    }
    assert_eq!(store.backlog(), 21);
    assert_eq!(lease(&*store, &lanes, at(0)).await.len(), 21);
}

// ---- the queue

async fn leases_take_the_earliest_due_within_each_lanes_limit(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(40));
    for due in [300, 100, 200, 400] {
        let mut intake = intake(project, &lanes, at(0));
        intake.deliveries.iter_mut().for_each(|delivery| delivery.due_at = at(due));
        accept(&*store, intake).await;
    }
    let quotas: Vec<_> = lanes.iter().take(39).enumerate().map(|(i, lane)| LaneQuota { lane: *lane, limit: (i % 3) as u32 }).collect();
    let leased = store.lease(&quotas, at(300), at(1_000)).await.unwrap();
    for (i, quota) in quotas.iter().enumerate() {
        let due: Vec<_> = leased.iter().filter(|one| one.lane == quota.lane).map(|one| one.due_at).collect();
        assert_eq!(due, [at(100), at(200)][..i % 3], "lane {i}");
    }
    assert_eq!(leased.len(), 39);
    assert!(lease(&*store, &lanes[..1], at(99)).await.is_empty(), "not due yet");
    assert_eq!(lease(&*store, &lanes[2..3], at(300)).await.len(), 1, "what is leased is not leased again");
    assert!(lease(&*store, &[], at(300)).await.is_empty());
    let due = store.lanes().await.unwrap();
    assert_eq!(due.len(), 40);
    let of = |lane: CredentialId| due.iter().find(|one| one.lane == lane).unwrap().due_at;
    assert_eq!((of(lanes[39]), of(lanes[1]), of(lanes[2])), (at(100), at(200), at(400)));
}

async fn concurrent_leasers_never_get_the_same_job(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let lanes = lanes(3);
    for _ in 0..100 {
        send(&*store, &lanes, at(0)).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, lanes) = (store.clone(), lanes.clone());
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let quotas: Vec<_> = lanes.iter().map(|lane| LaneQuota { lane: *lane, limit: 7 }).collect();
                let leased = store.lease(&quotas, at(0), at(LEASE_MS)).await.unwrap();
                if leased.is_empty() {
                    return mine;
                }
                mine.extend(leased.into_iter().map(|one| one.job.delivery));
            }
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!((all.len(), all.iter().collect::<HashSet<_>>().len()), (300, 300));
}

async fn a_delivery_is_retried_and_then_delivered_with_every_attempt_on_record(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(1);
    let (lead, batch, deliveries) = send(&*store, &lanes, at(0)).await;
    let id = deliveries[0];
    let first = lease_one(&*store, lanes[0], at(0)).await;
    assert_eq!((first.attempts, first.lost, first.maybe_sent, first.memo.as_deref()), (0, 0, false, None));
    let sending = store.delivery(id).await.unwrap().unwrap();
    assert_eq!((sending.status, sending.due_at), (DeliveryStatus::Sending, Some(at(LEASE_MS))));
    assert!(store.checkpoint(first.job, "{\"step\":1}").await.unwrap());

    let next = Next::Again { due_at: at(5_000), attempts: 1, maybe_sent: true };
    let last = Some(("http_500".to_owned(), "the server is ill".to_owned()));
    let mut failed = Finish { last, ..finish(first.job, next, at(10)) };
    failed.attempts.insert(0, new_attempt(AttemptOutcome::Released, false, at(5)));
    failed.attempts[1].exchanges = vec![Exchange {
        kind: "http".to_owned(),
        request: "POST https://x.example/\"'".to_owned(),
        request_body: Some("\u{0}тело".to_owned()),
        status: Some(500),
        response: None,
        duration_ms: 3,
    }];
    let written = failed.attempts.clone();
    let changed = store.finish(vec![failed]).await.unwrap();
    assert_eq!(changed, [Some(Changed::only(batch, lead))]);
    let queued = store.delivery(id).await.unwrap().unwrap();
    assert_eq!((queued.status, queued.due_at, queued.attempts), (DeliveryStatus::Queued, Some(at(5_000)), 1));
    assert_eq!((queued.last_code.as_deref(), queued.last_error.as_deref()), (Some("http_500"), Some("the server is ill")));
    assert!(lease(&*store, &lanes, at(4_999)).await.is_empty());

    let second = lease_one(&*store, lanes[0], at(5_000)).await;
    assert_eq!((second.attempts, second.lost, second.maybe_sent), (1, 0, true));
    assert_eq!(second.memo.as_deref(), Some("{\"step\":1}"));
    assert!(second.job.fence > first.job.fence);
    let refs = vec![RemoteRef { name: "lead".to_owned(), value: "8123".to_owned() }];
    let next = Next::End { status: DeliveryStatus::Delivered, refs: refs.clone(), url: Some("https://crm.example/8123".to_owned()) };
    let changed = finish_one(&*store, second.job, next, at(5_010)).await.unwrap();
    assert_eq!(changed.ended, Some(BatchStatus::Completed));
    let ended = store.delivery(id).await.unwrap().unwrap();
    assert_eq!((ended.status, ended.attempts, ended.due_at, ended.finished_at), (DeliveryStatus::Delivered, 2, None, Some(at(5_010))));
    assert_eq!((ended.refs, ended.url.as_deref()), (refs, Some("https://crm.example/8123")));
    assert_eq!(ended.last_code.as_deref(), Some("http_500"), "what went wrong before stays readable");
    assert_eq!(lead_state(&*store, lead).await, LeadStatus::Completed);
    assert_eq!(store.batch(batch).await.unwrap().unwrap().finished_at, Some(at(5_010)));

    let attempts = store.attempts(id).await.unwrap();
    assert_eq!(
        attempts.iter().map(|attempt| (attempt.no, attempt.outcome, attempt.counted)).collect::<Vec<_>>(),
        [(1, AttemptOutcome::Released, false), (2, AttemptOutcome::Retry, true), (3, AttemptOutcome::Delivered, true)]
    );
    let (one, asked) = (&attempts[1], &written[1]);
    assert_eq!((one.id, one.delivery_id, one.started_at, one.duration_ms), (asked.id, id, asked.started_at, asked.duration_ms));
    assert_eq!((&one.code, &one.message, &one.exchanges), (&asked.code, &asked.message, &asked.exchanges));
    assert_eq!((&one.plugin, &one.correlation, &one.node), (&asked.plugin, &asked.correlation, &asked.node));
    assert_eq!(store.backlog(), 0);
    assert!(store.lanes().await.unwrap().is_empty());
}

async fn a_late_answer_of_an_expired_lease_changes_nothing(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(1);
    let (_, batch, deliveries) = send(&*store, &lanes, at(0)).await;
    let first = lease_one(&*store, lanes[0], at(0)).await;
    assert!(lease(&*store, &lanes, at(LEASE_MS - 1)).await.is_empty());
    let second = lease_one(&*store, lanes[0], at(LEASE_MS)).await;
    assert_eq!((second.lost, second.maybe_sent, second.attempts), (1, true, 1), "the lost call is seen and counted");

    assert_eq!(finish_one(&*store, first.job, end(DeliveryStatus::Failed), at(LEASE_MS)).await, None);
    assert!(!store.checkpoint(first.job, "late").await.unwrap());
    store.release(&[first.job], at(0)).await.unwrap();
    store.extend_lease(&[first.job], at(0)).await.unwrap();
    let delivery = store.delivery(deliveries[0]).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.due_at), (DeliveryStatus::Sending, Some(lease_end(at(LEASE_MS)))));
    assert!(store.attempts(deliveries[0]).await.unwrap().is_empty());

    let mut found = finish(second.job, end(DeliveryStatus::Delivered), at(LEASE_MS));
    found.attempts.insert(0, new_attempt(AttemptOutcome::Lost, true, at(0)));
    assert!(store.finish(vec![found]).await.unwrap()[0].is_some());
    let delivery = store.delivery(deliveries[0]).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.attempts), (DeliveryStatus::Delivered, 2), "a lost call counts once");
    assert_eq!(finish_one(&*store, second.job, end(DeliveryStatus::Failed), at(LEASE_MS)).await, None, "answered twice");
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 1, delivered: 1, ..BatchCounts::default() });
}

async fn every_lost_lease_is_told_of_until_an_answer_is_written(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(1);
    let (_, _, deliveries) = send(&*store, &lanes, at(0)).await;
    for died in 0..3 {
        let leased = lease_one(&*store, lanes[0], at(LEASE_MS * died)).await;
        assert_eq!((i64::from(leased.lost), i64::from(leased.attempts)), (died, died));
    }
    let leased = lease_one(&*store, lanes[0], at(LEASE_MS * 3)).await;
    assert_eq!((leased.lost, leased.attempts), (3, 3));
    let mut found = finish(leased.job, again(at(LEASE_MS * 4), 4), at(LEASE_MS * 3));
    for _ in 0..3 {
        found.attempts.insert(0, new_attempt(AttemptOutcome::Lost, true, at(0)));
    }
    assert!(store.finish(vec![found]).await.unwrap()[0].is_some());
    assert_eq!(store.attempts(deliveries[0]).await.unwrap().len(), 4);
    let after = lease_one(&*store, lanes[0], at(LEASE_MS * 4)).await;
    assert_eq!((after.lost, after.attempts), (0, 4), "written once");
}

async fn an_answer_after_the_lease_ended_stands_if_nobody_else_took_the_job(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(1);
    send(&*store, &lanes, at(0)).await;
    let leased = lease_one(&*store, lanes[0], at(0)).await;
    assert!(finish_one(&*store, leased.job, end(DeliveryStatus::Delivered), at(LEASE_MS * 2)).await.is_some());
}

async fn a_released_job_is_as_if_never_leased(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(1);
    let (_, _, deliveries) = send(&*store, &lanes, at(0)).await;
    let first = lease_one(&*store, lanes[0], at(0)).await;
    store.release(&[first.job], at(100)).await.unwrap();
    let delivery = store.delivery(deliveries[0]).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.due_at, delivery.attempts), (DeliveryStatus::Queued, Some(at(100)), 0));
    assert_eq!(finish_one(&*store, first.job, end(DeliveryStatus::Failed), at(100)).await, None, "given back");
    let second = lease_one(&*store, lanes[0], at(100)).await;
    assert_eq!((second.attempts, second.lost, second.maybe_sent, second.due_at), (0, 0, false, at(100)));
    // The second one dies; who finds that out and gives back cannot undo it.
    let third = lease_one(&*store, lanes[0], at(LEASE_MS + 100)).await;
    assert_eq!((third.attempts, third.lost, third.maybe_sent), (1, 1, true));
    store.release(&[third.job], at(LEASE_MS + 200)).await.unwrap();
    let fourth = lease_one(&*store, lanes[0], at(LEASE_MS + 200)).await;
    assert_eq!((fourth.attempts, fourth.lost, fourth.maybe_sent), (1, 1, true));
}

async fn a_lease_can_be_extended(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(1);
    send(&*store, &lanes, at(0)).await;
    let leased = lease_one(&*store, lanes[0], at(0)).await;
    store.extend_lease(&[leased.job], at(LEASE_MS * 3)).await.unwrap();
    assert!(lease(&*store, &lanes, at(LEASE_MS * 3 - 1)).await.is_empty());
    assert_eq!(lease_one(&*store, lanes[0], at(LEASE_MS * 3)).await.lost, 1);
}

async fn one_lease_is_answered_once_even_within_one_call(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(2);
    let (_, batch, _) = send(&*store, &lanes, at(0)).await;
    let leased = lease(&*store, &lanes, at(0)).await;
    let (a, b) = (leased[0].job, leased[1].job);
    let changed = store
        .finish(vec![
            finish(a, again(at(1_000), 1), at(1)),
            finish(a, end(DeliveryStatus::Failed), at(1)),
            finish(JobRef { fence: 99, ..b }, end(DeliveryStatus::Failed), at(1)),
            finish(b, end(DeliveryStatus::Skipped), at(1)),
            finish(b, end(DeliveryStatus::Failed), at(1)),
        ])
        .await
        .unwrap();
    assert_eq!(changed.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true, false]);
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 2, pending: 1, skipped: 1, ..BatchCounts::default() });
    assert!(store.finish(Vec::new()).await.unwrap().is_empty());
}

// ---- batches and leads

async fn a_batch_ends_once_whoever_comes_last(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let lanes = lanes(16);
    for round in 0..10 {
        let (lead, batch, _) = send(&*store, &lanes, at(round)).await;
        let mut tasks = tokio::task::JoinSet::new();
        for (i, leased) in lease(&*store, &lanes, at(round)).await.into_iter().enumerate() {
            let store = store.clone();
            let status = if i == 3 { DeliveryStatus::InDoubt } else { DeliveryStatus::Delivered };
            tasks.spawn(async move { finish_one(&*store, leased.job, end(status), at(round)).await.unwrap() });
        }
        let ended: Vec<_> = tasks.join_all().await.into_iter().filter_map(|changed| changed.ended).collect();
        assert_eq!(ended, [BatchStatus::Partial]);
        assert_eq!(lead_state(&*store, lead).await, LeadStatus::Partial);
        assert_eq!(counts(&*store, batch).await, BatchCounts { total: 16, delivered: 15, in_doubt: 1, ..BatchCounts::default() });
    }
}

async fn a_lead_is_processing_while_some_of_it_has_ended(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(2);
    let (lead, _, _) = send(&*store, &lanes, at(0)).await;
    let leased = lease(&*store, &lanes, at(0)).await;
    assert_eq!(lead_state(&*store, lead).await, LeadStatus::Accepted);
    finish_one(&*store, leased[0].job, end(DeliveryStatus::Failed), at(1)).await.unwrap();
    assert_eq!(lead_state(&*store, lead).await, LeadStatus::Processing);
    let changed = finish_one(&*store, leased[1].job, end(DeliveryStatus::Failed), at(2)).await.unwrap();
    assert_eq!((changed.ended, lead_state(&*store, lead).await), (Some(BatchStatus::Failed), LeadStatus::Failed));
}

async fn the_first_failure_cancels_what_waits_when_failures_are_not_allowed(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(5);
    let mut intake = intake(project_id(), &lanes, at(0));
    intake.options.allow_failures = false;
    let (batch, ids): (_, Vec<_>) = (intake.batch, intake.deliveries.iter().map(|delivery| delivery.id).collect());
    accept(&*store, intake).await;
    let leased = lease(&*store, &lanes[..3], at(0)).await;
    // The second is queued again just before the first fails, in the same call; the third is still being sent.
    let (first, second, third) = (leased[0].job, leased[1].job, leased[2].job);
    let both = vec![finish(second, again(at(5_000), 1), at(1)), finish(first, end(DeliveryStatus::Failed), at(1))];
    let changed = store.finish(both).await.unwrap();
    assert!(changed.iter().all(|changed| changed.as_ref().unwrap().ended.is_none()));
    let expected =
        [DeliveryStatus::Failed, DeliveryStatus::Cancelled, DeliveryStatus::Sending, DeliveryStatus::Cancelled, DeliveryStatus::Cancelled];
    for (id, expected) in ids.iter().zip(expected) {
        assert_eq!(status(&*store, *id).await, expected);
    }
    assert_eq!(store.backlog(), 1);
    let changed = finish_one(&*store, third, end(DeliveryStatus::Delivered), at(2)).await.unwrap();
    assert_eq!(changed.ended, Some(BatchStatus::Partial));
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 5, delivered: 1, failed: 1, cancelled: 3, ..BatchCounts::default() });
}

async fn a_failure_whose_siblings_all_wait_ends_the_batch(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(3);
    let mut intake = intake(project_id(), &lanes, at(0));
    intake.options.allow_failures = false;
    accept(&*store, intake).await;
    let leased = lease_one(&*store, lanes[0], at(0)).await;
    let changed = finish_one(&*store, leased.job, end(DeliveryStatus::Failed), at(1)).await.unwrap();
    assert_eq!((changed.ended, store.backlog()), (Some(BatchStatus::Failed), 0));
}

async fn cancelling_spares_what_is_being_sent(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(3);
    let (lead, batch, ids) = send(&*store, &lanes, at(0)).await;
    let leased = lease_one(&*store, lanes[0], at(0)).await;
    assert_eq!(store.cancel_delivery(ids[0], at(1)).await.unwrap(), None);
    assert_eq!(store.cancel_delivery(ids[1], at(1)).await.unwrap(), Some(Changed::only(batch, lead)));
    assert_eq!(store.cancel_delivery(ids[1], at(1)).await.unwrap(), None);
    assert_eq!(store.cancel_delivery(DeliveryId::new(at(0)), at(1)).await.unwrap(), None);
    assert_eq!(store.cancel_batch(BatchId::new(at(0)), at(1)).await.unwrap(), None);
    let stopping = Changed { timer: true, ..Changed::only(batch, lead) };
    assert_eq!(store.cancel_batch(batch, at(2)).await.unwrap(), Some((1, stopping)));
    assert_eq!(store.cancel_batch(batch, at(2)).await.unwrap(), Some((0, Changed::only(batch, lead))));
    store.release(&[leased.job], at(3)).await.unwrap();
    let (count, changed) = store.cancel_batch(batch, at(3)).await.unwrap().unwrap();
    assert_eq!((count, changed.ended), (1, Some(BatchStatus::Cancelled)));
    assert_eq!(store.cancel_batch(batch, at(4)).await.unwrap().unwrap().1.ended, None, "it ended before");
    assert_eq!(lead_state(&*store, lead).await, LeadStatus::Failed);
    assert_eq!(store.batch(batch).await.unwrap().unwrap().finished_at, Some(at(3)));
    assert_eq!(store.backlog(), 0);
}

async fn a_retry_by_hand_opens_the_batch_again(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(2);
    let (lead, batch, ids) = send(&*store, &lanes, at(0)).await;
    let leased = lease(&*store, &lanes, at(0)).await;
    assert_eq!(store.retry_delivery(ids[0], at(0)).await.unwrap(), None, "it is being sent");
    assert!(store.checkpoint(leased[0].job, "memo").await.unwrap());
    finish_one(&*store, leased[0].job, end(DeliveryStatus::InDoubt), at(1)).await.unwrap();
    let changed = finish_one(&*store, leased[1].job, end(DeliveryStatus::Delivered), at(1)).await.unwrap();
    assert_eq!(changed.ended, Some(BatchStatus::Partial));
    assert_eq!(store.retry_delivery(ids[1], at(2)).await.unwrap(), None, "it was delivered");
    assert_eq!(store.retry_delivery(DeliveryId::new(at(0)), at(2)).await.unwrap(), None);

    assert_eq!(store.retry_delivery(ids[0], at(2)).await.unwrap(), Some(Changed::only(batch, lead)));
    assert_eq!(store.retry_delivery(ids[0], at(2)).await.unwrap(), None, "it is queued");
    let delivery = store.delivery(ids[0]).await.unwrap().unwrap();
    assert_eq!((delivery.status, delivery.due_at, delivery.attempts), (DeliveryStatus::Queued, Some(at(2)), 0));
    let open = store.batch(batch).await.unwrap().unwrap();
    assert_eq!((open.status, open.finished_at, open.counts.pending), (BatchStatus::Pending, None, 1));
    assert_eq!((lead_state(&*store, lead).await, store.backlog()), (LeadStatus::Processing, 1));

    let again = lease_one(&*store, lanes[0], at(2)).await;
    assert_eq!((again.attempts, again.lost, again.maybe_sent, again.memo.as_deref()), (0, 0, true, Some("memo")));
    assert_eq!(finish_one(&*store, leased[0].job, end(DeliveryStatus::Failed), at(3)).await, None, "an answer of its first life");
    let changed = finish_one(&*store, again.job, end(DeliveryStatus::Delivered), at(3)).await.unwrap();
    assert_eq!(changed.ended, Some(BatchStatus::Completed), "it ends again");
    assert_eq!(lead_state(&*store, lead).await, LeadStatus::Completed);
    let numbers: Vec<_> = store.attempts(ids[0]).await.unwrap().iter().map(|attempt| attempt.no).collect();
    assert_eq!(numbers, [1, 2], "attempts go on counting");
}

/// A small generator of the same numbers on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

async fn counters_agree_with_deliveries_after_any_operations(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let lanes = lanes(4);
    let mut dice = Dice(0x5eed_1e4d);
    let (mut batches, mut deliveries, mut leases) = (Vec::new(), Vec::new(), Vec::<JobRef>::new());
    let mut open = BTreeSet::new();
    let note = |open: &mut BTreeSet<BatchId>, changed: &Changed| {
        if changed.ended.is_some() {
            assert!(open.remove(&changed.batch), "a batch ended that was not open");
        }
    };
    for step in 0..600 {
        let now = at(step * 1_000);
        match dice.roll(8) {
            0 | 1 => {
                let mut intake = intake(project_id(), &lanes[..1 + dice.roll(4)], now);
                intake.options.allow_failures = dice.roll(2) == 0;
                open.insert(intake.batch);
                batches.push(intake.batch);
                deliveries.extend(intake.deliveries.iter().map(|delivery| delivery.id));
                accept(&*store, intake).await;
            }
            2 | 3 => leases.extend(lease(&*store, &lanes[..1 + dice.roll(4)], now).await.iter().map(|leased| leased.job)),
            4 | 5 => {
                let mut finished = Vec::new();
                for _ in 0..leases.len().min(1 + dice.roll(6)) {
                    let job = leases.swap_remove(dice.roll(leases.len()));
                    let next = match dice.roll(5) {
                        0 => again(now.plus(Duration::from_secs(3)), 1),
                        1 => end(DeliveryStatus::Failed),
                        2 => end(DeliveryStatus::InDoubt),
                        3 => end(DeliveryStatus::Skipped),
                        _ => end(DeliveryStatus::Delivered),
                    };
                    finished.push(finish(job, next, now));
                }
                store.finish(finished).await.unwrap().iter().flatten().for_each(|changed| note(&mut open, changed));
            }
            6 if !batches.is_empty() => {
                let (_, changed) = store.cancel_batch(batches[dice.roll(batches.len())], now).await.unwrap().unwrap();
                note(&mut open, &changed);
            }
            7 if !deliveries.is_empty() => {
                let id = deliveries[dice.roll(deliveries.len())];
                if let Some(changed) = store.retry_delivery(id, now).await.unwrap() {
                    open.insert(changed.batch);
                } else if let Some(changed) = store.cancel_delivery(id, now).await.unwrap() {
                    note(&mut open, &changed);
                }
            }
            _ => {}
        }
    }
    let mut pending = 0;
    for id in batches {
        let batch = store.batch(id).await.unwrap().unwrap();
        let mut counted = BatchCounts::default();
        for delivery in store.deliveries_of_batch(id).await.unwrap() {
            counted.total += 1;
            *counted.of(delivery.status) += 1;
            assert_eq!(delivery.due_at.is_some(), !delivery.status.is_terminal());
            assert_eq!(delivery.finished_at.is_some(), delivery.status.is_terminal());
        }
        assert_eq!((batch.counts, batch.status), (counted, batch_status(&counted)));
        assert_eq!(open.contains(&id), batch.status == BatchStatus::Pending);
        assert_eq!(lead_state(&*store, batch.lead_id).await, lead_status(&counted));
        pending += u64::from(counted.pending);
    }
    assert_eq!(store.backlog(), pending);
}

async fn what_was_acknowledged_is_there_after_a_crash(backend: &dyn Backend) {
    let lanes = lanes(3);
    let mut all = Vec::new();
    let store = backend.open(1_000).await;
    for n in 0..20 {
        all.push(send(&*store, &lanes, at(n)).await);
    }
    let leased = lease(&*store, &lanes[..1], at(100)).await;
    finish_one(&*store, leased[0].job, end(DeliveryStatus::Delivered), at(100)).await.unwrap();
    drop(store); // nothing is closed
    let store = backend.open(1_000).await;
    assert_eq!(store.backlog(), 59);
    for (lead, batch, _) in &all {
        assert!(store.lead(*lead).await.unwrap().is_some());
        assert_eq!(counts(&*store, *batch).await.total, 3);
    }
    let later = lease(&*store, &lanes, at(100 + LEASE_MS)).await;
    assert_eq!(later.len(), 59);
    assert_eq!(later.iter().filter(|leased| leased.lost > 0).count(), 19, "calls that the crash interrupted");
    assert!(later.iter().all(|leased| leased.lead.name.as_deref() == Some("Иван 🙂")), "leads are read from the database");
}

// ---- lists

async fn lists_show_each_row_once_however_much_is_written_meanwhile(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let (project, lanes) = (project_id(), lanes(2));
    let mut expected = Vec::new();
    for n in 0..23 {
        let intake = intake(project, &lanes, at(n * 1_000));
        expected.push(intake.lead.id);
        accept(&*store, intake).await;
    }
    send(&*store, &lanes, at(0)).await; // another project's
    expected.reverse();
    let mut query = ListQuery { project: Some(project), limit: 5, ..ListQuery::default() };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = store.leads(&query).await.unwrap();
        seen.extend(page.items.iter().map(|record| record.lead.id));
        query.before = page.next;
        pages += 1;
        if page.next.is_none() {
            break;
        }
        accept(&*store, intake(project, &lanes, at(100_000 + pages))).await;
    }
    assert_eq!((seen, pages), (expected, 5));
    let everything = store.leads(&ListQuery { limit: 200, ..ListQuery::default() }).await.unwrap();
    assert_eq!((everything.items.len(), everything.next), (28, None), "of every project");
    let deliveries = store.deliveries(&ListQuery { project: Some(project), limit: 7, ..ListQuery::default() }).await.unwrap();
    assert_eq!((deliveries.items.len(), deliveries.next.is_some()), (7, true));
    assert!(deliveries.items.windows(2).all(|pair| pair[0].id > pair[1].id));
}

async fn lists_filter_by_status_channel_and_time(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(6));
    let mut first = intake(project, &lanes, at(0));
    first.deliveries[5].channel = "email".to_owned();
    let ids: Vec<_> = first.deliveries.iter().map(|delivery| delivery.id).collect();
    accept(&*store, first).await;
    let leased = lease(&*store, &lanes[..5], at(0)).await;
    let ends = [DeliveryStatus::Delivered, DeliveryStatus::Skipped, DeliveryStatus::Failed, DeliveryStatus::InDoubt];
    for (one, status) in leased.iter().zip(ends) {
        finish_one(&*store, one.job, end(status), at(1)).await.unwrap();
    }
    let list = async |project: Option<ProjectId>, status: &str| {
        let query = ListQuery { project, status: Some(status.to_owned()), limit: 50, ..ListQuery::default() };
        store.deliveries(&query).await.unwrap().items.iter().map(|delivery| delivery.id).collect::<Vec<_>>()
    };
    for project in [Some(project), None] {
        for (i, status) in ["delivered", "skipped", "failed", "in_doubt", "sending", "queued"].into_iter().enumerate() {
            assert_eq!(list(project, status).await, [ids[i]], "{status}");
        }
        assert!(list(project, "cancelled").await.is_empty());
        assert!(list(project, "nonsense").await.is_empty());
    }
    let by_channel = ListQuery { project: Some(project), channel: Some("email".to_owned()), limit: 50, ..ListQuery::default() };
    assert_eq!(store.deliveries(&by_channel).await.unwrap().items.len(), 1);

    let mut second = intake(project, &[], at(5_000));
    second.lead.external_id = Some("x".to_owned());
    accept(&*store, second).await;
    let leads = async |query: ListQuery| store.leads(&ListQuery { project: Some(project), limit: 50, ..query }).await.unwrap().items.len();
    for (status, count) in [("processing", 1), ("unrouted", 1), ("completed", 0), ("failed", 0), ("nonsense", 0)] {
        assert_eq!(leads(ListQuery { status: Some(status.to_owned()), ..ListQuery::default() }).await, count, "{status}");
    }
    for (after, before, count) in [(0, 5_001, 2), (1, 5_001, 1), (0, 5_000, 1), (5_000, 5_000, 0), (5_001, 9_000, 0)] {
        let query = ListQuery { created_after: Some(at(after)), created_before: Some(at(before)), ..ListQuery::default() };
        assert_eq!(leads(query).await, count, "{after} to {before}");
    }
}

// ---- projects, keys, credentials

pub(super) fn project(external_id: &str) -> Project {
    Project {
        id: project_id(),
        external_id: external_id.to_owned(),
        name: "Shop".to_owned(),
        default_region: "RU".to_owned(),
        time_zone: "Europe/Moscow".to_owned(),
        locale: "ru".to_owned(),
        dedup: DedupSettings { enabled: false, ttl_sec: 60, ..DedupSettings::default() },
        sending: SendingSettings::default(),
        retention: RetentionSettings::default(),
        callback_secrets: CallbackSecrets::default(),
        created_at: at(0),
        updated_at: at(0),
    }
}

async fn projects_are_kept_under_unique_names(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let mut shop = project("shop");
    let keep =
        (Idempotency { scope: [1; 32], body_hash: [1; 32], expires_at: at(100) }, StoredAnswer { status: 201, body: b"{}".to_vec() });
    assert_eq!(store.create_project(&shop, Some(keep.clone())).await.unwrap(), Written::New(()));
    assert_eq!(store.create_project(&shop, Some(keep.clone())).await.unwrap(), Written::Replayed(keep.1.clone()));
    let other = (Idempotency { body_hash: [2; 32], ..keep.0 }, keep.1);
    assert_eq!(store.create_project(&shop, Some(other)).await.unwrap(), Written::KeyReused);
    let taken = store.create_project(&project("shop"), None).await;
    assert!(matches!(taken, Err(StoreError::Taken { what: "external_id", ref value }) if value == "shop"), "{taken:?}");
    shop.name = "New name".to_owned();
    shop.dedup.enabled = true;
    shop.updated_at = at(5);
    assert!(store.update_project(&shop).await.unwrap());
    assert!(!store.update_project(&project("nowhere")).await.unwrap());
    assert_eq!(store.project(shop.id).await.unwrap().as_ref(), Some(&shop));
    assert_eq!(store.project_by_external_id("shop").await.unwrap().as_ref(), Some(&shop));
    assert!(store.project_by_external_id("nowhere").await.unwrap().is_none());
    let mut ids = vec![shop.id];
    for n in 0..4 {
        let one = project(&format!("p{n}"));
        ids.push(one.id);
        store.create_project(&one, None).await.unwrap();
    }
    ids.sort();
    let first = store.projects(None, 3).await.unwrap();
    let second = store.projects(Some(first.items[2].id), 3).await.unwrap();
    assert_eq!((first.has_more, second.has_more), (true, false));
    assert_eq!(first.items.iter().chain(&second.items).map(|one| one.id).collect::<Vec<_>>(), ids);
}

async fn keys_are_found_by_hash_and_revoked_once(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let key = |n: u8, project| ApiKey {
        id: KeyId::new(at(i64::from(n))),
        name: "site".to_owned(),
        hash: [n; 32],
        hint: "lw_abcd".to_owned(),
        scopes: vec![Scope::LeadsWrite, Scope::LeadsRead],
        project,
        rate: None,
        rotated_from: None,
        replaced_by: None,
        created_at: at(0),
        expires_at: Some(at(9_000)),
        revoked_at: None,
        last_used_at: None,
    };
    let mine = project_id();
    let (mut a, b, c) = (key(1, Some(mine)), key(2, None), key(3, Some(mine)));
    for key in [&a, &b, &c] {
        assert_eq!(store.create_key(key, None).await.unwrap(), Written::New(()));
    }
    assert_eq!(store.key_by_hash(&[1; 32]).await.unwrap().as_ref(), Some(&a));
    assert_eq!(store.key_by_hash(&[9; 32]).await.unwrap(), None);
    assert!(store.revoke_key(a.id, at(7)).await.unwrap());
    assert!(!store.revoke_key(a.id, at(8)).await.unwrap());
    store.touch_keys(&BTreeMap::from([(a.id, at(50)), (KeyId::new(at(0)), at(50))])).await.unwrap();
    store.touch_keys(&BTreeMap::from([(a.id, at(40))])).await.unwrap();
    (a.revoked_at, a.last_used_at) = (Some(at(7)), Some(at(50)));
    assert_eq!(store.key(a.id).await.unwrap().as_ref(), Some(&a));
    assert_eq!(store.keys(Some(mine), None, 10).await.unwrap().items, [a.clone(), c.clone()]);
    let page = store.keys(None, Some(a.id), 1).await.unwrap();
    assert_eq!((page.items, page.has_more), (vec![b], true));
}

pub(super) fn credential(project: ProjectId) -> Credential {
    let sealed = SealedSecret { key_id: "k1".to_owned(), sealed: vec![0, 1, 255], updated_at: at(0) };
    Credential {
        id: CredentialId::new(at(0)),
        project,
        purpose: Purpose::Standing,
        entity: None,
        channel: "webhook".to_owned(),
        name: "Hook".to_owned(),
        enabled: true,
        config: serde_json::from_value(json!({"url": "https://x.example"})).unwrap(),
        secrets: BTreeMap::from([("signing_secret".to_owned(), sealed)]),
        mapping: serde_json::Map::new(),
        filter: None,
        retry: Some(RetryOverride::Schedule { schedule: vec!["5s".to_owned()] }),
        state: CredentialState::Active,
        state_reason: None,
        state_since: at(0),
        version: 1,
        created_at: at(0),
        updated_at: at(0),
    }
}

async fn a_credential_is_written_only_over_the_version_that_was_read(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let project = project_id();
    let mut one = credential(project);
    assert_eq!(store.create_credential(&one, None).await.unwrap(), Written::New(()));
    assert_eq!(store.credential(one.id).await.unwrap().as_ref(), Some(&one));
    (one.name, one.entity, one.enabled, one.retry) = ("Other".to_owned(), Some("e".to_owned()), false, None);
    store.update_credential(&one).await.unwrap();
    assert!(matches!(store.update_credential(&one).await, Err(StoreError::Stale)));
    one.version = 2;
    assert_eq!(store.credential(one.id).await.unwrap().as_ref(), Some(&one));
    let reason = StateReason { code: "unauthorized".to_owned(), message: "401".to_owned() };
    assert!(store.set_credential_state(one.id, CredentialState::Invalid, Some(reason.clone()), at(9)).await.unwrap());
    assert!(!store.set_credential_state(CredentialId::new(at(0)), CredentialState::Active, None, at(9)).await.unwrap());
    (one.state, one.state_reason, one.state_since) = (CredentialState::Invalid, Some(reason), at(9));
    assert_eq!(store.credentials(project).await.unwrap(), [one.clone()]);
    store.update_credential(&one).await.unwrap();
    assert!(store.credentials(project_id()).await.unwrap().is_empty());
}

async fn the_keys_that_secrets_are_sealed_with_are_known(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    assert_eq!(store.sealing_keys().await.unwrap(), Vec::<String>::new());
    let project = project_id();
    for keys in [vec!["k1", "k2"], vec!["k1"], vec![]] {
        let mut one = credential(project);
        let secret = |key: &&str| SealedSecret { key_id: (*key).to_owned(), sealed: vec![1, 2], updated_at: at(0) };
        one.secrets = keys.iter().enumerate().map(|(no, key)| (format!("s{no}"), secret(key))).collect();
        assert_eq!(store.create_credential(&one, None).await.unwrap(), Written::New(()));
    }
    assert_eq!(store.sealing_keys().await.unwrap(), ["k1", "k2"]);
}

async fn a_pause_is_kept_until_it_is_forgotten_or_its_credential_is_deleted(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let (one, other) = (credential(project_id()), credential(project_id()));
    for credential in [&one, &other] {
        assert_eq!(store.create_credential(credential, None).await.unwrap(), Written::New(()));
    }
    assert_eq!(store.pause(one.id).await.unwrap(), None);
    store.set_pause(one.id, Some((at(5), Pause::Throttled))).await.unwrap();
    store.set_pause(one.id, Some((at(9), Pause::BreakerOpen))).await.unwrap();
    store.set_pause(other.id, Some((at(7), Pause::Throttled))).await.unwrap();
    assert_eq!(store.pause(one.id).await.unwrap(), Some((at(9), Pause::BreakerOpen)));
    store.set_pause(one.id, None).await.unwrap();
    assert_eq!(store.pause(one.id).await.unwrap(), None);
    store.delete_credential(other.id, at(1)).await.unwrap();
    assert_eq!(store.pause(other.id).await.unwrap(), None);
}

async fn deleting_a_credential_cancels_what_waits_for_it(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let one = credential(project_id());
    store.create_credential(&one, None).await.unwrap();
    let other = lanes(1)[0];
    store.kv_write(kv(one.id, "k", b"v", 0)).await.unwrap();
    let (_, _, sending) = send(&*store, &[one.id], at(0)).await;
    let leased = lease_one(&*store, one.id, at(0)).await;
    for n in 0..600 {
        send(&*store, &vec![one.id; 1 + n % 2], at(1)).await;
    }
    let (_, both, _) = send(&*store, &[one.id, other], at(1)).await;
    let changed = store.delete_credential(one.id, at(2)).await.unwrap().unwrap();
    assert_eq!(changed.len(), 601);
    assert!(changed.iter().all(|one| one.ended == (one.batch != both).then_some(BatchStatus::Cancelled)), "each batch once");
    assert_eq!(counts(&*store, both).await, BatchCounts { total: 2, pending: 1, cancelled: 1, ..BatchCounts::default() });
    assert_eq!(store.backlog(), 2);
    assert!(store.credential(one.id).await.unwrap().is_none());
    assert!(store.kv_get(one.id, "k", at(2)).await.unwrap().is_none());
    assert!(store.delete_credential(one.id, at(2)).await.unwrap().is_none());
    assert_eq!(status(&*store, sending[0]).await, DeliveryStatus::Sending, "what is being sent comes to its end");
    assert!(finish_one(&*store, leased.job, end(DeliveryStatus::Delivered), at(3)).await.is_some());
}

// ---- plugins' state, pins, chores

fn kv(credential: CredentialId, key: &str, value: &[u8], now: i64) -> KvWrite {
    KvWrite { credential, key: key.to_owned(), value: value.to_vec(), expires_at: None, expected: None, quota_bytes: 100, now: at(now) }
}

async fn small_state_is_swapped_by_version_within_its_quota_and_time(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let (one, other) = (lanes(1)[0], lanes(1)[0]);
    let expecting = |expected, value: &[u8], now| KvWrite { expected: Some(expected), ..kv(one, "k", value, now) };
    assert_eq!(store.kv_get(one, "k", at(0)).await.unwrap(), None);
    assert_eq!(store.kv_write(expecting(Some(1), b"a", 0)).await.unwrap(), KvWritten::Mismatch);
    assert_eq!(store.kv_write(expecting(None, b"a", 0)).await.unwrap(), KvWritten::Stored);
    assert_eq!(store.kv_write(expecting(None, b"b", 0)).await.unwrap(), KvWritten::Mismatch);
    assert_eq!(store.kv_write(expecting(Some(1), b"b", 0)).await.unwrap(), KvWritten::Stored);
    assert_eq!(store.kv_write(kv(one, "k", b"", 0)).await.unwrap(), KvWritten::Stored);
    assert_eq!(store.kv_get(one, "k", at(0)).await.unwrap(), Some(KvEntry { value: Vec::new(), version: 3 }));
    assert_eq!(store.kv_get(other, "k", at(0)).await.unwrap(), None);

    assert_eq!(store.kv_write(kv(one, "ключ", &[0; 91], 0)).await.unwrap(), KvWritten::Stored, "99 bytes and 1 of the other key");
    assert_eq!(store.kv_write(kv(one, "x", b"", 0)).await.unwrap(), KvWritten::Quota);
    assert_eq!(store.kv_write(kv(other, "x", b"", 0)).await.unwrap(), KvWritten::Stored);
    store.kv_delete(one, "ключ").await.unwrap();
    store.kv_delete(one, "nothing").await.unwrap();

    let expiring = KvWrite { expires_at: Some(at(10)), ..kv(one, "k", &[0; 99], 0) };
    assert_eq!(store.kv_write(expiring).await.unwrap(), KvWritten::Stored);
    assert!(store.kv_get(one, "k", at(9)).await.unwrap().is_some());
    assert_eq!(store.kv_get(one, "k", at(10)).await.unwrap(), None);
    assert_eq!(store.kv_write(kv(one, "y", &[0; 99], 10)).await.unwrap(), KvWritten::Stored, "what has expired takes no room");
    store.kv_delete(one, "y").await.unwrap();
    assert_eq!(store.kv_write(expecting(None, b"new", 10)).await.unwrap(), KvWritten::Stored);
    assert!(store.kv_get(one, "k", at(10)).await.unwrap().unwrap().version > 3, "an old version never comes back");
}

async fn only_one_swap_of_a_version_succeeds(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let one = lanes(1)[0];
    store.kv_write(kv(one, "k", b"0", 0)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20u8 {
        let (store, write) = (store.clone(), KvWrite { expected: Some(Some(1)), ..kv(one, "k", &[n], 0) });
        tasks.spawn(async move { store.kv_write(write).await.unwrap() });
    }
    let stored = tasks.join_all().await.into_iter().filter(|written| *written == KvWritten::Stored).count();
    assert_eq!(stored, 1);
}

async fn a_channel_has_one_active_pin(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let pin = |version: &str, state| Pin {
        channel: "webhook".to_owned(),
        version: version.to_owned(),
        digest: [8; 32],
        state,
        updated_at: at(0),
    };
    store.set_pin(&pin("1.0.0", PinState::Active)).await.unwrap();
    store.set_pin(&pin("0.9.0", PinState::Removed)).await.unwrap();
    store.set_pin(&pin("1.1.0", PinState::Active)).await.unwrap();
    assert_eq!(store.pins().await.unwrap(), [pin("0.9.0", PinState::Removed), pin("1.1.0", PinState::Active)]);
    store.set_pin(&pin("1.1.0", PinState::Removed)).await.unwrap();
    store.clear_pin("webhook", "0.9.0").await.unwrap();
    store.clear_pin("webhook", "7.0.0").await.unwrap();
    assert_eq!(store.pins().await.unwrap(), [pin("1.1.0", PinState::Removed)]);
}

async fn pruning_removes_what_has_expired_in_slices(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lane) = (project_id(), lanes(1)[0]);
    for n in 0..5u8 {
        let mut intake = intake(project, &[], at(0));
        intake.dedup = Some(DedupKey { hash: [n; 32], expires_at: at(i64::from(n)) });
        accept(&*store, intake).await;
        let key = Idempotency { scope: [n; 32], body_hash: [0; 32], expires_at: at(i64::from(n) + 100) };
        store.keep_answer(&key, &StoredAnswer { status: 200, body: Vec::new() }, at(0)).await.unwrap();
        let expires_at = (n > 0).then(|| at(i64::from(n)));
        store.kv_write(KvWrite { expires_at, ..kv(lane, &n.to_string(), b"", 0) }).await.unwrap();
    }
    assert_eq!(store.prune(at(3), 3).await.unwrap(), Pruned { dedup: 3, idempotency: 0, kv: 3 });
    assert_eq!(store.prune(at(3), 3).await.unwrap(), Pruned { dedup: 1, idempotency: 0, kv: 0 });
    assert_eq!(store.prune(at(1_000), 100).await.unwrap(), Pruned { dedup: 1, idempotency: 5, kv: 1 });
    assert!(store.kv_get(lane, "0", at(1_000)).await.unwrap().is_some(), "what never expires stays");
}

/// Every behaviour against every implementation.
macro_rules! contract {
    ($($behaviour:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Sqlite::new()).await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    super::$behaviour(&super::Postgres::new().await).await;
                }
            )+
        }
    };
}

contract!(
    an_accepted_lead_is_there_with_all_it_promised,
    a_lead_that_nobody_wants_is_unrouted,
    a_second_lead_with_the_same_key_is_a_duplicate_until_the_first_is_forgotten,
    equal_leads_that_arrive_together_are_stored_once,
    the_same_request_gets_the_same_answer_and_writes_nothing,
    answers_of_requests_without_effect_are_kept,
    intake_is_refused_past_the_backlog_limit_and_nothing_else_is,
    a_panicking_or_impossible_request_harms_no_neighbour,
    leases_take_the_earliest_due_within_each_lanes_limit,
    concurrent_leasers_never_get_the_same_job,
    a_delivery_is_retried_and_then_delivered_with_every_attempt_on_record,
    a_late_answer_of_an_expired_lease_changes_nothing,
    every_lost_lease_is_told_of_until_an_answer_is_written,
    an_answer_after_the_lease_ended_stands_if_nobody_else_took_the_job,
    a_released_job_is_as_if_never_leased,
    a_lease_can_be_extended,
    one_lease_is_answered_once_even_within_one_call,
    a_batch_ends_once_whoever_comes_last,
    a_lead_is_processing_while_some_of_it_has_ended,
    the_first_failure_cancels_what_waits_when_failures_are_not_allowed,
    a_failure_whose_siblings_all_wait_ends_the_batch,
    cancelling_spares_what_is_being_sent,
    a_retry_by_hand_opens_the_batch_again,
    counters_agree_with_deliveries_after_any_operations,
    what_was_acknowledged_is_there_after_a_crash,
    lists_show_each_row_once_however_much_is_written_meanwhile,
    lists_filter_by_status_channel_and_time,
    projects_are_kept_under_unique_names,
    keys_are_found_by_hash_and_revoked_once,
    a_credential_is_written_only_over_the_version_that_was_read,
    the_keys_that_secrets_are_sealed_with_are_known,
    a_pause_is_kept_until_it_is_forgotten_or_its_credential_is_deleted,
    deleting_a_credential_cancels_what_waits_for_it,
    small_state_is_swapped_by_version_within_its_quota_and_time,
    only_one_swap_of_a_version_succeeds,
    a_channel_has_one_active_pin,
    pruning_removes_what_has_expired_in_slices,
);

#[path = "store_contract_sending.rs"]
mod sending;
#[path = "store_contract_withdrawn.rs"]
mod withdrawn;

#[path = "store_contract_events.rs"]
mod events;

#[path = "store_postgres.rs"]
mod postgres_database;

mod sqlite_file {
    //! What belongs to the file, not to the contract.

    use super::*;

    async fn open(path: &std::path::Path) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(path, StoreOptions::default()).await
    }

    fn words(result: Result<SqliteStore, StoreError>) -> String {
        result.err().expect("refused").to_string()
    }

    #[tokio::test]
    async fn a_second_process_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leadwire.db");
        let first = open(&path).await.unwrap();
        assert!(words(open(&path).await).contains("in use by another leadwire process"));
        first.close().await;
        assert!(!dir.path().join("leadwire.db-wal").exists(), "a clean end leaves one file");
        assert!(matches!(first.ping().await, Err(StoreError::Unavailable(_))));
        assert!(matches!(first.accept(intake(project_id(), &[], at(0))).await, Err(StoreError::Unavailable(_))));
        open(&path).await.unwrap().ping().await.unwrap();
    }

    #[tokio::test]
    async fn what_a_crash_interrupted_is_due_at_once_after_the_restart() {
        let backend = Sqlite::new();
        let lanes = lanes(2);
        let store = backend.open(100).await;
        send(&*store, &lanes, at(0)).await;
        let first = lease_one(&*store, lanes[0], at(10)).await;
        drop(store); // killed while one delivery is being sent
        let store = backend.open(100).await;
        assert!(store.lanes().await.unwrap().iter().all(|lane| lane.due_at <= at(10)));
        let leased = lease(&*store, &lanes, at(20)).await;
        let lost: Vec<_> = leased.iter().map(|one| (one.lane, one.lost, one.maybe_sent, one.attempts)).collect();
        assert_eq!(lost, [(lanes[0], 1, true, 1), (lanes[1], 0, false, 0)]);
        assert_eq!(finish_one(&*store, first.job, end(DeliveryStatus::Delivered), at(20)).await, None, "the answer of the dead process");
    }

    #[tokio::test]
    async fn what_must_not_be_sent_any_more_is_not_sent_after_the_restart_either() {
        let backend = Sqlite::new();
        let store = backend.open(100).await;
        let lanes = lanes(2);
        let mut overdue = intake(project_id(), &lanes[..1], at(0));
        overdue.extras.deadline_at = Some(at(1_000));
        let ids = [overdue.deliveries[0].id, send(&*store, &lanes[1..], at(0)).await.2[0]];
        accept(&*store, overdue).await;
        let leased = lease(&*store, &lanes, at(900)).await;
        store.fire_timers(at(1_000), 100).await.unwrap();
        store.cancel_batch(leased[1].batch, at(1_000)).await.unwrap();
        drop(store);
        let store = backend.open(100).await;
        assert!(store.next_timer().await.unwrap().unwrap() <= at(1_100));
        store.fire_timers(at(1_100), 100).await.unwrap();
        for (id, ended) in ids.iter().zip([DeliveryStatus::Failed, DeliveryStatus::Cancelled]) {
            assert_eq!(status(&*store, *id).await, ended);
            assert!(store.retry_delivery(*id, at(1_200)).await.unwrap().is_some());
        }
        assert!(lease(&*store, &lanes, at(1_200)).await.iter().all(|leased| leased.maybe_sent));
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_and_a_file_that_is_no_database_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        assert!(words(open(&dir.path().join("nowhere/leadwire.db")).await).contains("cannot be opened for writing"));
        let path = dir.path().join("leadwire.db");
        std::fs::write(&path, "this is a letter, not a database, and long enough to be read as one".repeat(20)).unwrap();
        assert!(words(open(&path).await).contains("no database"));
    }

    #[tokio::test]
    async fn a_schema_from_the_future_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leadwire.db");
        open(&path).await.unwrap().close().await;
        let url = format!("sqlite://{}", path.display());
        let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
        sqlx::query(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'x', 1, x'00', 0)",
        )
        .execute(&pool)
        .await
        .unwrap();
        pool.close().await;
        assert!(words(open(&path).await).contains("written by a newer leadwire"));
    }
}
