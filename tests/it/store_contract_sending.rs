//! The part of the contract that is about sending: callbacks, credentials for one send, deadlines, fallbacks.

use super::*;

fn callback(lane: CredentialId) -> Callback {
    Callback { credential: lane, channel: "webhook".to_owned(), settings: None, template: None }
}

/// One receiver of each kind, on three lanes.
fn callbacks(lanes: &[CredentialId]) -> Callbacks {
    Callbacks { then: vec![callback(lanes[0])], catch: vec![callback(lanes[1])], finally: vec![callback(lanes[2])] }
}

async fn told(store: &dyn Store, batch: BatchId) -> Vec<Delivery> {
    store.deliveries_of_batch(batch).await.unwrap().into_iter().filter(|one| one.kind == DeliveryKind::Callback).collect()
}

/// Which callbacks of the batch were queued.
fn moments(told: &[Delivery]) -> Vec<&str> {
    told.iter().map(|one| one.event.as_ref().unwrap().data["callback"].as_str().unwrap()).collect()
}

async fn callbacks_are_queued_once_by_the_write_that_ends_the_batch(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lanes, to) = (lanes(2), lanes(3));
    let mut intake = intake(project_id(), &lanes, at(0));
    let (batch, lead, ids) = (intake.batch, intake.lead.id, [intake.deliveries[0].id, intake.deliveries[1].id]);
    intake.lead.external_id = Some("form-1".to_owned());
    intake.options.callbacks = callbacks(&to);
    intake.options.callbacks.then[0].settings = Some(json!({"url": "https://x.example/hook"}));
    intake.options.callbacks.then[0].template = Some("{{ event.kind }}".to_owned());
    accept(&*store, intake).await;
    let leased = lease(&*store, &lanes, at(1)).await;
    let first = finish_one(&*store, leased[0].job, end(DeliveryStatus::Delivered), at(2)).await.unwrap();
    assert_eq!((first.ended, first.queued), (None, vec![]));
    assert_eq!(told(&*store, batch).await, []);
    let last = finish_one(&*store, leased[1].job, end(DeliveryStatus::Failed), at(3)).await.unwrap();
    assert_eq!((last.ended, &last.queued), (Some(BatchStatus::Partial), &vec![to[0], to[2]]));

    drop(store); // killed at once
    let store = backend.open(100).await;
    let queued = told(&*store, batch).await;
    assert_eq!(moments(&queued), ["then", "finally"]);
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 2, delivered: 1, failed: 1, ..BatchCounts::default() });
    assert_eq!(store.backlog(), 2);
    let leased = lease_one(&*store, to[0], at(3)).await;
    assert_eq!((leased.kind, leased.lead.id, leased.job.delivery), (DeliveryKind::Callback, lead, queued[0].id));
    assert_eq!(leased.settings, Some(json!({"url": "https://x.example/hook"})));
    assert_eq!((leased.due_at, leased.correlation.as_str()), (at(3), "0197-correlation"));
    let event = leased.event.unwrap();
    assert_eq!((event.kind.as_str(), event.external_id.as_str(), event.at), ("batch.partial", batch.to_string().as_str(), at(3)));
    assert_eq!(event.template.as_deref(), Some("{{ event.kind }}"));
    assert_eq!((&event.data["lead_id"], &event.data["external_id"]), (&json!(lead), &json!("form-1")));
    assert_eq!((&event.data["status"], &event.data["lead_status"]), (&json!("partial"), &json!("partial")));
    assert_eq!(
        (&event.data["total"], &event.data["counts"]["delivered"], &event.data["counts"]["failed"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let seen: Vec<_> = event.data["deliveries"].as_array().unwrap().iter().map(|one| (&one["id"], &one["status"])).collect();
    assert_eq!(seen, [(&json!(ids[0]), &json!("delivered")), (&json!(ids[1]), &json!("failed"))]);

    // A retry by hand lets the batch end again; nobody is told a second time.
    store.retry_delivery(ids[1], at(4)).await.unwrap().unwrap();
    let again = lease_one(&*store, lanes[1], at(5)).await;
    let ended = finish_one(&*store, again.job, end(DeliveryStatus::Delivered), at(6)).await.unwrap();
    assert_eq!((ended.ended, ended.queued), (Some(BatchStatus::Completed), vec![]));
    assert_eq!(told(&*store, batch).await.len(), 2);
}

async fn a_callback_has_its_own_life_and_moves_no_counts(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lane, to) = (lanes(1), lanes(3));
    let mut intake = intake(project_id(), &lane, at(0));
    let (batch, lead) = (intake.batch, intake.lead.id);
    intake.options = BatchOptions { allow_failures: false, callbacks: callbacks(&to), ..BatchOptions::default() };
    accept(&*store, intake).await;
    let job = lease_one(&*store, lane[0], at(1)).await.job;
    finish_one(&*store, job, end(DeliveryStatus::Failed), at(2)).await.unwrap();
    let before = counts(&*store, batch).await;
    let all = told(&*store, batch).await;
    assert_eq!(moments(&all), ["then", "catch", "finally"]);
    assert_eq!(store.cancel_batch(batch, at(3)).await.unwrap(), Some((0, Changed::only(batch, lead))), "what tells of it stays");
    let job = lease_one(&*store, to[0], at(3)).await.job;
    assert_eq!(finish_one(&*store, job, end(DeliveryStatus::Failed), at(4)).await, Some(Changed::only(batch, lead)));
    assert_eq!(status(&*store, all[1].id).await, DeliveryStatus::Queued, "its failure cancels nothing");
    assert_eq!(store.retry_delivery(all[0].id, at(5)).await.unwrap(), Some(Changed::only(batch, lead)));
    let again = lease_one(&*store, to[0], at(6)).await;
    assert_eq!((again.kind, again.event, again.job.delivery), (DeliveryKind::Callback, all[0].event.clone(), all[0].id));
    finish_one(&*store, again.job, end(DeliveryStatus::Delivered), at(7)).await.unwrap();
    assert_eq!(store.cancel_delivery(all[2].id, at(8)).await.unwrap(), Some(Changed::only(batch, lead)));
    assert_eq!((counts(&*store, batch).await, store.backlog()), (before, 1));
    assert_eq!(store.batch(batch).await.unwrap().unwrap().finished_at, Some(at(2)));
}

async fn each_way_to_end_tells(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (project, to) = (project_id(), lanes(3));
    let send = async |lanes: &[CredentialId]| {
        let mut intake = intake(project, lanes, at(0));
        intake.options.callbacks = callbacks(&to);
        let ids = (intake.batch, intake.deliveries.iter().map(|one| one.id).collect::<Vec<_>>());
        accept(&*store, intake).await;
        ids
    };
    let (empty, _) = send(&[]).await;
    let queued = told(&*store, empty).await;
    assert_eq!((moments(&queued), queued[0].event.as_ref().unwrap().kind.as_str()), (vec!["catch", "finally"], "batch.unrouted"));
    assert_eq!(queued[0].created_at, at(0));

    let mine = lanes(2);
    let (cancelled, _) = send(&mine).await;
    let (_, changed) = store.cancel_batch(cancelled, at(1)).await.unwrap().unwrap();
    assert_eq!((changed.ended, changed.queued), (Some(BatchStatus::Cancelled), vec![to[0], to[2]]));
    assert_eq!(moments(&told(&*store, cancelled).await), ["then", "finally"]);

    let (one_by_one, ids) = send(&mine).await;
    assert_eq!(store.cancel_delivery(ids[0], at(1)).await.unwrap().unwrap().queued, vec![]);
    assert_eq!(store.cancel_delivery(ids[1], at(1)).await.unwrap().unwrap().queued, [to[0], to[2]]);
    assert_eq!(told(&*store, one_by_one).await.len(), 2);

    let doomed = credential(project);
    store.create_credential(&doomed, None).await.unwrap();
    let (deleted, _) = send(&[doomed.id]).await;
    let changes = store.delete_credential(doomed.id, at(2)).await.unwrap().unwrap();
    assert_eq!((changes.len(), &changes[0].queued), (1, &vec![to[0], to[2]]));
    assert_eq!(told(&*store, deleted).await.len(), 2);
}

async fn credentials_for_one_send_are_gone_when_its_batch_ends(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let project = project_id();
    let inline = |now: Timestamp, dedup: bool| {
        let mut own = credential(project);
        (own.purpose, own.id) = (Purpose::Send, CredentialId::new(now));
        let mut intake = intake(project, &[own.id], now);
        intake.options.inline = vec![own.id];
        intake.extras.credentials = vec![own.clone()];
        intake.dedup = dedup.then(|| DedupKey { hash: [3; 32], expires_at: at(1_000_000) });
        (intake, own)
    };
    let (first, own) = inline(at(0), true);
    let batch = first.batch;
    accept(&*store, first).await;
    assert_eq!(store.credential(own.id).await.unwrap().as_ref(), Some(&own));
    assert_eq!(store.credentials(project).await.unwrap(), [], "it is in no list");
    store.kv_write(kv(own.id, "k", b"v", 100)).await.unwrap();
    let job = lease_one(&*store, own.id, at(1)).await.job;
    drop(store); // killed while it is sent
    let store = backend.open(100).await;
    assert!(store.credential(own.id).await.unwrap().is_some(), "it is still needed");
    let later = LEASE_MS + 1;
    let again = lease_one(&*store, own.id, at(later)).await.job;
    assert_eq!(finish_one(&*store, job, end(DeliveryStatus::Delivered), at(later)).await, None);
    let changed = finish_one(&*store, again, end(DeliveryStatus::Delivered), at(later)).await.unwrap();
    assert_eq!((changed.ended, changed.erased), (Some(BatchStatus::Completed), vec![own.id]));
    assert!(store.credential(own.id).await.unwrap().is_none());
    assert!(store.kv_get(own.id, "k", at(3)).await.unwrap().is_none());
    assert_eq!(counts(&*store, batch).await.delivered, 1);

    let (twice, unused) = inline(at(10), true);
    assert!(matches!(accept(&*store, twice).await, Accepted::Duplicate { .. }));
    assert!(store.credential(unused.id).await.unwrap().is_none(), "a duplicate writes nothing");

    let (cancelled, own) = inline(at(20), false);
    let id = cancelled.batch;
    accept(&*store, cancelled).await;
    assert_eq!(store.cancel_batch(id, at(21)).await.unwrap().unwrap().1.erased, [own.id]);
    assert!(store.credential(own.id).await.unwrap().is_none());
}

async fn what_was_not_sent_by_its_deadline_fails(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lanes, to) = (lanes(3), lanes(3));
    let mut intake = intake(project_id(), &lanes, at(0));
    let (batch, ids) = (intake.batch, intake.deliveries.iter().map(|one| one.id).collect::<Vec<_>>());
    intake.extras.deadline_at = Some(at(10_000));
    intake.options.callbacks = callbacks(&to);
    accept(&*store, intake).await;
    assert_eq!(store.next_timer().await.unwrap(), Some(at(10_000)));
    assert_eq!(store.fire_timers(at(9_999), 100).await.unwrap(), (vec![], false));
    assert_eq!(store.delivery(ids[0]).await.unwrap().unwrap().deadline_at, Some(at(10_000)));

    let sent = lease_one(&*store, lanes[0], at(1)).await.job;
    finish_one(&*store, sent, end(DeliveryStatus::Delivered), at(2)).await.unwrap();
    let sending = lease_one(&*store, lanes[1], at(9_000)).await.job;
    let (changes, more) = store.fire_timers(at(10_000), 100).await.unwrap();
    assert_eq!((changes.len(), more), (1, false));
    let late = store.delivery(ids[2]).await.unwrap().unwrap();
    assert_eq!((late.status, late.last_code.as_deref(), late.finished_at), (DeliveryStatus::Failed, Some("deadline"), Some(at(10_000))));
    assert_eq!(store.attempts(ids[2]).await.unwrap(), [], "nothing was tried");
    assert_eq!(status(&*store, ids[1]).await, DeliveryStatus::Sending, "what is under way ends as it ends");
    // It would come back to the queue after its deadline: then it is over.
    let changed = finish_one(&*store, sending, again(at(20_000), 1), at(11_000)).await.unwrap();
    assert_eq!((changed.ended, &changed.queued), (Some(BatchStatus::Partial), &vec![to[0], to[2]]));
    let next = store.next_timer().await.unwrap().unwrap();
    assert_eq!(store.fire_timers(next, 100).await.unwrap().0, []);
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 3, delivered: 1, failed: 2, ..BatchCounts::default() });
    assert_eq!((store.next_timer().await.unwrap(), store.backlog()), (None, 2));
}

