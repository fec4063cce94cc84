//! Makes leads searchable by their words, a moment after they were accepted.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::App;

/// How often new leads are looked for. So long a search may not know a lead when there is little to do.
const EVERY: Duration = Duration::from_millis(500);
/// Leads of one transaction: some milliseconds of the writer's time.
const SLICE: u32 = 50;
/// After each slice, it rests so many times as long as that took. A slice takes longer when others write, so that under load
/// searches fall behind, and leads do not wait for them.
const REST: u32 = 4;
/// Pause after the store failed.
const PAUSE: Duration = Duration::from_secs(30);

/// Runs until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    loop {
        let begun = Instant::now();
        let pause = match app.store.index_leads(SLICE).await {
            Ok(true) => begun.elapsed() * REST,
            Ok(false) => EVERY,
            Err(error) => {
                tracing::warn!(%error, "new leads were not made searchable; tried again in {} s", PAUSE.as_secs());
                PAUSE
            }
        };
        let next = app.now().plus(pause);
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.clock.sleep_until(next) => {}
        }
    }
}
