//! The audit log: who did what, and what it changed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AuditId, KeyId, ProjectId, Timestamp};

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident => $word:literal, $object:literal;)+) => {
        /// An administrative act.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum AuditAction {
            $($(#[$doc])* #[serde(rename = $word)] $name,)+
        }

        impl AuditAction {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// As it is written.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }

            /// The one that is written so.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|action| action.word() == word)
            }

            /// The kind of thing it is done to.
            pub const fn object(self) -> &'static str {
                match self { $(Self::$name => $object),+ }
            }
        }
    };
}

actions! {
    /// A project was made.
    ProjectCreate => "project.create", "project";
    /// Settings of a project were changed, its fallbacks and notifications included.
    ProjectUpdate => "project.update", "project";
    /// The secret of a project's callbacks was changed.
    CallbackSecretRotate => "project.callback_secret", "project";
    /// A credential was made.
    CredentialCreate => "credential.create", "credential";
    /// A credential was changed.
    CredentialUpdate => "credential.update", "credential";
    /// A credential was deleted, and what was queued for it cancelled.
    CredentialDelete => "credential.delete", "credential";
    /// A credential was paused.
    CredentialPause => "credential.pause", "credential";
    /// A credential was resumed.
    CredentialResume => "credential.resume", "credential";
    /// What failed at a credential is tried again.
    CredentialRecover => "credential.recover", "credential";
    /// What is queued for a credential is cancelled.
    CredentialCancel => "credential.cancel", "credential";
    /// A key was made.
    KeyCreate => "key.create", "key";
    /// A key was replaced by a new one.
    KeyRotate => "key.rotate", "key";
    /// A key was revoked.
    KeyRevoke => "key.revoke", "key";
    /// A plugin was uploaded.
    ChannelUpload => "channel.upload", "channel";
    /// An uploaded file was refused.
    ChannelRefuse => "channel.refuse", "channel";
    /// A version of a plugin was put into service.
    ChannelActivate => "channel.activate", "channel";
    /// A version of a plugin was taken out of service.
    ChannelRemove => "channel.remove", "channel";
    /// Many leads are sent again.
    LeadsResend => "leads.resend", "task";
    /// Many deliveries are tried again.
    DeliveriesRetry => "deliveries.retry", "task";
    /// A task was stopped.
    TaskCancel => "task.cancel", "task";
    /// What a batch had not sent was cancelled.
    BatchCancel => "batch.cancel", "batch";
    /// A delivery is tried again.
    DeliveryRetry => "delivery.retry", "delivery";
    /// A delivery was cancelled.
    DeliveryCancel => "delivery.cancel", "delivery";
    /// A person is erased.
    PersonErase => "person.erase", "erasure";
}

// Derived, it would not see through the macro.
impl utoipa::PartialSchema for AuditAction {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        let words = Self::ALL.iter().map(|action| action.word());
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).description(Some("An administrative act.")).into()
    }
}

impl utoipa::ToSchema for AuditAction {}

/// One changed field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditChange {
    /// JSON pointer of the field.
    pub field: String,
    /// Absent: there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub before: Option<Value>,
    /// Absent: there is nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub after: Option<Value>,
}

/// One act.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditLine {
    /// Carries the time `at`.
    pub id: AuditId,
    #[allow(missing_docs)]
    pub at: Timestamp,
    /// Whose project it was done in; `None`: the platform's own.
    pub project: Option<ProjectId>,
    /// The key it was done with; `None`: by the host itself or at its command line.
    pub actor: Option<KeyId>,
    /// The key's name at that time.
    pub actor_name: String,
    /// Address that the request came from.
    pub peer: Option<String>,
    /// The node that did it.
    pub node: String,
    /// `X-Request-Id` of the request; empty without one.
    pub request_id: String,
    #[allow(missing_docs)]
    pub action: AuditAction,
    /// Id of what it was done to.
    pub object: String,
    /// Without secrets, and bounded.
    pub changes: Vec<AuditChange>,
}
