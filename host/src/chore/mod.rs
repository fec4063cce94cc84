//! Periodic work, and tasks. Each piece is bounded, and none is needed for a lead to arrive.

pub mod erasures;
pub mod index;
pub mod retention;
pub mod tasks;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;

/// How often expired rows are removed and the use of keys is noted.
const EVERY: Duration = Duration::from_secs(60);
/// Rows of one kind that one statement removes.
const SLICE: u32 = 5_000;
/// Runs until `stop`; notes the last use of keys once more at the end.
pub async fn run(app: App, stop: CancellationToken) {
    loop {
        let next = app.now().plus(EVERY);
        tokio::select! {
            () = stop.cancelled() => break,
            () = app.clock.sleep_until(next) => {}
        }
        prune(&app).await;
        flush(&app).await;
    }
    flush(&app).await;
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

async fn flush(app: &App) {
    if let Err(error) = app.flush_key_use().await {
        tracing::warn!(%error, "the last use of keys was not noted");
    }
}
