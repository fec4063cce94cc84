//! Whether writes fail, and since when: reads may go on while a disk is full, and a host that cannot write is not ready.
//!
//! The last turn of the writer decides. A host that is taken out of service gets no writes that could prove it well again,
//! so while they fail, [`probe`] writes as much as a lead would.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::writer::{self, Tx};
use crate::store::StoreError;

/// While writes fail, one is tried this often at most.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a probe: some pages, so that it needs room as a lead does.
const PROBE_BYTES: usize = 32 * 1_024;

/// What the writer's last turn said.
#[derive(Default)]
pub(in crate::store) struct Failing(Mutex<Option<Why>>);

struct Why {
    why: String,
    probed: Option<Instant>,
}

impl Failing {
    /// A turn ended so. Changes go into the log, once.
    pub(in crate::store) fn note(&self, turn: &Result<(), StoreError>) {
        let mut failing = self.lock();
        match (turn, &mut *failing) {
            (Ok(()), Some(_)) => {
                tracing::info!("the database takes writes again");
                *failing = None;
            }
            (Err(StoreError::Unavailable(why)), Some(known)) => known.why.clone_from(why),
            (Err(StoreError::Unavailable(why)), None) => {
                tracing::error!(reason = %why, "the database takes no writes: {why}; leads are answered 503 until it does");
                *failing = Some(Why { why: why.clone(), probed: None });
            }
            // Nothing was written, or the fault lies in what was asked.
            _ => {}
        }
    }

    pub(in crate::store) fn why(&self) -> Option<String> {
        self.lock().as_ref().map(|failing| failing.why.clone())
    }

    /// Whether a probe is due; whoever is told so makes it.
    pub(in crate::store) fn is_due(&self) -> bool {
        let mut failing = self.lock();
        let Some(failing) = failing.as_mut() else { return false };
        let due = failing.probed.is_none_or(|probed| probed.elapsed() >= PROBE_EVERY);
        if due {
            failing.probed = Some(Instant::now());
        }
        due
    }

    /// The next question finds a probe due.
    #[cfg(test)]
    pub(super) fn forget_probe(&self) {
        if let Some(failing) = self.lock().as_mut() {
            failing.probed = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Why>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Unavailable` with the reason while writes fail.
pub(super) async fn check(failing: &Failing, writer: &writer::Handle) -> Result<(), StoreError> {
    if failing.is_due() {
        // Its turn is noted like any other.
        let probed = writer.write(|tx| Box::pin(probe(tx))).await;
        if probed.is_ok() {
            writer.write(|tx| Box::pin(clear(tx))).await?;
        }
    }
    failing.why().map_or(Ok(()), |why| Err(StoreError::Unavailable(why)))
}

/// An answer that was never given, under a key that no request can have, and expired before it is written.
async fn probe(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query(PROBE).bind(PROBE_BYTES as i64).execute(&mut tx.conn).await?;
    Ok(())
}
const PROBE: &str = "insert or replace into idempotency (scope, body_hash, status, body, expires_at) values (x'', x'', 0, zeroblob($1), 0)";

async fn clear(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query(CLEAR).execute(&mut tx.conn).await?;
    Ok(())
}
const CLEAR: &str = "delete from idempotency where scope = x''";
