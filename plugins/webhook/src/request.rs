//! What is sent: the message, its two written forms, and the signature.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use leadwire_sdk::{
    Context, Item, Payload, Stop,
    http::{RequestBuilder, form_body},
    rfc3339,
    secrets::Mac,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Config;

/// Receivers should answer well within this; the call as a whole has 30 s.
const TIMEOUT_MS: u32 = 25_000;
/// Both are signed with while the receiver changes from one to the other.
const SIGNING_SECRETS: [&str; 2] = ["signing_secret", "signing_secret_previous"];

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Json,
    Form,
}

/// The event: `type`, `timestamp` of what happened (not of the sending), `data`.
pub(crate) fn message(ctx: &Context<Config>, item: &Item) -> Value {
    let mut data = match serde_json::to_value(&item.payload) {
        Ok(Value::Object(data)) => data,
        _ => Map::new(),
    };
    data.insert("project".into(), json!(ctx.project));
    data.insert("entity".into(), json!(ctx.entity));
    data.insert("delivery_id".into(), json!(item.id));
    let mapped = item.mapped();
    if !mapped.is_empty() {
        match data.get_mut("fields") {
            Some(Value::Object(fields)) => fields.extend(mapped),
            _ => drop(data.insert("fields".into(), Value::Object(mapped))),
        }
    }
    let (kind, at_ms) = match &item.payload {
        Payload::Lead(lead) => ("lead.created", lead.created_ms),
        Payload::Event(event) => (event.kind.as_str(), event.at_ms.unwrap_or_else(|| ctx.now_ms())),
    };
    json!({ "type": kind, "timestamp": rfc3339(at_ms), "data": data })
}

/// The event that `check` sends.
pub(crate) fn test_message(ctx: &Context<Config>) -> Value {
    json!({ "type": "leadwire.test", "timestamp": rfc3339(ctx.now_ms()), "data": { "project": ctx.project, "text": "A test of the settings; there is no lead behind it." } })
}

/// An id that no delivery has.
pub(crate) fn test_id(ctx: &Context<Config>) -> String {
    let random: String = ctx.random(12).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("test_{random}")
}

/// The request with its signature over exactly the bytes that are sent.
pub(crate) fn signed(ctx: &Context<Config>, id: &str, message: &Value) -> Result<RequestBuilder, Stop> {
    let (content_type, body) = match ctx.config.format {
        Format::Json => ("application/json", message.to_string()),
        Format::Form => ("application/x-www-form-urlencoded", form_body(flatten(message))),
    };
    // Receivers take a time up to five minutes off, so it is this attempt's.
    let timestamp = ctx.now_ms() / 1000;
    let signatures = signatures(ctx, &format!("{id}.{timestamp}.{body}"))?;

    let mut request = ctx.http().request(ctx.config.method.into(), &ctx.config.url).timeout_ms(TIMEOUT_MS);
    for (name, value) in &ctx.config.headers {
        request = request.header(name, value);
    }
    request = request.text(content_type, body).header("webhook-id", id).header("webhook-timestamp", timestamp.to_string());
    Ok(if signatures.is_empty() { request } else { request.header("webhook-signature", signatures.join(" ")) })
}

pub(crate) fn signatures(ctx: &Context<Config>, content: &str) -> Result<Vec<String>, Stop> {
    let filled = SIGNING_SECRETS.into_iter().filter(|name| ctx.secrets().has(name));
    filled
        .map(|name| {
            let mac = ctx
                .secrets()
                .sign(name, Mac::HmacSha256, content)
                .map_err(|failure| Stop::misconfigured(format!("{name} cannot be used: {failure:?}")))?;
            Ok(format!("v1,{}", STANDARD.encode(mac)))
        })
        .collect()
}

/// A JSON value as pairs: `data.phones.0.raw` → text. Nulls and empty lists and objects are left out.
pub(crate) fn flatten(value: &Value) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    walk(String::new(), value, &mut pairs);
    pairs
}

fn walk(key: String, value: &Value, pairs: &mut Vec<(String, String)>) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Null => {}
        Value::Object(map) => map.iter().for_each(|(name, value)| walk(below(name), value, pairs)),
        Value::Array(list) => list.iter().enumerate().for_each(|(no, value)| walk(below(&no.to_string()), value, pairs)),
        Value::String(text) => pairs.push((key, text.clone())),
        other => pairs.push((key, other.to_string())),
    }
}
