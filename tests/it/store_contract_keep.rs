//! What every `Store` must do about what is removed: for its age, and with a person.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::time::Duration;

use leadwire::model::*;
use leadwire::policy::search;
use leadwire::store::*;
use serde_json::json;

use super::store_contract::*;

const DAY: i64 = 86_400_000;

fn day(number: i64) -> Timestamp {
    at(number * DAY)
}

fn contact(phone: &str) -> Vec<String> {
    search::phone_keys(phone, None)
}

/// A lead of this person, with one delivery for each lane.
fn of(project: ProjectId, lanes: &[CredentialId], phone: &str, now: Timestamp) -> Intake {
    let mut intake = intake(project, lanes, now);
    intake.lead.phones = vec![Phone { raw: phone.to_owned(), e164: Some(phone.to_owned()) }];
    intake.lead.emails.clear();
    intake.lead.name = Some("Zebulon Quartermain".to_owned());
    intake
}

/// Sends a lead and lets all its deliveries end so.
async fn ended(store: &dyn Store, intake: Intake, status: DeliveryStatus, now: Timestamp) -> (LeadId, Vec<DeliveryId>) {
    let ids = (intake.lead.id, intake.deliveries.iter().map(|one| one.id).collect());
    let lanes: Vec<_> = intake.deliveries.iter().map(|one| one.credential_id).collect();
    accept(store, intake).await;
    for leased in lease(store, &lanes, now).await {
        finish_one(store, leased.job, end(status), now).await.unwrap();
    }
    ids
}

async fn prune_leads(store: &dyn Store, project: ProjectId, before: Timestamp, limit: u32) -> Removed {
    let (mut removed, mut after) = (Removed::default(), None);
    loop {
        let slice = store.prune_leads(Prune { project, before, after, limit }).await.unwrap();
        removed.add(&slice.removed);
        after = slice.next;
        if after.is_none() {
            return removed;
        }
    }
}

async fn found(store: &dyn Store, project: ProjectId, contacts: Vec<String>) -> Vec<LeadId> {
    let query = ListQuery { project: Some(project), contacts: vec![contacts], limit: 200, ..ListQuery::default() };
    store.lead_ids(&query).await.unwrap().items
}

async fn by_word(store: &dyn Store, project: ProjectId, word: &str) -> usize {
    searchable(store).await;
    let query = ListQuery { project: Some(project), words: search::asked_words(word), limit: 200, ..ListQuery::default() };
    store.lead_ids(&query).await.unwrap().items.len()
}

async fn leads_that_are_too_old_go_whole_and_nothing_else_does(backend: &dyn Backend) {
    use DeliveryStatus::Delivered;
    let store = backend.open(1_000).await;
    let (project, other) = (project_id(), project_id());
    let lanes = lanes(2);
    let key = DedupKey { hash: [3; 32], expires_at: day(1_000) };
    let mut old = of(project, &lanes, "+79160000001", day(1));
    (old.lead.external_id, old.dedup) = (Some("form-1".to_owned()), Some(key));
    let (old, deliveries) = ended(&*store, old, Delivered, day(1)).await;
    let batch = store.batches_of_lead(old).await.unwrap()[0].id;
    let (failed, _) = ended(&*store, of(project, &lanes, "+79160000002", day(2)), DeliveryStatus::Failed, day(2)).await;
    let (others, _) = ended(&*store, of(other, &lanes, "+79160000001", day(1)), Delivered, day(1)).await;
    let (young, _) = ended(&*store, of(project, &lanes, "+79160000003", day(11)), Delivered, day(11)).await;
    let (again, _) = ended(&*store, of(project, &lanes, "+79160000004", day(3)), Delivered, day(3)).await;
    let lead = store.lead(again).await.unwrap().unwrap().lead;
    ended(&*store, Intake { lead, ..intake(project, &lanes, day(12)) }, Delivered, day(12)).await;
    let waiting = of(project, &lanes, "+79160000005", day(4));
    let waits = waiting.lead.id;
    accept(&*store, waiting).await;
    let one = lease_one(&*store, lanes[0], day(4)).await;
    finish_one(&*store, one.job, end(Delivered), day(4)).await.unwrap();

    searchable(&*store).await;
    let removed = prune_leads(&*store, project, day(10), 2).await;
    assert_eq!((removed.leads, removed.batches, removed.deliveries, removed.attempts), (2, 2, 4, 4));
    for gone in [old, failed] {
        assert!(store.lead(gone).await.unwrap().is_none());
        assert!(store.batches_of_lead(gone).await.unwrap().is_empty());
    }
    assert!(store.batch(batch).await.unwrap().is_none());
    assert!(store.delivery(deliveries[0]).await.unwrap().is_none());
    assert!(store.attempts(deliveries[0]).await.unwrap().is_empty());
    assert!(store.lead_by_external_id(project, "form-1").await.unwrap().is_none());
    assert!(found(&*store, project, contact("+79160000001")).await.is_empty());
    assert_eq!(by_word(&*store, project, "Quartermain").await, 3, "the index of words too");
    for kept in [others, young, again, waits] {
        assert!(store.lead(kept).await.unwrap().is_some(), "{kept}");
    }
    assert_eq!(store.backlog(), 1, "what is queued stays, whatever its age");
    let mut same = of(project, &lanes, "+79160000001", day(13));
    same.dedup = Some(key);
    assert_eq!(accept(&*store, same).await, Accepted::New, "nothing is a duplicate of what is gone");
    assert_eq!(prune_leads(&*store, project, day(10), 100).await, Removed::default(), "a second time there is nothing");
}

