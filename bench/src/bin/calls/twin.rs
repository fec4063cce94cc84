//! The same work in plain Rust: the body that the plugin sends, the signature, the request through the host's egress.
//! What it lacks is the sandbox and nothing else.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leadwire::egress::{CallLimits, Request};
use leadwire::model::Timestamp;
use leadwire::plugin::bindings::wit::types::Lead;
use leadwire::plugin::bindings::wit_outbound::{Item, Payload};
use leadwire::plugin::manifest::Method;
use leadwire::secrets::{MacAlg, decode_secret, sign};
use serde_json::{Map, Value, json};
use tokio::time::{Duration, Instant};

use crate::world::{BATCH, Credential, WEBHOOK, World, items};

/// What the webhook plugin does with one lead.
pub async fn webhook(world: &World) -> Result<()> {
    let credential = world.credential(WEBHOOK);
    for item in items(1) {
        let mut data = lead(&item)?;
        data.insert("project".into(), json!("prj_bench"));
        data.insert("entity".into(), Value::Null);
        data.insert("delivery_id".into(), json!(item.id));
        let message = json!({"type": "lead.created", "timestamp": data["created_at"], "data": data});
        let body = message.to_string();
        let timestamp = std::time::UNIX_EPOCH.elapsed()?.as_secs();
        let signature = signature(world, credential, &format!("{}.{timestamp}.{body}", item.idempotency_key))?;
        let headers = vec![
            ("content-type".into(), "application/json".into()),
            ("webhook-id".into(), item.idempotency_key),
            ("webhook-timestamp".into(), timestamp.to_string()),
            ("webhook-signature".into(), signature),
        ];
        send(world, credential, headers, body).await?;
    }
    Ok(())
}

/// What the batch plugin does with all of its leads.
pub async fn batch(world: &World, count: usize) -> Result<()> {
    let credential = world.credential(BATCH);
    let leads = items(count).iter().map(lead).collect::<Result<Vec<_>>>()?;
    let body = serde_json::to_string(&leads)?;
    send(world, credential, vec![("content-type".into(), "application/json".into())], body).await
}

fn signature(world: &World, credential: &Credential, content: &str) -> Result<String> {
    let field = credential.plugin.manifest.secrets.iter().find(|field| field.name == "signing_secret").context("the field")?;
    let secret = world.secrets().get("signing_secret").context("the secret")?;
    let key = decode_secret(field, secret.expose()).map_err(anyhow::Error::msg)?;
    Ok(format!("v1,{}", STANDARD.encode(sign(MacAlg::HmacSha256, &key, content.as_bytes()))))
}

async fn send(world: &World, credential: &Credential, headers: Vec<(String, String)>, body: String) -> Result<()> {
    let limits = &credential.plugin.manifest.limits;
    let deadline = Instant::now() + Duration::from_millis(limits.timeout_ms.into());
    let call = CallLimits { deadline, dry_run: false, body_bytes: limits.body_bytes, status_alone: limits.status_alone };
    let request = Request { method: Method::Post, url: world.url(), headers, body: body.into_bytes(), auth: None, timeout: None };
    let sent = world.egress().send(&credential.grant, request, &call).await;
    match sent.result {
        Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
        other => bail!("the twin's request: {other:?}"),
    }
}

/// A lead with the names of the HTTP interface, as the SDK writes it.
fn lead(item: &Item) -> Result<Map<String, Value>> {
    let Payload::Lead(Lead { id, created_ms, title, name, company, phones, emails, comment, value, origin, attrs, extra }) = &item.payload
    else {
        bail!("only leads are measured");
    };
    let mut data = Map::new();
    let mut put = |name: &str, value: Value| drop(data.insert(name.to_owned(), value));
    put("id", json!(id));
    put("created_at", json!(Timestamp::from_millis(i64::try_from(*created_ms)?)));
    for attr in attrs {
        put(&attr.name, json!(attr.value));
    }
    put("title", json!(title));
    put("name", json!(name));
    put("company", json!(company));
    put("phone", json!(phones.first().map(|phone| phone.e164.as_ref().unwrap_or(&phone.raw))));
    put("phones", phones.iter().map(|phone| json!({"raw": phone.raw, "e164": phone.e164})).collect());
    put("email", json!(emails.first()));
    put("emails", json!(emails));
    put("comment", json!(comment));
    let amount = |minor: i64, exponent: u8| format!("{}.{:02}", minor / 10_i64.pow(exponent.into()), minor % 10_i64.pow(exponent.into()));
    put("value", json!(value.as_ref().map(|money| json!({"amount": amount(money.minor, money.exponent), "currency": money.currency}))));
    let ids: Map<String, Value> = origin.ids.iter().map(|attr| (attr.name.clone(), json!(attr.value))).collect();
    put(
        "origin",
        json!({
            "page": origin.page, "referrer": origin.referrer, "form": origin.form, "ip": origin.ip, "user_agent": origin.user_agent,
            "utm_source": origin.utm_source, "utm_medium": origin.utm_medium, "utm_campaign": origin.utm_campaign,
            "utm_term": origin.utm_term, "utm_content": origin.utm_content, "ids": ids,
        }),
    );
    put("fields", serde_json::from_str(extra)?);
    Ok(data)
}
