//! One call's requests to the account, counted, and what its answers mean.

use std::cell::Cell;

use leadwire_sdk::{
    Context, Stop, Verdict,
    http::{self, Failure, Method, Response},
    log,
};
use serde_json::Value;

use crate::Config;

/// Requests of one call. The manifest allows one call a second for an account, and amoCRM 7 requests.
pub(crate) const REQUESTS: u32 = 7;
/// Of one request that only reads.
const READ_MS: u32 = 15_000;
/// Of one request that changes something.
const WRITE_MS: u32 = 25_000;
/// How long an account that amoCRM has blocked is left alone.
const BLOCKED_MS: u32 = 3_600_000;
/// How long a block is remembered: one that is still there after the pause must be seen by a person.
const BLOCK_KEPT_S: u32 = 3 * 3_600;

/// Why a request came to nothing that could be worked with.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// About the credential or the account.
    Stop(Stop),
    /// Passing trouble: what is left of the call gets this verdict.
    Later(Verdict),
}

/// What became of a request that changes something.
#[derive(Debug)]
pub(crate) enum Written {
    /// It was done, and this is the answer.
    Done(Value),
    /// It was refused.
    Refused(Problem),
    /// It may have been done: the verdict says so.
    Lost(Verdict),
}

/// The requests of one call.
#[derive(Debug)]
pub(crate) struct Api<'a> {
    pub(crate) ctx: &'a Context<Config>,
    left: Cell<u32>,
}

impl<'a> Api<'a> {
    /// For a call that delivers.
    pub(crate) fn new(ctx: &'a Context<Config>) -> Self {
        Self { ctx, left: Cell::new(REQUESTS) }
    }

    /// Requests that the call may still make.
    pub(crate) fn left(&self) -> u32 {
        self.left.get()
    }

    /// Reads. `None`: amoCRM has nothing of the kind.
    pub(crate) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<Value>, Trouble> {
        self.take()?;
        let request = self.ctx.http().get(path).timeout_ms(READ_MS);
        let answer = query.iter().fold(request, |request, (name, value)| request.query(name, value)).send().map_err(unread)?;
        match answer.status {
            204 | 404 => Ok(None),
            200..=299 => answer.json().map(Some).map_err(|_| Trouble::Later(unreadable(&answer))),
            _ => Err(self.stop(&answer).map_or_else(|| Trouble::Later(trouble(&answer)), Trouble::Stop)),
        }
    }

    /// Writes.
    pub(crate) fn write(&self, method: Method, path: &str, body: &Value) -> Result<Written, Trouble> {
        self.take()?;
        let answer = match self.ctx.http().request(method, path).json(body).timeout_ms(WRITE_MS).send() {
            Ok(answer) => answer,
            Err(lost) if lost.maybe_sent => return Ok(Written::Lost(outcome(&lost)?.maybe_sent(true))),
            Err(lost) => return Err(Trouble::Later(outcome(&lost)?)),
        };
        match answer.status {
            200..=299 => Ok(answer.json().map_or_else(|_| Written::Lost(unreadable(&answer).maybe_sent(true)), Written::Done)),
            500.. => Ok(Written::Lost(trouble(&answer).maybe_sent(true))),
            _ => self.stop(&answer).map_or_else(|| Ok(Written::Refused(Problem::read(&answer))), |stop| Err(Trouble::Stop(stop))),
        }
    }

    fn take(&self) -> Result<(), Trouble> {
        // What a call cannot do any more is for the next one, a second later.
        let left = self.left.get().checked_sub(1).ok_or_else(|| Trouble::Stop(Stop::rate_limited(Some(1_000))))?;
        self.left.set(left);
        Ok(())
    }

    /// What an answer says about the credential or the account, if it does.
    fn stop(&self, answer: &Response) -> Option<Stop> {
        let problem = Problem::read(answer);
        let said = &problem.text;
        let what = match answer.status {
            300..=399 => return Some(moved(self.ctx, answer)),
            401 => Stop::credential_invalid(format!("amoCRM does not accept the token: it has ended or was revoked ({said})")),
            402 => Stop::credential_invalid(format!("the amoCRM account is not paid for ({said}); resume the credential when it is")),
            403 if problem.is_page => self.blocked(),
            403 => {
                Stop::credential_invalid(format!("the token's owner may not do this, or our address is not on the account's list ({said})"))
            }
            429 => Stop::rate_limited(answer.retry_after()),
            // The vendor's code for both.
            400 if problem.errors.is_empty() && said.contains("244") => {
                Stop::credential_invalid(format!("the token's owner may not add leads, or the account's plan has ended ({said})"))
            }
            _ => return None,
        };
        Some(what)
    }

