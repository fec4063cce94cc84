use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::Gate;

const TOKEN: &str = "123456789:AAE-secret_part";

async fn call(bot: &BotApi, method: &str, body: &str) -> (u16, Value) {
    let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
    let mut socket = TcpStream::connect(bot.addr()).await.unwrap();
    let request = format!(
        "POST /bot{TOKEN}/{method} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn send(bot: &BotApi, chat: i64, text: &str) -> (u16, Value) {
    call(bot, "sendMessage", &json!({"chat_id": chat, "text": text, "parse_mode": "HTML"}).to_string()).await
}

#[tokio::test]
async fn a_message_arrives_and_is_echoed() {
    let bot = BotApi::start().await.unwrap();
    let (status, answer) = send(&bot, -1_001_234_567_890, "<b>New lead</b>\nIvan &amp; Co").await;
    assert_eq!((status, &answer["result"]["text"]), (200, &json!("New lead\nIvan & Co")));
    assert_eq!(answer["result"]["entities"], json!([{"type": "bold", "offset": 0, "length": 8}]));
    let (_, form) = call(&bot, "SENDMESSAGE", "chat_id=5512345678&text=%D0%98+x&disable_notification=true").await;
    assert_eq!(form["result"]["chat"]["id"], json!(5_512_345_678_i64));
    let messages = bot.wait_for(2).await;
    assert_eq!((messages[1].text.as_str(), messages[1].silent, messages[1].chat_id), ("И x", true, 5_512_345_678));
    assert_eq!(call(&bot, "getMe", "{}").await.1["result"]["id"], json!(123_456_789));
    assert_eq!(call(&bot, "dance", "{}").await.0, 404);
}

#[tokio::test]
async fn bad_text_is_refused_with_the_real_words() {
    let bot = BotApi::start().await.unwrap();
    assert!(send(&bot, 1, "a < b").await.1["description"].as_str().unwrap().starts_with("Bad Request: can't parse entities"));
    assert_eq!(send(&bot, 1, "<b> </b>").await.1["description"], "Bad Request: message text is empty");
    let long = format!("<b>{}</b>", "&amp;".repeat(4096));
    assert_eq!(send(&bot, 1, &long).await.0, 200, "what counts is the length after parsing");
    assert_eq!(send(&bot, 1, &"я".repeat(4097)).await.1["description"], "Bad Request: message is too long");
    assert_eq!(call(&bot, "sendMessage", "{\"text\":\"x\"}").await.1["description"], "Bad Request: chat_id is empty");
    assert_eq!((bot.received().len(), bot.calls().len()), (1, 5));
}

#[tokio::test]
async fn chats_refuse_in_their_own_way() {
    let bot = BotApi::start().await.unwrap();
    bot.set_chat(-5, Chat::new(ChatState::MigratedTo(-1_000_000_000_005)));
    bot.set_chat(6, Chat::new(ChatState::Blocked));
    bot.set_chat(-7, Chat { closed_topics: [43].into(), ..Chat::forum([42]) });
    let (status, answer) = send(&bot, -5, "x").await;
    assert_eq!((status, &answer["parameters"]["migrate_to_chat_id"]), (400, &json!(-1_000_000_000_005_i64)));
    assert_eq!(send(&bot, -1_000_000_000_005, "x").await.0, 200);
    assert_eq!(send(&bot, 6, "x").await.1["description"], "Forbidden: bot was blocked by the user");
    let topic =
        async |id: i64| call(&bot, "sendMessage", &json!({"chat_id": -7, "text": "x", "message_thread_id": id}).to_string()).await.1;
    assert_eq!(topic(42).await["ok"], true);
    assert_eq!(topic(43).await["description"], "Bad Request: TOPIC_CLOSED");
    assert_eq!(topic(44).await["description"], "Bad Request: message thread not found");
    bot.known_chats_only();
    assert_eq!(call(&bot, "getChat", "{\"chat_id\":99}").await.1["description"], "Bad Request: chat not found");
    bot.revoke(TOKEN);
    assert_eq!(send(&bot, 1, "x").await.0, 401);
}

#[tokio::test]
async fn a_flood_lasts_as_long_as_it_said() {
    let now = Arc::new(AtomicU64::new(0));
    let clock = now.clone();
    let bot = BotApi::start_with(Limits::none(), Arc::new(move || clock.load(Ordering::Relaxed))).await.unwrap();
    bot.script([Play::Flood { retry_after: 35 }]);
    assert_eq!(send(&bot, 1, "x").await.1["parameters"]["retry_after"], 35);
    now.store(5_000, Ordering::Relaxed);
    assert_eq!(send(&bot, 1, "x").await.1["parameters"]["retry_after"], 30);
    now.store(35_000, Ordering::Relaxed);
    assert_eq!(send(&bot, 1, "x").await.0, 200);
}

#[tokio::test]
async fn the_server_can_fail_before_and_after_storing() {
    let bot = BotApi::start().await.unwrap();
    let gate = Gate::closed();
    gate.step(1);
    let refuse = Play::Refuse { code: 418, description: "Teapot: short".to_owned() };
    bot.script([Play::BadGateway, Play::Internal, refuse, Play::CloseBefore, Play::CloseAfterStoring, Play::Truncated, Play::Held(gate)]);
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(send(&bot, 1, "x").await.0);
    }
    assert_eq!(statuses, [502, 500, 418, 0, 0, 200, 200]);
    assert_eq!(bot.received().len(), 3, "closed after storing, truncated and held");
}

#[tokio::test]
async fn a_webhook_excludes_polling() {
    let bot = BotApi::start().await.unwrap();
    assert_eq!(call(&bot, "setWebhook", "{\"url\":\"http://h.example/x\"}").await.0, 400);
    assert_eq!(call(&bot, "setWebhook", "{\"url\":\"https://h.example:8080/x\"}").await.0, 400);
    assert_eq!(call(&bot, "setWebhook", "{\"url\":\"https://h.example/x\",\"secret_token\":\"a b\"}").await.0, 400);
    assert_eq!(call(&bot, "setWebhook", "{\"url\":\"https://h.example:8443/x\"}").await.0, 200);
    assert_eq!(call(&bot, "getUpdates", "{}").await.0, 409);
    assert_eq!(call(&bot, "getWebhookInfo", "{}").await.1["result"]["url"], "https://h.example:8443/x");
    assert_eq!(call(&bot, "deleteWebhook", "{}").await.0, 200);
    assert_eq!(call(&bot, "getUpdates", "{}").await.0, 200);
}
