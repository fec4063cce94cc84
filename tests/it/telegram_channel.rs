//! The channel `telegram` against a fake Bot API that refuses what the real one refuses.

use std::sync::Arc;
use std::time::Duration;

use leadwire::clock::{Clock as _, ManualClock};
use leadwire_fakes::BotApi;
use leadwire_fakes::bot::{Chat, ChatState, Limits, Play};
use leadwire_tests::{Options, TestHost, codes, manual_clock, outcomes};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: &str = "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF";

async fn host_of(bot: &BotApi, clock: ManualClock) -> TestHost {
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["telegram"], rewrite, clock: Some(clock), ..Options::default() }).await;
    host.project().await;
    host
}

/// A fake that goes by the host's clock.
async fn bot_by(clock: &ManualClock, limits: Limits) -> BotApi {
    let clock = clock.clone();
    BotApi::start_with(limits, Arc::new(move || u64::try_from(clock.now().as_millis()).unwrap())).await.unwrap()
}

async fn chat_with(limits: Limits, config: Value) -> (BotApi, TestHost, String) {
    let clock = manual_clock();
    let bot = bot_by(&clock, limits).await;
    let host = host_of(&bot, clock).await;
    let id = host.enable("telegram", config, json!({"bot_token": TOKEN})).await;
    (bot, host, id)
}

async fn chat(config: Value) -> (BotApi, TestHost, String) {
    chat_with(Limits::none(), config).await
}

/// A chat with the usual limits.
async fn limited(chat_id: i64) -> (BotApi, TestHost) {
    let (bot, host, _) = chat_with(Limits::usual(), json!({"chat_id": chat_id})).await;
    (bot, host)
}

#[tokio::test]
async fn a_lead_with_markup_in_every_field_is_shown_as_it_was_written() {
    let (bot, host, _) = chat(json!({"chat_id": 42, "silent": true})).await;
    let evil = r#"</b><script>&amp; "x" <a href="http://evil.example">"#;
    let sent = host
        .send(json!({"name": evil, "title": evil, "company": evil, "comment": evil, "fields": {evil: evil, "n": [1, {"<": ">"}]},
            "origin": {"page": "https://shop.example/?a=1&b=<2>", "utm_source": evil}}))
        .await;
    host.idle().await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    let messages = bot.received();
    assert_eq!((messages.len(), bot.calls().len()), (1, 1), "the first try was well-formed");
    let message = &messages[0];
    assert_eq!(message.text.matches(evil).count(), 7, "{}", message.text);
    let kinds: Vec<_> = message.entities.iter().map(|entity| entity.kind).collect();
    assert_eq!(kinds, ["bold", "code"], "no markup but ours");
    assert!(message.silent && message.text.ends_with(sent["lead_id"].as_str().unwrap()));
    assert_eq!(delivery["refs"], json!([{"name": "message", "value": "1"}, {"name": "chat", "value": "42"}]));
}

#[tokio::test]
async fn a_text_that_is_too_long_is_cut_to_one_message() {
    let (bot, host, _) = chat(json!({"chat_id": 42})).await;
    for (number, comment) in ["<&>".repeat(5_000), "😀".repeat(5_000), "Ж".repeat(60_000)].into_iter().enumerate() {
        let sent = host.send(json!({"name": number.to_string(), "comment": comment})).await;
        host.idle().await;
        let delivery = host.first_delivery(&sent).await;
        assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    }
    let messages = bot.received();
    assert_eq!((messages.len(), bot.calls().len()), (3, 3));
    for message in messages {
        let units = message.text.encode_utf16().count();
        assert!((4_000..=4_096).contains(&units) && message.text.contains('…'), "{units}");
    }
}

