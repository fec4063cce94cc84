//! Lanes: one queue per credential. The dispatcher leases due jobs, a worker calls the plugin and records the outcome.
//! Never decides what follows an outcome: that is `policy::retry`.

use crate::model::{BatchId, BatchStatus, CredentialId, CredentialState, StateReason, Timestamp};

/// What the rest of the host may ask of the lanes. Cheap to clone.
#[derive(Clone)]
pub struct Lanes {}

/// A lane as `GET /api/credentials/{id}` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneState {
    #[allow(missing_docs)]
    pub state: CredentialState,
    #[allow(missing_docs)]
    pub reason: Option<StateReason>,
    #[allow(missing_docs)]
    pub since: Timestamp,
}

/// What a credential's connection test said.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckAnswer {
    /// It works; names and values for the admin.
    Ok(Vec<(String, String)>),
    /// It does not.
    Failed {
        /// Machine-readable, such as `credential_invalid`.
        code: String,
        /// For the admin.
        message: String,
    },
}

impl Lanes {
    /// Jobs were queued in these lanes, the earliest due then. Never blocks.
    pub fn hint(&self, lanes: &[(CredentialId, Timestamp)]) {
        let _ = lanes;
        unimplemented!()
    }

    /// The credential was written, enabled, paused or deleted: read it again before the next call.
    pub fn credential_changed(&self, id: CredentialId) {
        let _ = id;
        unimplemented!()
    }

    /// The passing state of a lane (throttled, breaker open, plugin missing), if it stands over the stored one.
    pub fn state(&self, id: CredentialId) -> Option<LaneState> {
        let _ = id;
        unimplemented!()
    }

    /// A future that resolves when the batch ends. Take it before the batch is accepted.
    pub fn wait_for(&self, batch: BatchId) -> impl Future<Output = BatchStatus> + Send + use<> {
        let _ = batch;
        std::future::pending()
    }

    /// Runs the plugin's `check` for a stored credential, outside its queue.
    pub async fn check(&self, id: CredentialId) -> CheckAnswer {
        let _ = id;
        unimplemented!()
    }
}
