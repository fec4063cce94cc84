//! Sends the example leads, each run's under ids of their own.

use std::path::Path;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use super::api::{Api, Delivery};

/// A lead that the host has taken.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The host's id.
    pub id: String,
    /// As in the file.
    pub lead: Value,
    /// One per credential.
    pub deliveries: Vec<Delivery>,
}

impl Sent {
    /// The name, which no two example leads share.
    pub fn name(&self) -> &str {
        self.lead["name"].as_str().unwrap_or_default()
    }

    /// The phone's digits.
    pub fn phone_digits(&self) -> Option<String> {
        Some(digits(self.lead["phone"].as_str()?))
    }
}

/// The digits of a text.
pub fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// Sends every lead of the file.
pub async fn send(api: &Api, file: &Path) -> Result<Vec<Sent>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let leads: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    let run = getrandom::u32().context("draw a number")?;
    let mut sent = Vec::new();
    for (index, lead) in leads.into_iter().enumerate() {
        sent.push(send_one(api, lead, &format!("demo-{run:08x}-{index}")).await?);
    }
    println!("==> sent {} leads", sent.len());
    Ok(sent)
}

async fn send_one(api: &Api, lead: Value, external_id: &str) -> Result<Sent> {
    let mut body = lead.clone();
    // An id of its own makes it a new lead, though an earlier run sent the same content.
    body["project"] = json!("ext:demo");
    body["external_id"] = json!(external_id);
    let answer = api.expect(Method::POST, "/api/leads", Some(&body)).await?;
    let id = answer["lead_id"].as_str().context("an answer without `lead_id`")?.to_owned();
    let deliveries = answer["deliveries"].as_array().into_iter().flatten().map(Delivery::read).collect::<Result<Vec<_>>>()?;
    if deliveries.len() != 3 {
        bail!("lead {} became {} deliveries instead of 3; warnings: {}", lead["name"], deliveries.len(), answer["warnings"]);
    }
    Ok(Sent { id, lead, deliveries })
}
