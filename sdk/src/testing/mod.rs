//! Doubles for everything the host offers, so that `cargo test` runs a plugin natively.
//!
//! A [`Host`] plays the host for one credential: script what the remote side answers, call the plugin, then look at what
//! it did. What a test did not script is refused with a panic that says so.
//!
//! ```
//! use leadwire_sdk::{Channel, Context, Item, Outcome, Stop, Verdict, log, testing::{Host, item}};
//!
//! struct Shy;
//! impl Channel for Shy {
//!     type Config = serde_json::Value;
//!     fn deliver_one(ctx: &Context<Self::Config>, item: &Item) -> Outcome {
//!         if ctx.kv().get("seen").is_ok_and(|seen| seen.is_some()) {
//!             return Ok(Verdict::duplicate());
//!         }
//!         ctx.kv().set("seen", b"1", None).map_err(|_| Stop::internal("no place"))?;
//!         item.checkpoint("half-way");
//!         log::info("first time");
//!         Ok(Verdict::delivered().with_ref("lead", 8123))
//!     }
//!     fn check(_: &Context<Self::Config>) -> Result<Vec<(String, String)>, Stop> {
//!         Ok(vec![])
//!     }
//! }
//!
//! let mut host = Host::new();
//! assert_eq!(host.deliver::<Shy>(&[item()]).verdict(), Some(&Verdict::delivered().with_ref("lead", 8123)));
//! assert_eq!(host.deliver::<Shy>(&[item()]).verdict(), Some(&Verdict::duplicate()));
//! assert_eq!(host.memo("dlv_1"), Some("half-way"));
//! assert_eq!(host.logs(), ["info: first time"]);
//! assert!(host.requests().is_empty());
//! ```

#![allow(clippy::expect_used, clippy::panic, reason = "a double fails the test that misuses it")]

pub(crate) mod imports;
mod samples;

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{Body, Channel, Item, Stop, Verdict, glue, http, kv, mail};

pub use samples::{event, event_item, item, item_of, lead};

/// The time on the double's clock until a test sets it: 2026-01-01T00:00:00Z.
pub const NOW_MS: u64 = 1_767_225_600_000;

thread_local! {
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// All that the doubles know and have seen.
#[derive(Debug, Default)]
pub(crate) struct World {
    now_ms: u64,
    secrets: BTreeMap<String, Vec<u8>>,
    answers: VecDeque<Answer>,
    requests: Vec<http::Request>,
    mail_answers: VecDeque<Result<mail::Sent, mail::Failure>>,
    mails: Vec<mail::Message>,
    probes: Vec<Vec<String>>,
    probe_answers: VecDeque<Result<Vec<(String, String)>, mail::Failure>>,
    kv: BTreeMap<String, kv::Entry>,
    kv_broken: bool,
    logs: Vec<String>,
    verdicts: Vec<(String, Verdict)>,
    memos: BTreeMap<String, String>,
    random: u64,
}

/// Works on the world of the running call.
pub(crate) fn world<T>(work: impl FnOnce(&mut World) -> T) -> T {
    CURRENT.with_borrow_mut(|current| work(current.as_mut().expect("the host's functions work only inside a call of testing::Host")))
}

/// The host, for one credential. State (`kv`, memos, the log) lasts over several calls.
#[derive(Debug)]
pub struct Host {
    world: World,
    config: Value,
    locale: String,
    entity: Option<String>,
    dry_run: bool,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host without settings, secrets and answers; its clock stands at [`NOW_MS`].
    pub fn new() -> Self {
        let world = World { now_ms: NOW_MS, ..World::default() };
        Self { world, config: json!({}), locale: "en".into(), entity: None, dry_run: false }
    }

    /// The credential's settings, defaults included.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// Fills a secret. The bytes are those after decoding, when the manifest names an encoding.
    #[must_use]
    pub fn secret(mut self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.world.secrets.insert(name.into(), bytes.as_ref().to_vec());
        self
    }

    /// The project's language.
    #[must_use]
    pub fn locale(mut self, locale: &str) -> Self {
        self.locale = locale.into();
        self
    }

    /// The unit that the credential belongs to.
    #[must_use]
    pub fn entity(mut self, entity: &str) -> Self {
        self.entity = Some(entity.into());
        self
    }

    /// No outside effect is wanted.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Sets the clock, in milliseconds since 1970.
    #[must_use]
    pub fn at(mut self, now_ms: u64) -> Self {
        self.world.now_ms = now_ms;
        self
    }

    /// What the remote side answers to the next request that has no answer yet.
    #[must_use]
    pub fn answer(mut self, answer: Answer) -> Self {
        self.world.answers.push_back(answer);
        self
    }

    /// What becomes of the next mail. A mail without a script is accepted for everyone.
    #[must_use]
    pub fn mail_answer(mut self, answer: Result<mail::Sent, mail::Failure>) -> Self {
        self.world.mail_answers.push_back(answer);
        self
    }

    /// What becomes of the next `probe`. Without a script it succeeds.
    #[must_use]
    pub fn probe_answer(mut self, answer: Result<Vec<(String, String)>, mail::Failure>) -> Self {
        self.world.probe_answers.push_back(answer);
        self
    }

    /// From now on every use of `kv` fails.
    #[must_use]
    pub fn kv_broken(mut self) -> Self {
        self.world.kv_broken = true;
        self
    }

    /// Calls the plugin with these items. An item without `memo` gets what was checkpointed for it before.
    pub fn deliver<C: Channel>(&mut self, items: &[Item]) -> Run {
        let mut items = items.to_vec();
        for item in &mut items {
            item.memo = item.memo.take().or_else(|| self.world.memos.get(&item.id).cloned());
        }
        self.world.verdicts.clear();
        let stop = self.within(|raw| glue::deliver::<C>(raw, &items)).err();
        for (id, _) in &self.world.verdicts {
            assert!(items.iter().any(|item| item.id == *id), "the plugin settled {id}, which it was not given");
        }
        Run { verdicts: self.world.verdicts.clone(), stop }
    }

    /// Calls the plugin's check.
    pub fn check<C: Channel>(&mut self) -> Result<Vec<(String, String)>, Stop> {
        let info = self.within(glue::check::<C>)?;
        Ok(info.into_iter().map(|attr| (attr.name, attr.value)).collect())
    }

    /// The requests sent so far.
    pub fn requests(&self) -> &[http::Request] {
        &self.world.requests
    }

    /// The mails sent so far.
    pub fn mails(&self) -> &[mail::Message] {
        &self.world.mails
    }

    /// The recipients of each `probe` so far.
    pub fn probes(&self) -> &[Vec<String>] {
        &self.world.probes
    }

    /// The log so far: `warn: text name=value`.
    pub fn logs(&self) -> &[String] {
        &self.world.logs
    }

    /// What was checkpointed last for this item.
    pub fn memo(&self, item: &str) -> Option<&str> {
        self.world.memos.get(item).map(String::as_str)
    }

    /// What is stored under this key, as text.
    pub fn stored(&self, key: &str) -> Option<String> {
        self.world.kv.get(key).map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
    }

    fn within<T>(&mut self, call: impl FnOnce(glue::RawContext) -> T) -> T {
        let raw = glue::RawContext {
            project: "prj_1".into(),
            entity: self.entity.clone(),
            credential: "crd_1".into(),
            correlation: "0199".into(),
            config: self.config.to_string(),
            locale: self.locale.clone(),
            time_zone: "Europe/Moscow".into(),
            budget_ms: 30_000,
            dry_run: self.dry_run,
        };
        let before = CURRENT.replace(Some(std::mem::take(&mut self.world)));
        assert!(before.is_none(), "a call inside a call");
        let out = call(raw);
        self.world = CURRENT.take().expect("the world of the call");
        out
    }
}

/// What one call of the plugin came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The verdicts in the order they were given; the first of an item is the one that holds.
    pub verdicts: Vec<(String, Verdict)>,
    /// Why the call stopped.
    pub stop: Option<Stop>,
}