async fn attempts_that_are_too_old_go_and_their_deliveries_say_so(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(3));
    let (_, old) = ended(&*store, of(project, &lanes[..1], "+79160000001", day(1)), DeliveryStatus::Failed, day(1)).await;
    let (_, both) = ended(&*store, of(project, &lanes[1..2], "+79160000002", day(2)), DeliveryStatus::Failed, day(2)).await;
    store.retry_delivery(both[0], day(20)).await.unwrap().unwrap();
    let again = lease_one(&*store, lanes[1], day(20)).await;
    finish_one(&*store, again.job, end(DeliveryStatus::Failed), day(20)).await.unwrap();
    let waiting = of(project, &lanes[2..], "+79160000003", day(3));
    let waits = waiting.deliveries[0].id;
    accept(&*store, waiting).await;
    let tried = lease_one(&*store, lanes[2], day(3)).await;
    let next = Next::Again { due_at: day(40), attempts: 1, maybe_sent: false };
    finish_one(&*store, tried.job, next, day(3)).await.unwrap();
    let (_, last) = ended(&*store, of(project, &lanes[..1], "+79160000004", day(4)), DeliveryStatus::Delivered, day(4)).await;

    let mut prune = Prune { project, before: day(10), after: None, limit: 3 };
    let first = store.prune_attempts(prune).await.unwrap();
    assert_eq!((first.attempts, first.left, first.last), (2, Some(both[0]), Some(waits)));
    assert_eq!(first.next, Some(waits));
    prune.after = first.next;
    let rest = store.prune_attempts(prune).await.unwrap();
    assert_eq!(rest, PrunedAttempts { attempts: 1, next: None, left: None, last: Some(last[0]) });

    let shown = async |id: DeliveryId| {
        let delivery = store.delivery(id).await.unwrap().unwrap();
        let numbers: Vec<u32> = store.attempts(id).await.unwrap().iter().map(|attempt| attempt.no).collect();
        (delivery.attempts_pruned, delivery.attempts, numbers)
    };
    assert_eq!(shown(old[0]).await, (1, 1, vec![]), "it still says how often it was tried");
    assert_eq!(shown(both[0]).await, (1, 1, vec![2]));
    assert_eq!(shown(waits).await, (0, 1, vec![1]), "what goes on keeps them all");
    let reached = Some(last[0]);
    let cleanup = Cleanup { project: Some(project), due_at: day(10), ended_at: day(10), removed: Removed::default(), place: reached };
    store.note_cleanup(&cleanup).await.unwrap();
    store.retry_delivery(old[0], day(21)).await.unwrap().unwrap();
    assert_eq!(store.cleanup(Some(project)).await.unwrap(), Some(Cleanup { place: None, ..cleanup }), "it gets new attempts");
    let again = lease_one(&*store, lanes[0], day(21)).await;
    finish_one(&*store, again.job, end(DeliveryStatus::Delivered), day(21)).await.unwrap();
    assert_eq!(shown(old[0]).await, (1, 1, vec![2]), "numbers are not given twice");
}

