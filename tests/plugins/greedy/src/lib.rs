//! A plugin for the host's tests: it imports `kv`, which its manifest does not declare.

use leadwire_sdk::{Channel, Context, Item, Outcome, Stop, Verdict, serde_json::Value};

/// The channel.
#[derive(Debug)]
pub struct Greedy;

impl Channel for Greedy {
    type Config = Value;

    fn deliver_one(ctx: &Context<Value>, item: &Item) -> Outcome {
        match ctx.kv().set("seen", item.id.as_bytes(), None) {
            Ok(()) => Ok(Verdict::delivered()),
            Err(failure) => Ok(Verdict::rejected("kv", format!("{failure:?}"))),
        }
    }

    fn check(_: &Context<Value>) -> Result<Vec<(String, String)>, Stop> {
        Ok(Vec::new())
    }
}

leadwire_sdk::export!(Greedy);
