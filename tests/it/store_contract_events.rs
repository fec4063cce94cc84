//! The part of the contract that is about the log of live events.

use super::*;

/// Everything behind `after`, in pages of `limit`.
async fn events_from(store: &dyn Store, mut after: EventPosition, limit: u32) -> Vec<LiveEvent> {
    let mut all = Vec::new();
    loop {
        let page = store.events_after(after, limit).await.unwrap();
        assert_eq!(page.log.missed(after), None);
        assert!(page.next >= after && page.events.last().is_none_or(|last| last.position <= page.next));
        all.extend(page.events);
        after = page.next;
        if !page.more {
            return all;
        }
    }
}

async fn events(store: &dyn Store) -> Vec<LiveEvent> {
    events_from(store, EventPosition::START, 7).await
}

async fn names(store: &dyn Store) -> Vec<&'static str> {
    events(store).await.iter().map(|event| event.change.name()).collect()
}

async fn a_lead_is_told_from_accepted_to_completed(backend: &dyn Backend) {
    let store = backend.open(100).await;
    assert_eq!(store.event_log().await.unwrap(), EventLog::default());
    let mut written = store.events_written();
    written.mark_unchanged();
    let (project, lanes) = (project_id(), lanes(2));
    let intake = intake(project, &lanes, at(0));
    let (lead, batch, ids) = (intake.lead.id, intake.batch, [intake.deliveries[0].id, intake.deliveries[1].id]);
    accept(&*store, intake).await;
    assert!(written.has_changed().unwrap());
    let leased = lease(&*store, &lanes, at(5)).await;
    let refused = Finish {
        last: Some(("http_500".to_owned(), "Ann's server said no".to_owned())),
        ..finish(leased[0].job, again(at(900), 1), at(10))
    };
    store.finish(vec![refused]).await.unwrap();
    finish_one(&*store, leased[1].job, end(DeliveryStatus::Delivered), at(20)).await.unwrap();
    let leased = lease_one(&*store, lanes[0], at(900)).await;
    finish_one(&*store, leased.job, end(DeliveryStatus::Delivered), at(910)).await.unwrap();

    let told = events(&*store).await;
    let lines: Vec<_> = told.iter().map(|event| (event.change.name(), event.at)).collect();
    let expected = [
        ("lead.accepted", at(0)),
        ("batch.pending", at(0)),
        ("delivery.queued", at(0)),
        ("delivery.queued", at(0)),
        ("delivery.retry_scheduled", at(10)),
        ("delivery.delivered", at(20)),
        ("lead.processing", at(20)),
        ("delivery.delivered", at(910)),
        ("batch.completed", at(910)),
        ("lead.completed", at(910)),
    ];
    assert_eq!(lines, expected);
    assert!(told.iter().all(|event| event.project == project && event.change.lead() == Some(lead) && event.change.batch() == Some(batch)));
    assert!(told.is_sorted_by(|a, b| a.position < b.position));
    let Change::Delivery { delivery, credential, channel, kind, status, due_at, retry, code, .. } = &told[4].change else { panic!() };
    assert_eq!((*delivery, *credential, channel.as_ref()), (ids[0], lanes[0], "webhook"));
    assert_eq!((*kind, *status, *due_at, *retry), (DeliveryKind::Lead, DeliveryStatus::Queued, Some(at(900)), true));
    assert_eq!(code.as_deref(), Some("http_500"));
    let Change::Batch { counts, .. } = &told[8].change else { panic!() };
    assert_eq!(*counts, BatchCounts { total: 2, delivered: 2, ..BatchCounts::default() });

    drop(store); // killed at once
    assert_eq!(events(&*backend.open(100).await).await, told);
}

