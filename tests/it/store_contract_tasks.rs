//! What every `Store` must do for tasks: rows and cursor move together, once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use leadwire::model::*;
use leadwire::store::*;
use serde_json::json;

use super::store_contract::*;

fn task(project: Option<ProjectId>, now: Timestamp) -> Task {
    Task {
        id: TaskId::new(now),
        project,
        kind: TaskKind::DeliveriesRetry,
        status: TaskStatus::Running,
        asked: json!({"queries": []}),
        rate: 7,
        progress: TaskProgress { total: 3, ..TaskProgress::default() },
        cursor: None,
        correlation: "0197-correlation".to_owned(),
        created_at: now,
        finished_at: None,
    }
}

fn slice(task: &Task, from: Option<&[u8]>, to: Option<&[u8]>, work: SliceWork, looked_at: u32) -> Slice {
    let (from, to) = (from.map(<[u8]>::to_vec), to.map(<[u8]>::to_vec));
    Slice { task: task.id, from, to, work, looked_at, errors: Vec::new(), now: at(500) }
}

/// Deliveries that ended in these ways, one batch each.
async fn ended(store: &dyn Store, lane: CredentialId, ends: &[DeliveryStatus]) -> Vec<(DeliveryId, BatchId)> {
    let mut all = Vec::new();
    for status in ends {
        let intake = intake(project_id(), &[lane], at(0));
        all.push((intake.deliveries[0].id, intake.batch));
        accept(store, intake).await;
        let leased = lease_one(store, lane, at(1)).await;
        finish_one(store, leased.job, end(*status), at(2)).await.unwrap();
    }
    all
}

async fn tasks_are_kept_listed_and_cancelled(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let (project, other) = (project_id(), project_id());
    let (mine, theirs, all) = (task(Some(project), at(0)), task(Some(other), at(1)), task(None, at(2)));
    for task in [&mine, &theirs, &all] {
        assert_eq!(store.create_task(task, None).await.unwrap(), Written::New(()));
        assert_eq!(store.task(task.id).await.unwrap().as_ref(), Some(task));
    }
    let listed = async |project, before| {
        let page = store.tasks(project, before, 2).await.unwrap();
        (page.items.iter().map(|task| task.id).collect::<Vec<_>>(), page.has_more)
    };
    assert_eq!(listed(Some(project), None).await, (vec![mine.id], false));
    assert_eq!(listed(None, None).await, (vec![all.id, theirs.id], true));
    assert_eq!(listed(None, Some(theirs.id)).await, (vec![mine.id], false));
    assert!(store.cancel_task(theirs.id, at(9)).await.unwrap());
    assert!(!store.cancel_task(theirs.id, at(10)).await.unwrap(), "it has ended");
    assert!(!store.cancel_task(TaskId::new(at(0)), at(10)).await.unwrap());
    let cancelled = store.task(theirs.id).await.unwrap().unwrap();
    assert_eq!((cancelled.status, cancelled.finished_at), (TaskStatus::Cancelled, Some(at(9))));
    let running: Vec<_> = store.running_tasks(10).await.unwrap().iter().map(|task| task.id).collect();
    assert_eq!(running, [mine.id, all.id]);
    assert_eq!(store.running_tasks(1).await.unwrap().len(), 1);
}

async fn a_slice_is_done_once_and_moves_its_task_with_it(backend: &dyn Backend) {
    use DeliveryStatus::{Delivered, Failed, InDoubt};
    let store = backend.open(100).await;
    let lane = lanes(1)[0];
    let rows = ended(&*store, lane, &[Failed, InDoubt, Delivered]).await;
    let ids: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
    let task = task(None, at(3));
    store.create_task(&task, None).await.unwrap();

    let twice = ids.iter().chain(&ids).copied().collect();
    let first = slice(&task, None, Some(b"one"), SliceWork::Retry(twice), 3);
    let done = store.do_slice(first).await.unwrap().unwrap();
    assert_eq!((done.changed, done.batches.len(), done.due), (2, 2, vec![lane.bulk_lane()]), "what is delivered stays delivered");
    assert_eq!(store.backlog(), 2);
    for (id, batch) in &rows[..2] {
        let delivery = store.delivery(*id).await.unwrap().unwrap();
        assert_eq!((delivery.status, delivery.due_at, delivery.attempts), (DeliveryStatus::Queued, Some(at(500)), 0));
        assert_eq!(counts(&*store, *batch).await, BatchCounts { total: 1, pending: 1, ..BatchCounts::default() });
    }
    assert_eq!(status(&*store, ids[2]).await, Delivered);

    let again = slice(&task, None, Some(b"one"), SliceWork::Retry(ids.clone()), 3);
    assert_eq!(store.do_slice(again).await.unwrap(), None, "the same slice after a crash");
    let mut last = slice(&task, Some(b"one"), None, SliceWork::Retry(ids), 4);
    last.errors = (0..30).map(|n| TaskError { id: n.to_string(), code: "x".to_owned(), detail: "y".to_owned() }).collect();
    assert_eq!(store.do_slice(last).await.unwrap(), Some(Sliced::default()), "queued ones are not queued twice");
    assert_eq!(store.backlog(), 2);
    let stored = store.task(task.id).await.unwrap().unwrap();
    assert_eq!((stored.status, stored.finished_at), (TaskStatus::Completed, Some(at(500))));
    let TaskProgress { total, done, changed, errors, first_errors } = stored.progress;
    assert_eq!((total, done, changed, errors, first_errors.len()), (3, 7, 2, 30, KEPT_ERRORS));
    // What was retried is sent like anything else; the lease grows the fence past its first life.
    assert_eq!(lease(&*store, &[lane.bulk_lane()], at(600)).await.len(), 2);
}

