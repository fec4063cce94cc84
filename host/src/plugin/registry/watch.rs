//! Watches the channels folder.

use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Registry;

/// Quiet time after the last change before files are read, so that a copy in progress is read once, whole.
const QUIET: Duration = Duration::from_millis(150);
/// The folder is also looked through this often, for file systems that report nothing.
const SWEEP: Duration = Duration::from_secs(10);

/// Takes up files as they come and go, until `stop`.
pub async fn watch(registry: Arc<Registry>, stop: CancellationToken) {
    let folder = registry.state().files.folder().to_path_buf();
    let (changed, mut changes) = mpsc::channel(1);
    // Kept so that the channel stays open where nothing can be watched.
    let _open = changed.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access() || is_close_write(&event.kind)) {
            // Full means that a look is due anyway.
            let _ = changed.try_send(());
        }
    });
    let watcher = watcher.and_then(|mut watcher| watcher.watch(&folder, notify::RecursiveMode::NonRecursive).map(|()| watcher));
    let _watcher = watcher.inspect_err(|error| {
        tracing::warn!(%error, folder = %folder.display(), "the channels folder cannot be watched; it is looked through every 10 s");
    });
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tokio::time::timeout(SWEEP, changes.recv()) => {}
        }
        while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
        registry.scan().await;
    }
}

fn is_close_write(kind: &notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode};
    matches!(kind, notify::EventKind::Access(AccessKind::Close(AccessMode::Write)))
}
