//! A promise: a lead answered with 202 is never lost and never silently doubled, whenever the process dies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leadwire_fakes::{HttpSink, Request};
use leadwire_tests::ADMIN_KEY;
use leadwire_tests::process::{Place, Process, call};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

const LEADS: usize = 2_000;
const CLIENTS: usize = 8;
const KILLS: usize = 24;
/// Every so many kills, one more comes before the host is ready again.
const KILL_EARLY_EVERY: usize = 6;
const SEED: u64 = 0x1ead_517e;
/// Longest the whole may take.
const LIMIT: Duration = Duration::from_secs(180);

/// xorshift64*: the same moments in every run, as far as the machine allows.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % limit
    }
}

/// A lead as the host acknowledged it.
struct Acknowledged {
    lead: String,
    batch: String,
    deliveries: Vec<String>,
}

/// What the clients and the killer share.
struct Load {
    client: reqwest::Client,
    address: watch::Receiver<Option<SocketAddr>>,
    next: AtomicUsize,
    done: watch::Sender<usize>,
    /// Answers that came a second time because the first one was cut off.
    replayed: AtomicUsize,
}

impl Load {
    /// Sends one lead under one key until it is acknowledged, as a careful client does.
    async fn send(&self, no: usize) -> Acknowledged {
        let mut address = self.address.clone();
        loop {
            let to = address.wait_for(Option::is_some).await.unwrap().unwrap();
            let lead = json!({"project": "ext:shop", "name": format!("Lead {no}"), "fields": {"no": no}});
            let request = self.client.post(format!("http://{to}/api/leads")).header("x-api-key", ADMIN_KEY);
            let sent = request.header("idempotency-key", format!("lead-{no}")).json(&lead).timeout(Duration::from_secs(20)).send().await;
            let answer = match sent {
                Ok(answer) => answer,
                Err(error) if error.is_timeout() => panic!("lead {no}: the host at {to} does not answer"),
                Err(_) => continue,
            };
            let (status, replayed) = (answer.status().as_u16(), answer.headers().contains_key("idempotent-replayed"));
            let Ok(body) = answer.json::<Value>().await else { continue };
            match status {
                200 | 202 => {}
                409 | 503 => continue,
                _ => panic!("lead {no}: {status} {body}"),
            }
            self.replayed.fetch_add(usize::from(replayed), Ordering::Relaxed);
            assert_eq!(body["duplicate"], false, "{body}");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let deliveries = body["deliveries"].as_array().unwrap().iter().map(|delivery| text(&delivery["id"])).collect();
            return Acknowledged { lead: text(&body["lead_id"]), batch: text(&body["batch_id"]), deliveries };
        }
    }

    async fn client(self: Arc<Self>) -> Vec<(usize, Acknowledged)> {
        let mut acknowledged = Vec::new();
        loop {
            let no = self.next.fetch_add(1, Ordering::Relaxed);
            if no >= LEADS {
                return acknowledged;
            }
            acknowledged.push((no, self.send(no).await));
            self.done.send_modify(|done| *done += 1);
        }
    }
}

async fn prepare(host: &Process, client: &reqwest::Client, sinks: &[HttpSink; 2]) -> Vec<String> {
    let project = json!({"external_id": "shop", "name": "Shop", "dedup": {"enabled": false, "ttl_sec": 3600}});
    let (status, body) = call(client, "POST", &host.url("/api/projects"), Some(&project)).await;
    assert_eq!(status, 201, "{body}");
    let mut ids = Vec::new();
    for (no, sink) in sinks.iter().enumerate() {
        let credential = json!({"channel": "webhook", "name": format!("Sink {no}"), "config": {"url": sink.url("/hook")},
            "secrets": {"signing_secret": "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc="},
            // A delivery may be under way at many of the kills.
            "retry": {"tries": 100, "base_ms": 10, "max_ms": 100}});
        let (status, body) = call(client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&credential)).await;
        assert_eq!(status, 201, "{body}");
        ids.push(body["id"].as_str().unwrap().to_owned());
    }
    ids
}

/// Kills and restarts; half of the times when so many leads were acknowledged, half when so many requests had arrived.
async fn kill_again_and_again(
    place: &Place,
    mut host: Process,
    load: &Load,
    sinks: &[HttpSink; 2],
    tell: &watch::Sender<Option<SocketAddr>>,
) -> (Process, usize) {
    let mut random = Random(SEED);
    let mut kills = 0;
    while kills < KILLS {
        let share = LEADS * 9 / 10 / KILLS;
        let threshold = kills * share + 1 + random.below(share);
        if random.below(2) == 0 {
            load.done.subscribe().wait_for(|done| *done >= threshold).await.unwrap();
        } else {
            sinks[random.below(2)].wait_for(threshold).await;
        }
        tell.send_replace(None);
        host.kill().await;
        kills += 1;
        if kills % KILL_EARLY_EVERY == 0 {
            // In the middle of its start: when it has said its first word.
            let starting = place.spawn();
            starting.line_with("{").await;
            starting.kill().await;
            kills += 1;
        }
        host = place.start().await;
        tell.send_replace(host.listening().await);
    }
    (host, kills)
}

