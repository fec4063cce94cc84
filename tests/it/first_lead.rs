//! A lead all the way: HTTP in, three channels out.

use leadwire_fakes::{BotApi, HttpSink, SmtpReceiver};
use leadwire_tests::{Options, TestHost};
use serde_json::json;

#[tokio::test]
async fn a_lead_reaches_a_webhook_a_chat_and_a_mailbox_once() {
    let (sink, bot, smtp) = (HttpSink::start().await.unwrap(), BotApi::start().await.unwrap(), SmtpReceiver::start().await.unwrap());
    let options = Options {
        plugins: vec!["webhook", "telegram", "email"],
        rewrite: vec![("api.telegram.org".into(), bot.base_url())],
        ..Options::default()
    };
    let host = TestHost::with(options).await;
    host.project().await;
    host.enable(
        "webhook",
        json!({"url": sink.url("/hook")}),
        json!({"signing_secret": "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc="}),
    )
    .await;
    host.enable("telegram", json!({"chat_id": 42}), json!({"bot_token": "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF"})).await;
    let mail =
        json!({"host": "127.0.0.1", "port": smtp.addr().port(), "tls": "none", "from": "leads@shop.example", "to": ["sales@shop.example"]});
    host.enable("email", mail, json!({})).await;

    let sent = host.send(json!({"name": "Иван Петров", "phone": "8 (916) 123-45-67", "email": "ivan@example.com"})).await;
    let batch = host.run_until_ended(sent["batch_id"].as_str().unwrap(), std::time::Duration::from_secs(60)).await;

    assert_eq!(batch["status"], "completed", "{batch:#}");
    let (hooks, messages, mails) = (sink.received(), bot.received(), smtp.received());
    assert_eq!((hooks.len(), messages.len(), mails.len()), (1, 1, 1));
    assert_eq!(hooks[0].json()["data"]["name"], "Иван Петров");
    assert_eq!(hooks[0].json()["data"]["phones"][0]["e164"], "+79161234567");
    assert!(messages[0].text.contains("Иван Петров"), "{}", messages[0].text);
    assert!(mails[0].parsed().text.unwrap_or_default().contains("+79161234567"));
}
