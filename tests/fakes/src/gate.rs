//! A gate that a test opens: what stands for "the remote side takes its time".

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Holds back an answer until the test lets it pass; clones share the gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets `count` more pass (one answer each, or one byte each in [`crate::Manner::Steps`]).
    pub fn step(&self, count: usize) {
        self.0.add_permits(count);
    }

    /// Lets everything pass from now on.
    pub fn open(&self) {
        self.0.close();
    }

    /// Waits for one permission. A gate that was opened gives it at once.
    pub(crate) async fn pass(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}
