//! A promise: a batch ends once and each of its callbacks is told once, between whichever two steps the process dies.
//!
//! The host dies at each point of [`Point::ALL`], at the first times it passes it, and is started again over what it left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leadwire::fault::Point;
use leadwire::model::{CredentialId, ProjectId, Timestamp};
use leadwire::store::Store;
use leadwire::store::sqlite::{SqliteStore, StoreOptions};
use leadwire_fakes::{Answer, HttpSink};
use leadwire_tests::ADMIN_KEY;
use leadwire_tests::process::{Place, Process, call};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(90);
/// Hosts that run side by side.
const AT_ONCE: usize = 4;
/// How many passages of a point are tried with `FAULT_ALL=1`; without it the first, and every second of the commits, which
/// everything passes.
const PASSAGES: u32 = 2;
const COMMITS: u32 = 24;
const OLD: usize = 5;

/// What every host begins with.
struct World {
    sink: HttpSink,
    client: reqwest::Client,
    folder: tempfile::TempDir,
    crm: String,
    old: String,
}

impl World {
    /// A project whose CRM is down, with somewhere else to go, someone to tell, and a few leads that failed before.
    async fn new() -> Self {
        let (sink, client) = (HttpSink::start().await.unwrap(), leadwire_tests::client());
        sink.always_for("/crm", Answer::status(503));
        sink.always_for("/inline", Answer::redirect("/elsewhere"));
        let place = Place::new(&["webhook", "test_batch"]);
        let host = place.start().await;
        let made = async |path: &str, body: Value| {
            let (status, made) = call(&client, "POST", &host.url(path), Some(&body)).await;
            assert_eq!(status, 201, "{made}");
            made["id"].as_str().unwrap().to_owned()
        };
        let project = made("/api/projects", json!({"external_id": "shop", "dedup": {"enabled": false, "ttl_sec": 60}})).await;
        let hook = async |name: &str, retry: Value| {
            let config = json!({"url": sink.url(&format!("/{name}"))});
            made(
                "/api/projects/ext:shop/credentials",
                json!({"channel": "webhook", "name": name, "entity": (name != "crm").then_some(name), "config": config, "retry": retry}),
            )
            .await
        };
        let often = json!({"tries": 20, "base_ms": 10, "max_ms": 50});
        let crm = hook("crm", json!({"tries": 2, "base_ms": 1500, "max_ms": 1500})).await;
        let (fallback, note, old) = (hook("fallback", often.clone()).await, hook("note", often.clone()).await, hook("old", often).await);
        let rules = json!({
            "fallbacks": [{"name": "CRM in time", "credential_id": crm, "within_sec": 1, "to": [{"credential_id": fallback}]}],
            "notifications": [{"name": "Failures", "on": ["failed"], "credential_id": note, "quiet_sec": 600}]});
        let (status, answer) = call(&client, "PATCH", &host.url("/api/projects/ext:shop"), Some(&rules)).await;
        assert_eq!(status, 200, "{answer}");
        host.stop().await;
        let file = place.data().join("leadwire.db");
        let store: Arc<dyn Store> = Arc::new(open(&file).await);
        let now = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        let old_id = old;
        let (project, old): (ProjectId, CredentialId) = (project.parse().unwrap(), old_id.parse().unwrap());
        super::bulk::failed(&store, project, old, "webhook", OLD, now).await;
        drop(store);
        let folder = tempfile::tempdir().unwrap();
        // Opening waits until the one before has let go; then all of it is in one file.
        open(&file).await.close().await;
        std::fs::copy(&file, folder.path().join("leadwire.db")).unwrap();
        Self { sink, client, folder, crm, old: old_id }
    }

