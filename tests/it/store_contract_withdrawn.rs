//! The part of the contract that is about what must not be sent any more: withdrawn while it was being sent, past its
//! deadline, or sent by someone else meanwhile.

use super::*;

/// The last answer of a lease that never came: what a retry by hand tells the plugin.
async fn retried_as_maybe_sent(store: &dyn Store, lane: CredentialId, id: DeliveryId, now: Timestamp) -> bool {
    store.retry_delivery(id, now).await.unwrap().unwrap();
    let leased = lease_one(store, lane, now).await;
    assert_eq!(leased.job.delivery, id);
    leased.maybe_sent
}

async fn what_is_being_sent_while_its_batch_is_cancelled_gets_no_further_attempt(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(3);
    let (lead, batch, ids) = send(&*store, &lanes, at(0)).await;
    let leased = lease(&*store, &lanes, at(1)).await;
    let (count, changed) = store.cancel_batch(batch, at(2)).await.unwrap().unwrap();
    assert_eq!((count, changed), (0, Changed { timer: true, ..Changed::only(batch, lead) }));
    // One arrives all the same, one would be tried again, and the node of the third is lost.
    finish_one(&*store, leased[0].job, end(DeliveryStatus::Delivered), at(3)).await.unwrap();
    let mut failed = finish(leased[1].job, again(at(10_000), 1), at(4));
    failed.last = Some(("http_503".to_owned(), "busy".to_owned()));
    let changed = store.finish(vec![failed]).await.unwrap().remove(0).unwrap();
    assert_eq!(changed.ended, None);
    let second = store.delivery(ids[1]).await.unwrap().unwrap();
    assert_eq!((second.status, second.last_code.as_deref(), second.attempts), (DeliveryStatus::Cancelled, Some("http_503"), 1));
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 3, pending: 1, delivered: 1, cancelled: 1, ..BatchCounts::default() });

    drop(store); // killed
    let store = backend.open(100).await;
    let over = lease_end(at(1));
    assert!(lease(&*store, &lanes, over).await.is_empty(), "nobody takes it up again");
    let (changes, _) = store.fire_timers(over, 100).await.unwrap();
    assert_eq!((changes.len(), changes[0].ended), (1, Some(BatchStatus::Partial)));
    assert_eq!(status(&*store, ids[2]).await, DeliveryStatus::Cancelled);
    assert_eq!(store.backlog(), 0);
    assert!(!retried_as_maybe_sent(&*store, lanes[1], ids[1], over).await, "its answer was known");
    assert!(retried_as_maybe_sent(&*store, lanes[2], ids[2], over).await);
    let later = over.plus(Duration::from_secs(3_600));
    assert_eq!(store.fire_timers(later, 100).await.unwrap().0, [], "a retry by hand is a new life");
}

async fn a_failure_that_is_not_allowed_lets_no_sibling_be_tried_again(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(2);
    let mut intake = intake(project_id(), &lanes, at(0));
    intake.options.allow_failures = false;
    let (batch, ids): (_, Vec<_>) = (intake.batch, intake.deliveries.iter().map(|delivery| delivery.id).collect());
    accept(&*store, intake).await;
    let leased = lease(&*store, &lanes, at(0)).await;
    let changed = finish_one(&*store, leased[0].job, end(DeliveryStatus::Failed), at(1)).await.unwrap();
    assert!(changed.timer && changed.ended.is_none());
    let changed = finish_one(&*store, leased[1].job, again(at(1), 0), at(2)).await.unwrap();
    assert_eq!((changed.ended, status(&*store, ids[1]).await), (Some(BatchStatus::Failed), DeliveryStatus::Cancelled));
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 2, failed: 1, cancelled: 1, ..BatchCounts::default() });
    // A person who tries one of them again gives it all its attempts.
    store.retry_delivery(ids[1], at(3)).await.unwrap().unwrap();
    let job = lease_one(&*store, lanes[1], at(3)).await.job;
    finish_one(&*store, job, again(at(5), 1), at(4)).await.unwrap();
    assert_eq!(status(&*store, ids[1]).await, DeliveryStatus::Queued);
}

