//! How long things are kept, and what was removed.

use serde::{Deserialize, Serialize};

use super::{ProjectId, Timestamp};

/// Ages of a project's own, in days. What is absent follows the host's settings; 0 keeps for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSettings {
    /// Leads with their batches, deliveries and attempts, 0 to 36,500 days. Absent or null: the host's setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leads_days: Option<u32>,
    /// Attempts of deliveries that have ended, 0 to 36,500 days. Absent or null: the host's setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_days: Option<u32>,
}

/// How many rows of each kind a clean-up removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Removed {
    pub leads: u64,
    pub batches: u64,
    pub deliveries: u64,
    /// Those of removed deliveries included.
    pub attempts: u64,
    /// Tasks that had ended.
    pub tasks: u64,
    pub events: u64,
    pub audit: u64,
}

impl Removed {
    /// Adds another count to this one.
    pub fn add(&mut self, other: &Self) {
        let Self { leads, batches, deliveries, attempts, tasks, events, audit } = other;
        self.leads += leads;
        self.batches += batches;
        self.deliveries += deliveries;
        self.attempts += attempts;
        self.tasks += tasks;
        self.events += events;
        self.audit += audit;
    }
}

/// The last clean-up of a project, or of what belongs to none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// `None`: of what belongs to no project.
    pub project: Option<ProjectId>,
    /// The time in the schedule that it was for.
    pub due_at: Timestamp,
    #[allow(missing_docs)]
    pub ended_at: Timestamp,
    #[allow(missing_docs)]
    pub removed: Removed,
    /// The delivery up to which no attempt was too old any more; the next one goes on there.
    pub place: Option<super::DeliveryId>,
}

/// How often a lead came again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Repeats {
    /// Without the first time.
    pub count: u32,
    /// When last.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Timestamp,
}