async fn a_deadline_is_a_failure_like_any_other(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lanes = lanes(2);
    let mut intake = intake(project_id(), &lanes, at(0));
    let batch = intake.batch;
    intake.options.allow_failures = false;
    intake.extras.deadline_at = Some(at(1_000));
    accept(&*store, intake).await;
    let (changes, more) = store.fire_timers(at(1_000), 1).await.unwrap();
    assert_eq!((changes.len(), changes[0].ended, more), (1, Some(BatchStatus::Failed), true));
    let sum = counts(&*store, batch).await;
    assert_eq!((sum.failed, sum.cancelled), (1, 1));
    assert_eq!(store.fire_timers(at(1_000), 1).await.unwrap(), (vec![], true));
    assert_eq!(store.fire_timers(at(1_000), 1).await.unwrap(), (vec![], false));
}

async fn speed_is_that_of_leads_in_their_project_and_time(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (project, lane) = (project_id(), lanes(1));
    let send = async |project: ProjectId, now: i64| {
        let intake = intake(project, &lane, at(now));
        let id = intake.deliveries[0].id;
        accept(&*store, intake).await;
        id
    };
    let (first, second) = (send(project, 0).await, send(project, 1_000).await);
    let other = send(project_id(), 500).await;
    let job = |id: DeliveryId, all: &[Leased]| all.iter().find(|one| one.job.delivery == id).unwrap().job;
    let leased = lease(&*store, &lane, at(2_000)).await;
    for (id, ms) in [(second, 4_000), (other, 5_000)] {
        finish_one(&*store, job(id, &leased), end(DeliveryStatus::Delivered), at(ms)).await.unwrap();
    }
    let arrival = |ms| Arrival { credential: lane[0], ms, late: false };
    let seen = store.speed(project, at(0), at(10_000), 100).await.unwrap();
    assert_eq!(seen, Speed { delivered: vec![arrival(3_000)], has_more: false, oldest: Some(first) });
    assert!(store.speed(project, at(0), at(10_000), 2).await.unwrap().has_more);
    assert_eq!(store.speed(project, at(0), at(1_000), 100).await.unwrap().delivered, []);
    finish_one(&*store, job(first, &leased), end(DeliveryStatus::Failed), at(6_000)).await.unwrap();
    let seen = store.speed(project, at(0), at(10_000), 100).await.unwrap();
    assert_eq!((seen.delivered.len(), seen.oldest), (1, None), "what failed is neither");
}

