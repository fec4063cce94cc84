//! The channel `webhook`: each lead as one HTTP request, signed by Standard Webhooks v1.
//!
//! The receiver's status alone decides the outcome. The id is the same for every attempt, so a receiver that
//! remembers ids sees each lead once.

mod request;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use leadwire_sdk::{
    Channel, Context, Item, Outcome, Stop, Verdict,
    http::{self, Method},
};
use serde::Deserialize;

/// The settings; `config.schema.json` says what is allowed.
#[derive(Debug, Deserialize)]
pub struct Config {
    url: String,
    #[serde(default)]
    method: Verb,
    #[serde(default)]
    format: request::Format,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    #[default]
    Post,
    Put,
    Patch,
}

impl From<Verb> for Method {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Post => Self::Post,
            Verb::Put => Self::Put,
            Verb::Patch => Self::Patch,
        }
    }
}

/// The channel.
#[derive(Debug)]
pub struct Webhook;

impl Channel for Webhook {
    type Config = Config;

    fn deliver_one(ctx: &Context<Config>, item: &Item) -> Outcome {
        let answer = request::signed(ctx, &item.idempotency_key, &request::message(ctx, item))?.send();
        match answer {
            // It speaks of this event and of all that would follow.
            Ok(gone) if gone.status == 410 => {
                item.settle(&Verdict::rejected("http_410", gone.summary()));
                Err(Stop::credential_invalid("answered 410: the receiver wants no more events"))
            }
            answer => http::outcome(answer),
        }
    }

    /// A webhook has nothing to read, so the check sends an event of its own that receivers can tell from a lead.
    fn check(ctx: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
        if ctx.dry_run {
            return Ok(vec![("not tested".into(), "a webhook can be tested only by sending to it".into())]);
        }
        let started_ms = ctx.now_ms();
        let answer = request::signed(ctx, &request::test_id(ctx), &request::test_message(ctx))?.send()?;
        match answer.status {
            200..=299 => Ok(vec![
                ("status".into(), answer.status.to_string()),
                ("answer".into(), answer.excerpt()),
                ("time_ms".into(), ctx.now_ms().saturating_sub(started_ms).to_string()),
            ]),
            401 | 403 | 407 | 410 => Err(Stop::credential_invalid(answer.summary())),
            429 => Err(Stop::rate_limited(answer.retry_after())),
            500..=599 => Err(Stop::unavailable(answer.retry_after())),
            _ => Err(Stop::misconfigured(answer.summary())),
        }
    }
}

leadwire_sdk::export!(Webhook);
