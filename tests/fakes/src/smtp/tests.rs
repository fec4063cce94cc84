use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::*;
use crate::Gate;

/// A client that sends lines and reads whole replies.
struct Client(BufReader<TcpStream>);

impl Client {
    async fn connect(smtp: &SmtpReceiver) -> Self {
        Self(BufReader::new(TcpStream::connect(smtp.addr()).await.unwrap()))
    }

    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).await.unwrap_or(0);
            reply.push_str(&line);
            if read == 0 || line.as_bytes().get(3) == Some(&b' ') {
                return reply.trim_end().to_owned();
            }
        }
    }

    async fn raw(&mut self, bytes: &str) -> String {
        self.0.get_mut().write_all(bytes.as_bytes()).await.unwrap();
        self.reply().await
    }

    async fn say(&mut self, line: &str) -> String {
        self.raw(&format!("{line}\r\n")).await
    }

    /// Greeting to recipients.
    async fn envelope(smtp: &SmtpReceiver, to: &[&str]) -> (Self, Vec<String>) {
        let mut client = Self::connect(smtp).await;
        client.reply().await;
        client.say("EHLO me.example").await;
        client.say("MAIL FROM:<a@me.example> SIZE=100").await;
        let mut replies = Vec::new();
        for to in to {
            replies.push(client.say(&format!("RCPT TO:<{to}>")).await[..3].to_owned());
        }
        (client, replies)
    }
}

#[tokio::test]
async fn a_mail_is_kept_as_it_was_meant() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let (mut client, replies) = Client::envelope(&smtp, &["x@b.example", "y@b.example"]).await;
    assert_eq!(replies, ["250", "250"]);
    assert!(client.say("DATA").await.starts_with("354"));
    let text = "Subject: hi\r\n\r\n..dot\r\nsmuggled\n.\r\nstill the same\r\n.";
    assert!(client.say(text).await.starts_with("250"));
    assert!(client.say("QUIT").await.starts_with("221"));
    let mail = smtp.wait_for(1).await.remove(0);
    assert_eq!((mail.from.as_str(), mail.to.len(), mail.helo.as_str()), ("a@me.example", 2, "me.example"));
    assert_eq!(mail.params, ["SIZE=100"]);
    assert_eq!(mail.raw, b"Subject: hi\r\n\r\n.dot\r\nsmuggled\n.\r\nstill the same\r\n");
    assert_eq!(mail.parsed().subject, "hi");
}

#[tokio::test]
async fn one_recipient_can_be_refused() {
    let smtp = SmtpReceiver::start().await.unwrap();
    smtp.always(Stage::RcptOf("No@b.example".to_owned()), Act::reply("550 5.1.1 no such user"));
    smtp.script(Stage::Rcpt, [Act::reply("450 4.2.0 greylisted")]);
    let (mut client, replies) = Client::envelope(&smtp, &["no@b.example", "later@b.example", "yes@b.example"]).await;
    assert_eq!(replies, ["550", "450", "250"]);
    client.say("DATA").await;
    client.say("x\r\n.").await;
    assert_eq!(smtp.received()[0].to, ["yes@b.example"]);
    assert_eq!(smtp.commands().iter().filter(|command| command.line.starts_with("RCPT")).count(), 3);
}

#[tokio::test]
async fn the_login_is_checked_and_not_kept() {
    let smtp = SmtpReceiver::start_with(Settings::with_login("user", "pass")).await.unwrap();
    let mut client = Client::connect(&smtp).await;
    client.reply().await;
    assert!(client.say("EHLO x").await.contains("250 AUTH PLAIN LOGIN"));
    assert!(client.say("MAIL FROM:<a@b.example>").await.starts_with("530"));
    assert!(client.say("AUTH PLAIN AHVzZXIAd3Jvbmc=").await.starts_with("535"));
    assert!(client.say("AUTH LOGIN").await.starts_with("334"));
    assert!(client.say("dXNlcg==").await.starts_with("334"));
    assert!(client.say("cGFzcw==").await.starts_with("235"));
    assert!(client.say("MAIL FROM:<a@b.example>").await.starts_with("250"));
    assert!(smtp.commands().iter().all(|command| !command.line.contains("AHVzZXI")));
}

#[tokio::test]
async fn a_size_limit_counts_before_and_after() {
    let smtp = SmtpReceiver::start_with(Settings { size: Some(50), ..Settings::default() }).await.unwrap();
    let mut client = Client::connect(&smtp).await;
    client.reply().await;
    assert!(client.say("EHLO x").await.contains("SIZE 50"));
    assert!(client.say("MAIL FROM:<a@b.example> SIZE=51").await.starts_with("552"));
    client.say("MAIL FROM:<a@b.example>").await;
    client.say("RCPT TO:<c@b.example>").await;
    client.say("DATA").await;
    assert!(client.say(&format!("{}\r\n.", "x".repeat(60))).await.starts_with("552"));
    assert!(smtp.received().is_empty());
}

#[tokio::test]
async fn connections_break_where_the_test_says() {
    let smtp = SmtpReceiver::start().await.unwrap();
    smtp.script(Stage::Greeting, [Act::Close, Act::ReplyAndClose("421 4.3.2 later".to_owned())]);
    assert_eq!(Client::connect(&smtp).await.reply().await, "");
    assert_eq!(Client::connect(&smtp).await.reply().await, "421 4.3.2 later");
    smtp.script(Stage::Dot, [Act::KeepAndClose, Act::Close, Act::reply("451 4.3.0 no\nroom"), Act::NormalAndClose]);
    let mut replies = Vec::new();
    for _ in 0..4 {
        let (mut client, _) = Client::envelope(&smtp, &["x@b.example"]).await;
        client.say("DATA").await;
        replies.push(client.say("x\r\n.").await);
    }
    assert_eq!(replies, ["", "", "451-4.3.0 no\r\n451 room", "250 2.0.0 queued"]);
    assert_eq!(smtp.received().len(), 2, "kept and closed, and the last");
}

#[tokio::test]
async fn replies_can_be_held_or_spelled_out() {
    let smtp = SmtpReceiver::start().await.unwrap();
    let gate = Gate::closed();
    smtp.script(Stage::Greeting, [Act::Held(gate.clone())]);
    smtp.script(Stage::Ehlo, [Act::Steps(gate.clone())]);
    smtp.script(Stage::Noop, [Act::Raw(b"what?\r\n".to_vec())]);
    let mut client = Client::connect(&smtp).await;
    gate.step(1);
    assert!(client.reply().await.starts_with("220"));
    gate.step(4);
    client.0.get_mut().write_all(b"EHLO x\r\n").await.unwrap();
    let mut start = [0; 4];
    client.0.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"250-");
    gate.open();
    assert!(client.reply().await.contains("SIZE"));
    client.0.get_mut().write_all(b"NOOP\r\n").await.unwrap();
    let mut line = String::new();
    client.0.read_line(&mut line).await.unwrap();
    assert_eq!(line, "what?\r\n");
    assert!(client.say("STARTTLS").await.starts_with("454"));
}