    /// A host over a copy of it that dies there; `false`: it never came by.
    async fn dies(&self, point: Point, passage: u32, story: Story) -> bool {
        let mut place = Place::new(&["webhook", "test_batch"]);
        std::fs::copy(self.folder.path().join("leadwire.db"), place.data().join("leadwire.db")).unwrap();
        place.set_plain("FAULT_POINT", &format!("{}:{passage}", point.name()));
        let mut host = place.spawn();
        let mut died = false;
        if host.listening().await.is_none() {
            host.wait().await;
        }
        place.unset_plain("FAULT_POINT");
        let key = format!("{}-{passage}", point.name());
        let mut begun = None;
        let deadline = Instant::now() + PATIENCE;
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        let seen = loop {
            if host.has_ended() {
                assert!(!died, "{key}: it died again: {:#?}", host.log());
                died = true;
                host = place.start().await;
            }
            match &begun {
                None => begun = story.begin(self, &host, &key).await,
                Some(id) => {
                    if let Some(seen) = story.look(self, &host, id).await {
                        break seen;
                    }
                }
            }
            if Instant::now() > deadline {
                let (path, id) = (story.path(), begun.unwrap_or_default());
                panic!("{key}: it has not ended: {:#?}\n{:#?}", get(self, &host, &format!("{path}/{id}")).await, host.log());
            }
            ticks.tick().await;
        };
        if !died {
            // It may still come by as it stops. What is looked at below is never about to die.
            host.terminate().await;
            died = host.wait().await.code() != Some(0);
            host = place.start().await;
        }
        story.check(self, &host, &seen, &key).await;
        host.stop().await;
        if let Story::Batch = story {
            let store = open(&place.data().join("leadwire.db")).await;
            for delivery in seen["deliveries"].as_array().unwrap().iter().filter(|one| one["channel"] == "test/batch") {
                let given: CredentialId = delivery["credential_id"].as_str().unwrap().parse().unwrap();
                assert!(store.credential(given).await.unwrap().is_none(), "{key}: what was given for one send is still there");
            }
            assert_eq!(store.next_timer().await.unwrap(), None, "{key}");
            store.close().await;
        }
        died
    }

    fn old_url(&self, key: &str) -> String {
        self.sink.url(&format!("/old/{key}"))
    }

    /// Each request for a delivery belongs to an attempt of it.
    async fn no_more_than_attempts(&self, host: &Process, id: &str, tries: usize, key: &str) {
        let (_, delivery) = call(&self.client, "GET", &host.url(&format!("/api/deliveries/{id}")), None).await;
        let outcomes: Vec<_> = delivery["attempts"].as_array().unwrap().iter().map(|one| one["outcome"].as_str().unwrap()).collect();
        let lost = outcomes.iter().filter(|outcome| **outcome == "lost").count();
        assert!(lost <= 1 && outcomes.len() <= tries + lost, "{key}: {delivery:#}");
        if delivery["channel"] == "webhook" {
            let arrived = self.sink.received().iter().filter(|request| request.header("webhook-id") == Some(id)).count();
            assert!((1..=outcomes.len()).contains(&arrived), "{key}: {arrived} arrivals of {delivery:#}");
        }
    }
}

async fn open(file: &std::path::Path) -> SqliteStore {
    SqliteStore::open(file, StoreOptions::default()).await.unwrap()
}

/// What happens while the host dies.
#[derive(Debug, Clone, Copy)]
enum Story {
    /// A lead that fails everywhere, with all that may follow.
    Batch,
    /// Leads that failed are tried again by a task.
    Task,
}

