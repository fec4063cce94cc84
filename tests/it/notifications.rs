//! People hear of what happened: at once, and then together with what follows, so that an outage is one message.

use std::time::Duration;

use leadwire_fakes::{Answer, BotApi, HttpSink};
use leadwire_tests::{Options, TestHost};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: &str = "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF";

/// A CRM, and a chat of the people who look after it.
async fn shop(plugins: Vec<&'static str>) -> (HttpSink, BotApi, TestHost, String, String) {
    let (sink, bot) = (HttpSink::start().await.unwrap(), BotApi::start().await.unwrap());
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins, rewrite, ..Options::default() }).await;
    host.project().await;
    let crm = json!({"channel": "webhook", "name": "Our CRM", "config": {"url": sink.url("/crm")}, "retry": {"schedule": ["1s"]}});
    let crm = host.enable_with(crm).await;
    let chat = json!({"channel": "telegram", "name": "Chat", "entity": "nobody", "config": {"chat_id": 42, "text": "LEAD"},
        "secrets": {"bot_token": TOKEN}});
    let chat = host.enable_with(chat).await;
    (sink, bot, host, crm, chat)
}

async fn rules(host: &TestHost, rules: Value) {
    let (status, project) = host.patch("/api/projects/ext:shop", &json!({"notifications": rules})).await;
    assert_eq!((status, &project["notifications"]), (200, &rules), "{project}");
}

#[tokio::test]
async fn an_outage_is_one_message_and_not_a_hundred() {
    let (sink, bot, host, _, chat) = shop(vec!["webhook", "telegram"]).await;
    rules(&host, json!([{"name": "Failures", "on": ["failed"], "credential_id": chat, "quiet_sec": 600}])).await;
    sink.always(Answer::redirect("/x"));
    let first = host.send(json!({"name": "Ann"})).await;
    host.idle().await;
    let messages = bot.received();
    assert_eq!(messages.len(), 1);
    assert!(messages[0].text.starts_with("Лид не доставлен") && messages[0].text.contains("http_302"), "{}", messages[0].text);
    let batch = host.get(&format!("/api/batches/{}", first["batch_id"].as_str().unwrap())).await;
    assert_eq!((&batch["total"], &batch["notifications"][0]["status"]), (&json!(1), &json!("delivered")));

    for number in 0..100 {
        host.lead(number).await;
        host.idle().await;
    }
    host.advance(SECOND * 599).await;
    assert_eq!(bot.received().len(), 1);
    host.advance(SECOND).await;
    let messages = bot.received();
    assert_eq!(messages.len(), 2);
    assert!(messages[1].text.starts_with("Лид не доставлен × 100"), "{}", messages[1].text);
    assert!(messages[1].text.ends_with("… и ещё 95"), "{}", messages[1].text);
    host.advance(SECOND * 3_600).await;
    assert_eq!(bot.received().len(), 2);
}

#[tokio::test]
async fn each_rule_hears_what_it_wants_in_its_own_words() {
    let (sink, bot, host, _, chat) = shop(vec!["webhook", "telegram"]).await;
    let template = "{{ event.data.counts.completed }} of {{ event.data.total }} for {{ project.name }}";
    rules(
        &host,
        json!([
            {"name": "Done", "on": ["completed"], "credential_id": chat, "settings": {"chat_id": 7}, "template": template, "quiet_sec": 0},
            {"name": "Bad", "on": ["failed", "partial", "unrouted"], "credential_id": chat, "quiet_sec": 0},
        ]),
    )
    .await;
    host.lead(1).await;
    host.idle().await;
    let messages = bot.received();
    assert_eq!((messages.len(), messages[0].chat_id, messages[0].text.as_str()), (1, 7, "1 of 1 for Shop"));
    host.send(json!({"name": "Nobody's", "integrations": ["email"]})).await;
    host.idle().await;
    sink.always(Answer::redirect("/x"));
    host.lead(2).await;
    host.advance(SECOND).await;
    let chats: Vec<_> = bot.received().iter().map(|message| message.chat_id).collect();
    assert_eq!(chats, [7, 42, 42]);
}

#[tokio::test]
async fn a_refused_credential_an_open_breaker_and_a_failing_plugin_are_told() {
    let (sink, bot, host, crm, chat) = shop(vec!["webhook", "telegram", "test_hostile"]).await;
    let on = json!(["credential_invalid", "breaker_open", "plugin_fault"]);
    rules(&host, json!([{"name": "Ops", "on": on, "credential_id": chat, "quiet_sec": 0}])).await;
    sink.script([Answer::status(401).body("who are you")]);
    host.lead(1).await;
    host.idle().await;
    let text = bot.received()[0].text.clone();
    assert!(text.contains("отклонил") && text.contains("Our CRM") && text.contains("who are you"), "{text}");
    host.patch(&format!("/api/credentials/{crm}"), &json!({"secrets": {"authorization": "Bearer x"}, "retry": {"schedule": ["1h"]}})).await;
    sink.always(Answer::status(500));
    for number in 2..25 {
        host.lead(number).await;
        host.idle().await;
    }
    let texts: Vec<_> = bot.received().iter().map(|message| message.text.clone()).collect();
    assert_eq!(texts.len(), 2, "{texts:#?}");
    assert!(texts[1].contains("не отвечает"), "{}", texts[1]);

    let secrets = json!({"token": "tok-9f8e7d6c5b4a-SECRET", "key": "key-1a2b3c4d5e6f-SECRET"});
    let hostile = host.enable("test/hostile", json!({"url": sink.url("/x")}), secrets).await;
    let named = json!([{"type": "test/hostile", "credential_id": hostile}]);
    host.send(json!({"title": "recurse", "name": "Ivan", "integrations": named})).await;
    host.idle().await;
    let text = bot.received()[2].text.clone();
    assert!(text.contains("Сбой плагина") && text.contains("memory_fault") && !text.contains("SECRET"), "{text}");
}

#[tokio::test]
async fn rules_that_cannot_work_are_named() {
    let (_sink, _bot, host, crm, chat) = shop(vec!["webhook", "telegram"]).await;
    let rule = |change: Value| {
        let mut rule = json!({"name": "r", "on": ["failed"], "credential_id": chat});
        rule.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({"notifications": [{"name": "other", "on": ["partial"], "credential_id": crm}, rule]})
    };
    for (change, pointer) in [
        (json!({"name": ""}), "name"),
        (json!({"name": "other"}), "name"),
        (json!({"on": []}), "on"),
        (json!({"on": ["exploded"]}), "on/0"),
        (json!({"credential_id": "crd_00000000000000000000000000"}), "credential_id"),
        (json!({"settings": {"chat": 1}}), "settings/chat"),
        (json!({"template": "{{ event"}), "template"),
        (json!({"quiet_sec": 86_401}), "quiet_sec"),
    ] {
        let (status, problem) = host.patch("/api/projects/ext:shop", &rule(change)).await;
        let at = format!("/notifications/1/{pointer}");
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(at)), "{problem}");
    }
}