pub(super) fn rule(to: &[CredentialId]) -> FallbackRule {
    let target = |id: &CredentialId| FallbackTarget { credential: *id, channel: "telegram".to_owned(), settings: None };
    let to = to.iter().map(target).collect();
    FallbackRule { name: "CRM in time".to_owned(), channel: Some("webhook".to_owned()), credential: None, within_sec: 300, to }
}

async fn what_is_not_delivered_in_time_goes_elsewhere_once(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lanes, to) = (lanes(2), lanes(2));
    let mut intake = intake(project_id(), &lanes, at(0));
    let (batch, lead, ids) = (intake.batch, intake.lead.id, [intake.deliveries[0].id, intake.deliveries[1].id]);
    intake.extras.watches = ids.map(|delivery| Watch { delivery, due_at: at(300_000), rule: rule(&to) }).to_vec();
    accept(&*store, intake).await;
    let jobs = lease(&*store, &lanes, at(1)).await;
    finish_one(&*store, jobs[0].job, end(DeliveryStatus::Delivered), at(2)).await.unwrap();
    finish_one(&*store, jobs[1].job, again(at(400_000), 1), at(2)).await.unwrap();
    let (changes, _) = store.fire_timers(at(300_000), 100).await.unwrap();
    assert_eq!(changes, [Changed { queued: to.clone(), ..Changed::only(batch, lead) }]);
    assert_eq!(store.fire_timers(at(900_000), 100).await.unwrap().0, [], "each rule fires once");
    let all = store.deliveries_of_batch(batch).await.unwrap();
    let made: Vec<_> = all.iter().filter(|one| one.kind == DeliveryKind::Fallback).collect();
    assert_eq!(made.iter().map(|one| one.credential_id).collect::<Vec<_>>(), to);
    let reason = made[0].reason.clone().unwrap();
    assert!(reason.contains("CRM in time") && reason.contains(&ids[1].to_string()) && reason.contains("300 s"), "{reason}");
    let leased = lease_one(&*store, to[0], at(300_000)).await;
    assert_eq!((leased.kind, leased.event, leased.lead.id), (DeliveryKind::Fallback, None, lead));
    finish_one(&*store, leased.job, end(DeliveryStatus::Failed), at(300_001)).await.unwrap();
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 2, pending: 1, delivered: 1, ..BatchCounts::default() });
    // The first one arrives after all: it is the same delivery, and late.
    let job = lease_one(&*store, lanes[1], at(400_000)).await.job;
    assert_eq!(finish_one(&*store, job, end(DeliveryStatus::Delivered), at(400_001)).await.unwrap().ended, Some(BatchStatus::Completed));
    let late = store.delivery(ids[1]).await.unwrap().unwrap();
    assert_eq!((late.status, late.overdue_at), (DeliveryStatus::Delivered, Some(at(300_000))));
    assert_eq!(store.delivery(ids[0]).await.unwrap().unwrap().overdue_at, None);
}

