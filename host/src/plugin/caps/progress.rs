//! `progress`: the verdict of each item, passed on the moment it is given, and notes for the next attempt.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::RemoteRef;
use crate::plugin::bindings::wit;
use crate::plugin::call::CallState;
use crate::policy::outcome::{Receipt, Refusal, Verdict};

/// Bytes of one checkpoint.
const MEMO_BYTES: usize = 4 << 10;
/// Refs of one receipt.
const MAX_REFS: usize = 20;
/// Bytes of a name, id, address or code.
const SHORT_BYTES: usize = 1_000;
/// Bytes of a message for the admin.
const MESSAGE_BYTES: usize = 2_000;

impl wit::progress::Host for CallState {
    fn settle(&mut self, item: String, verdict: wit::progress::Verdict) -> wasmtime::Result<()> {
        let Some(index) = self.items.iter().position(|id| *id == item) else {
            self.note("it settled an item it was not given (ignored)");
            return Ok(());
        };
        if std::mem::replace(&mut self.settled[index], true) {
            self.note("it settled an item twice (the first verdict holds)");
            return Ok(());
        }
        let since = Instant::now();
        let verdict = self.verdict(verdict);
        let exchanges = self.take_exchanges();
        self.env.effects.settle(index, verdict, exchanges);
        self.charge(since)
    }

    async fn checkpoint(&mut self, item: String, memo: String) -> wasmtime::Result<()> {
        let Some(index) = self.items.iter().position(|id| *id == item) else {
            self.note("it noted a checkpoint for an item it was not given (ignored)");
            return Ok(());
        };
        if memo.len() > MEMO_BYTES {
            self.note("it noted a checkpoint of more than 4 KiB (ignored)");
            return Ok(());
        }
        if self.holds_secret(memo.as_bytes()) {
            self.note("it tried to keep a secret in a checkpoint (ignored)");
            return Ok(());
        }
        let since = Instant::now();
        let stored = self.env.effects.checkpoint(index, memo).await;
        self.waited(since);
        if !stored {
            self.note("a checkpoint could not be stored");
        }
        Ok(())
    }
}

impl CallState {
    fn text(&self, text: &str, max: usize) -> String {
        self.mask_cut(text, max)
    }

    fn receipt(&self, receipt: wit::progress::Receipt) -> Receipt {
        let refs = receipt.refs.iter().take(MAX_REFS);
        Receipt {
            refs: refs.map(|r| RemoteRef { name: self.text(&r.name, SHORT_BYTES), value: self.text(&r.value, SHORT_BYTES) }).collect(),
            url: receipt.url.map(|url| self.text(&url, SHORT_BYTES)),
        }
    }

    fn refusal(&self, refusal: wit::progress::Refusal) -> Refusal {
        Refusal { code: self.text(&refusal.code, SHORT_BYTES), message: self.text(&refusal.message, MESSAGE_BYTES) }
    }

    fn verdict(&mut self, verdict: wit::progress::Verdict) -> Verdict {
        use wit::progress::Verdict as Wit;
        match verdict {
            Wit::Delivered(receipt) => Verdict::Delivered(self.receipt(receipt)),
            Wit::Duplicate(receipt) => Verdict::Duplicate(self.receipt(receipt)),
            Wit::Skipped(why) => Verdict::Skipped(self.refusal(why)),
            Wit::Rejected(why) => Verdict::Rejected(self.refusal(why)),
            Wit::Retry(postponed) => {
                // A lost answer of this call is doubt, whatever the plugin makes of it.
                let maybe_sent = postponed.maybe_sent || self.ambiguous;
                let after = postponed.after_ms.map(|ms| Duration::from_millis(ms.into()));
                Verdict::Retry { after, maybe_sent, why: self.refusal(postponed.why) }
            }
        }
    }
}
