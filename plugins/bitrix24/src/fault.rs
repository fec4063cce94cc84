//! What a refusal of the portal means. Codes come in any case, some as an empty text, and one code under several statuses, so
//! the code is looked at first, then the words, then the status.

use leadwire_sdk::{
    Stop, Verdict,
    http::{Failure, FailureKind, Response},
};
use serde_json::Value;

/// Longest part of the portal's words that goes into a message.
const WORDS: usize = 300;

/// What a refusal means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Too many requests.
    Busy,
    /// The method's running time of ten minutes is used up; the others work.
    OperatingTime,
    /// Nothing works with this webhook until an admin acts.
    Credential(String),
    /// The settings cannot work.
    Settings(String),
    /// There is no such object.
    Missing(String),
    /// About this lead alone.
    Refused { code: String, text: String },
    /// No answer, or one that says nothing; `maybe`: what was asked may have been done.
    Trouble { code: String, text: String, maybe: bool },
}

impl Fault {
    /// From the two fields of an error, at the top or inside a batch (where the status is 200).
    pub(crate) fn of(status: u16, code: &str, description: &str) -> Self {
        let text = readable(code, description);
        let words = description.to_lowercase();
        let plan = || Self::Credential(format!("the portal's plan does not allow REST: {text}"));
        match code.to_lowercase().as_str() {
            "query_limit_exceeded" => Self::Busy,
            "operation_time_limit" => Self::OperatingTime,
            "overload_limit" => Self::Credential(format!("Bitrix24 has blocked requests to the portal, ask its support: {text}")),
            "payment_required" | "create_dynamic_item_restricted" | "update_dynamic_item_restricted" => plan(),
            "access_denied" if words.contains("plan") || words.contains("subscription") => plan(),
            "expired_token"
            | "invalid_token"
            | "no_auth_found"
            | "invalid_credentials"
            | "authorization_error"
            | "application_not_found"
            | "error_oauth"
            | "not_installed"
            | "wrong_auth_type"
            | "invalid_grant"
            | "invalid_client" => {
                Self::Credential(format!("the portal does not know this webhook, or it has expired; make a new one: {text}"))
            }
            "portal_deleted" => Self::Credential(format!("the portal was deleted: {text}")),
            "insufficient_scope" | "invalid_scope" => Self::Credential(format!("give the webhook the right `crm`: {text}")),
            "access_denied" | "user_access_error" | "allowed_only_intranet_user" => rights(&text),
            "error_method_not_found" => no_method(&text),
            "internal_server_error" | "error_unexpected_answer" => Self::Trouble { code: portal_code(code, status), text, maybe: true },
            "not_found" | "error_not_found" => Self::Missing(text),
            "" if words.contains("access denied") => rights(&text),
            "" if words.contains("method not found") => no_method(&text),
            "" if words.trim_end_matches('.') == "not found" => Self::Missing(text),
            _ => match status {
                401 => Self::Credential(format!("the portal does not take this webhook: {text}")),
                403 => rights(&text),
                429 => Self::Busy,
                500.. => Self::Trouble { code: portal_code(code, status), text, maybe: true },
                _ => Self::Refused { code: portal_code(code, status), text },
            },
        }
    }

    /// From an answer that is no JSON of the portal's.
    pub(crate) fn unreadable(answer: &Response) -> Self {
        let text = answer.summary();
        match answer.status {
            // Nothing is known of what was done.
            200..=299 => Self::Trouble { code: "answer_unreadable".into(), text, maybe: true },
            300..=399 => Self::Settings(moved(answer)),
            401 => Self::Credential(text),
            404 => Self::Settings(format!("portal: there is no portal under this name: {text}")),
            429 => Self::Busy,
            status => Self::Trouble { code: format!("http_{status}"), text, maybe: true },
        }
    }

    /// There was no answer at all.
    pub(crate) fn lost(lost: &Failure) -> Self {
        let (code, text) = (format!("http_{}", lost.kind.word()), lost.message.clone());
        match lost.kind {
            FailureKind::NoCredential => Self::Credential(text),
            FailureKind::Denied | FailureKind::Invalid => Self::Refused { code, text },
            FailureKind::TooLarge if !lost.maybe_sent => Self::Refused { code, text },
            _ => Self::Trouble { code, text, maybe: lost.maybe_sent },
        }
    }