/// Waits until nothing is queued any more.
async fn all_ended(host: &Process, client: &reqwest::Client, until: Instant) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        let (_, ready) = call(client, "GET", &host.url("/readyz"), None).await;
        if ready["backlog"] == 0 {
            return;
        }
        assert!(Instant::now() < until, "deliveries still wait: {ready}\n{:#?}", host.log().iter().rev().take(20).collect::<Vec<_>>());
    }
}

/// Requests by delivery.
fn by_id(requests: &[Request]) -> HashMap<String, Vec<&Request>> {
    let mut ids: HashMap<String, Vec<&Request>> = HashMap::new();
    for request in requests {
        ids.entry(request.header("webhook-id").unwrap().to_owned()).or_default().push(request);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_lead_is_lost_or_silently_doubled_by_kills() {
    let started = Instant::now();
    let sinks = [HttpSink::start().await.unwrap(), HttpSink::start().await.unwrap()];
    let place = Place::new(&["webhook"]);
    let mut host = place.start().await;
    let client = leadwire_tests::client();
    let credentials = prepare(&host, &client, &sinks).await;

    let (tell, address) = watch::channel(host.listening().await);
    let load = Arc::new(Load {
        client: client.clone(),
        address,
        next: AtomicUsize::new(0),
        done: watch::Sender::new(0),
        replayed: AtomicUsize::new(0),
    });
    let mut clients: JoinSet<_> = (0..CLIENTS).map(|_| load.clone().client()).collect();
    let mut leads = BTreeMap::new();
    let (host, kills) = {
        let mut killing = std::pin::pin!(kill_again_and_again(&place, host, &load, &sinks, &tell));
        loop {
            tokio::select! {
                done = &mut killing => break done,
                // A client that fails must not leave the others waiting.
                Some(acknowledged) = clients.join_next() => leads.extend(acknowledged.unwrap()),
            }
        }
    };
    while let Some(acknowledged) = clients.join_next().await {
        leads.extend(acknowledged.unwrap());
    }
    all_ended(&host, &client, started + LIMIT).await;

    assert_eq!(leads.len(), LEADS);
    let (mut repeats, mut lost) = (0, 0);
    let received = sinks.each_ref().map(HttpSink::received);
    let arrived = received.each_ref().map(|requests| by_id(requests));
    for requests in &arrived {
        // As many ids as leads: no lead came under two of them.
        assert_eq!(requests.len(), LEADS);
    }
    for (no, lead) in &leads {
        let (_, batch) = call(&client, "GET", &host.url(&format!("/api/batches/{}", lead.batch)), None).await;
        let counts = &batch["counts"];
        let sum: u64 = counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!((&batch["status"], &batch["total"], sum), (&json!("completed"), &json!(2), 2), "{batch}");
        assert_eq!(counts["delivered"], 2, "{batch}");
        assert_eq!(lead.deliveries.len(), 2);
        for id in &lead.deliveries {
            let (_, delivery) = call(&client, "GET", &host.url(&format!("/api/deliveries/{id}")), None).await;
            let sink = credentials.iter().position(|credential| delivery["credential_id"] == **credential).unwrap();
            let requests = arrived[sink].get(id).unwrap_or_else(|| panic!("lead {no}: {id} never arrived: {delivery}"));
            for request in requests {
                let body = request.json();
                assert_eq!((&body["data"]["id"], &body["data"]["fields"]["no"]), (&json!(lead.lead), &json!(no)), "{body}");
            }
            let attempts = delivery["attempts"].as_array().unwrap();
            let of_lost = attempts.iter().filter(|attempt| attempt["outcome"] == "lost");
            for attempt in of_lost.clone() {
                assert_eq!(attempt["code"], "lost");
                assert!(attempt["message"].as_str().unwrap().contains("may have been sent"), "{attempt}");
            }
            // Whatever came once more is owned up to.
            let cut = of_lost.count();
            assert!(requests.len() <= 1 + cut, "{} arrivals: {delivery:#}", requests.len());
            assert_eq!(delivery["attempt_count"], attempts.len(), "{delivery:#}");
            repeats += requests.len() - 1;
            lost += cut;
        }
    }
    no_lead_twice(&host, &client, &leads).await;
    assert!(kills >= 20 && lost > 0, "{kills} kills cut off {lost} attempts");
    println!(
        "{LEADS} leads, {kills} kills, {} replayed answers, {lost} attempts cut off, {repeats} arrivals repeated, {:.1} s",
        load.replayed.load(Ordering::Relaxed),
        started.elapsed().as_secs_f64()
    );
    host.stop().await;
}

/// A repeated request made no second lead.
async fn no_lead_twice(host: &Process, client: &reqwest::Client, leads: &BTreeMap<usize, Acknowledged>) {
    let mut stored = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = call(client, "GET", &host.url(&format!("/api/leads?project=ext:shop&limit=200{cursor}")), None).await;
        assert_eq!(status, 200, "{page}");
        stored.extend(page["data"].as_array().unwrap().iter().map(|lead| lead["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let acknowledged: BTreeSet<String> = leads.values().map(|lead| lead.lead.clone()).collect();
    assert_eq!(stored.len(), acknowledged.len());
    assert!(stored == acknowledged, "leads are stored that nobody sent, or the other way round");
}