#[tokio::test]
async fn a_template_that_one_lead_does_not_fit_stops_no_other_lead() {
    let (bot, host, id) = chat(json!({"chat_id": 42, "text": "{{ lead.name }}: {{ 10 // (lead.phones|length) }}"})).await;
    let without = host.send(json!({"name": "Without a phone", "email": "ann@example.com"})).await;
    let with = host.send(json!({"name": "With a phone", "phone": "+79161234502"})).await;
    host.idle().await;
    let failed = host.first_delivery(&without).await;
    assert_eq!((failed["status"].as_str(), codes(&failed)), (Some("failed"), vec!["template"]), "{failed:#}");
    let message = failed["attempts"][0]["message"].as_str().unwrap();
    assert!(message.contains("`text`") && message.contains("line 1"), "{message}");
    assert_eq!(host.first_delivery(&with).await["status"], "delivered");
    assert_eq!(bot.received()[0].text, "With a phone: 10");
    assert_eq!(host.state(&id).await, "active");

    // What can work for no lead is not taken in.
    let broken = json!({"config": {"chat_id": 42, "text": "Hello\n{{ lead.name|shout }}"}});
    let (status, problem) = host.patch(&format!("/api/credentials/{id}"), &broken).await;
    assert_eq!((status, problem["errors"][0]["pointer"].as_str()), (422, Some("/config/text")), "{problem}");
    assert_eq!(problem["errors"][0]["code"], "invalid_template");
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("line 2"), "{problem}");
}

#[tokio::test]
async fn a_template_with_broken_markup_goes_out_once_as_plain_text() {
    let (bot, host, _) = chat(json!({"chat_id": 42, "text": "<b>Lead {{ lead.name }} <wow>"})).await;
    let sent = host.send(json!({"name": "Ann <Lee>"})).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&sent).await["status"], "delivered");
    let messages = bot.received();
    assert_eq!((messages.len(), bot.calls().len()), (1, 2));
    assert!(messages[0].text.contains("Ann <Lee>"), "{}", messages[0].text);
    assert!(messages[0].params["parse_mode"].is_null());
}

#[tokio::test]
async fn a_group_that_became_a_supergroup_is_found_and_remembered() {
    let (bot, host, _) = chat(json!({"chat_id": -100})).await;
    bot.set_chat(-100, Chat::new(ChatState::MigratedTo(-1_001_234_567_890)));
    let first = host.lead(1).await;
    host.idle().await;
    assert_eq!((host.status(&first).await.as_str(), bot.calls().len()), ("delivered", 2));
    let host = host.restart().await;
    let second = host.lead(2).await;
    host.idle().await;
    assert_eq!((host.status(&second).await.as_str(), bot.calls().len()), ("delivered", 3));
    assert!(bot.received().iter().all(|message| message.chat_id == -1_001_234_567_890));
}

#[tokio::test]
async fn a_flood_wait_is_kept_for_the_whole_chat() {
    let (bot, host, credential) = chat(json!({"chat_id": 42})).await;
    bot.script([Play::Flood { retry_after: 35 }]);
    let ids = [host.lead(1).await, host.lead(2).await];
    host.idle().await;
    assert_eq!((bot.calls().len(), host.state(&credential).await.as_str()), (1, "throttled"));
    host.advance(SECOND * 34).await;
    assert_eq!(bot.calls().len(), 1);
    host.advance_by_seconds(2).await;
    assert_eq!((bot.calls().len(), bot.received().len()), (3, 2));
    for id in &ids {
        let delivery = host.delivery(id).await;
        assert_eq!((&delivery["status"], &delivery["attempt_count"]), (&json!("delivered"), &json!(1)));
    }
}

#[tokio::test]
async fn a_chat_that_cannot_be_written_to_fails_its_lead_and_parks_the_others() {
    for (state, words) in [
        (ChatState::Blocked, "blocked by the user"),
        (ChatState::Kicked, "kicked"),
        (ChatState::NotStarted, "initiate conversation"),
        (ChatState::NotFound, "chat not found"),
    ] {
        let (bot, host, credential) = chat(json!({"chat_id": 42})).await;
        bot.set_chat(42, Chat::new(state));
        let first = host.lead(1).await;
        host.idle().await;
        let second = host.lead(2).await;
        host.advance(SECOND * 600).await;
        let delivery = host.delivery(&first).await;
        assert_eq!((&delivery["status"], codes(&delivery)), (&json!("failed"), vec!["chat_unreachable"]), "{state:?}");
        assert!(delivery["last_error"].as_str().unwrap().contains(words), "{delivery:#}");
        let shown = host.credential(&credential).await;
        assert_eq!(shown["state"], "invalid");
        assert!(shown["state_reason"]["message"].as_str().unwrap().contains(words));
        assert_eq!((host.status(&second).await.as_str(), bot.calls().len()), ("queued", 1));
    }
}