async fn rules_gather_what_happens_while_they_keep_quiet(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (lane, to) = (lanes(1), lanes(1)[0]);
    let mut shop = project("shop");
    let rule = |name: &str, on: &[NoticeKind]| NotificationRule {
        name: name.to_owned(),
        on: on.to_vec(),
        credential: to,
        channel: "telegram".to_owned(),
        settings: Some(json!({"chat_id": 7})),
        template: None,
        quiet_sec: 60,
    };
    shop.sending.notifications = vec![rule("night", &[NoticeKind::Failed, NoticeKind::BreakerOpen])];
    store.create_project(&shop, None).await.unwrap();
    let fail = async |store: &dyn Store, now: i64| {
        let mut intake = intake(shop.id, &lane, at(now));
        intake.options.notify = shop.sending.endings();
        let batch = intake.batch;
        accept(store, intake).await;
        let job = lease_one(store, lane[0], at(now)).await.job;
        let mut failed = finish(job, end(DeliveryStatus::Failed), at(now));
        failed.last = Some(("http_500".to_owned(), "down".to_owned()));
        let changed = store.finish(vec![failed]).await.unwrap().remove(0).unwrap();
        (batch, changed.timer)
    };
    let told = async |store: &dyn Store, now: i64| {
        let fired = store.fire_timers(at(now), 100).await.unwrap().0;
        let leased = lease(store, &[to], at(now)).await;
        assert_eq!(fired.iter().map(|changed| changed.queued.len()).sum::<usize>(), leased.len());
        for one in &leased {
            finish_one(store, one.job, end(DeliveryStatus::Delivered), at(now)).await.unwrap();
        }
        leased.into_iter().map(|one| (one.kind, one.settings, one.event.unwrap().data)).collect::<Vec<_>>()
    };
    let (first, timer) = fail(&*store, 0).await;
    assert!(timer);
    let messages = told(&*store, 0).await;
    let (kind, settings, data) = &messages[0];
    assert_eq!((messages.len(), *kind, settings), (1, DeliveryKind::Notification, &Some(json!({"chat_id": 7}))));
    assert_eq!((&data["total"], &data["rule"], &data["events"][0]["batch_id"]), (&json!(1), &json!("night"), &json!(first)));
    assert_eq!(data["events"][0]["why"], "http_500: down");
    assert_eq!(counts(&*store, first).await.total, 1);

    for n in 1..=20 {
        fail(&*store, n * 1_000).await;
    }
    let (batch, lead) = (BatchId::new(at(0)), LeadId::new(at(0)));
    let notice = |kind| Notice { kind, project: shop.id, batch: first, lead, credential: None, why: None, at: at(30_000) };
    assert!(store.note(&notice(NoticeKind::BreakerOpen)).await.unwrap());
    assert!(!store.note(&notice(NoticeKind::PluginFault)).await.unwrap(), "nobody wants it");
    assert!(!store.note(&Notice { project: project_id(), batch, ..notice(NoticeKind::Failed) }).await.unwrap(), "of another project");
    assert_eq!(told(&*store, 59_999).await, []);
    drop(store); // killed while the rule keeps quiet
    let store = backend.open(100).await;
    assert_eq!(store.next_timer().await.unwrap(), Some(at(60_000)));
    let messages = told(&*store, 60_000).await;
    assert_eq!((messages.len(), &messages[0].2["total"], &messages[0].2["counts"]["failed"]), (1, &json!(21), &json!(20)));
    assert_eq!(told(&*store, 1_000_000).await, [], "and no more without news");
    fail(&*store, 1_000_000).await;
    assert_eq!(told(&*store, 1_000_000).await.len(), 1, "then at once");

    // What a rule has gathered goes with it.
    fail(&*store, 1_001_000).await;
    shop.sending.notifications.clear();
    assert!(store.update_project(&shop).await.unwrap());
    assert_eq!(told(&*store, 2_000_000).await, []);
    assert_eq!((store.next_timer().await.unwrap(), store.backlog()), (None, 0));
}

