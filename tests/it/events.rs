//! Live events as clients follow them: in order, without gap or double across whatever cuts them off, and harming nobody.

use std::time::Duration;

use leadwire::model::{BatchId, BatchOptions, CredentialId, DeliveryId, Lead, LeadId, LeadStatus, Timestamp};
use leadwire::store::{Intake, IntakeExtras, NewDelivery};
use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::follow::{Sse, Told, eventually};
use leadwire_tests::process::{Place, call};
use leadwire_tests::{ADMIN_KEY, Options, TestHost, client};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn host(settings: &[(&'static str, &str)]) -> (TestHost, HttpSink, String) {
    let sink = HttpSink::start().await.unwrap();
    let settings = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let host = TestHost::with(Options { plugins: vec!["webhook"], settings, ..Options::default() }).await;
    host.project().await;
    let credential = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (host, sink, credential)
}

async fn follow(host: &TestHost, query: &str, after: Option<&str>) -> Sse {
    Sse::open(&client(), &host.url(&format!("/api/events{query}")), after).await
}

fn names(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| &*told.event).collect()
}

/// Everything there is, read from the beginning up to the event with this id.
async fn all(host: &TestHost, last: &str) -> Vec<Told> {
    follow(host, "", Some("0.0")).await.until(|told| told.id == last).await
}

#[tokio::test]
async fn all_events_of_a_lead_come_in_order_and_hold_nothing_of_the_person() {
    let (host, sink, credential) = host(&[]).await;
    sink.script([Answer::status(500)]);
    let mut stream = follow(&host, "", None).await;
    let sent = host.send(json!({"name": "Ann Lee", "phone": "+44 20 7946 0958", "external_id": "form-1"})).await;
    let mut told = stream.until(|told| told.event == "delivery.retry_scheduled").await;
    host.run_until_ended(sent["batch_id"].as_str().unwrap(), Duration::from_secs(600)).await;
    told.extend(stream.until(|told| told.event == "lead.completed").await);
    let expected = [
        "lead.accepted",
        "batch.pending",
        "delivery.queued",
        "delivery.retry_scheduled",
        "delivery.delivered",
        "batch.completed",
        "lead.completed",
    ];
    assert_eq!(names(&told), expected);
    for one in &told {
        assert_eq!((&one.data["lead_id"], &one.data["batch_id"]), (&sent["lead_id"], &sent["batch_id"]));
        assert_eq!(one.data["project_id"].as_str().map(|id| id.starts_with("prj_")), Some(true));
        let text = one.data.to_string();
        assert!(!text.contains("Ann") && !text.contains("7946") && !text.contains("form-1"), "{text}");
    }
    let again = &told[3].data;
    assert_eq!((&again["status"], &again["code"], &again["channel"]), (&json!("queued"), &json!("http_500"), &json!("webhook")));
    assert_eq!((&again["credential_id"], &again["kind"]), (&json!(credential), &json!("lead")));
    assert!(again["due_at"].as_str() > again["at"].as_str(), "{again}");
    assert_eq!(told[5].data["counts"]["delivered"], 1);
    // The credential, made before the stream began, was told too.
    let all = all(&host, &told[6].id).await;
    assert_eq!((all[0].event.as_str(), &all[0].data["state"]), ("credential.created", &json!("active")));
    assert_eq!(all[1..], told);
}

#[tokio::test]
async fn a_client_that_was_cut_off_goes_on_without_gap_or_double() {
    let (host, _sink, _) = host(&[]).await;
    let mut stream = follow(&host, "", Some("0.0")).await;
    for number in 0..4 {
        host.lead(number).await;
    }
    let mut seen = stream.events(9).await;
    drop(stream); // in the midst of a lead
    host.lead(4).await;
    host.idle().await;
    let mut stream = follow(&host, "", Some(&seen[8].id)).await;
    seen.extend(stream.events(7).await);
    // The host goes and comes back.
    let (ended, host) = tokio::join!(stream.rest(), host.restart());
    seen.extend(ended.iter().filter(|told| told.event.contains('.')).cloned());
    assert_eq!(ended.last().map(|told| told.data["reason"].clone()), Some(json!("stopping")));
    let last_id = ended.last().unwrap().id.clone();
    host.lead(5).await;
    host.idle().await;
    let mut stream = follow(&host, "", Some(&last_id)).await;
    let sixth = |seen: &[Told]| seen.iter().filter(|told| told.event == "lead.completed").count() == 6;
    while !sixth(&seen) {
        seen.push(stream.event().await);
    }
    assert_eq!(seen, all(&host, &seen[seen.len() - 1].id).await);
    assert_eq!(seen.len(), 1 + 6 * 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_answered_is_missing_after_a_kill() {
    let (sink, client) = (HttpSink::start().await.unwrap(), client());
    let place = Place::new(&["webhook"]);
    let mut host = place.start().await;
    let project = json!({"external_id": "shop", "dedup": {"enabled": false, "ttl_sec": 60}});
    call(&client, "POST", &host.url("/api/projects"), Some(&project)).await;
    let credential =
        json!({"channel": "webhook", "config": {"url": sink.url("/lead")}, "retry": {"tries": 50, "base_ms": 10, "max_ms": 50}});
    assert_eq!(call(&client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&credential)).await.0, 201);
    let (mut seen, mut sent): (Vec<Told>, Vec<Value>) = (Vec::new(), Vec::new());
    for round in 0..4 {
        let after = seen.last().map_or_else(|| "0.0".to_owned(), |told| told.id.clone());
        let mut stream = Sse::open(&client, &host.url("/api/events"), Some(&after)).await;
        for _ in 0..15 {
            let (status, answer) =
                call(&client, "POST", &host.url("/api/leads"), Some(&json!({"project": "ext:shop", "name": "Ann"}))).await;
            assert_eq!(status, 202, "{answer}");
            sent.push(answer["lead_id"].clone());
        }
        // Some of what happened is read before the kill, some of it with the kill, and the rest after.
        seen.extend(stream.events(10 + round).await);
        let (rest, _) = tokio::join!(stream.rest(), host.kill());
        seen.extend(rest.into_iter().filter(|told| told.event.contains('.')));
        host = place.start().await;
    }
    let completed = |seen: &[Told]| seen.iter().filter(|told| told.event == "lead.completed").count();
    let mut stream = Sse::open(&client, &host.url("/api/events"), Some(&seen[seen.len() - 1].id)).await;
    while completed(&seen) < sent.len() {
        seen.push(stream.event().await);
    }
    for lead in &sent {
        let of_lead: Vec<_> =
            seen.iter().filter(|told| told.data["lead_id"] == *lead && !told.event.ends_with("retry_scheduled")).collect();
        let names: Vec<_> = of_lead.iter().map(|told| &*told.event).collect();
        let expected = ["lead.accepted", "batch.pending", "delivery.queued", "delivery.delivered", "batch.completed", "lead.completed"];
        assert_eq!(names, expected, "{of_lead:#?}");
    }
    let mut whole = Sse::open(&client, &host.url("/api/events"), Some("0.0")).await;
    let whole = whole.events(seen.len()).await;
    assert_eq!(whole, seen, "what was seen in pieces is what there is");
    host.stop().await;
}

async fn key(host: &TestHost, body: Value) -> (String, String) {
    let (status, made) = host.post("/api/keys", &body).await;
    assert_eq!(status, 201, "{made}");
    (made["key"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_key_hears_of_its_own_project_only() {
    let (host, _sink, _) = host(&[]).await;
    let (_, other) = host.post("/api/projects", &json!({"external_id": "other", "name": "Other"})).await;
    let (key, _) = key(&host, json!({"name": "Other", "scopes": ["leads:read", "leads:write"], "project": "ext:other"})).await;
    let mut bound = Sse::open_as(&client(), &host.url("/api/events"), Some("0.0"), &key).await;
    let mut platform = follow(&host, "?project=ext:other", Some("0.0")).await;
    let mut everything = follow(&host, "", None).await;
    host.lead(1).await;
    host.idle().await;
    let (status, sent) = host.answer(client().post(host.url("/api/leads")).header("x-api-key", &key).json(&json!({"name": "Bo"}))).await;
    assert_eq!(status, 202, "{sent}");
    for stream in [&mut bound, &mut platform] {
        let told = stream.events(2).await;
        assert_eq!(names(&told), ["lead.unrouted", "batch.completed"]);
        assert!(told.iter().all(|told| told.data["project_id"] == other["id"] && told.data["lead_id"] == sent["lead_id"]));
    }
    assert_eq!(everything.events(8).await.last().unwrap().data["project_id"], other["id"]);
    // Another's project, lead or batch is not there.
    let get = |path: &str| client().get(host.url(path)).header("x-api-key", &key);
    for (path, pointer) in
        [("?project=ext:shop", Some("/project")), ("?lead=ext:lead-1", None), ("?batch=bat_01h455vb4pex5vsknk084sn02q", None)]
    {
        let (status, problem) = host.answer(get(&format!("/api/events{path}"))).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer);
    }
}

#[tokio::test]
async fn types_a_lead_or_a_batch_can_be_asked_for() {
    let (host, _sink, _) = host(&[]).await;
    let first = host.send(json!({"name": "One", "external_id": "1"})).await;
    let second = host.send(json!({"name": "Two", "external_id": "2"})).await;
    host.idle().await;
    let batch = format!("?batch={}", second["batch_id"].as_str().unwrap());
    for (query, lead, expected) in [
        ("?lead=ext:1&project=ext:shop&types=lead,batch.completed", &first, vec!["lead.accepted", "batch.completed", "lead.completed"]),
        (
            &batch,
            &second,
            vec!["lead.accepted", "batch.pending", "delivery.queued", "delivery.delivered", "batch.completed", "lead.completed"],
        ),
    ] {
        let told = follow(&host, query, Some("0.0")).await.events(expected.len()).await;
        assert_eq!(names(&told), expected);
        assert!(told.iter().all(|told| told.data["lead_id"] == lead["lead_id"]), "{told:#?}");
    }
    for (query, code) in [("?types=leads", "invalid_query"), ("?type=lead", "invalid_query"), ("?last_event_id=x", "invalid_last_event_id")]
    {
        let (status, problem) = host.answer(host.request("GET", &format!("/api/events{query}"))).await;
        assert_eq!(problem["code"], code, "{problem}");
        assert!((400..500).contains(&status));
    }
}

#[tokio::test]
async fn a_garbled_last_event_id_is_refused_and_one_too_old_or_strange_is_told() {
    let (host, _sink, _) = host(&[]).await;
    host.lead(1).await;
    host.idle().await;
    for garbage in ["yesterday", "12", "1.x", "-1.0", "1.1, 1.2"] {
        let response = host.request("GET", "/api/events").header("last-event-id", garbage).send().await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (400, &"application/problem+json".parse().unwrap()));
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], "invalid_last_event_id", "{problem}");
    }
    let old = follow(&host, "", Some("0.0")).await.event().await.id;
    // Four days later: the chore has removed them, but for the newest.
    host.advance(Duration::from_secs(4 * 86_400)).await;
    eventually("old events are removed", async || host.host().store.event_log().await.unwrap().pruned_to.turn > 1).await;
    // What a process still has in memory it can still tell; the next one cannot.
    assert_eq!(follow(&host, "", Some(&old)).await.event().await.event, "lead.accepted");
    let host = host.restart().await;
    let mut stream = follow(&host, "", Some(&old)).await;
    let reset = stream.event().await;
    assert_eq!((reset.event.as_str(), &reset.data["reason"]), ("reset", &json!("pruned")), "{reset:?}");
    let sent = host.send(json!({"name": "Two"})).await;
    let told = stream.until(|told| told.event == "lead.completed" && told.data["lead_id"] == sent["lead_id"]).await;
    // From the reset on there is no gap: what is kept comes, and so does resuming behind the reset itself.
    let again = follow(&host, "", Some(&reset.id)).await.until(|one| one.id == told[told.len() - 1].id).await;
    assert_eq!(again, told);
    let strange = follow(&host, "", Some("999999.1")).await.event().await;
    assert_eq!((strange.event.as_str(), &strange.data["reason"]), ("reset", &json!("unknown")), "{strange:?}");
}

#[tokio::test]
async fn a_stream_ends_with_its_key() {
    let (host, _sink, _) = host(&[]).await;
    let expires_at = host.host().app.now().plus(Duration::from_secs(40));
    let (revoked, id) = key(&host, json!({"name": "a", "scopes": ["leads:read"], "project": "ext:shop"})).await;
    let (expiring, _) = key(&host, json!({"name": "b", "scopes": ["leads:read"], "expires_at": expires_at})).await;
    let (writing, _) = key(&host, json!({"name": "c", "scopes": ["leads:write"]})).await;
    let first = Sse::open_as(&client(), &host.url("/api/events"), None, &revoked).await;
    let mut second = Sse::open_as(&client(), &host.url("/api/events"), None, &expiring).await;
    assert_eq!(host.answer(host.request("DELETE", &format!("/api/keys/{id}"))).await.0 / 100, 2);
    let rest = first.rest().await;
    assert_eq!((rest.len(), &rest[0].data["reason"]), (1, &json!("key_revoked")), "{rest:?}");
    // Two signs of life, then the end.
    for _ in 0..2 {
        host.advance(Duration::from_secs(15)).await;
        assert_eq!(second.message().await.unwrap().event, "");
    }
    host.advance(Duration::from_secs(10)).await;
    let rest = second.rest().await;
    assert_eq!((rest.len(), &rest[0].data["reason"]), (1, &json!("key_expired")), "{rest:?}");
    eventually("the places are given back", async || host.host().app.live.open() == 0).await;
    let (status, problem) = host.answer(client().get(host.url("/api/events")).header("x-api-key", &writing)).await;
    assert_eq!((status, &problem["code"]), (403, &json!("insufficient_scope")));
}

#[tokio::test]
async fn a_sign_of_life_carries_the_position_past_what_was_not_for_the_reader() {
    let (host, _sink, _) = host(&[]).await;
    let mut stream = follow(&host, "?types=credential", None).await;
    let begins_at = stream.last_id.clone();
    host.lead(1).await;
    host.idle().await;
    host.advance(Duration::from_secs(15)).await;
    let sign = stream.message().await.unwrap();
    assert!(sign.event.is_empty() && sign.id != begins_at, "{sign:?}");
    // Whoever resumes there gets what follows.
    let credential = host.enable("webhook", json!({"url": "http://127.0.0.1:9/"}), json!({})).await;
    let told = follow(&host, "", Some(&sign.id)).await.event().await;
    assert_eq!((told.event.as_str(), &told.data["credential_id"]), ("credential.created", &json!(credential)));
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.answer(host.request("DELETE", &format!("/api/credentials/{credential}"))).await;
    let told = stream.events(4).await;
    assert_eq!(names(&told), ["credential.created", "credential.paused", "credential.active", "credential.deleted"]);
}

#[tokio::test]
async fn streams_are_bounded_for_a_key_and_for_all() {
    let (host, _sink, _) = host(&[("event_streams", "3"), ("event_streams_per_key", "2")]).await;
    let (other, _) = key(&host, json!({"name": "a", "scopes": ["leads:read"], "project": "ext:shop"})).await;
    let refused = async |key: &str| {
        let response = client().get(host.url("/api/events")).header("x-api-key", key).send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"));
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap()["code"].as_str().unwrap().to_owned())
    };
    let mine = [follow(&host, "", None).await, follow(&host, "", None).await];
    assert_eq!(refused(ADMIN_KEY).await, (429, "too_many_streams".to_owned()));
    let others = Sse::open_as(&client(), &host.url("/api/events"), None, &other).await;
    assert_eq!(refused(&other).await, (503, "streams_full".to_owned()));
    drop((mine, others));
    eventually("the places are given back", async || host.host().app.live.open() == 0).await;
    follow(&host, "", None).await;
}

