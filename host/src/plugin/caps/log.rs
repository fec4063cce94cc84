//! `log`: lines of the guest in the host's log, masked and counted.

use crate::plugin::bindings::wit;
use crate::plugin::call::{CallState, Fault};
use crate::secrets::mask_personal;

/// Lines of one call that are kept; further ones are dropped with a word about it.
const KEPT_LINES: u32 = 100;
/// Lines at which a call is stopped: nobody writes so many by accident.
const FLOOD_LINES: u32 = 5_000;
/// Bytes of one line.
const LINE_BYTES: usize = 4 << 10;
/// How the text of a Rust panic begins, which the SDK's hook writes to the log.
const PANIC_MARK: &str = "panicked at ";

impl wit::log::Host for CallState {
    fn write(&mut self, level: wit::log::Level, message: String, attrs: Vec<wit::types::Attr>) -> wasmtime::Result<()> {
        self.log_lines += 1;
        if self.log_lines > FLOOD_LINES {
            return Err(Fault::Log.into());
        }
        let since = tokio::time::Instant::now();
        if level == wit::log::Level::Error && message.starts_with(PANIC_MARK) {
            // `panicked at FILE:LINE:COLUMN:`, then what the author wrote. Also after a flood of lines.
            let words = self.mask_cut(&message, 500);
            self.panic = Some(mask_personal(&words.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned());
        }
        log_guest(self, level, &message, &attrs);
        self.charge(since)
    }
}

/// Writes a guest's line: secrets, phones and e-mails masked, cut to its limit.
pub(crate) fn log_guest(state: &mut CallState, level: wit::log::Level, message: &str, attrs: &[wit::types::Attr]) {
    if state.log_lines > KEPT_LINES {
        if state.log_lines == KEPT_LINES + 1 {
            tracing::warn!(plugin = %state.env.plugin, "the plugin wrote {KEPT_LINES} log lines in one call; the rest is dropped");
        }
        return;
    }
    // Cut once more to four lines' length before names of people are looked for, which is the slower search.
    let mask = |text: &str| super::cut(&mask_personal(&state.mask_cut(text, 4 * LINE_BYTES)), LINE_BYTES);
    let text = mask(message);
    let attrs: Vec<String> = attrs.iter().take(20).map(|attr| format!("{}={}", mask(&attr.name), mask(&attr.value))).collect();
    let (plugin, correlation, attrs) = (&state.env.plugin, &state.env.context.correlation, attrs.join(" "));
    match level {
        wit::log::Level::Debug => tracing::debug!(target: "leadwire::guest", %plugin, %correlation, attrs, "{text}"),
        wit::log::Level::Info => tracing::info!(target: "leadwire::guest", %plugin, %correlation, attrs, "{text}"),
        wit::log::Level::Warn => tracing::warn!(target: "leadwire::guest", %plugin, %correlation, attrs, "{text}"),
        wit::log::Level::Error => tracing::error!(target: "leadwire::guest", %plugin, %correlation, attrs, "{text}"),
    }
}