async fn what_was_refused_is_not_told(backend: &dyn Backend) {
    let store = backend.open(2).await;
    let (project, lanes) = (project_id(), lanes(2));
    let dedup = Some(DedupKey { hash: [1; 32], expires_at: at(1_000) });
    accept(&*store, Intake { dedup, ..intake(project, &lanes, at(0)) }).await;
    let one = credential(project);
    store.create_credential(&one, None).await.unwrap();
    let before = names(&*store).await;
    // A duplicate, one too many, a lost lease, a stale write, and what is not there.
    assert!(matches!(accept(&*store, Intake { dedup, ..intake(project, &[], at(1)) }).await, Accepted::Duplicate { .. }));
    assert!(matches!(store.accept(intake(project, &lanes, at(1))).await, Err(StoreError::Overloaded { .. })));
    let lost = JobRef { delivery: DeliveryId::new(at(0)), fence: 7 };
    assert_eq!(finish_one(&*store, lost, end(DeliveryStatus::Delivered), at(2)).await, None);
    assert!(matches!(store.update_credential(&Credential { version: 9, ..one }).await, Err(StoreError::Stale)));
    assert!(!store.set_credential_state(CredentialId::new(at(0)), CredentialState::Paused, None, at(2)).await.unwrap());
    assert!(store.retry_delivery(DeliveryId::new(at(0)), at(2)).await.unwrap().is_none());
    // Nor is what nobody can see: who sends, and for how long.
    let leased = lease(&*store, &lanes, at(3)).await;
    store.extend_lease(&[leased[0].job], at(100)).await.unwrap();
    store.release(&[leased[0].job], at(4)).await.unwrap();
    assert_eq!(names(&*store).await, before);
}

async fn people_and_time_are_told_too(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lanes, to) = (lanes(2), lanes(1)[0]);
    let mut first = intake(project_id(), &lanes, at(0));
    let (batch, ids) = (first.batch, [first.deliveries[0].id, first.deliveries[1].id]);
    let target = FallbackTarget { credential: to, channel: "email".to_owned(), settings: None };
    let rule = FallbackRule { name: "late".into(), channel: Some("webhook".into()), credential: None, within_sec: 1, to: vec![target] };
    first.extras.watches = vec![Watch { delivery: ids[0], due_at: at(1_000), rule }];
    first.options.callbacks.then = vec![Callback { credential: to, channel: "webhook".to_owned(), settings: None, template: None }];
    accept(&*store, first).await;
    let seen = events(&*store).await.len();
    store.fire_timers(at(1_000), 10).await.unwrap();
    store.cancel_delivery(ids[1], at(1_100)).await.unwrap().unwrap();
    store.cancel_batch(batch, at(1_200)).await.unwrap().unwrap();
    store.retry_delivery(ids[0], at(1_300)).await.unwrap().unwrap();
    let told = events(&*store).await.split_off(seen);
    let lines: Vec<_> = told.iter().map(|event| (event.change.name(), event.at)).collect();
    let expected = [
        ("delivery.queued", at(1_000)),
        ("delivery.cancelled", at(1_100)),
        ("lead.processing", at(1_100)),
        ("delivery.cancelled", at(1_200)),
        ("delivery.cancelled", at(1_200)), // the fallback that waits
        ("batch.cancelled", at(1_200)),
        ("lead.failed", at(1_200)),
        ("delivery.queued", at(1_200)),
        ("delivery.queued", at(1_300)),
        ("batch.pending", at(1_300)),
        ("lead.processing", at(1_300)),
    ];
    assert_eq!(lines, expected);
    let kinds: Vec<_> = told
        .iter()
        .filter_map(|event| match &event.change {
            Change::Delivery { kind, channel, .. } => Some((*kind, channel.as_ref())),
            _ => None,
        })
        .collect();
    let lead = (DeliveryKind::Lead, "webhook");
    let fallback = (DeliveryKind::Fallback, "email");
    assert_eq!(kinds, [fallback, lead, lead, fallback, (DeliveryKind::Callback, "webhook"), lead]);
}