async fn callback_urls_share_one_credential_for_each_origin(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let project = project_id();
    let of = |origin: &str| Credential {
        id: CredentialId::new(at(0)),
        purpose: Purpose::Callback { origin: origin.to_owned() },
        ..credential(project)
    };
    let first = of("https://a.example");
    assert_eq!(store.callback_credential(project, "https://a.example").await.unwrap(), None);
    assert_eq!(store.ensure_callback_credential(&first, 2).await.unwrap(), Some(first.id));
    assert_eq!(store.ensure_callback_credential(&of("https://a.example"), 2).await.unwrap(), Some(first.id), "the first one stands");
    let second = of("https://b.example");
    assert_eq!(store.ensure_callback_credential(&second, 2).await.unwrap(), Some(second.id));
    assert_eq!(store.ensure_callback_credential(&of("https://c.example"), 2).await.unwrap(), None, "as many as are allowed");
    assert_eq!(store.ensure_callback_credential(&of("https://a.example"), 2).await.unwrap(), Some(first.id));
    assert_eq!(store.callback_credential(project, "https://b.example").await.unwrap(), Some(second.id));
    assert_eq!(store.credential(first.id).await.unwrap(), Some(first.clone()));
    let mut all = store.callback_credentials(project).await.unwrap();
    all.sort_unstable();
    let mut wanted = [first.id, second.id];
    wanted.sort_unstable();
    assert_eq!((all.as_slice(), store.credentials(project).await.unwrap().len()), (wanted.as_slice(), 0));
    assert_eq!(store.callback_credential(project_id(), "https://a.example").await.unwrap(), None, "of this project only");
}