async fn a_cancelled_task_does_nothing_more(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lane = lanes(1)[0];
    let rows = ended(&*store, lane, &[DeliveryStatus::Failed]).await;
    let task = task(None, at(3));
    store.create_task(&task, None).await.unwrap();
    store.cancel_task(task.id, at(4)).await.unwrap();
    let late = slice(&task, None, None, SliceWork::Retry(vec![rows[0].0]), 1);
    assert_eq!(store.do_slice(late).await.unwrap(), None);
    assert_eq!(status(&*store, rows[0].0).await, DeliveryStatus::Failed);
}

async fn a_slice_that_cancels_leaves_what_is_being_sent(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lane = lanes(1)[0];
    let sent = intake(project_id(), &[lane, lane], at(0));
    let (ids, batch): (Vec<_>, _) = (sent.deliveries.iter().map(|delivery| delivery.id).collect(), sent.batch);
    accept(&*store, sent).await;
    let leased = store.lease(&[LaneQuota { lane, limit: 1 }], at(499), at(9_000)).await.unwrap();
    let task = Task { kind: TaskKind::CredentialCancel, ..task(None, at(3)) };
    store.create_task(&task, None).await.unwrap();
    let work = SliceWork::Cancel(ids.iter().chain(&ids).copied().collect());
    let done = store.do_slice(slice(&task, None, None, work, 2)).await.unwrap().unwrap();
    assert_eq!((done.changed, done.batches[0].ended), (1, None));
    assert_eq!(counts(&*store, batch).await, BatchCounts { total: 2, pending: 1, cancelled: 1, ..BatchCounts::default() });
    let changed = finish_one(&*store, leased[0].job, end(DeliveryStatus::Delivered), at(600)).await.unwrap();
    assert_eq!(changed.ended, Some(BatchStatus::Partial));
}

async fn a_slice_sends_stored_leads_again_and_refuses_past_the_backlog_limit(backend: &dyn Backend) {
    let store = backend.open(3).await;
    let (project, lanes) = (project_id(), lanes(1));
    let first = intake(project, &lanes, at(0));
    let lead = first.lead.clone();
    accept(&*store, first).await;
    let task = Task { kind: TaskKind::LeadsResend, ..task(Some(project), at(3)) };
    store.create_task(&task, None).await.unwrap();
    let again = |count: usize| {
        let one = |_| Intake { lead: lead.clone(), ..intake(project, &lanes, at(400)) };
        SliceWork::Send((0..count).map(one).collect())
    };
    let refused = store.do_slice(slice(&task, None, None, again(3), 3)).await;
    assert!(matches!(refused, Err(StoreError::Overloaded { backlog: 1 })), "{refused:?}");
    assert_eq!(store.batches_of_lead(lead.id).await.unwrap().len(), 1, "all of it or nothing");
    let done = store.do_slice(slice(&task, None, None, again(1), 1)).await.unwrap().unwrap();
    assert_eq!((done.changed, done.due), (1, vec![lanes[0].bulk_lane()]));
    assert_eq!(store.batches_of_lead(lead.id).await.unwrap().len(), 2);
    assert_eq!(store.backlog(), 2);
    searchable(&*store).await;
    let found = store
        .leads(&ListQuery {
            project: Some(project),
            words: leadwire::policy::search::asked_words("иван"),
            limit: 5,
            ..ListQuery::default()
        })
        .await;
    assert_eq!(found.unwrap().items.len(), 1, "one lead, however often it is sent");
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
    tasks_are_kept_listed_and_cancelled,
    a_slice_is_done_once_and_moves_its_task_with_it,
    a_cancelled_task_does_nothing_more,
    a_slice_that_cancels_leaves_what_is_being_sent,
    a_slice_sends_stored_leads_again_and_refuses_past_the_backlog_limit,
);