async fn who_withdraws_a_batch_withdraws_its_fallbacks(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lane, to) = (lanes(1), lanes(1));
    let mut intake = intake(project_id(), &lane, at(0));
    let (batch, delivery) = (intake.batch, intake.deliveries[0].id);
    intake.extras.watches = vec![Watch { delivery, due_at: at(10), rule: super::sending::rule(&to) }];
    accept(&*store, intake).await;
    assert_eq!(store.fire_timers(at(10), 100).await.unwrap().0[0].queued, to);
    let (count, changed) = store.cancel_batch(batch, at(11)).await.unwrap().unwrap();
    assert_eq!((count, changed.ended, store.backlog()), (2, Some(BatchStatus::Cancelled), 0));
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 1, cancelled: 1, ..BatchCounts::default() });
}

async fn a_lead_does_not_fall_back_to_where_it_waits(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lane, other) = (lanes(1), lanes(1)[0]);
    let send = async |rule: FallbackRule| {
        let mut intake = intake(project_id(), &lane, at(0));
        let delivery = intake.deliveries[0].id;
        intake.extras.watches = vec![Watch { delivery, due_at: at(10), rule }];
        accept(&*store, intake).await;
        (delivery, store.fire_timers(at(10), 100).await.unwrap().0)
    };
    let (_, changes) = send(super::sending::rule(&[lane[0], other])).await;
    assert_eq!(changes[0].queued, [other]);
    let (delivery, changes) = send(super::sending::rule(&lane)).await;
    assert_eq!(changes, []);
    assert_eq!(store.delivery(delivery).await.unwrap().unwrap().overdue_at, None, "nothing stood in for it");
    let mut elsewhere = super::sending::rule(&lane);
    elsewhere.to[0].settings = Some(json!({"chat_id": 7}));
    let (_, changes) = send(elsewhere).await;
    assert_eq!(changes[0].queued, lane, "with other settings it is another place");
}

async fn nothing_is_tried_again_after_its_deadline(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(2);
    let mut intake = intake(project_id(), &lanes, at(0));
    let ids: Vec<_> = intake.deliveries.iter().map(|delivery| delivery.id).collect();
    intake.extras.deadline_at = Some(at(1_000));
    accept(&*store, intake).await;
    let leased = lease(&*store, &lanes, at(999)).await;
    assert_eq!(store.fire_timers(at(1_000), 100).await.unwrap().0, []);
    let mut failed = finish(leased[0].job, Next::Again { due_at: at(1_500), attempts: 1, maybe_sent: true }, at(1_200));
    failed.last = Some(("http_503".to_owned(), "busy".to_owned()));
    store.finish(vec![failed]).await.unwrap();
    let late = store.delivery(ids[0]).await.unwrap().unwrap();
    assert_eq!((late.status, late.last_code.as_deref()), (DeliveryStatus::Failed, Some("deadline")));
    assert!(late.last_error.unwrap().contains("http_503: busy"));
    // Nobody answers for the other one.
    let over = lease_end(at(999));
    store.fire_timers(over, 100).await.unwrap();
    assert_eq!(status(&*store, ids[1]).await, DeliveryStatus::Failed);
    assert_eq!(store.backlog(), 0);
    for n in 0..2 {
        assert!(retried_as_maybe_sent(&*store, lanes[n], ids[n], over).await, "{n}");
    }
}

async fn a_retry_by_hand_has_no_deadline(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lane = lanes(1);
    let mut intake = intake(project_id(), &lane, at(0));
    let id = intake.deliveries[0].id;
    intake.extras.deadline_at = Some(at(1_000));
    accept(&*store, intake).await;
    let job = lease_one(&*store, lane[0], at(0)).await.job;
    finish_one(&*store, job, end(DeliveryStatus::Failed), at(1)).await.unwrap();
    store.retry_delivery(id, at(500)).await.unwrap().unwrap();
    assert_eq!(store.fire_timers(at(1_000), 100).await.unwrap().0, []);
    let retried = store.delivery(id).await.unwrap().unwrap();
    assert_eq!((retried.status, retried.deadline_at), (DeliveryStatus::Queued, None));
    let job = lease_one(&*store, lane[0], at(2_000)).await.job;
    finish_one(&*store, job, again(at(3_000), 1), at(2_001)).await.unwrap();
    assert_eq!(status(&*store, id).await, DeliveryStatus::Queued);
}

