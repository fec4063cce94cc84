//! A plugin for the host's tests and measurements: a remote side that takes many leads in one request.
//!
//! The answer may name the leads it does not want: `{"refused":["lead_…"]}`.

use leadwire_sdk::{Channel, Context, Item, Payload, Stop, Verdict, http};
use serde::Deserialize;

/// The settings.
#[derive(Debug, Deserialize)]
pub struct Config {
    url: String,
}

#[derive(Debug, Default, Deserialize)]
struct Answer {
    #[serde(default)]
    refused: Vec<String>,
}

/// The channel.
#[derive(Debug)]
pub struct Batch;

impl Channel for Batch {
    type Config = Config;

    fn deliver(ctx: &Context<Config>, items: &[Item]) -> Result<(), Stop> {
        let leads: Vec<&Payload> = items.iter().map(|item| &item.payload).collect();
        let answer = ctx.http().post(&ctx.config.url).json(&leads).send();
        let refused = answer.as_ref().ok().and_then(|answer| answer.json::<Answer>().ok()).unwrap_or_default().refused;
        let common = http::outcome(answer)?;
        for item in items {
            let unwanted = matches!(&item.payload, Payload::Lead(lead) if refused.contains(&lead.id));
            item.settle(&if unwanted { Verdict::rejected("refused", "the remote side does not want it") } else { common.clone() });
        }
        Ok(())
    }

    fn check(_: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
        Ok(Vec::new())
    }
}

leadwire_sdk::export!(Batch);

#[cfg(test)]
mod tests {
    use super::*;
    use leadwire_sdk::testing::{Answer, Host, item};

    #[test]
    fn each_lead_gets_its_own_verdict() {
        let items: Vec<Item> = (0..50)
            .map(|no| {
                let mut item = item();
                item.id = format!("dlv_{no}");
                if let Payload::Lead(lead) = &mut item.payload {
                    lead.id = format!("lead_{no}");
                }
                item
            })
            .collect();
        let config = serde_json::json!({ "url": "https://peer.example/" });
        let mut host = Host::new().config(config).answer(Answer::status(200).text(r#"{"refused":["lead_7"]}"#));
        let run = host.deliver::<Batch>(&items);
        assert_eq!(host.requests().len(), 1);
        assert_eq!(run.verdicts.len(), 50);
        assert!(run.verdicts.iter().all(|(id, verdict)| matches!(verdict, Verdict::Rejected(_)) == (id == "dlv_7")));
    }
}