impl Story {
    fn path(self) -> &'static str {
        match self {
            Self::Batch => "/api/batches",
            Self::Task => "/api/tasks",
        }
    }

    fn of(point: Point) -> &'static [Self] {
        match point {
            Point::SliceRows | Point::SliceCursor | Point::SliceDone => &[Self::Task],
            Point::CommitBefore | Point::CommitAfter => &[Self::Batch, Self::Task],
            _ => &[Self::Batch],
        }
    }

    /// A careful client: the same request under one key until it is answered.
    async fn begin(self, world: &World, host: &Process, key: &str) -> Option<String> {
        if let Self::Task = self {
            // All hosts have the same old leads: this one sends them to a place of its own.
            let (url, body) = (host.url(&format!("/api/credentials/{}", world.old)), json!({"config": {"url": world.old_url(key)}}));
            let request = world.client.patch(url).header("x-api-key", ADMIN_KEY).json(&body);
            let answer = request.timeout(PATIENCE).send().await.ok()?;
            assert!([200, 503].contains(&answer.status().as_u16()), "{key}: {}", answer.status());
        }
        let (path, body, id) = match self {
            Self::Batch => {
                let callback = |path: &str| json!([{"url": world.sink.url(path)}]);
                let body = json!({
                    "lead": {"name": "Ann", "project": "ext:shop", "external_id": key},
                    "integrations": [{"type": "webhook", "credential_id": world.crm}, "test/batch"],
                    "credentials": {"test/batch": {"config": {"url": world.sink.url("/inline")}}},
                    "callbacks": {"then": callback("/then"), "catch": callback("/catch"), "finally": callback("/finally")}});
                ("/api/integrations/send-batch", body, "batch_id")
            }
            Self::Task => ("/api/deliveries/retry", json!({"filter": {"status": "failed"}, "rate_per_sec": 8}), "task_id"),
        };
        let request = world.client.post(host.url(path)).header("x-api-key", ADMIN_KEY).header("idempotency-key", key);
        let answer = request.json(&body).timeout(PATIENCE).send().await.ok()?;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.ok()?;
        assert!([202, 409, 503].contains(&status), "{key}: {status} {body}");
        (status == 202).then(|| body[id].as_str().unwrap().to_owned())
    }

    /// What became of it, when all has ended.
    async fn look(self, world: &World, host: &Process, id: &str) -> Option<Value> {
        match self {
            Self::Batch => {
                let batch = get(world, host, &format!("/api/batches/{id}")).await?;
                let delivered = |list: &str, count: usize| {
                    let made = batch[list].as_array().into_iter().flatten();
                    made.filter(|one| one["status"] == "delivered").count() >= count
                };
                let all = delivered("callbacks", 3) && delivered("fallbacks", 1) && delivered("notifications", 1);
                (all && batch["status"] == "failed").then_some(batch)
            }
            Self::Task => {
                let task = get(world, host, &format!("/api/tasks/{id}")).await?;
                let ready = get(world, host, "/readyz").await?;
                (task["status"] == "completed" && ready["backlog"] == 0).then_some(task)
            }
        }
    }

    async fn check(self, world: &World, host: &Process, seen: &Value, key: &str) {
        match self {
            Self::Batch => batch_is_whole(world, host, seen, key).await,
            Self::Task => task_is_whole(world, host, seen, key).await,
        }
    }
}

async fn get(world: &World, host: &Process, path: &str) -> Option<Value> {
    let asked = world.client.get(host.url(path)).header("x-api-key", ADMIN_KEY).timeout(PATIENCE).send().await.ok()?;
    asked.json().await.ok()
}

fn list<'a>(of: &'a Value, name: &str) -> Vec<&'a Value> {
    of[name].as_array().into_iter().flatten().collect()
}