async fn whoever_gave_up_in_doubt_looks_before_it_sends_again(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lane = lanes(1)[0];
    for (outcome, maybe_sent) in [(AttemptOutcome::Retry, true), (AttemptOutcome::Rejected, false)] {
        let (_, _, ids) = send(&*store, &[lane], at(0)).await;
        let job = lease_one(&*store, lane, at(0)).await.job;
        let mut failed = finish(job, end(DeliveryStatus::Failed), at(1));
        failed.attempts[0].outcome = outcome;
        store.finish(vec![failed]).await.unwrap();
        assert_eq!(retried_as_maybe_sent(&*store, lane, ids[0], at(2)).await, maybe_sent, "{outcome:?}");
    }
}

fn task(kind: TaskKind, now: Timestamp) -> Task {
    Task {
        id: TaskId::new(now),
        project: None,
        kind,
        status: TaskStatus::Running,
        asked: json!({}),
        rate: 10,
        progress: TaskProgress::default(),
        cursor: None,
        correlation: String::new(),
        created_at: now,
        finished_at: None,
    }
}

async fn once(store: &dyn Store, kind: TaskKind, began: i64, work: SliceWork) -> u32 {
    let task = task(kind, at(began));
    store.create_task(&task, None).await.unwrap();
    let slice = Slice { task: task.id, from: None, to: None, work, looked_at: 1, errors: Vec::new(), now: at(1_000) };
    store.do_slice(slice).await.unwrap().unwrap().changed
}

async fn a_task_leaves_what_was_tried_again_since_it_began(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lane = lanes(1);
    let (_, _, ids) = send(&*store, &lane, at(0)).await;
    let job = lease_one(&*store, lane[0], at(0)).await.job;
    finish_one(&*store, job, end(DeliveryStatus::Failed), at(100)).await.unwrap();
    let retry = || SliceWork::Retry(ids.clone());
    assert_eq!(once(&*store, TaskKind::DeliveriesRetry, 99, retry()).await, 0, "it ended after that");
    assert_eq!(once(&*store, TaskKind::DeliveriesRetry, 100, retry()).await, 1);

    let lead = intake(project_id(), &lane, at(0));
    let stored = lead.lead.clone();
    accept(&*store, lead).await;
    let resend = || SliceWork::Send(vec![Intake { lead: stored.clone(), ..intake(stored.project, &lane, at(900)) }]);
    assert_eq!(once(&*store, TaskKind::LeadsResend, 500, resend()).await, 1);
    assert_eq!(once(&*store, TaskKind::LeadsResend, 500, resend()).await, 0, "another task has sent it since");
    assert_eq!(store.batches_of_lead(stored.id).await.unwrap().len(), 2);
    let gone = Intake { lead: lead_of(stored.project), ..intake(stored.project, &lane, at(900)) };
    let id = gone.lead.id;
    assert_eq!(once(&*store, TaskKind::LeadsResend, 950, SliceWork::Send(vec![gone])).await, 0);
    assert!(store.lead(id).await.unwrap().is_none(), "what is gone does not come back");
}

fn lead_of(project: ProjectId) -> Lead {
    super::lead(project, at(0))
}

contract!(
    what_is_being_sent_while_its_batch_is_cancelled_gets_no_further_attempt,
    a_failure_that_is_not_allowed_lets_no_sibling_be_tried_again,
    who_withdraws_a_batch_withdraws_its_fallbacks,
    a_lead_does_not_fall_back_to_where_it_waits,
    nothing_is_tried_again_after_its_deadline,
    a_retry_by_hand_has_no_deadline,
    whoever_gave_up_in_doubt_looks_before_it_sends_again,
    a_task_leaves_what_was_tried_again_since_it_began,
);