#[tokio::test]
async fn a_revoked_token_parks_the_lane_without_costing_a_lead() {
    let (bot, host, credential) = chat(json!({"chat_id": 42})).await;
    bot.revoke(TOKEN);
    let id = host.lead(1).await;
    host.advance(SECOND * 600).await;
    assert_eq!((host.status(&id).await.as_str(), host.state(&credential).await.as_str(), bot.calls().len()), ("queued", "invalid", 1));
    let other = json!({"secrets": {"bot_token": "987654321:AAEabcdefghijklmnopqrstuvwxyzABCDEF"}});
    assert_eq!(host.patch(&format!("/api/credentials/{credential}"), &other).await.0, 200);
    host.idle().await;
    assert_eq!((host.status(&id).await.as_str(), bot.received().len()), ("delivered", 1));
}

#[tokio::test]
async fn a_topic_that_is_gone_or_closed_does_not_lose_the_lead() {
    let mut forum = Chat::forum([5, 6]);
    forum.closed_topics.insert(6);
    for (topic, arrives_in, calls) in [(5, Some(5), 1), (6, None, 2), (9, None, 2)] {
        let (bot, host, _) = chat(json!({"chat_id": -1_001_234_567_890_i64, "message_thread_id": topic})).await;
        bot.set_chat(-1_001_234_567_890, forum.clone());
        let id = host.lead(1).await;
        host.idle().await;
        assert_eq!((host.status(&id).await.as_str(), bot.calls().len()), ("delivered", calls));
        assert_eq!(bot.received()[0].message_thread_id, arrives_in);
    }
}

#[tokio::test]
async fn trouble_at_telegram_passes() {
    let (bot, host, _) = chat(json!({"chat_id": 42})).await;
    bot.script([Play::BadGateway, Play::Internal]);
    let id = host.lead(1).await;
    host.advance(SECOND * 3).await;
    host.advance(SECOND * 11).await;
    let delivery = host.delivery(&id).await;
    assert_eq!((outcomes(&delivery), codes(&delivery)), (vec!["retry", "retry", "delivered"], vec!["telegram_502", "telegram_500", ""]));
    assert_eq!(bot.received().len(), 1);
}

#[tokio::test]
async fn a_chat_gets_three_at_once_and_then_one_a_second() {
    let (bot, host) = limited(42).await;
    let start = u64::try_from(host.clock.now().as_millis()).unwrap();
    for number in 0..8 {
        host.lead(number).await;
    }
    host.idle().await;
    host.advance_by_seconds(6).await;
    let times: Vec<u64> = bot.received().iter().map(|message| message.at_ms - start).collect();
    assert_eq!(times, [0, 0, 0, 1_000, 2_000, 3_000, 4_000, 5_000]);
    assert_eq!(bot.calls().len(), 8, "nothing was refused");
}

#[tokio::test]
async fn a_group_never_gets_more_than_twenty_in_a_minute() {
    let (bot, host) = limited(-100).await;
    for number in 0..40 {
        host.lead(number).await;
    }
    host.idle().await;
    host.advance_by_seconds(140).await;
    let times: Vec<u64> = bot.received().iter().map(|message| message.at_ms).collect();
    assert_eq!((times.len(), bot.calls().len()), (40, 40), "all arrived and nothing was refused");
    for (index, start) in times.iter().enumerate() {
        let within = times[index..].iter().take_while(|at| **at < start + 60_000).count();
        assert!(within <= 20, "{within} within a minute");
    }
}

#[tokio::test]
async fn two_credentials_for_one_chat_share_its_limit() {
    let (bot, host) = limited(42).await;
    host.enable_with(json!({"channel": "telegram", "name": "again", "config": {"chat_id": 42}, "secrets": {"bot_token": TOKEN}})).await;
    for number in 0..4 {
        host.lead(number).await;
    }
    host.idle().await;
    assert_eq!(bot.calls().len(), 3);
    host.advance_by_seconds(6).await;
    assert_eq!((bot.calls().len(), bot.received().len()), (8, 8));
}