async fn batch_is_whole(world: &World, host: &Process, batch: &Value, key: &str) {
    assert_eq!((&batch["total"], &batch["counts"]["failed"]), (&json!(2), &json!(2)), "{key}: {batch:#}");
    let moments: Vec<_> = list(batch, "callbacks").iter().map(|one| one["event"]["data"]["callback"].as_str().unwrap()).collect();
    assert_eq!(moments, ["then", "catch", "finally"], "{key}: {batch:#}");
    assert_eq!((list(batch, "fallbacks").len(), list(batch, "notifications").len()), (1, 1), "{key}: {batch:#}");
    for made in ["deliveries", "callbacks", "fallbacks", "notifications"].iter().flat_map(|name| list(batch, name)) {
        let tries = if made["credential_id"] == world.crm { 2 } else { 1 };
        world.no_more_than_attempts(host, made["id"].as_str().unwrap(), tries, key).await;
    }
    let leads = get(world, host, "/api/leads?project=ext:shop&limit=50").await.unwrap();
    let own: Vec<_> = list(&leads, "data").into_iter().filter(|lead| lead["external_id"] == key).collect();
    assert_eq!(own.len(), 1, "{key}: {leads:#}");
    assert_eq!((&own[0]["status"], list(&leads, "data").len()), (&json!("failed"), OLD + 1), "{key}");
    // What was told has the batch's own id in it, whoever told it and how often.
    let mut told: HashMap<String, Vec<String>> = HashMap::new();
    for request in world.sink.received() {
        if ["/then", "/catch", "/finally"].contains(&request.path.as_str()) && request.json()["data"]["data"]["batch_id"] == batch["id"] {
            told.entry(request.path.clone()).or_default().push(request.header("webhook-id").unwrap().to_owned());
        }
    }
    assert_eq!(told.len(), 3, "{key}: {told:?}");
    for ids in told.values() {
        assert!(ids.iter().all(|id| *id == ids[0]), "{key}: a repeated callback says that it is one: {told:?}");
    }
}

async fn task_is_whole(world: &World, host: &Process, task: &Value, key: &str) {
    let counts = ["total_count", "done_count", "dispatched_count", "errors_count"].map(|name| task[name].as_u64().unwrap());
    assert_eq!(counts, [OLD as u64, OLD as u64, OLD as u64, 0], "{key}: {task}");
    let delivered = get(world, host, "/api/deliveries?status=delivered&limit=50").await.unwrap();
    assert_eq!(list(&delivered, "data").len(), OLD, "{key}: {delivered:#}");
    for delivery in list(&delivered, "data") {
        let id = delivery["id"].as_str().unwrap();
        let (_, whole) = call(&world.client, "GET", &host.url(&format!("/api/deliveries/{id}")), None).await;
        let outcomes: Vec<_> = list(&whole, "attempts").iter().map(|one| one["outcome"].as_str().unwrap()).collect();
        let lost = outcomes.iter().filter(|outcome| **outcome == "lost").count();
        assert_eq!(outcomes.len(), 1 + lost, "{key}: {whole:#}");
        let arrived = world.sink.received().into_iter().filter(|request| world.old_url(key).ends_with(&request.path));
        let arrived = arrived.filter(|request| request.header("webhook-id") == Some(id)).count();
        assert!((1..=1 + lost).contains(&arrived), "{key}: {arrived} arrivals of {whole:#}");
    }
}

fn passages(point: Point) -> Vec<u32> {
    let all = std::env::var_os("FAULT_ALL").is_some();
    match point {
        Point::CommitBefore | Point::CommitAfter if all => (1..=COMMITS).collect(),
        // What one finds just before a commit, the other finds just after the one before.
        Point::CommitBefore => (1..=COMMITS).step_by(2).collect(),
        Point::CommitAfter => (2..=COMMITS).step_by(2).collect(),
        _ if all => (1..=PASSAGES).collect(),
        _ => vec![1],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_ends_once_between_whichever_two_steps_the_process_dies() {
    let begun = Instant::now();
    let (world, places) = (Arc::new(World::new().await), Arc::new(Semaphore::new(AT_ONCE)));
    let mut walks = JoinSet::new();
    for point in Point::ALL {
        for story in Story::of(*point) {
            let (world, places) = (world.clone(), places.clone());
            walks.spawn(async move {
                let passages = passages(*point);
                let mut deaths = 0;
                for passage in passages {
                    let _place = places.acquire().await.unwrap();
                    if !world.dies(*point, passage, *story).await {
                        break;
                    }
                    deaths += 1;
                }
                assert!(deaths > 0, "{} was never passed: nothing was proved of it", point.name());
                deaths
            });
        }
    }
    let mut deaths = 0;
    while let Some(walked) = walks.join_next().await {
        deaths += walked.unwrap();
    }
    println!("{} points, {deaths} deaths, {:.1} s", Point::ALL.len(), begun.elapsed().as_secs_f64());
}
