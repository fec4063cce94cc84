//! A plugin for the host's tests that does, by the lead's title, what plugins should not do, and what they may answer.
//! A title it does not know is delivered without a request.
#![allow(clippy::panic, reason = "that is what it is for")]

mod memory;

use std::hint::black_box;

use leadwire_sdk::{Channel, Context, Item, Outcome, Payload, Stop, Verdict, http, log, secrets::Mac};
use serde::Deserialize;

/// The settings.
#[derive(Debug, Deserialize)]
pub struct Config {
    url: String,
    /// What `probe` looks for in its own memory: texts whose bytes are turned over (see [`memory::found`]), comma-separated.
    #[serde(default)]
    wanted: String,
}

/// The channel.
#[derive(Debug)]
pub struct Hostile;

impl Channel for Hostile {
    type Config = Config;

    fn deliver(ctx: &Context<Config>, items: &[Item]) -> Result<(), Stop> {
        for item in items {
            match title(item) {
                "settle-foreign" => {
                    let foreign = Item { id: format!("{}x", item.id), ..item.clone() };
                    foreign.settle(&Verdict::delivered());
                    item.settle(&Verdict::delivered());
                }
                "settle-twice" => {
                    item.settle(&Verdict::rejected("first", "the first verdict holds"));
                    item.settle(&Verdict::delivered());
                }
                "settle-not" => {}
                "settle-then-panic" => {
                    item.settle(&Verdict::delivered().with_ref("message", 1));
                    panic!("after the verdict");
                }
                _ => item.settle(&Self::deliver_one(ctx, item)?),
            }
        }
        Ok(())
    }

    fn deliver_one(ctx: &Context<Config>, item: &Item) -> Outcome {
        match title(item) {
            "loop" => endless(),
            "memory" => eat(),
            "recurse" => Ok(Verdict::skipped("depth", recurse(&[0; 64]).to_string())),
            "panic" => panic!("a panic with a reason"),
            "logflood" => loop {
                log::info("again and again and again and again");
            },
            "huge" => Ok(Verdict::rejected("huge", "x".repeat(16 << 20))),
            "hugememo" => {
                item.checkpoint(&"x".repeat(1 << 20));
                Ok(Verdict::delivered())
            }
            "denied" => http::outcome(ctx.http().get("https://not-granted.example/").send()),
            "requests" => Ok(Verdict::skipped("requests", flood(ctx).to_string())),
            "slow" => http::outcome(ctx.http().post(&ctx.config.url).json(&item.payload).send()),
            "send-then-panic" => {
                let answer = ctx.http().post(&ctx.config.url).json(&item.payload).send();
                panic!("after a request that ended as {:?}", answer.map(|answer| answer.status).map_err(|lost| lost.kind));
            }
            "probe" => Ok(Verdict::rejected("probe", probe(ctx, item))),
            "duplicate" => Ok(Verdict::duplicate().with_ref("lead", 8123).with_url("https://crm.example/8123")),
            "skipped" => Ok(Verdict::skipped("rule", "a rule says no")),
            "retry" => Ok(Verdict::retry("later", "not now")),
            "retry-after" => Ok(Verdict::retry("later", "in ten seconds").after(Some(10_000))),
            "retry-maybe" => Ok(Verdict::retry("lost", "no answer").maybe_sent(true)),
            "rejected" => Ok(Verdict::rejected("phone.invalid", "not a phone")),
            "rate-limited" => Err(Stop::rate_limited(Some(2_000))),
            "credential-invalid" => Err(Stop::credential_invalid("the token was revoked")),
            "unavailable" => Err(Stop::unavailable(None)),
            "misconfigured" => Err(Stop::misconfigured("the pipeline is gone")),
            "internal" => Err(Stop::internal("an answer it does not understand")),
            _ => Ok(Verdict::delivered()),
        }
    }

    fn check(ctx: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
        let answer = ctx.http().get(&ctx.config.url).send()?;
        Ok(vec![("status".into(), answer.status.to_string()), ("body".into(), answer.text().into_owned())])
    }
}

fn title(item: &Item) -> &str {
    match &item.payload {
        Payload::Lead(lead) => lead.title.as_deref().unwrap_or_default(),
        Payload::Event(event) => &event.kind,
    }
}

fn endless() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn eat() -> ! {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    loop {
        kept.push(black_box(vec![1; 1 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(frame: &[u64; 64]) -> u64 {
    let below = black_box([frame[0] + 1; 64]);
    recurse(&below) + below[1]
}

/// How many requests went through before the first that did not.
fn flood(ctx: &Context<Config>) -> usize {
    (0..2_000).take_while(|_| ctx.http().get(&ctx.config.url).send().is_ok()).count()
}

/// Everything that the guest can see, after trying to get at the secrets: none of it may hold one.
fn probe(ctx: &Context<Config>, item: &Item) -> String {
    let secrets = ctx.secrets();
    let echo = ctx
        .http()
        .post(&ctx.config.url)
        .header("Authorization", "Bearer {secret.token}")
        .header("X-Guess", "{secret.token} {secret.key}")
        .json(&serde_json::json!({ "guess": "{secret.token}", "config": "{config.url}" }))
        .send();
    let seen = [
        format!("{echo:?}"),
        format!("has {} {}", secrets.has("token"), secrets.has("key")),
        format!("sign {:?} {:?}", secrets.sign("token", Mac::HmacSha256, "x"), secrets.sign("nosuch", Mac::HmacSha256, "x")),
        format!("matches {:?}", secrets.matches("token", "x")),
        format!("{item:?}"),
        format!("{ctx:?}"),
    ];
    for line in &seen {
        log::info(line);
        item.checkpoint(line.get(..4096).unwrap_or(line));
    }
    // Last, when everything that the host ever handed over has been here: the memory is never cleared during a call.
    format!("memory holds {:?}\n{}", memory::found(&ctx.config.wanted), seen.join("\n"))
}

leadwire_sdk::export!(Hostile);

#[cfg(test)]
mod tests {
    use super::*;
    use leadwire_sdk::testing::{Answer, Host, item_of, lead};

    fn run(title: &str) -> String {
        let mut lead = lead();
        lead.title = Some(title.into());
        let config = serde_json::json!({ "url": "https://peer.example/" });
        let mut host = Host::new().config(config).answer(Answer::status(200));
        host.deliver::<Hostile>(&[item_of(lead)]).summary()
    }

    #[test]
    fn the_answers_are_what_their_titles_say() {
        assert_eq!(run("anything"), "delivered");
        assert_eq!(run("slow"), "delivered");
        assert_eq!(run("settle-not"), "");
        assert_eq!(run("settle-twice"), "rejected first + delivered");
        assert_eq!(run("retry-after"), "retry later after=10000");
        assert_eq!(run("rate-limited"), "stop rate_limited 2000");
        assert_eq!(run("probe"), "rejected probe");
    }
}