fn task(project: Option<ProjectId>, asked: serde_json::Value, now: Timestamp) -> Task {
    Task {
        id: TaskId::new(now),
        project,
        kind: TaskKind::DeliveriesRetry,
        status: TaskStatus::Running,
        asked,
        rate: 7,
        progress: TaskProgress::default(),
        cursor: None,
        correlation: "0197-correlation".to_owned(),
        created_at: now,
        finished_at: None,
    }
}

async fn tasks_that_have_ended_go_with_their_age(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let project = project_id();
    let (old, runs, young) =
        (task(Some(project), json!({}), day(1)), task(Some(project), json!({}), day(2)), task(Some(project), json!({}), day(9)));
    let all = task(None, json!({}), day(1));
    for task in [&old, &runs, &young, &all] {
        store.create_task(task, None).await.unwrap();
    }
    for task in [&old, &young, &all] {
        store.cancel_task(task.id, day(9)).await.unwrap();
    }
    assert_eq!(store.prune_tasks(Some(project), day(5), 10).await.unwrap(), 1);
    assert_eq!(store.prune_tasks(None, day(5), 10).await.unwrap(), 1);
    let left = [&old, &runs, &young, &all].map(|task| task.id);
    let mut there = Vec::new();
    for id in left {
        there.push(store.task(id).await.unwrap().is_some());
    }
    assert_eq!(there, [false, true, true, false]);
    assert_eq!(store.prune_tasks(Some(project), day(5), 10).await.unwrap(), 0);
}

async fn the_last_cleanup_is_known(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let project = project_id();
    let mut cleanup = Cleanup { project: Some(project), due_at: day(1), ended_at: day(2), removed: Removed::default(), place: None };
    assert_eq!(store.cleanup(Some(project)).await.unwrap(), None);
    store.note_cleanup(&cleanup).await.unwrap();
    cleanup.removed = Removed { leads: 3, events: 9, ..Removed::default() };
    cleanup.place = Some(DeliveryId::new(day(1)));
    store.note_cleanup(&cleanup).await.unwrap();
    assert_eq!(store.cleanup(Some(project)).await.unwrap(), Some(cleanup));
    assert_eq!(store.cleanup(None).await.unwrap(), None);
    let host = Cleanup { project: None, due_at: day(3), ended_at: day(3), removed: Removed::default(), place: None };
    store.note_cleanup(&host).await.unwrap();
    assert_eq!(store.cleanup(None).await.unwrap(), Some(host));
}

fn erasure(project: ProjectId, now: Timestamp) -> Erasure {
    Erasure {
        id: ErasureId::new(now),
        project,
        key: KeyId::new(now),
        kind: ErasureKind::Phone,
        fingerprint: "f00d".to_owned(),
        asked: Some(b"sealed".to_vec()),
        counts: ErasureCounts::default(),
        received: Vec::new(),
        correlation: "0197-correlation".to_owned(),
        created_at: now,
        finished_at: None,
    }
}

/// Takes all steps; the receipt, and the batches of which something was under way.
async fn erase(store: &dyn Store, erasure: &Erasure, person: &Person, limit: u32) -> (Erasure, Vec<Changed>) {
    store.create_erasure(erasure).await.unwrap();
    let step = EraseStep { erasure: erasure.id, person: person.clone(), limit, now: day(50) };
    let mut batches = Vec::new();
    for _ in 0..1_000 {
        let Some(erased) = store.erase(&step).await.unwrap() else { panic!("it ended without a word") };
        batches.extend(erased.batches);
        if erased.done {
            return (store.erasure(erasure.id).await.unwrap().unwrap(), batches);
        }
    }
    panic!("it does not end");
}