    /// A look-up that failed: nothing was written.
    pub(crate) fn unwritten(self) -> Self {
        match self {
            Self::Trouble { code, text, .. } => Self::Trouble { code, text, maybe: false },
            other => other,
        }
    }

    /// A batch that was refused as a whole says nothing against its leads, and nothing of it was done.
    pub(crate) fn of_batch(self) -> Self {
        match self {
            Self::Refused { code, text } if !code.starts_with("http_") => Self::Trouble { code, text, maybe: false },
            Self::Missing(text) => Self::Trouble { code: "bitrix24_not_found".into(), text, maybe: false },
            other => other,
        }
    }

    /// A question whose answer decides whether a record is made: without it, none is.
    pub(crate) fn undecided(self) -> Self {
        match self {
            Self::Refused { text, .. } | Self::Missing(text) => Self::Trouble { code: "origin_unreadable".into(), text, maybe: true },
            other => other,
        }
    }

    /// For a line in the log.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Busy => "too many requests",
            Self::OperatingTime => "the running time is used up",
            Self::Credential(text) | Self::Settings(text) | Self::Missing(text) => text,
            Self::Refused { text, .. } | Self::Trouble { text, .. } => text,
        }
    }

    /// For a call that is about no lead.
    pub(crate) fn into_stop(self, operating_ms: Option<u32>) -> Stop {
        match self {
            Self::Busy => Stop::rate_limited(None),
            Self::OperatingTime => Stop::rate_limited(operating_ms),
            Self::Credential(text) => Stop::credential_invalid(text),
            Self::Settings(text) | Self::Missing(text) | Self::Refused { text, .. } => Stop::misconfigured(text),
            Self::Trouble { .. } => Stop::unavailable(None),
        }
    }

    /// What becomes of the one lead that it is about; `Err` when it is about more than that.
    pub(crate) fn verdict(self, operating_ms: Option<u32>) -> Result<Verdict, Stop> {
        match self {
            Self::Refused { code, text } => Ok(Verdict::rejected(&code, text)),
            Self::Trouble { code, text, maybe } => Ok(Verdict::retry(&code, text).maybe_sent(maybe)),
            other => Err(other.into_stop(operating_ms)),
        }
    }
}

fn rights(text: &str) -> Fault {
    Fault::Credential(format!("the employee of the webhook has not the rights in the CRM: {text}"))
}

fn no_method(text: &str) -> Fault {
    Fault::Settings(format!("user_id: check the number and the code against the webhook's address …/rest/NUMBER/CODE/: {text}"))
}

/// Only the name of the new host is repeated: the rest of the address holds the webhook's code.
fn moved(answer: &Response) -> String {
    let host = answer
        .header("location")
        .and_then(|to| to.split_once("://"))
        .map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host.filter(|host| !host.is_empty() && !host.contains('@') && host.len() <= 100) {
        Some(host) => format!("portal: the portal answers with a redirect to {host}; if it was renamed, enter the new name"),
        None => format!("portal: the portal answers with a redirect ({}); if it was renamed, enter the new name", answer.status),
    }
}

fn portal_code(code: &str, status: u16) -> String {
    let known: String = code.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(60).collect();
    if !known.is_empty() {
        return if known.bytes().all(|b| b.is_ascii_digit()) { format!("bitrix24_{known}") } else { known };
    }
    // Inside a batch there is no status of one command.
    if status == 200 { "bitrix24_refused".into() } else { format!("bitrix24_{status}") }
}

/// The portal's words without markup, cut.
fn readable(code: &str, description: &str) -> String {
    let mut text = String::new();
    let mut in_tag = false;
    for c in description.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                text.push(' ');
            }
            _ if !in_tag => text.push(if c.is_control() { ' ' } else { c }),
            _ => {}
        }
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = text.chars().take(WORDS).collect();
    match (code.is_empty(), text.is_empty()) {
        (true, true) => "the portal gave no reason".into(),
        (true, false) => text,
        (false, true) => code.chars().take(60).collect(),
        (false, false) => format!("{text} ({})", code.chars().take(60).collect::<String>()),
    }
}

