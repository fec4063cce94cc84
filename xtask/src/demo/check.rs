//! What `--once` demands: each lead at each receiver exactly once, with all that was sent of it.

use anyhow::{Result, bail};
use leadwire_fakes::Request;
use leadwire_fakes::bot::Message;
use leadwire_fakes::smtp::Mail;
use serde_json::Value;

use super::api::Delivery;
use super::leads::{Sent, digits};
use super::receivers::Receivers;

/// Something that arrived: for people to read, and by its own words.
struct Arrival {
    text: String,
}

/// Compares what was sent with what came; the error lists every difference.
pub fn verify(sent: &[Sent], ended: &[Vec<Delivery>], receivers: &Receivers) -> Result<()> {
    let arrivals = [
        ("webhook", receivers.sink.received().iter().map(from_request).collect::<Vec<_>>()),
        ("telegram", receivers.bot.received().iter().map(from_message).collect()),
        ("email", receivers.mail.received().iter().map(from_mail).collect()),
    ];
    let mut differences = undelivered(sent, ended);
    for (channel, arrivals) in &arrivals {
        differences.extend(compare(channel, sent, arrivals));
    }
    if differences.is_empty() {
        println!("==> each of {} leads arrived exactly once at webhook, chat and mailbox, complete", sent.len());
        return Ok(());
    }
    bail!("{} differences\n{}", differences.len(), differences.join("\n"));
}

fn undelivered(sent: &[Sent], ended: &[Vec<Delivery>]) -> Vec<String> {
    let pairs = sent.iter().zip(ended).flat_map(|(lead, deliveries)| deliveries.iter().map(move |delivery| (lead, delivery)));
    pairs
        .filter(|(_, delivery)| delivery.status != "delivered")
        .map(|(lead, delivery)| {
            let why = delivery.error.as_deref().unwrap_or("no reason given");
            format!("- {} to {}: {} ended as {}: {why}", lead.name(), delivery.channel, delivery.id, delivery.status)
        })
        .collect()
}

fn compare(channel: &str, sent: &[Sent], arrivals: &[Arrival]) -> Vec<String> {
    let mut differences = Vec::new();
    for lead in sent {
        let own: Vec<_> = arrivals.iter().filter(|arrival| belongs(arrival, lead)).collect();
        if own.len() != 1 {
            differences.push(format!("- {channel}: {} ({}) arrived {} times", lead.name(), lead.id, own.len()));
        }
        for arrival in own {
            for missing in missing(channel, arrival, lead) {
                differences.push(format!(
                    "- {channel}: {}: expected {missing}\n+ got: {}",
                    lead.name(),
                    arrival.text.replace('\n', "\n+   ")
                ));
            }
        }
    }
    differences
}

/// By the lead's id, or by its name where a receiver is not shown the id. A name is one lead's only, and the
/// receivers are of this run only.
fn belongs(arrival: &Arrival, lead: &Sent) -> bool {
    arrival.text.contains(&lead.id) || arrival.text.contains(lead.name())
}

fn missing(channel: &str, arrival: &Arrival, lead: &Sent) -> Vec<String> {
    let mut missing = Vec::new();
    let text = one_line(&arrival.text);
    for (name, value) in lead.lead.as_object().into_iter().flatten() {
        let mut lines = Vec::new();
        match name.as_str() {
            // Its spelling changes on the way.
            "phone" => {}
            // A chat and a mail show the page and the campaign of where it came from.
            "origin" if channel != "webhook" => {
                ["page", "utm_source", "utm_medium", "utm_campaign"].iter().for_each(|part| strings(&value[part], &mut lines));
            }
            _ => strings(value, &mut lines),
        }
        missing.extend(lines.iter().filter(|line| !text.contains(&one_line(line))).map(|line| format!("the {name} `{line}`")));
    }
    if let Some(phone) = lead.phone_digits().filter(|phone| !digits(&arrival.text).contains(phone)) {
        missing.push(format!("the phone `{phone}`"));
    }
    missing
}

/// Mails break lines, and so does the example's text.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The strings of the body, so that escapes of JSON play no part.
fn from_request(request: &Request) -> Arrival {
    let mut lines = Vec::new();
    strings(&request.json(), &mut lines);
    Arrival { text: lines.join("\n") }
}

fn strings(value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::String(text) => lines.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, lines)),
        Value::Object(fields) => fields.values().for_each(|field| strings(field, lines)),
        _ => {}
    }
}

fn from_message(message: &Message) -> Arrival {
    Arrival { text: message.text.clone() }
}

fn from_mail(mail: &Mail) -> Arrival {
    let parsed = mail.parsed();
    Arrival { text: format!("{}\n{}", parsed.subject, parsed.text.unwrap_or_default()).replace("\r\n", "\n") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sent(name: &str) -> Sent {
        let lead = json!({"name": name, "phone": "+7 (916) 123-45-67", "email": "i@example.com"});
        Sent { id: format!("lead_{name}"), lead, deliveries: Vec::new() }
    }

    fn arrival(text: &str) -> Arrival {
        Arrival { text: text.to_owned() }
    }

    #[test]
    fn one_complete_arrival_each_is_right() {
        let arrivals = [arrival("Иван, +79161234567, i@example.com"), arrival("lead_Anna\nAnna\n7 916 123 45 67\ni@example.com")];
        assert!(compare("webhook", &[sent("Иван"), sent("Anna")], &arrivals).is_empty());
    }

    #[test]
    fn every_difference_is_named() {
        let arrivals = [arrival("Иван i@example.com"), arrival("Иван +79161234567")];
        let mut full = sent("Иван");
        full.lead["comment"] = json!("call\nme");
        full.lead["fields"] = json!({"car": "Lada"});
        let text = compare("email", &[full, sent("Anna")], &arrivals).join("\n").replace("call\nme", "call me");
        for part in [
            "Иван (lead_Иван) arrived 2 times",
            "expected the phone `79161234567`",
            "expected the email `i@example.com`",
            "expected the comment `call me`",
            "expected the fields `Lada`",
            "Anna (lead_Anna) arrived 0 times",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }

    #[test]
    fn a_delivery_that_failed_is_a_difference() {
        let delivery =
            Delivery { id: "dlv_1".into(), channel: "email".into(), status: "failed".into(), attempts: 3, error: Some("451 later".into()) };
        assert_eq!(undelivered(&[sent("Anna")], &[vec![delivery]]), ["- Anna to email: dlv_1 ended as failed: 451 later"]);
    }
}
