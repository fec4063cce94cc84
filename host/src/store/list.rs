//! What lists ask and what they get.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{CredentialId, ProjectId, Timestamp};

/// Which rows a list shows, newest first; every condition that is there must hold. Conditions on the lead (`entity`,
/// `contacts`, `external_id`, `words`) apply to its batches and deliveries too, which may then come lead by lead.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ListQuery {
    /// `None`: of every project (platform keys).
    pub project: Option<ProjectId>,
    /// Status in its JSON spelling.
    pub status: Option<String>,
    /// Leads and batches: with a delivery of this channel.
    pub channel: Option<String>,
    /// Leads and batches: with a delivery of this credential.
    pub credential: Option<CredentialId>,
    #[allow(missing_docs)]
    pub entity: Option<String>,
    /// The client's own id of the lead.
    pub external_id: Option<String>,
    /// Contact keys: of each group one at least must be the lead's ([`crate::policy::search`]).
    pub contacts: Vec<Vec<String>>,
    /// Words that must all be the lead's.
    pub words: Vec<String>,
    #[allow(missing_docs)]
    pub created_after: Option<Timestamp>,
    #[allow(missing_docs)]
    pub created_before: Option<Timestamp>,
    /// Where the page before ended ([`Found::next`]); only good for the same conditions.
    #[serde(skip)]
    pub before: Option<Cursor>,
    /// 1 to 200; 1 to 5,000 for ids alone. A page of large rows ends before, so that it stays within some megabytes.
    #[serde(skip)]
    pub limit: u32,
}

impl ListQuery {
    /// Whether the lead itself is asked about, beyond its project.
    pub fn asks_for_the_lead(&self) -> bool {
        self.entity.is_some() || self.external_id.is_some() || !self.contacts.is_empty() || !self.words.is_empty()
    }
}

/// A place in a list. It names no row that could go away, only where in the order to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Go on below this.
    pub at: Uuid,
    /// Go on within the lead at `at`, below this.
    pub within: Option<Uuid>,
}

impl Cursor {
    /// Below `at`.
    pub const fn below(at: Uuid) -> Self {
        Self { at, within: None }
    }

    /// 16 or 32 bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.at.as_bytes().to_vec();
        bytes.extend(self.within.iter().flat_map(|id| *id.as_bytes()));
        bytes
    }

    /// What [`Cursor::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (at, within) = bytes.split_at_checked(16)?;
        let within = if within.is_empty() { None } else { Some(Uuid::from_slice(within).ok()?) };
        Some(Self { at: Uuid::from_slice(at).ok()?, within })
    }
}

/// A page of a list. It may be shorter than asked for, even empty, before the list's end: how many rows are looked at for
/// one page is bounded.
#[derive(Debug, Clone, PartialEq)]
pub struct Found<T> {
    #[allow(missing_docs)]
    pub items: Vec<T>,
    /// Where the list goes on; `None` at its end.
    pub next: Option<Cursor>,
}

impl<T> Found<T> {
    /// Nothing, and nothing follows.
    pub const fn nothing() -> Self {
        Self { items: Vec::new(), next: None }
    }
}
