//! The trait that a channel implements, and what a call knows.

use serde::de::DeserializeOwned;

use crate::{Item, Outcome, Stop, Verdict, http::Http, kv::Kv, mail::Mail, secrets::Secrets, sys};

/// A channel: a kind of destination for leads.
///
/// Implement [`deliver_one`](Channel::deliver_one) for a remote side that takes one lead at a time, or
/// [`deliver`](Channel::deliver) for one that takes many in a request (and set `limits.batch` in the manifest).
pub trait Channel {
    /// The settings, as the manifest's schema describes them. The host has checked them and filled in the defaults.
    type Config: DeserializeOwned;

    /// Sends one lead or event. `Ok` is about this item, `Err` about the credential or the remote side as a whole:
    /// then the items without a verdict go back to the queue and no attempt is counted.
    fn deliver_one(ctx: &Context<Self::Config>, item: &Item) -> Outcome {
        let _ = (ctx, item);
        Err(Stop::internal("the channel implements neither deliver_one nor deliver"))
    }

    /// Sends all items and reports each through [`Item::settle`] the moment its fate is known.
    fn deliver(ctx: &Context<Self::Config>, items: &[Item]) -> Result<(), Stop> {
        for item in items {
            let verdict = Self::deliver_one(ctx, item)?;
            item.settle(&verdict);
        }
        Ok(())
    }

    /// Proves that the credential works, without leaving traces where that is possible.
    /// The list is shown to the admin: account name, plan, scopes.
    fn check(ctx: &Context<Self::Config>) -> Result<Vec<(String, String)>, Stop>;
}

/// What one call is made for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Context<C> {
    /// The settings.
    pub config: C,
    /// The settings as the host wrote them: one JSON object.
    pub config_json: String,
    /// The project's id.
    pub project: String,
    /// The project's unit, when the lead came from one.
    pub entity: Option<String>,
    /// The credential's id.
    pub credential: String,
    /// Joins the log lines of one request.
    pub correlation: String,
    /// The project's language, such as `ru`.
    pub locale: String,
    /// The project's time zone, such as `Europe/Moscow`.
    pub time_zone: String,
    /// Wall-clock time that the call had when it began.
    pub budget_ms: u32,
    /// No outside effect is wanted; the host refuses requests that write.
    pub dry_run: bool,
}

impl<C> Context<C> {
    /// Requests to the hosts that the manifest names.
    pub fn http(&self) -> Http {
        Http::new()
    }

    /// Work with secrets without seeing them.
    pub fn secrets(&self) -> Secrets {
        Secrets::new()
    }

    /// Small state of this credential.
    pub fn kv(&self) -> Kv {
        Kv::new()
    }

    /// Mail through the credential's account.
    pub fn mail(&self) -> Mail {
        Mail::new()
    }

    /// Wall-clock time in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        sys::clock::now_ms()
    }

    /// Random bytes.
    pub fn random(&self, len: u32) -> Vec<u8> {
        sys::random::bytes(len)
    }

    /// Whether the project speaks this language: `ctx.speaks("ru")` holds for `ru` and `ru-RU`.
    pub fn speaks(&self, language: &str) -> bool {
        self.locale.split(['-', '_']).next().is_some_and(|first| first.eq_ignore_ascii_case(language))
    }
}

impl Item {
    /// Reports what became of this item. The first verdict holds, and it is stored at once: report early.
    pub fn settle(&self, verdict: &Verdict) {
        sys::progress::settle(&self.id, verdict);
    }

    /// Remembers up to 4 KiB for the next attempt of this item, which finds it in `memo`.
    pub fn checkpoint(&self, memo: &str) {
        sys::progress::checkpoint(&self.id, memo);
    }
}
