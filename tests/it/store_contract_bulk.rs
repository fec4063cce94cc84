//! What every `Store` must do to keep work on many rows apart from live leads: two lanes for each credential.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use leadwire::model::*;
use leadwire::store::*;
use serde_json::json;

use super::store_contract::*;

/// A running task and one slice of it that does this.
async fn slice(store: &dyn Store, kind: TaskKind, work: SliceWork, now: Timestamp) -> Sliced {
    let task = Task {
        id: TaskId::new(now),
        project: None,
        kind,
        status: TaskStatus::Running,
        asked: json!({}),
        rate: 1,
        progress: TaskProgress::default(),
        cursor: None,
        correlation: String::new(),
        created_at: now,
        finished_at: None,
    };
    store.create_task(&task, None).await.unwrap();
    let slice = Slice { task: task.id, from: None, to: None, work, looked_at: 1, errors: Vec::new(), now };
    store.do_slice(slice).await.unwrap().unwrap()
}

async fn with_jobs(store: &dyn Store) -> BTreeSet<CredentialId> {
    store.lanes().await.unwrap().iter().map(|found| found.lane).collect()
}

async fn what_a_task_retries_waits_in_the_bulk_lane_and_stays_there(backend: &dyn Backend) {
    let store = backend.open(100).await;
    let lane = lanes(1)[0];
    let first = intake(project_id(), &[lane, lane], at(0));
    let ids: Vec<_> = first.deliveries.iter().map(|delivery| delivery.id).collect();
    accept(&*store, first).await;
    for leased in lease(&*store, &[lane], at(1)).await {
        finish_one(&*store, leased.job, end(DeliveryStatus::Failed), at(2)).await.unwrap();
    }
    let done = slice(&*store, TaskKind::DeliveriesRetry, SliceWork::Retry(vec![ids[0]]), at(3)).await;
    assert_eq!((done.changed, done.due), (1, vec![lane.bulk_lane()]));
    let by_hand = store.retry_delivery(ids[1], at(3)).await.unwrap();
    assert!(by_hand.is_some());
    assert_eq!(with_jobs(&*store).await, BTreeSet::from([lane, lane.bulk_lane()]));
    let live = lease_one(&*store, lane, at(4)).await;
    assert_eq!((live.job.delivery, live.lane), (ids[1], lane), "what one person retries goes at once");
    let bulk = lease_one(&*store, lane.bulk_lane(), at(4)).await;
    assert_eq!((bulk.job.delivery, bulk.lane), (ids[0], lane.bulk_lane()));
    finish_one(&*store, bulk.job, Next::Again { due_at: at(9), attempts: 1, maybe_sent: false }, at(5)).await.unwrap();
    assert!(lease(&*store, &[lane], at(9)).await.is_empty());
    lease_one(&*store, lane.bulk_lane(), at(9)).await;
    assert_eq!(store.delivery(ids[0]).await.unwrap().unwrap().credential_id, lane, "nobody else sees that it is a lane of its own");
}

async fn what_a_task_sends_again_waits_in_the_bulk_lane_and_goes_with_the_credential(backend: &dyn Backend) {
    let store = backend.open(5_000).await;
    let own = credential(project_id());
    store.create_credential(&own, None).await.unwrap();
    // More than are cancelled in one transaction.
    for n in 0..7 {
        let mut sends = Vec::new();
        for _ in 0..100 {
            let first = intake(own.project, &[], at(n));
            sends.push(Intake { lead: first.lead.clone(), ..intake(own.project, &[own.id], at(n)) });
            accept(&*store, first).await;
        }
        let done = slice(&*store, TaskKind::LeadsResend, SliceWork::Send(sends), at(n)).await;
        assert_eq!((done.changed, done.due), (100, vec![own.id.bulk_lane()]));
    }
    let live = intake(own.project, &[own.id], at(10));
    let ids = (live.batch, live.deliveries[0].id);
    accept(&*store, live).await;
    assert_eq!(with_jobs(&*store).await, BTreeSet::from([own.id, own.id.bulk_lane()]));
    let queues = store.queues().await.unwrap();
    let waiting: Vec<_> = queues.channels.iter().map(|queue| (queue.channel.as_str(), queue.waiting)).collect();
    assert_eq!(waiting, [(own.channel.as_str(), 701)], "both lanes are of its channel");
    let changed = store.delete_credential(own.id, at(20)).await.unwrap().unwrap();
    assert_eq!((changed.len(), store.backlog(), with_jobs(&*store).await.len()), (701, 0, 0));
    assert_eq!(status(&*store, ids.1).await, DeliveryStatus::Cancelled);
    assert_eq!(store.batch(ids.0).await.unwrap().unwrap().status, BatchStatus::Cancelled);
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
    what_a_task_retries_waits_in_the_bulk_lane_and_stays_there,
    what_a_task_sends_again_waits_in_the_bulk_lane_and_goes_with_the_credential,
);