async fn a_person_who_is_erased_is_nowhere(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, other) = (project_id(), project_id());
    let lanes = lanes(2);
    let phone = "+79161234567";
    // One delivered, one queued, one being sent, one of somebody else, and the same person in another project.
    let mut delivered = of(project, &lanes[..1], phone, day(1));
    let key = DedupKey { hash: [9; 32], expires_at: day(1_000) };
    (delivered.lead.external_id, delivered.dedup) = (Some("form-1".to_owned()), Some(key));
    let first = delivered.deliveries[0].id;
    accept(&*store, delivered).await;
    let leased = lease_one(&*store, lanes[0], day(1)).await;
    let refs =
        vec![RemoteRef { name: "lead".into(), value: "8123".into() }, RemoteRef { name: "contact".into(), value: format!("tel:{phone}") }];
    let next = Next::End { status: DeliveryStatus::Delivered, refs, url: None };
    finish_one(&*store, leased.job, next, day(1)).await.unwrap();
    let sending = of(project, &lanes[1..], phone, day(2));
    let sent = (sending.lead.id, sending.batch);
    accept(&*store, sending).await;
    let in_flight = lease_one(&*store, lanes[1], day(2)).await;
    let queued = of(project, &lanes, phone, day(3));
    accept(&*store, queued).await;
    let somebody = of(project, &lanes[..1], "+79990000000", day(4));
    let stays = somebody.lead.id;
    accept(&*store, somebody).await;
    let elsewhere = of(other, &lanes[..1], phone, day(4));
    accept(&*store, elsewhere).await;
    assert_eq!(store.backlog(), 5);
    searchable(&*store).await;

    let asked = Person { contacts: contact(phone), lead: None };
    let (receipt, batches) = erase(&*store, &erasure(project, day(50)), &asked, 2).await;
    let counts = receipt.counts;
    assert_eq!((counts.leads, counts.batches, counts.deliveries, counts.attempts), (3, 3, 4, 1));
    assert_eq!((counts.queued, counts.sending, counts.contacts, counts.dedup_keys), (2, 1, 3, 1));
    assert_eq!((receipt.asked, receipt.finished_at), (None, Some(day(50))));
    let received: Vec<_> = receipt.received.iter().map(|one| (one.credential_id, one.deliveries, one.refs.len())).collect();
    assert_eq!(received.len(), 2, "{received:?}");
    assert!(received.contains(&(lanes[0], 1, 1)) && received.contains(&(lanes[1], 1, 0)), "an id that is the number itself stays out");
    assert_eq!(receipt.received.iter().flat_map(|one| &one.refs).next().unwrap().value, "8123");
    assert_eq!(batches.len(), 2);
    assert!(batches.iter().any(|changed| changed.batch == sent.1 && changed.ended == Some(BatchStatus::Cancelled)));

    assert!(found(&*store, project, contact(phone)).await.is_empty());
    assert!(store.delivery(first).await.unwrap().is_none());
    assert!(store.attempts(first).await.unwrap().is_empty());
    assert!(store.lead_by_external_id(project, "form-1").await.unwrap().is_none());
    assert_eq!(by_word(&*store, project, "Quartermain").await, 1);
    assert!(store.lead(stays).await.unwrap().is_some());
    assert_eq!(found(&*store, other, contact(phone)).await.len(), 1, "another project is none of this");
    assert_eq!(store.backlog(), 2);
    // The call that ran meanwhile ends, and nothing of it is written.
    assert!(!store.checkpoint(in_flight.job, "memo").await.unwrap());
    assert_eq!(finish_one(&*store, in_flight.job, end(DeliveryStatus::Delivered), day(51)).await, None);
    assert!(store.lead(sent.0).await.unwrap().is_none());
    let mut again = of(project, &lanes[..1], phone, day(52));
    again.dedup = Some(key);
    assert_eq!(accept(&*store, again).await, Accepted::New, "who comes again is new");

    let (nothing, _) = erase(&*store, &erasure(project, day(53)), &Person { contacts: contact("+70000000000"), lead: None }, 2).await;
    assert_eq!((nothing.counts, nothing.received), (ErasureCounts::default(), vec![]));
    let step = EraseStep { erasure: receipt.id, person: asked, limit: 2, now: day(54) };
    assert_eq!(store.erase(&step).await.unwrap(), None, "an erasure that is done does nothing more");
    assert_eq!(found(&*store, project, contact(phone)).await.len(), 1);
}