impl Run {
    /// The first verdict.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdicts.first().map(|(_, verdict)| verdict)
    }

    /// In one line, for tables: `retry http_503 after=7000 maybe_sent`, `stop rate_limited 1000`.
    pub fn summary(&self) -> String {
        let verdicts = self.verdicts.iter().map(|(_, verdict)| match verdict {
            Verdict::Delivered(_) => "delivered".to_owned(),
            Verdict::Duplicate(_) => "duplicate".to_owned(),
            Verdict::Skipped(why) => format!("skipped {}", why.code),
            Verdict::Rejected(why) => format!("rejected {}", why.code),
            Verdict::Retry(later) => {
                let after = later.after_ms.map(|ms| format!(" after={ms}")).unwrap_or_default();
                let doubt = if later.maybe_sent { " maybe_sent" } else { "" };
                format!("retry {}{after}{doubt}", later.why.code)
            }
        });
        let stop = self.stop.as_ref().map(|stop| match stop {
            Stop::RateLimited(after) => format!("stop rate_limited{}", after.map(|ms| format!(" {ms}")).unwrap_or_default()),
            Stop::Unavailable(after) => format!("stop unavailable{}", after.map(|ms| format!(" {ms}")).unwrap_or_default()),
            Stop::CredentialInvalid(_) => "stop credential_invalid".to_owned(),
            Stop::Misconfigured(_) => "stop misconfigured".to_owned(),
            Stop::Internal(_) => "stop internal".to_owned(),
        });
        verdicts.chain(stop).collect::<Vec<_>>().join(" + ")
    }
}

/// An answer of the remote side, or why there is none.
#[derive(Debug, Clone)]
pub struct Answer(Result<http::Response, http::Failure>);

impl Answer {
    /// An answer with this status and no body.
    pub fn status(status: u16) -> Self {
        Self(Ok(http::Response { status, headers: Vec::new(), body: Body::Empty }))
    }

    /// No answer.
    pub fn fails(kind: http::FailureKind, maybe_sent: bool) -> Self {
        Self(Err(http::Failure { kind, message: format!("{} (scripted)", kind.word()), maybe_sent }))
    }

    /// With this body.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        if let Ok(answer) = &mut self.0 {
            answer.body = Body::Text(text.into());
        }
        self
    }

    /// With this body.
    #[must_use]
    pub fn json<T: Serialize>(self, value: &T) -> Self {
        self.text(&serde_json::to_string(value).expect("a test's value is JSON"))
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Ok(answer) = &mut self.0 {
            answer.headers.push(http::Header { name: name.into(), value: value.into() });
        }
        self
    }
}