async fn what_happens_to_a_credential_is_told_but_not_of_the_hosts_own(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let project = project_id();
    let mut one = credential(project);
    store.create_credential(&one, None).await.unwrap();
    let reason = StateReason { code: "unauthorized".to_owned(), message: "Ann's token was refused".to_owned() };
    store.set_credential_state(one.id, CredentialState::Invalid, Some(reason), at(5)).await.unwrap();
    (one.enabled, one.updated_at) = (false, at(6));
    store.update_credential(&one).await.unwrap();
    send(&*store, &[one.id], at(7)).await;
    store.delete_credential(one.id, at(8)).await.unwrap().unwrap();
    let own = Credential { id: CredentialId::new(at(0)), purpose: Purpose::Callback { origin: "https://x.example".into() }, ..one.clone() };
    store.ensure_callback_credential(&own, 5).await.unwrap();
    store.set_credential_state(own.id, CredentialState::Invalid, None, at(9)).await.unwrap();
    let notice = Notice {
        kind: NoticeKind::BreakerOpen,
        project,
        batch: BatchId::new(at(0)),
        lead: LeadId::new(at(0)),
        credential: Some((one.id, "webhook".to_owned())),
        why: Some("too many failures".to_owned()),
        at: at(10),
    };
    assert!(!store.note(&notice).await.unwrap(), "no rule wants it, and it is told all the same");

    let told = events(&*store).await;
    let lines: Vec<_> = told
        .iter()
        .filter_map(|event| match &event.change {
            Change::Credential { credential, channel, enabled, state, code, .. } => {
                assert_eq!((*credential, channel.as_ref(), event.project), (one.id, "webhook", project));
                Some((event.change.name(), event.at, *enabled, *state, code.as_deref()))
            }
            _ => None,
        })
        .collect();
    use CredentialState::{Active, BreakerOpen, Invalid};
    let expected = [
        ("credential.created", at(0), true, Active, None),
        ("credential.invalid", at(5), true, Invalid, Some("unauthorized")),
        ("credential.updated", at(6), false, Active, None),
        ("credential.active", at(6), false, Active, None),
        ("credential.deleted", at(8), false, Active, None),
        ("credential.breaker_open", at(10), true, BreakerOpen, None),
    ];
    assert_eq!(lines, expected);
}

/// What each thing's last event says.
#[derive(Default, PartialEq, Debug)]
struct Standing {
    leads: BTreeMap<LeadId, LeadStatus>,
    batches: BTreeMap<BatchId, (BatchStatus, BatchCounts)>,
    deliveries: BTreeMap<DeliveryId, DeliveryStatus>,
}

impl Standing {
    fn of(events: &[LiveEvent]) -> Self {
        let mut standing = Self::default();
        for event in events {
            match &event.change {
                Change::Lead { lead, status, .. } => drop(standing.leads.insert(*lead, *status)),
                Change::Batch { batch, status, counts, .. } => drop(standing.batches.insert(*batch, (*status, *counts))),
                Change::Delivery { delivery, status, .. } => drop(standing.deliveries.insert(*delivery, *status)),
                Change::Credential { .. } => {}
            }
        }
        standing
    }
}

async fn whoever_follows_while_many_write_sees_each_event_once_and_ends_with_what_is_stored(backend: &dyn Backend) {
    let store = backend.open(10_000).await;
    let lanes = lanes(4);
    let follower = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut written = store.events_written();
            let (mut seen, mut after) = (Vec::new(), EventPosition::START);
            loop {
                written.mark_unchanged();
                let page = store.events_after(after, 5).await.unwrap();
                seen.extend(page.events);
                after = page.next;
                let last = |event: &LiveEvent| matches!(&event.change, Change::Credential { .. });
                if seen.iter().any(last) {
                    return seen;
                }
                if !page.more {
                    written.changed().await.unwrap();
                }
            }
        })
    };
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4usize {
        let (store, lanes) = (store.clone(), lanes.clone());
        writers.spawn(async move {
            for n in 0..25 {
                let (_, batch, ids) = send(&*store, &lanes[..=writer], at(n)).await;
                for (i, leased) in lease(&*store, &lanes[writer..=writer], at(n)).await.into_iter().enumerate() {
                    let next = match (i + n as usize) % 4 {
                        0 => end(DeliveryStatus::Delivered),
                        1 => end(DeliveryStatus::Failed),
                        2 => end(DeliveryStatus::InDoubt),
                        _ => again(at(n + 1), 1),
                    };
                    finish_one(&*store, leased.job, next, at(n)).await;
                }
                match n % 3 {
                    0 => drop(store.cancel_batch(batch, at(n)).await.unwrap()),
                    1 => drop(store.retry_delivery(ids[0], at(n)).await.unwrap()),
                    _ => {}
                }
            }
        });
    }
    writers.join_all().await;
    store.create_credential(&credential(project_id()), None).await.unwrap();

    let seen = follower.await.unwrap();
    assert!(seen.is_sorted_by(|a, b| a.position < b.position));
    assert_eq!(seen, events_from(&*store, EventPosition::START, 1_000).await, "what is seen live is what is found later");
    for cut in [0, 1, seen.len() / 3, seen.len() / 2, seen.len() - 2] {
        assert_eq!(events_from(&*store, seen[cut].position, 3).await, seen[cut + 1..], "resumed behind {cut}");
    }
    let told = Standing::of(&seen);
    assert_eq!((told.leads.len(), told.batches.len(), told.deliveries.len()), (100, 100, 250));
    for (id, told) in &told.leads {
        assert_eq!(lead_state(&*store, *id).await, *told, "{id}");
    }
    for (id, (told, _)) in &told.batches {
        let batch = store.batch(*id).await.unwrap().unwrap();
        assert_eq!(batch.status, *told, "{id}");
    }
    for (id, told) in &told.deliveries {
        assert_eq!(status(&*store, *id).await, *told, "{id}");
    }
}

