//! A page that shows what the fakes have received, for the demo.

use std::io::Result;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::wire::{self, Handler, Server};
use crate::{Answer, BotApi, HttpSink, Request, SmtpReceiver};

/// How many of the newest entries a page shows.
const SHOWN: usize = 50;

/// `/webhook`, `/telegram` and `/email` show what came; `/` links them.
#[derive(Debug)]
pub struct Board {
    server: Server,
}

struct Pages {
    sink: Arc<HttpSink>,
    bot: Arc<BotApi>,
    mail: Arc<SmtpReceiver>,
}

impl Board {
    /// Starts on this port; 0 takes a free one.
    pub async fn start_on(port: u16, sink: Arc<HttpSink>, bot: Arc<BotApi>, mail: Arc<SmtpReceiver>) -> Result<Self> {
        Ok(Self { server: wire::serve(Arc::new(Pages { sink, bot, mail }), port).await? })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }
}

impl Handler for Pages {
    fn answer(&self, request: Request) -> Answer {
        let (title, entries) = match request.path.as_str() {
            "/" => return page("Receivers", &self.index()),
            "/webhook" => ("Webhook", self.webhooks()),
            "/telegram" => ("Chat", self.bot.received().iter().map(|message| message.text.clone()).collect()),
            "/email" => ("Mailbox", self.mails()),
            _ => return Answer::status(404),
        };
        let shown: String = entries.iter().rev().take(SHOWN).map(|entry| format!("<pre>{}</pre>", escape(entry))).collect();
        page(title, &format!("<p>{} received, newest first. <a href=\"/\">All receivers</a></p>{shown}", entries.len()))
    }
}

impl Pages {
    fn index(&self) -> String {
        let line = |path: &str, name: &str, count: usize| format!("<li><a href=\"{path}\">{name}</a>: {count} received</li>");
        let lines = [
            line("/webhook", "Webhook", self.sink.received().len()),
            line("/telegram", "Chat", self.bot.received().len()),
            line("/email", "Mailbox", self.mail.received().len()),
        ];
        format!("<ul>{}</ul>", lines.concat())
    }

    fn webhooks(&self) -> Vec<String> {
        let show = |request: &Request| {
            let head: String = request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
            format!("{} {}\n{head}\n{}", request.method, request.path, request.text())
        };
        self.sink.received().iter().map(show).collect()
    }

    fn mails(&self) -> Vec<String> {
        let show = |mail: &crate::smtp::Mail| {
            let parsed = mail.parsed();
            format!("From: {}\nTo: {}\nSubject: {}\n\n{}", mail.from, mail.to.join(", "), parsed.subject, parsed.text.unwrap_or_default())
        };
        self.mail.received().iter().map(show).collect()
    }
}

fn page(title: &str, body: &str) -> Answer {
    let style = "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto}pre{background:#8882;padding:1rem;white-space:pre-wrap}";
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"3\"><title>{title}</title><style>{style}</style><h1>{title}</h1>{body}"
    );
    Answer::ok().header("content-type", "text/html; charset=utf-8").body(page)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
