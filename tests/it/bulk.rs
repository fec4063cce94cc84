//! A promise: work on many rows keeps no live lead waiting, and is not kept waiting for ever itself.

use std::sync::Arc;
use std::time::Duration;

use leadwire::clock::Clock as _;
use leadwire::model::{
    BatchId, BatchOptions, CredentialId, DeliveryId, DeliveryStatus, Lead, LeadId, LeadStatus, Origin, ProjectId, Timestamp,
};
use leadwire::store::{Finish, Intake, IntakeExtras, LaneQuota, NewDelivery, Next, Store};
use leadwire_fakes::Answer;
use leadwire_fakes::bot::Limits;
use leadwire_fakes::{BotApi, Gate, HttpSink};
use leadwire_tests::{Options, TestHost, manual_clock};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

fn intake(project: ProjectId, lane: CredentialId, channel: &str, number: usize, now: Timestamp) -> Intake {
    let delivery = NewDelivery { id: DeliveryId::new(now), credential_id: lane, channel: channel.to_owned(), due_at: now, settings: None };
    Intake {
        lead: Lead {
            id: LeadId::new(now),
            project,
            entity: None,
            external_id: None,
            title: None,
            name: Some(format!("Old {number}")),
            company: None,
            phones: Vec::new(),
            emails: Vec::new(),
            comment: None,
            value: None,
            origin: Origin::default(),
            fields: serde_json::Map::new(),
            created_at: now,
        },
        status: LeadStatus::Accepted,
        dedup: None,
        batch: BatchId::new(now),
        options: BatchOptions::default(),
        deliveries: vec![delivery],
        correlation: String::new(),
        idempotency: None,
        extras: IntakeExtras::default(),
    }
}

/// Stores leads that have failed, past the lanes.
pub(super) async fn failed(store: &Arc<dyn Store>, project: ProjectId, lane: CredentialId, channel: &str, count: usize, now: Timestamp) {
    let accepted = (0..count).map(|number| store.accept(intake(project, lane, channel, number, now)));
    for done in futures_util::future::join_all(accepted).await {
        done.unwrap();
    }
    let quota = LaneQuota { lane, limit: u32::try_from(count).unwrap() };
    let leased = store.lease(&[quota], now, now.plus(SECOND)).await.unwrap();
    let next = Next::End { status: DeliveryStatus::Failed, refs: Vec::new(), url: None };
    let finish = |job| Finish { job, attempts: Vec::new(), last: None, next: next.clone(), now };
    store.finish(leased.iter().map(|leased| finish(leased.job)).collect()).await.unwrap();
}

/// Pauses the credential, stores failed leads and has a task queue them all.
async fn queued_in_bulk(host: &TestHost, credential: &str, channel: &str, count: usize) {
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    host.idle().await;
    let project: ProjectId = host.get("/api/projects/ext:shop").await["id"].as_str().unwrap().parse().unwrap();
    failed(&host.host().store, project, credential.parse().unwrap(), channel, count, host.clock.now()).await;
    let body = json!({"filter": {"project": "ext:shop", "status": "failed"}, "rate_per_sec": 1000});
    let (status, task) = host.post("/api/deliveries/retry", &body).await;
    assert_eq!((status, &task["total_count"]), (202, &json!(count)), "{task}");
    let path = format!("/api/tasks/{}", task["task_id"].as_str().unwrap());
    let begun = std::time::Instant::now();
    while begun.elapsed() < 60 * SECOND {
        if host.get(&path).await["status"] == "completed" {
            return;
        }
        host.clock.advance(Duration::from_millis(50));
        tokio::task::yield_now().await;
    }
    panic!("the task does not end: {}", host.get(&path).await);
}

/// A chat that takes one message a second, and three at once now and then.
async fn chat() -> (BotApi, TestHost, String) {
    let clock = manual_clock();
    let at = clock.clone();
    let bot = BotApi::start_with(Limits::none(), Arc::new(move || u64::try_from(at.now().as_millis()).unwrap())).await.unwrap();
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["telegram"], rewrite, clock: Some(clock), ..Options::default() }).await;
    host.project().await;
    let secrets = json!({"bot_token": "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF"});
    let id = host.enable("telegram", json!({"chat_id": 42}), secrets).await;
    (bot, host, id)
}

#[tokio::test]
async fn a_live_lead_goes_at_once_through_a_limited_lane_with_thousands_queued_again() {
    let (bot, host, credential) = chat().await;
    queued_in_bulk(&host, &credential, "telegram", 2_000).await;
    assert_eq!(bot.received().len(), 0, "a pause is one of both lanes");
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.idle().await;
    host.advance_by_seconds(5).await;
    let before = bot.received().len();
    assert!((4..=8).contains(&before), "{before} of the old ones in five seconds");

    // Nothing but the lead itself moves anything: the clock stands.
    let live = host.lead(0).await;
    host.idle().await;
    assert_eq!(host.status(&live).await, "delivered");
    assert_eq!(bot.received().len(), before + 1, "and it took no old one with it");

    // A live lead every other second is never late.
    let old = || bot.received().iter().filter(|message| message.text.contains("Old ")).count();
    for number in 1..=10 {
        host.advance_by_seconds(2).await;
        let live = host.lead(number).await;
        host.idle().await;
        assert_eq!(host.status(&live).await, "delivered");
    }
    // One every second is all the chat may get; still the old ones have their turn.
    let before = old();
    for number in 11..=50 {
        host.advance(SECOND).await;
        host.lead(number).await;
        host.idle().await;
    }
    let in_turn = old() - before;
    assert!((3..=8).contains(&in_turn), "{in_turn} old ones beside 40 live leads");
    let listed = host.get(&format!("/api/deliveries?status=queued&credential={credential}&limit=1")).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);

    // Both lanes go with the credential.
    let (status, _) = host.answer(host.request("DELETE", &format!("/api/credentials/{credential}"))).await;
    assert_eq!(status, 204);
    host.idle().await;
    let received = bot.received().len();
    host.advance(3_600 * SECOND).await;
    assert_eq!((host.host().store.backlog(), bot.received().len()), (0, received));
}

#[tokio::test]
async fn slow_calls_for_old_leads_leave_calls_for_a_live_one() {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let credential = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    let gate = Gate::closed();
    sink.always(Answer::ok().held(&gate));
    queued_in_bulk(&host, &credential, "webhook", 100).await;
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    // Of 16 calls at once, a quarter is kept.
    sink.wait_for(12).await;
    let sent = host.send(json!({"name": "Live"})).await;
    let live = sent["deliveries"][0]["id"].as_str().unwrap().to_owned();
    let seen = sink.wait_for(13).await;
    assert_eq!(seen[12].header("webhook-id"), Some(live.as_str()));
    gate.open();
    host.idle().await;
    assert_eq!((sink.received().len(), host.host().store.backlog()), (101, 0));
}
