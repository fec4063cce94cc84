//! How a project's leads are sent.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BatchId, CredentialId, LeadId, ProjectId, SealedSecret, Timestamp};

/// What becomes of a project's credential where the lead's entity has one of the same channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntityCredentials {
    /// The entity's stands in for the project's.
    #[default]
    Instead,
    /// Both get the lead.
    Both,
}

/// Settings of a project that say how its leads are sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SendingSettings {
    #[allow(missing_docs)]
    pub entity_credentials: EntityCredentials,
    /// What is done about leads that are not delivered in time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallbacks: Vec<FallbackRule>,
    /// Who hears of what happened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<NotificationRule>,
}

impl SendingSettings {
    /// The endings of a batch that some rule wants to hear of.
    pub fn endings(&self) -> Vec<NoticeKind> {
        let all = [NoticeKind::Completed, NoticeKind::Partial, NoticeKind::Failed, NoticeKind::Cancelled, NoticeKind::Unrouted];
        all.into_iter().filter(|kind| self.notifications.iter().any(|rule| rule.on.contains(kind))).collect()
    }

    /// The names of the rules that watch this credential or send through it.
    pub fn rules_with(&self, credential: CredentialId) -> Vec<&str> {
        let to = |rule: &FallbackRule| rule.to.iter().any(|target| target.credential == credential);
        let fallbacks = self.fallbacks.iter().filter(|rule| rule.credential == Some(credential) || to(rule)).map(|rule| rule.name.as_str());
        let notifications = self.notifications.iter().filter(|rule| rule.credential == credential).map(|rule| rule.name.as_str());
        fallbacks.chain(notifications).collect()
    }
}

/// What people may want to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A batch: all delivered or skipped.
    Completed,
    /// A batch: some delivered, some not.
    Partial,
    /// A batch: none delivered.
    Failed,
    /// A batch: withdrawn.
    Cancelled,
    /// A batch: no credential wanted the lead.
    Unrouted,
    /// A credential was refused; its deliveries wait until an admin acts.
    CredentialInvalid,
    /// Too many failures in a row; a credential's deliveries wait.
    BreakerOpen,
    /// A plugin trapped, ran out of its budget or did not understand an answer.
    PluginFault,
}

impl NoticeKind {
    /// As the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unrouted => "unrouted",
            Self::CredentialInvalid => "credential_invalid",
            Self::BreakerOpen => "breaker_open",
            Self::PluginFault => "plugin_fault",
        }
    }
}

/// "When this happens, say so there."
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationRule {
    /// Unique within the project.
    pub name: String,
    #[allow(missing_docs)]
    pub on: Vec<NoticeKind>,
    #[allow(missing_docs)]
    pub credential: CredentialId,
    #[allow(missing_docs)]
    pub channel: String,
    /// Over the credential's config; a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
    /// The text; `None`: the usual words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// After a message, what happens within so many seconds is told together.
    pub quiet_sec: u32,
}

/// Something that happened while a delivery was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    #[allow(missing_docs)]
    pub kind: NoticeKind,
    #[allow(missing_docs)]
    pub project: ProjectId,
    /// The batch that it happened to.
    pub batch: BatchId,
    #[allow(missing_docs)]
    pub lead: LeadId,
    /// The credential and channel, where it is about one.
    pub credential: Option<(CredentialId, String)>,
    /// Why, for an admin.
    pub why: Option<String>,
    #[allow(missing_docs)]
    pub at: Timestamp,
}

/// "Delivered there within this time, else here."
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FallbackRule {
    /// For the admin.
    pub name: String,
    /// Deliveries of this channel …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// … or of this credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
    /// Seconds from when the delivery is due.
    pub within_sec: u32,
    /// Where the lead goes then.
    pub to: Vec<FallbackTarget>,
}

/// Where a lead goes that was not delivered in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FallbackTarget {
    #[allow(missing_docs)]
    pub credential: CredentialId,
    #[allow(missing_docs)]
    pub channel: String,
    /// Over the credential's config; a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Value>,
}

/// What callbacks to URLs are signed with (Standard Webhooks).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CallbackSecrets {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[allow(missing_docs)]
    pub current: Option<SealedSecret>,
    /// The one before it, which signs as well until the time beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<(SealedSecret, Timestamp)>,
}
