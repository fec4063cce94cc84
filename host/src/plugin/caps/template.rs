//! `template`: the one template language of the host.

use crate::plugin::bindings::wit;
use crate::plugin::call::CallState;
use crate::template::{self, Escape};

impl wit::template::Host for CallState {
    fn render(&mut self, source: String, data: String, escape: wit::template::Escape) -> wasmtime::Result<Result<String, String>> {
        let escape = match escape {
            wit::template::Escape::None => Escape::None,
            wit::template::Escape::Html => Escape::Html,
            wit::template::Escape::Json => Escape::Json,
            wit::template::Escape::Url => Escape::Url,
            wit::template::Escape::MarkdownV2 => Escape::MarkdownV2,
        };
        let since = tokio::time::Instant::now();
        let rendered = serde_json::from_str::<serde_json::Value>(&data)
            .map_err(|e| format!("the data is not JSON: {e}"))
            .and_then(|data| template::render(&source, &template::data(&data), escape));
        self.charge(since)?;
        Ok(rendered)
    }
}