/// `error` is a text, and a number in some answers.
pub(crate) fn code_text(code: &Value) -> String {
    match code {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(fault: &Fault) -> String {
        match fault {
            Fault::Busy => "busy".into(),
            Fault::OperatingTime => "operating".into(),
            Fault::Credential(_) => "credential".into(),
            Fault::Settings(_) => "settings".into(),
            Fault::Missing(_) => "missing".into(),
            Fault::Refused { code, .. } => format!("refused {code}"),
            Fault::Trouble { code, .. } => format!("trouble {code}"),
        }
    }

    #[test]
    fn each_refusal_has_its_meaning() {
        for (status, code, description, meaning) in [
            (503, "QUERY_LIMIT_EXCEEDED", "Too many requests", "busy"),
            (200, "query_limit_exceeded", "", "busy"),
            (429, "OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.", "operating"),
            (503, "OVERLOAD_LIMIT", "REST API is blocked due to overload.", "credential"),
            (401, "expired_token", "", "credential"),
            (403, "INVALID_CREDENTIALS", "Invalid request credentials", "credential"),
            (401, "INVALID_CREDENTIALS", "Invalid request credentials", "credential"),
            (401, "NO_AUTH_FOUND", "Wrong authorization data", "credential"),
            (402, "PAYMENT_REQUIRED", "", "credential"),
            (403, "ACCESS_DENIED", "REST API is available only on commercial plans.", "credential"),
            (403, "insufficient_scope", "", "credential"),
            (401, "insufficient_scope", "", "credential"),
            (500, "PORTAL_DELETED", "", "credential"),
            (410, "PORTAL_DELETED", "", "credential"),
            (400, "ACCESS_DENIED", "Access denied.", "credential"),
            (400, "", "Access denied.", "credential"),
            (403, "user_access_error", "", "credential"),
            (403, "allowed_only_intranet_user", "", "credential"),
            (404, "ERROR_METHOD_NOT_FOUND", "Method not found!", "settings"),
            (400, "NOT_FOUND", "Smart process not found", "missing"),
            (400, "", "Not found", "missing"),
            (200, "CRM_FIELD_ERROR_VALUE_NOT_VALID", "Field UF is invalid", "refused crm_field_error_value_not_valid"),
            (400, "CRM_FIELD_ERROR_REQUIRED", "", "refused crm_field_error_required"),
            (400, "100", "Invalid value {x}", "refused bitrix24_100"),
            (400, "ERROR_CORE", "Wrong e-mail", "refused error_core"),
            (400, "", "Parameter 'fields' must be array.", "refused bitrix24_400"),
            (200, "", "Parameter 'fields' must be array.", "refused bitrix24_refused"),
            (500, "INTERNAL_SERVER_ERROR", "", "trouble internal_server_error"),
            (200, "INTERNAL_SERVER_ERROR", "", "trouble internal_server_error"),
            (500, "ERROR_UNEXPECTED_ANSWER", "", "trouble error_unexpected_answer"),
            (502, "", "", "trouble bitrix24_502"),
            (429, "", "", "busy"),
            (401, "", "", "credential"),
        ] {
            assert_eq!(word(&Fault::of(status, code, description)), meaning, "{status} {code} {description}");
        }
    }

    #[test]
    fn the_portals_words_are_shown_without_markup_and_cut() {
        let Fault::Refused { text, .. } = Fault::of(400, "X", &format!("Bad <b>value</b><br>\n{}", "я".repeat(1000))) else { panic!() };
        assert!(text.starts_with("Bad value я") && text.ends_with(" (X)") && text.chars().count() < 310, "{text}");
        let Fault::Refused { text, .. } = Fault::of(400, "", "") else { panic!() };
        assert_eq!(text, "the portal gave no reason");
    }
}
