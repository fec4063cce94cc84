//! Pure decisions. No I/O, no clock, no randomness: all of that comes in as a parameter.

pub mod audit;
pub mod batch_status;
pub mod breaker;
pub mod callbacks;
pub mod cleanup;
pub mod dedup;
pub mod erasure;
pub mod fanout;
pub mod intake;
pub mod normalise;
pub mod notices;
pub mod outcome;
pub mod rate;
pub mod retry;
pub mod search;
pub mod share;
pub mod speed;

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// JSON pointer into the request's body, such as `/phones/0`.
    pub pointer: String,
    /// Machine-readable, such as `invalid_email`.
    #[schema(value_type = String)]
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

impl FieldError {
    #[allow(missing_docs)]
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), code, detail: detail.into() }
    }
}

/// Something the client should know about a request that was accepted all the same.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Warning {
    /// Machine-readable: `no_credentials`, `channel_not_installed`, `credential_disabled`, `phone_not_understood`,
    /// `note_not_supported`.
    #[schema(value_type = String)]
    pub code: &'static str,
    /// The channel it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// JSON pointer to the field it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

impl Warning {
    /// About a channel.
    pub fn channel(code: &'static str, channel: &str) -> Self {
        Self { code, channel: Some(channel.to_owned()), pointer: None }
    }

    /// About a field.
    pub fn field(code: &'static str, pointer: String) -> Self {
        Self { code, channel: None, pointer: Some(pointer) }
    }
}

/// `text` as one step of a JSON pointer (RFC 6901).
pub fn pointer_step(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(['~', '/']) { text.replace('~', "~0").replace('/', "~1").into() } else { text.into() }
}
