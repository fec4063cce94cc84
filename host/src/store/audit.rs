//! Administrative acts: each is written together with its line of the audit log.

use super::{Changed, Cursor};
use crate::model::{
    ApiKey, AuditAction, BatchId, CallbackSecrets, Credential, CredentialId, CredentialState, DeliveryId, Erasure, KeyId, Project,
    ProjectId, StateReason, Task, TaskId, Timestamp,
};

/// What an admin does. Each does what the store's method of the same name does.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Act {
    CreateProject(Box<Project>),
    /// [`super::StoreError::Stale`] unless the stored one was last written at `read_at`.
    UpdateProject {
        project: Box<Project>,
        read_at: Timestamp,
    },
    SetCallbackSecrets {
        project: ProjectId,
        read: Box<CallbackSecrets>,
        new: Box<CallbackSecrets>,
    },
    CreateCredential(Box<Credential>),
    UpdateCredential(Box<Credential>),
    DeleteCredential {
        id: CredentialId,
        now: Timestamp,
    },
    SetCredentialState {
        id: CredentialId,
        state: CredentialState,
        reason: Option<StateReason>,
        since: Timestamp,
    },
    CreateKey(Box<ApiKey>),
    /// Writes `new`, and on `old` who replaces it and that it ends at `until` at the latest. Nothing to do when `old` is
    /// revoked, expired at `now` or replaced already.
    RotateKey {
        old: KeyId,
        until: Timestamp,
        now: Timestamp,
        new: Box<ApiKey>,
    },
    RevokeKey {
        id: KeyId,
        now: Timestamp,
    },
    CreateTask(Box<Task>),
    CancelTask {
        id: TaskId,
        now: Timestamp,
    },
    RetryDelivery {
        id: DeliveryId,
        now: Timestamp,
    },
    CancelDelivery {
        id: DeliveryId,
        now: Timestamp,
    },
    CancelBatch {
        id: BatchId,
        now: Timestamp,
    },
    CreateErasure(Box<Erasure>),
    /// The effect is not in the store: plugin files.
    Elsewhere,
}

/// What an act did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acted {
    /// Batches that it changed.
    pub changed: Vec<Changed>,
    /// Deliveries that the cancel of a batch cancelled.
    pub cancelled: u32,
}

/// Which lines of the audit log, newest first; every condition that is there must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditQuery {
    /// `None`: of every project, and the platform's own.
    pub project: Option<ProjectId>,
    #[allow(missing_docs)]
    pub actor: Option<KeyId>,
    #[allow(missing_docs)]
    pub action: Option<AuditAction>,
    /// Id of what it was done to.
    pub object: Option<String>,
    #[allow(missing_docs)]
    pub after: Option<Timestamp>,
    #[allow(missing_docs)]
    pub before: Option<Timestamp>,
    /// Where the page before ended ([`super::Found::next`]).
    pub below: Option<Cursor>,
    /// 1 to 200.
    pub limit: u32,
}
