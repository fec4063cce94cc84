//! Answers that were lost: whether it was sent cannot be known, and the settings or a person decide.

use std::sync::Arc;
use std::time::Duration;

use leadwire::clock::Clock as _;
use leadwire_fakes::bot::{Limits, Play};
use leadwire_fakes::smtp::{Act, Stage};
use leadwire_fakes::{Answer, BotApi, HttpSink, Manner, SmtpReceiver};
use leadwire_tests::{Options, TestHost, manual_clock, outcomes};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const TOKEN: &str = "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF";

async fn chat(config: Value) -> (BotApi, TestHost) {
    let clock = manual_clock();
    let seen = clock.clone();
    let by = Arc::new(move || u64::try_from(seen.now().as_millis()).unwrap());
    let bot = BotApi::start_with(Limits::none(), by).await.unwrap();
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["telegram"], rewrite, clock: Some(clock), ..Options::default() }).await;
    host.project().await;
    host.enable("telegram", config, json!({"bot_token": TOKEN})).await;
    (bot, host)
}

#[tokio::test]
async fn with_resend_a_lost_answer_is_followed_by_a_second_message() {
    let (bot, host) = chat(json!({"chat_id": 42, "on_doubt": "resend"})).await;
    bot.script([Play::CloseAfterStoring]);
    let id = host.lead(1).await;
    host.idle().await;
    let delivery = host.delivery(&id).await;
    assert_eq!((&delivery["status"], outcomes(&delivery)), (&json!("queued"), vec!["retry"]));
    let message = delivery["attempts"][0]["message"].as_str().unwrap();
    assert!(message.contains("may have been sent"), "{message}");
    host.advance(SECOND * 3).await;
    let messages = bot.received();
    assert_eq!((host.status(&id).await.as_str(), messages.len()), ("delivered", 2));
    assert_eq!(messages[0].text, messages[1].text);
}

#[tokio::test]
async fn with_hold_a_lost_answer_waits_for_a_person_who_sends_it_once() {
    let (bot, host) = chat(json!({"chat_id": 42, "on_doubt": "hold"})).await;
    bot.script([Play::CloseAfterStoring]);
    let sent = host.send(json!({"name": "Ann"})).await;
    let (batch, id) = (sent["batch_id"].as_str().unwrap(), sent["deliveries"][0]["id"].as_str().unwrap());
    host.advance(SECOND * 3_600).await;
    assert_eq!((host.status(id).await.as_str(), bot.received().len()), ("in_doubt", 1));
    let ended = host.get(&format!("/api/batches/{batch}")).await;
    assert_eq!((&ended["status"], &ended["counts"]["in_doubt"], &ended["total"]), (&json!("failed"), &json!(1), &json!(1)));

    // The second try is sure to have done nothing at first, so the old doubt must not hold it again.
    bot.script([Play::Flood { retry_after: 5 }]);
    host.act(&format!("/api/deliveries/{id}/retry")).await;
    host.idle().await;
    assert_eq!((host.status(id).await.as_str(), bot.received().len()), ("queued", 1));
    host.advance(SECOND * 5).await;
    assert_eq!((host.status(id).await.as_str(), bot.received().len()), ("delivered", 2));
    assert_eq!(host.get(&format!("/api/batches/{batch}")).await["status"], "completed");
    host.advance(SECOND * 3_600).await;
    assert_eq!(bot.received().len(), 2);
}

#[tokio::test]
async fn with_hold_a_new_doubt_holds_again() {
    let (bot, host) = chat(json!({"chat_id": 42, "on_doubt": "hold"})).await;
    bot.script([Play::CloseAfterStoring, Play::CloseBefore]);
    let id = host.lead(1).await;
    host.idle().await;
    host.act(&format!("/api/deliveries/{id}/retry")).await;
    host.idle().await;
    assert_eq!((host.status(&id).await.as_str(), bot.received().len()), ("in_doubt", 1));
}

#[tokio::test]
async fn a_webhook_repeats_a_lost_answer_under_the_same_id_at_a_new_time() {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    host.enable(
        "webhook",
        json!({"url": sink.url("/hook")}),
        json!({"signing_secret": "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc="}),
    )
    .await;
    sink.script([Answer::close()]);
    let id = host.lead(1).await;
    host.advance(SECOND * 2).await;
    let seen = sink.received();
    assert_eq!((host.status(&id).await.as_str(), seen.len()), ("delivered", 2));
    assert_eq!((seen[0].header("webhook-id"), seen[1].header("webhook-id")), (Some(id.as_str()), Some(id.as_str())));
    let time = |at: usize| seen[at].header("webhook-timestamp").unwrap().parse::<u64>().unwrap();
    assert_eq!(time(1), time(0) + 2);
    assert_ne!(seen[0].header("webhook-signature"), seen[1].header("webhook-signature"));
    assert_eq!(seen[0].body, seen[1].body);
}

#[tokio::test]
async fn a_connection_that_the_receiver_closed_in_between_loses_nothing() {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    sink.script([Answer::ok().manner(Manner::CloseAfter)]);
    let ids = [host.lead(1).await, host.lead(2).await];
    host.advance_by_seconds(5).await;
    for id in &ids {
        assert_eq!(host.status(id).await, "delivered");
        assert!(sink.received().iter().any(|request| request.header("webhook-id") == Some(id)));
    }
}

#[tokio::test]
async fn a_mail_whose_answer_was_lost_keeps_its_message_id() {
    for (on_doubt, status, mails) in [("resend", "delivered", 2), ("hold", "in_doubt", 1)] {
        let smtp = SmtpReceiver::start().await.unwrap();
        let host = TestHost::start().await;
        host.project().await;
        let config = json!({"host": "127.0.0.1", "port": smtp.addr().port(), "tls": "none", "from": "leads@shop.example",
            "to": ["sales@shop.example"], "on_doubt": on_doubt});
        host.enable("email", config, json!({})).await;
        smtp.script(Stage::Dot, [Act::KeepAndClose]);
        let id = host.lead(1).await;
        host.advance(SECOND * 70).await;
        let got = smtp.received();
        assert_eq!((host.status(&id).await.as_str(), got.len()), (status, mails), "{on_doubt}");
        let ids: Vec<_> = got.iter().map(|mail| mail.parsed().message_id).collect();
        assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}