async fn callback_secrets_are_written_over_what_was_read(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let mut shop = project("shop");
    store.create_project(&shop, None).await.unwrap();
    let sealed = |byte| SealedSecret { key_id: "k1".to_owned(), sealed: vec![byte; 40], updated_at: at(0) };
    let none = CallbackSecrets::default();
    let one = CallbackSecrets { current: Some(sealed(1)), previous: None };
    let two = CallbackSecrets { current: Some(sealed(2)), previous: Some((sealed(1), at(60))) };
    assert!(store.set_callback_secrets(shop.id, &none, &one).await.unwrap());
    assert!(!store.set_callback_secrets(shop.id, &none, &two).await.unwrap(), "someone was faster");
    assert!(store.set_callback_secrets(shop.id, &one, &two).await.unwrap());
    assert!(!store.set_callback_secrets(project_id(), &none, &one).await.unwrap());
    (shop.name, shop.sending.entity_credentials) = ("Other".to_owned(), EntityCredentials::Both);
    shop.sending.fallbacks = vec![rule(&lanes(1))];
    assert!(store.update_project(&shop).await.unwrap());
    let stored = store.project(shop.id).await.unwrap().unwrap();
    assert_eq!(stored, Project { callback_secrets: two, ..shop }, "a change of the project leaves the secrets");
}

contract!(
    callbacks_are_queued_once_by_the_write_that_ends_the_batch,
    a_callback_has_its_own_life_and_moves_no_counts,
    each_way_to_end_tells,
    credentials_for_one_send_are_gone_when_its_batch_ends,
    what_was_not_sent_by_its_deadline_fails,
    a_deadline_is_a_failure_like_any_other,
    what_is_not_delivered_in_time_goes_elsewhere_once,
    speed_is_that_of_leads_in_their_project_and_time,
    rules_gather_what_happens_while_they_keep_quiet,
    callback_urls_share_one_credential_for_each_origin,
    callback_secrets_are_written_over_what_was_read,
);