    /// A page instead of JSON, for every path: amoCRM has blocked the account or our address.
    fn blocked(&self) -> Stop {
        let kv = self.ctx.kv();
        let again = kv.get("blocked").is_ok_and(|seen| seen.is_some());
        let words = "amoCRM has blocked the API for this account or for our address; only its support lifts that";
        if again {
            return Stop::credential_invalid(format!("{words}. Resume the credential when it is lifted"));
        }
        log::error(&format!("{words}: trying again in an hour"));
        if kv.set("blocked", b"1", Some(BLOCK_KEPT_S)).is_err() {
            log::warn("the block could not be noted");
        }
        Stop::rate_limited(Some(BLOCKED_MS))
    }
}

/// A redirect: the subdomain is another one now, or was never one.
fn moved(ctx: &Context<Config>, answer: &Response) -> Stop {
    let asked = format!("{}.{}", ctx.config.subdomain, ctx.config.zone);
    let to = answer.header("location").and_then(host_of).filter(|host| *host != asked);
    Stop::misconfigured(match to {
        Some(host) => format!("{asked} leads to {host}: the account was renamed, or the subdomain is not right; enter that of its address"),
        None => format!("there is no API at {asked} (it {}); enter the first part of the account's address", answer.summary()),
    })
}

/// The host of an absolute URL.
fn host_of(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = rest.split(['/', '?', '#', ':']).next()?;
    let plain = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    (plain && !host.is_empty()).then(|| host.to_ascii_lowercase())
}

fn outcome(lost: &Failure) -> Result<Verdict, Trouble> {
    http::outcome_from_failure(lost).map_err(Trouble::Stop)
}

/// A read that was lost has changed nothing.
fn unread(lost: Failure) -> Trouble {
    match outcome(&lost) {
        Ok(verdict) => Trouble::Later(verdict.maybe_sent(false)),
        Err(stop) => stop,
    }
}

fn trouble(answer: &Response) -> Verdict {
    Verdict::retry(&format!("amocrm_{}", answer.status), Problem::read(answer).text).after(answer.retry_after())
}

fn unreadable(answer: &Response) -> Verdict {
    Verdict::retry("answer_unreadable", answer.summary())
}

/// What amoCRM says of a refusal.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    /// For the admin.
    pub(crate) text: String,
    pub(crate) errors: Vec<FieldError>,
    /// Not JSON at all.
    is_page: bool,
}

/// One refused field of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// As we sent it, or the item's position.
    pub(crate) request: String,
    pub(crate) code: String,
    /// Into the item: `custom_fields_values.0.field_id`.
    pub(crate) path: String,
    pub(crate) detail: String,
}

impl Problem {
    pub(crate) fn read(answer: &Response) -> Self {
        let Ok(body) = answer.json::<Value>() else {
            return Self { status: answer.status, text: answer.summary(), is_page: !answer.text().trim().is_empty(), ..Self::default() };
        };
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let said: Vec<String> = ["title", "detail", "hint"].iter().map(|name| text(&body, name)).filter(|part| !part.is_empty()).collect();
        let said = if said.is_empty() { answer.summary() } else { format!("{}: {}", answer.status, said.join("; ")) };
        let mut errors = Vec::new();
        for item in body.get("validation-errors").and_then(Value::as_array).into_iter().flatten() {
            let request = item.get("request_id").map(plain).unwrap_or_default();
            for error in item.get("errors").and_then(Value::as_array).into_iter().flatten() {
                let [code, path, detail] = ["code", "path", "detail"].map(|name| text(error, name));
                errors.push(FieldError { request: request.clone(), code, path, detail });
            }
        }
        Self { status: answer.status, text: said, errors, is_page: false }
    }
}

/// A text or a number as text.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The list of this name in an answer.
pub(crate) fn embedded<'v>(answer: &'v Value, name: &str) -> &'v [Value] {
    answer.pointer(&format!("/_embedded/{name}")).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// An id, also where it is written as text.
pub(crate) fn id_of(value: &Value, name: &str) -> Option<u64> {
    let id = value.get(name)?;
    id.as_u64().or_else(|| id.as_str()?.parse().ok()).filter(|id| *id > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_names_a_host_or_nothing() {
        assert_eq!(host_of("https://New.amocrm.ru/api/v4/account?x").as_deref(), Some("new.amocrm.ru"));
        for none in ["/login", "ftp://a.b", "https://", "https://a b/", "https://пример.рф/"] {
            assert_eq!(host_of(none), None, "{none}");
        }
    }
}