async fn two_that_erase_at_once_count_each_lead_once(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    for number in 0..30 {
        accept(&*store, of(project, &lanes, "+79161234567", day(number))).await;
    }
    let erasure = erasure(project, day(50));
    store.create_erasure(&erasure).await.unwrap();
    let step = EraseStep { erasure: erasure.id, person: Person { contacts: contact("+79161234567"), lead: None }, limit: 4, now: day(50) };
    let run = async || {
        for _ in 0..1_000 {
            if store.erase(&step).await.unwrap().is_none_or(|erased| erased.done) {
                return;
            }
        }
        panic!("it does not end");
    };
    tokio::join!(run(), run(), run());
    let receipt = store.erasure(erasure.id).await.unwrap().unwrap();
    assert_eq!((receipt.counts.leads, receipt.counts.queued, store.backlog()), (30, 30, 0));
    assert!(receipt.finished_at.is_some() && receipt.received.is_empty(), "nothing of it had been sent");
}

async fn one_lead_is_erased_by_its_id(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    let (one, two) = (of(project, &lanes, "+79161234567", day(1)), of(project, &lanes, "+79161234567", day(2)));
    let (gone, stays) = (one.lead.id, two.lead.id);
    accept(&*store, one).await;
    accept(&*store, two).await;
    let asked = Erasure { kind: ErasureKind::LeadId, ..erasure(project_id(), day(50)) };
    let person = Person { contacts: Vec::new(), lead: Some(gone) };
    let (foreign, _) = erase(&*store, &asked, &person, 5).await;
    assert_eq!(foreign.counts.leads, 0, "not a lead of that project");
    let asked = Erasure { kind: ErasureKind::LeadId, ..erasure(project, day(51)) };
    let (receipt, _) = erase(&*store, &asked, &person, 5).await;
    assert_eq!(receipt.counts.leads, 1);
    assert!(store.lead(gone).await.unwrap().is_none() && store.lead(stays).await.unwrap().is_some());
}

async fn tasks_that_were_asked_about_the_person_are_asked_nothing_any_more(backend: &dyn Backend) {
    let store = backend.open(1_000).await;
    let (project, lanes) = (project_id(), lanes(1));
    accept(&*store, of(project, &lanes, "+79161234567", day(1))).await;
    let about = |condition: serde_json::Value| json!({"queries": [condition], "filter": {"secret": "+79161234567"}});
    let named = [
        task(Some(project), about(json!({"contacts": [["p79161234567"]]})), day(2)),
        task(None, about(json!({"words": ["zebulon", "quartermain"]})), day(2)),
    ];
    let kept = [
        task(Some(project), about(json!({"contacts": [["p79990000000"]]})), day(2)),
        task(Some(project_id()), about(json!({"contacts": [["p79161234567"]]})), day(2)),
    ];
    for task in named.iter().chain(&kept) {
        store.create_task(task, None).await.unwrap();
    }
    let person = Person { contacts: contact("+79161234567"), lead: None };
    let (receipt, _) = erase(&*store, &erasure(project, day(50)), &person, 5).await;
    assert_eq!(receipt.counts.redacted, 2);
    for task in &named {
        let now = store.task(task.id).await.unwrap().unwrap();
        assert_eq!((now.status, now.finished_at), (TaskStatus::Cancelled, Some(day(50))));
        assert!(!now.asked.to_string().contains("7916"), "{}", now.asked);
    }
    for task in &kept {
        assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(task));
    }
}

async fn erasures_are_kept_and_listed(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let (project, other) = (project_id(), project_id());
    let (first, second, theirs) = (erasure(project, at(0)), erasure(project, at(1)), erasure(other, at(2)));
    for erasure in [&first, &second, &theirs] {
        store.create_erasure(erasure).await.unwrap();
        assert_eq!(store.erasure(erasure.id).await.unwrap().as_ref(), Some(erasure));
    }
    let listed = async |project, before| {
        let page = store.erasures(project, before, 1).await.unwrap();
        (page.items.iter().map(|one| one.id).collect::<Vec<_>>(), page.has_more)
    };
    assert_eq!(listed(Some(project), None).await, (vec![second.id], true));
    assert_eq!(listed(Some(project), Some(second.id)).await, (vec![first.id], false));
    assert_eq!(listed(None, None).await, (vec![theirs.id], true));
    let running: Vec<_> = store.running_erasures(2).await.unwrap().iter().map(|one| one.id).collect();
    assert_eq!(running, [first.id, second.id]);
    assert!(store.erasure(ErasureId::new(at(0))).await.unwrap().is_none());
    let nobody = EraseStep { erasure: ErasureId::new(at(0)), person: Person::default(), limit: 1, now: at(0) };
    assert_eq!(store.erase(&nobody).await.unwrap(), None);
}