async fn old_events_go_and_positions_go_on_growing(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(1);
    for n in 0..6 {
        send(&*store, &lanes, at(n)).await;
    }
    let all = events(&*store).await;
    let seen = all[4].position;
    assert_eq!(store.prune_events(at(0), 10).await.unwrap(), 0);
    assert_eq!(store.prune_events(at(4), 3).await.unwrap(), 3, "a slice");
    let page = store.events_after(seen, 100).await.unwrap();
    assert_eq!(page.log.missed(seen), Some(Missed::Pruned));
    let left = events_from(&*store, page.log.pruned_to, 100).await;
    assert_eq!(left, all[9..], "where to go on is before the oldest that is kept");
    assert_eq!(store.prune_events(at(1_000), 100).await.unwrap(), 2);
    let log = store.event_log().await.unwrap();
    assert_eq!(events_from(&*store, log.pruned_to, 100).await, all[15..], "the newest transaction stays");
    assert_eq!(store.prune_events(at(1_000), 100).await.unwrap(), 0);
    assert_eq!(log.missed(EventPosition { turn: log.newest.turn + 1, index: 0 }), Some(Missed::Unknown));
    assert_eq!(log.missed(log.newest), None);

    drop(store);
    let store = backend.open(100).await;
    send(&*store, &lanes, at(7)).await;
    let after = events_from(&*store, all[17].position, 100).await;
    assert_eq!(after.len(), 3);
    assert!(after[0].position > all[17].position);
}

async fn what_waits_is_counted_by_channel(backend: &dyn Backend) {
    let store = backend.open(100).await;
    assert_eq!(store.queues().await.unwrap(), Queues::default());
    let project = project_id();
    let (hook, mail) = (credential(project), Credential { channel: "email".to_owned(), ..credential(project) });
    let other = credential(project);
    for one in [&hook, &mail, &other] {
        store.create_credential(one, None).await.unwrap();
    }
    send(&*store, &[hook.id, mail.id], at(5)).await;
    send(&*store, &[other.id, CredentialId::new(at(0))], at(3)).await;
    send(&*store, &[hook.id], at(9)).await;
    lease_one(&*store, mail.id, at(10)).await;
    let queue = |channel: &str, waiting, due_at| ChannelQueue { channel: channel.to_owned(), waiting, due_at };
    let expected = [queue("", 1, at(3)), queue("email", 1, lease_end(at(10))), queue("webhook", 3, at(3))];
    let found = store.queues().await.unwrap();
    assert_eq!((found.channels.as_slice(), found.oldest_lead), (expected.as_slice(), Some(at(3))));
}

contract!(
    what_waits_is_counted_by_channel,
    a_lead_is_told_from_accepted_to_completed,
    what_was_refused_is_not_told,
    people_and_time_are_told_too,
    what_happens_to_a_credential_is_told_but_not_of_the_hosts_own,
    whoever_follows_while_many_write_sees_each_event_once_and_ends_with_what_is_stored,
    old_events_go_and_positions_go_on_growing,
);
