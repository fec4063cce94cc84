//! Puts secrets into a request, and takes out what a guest put in their places. The only code that writes a secret into traffic.

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use url::Url;

use super::grant::{Auth, Place};
use super::headers::folded;
use super::target::Rule;
use super::types::{Failure, FailureKind};
use crate::secrets::SecretText;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request on its way out.
pub(super) struct Outgoing {
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The method has a body.
    pub writes: bool,
}

/// Removes what the guest set in the places of `auth` and, when any rule covers the address, its `authorization`.
pub(super) fn strip(out: &mut Outgoing, auth: &Auth) {
    remove_header(&mut out.headers, AUTHORIZATION.as_str());
    for (place, _) in &auth.slots {
        match place {
            Place::Header(name) => remove_header(&mut out.headers, name.as_str()),
            Place::Query(name) => {
                if let Some(kept) = out.url.query().and_then(|query| without_pair(query, name)) {
                    out.url.set_query(Some(&kept).filter(|kept| !kept.is_empty()).map(String::as_str));
                }
            }
            Place::PathPrefix => {}
            Place::Form(name) => {
                if let Some(kept) =
                    std::str::from_utf8(&out.body).ok().filter(|_| is_form(&out.headers)).and_then(|body| without_pair(body, name))
                {
                    out.body = kept.into_bytes();
                }
            }
            Place::Json(tokens) => {
                if let Ok(mut value) = serde_json::from_slice::<Value>(&out.body) {
                    // Written anew only when something was there, so that other bodies go out byte for byte.
                    if remove_json(&mut value, tokens) {
                        out.body = value.to_string().into_bytes();
                    }
                }
            }
        }
    }
}

/// Puts the rule's values into their places. The guest's own are gone already.
pub(super) fn apply(out: &mut Outgoing, auth: &Auth, rule: &Rule) -> Result<(), Failure> {
    if let Some(missing) = &auth.missing {
        return if auth.required {
            Err(Failure::unsent(FailureKind::NoCredential, format!("auth rule `{}` needs {missing}, which is not filled", auth.name)))
        } else {
            // The body's form is still checked below for rules that fill it: a body that cannot be read could hide a value.
            refuse_unreadable_body(out, auth)
        };
    }
    refuse_unreadable_body(out, auth)?;
    for (place, value) in auth.slots.iter().filter_map(|(place, value)| value.as_ref().map(|value| (place, value))) {
        match place {
            Place::Header(name) => {
                let wrong = |_| Failure::invalid(format!("auth rule `{}`: the value holds characters that no header can carry", auth.name));
                let mut header = HeaderValue::from_bytes(value.expose().as_bytes()).map_err(wrong)?;
                header.set_sensitive(true);
                out.headers.insert(name, header);
            }
            Place::Query(name) => {
                out.url.query_pairs_mut().append_pair(name, value.expose());
            }
            Place::PathPrefix => prefix_path(&mut out.url, auth, rule, value)?,
            Place::Form(name) => append_form(out, name, value),
            Place::Json(tokens) => insert_json(out, auth, tokens, value)?,
        }
    }
    Ok(())
}

fn remove_header(headers: &mut HeaderMap, name: &str) {
    let name = folded(name);
    let same: Vec<_> = headers.keys().filter(|key| folded(key.as_str()) == name).cloned().collect();
    for key in same {
        headers.remove(key);
    }
}

/// The pairs whose name no server could read as `slot`; `None` when there is nothing to remove.
fn without_pair(pairs: &str, slot: &str) -> Option<String> {
    // Some servers end a pair at a semicolon too.
    let names_slot = |pair: &str| pair.split(';').any(|part| is_slot(part.split('=').next().unwrap_or(part), slot));
    if !pairs.split('&').any(names_slot) {
        return None;
    }
    Some(pairs.split('&').filter(|pair| !names_slot(pair)).collect::<Vec<_>>().join("&"))
}

/// PHP and others read ` key`, `KEY`, `k.ey` and `key[]` as a name we mean; such names are the host's as well.
fn is_slot(raw: &str, slot: &str) -> bool {
    let decoded = percent_decode_str(&raw.replace('+', " ")).decode_utf8_lossy().into_owned();
    let plain = |text: &str| {
        let text = text.trim_start().split('\0').next().unwrap_or_default();
        let text = if slot.contains('[') { text } else { text.split('[').next().unwrap_or_default() };
        text.trim_end().replace([' ', '.'], "_").to_ascii_lowercase()
    };
    plain(&decoded) == plain(slot)
}