async fn a_lead_that_is_gone_is_not_sent_again(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let (project, lanes) = (project_id(), lanes(1));
    let mut again = intake(project, &lanes, at(0));
    again.extras.again = true;
    let (lead, batch) = (again.lead.clone(), again.batch);
    assert_eq!(accept(&*store, again).await, Accepted::Gone);
    assert!(store.lead(lead.id).await.unwrap().is_none() && store.batch(batch).await.unwrap().is_none());
    assert_eq!(store.backlog(), 0);
    accept(&*store, Intake { lead: lead.clone(), ..intake(project, &lanes, at(1)) }).await;
    let mut again = Intake { lead: lead.clone(), ..intake(project, &lanes, at(2)) };
    again.extras.again = true;
    assert_eq!(accept(&*store, again).await, Accepted::New);
    assert_eq!(store.batches_of_lead(lead.id).await.unwrap().len(), 2);
}

async fn how_often_a_lead_came_again_is_known(backend: &dyn Backend) {
    let store = backend.open(10).await;
    let project = project_id();
    let same = |now: i64| {
        let mut intake = intake(project, &[], at(now));
        intake.dedup = Some(DedupKey { hash: [5; 32], expires_at: at(100_000) });
        intake
    };
    let first = same(0);
    let id = first.lead.id;
    assert_eq!(accept(&*store, first).await, Accepted::New);
    assert!(store.repeats(&[id]).await.unwrap().is_empty());
    for now in [10, 30, 20] {
        assert_eq!(accept(&*store, same(now)).await, Accepted::Duplicate { of: id });
    }
    let repeats = store.repeats(&[LeadId::new(at(0)), id]).await.unwrap();
    assert_eq!(repeats.into_iter().collect::<Vec<_>>(), [(id, Repeats { count: 3, last_at: at(30) })]);
    let _ = prune_leads(&*store, project, at(0).plus(Duration::from_secs(3_600)), 10).await;
    assert!(store.repeats(&[id]).await.unwrap().is_empty(), "it goes with the lead");
}

async fn who_wants_to_hears_that_a_lead_came_again(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (project, lanes) = (project_id(), lanes(2));
    let same = |now: i64, phone: &str| {
        let mut intake = of(project, &lanes[..1], phone, at(now));
        intake.dedup = Some(DedupKey { hash: [5; 32], expires_at: at(100_000) });
        let data = leadwire::policy::dedup::note(&intake.lead, &["title".to_owned()]);
        intake.extras.note = Some(DuplicateNote { to: vec![(lanes[1], "webhook".to_owned())], data });
        intake
    };
    let first = same(0, "+79160000001");
    let (id, batch) = (first.lead.id, first.batch);
    assert_eq!(accept(&*store, first).await, Accepted::New);
    assert_eq!(store.deliveries_of_batch(batch).await.unwrap().len(), 1, "nobody is told of a lead that is new");
    let leased = lease_one(&*store, lanes[0], at(1)).await;
    finish_one(&*store, leased.job, end(DeliveryStatus::Delivered), at(1)).await.unwrap();
    let before = store.batch(batch).await.unwrap().unwrap();

    for now in 2..=30 {
        assert_eq!(accept(&*store, same(now, "+79160000002")).await, Accepted::Duplicate { of: id });
    }
    assert_eq!(store.repeats(&[id]).await.unwrap()[&id].count, 29);
    let notes: Vec<_> =
        store.deliveries_of_batch(batch).await.unwrap().into_iter().filter(|one| one.kind == DeliveryKind::Callback).collect();
    assert_eq!(notes.len(), 20, "the first times; the others are counted");
    let event = notes[0].event.clone().unwrap();
    assert_eq!((event.kind.as_str(), event.external_id), ("lead.duplicate", id.to_string()));
    assert_eq!((&event.data["count"], &event.data["lead"]["phones"][0]["e164"]), (&json!(1), &json!("+79160000002")));
    assert_eq!((&event.data["matched"], &event.data["refs"]), (&json!(["title"]), &json!([])));
    let after = store.batch(batch).await.unwrap().unwrap();
    assert_eq!((after.counts, after.status), (before.counts, before.status), "the batch does not count them");
    assert_eq!(store.backlog(), 20);
    let told = lease(&*store, &lanes[1..], at(40)).await.remove(0);
    assert_eq!((told.lead.id, told.event.unwrap().kind.as_str()), (id, "lead.duplicate"));

    // The lead holds the contacts of those that came after it, so it is found and erased by them too.
    assert_eq!(found(&*store, project, contact("+79160000002")).await, [id]);
    let person = Person { contacts: contact("+79160000002"), lead: None };
    let (receipt, _) = erase(&*store, &erasure(project, day(50)), &person, 5).await;
    assert_eq!((receipt.counts.leads, receipt.counts.contacts, store.backlog()), (1, 2, 0));
    assert!(found(&*store, project, contact("+79160000002")).await.is_empty());
}

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
    leads_that_are_too_old_go_whole_and_nothing_else_does,
    attempts_that_are_too_old_go_and_their_deliveries_say_so,
    tasks_that_have_ended_go_with_their_age,
    the_last_cleanup_is_known,
    a_person_who_is_erased_is_nowhere,
    two_that_erase_at_once_count_each_lead_once,
    one_lead_is_erased_by_its_id,
    tasks_that_were_asked_about_the_person_are_asked_nothing_any_more,
    erasures_are_kept_and_listed,
    a_lead_that_is_gone_is_not_sent_again,
    how_often_a_lead_came_again_is_known,
    who_wants_to_hears_that_a_lead_came_again,
);

