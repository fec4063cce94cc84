//! Periodic work, and tasks. Each piece is bounded, and none is needed for a lead to arrive.

pub mod tasks;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::model::Timestamp;

/// How often expired rows are removed and the use of keys is noted.
const EVERY: Duration = Duration::from_secs(60);
/// Rows of one kind that one statement removes.
const SLICE: u32 = 5_000;
/// Older leads that are made searchable in one transaction.
const INDEXED: u32 = 200;

/// Runs until `stop`; notes the last use of keys once more at the end.
pub async fn run(app: App, stop: CancellationToken) {
    index_older_leads(&app, &stop).await;
    loop {
        let next = app.now().plus(EVERY);
        tokio::select! {
            () = stop.cancelled() => break,
            () = app.clock.sleep_until(next) => {}
        }
        prune(&app).await;
        prune_events(&app).await;
        flush(&app).await;
    }
    flush(&app).await;
}

/// Makes leads from before the search tables searchable, after the first start with them.
async fn index_older_leads(app: &App, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match app.store.index_leads(INDEXED).await {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(%error, "older leads were not made searchable; tried again after the next start");
                return;
            }
        }
    }
}

/// Removes expired dedup keys, kept answers and plugin state, slice by slice so that leads go between.
async fn prune(app: &App) {
    loop {
        match app.store.prune(app.now(), SLICE).await {
            Ok(pruned) if [pruned.dedup, pruned.idempotency, pruned.kv].contains(&u64::from(SLICE)) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "expired rows were not removed; tried again in a minute");
                return;
            }
        }
    }
}

/// Removes live events that nobody can resume from any more.
async fn prune_events(app: &App) {
    let before = Timestamp::from_millis(app.now().as_millis().saturating_sub(app.config.events.kept.as_millis() as i64));
    loop {
        match app.store.prune_events(before, SLICE).await {
            Ok(removed) if removed == u64::from(SLICE) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "old events were not removed; tried again in a minute");
                return;
            }
        }
    }
}

async fn flush(app: &App) {
    if let Err(error) = app.flush_key_use().await {
        tracing::warn!(%error, "the last use of keys was not noted");
    }
}