fn is_form(headers: &HeaderMap) -> bool {
    media_type(headers).is_none_or(|kind| kind == "application/x-www-form-urlencoded")
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().unwrap_or("?");
    Some(value.split(';').next().unwrap_or(value).trim().to_ascii_lowercase())
}

fn refuse_unreadable_body(out: &mut Outgoing, auth: &Auth) -> Result<(), Failure> {
    let form = auth.slots.iter().any(|(place, _)| matches!(place, Place::Form(_)));
    let json = auth.slots.iter().any(|(place, _)| matches!(place, Place::Json(_)));
    if !form && !json {
        return Ok(());
    }
    let wrong = |what: &str| Failure::invalid(format!("auth rule `{}` fills the body, which must be {what}", auth.name));
    if !out.writes {
        return if auth.required { Err(wrong("sent with a method that has one")) } else { Ok(()) };
    }
    if form {
        if !is_form(&out.headers) || std::str::from_utf8(&out.body).is_err() {
            return Err(wrong("a URL-encoded form"));
        }
        out.headers.entry(CONTENT_TYPE).or_insert(FORM);
        return Ok(());
    }
    if media_type(&out.headers).is_some_and(|kind| kind != "application/json" && !kind.ends_with("+json")) {
        return Err(wrong("JSON"));
    }
    out.headers.entry(CONTENT_TYPE).or_insert(JSON);
    if out.body.is_empty() {
        out.body = b"{}".to_vec();
    }
    match serde_json::from_slice::<Value>(&out.body) {
        Ok(Value::Object(_)) => Ok(()),
        _ => Err(wrong("a JSON object")),
    }
}

fn prefix_path(url: &mut Url, auth: &Auth, rule: &Rule, prefix: &SecretText) -> Result<(), Failure> {
    let directory = rule.directory();
    let rest = url.path().strip_prefix(&directory).unwrap_or_default();
    let path = zeroize::Zeroizing::new(format!("{directory}{}{rest}", prefix.expose()));
    url.set_path(&path);
    if url.path().starts_with(&directory) {
        Ok(())
    } else {
        Err(Failure::invalid(format!("auth rule `{}`: the value makes another path", auth.name)))
    }
}

fn append_form(out: &mut Outgoing, name: &str, value: &SecretText) {
    let mut pairs = url::form_urlencoded::Serializer::new(String::from_utf8_lossy(&out.body).into_owned());
    pairs.append_pair(name, value.expose());
    out.body = pairs.finish().into_bytes();
}

/// Removes the member at the pointer, and members that differ from it by case only: some readers take those for the same.
fn remove_json(value: &mut Value, tokens: &[String]) -> bool {
    let Some((first, rest)) = tokens.split_first() else { return false };
    match value {
        Value::Object(members) => {
            let before = members.len();
            members.retain(|key, _| !key.eq_ignore_ascii_case(first) || (key == first && !rest.is_empty()));
            let removed = members.len() < before;
            members.get_mut(first).is_some_and(|member| remove_json(member, rest)) || removed
        }
        Value::Array(items) => match first.parse::<usize>().ok().and_then(|index| items.get_mut(index)) {
            Some(item) if rest.is_empty() => {
                *item = Value::Null;
                true
            }
            Some(item) => remove_json(item, rest),
            None => false,
        },
        _ => false,
    }
}

fn insert_json(out: &mut Outgoing, auth: &Auth, tokens: &[String], value: &SecretText) -> Result<(), Failure> {
    let wrong = || Failure::invalid(format!("auth rule `{}`: the body has something else at `/{}`", auth.name, tokens.join("/")));
    let mut root: Value = serde_json::from_slice(&out.body).map_err(|_| wrong())?;
    let mut place = &mut root;
    for token in tokens {
        place = match place {
            Value::Object(members) => members.entry(token.clone()).or_insert_with(|| Value::Object(Map::new())),
            Value::Array(items) => token.parse::<usize>().ok().and_then(|index| items.get_mut(index)).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
    }
    *place = Value::String(value.expose().to_owned());
    out.body = root.to_string().into_bytes();
    Ok(())
}