#[tokio::test]
async fn streams_keep_their_place_and_leave_places_for_others() {
    let (host, _sink, _) = host(&[("max_connections", "4"), ("event_streams", "100")]).await;
    let mut streams = vec![follow(&host, "", None).await, follow(&host, "", None).await];
    let full = client().get(host.url("/api/events")).header("x-api-key", ADMIN_KEY).send().await.unwrap();
    assert_eq!(full.status(), 503, "half of the connections is the most");
    // Far more connections than places, each answered and left open.
    let mut waiting = Vec::new();
    for _ in 0..12 {
        let mut stream = tokio::net::TcpStream::connect(host.host().address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: leadwire\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        waiting.push(stream);
    }
    host.lead(1).await;
    for stream in &mut streams {
        assert_eq!(names(&stream.events(6).await)[5], "lead.completed");
    }
}

/// A lead with thousands of deliveries that nobody sends: that many events in one transaction.
fn flood(host: &TestHost, project: &str, count: usize) -> Intake {
    let now = Timestamp::parse(leadwire_tests::START).unwrap();
    let lead: Lead = serde_json::from_value(json!({"id": LeadId::new(now), "project": project, "phones": [], "emails": [], "origin": {},
        "fields": {}, "created_at": now}))
    .unwrap();
    let due_at = host.host().app.now().plus(Duration::from_secs(86_400));
    let delivery = |_| NewDelivery {
        id: DeliveryId::new(now),
        credential_id: CredentialId::new(now),
        channel: "webhook".to_owned(),
        due_at,
        settings: None,
    };
    Intake {
        lead,
        status: LeadStatus::Accepted,
        dedup: None,
        batch: BatchId::new(now),
        options: BatchOptions::default(),
        deliveries: (0..count).map(delivery).collect(),
        correlation: String::new(),
        idempotency: None,
        extras: IntakeExtras::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_reading_is_dropped_with_a_reason_and_harms_nobody() {
    let (host, _sink, _) = host(&[]).await;
    let project = host.get("/api/projects/ext:shop").await["id"].as_str().unwrap().to_owned();
    let mut slow = follow(&host, "", None).await;
    let mut well = follow(&host, "?types=lead", None).await;
    // More than any buffer between the two holds.
    const LEADS: usize = 10;
    for _ in 0..LEADS {
        host.host().store.accept(flood(&host, &project, 4_000)).await.unwrap();
    }
    well.events(LEADS).await;
    let sent = host.send(json!({"name": "Ann"})).await;
    let told = well.until(|told| told.event == "lead.completed").await;
    assert_eq!(told[told.len() - 1].data["lead_id"], sent["lead_id"], "others go on, and so does the host");
    host.advance(Duration::from_secs(11)).await;
    // It comes back, and finds what was under way, and why nothing follows.
    let mut seen = slow.until(|told| told.event == "dropped").await;
    let dropped = seen.pop().unwrap();
    assert_eq!(dropped.data["reason"], "too_slow", "{dropped:?}");
    assert!(slow.message().await.is_none());
    assert!(seen.len() < LEADS * 4_000, "it was held back: {}", seen.len());
    // It goes on where it was.
    let mut again = follow(&host, "", Some(&dropped.id)).await;
    if !seen.iter().any(|told| told.event == "lead.completed") {
        seen.extend(again.until(|told| told.event == "lead.completed").await);
    }
    assert_eq!(seen.len(), LEADS * 4_002 + 6);
    let ids: Vec<_> = seen.iter().map(|told| &told.id).collect();
    let mut different = ids.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), ids.len(), "nothing comes twice");
    // The other one hears on.
    host.lead(2).await;
    assert_eq!(well.event().await.event, "lead.accepted");
}
