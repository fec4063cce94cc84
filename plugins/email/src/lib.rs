//! The channel `email`: one mail for each lead, to everyone in the settings.
//!
//! Recipients are accepted and refused one by one. Who has it is written down, and a retry goes only to the others, so
//! nobody gets the mail twice. The host owns the connection, the envelope and the headers that must not be forged.

mod content;
mod response;

#[cfg(test)]
mod tests;

use leadwire_sdk::{
    Channel, Context, Item, Outcome, Stop, Verdict, log,
    mail::{FailureKind, Message},
};
use serde::Deserialize;

use response::Progress;

/// The settings; `config.schema.json` says what is allowed. Server and login are the host's affair.
#[derive(Debug, Deserialize)]
pub struct Config {
    reply_to: Option<String>,
    to: Vec<String>,
    #[serde(default)]
    cc: Vec<String>,
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
}

impl Config {
    fn recipients(&self) -> impl Iterator<Item = &String> {
        self.to.iter().chain(&self.cc)
    }
}

/// The channel.
#[derive(Debug)]
pub struct Email;

impl Channel for Email {
    type Config = Config;

    fn deliver_one(ctx: &Context<Config>, item: &Item) -> Outcome {
        let mut progress = Progress::read(item);
        let open = progress.open(ctx.config.recipients());
        if open.is_empty() {
            // The last attempt ended between its note and its verdict.
            return progress.outcome();
        }
        let mut message = match message(ctx, item) {
            Ok(message) => message,
            Err(rejected) => return Ok(rejected),
        };
        message.only = Some(open);
        let mut answer = ctx.mail().send(&message);
        // An address that the host cannot put into a header must not keep the lead from its readers.
        if let Err(lost) = &answer
            && lost.kind == FailureKind::Invalid
            && message.reply_to != ctx.config.reply_to
        {
            log::warn(&format!("sent without the lead's address for answers: {}", lost.message));
            message.reply_to.clone_from(&ctx.config.reply_to);
            answer = ctx.mail().send(&message);
        }
        match answer {
            Ok(sent) => {
                progress.note(&sent);
                item.checkpoint(&progress.memo());
                progress.outcome()
            }
            Err(lost) => progress.failed(&lost),
        }
    }

    fn check(ctx: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
        let everyone: Vec<String> = ctx.config.recipients().cloned().collect();
        ctx.mail().probe(&everyone).map_err(|lost| response::stop(&lost))
    }
}

fn message(ctx: &Context<Config>, item: &Item) -> Result<Message, Verdict> {
    let content = content::render(ctx, item)?;
    let mut message = Message::for_item(item);
    message.to.clone_from(&ctx.config.to);
    message.cc.clone_from(&ctx.config.cc);
    message.reply_to = content::reply_to(item).or_else(|| ctx.config.reply_to.clone());
    message.subject = content.subject;
    message.text = content.text;
    message.html = content.html;
    Ok(message)
}

leadwire_sdk::export!(Email);
