//! What a plugin call said, in the host's own words.

use std::time::Duration;

use crate::model::RemoteRef;

/// Ids the remote side gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    #[allow(missing_docs)]
    pub refs: Vec<RemoteRef>,
    /// Where an admin can look at it.
    pub url: Option<String>,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Machine-readable and stable.
    pub code: String,
    /// For an admin.
    pub message: String,
}

impl Refusal {
    #[allow(missing_docs)]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// A plugin's word on one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The remote side took it.
    Delivered(Receipt),
    /// The remote side had it already; counts as success.
    Duplicate(Receipt),
    /// A rule in the settings says not to send it; counts as success.
    Skipped(Refusal),
    /// Try this item again.
    Retry {
        /// The remote side's own wish.
        after: Option<Duration>,
        /// The remote side may have done it all the same.
        maybe_sent: bool,
        #[allow(missing_docs)]
        why: Refusal,
    },
    /// Never try this item again.
    Rejected(Refusal),
}

/// Why a call stopped for a reason that is about the credential or the remote side, never about one lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Too many requests; how long to wait, when it said.
    RateLimited(Option<Duration>),
    /// An admin must act; what to show.
    CredentialInvalid(String),
    /// Down, or answering with server errors.
    Unavailable(Option<Duration>),
    /// The settings cannot work.
    Misconfigured(String),
    /// A defect in the plugin, or an answer it does not understand.
    Internal(String),
}

/// How a call as a whole ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    /// It returned; every item should be settled.
    Returned,
    /// It stopped.
    Stopped(Stop),
    /// The sandbox ended it: trap, budget, deadline.
    Failed(Refusal),
}

/// What became of one item of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The plugin settled it.
    Settled(Verdict),
    /// The plugin did not settle it, and the call ended so. `maybe_sent`: a request of the call may have had an effect.
    Unsettled {
        #[allow(missing_docs)]
        end: CallEnd,
        #[allow(missing_docs)]
        maybe_sent: bool,
    },
}
