//! Constructors of verdicts and stops.

use crate::{Attr, Postponement, Receipt, Refusal, Stop, Verdict};

/// What [`crate::Channel::deliver_one`] answers: a verdict on the item, or a stop for the whole credential.
pub type Outcome = Result<Verdict, Stop>;

impl Verdict {
    /// The remote side took it.
    pub fn delivered() -> Self {
        Self::Delivered(Receipt { refs: Vec::new(), url: None })
    }

    /// The remote side had it already; counts as success.
    pub fn duplicate() -> Self {
        Self::Duplicate(Receipt { refs: Vec::new(), url: None })
    }

    /// A rule in the settings says not to send it; counts as success.
    pub fn skipped(code: &str, message: impl Into<String>) -> Self {
        Self::Skipped(refusal(code, message))
    }

    /// Try this item again. `code` is stable and machine-readable, `message` is for the admin.
    pub fn retry(code: &str, message: impl Into<String>) -> Self {
        Self::Retry(Postponement { after_ms: None, maybe_sent: false, why: refusal(code, message) })
    }

    /// Never try this item again.
    pub fn rejected(code: &str, message: impl Into<String>) -> Self {
        Self::Rejected(refusal(code, message))
    }

    /// Adds an id that the remote side gave, such as `lead` → `8123`. Only on delivered and duplicate.
    #[must_use]
    pub fn with_ref(mut self, name: &str, value: impl ToString) -> Self {
        if let Self::Delivered(receipt) | Self::Duplicate(receipt) = &mut self {
            receipt.refs.push(Attr { name: name.into(), value: value.to_string() });
        }
        self
    }

    /// Adds the address where a person can look at it. Only on delivered and duplicate.
    #[must_use]
    pub fn with_url(mut self, url: impl Into<String>) -> Self {
        if let Self::Delivered(receipt) | Self::Duplicate(receipt) = &mut self {
            receipt.url = Some(url.into());
        }
        self
    }

    /// Not before this time has passed, when the remote side said so. Only on retry.
    #[must_use]
    pub fn after(mut self, ms: Option<u32>) -> Self {
        if let Self::Retry(later) = &mut self {
            later.after_ms = ms;
        }
        self
    }

    /// The remote side may have done it all the same. Only on retry.
    #[must_use]
    pub fn maybe_sent(mut self, maybe: bool) -> Self {
        if let Self::Retry(later) = &mut self {
            later.maybe_sent = maybe;
        }
        self
    }
}

impl Stop {
    /// Pause the credential's queue; milliseconds, when the remote side said.
    pub fn rate_limited(after_ms: Option<u32>) -> Self {
        Self::RateLimited(after_ms)
    }

    /// Pause it until an admin acts; the text is shown to the admin.
    pub fn credential_invalid(message: impl Into<String>) -> Self {
        Self::CredentialInvalid(message.into())
    }

    /// The remote side is down.
    pub fn unavailable(after_ms: Option<u32>) -> Self {
        Self::Unavailable(after_ms)
    }

    /// The settings cannot work.
    pub fn misconfigured(message: impl Into<String>) -> Self {
        Self::Misconfigured(message.into())
    }

    /// A defect in the plugin, or an answer it does not understand.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into())
    }
}

fn refusal(code: &str, message: impl Into<String>) -> Refusal {
    Refusal { code: code.into(), message: message.into() }
}
