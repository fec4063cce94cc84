//! A person that is erased from the store, and the receipt that stays.

use serde::{Deserialize, Serialize};

use super::{CredentialId, ErasureId, KeyId, LeadId, ProjectId, RemoteRef, Timestamp};

/// By what a person is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureKind {
    /// Every lead with this number.
    Phone,
    /// Every lead with this address.
    Email,
    /// This lead alone.
    LeadId,
}

impl ErasureKind {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Email => "email",
            Self::LeadId => "lead_id",
        }
    }
}

/// Who is erased, as the store looks for it. Kept sealed until it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Contact keys ([`crate::policy::search`]): a lead with any of them is the person's.
    #[serde(default)]
    pub contacts: Vec<String>,
    /// Or this lead.
    #[serde(default)]
    pub lead: Option<LeadId>,
}

/// What was removed of a person, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ErasureCounts {
    #[allow(missing_docs)]
    pub leads: u64,
    #[allow(missing_docs)]
    pub batches: u64,
    /// Callbacks, fallbacks and notifications about these leads included.
    pub deliveries: u64,
    /// With the requests and answers they held.
    pub attempts: u64,
    /// Deliveries that were still queued: they are not sent any more.
    pub queued: u64,
    /// Deliveries that were being sent: such a call cannot be called back, and its answer is not written down.
    pub sending: u64,
    /// Contacts in the search index.
    pub contacts: u64,
    /// Keys by which a second lead would have been a duplicate.
    pub dedup_keys: u64,
    /// Tasks and notifications about other things in which the person was named, and is not any more.
    pub redacted: u64,
}

impl ErasureCounts {
    /// Adds another count to this one.
    pub fn add(&mut self, other: &Self) {
        let Self { leads, batches, deliveries, attempts, queued, sending, contacts, dedup_keys, redacted } = other;
        self.leads += leads;
        self.batches += batches;
        self.deliveries += deliveries;
        self.attempts += attempts;
        self.queued += queued;
        self.sending += sending;
        self.contacts += contacts;
        self.dedup_keys += dedup_keys;
        self.redacted += redacted;
    }
}

/// Most receivers that a receipt names one by one.
const MAX_RECEIVED: usize = 500;
/// Most ids of the remote side that a receipt names for one credential.
const MAX_REFS: usize = 100;

/// A credential that had sent the person's data, or may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Received {
    #[allow(missing_docs)]
    pub channel: String,
    /// `crd_…`
    #[schema(value_type = String)]
    pub credential_id: CredentialId,
    /// Deliveries that reached the remote side, or may have.
    pub deliveries: u64,
    /// Ids that the remote side gave, the first 100.
    pub refs: Vec<RemoteRef>,
}

/// An erasure as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Erasure {
    #[allow(missing_docs)]
    pub id: ErasureId,
    #[allow(missing_docs)]
    pub project: ProjectId,
    /// The API key that asked.
    pub key: KeyId,
    #[allow(missing_docs)]
    pub kind: ErasureKind,
    /// Equal for equal questions under one master key; tells nothing of them.
    pub fingerprint: String,
    /// [`Person`], sealed by the caller; `None` when it is done.
    pub asked: Option<Vec<u8>>,
    #[allow(missing_docs)]
    pub counts: ErasureCounts,
    #[allow(missing_docs)]
    pub received: Vec<Received>,
    /// `X-Request-Id` of the request that asked.
    pub correlation: String,
    #[allow(missing_docs)]
    pub created_at: Timestamp,
    /// When nothing was left.
    pub finished_at: Option<Timestamp>,
}

/// Notes that a credential had sent one delivery. Past so many credentials the rest is not named.
pub fn note_received(all: &mut Vec<Received>, credential: CredentialId, channel: &str, refs: Vec<RemoteRef>) {
    let place = match all.iter().position(|one| one.credential_id == credential) {
        Some(place) => place,
        None if all.len() >= MAX_RECEIVED => return,
        None => {
            all.push(Received { channel: channel.to_owned(), credential_id: credential, deliveries: 0, refs: Vec::new() });
            all.len() - 1
        }
    };
    let Some(one) = all.get_mut(place) else { return };
    one.deliveries += 1;
    let room = MAX_REFS.saturating_sub(one.refs.len());
    one.refs.extend(refs.into_iter().take(room));
}