/// What is of SQLite alone: its files.
mod files {
    use std::path::Path;

    use leadwire::store::sqlite::{SqliteStore, StoreOptions};

    use super::*;

    /// Which of these texts stand in the database's files, byte by byte.
    fn standing<'t>(folder: &Path, texts: &[&'t str]) -> Vec<(String, &'t str)> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let here = texts.iter().filter(|text| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
            all.extend(here.map(|text| (name.clone(), *text)));
        }
        all
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_bytes_of_an_erased_person_are_gone_from_a_database_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("leadwire.db"), StoreOptions::default()).await.unwrap();
        let (project, lanes) = (project_id(), lanes(1));
        // Many others around it, in whose pages the person's rows stand and move.
        let other = |number: i64| {
            let mut other = of(project, &lanes, &format!("+7903{:07}", number * 7_919 % 10_000_000), day(1));
            other.lead.name = Some(format!("Number {number}"));
            other.lead.external_id = Some(format!("form-{}", number * 31 % 1_000));
            other
        };
        let rounds = async |from: i64, to: i64| {
            for number in from..to {
                accept(&store, other(number)).await;
            }
            for leased in lease(&store, &lanes, day(2)).await {
                finish_one(&store, leased.job, end(DeliveryStatus::Failed), day(2)).await;
            }
        };
        rounds(0, 300).await;
        let texts = ["79161234567", "6543-21-secret", "Zebulon", "quartermain", "heliotrope", "kunigunde", "form-person"];
        let mut person = of(project, &lanes, "+79161234567", day(1));
        person.lead.comment = Some("the heliotrope one".to_owned());
        person.lead.emails = vec!["kunigunde@example.com".to_owned()];
        person.lead.external_id = Some("form-person".to_owned());
        person.lead.fields = serde_json::from_value(json!({"passport": "6543-21-secret"})).unwrap();
        accept(&store, person).await;
        rounds(300, 600).await;
        searchable(&store).await;
        let before = standing(dir.path(), &texts);
        for text in texts {
            assert!(before.iter().any(|(_, found)| *found == text), "{text} should stand somewhere before: {before:?}");
        }
        let asked = Person { contacts: contact("+79161234567"), lead: None };
        let (receipt, _) = erase(&store, &erasure(project, day(50)), &asked, 20).await;
        assert_eq!(receipt.counts.leads, 1);
        assert_eq!(standing(dir.path(), &texts), [], "in a running host");
        assert_eq!(by_word(&store, project, "number").await, 200, "the others are found as before");
        rounds(600, 620).await;
        store.close().await;
        assert_eq!(standing(dir.path(), &texts), []);
    }
}
