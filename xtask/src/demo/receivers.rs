//! The demo's remote services and the credentials that lead to them.

use std::sync::Arc;

use anyhow::Result;
use leadwire_fakes::smtp::Settings;
use leadwire_fakes::{Board, BotApi, HttpSink, SmtpReceiver};
use serde_json::{Value, json};

/// Webhook, chat and mailbox.
pub struct Receivers {
    pub sink: Arc<HttpSink>,
    pub bot: Arc<BotApi>,
    pub mail: Arc<SmtpReceiver>,
    board: Board,
}

/// Made-up secrets: they protect nothing, and the receivers take any.
const SIGNING_SECRET: &str = "whsec_bGVhZHdpcmUtZGVtby1zaWduaW5nLXNlY3JldCE=";
const BOT_TOKEN: &str = "123456789:AAE-demo_token_of_nobody";
const CHAT: i64 = -1_001_234_567_890;

impl Receivers {
    /// Starts them on these ports (0 takes a free one): webhook, chat, mailbox, pages.
    pub async fn start(ports: [u16; 4]) -> Result<Self> {
        let sink = Arc::new(HttpSink::start_on(ports[0]).await?);
        let bot = Arc::new(BotApi::start_on(ports[1]).await?);
        let mail = Arc::new(SmtpReceiver::start_on(ports[2], Settings::default()).await?);
        let board = Board::start_on(ports[3], sink.clone(), bot.clone(), mail.clone()).await?;
        Ok(Self { sink, bot, mail, board })
    }

    /// Where people see what came.
    pub fn board_url(&self) -> String {
        format!("http://{}/", self.board.addr())
    }

    /// The three credentials, as the HTTP interface takes them.
    pub fn credentials(&self) -> [Value; 3] {
        let mail = self.mail.addr();
        [
            json!({"channel": "webhook", "name": "Demo webhook", "project": "ext:demo",
                "config": {"url": self.sink.url("/leads")}, "secrets": {"signing_secret": SIGNING_SECRET}}),
            json!({"channel": "telegram", "name": "Demo chat", "project": "ext:demo",
                "config": {"chat_id": CHAT}, "secrets": {"bot_token": BOT_TOKEN}}),
            json!({"channel": "email", "name": "Demo mailbox", "project": "ext:demo",
                "config": {"host": mail.ip().to_string(), "port": mail.port(), "tls": "none",
                    "from": "leads@demo.example", "to": ["sales@demo.example"]}, "secrets": {}}),
        ]
    }
}
