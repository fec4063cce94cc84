//! The imports, one file each: what it lets a guest do, and its limits. No secret leaves through any of them.

mod http;
mod kv;
mod log;
mod mail;
mod progress;
mod secrets;
mod simple;
mod template;

pub(super) use log::log_guest;

use super::bindings::wit;
use super::call::CallState;

impl wit::types::Host for CallState {}

/// Bytes of a text that are looked through for secrets at all; more is no text for an admin.
const SCANNED_BYTES: usize = 64 << 10;

impl CallState {
    /// The text masked, and cut to `max` bytes. A text of megabytes is cut before it is looked through, which could
    /// leave a part of a secret at the cut: where there was a secret at all, nothing of such a text is kept.
    pub(super) fn mask_cut(&self, text: &str, max: usize) -> String {
        let end = text.floor_char_boundary(text.len().min(SCANNED_BYTES));
        let (masked, hits) = self.env.grant.masker().mask_text(&text[..end]);
        if hits > 0 && end < text.len() {
            return "(a long text that held a secret of the credential)".into();
        }
        cut(&masked, max)
    }
}

/// `text` up to `max` bytes, cut at a character.
pub(super) fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
