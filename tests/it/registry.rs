//! Plugin files that come, go and are broken, while the host runs and over restarts.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::{Options, TestHost, plugin_file};
use serde_json::{Value, json};

const SECTION: &[u8] = b"leadwire:manifest";

/// A plugin file without its manifest, and the manifest.
fn taken_apart(name: &str) -> (Vec<u8>, Value) {
    let mut bytes = std::fs::read(plugin_file(name)).expect("a plugin file");
    let at = bytes.windows(SECTION.len()).rposition(|window| window == SECTION).expect("a manifest");
    let manifest = serde_json::from_slice(&bytes[at + SECTION.len()..]).expect("the manifest is packed last");
    // Before the name: its length, the section's length, and the section's id 0.
    let body = bytes.len() - (at - 1);
    let size_bytes = leb128(body).len();
    assert_eq!(bytes[at - 2 - size_bytes], 0, "a custom section");
    bytes.truncate(at - 2 - size_bytes);
    (bytes, manifest)
}

fn put_together(component: &[u8], manifest: &[u8]) -> Vec<u8> {
    let body = [&[SECTION.len() as u8], SECTION, manifest].concat();
    [component, &[0], &leb128(body.len()), &body].concat()
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// The webhook plugin with another manifest.
fn webhook(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (component, mut manifest) = taken_apart("webhook");
    change(&mut manifest);
    put_together(&component, manifest.to_string().as_bytes())
}

fn webhook_version(version: &str) -> Vec<u8> {
    webhook(|manifest| manifest["version"] = json!(version))
}

/// The webhook plugin with other bytes in place of some of its own, everywhere.
fn webhook_with(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let (mut component, mut manifest) = taken_apart("webhook");
    manifest["version"] = json!("7.0.0");
    let mut found = 0;
    for at in 0..component.len() - from.len() {
        if &component[at..at + from.len()] == from.as_bytes() {
            component[at..at + from.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "{from} is in the plugin");
    put_together(&component, manifest.to_string().as_bytes())
}

async fn host() -> (TestHost, HttpSink) {
    let host = TestHost::with(Options { plugins: vec!["webhook"], ..Options::default() }).await;
    let sink = HttpSink::start().await.unwrap();
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (host, sink)
}

fn channels(host: &TestHost) -> PathBuf {
    host.folder().join("channels")
}

/// As an operator would: written beside, then moved.
fn drop_in(host: &TestHost, name: &str, bytes: &[u8]) {
    let beside = host.folder().join("beside");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(beside, channels(host).join(name)).unwrap();
}

fn version<'a>(seen: &'a Value, file: &str) -> Option<&'a Value> {
    let all = seen["data"].as_array()?.iter().flat_map(|channel| channel["versions"].as_array().into_iter().flatten());
    all.into_iter().find(|version| version["file"] == file)
}

fn is(seen: &Value, file: &str, state: &str) -> bool {
    version(seen, file).is_some_and(|version| version["state"] == state)
}

fn serving(seen: &Value) -> &str {
    let webhook = seen["data"].as_array().unwrap().iter().find(|channel| channel["channel"] == "webhook");
    webhook.and_then(|webhook| webhook["active_version"].as_str()).unwrap_or("none")
}

/// Sends a lead and lets it arrive; the label of the plugin that took it.
async fn deliver(host: &TestHost, phone: u32) -> String {
    let sent = host.send(json!({"name": "Ivan", "phone": format!("+7916{phone:07}")})).await;
    host.idle().await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    delivery["attempts"][0]["plugin"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_refused_with_a_reason_and_the_version_in_service_stays() {
    let (host, _sink) = host().await;
    let (component, manifest) = taken_apart("webhook");
    let greedy = std::fs::read(plugin_file("test_greedy")).unwrap();
    let whole = std::fs::read(plugin_file("webhook")).unwrap();
    let text = manifest.to_string();
    let bad: [(&str, Vec<u8>, &str); 15] = [
        ("text.wasm", b"this is a letter".to_vec(), "not a WebAssembly file"),
        ("empty.wasm", Vec::new(), "not a WebAssembly file"),
        ("core.wasm", b"\0asm\x01\0\0\0".to_vec(), "a core module, not a component"),
        ("bare.wasm", component.clone(), "no manifest"),
        ("twice.wasm", put_together(&put_together(&component, text.as_bytes()), text.as_bytes()), "two manifest sections"),
        ("json.wasm", put_together(&component, b"{\"manifest\":"), "its manifest cannot be read"),
        ("field.wasm", webhook(|m| m["colour"] = json!("red")), "unknown field `colour`"),
        ("contract.wasm", webhook(|m| m["contract"] = json!("2.0")), "contract = \"2.0\": this host speaks 1.0"),
        ("provides.wasm", webhook(|m| m["provides"] = json!(["outbound", "lookup"])), "does not support it"),
        ("greedy.wasm", greedy, "it imports `kv`, which its manifest does not declare"),
        ("unknown.wasm", webhook_with("leadwire:channel/secrets@", "leadwire:channel/secretx@"), "this host (contract 1.0) does not have"),
        ("record.wasm", webhook_with("idempotency-key", "idempotency-kez"), "idempotency-kez"),
        ("large.wasm", vec![0; 33 << 20], "a plugin has at most 33554432"),
        ("half.wasm", whole[..whole.len() / 2].to_vec(), "not a whole WebAssembly file"),
        ("same.wasm", webhook(|m| m["title"] = json!({"en": "Another content"})), "is installed from webhook-1.0.0.wasm already"),
    ];
    for (file, bytes, _) in &bad {
        drop_in(&host, file, bytes);
    }
    let seen = host.until_channels(|seen| bad.iter().all(|(file, _, _)| is(seen, file, "refused"))).await;
    for (file, _, words) in &bad {
        let reason = version(&seen, file).unwrap()["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(words), "{file}: {reason}");
        assert!(reason.len() < 2_000, "{file}: {reason}");
    }
    assert_eq!(serving(&seen), "1.0.0");
    assert_eq!(deliver(&host, 1).await, "webhook@1.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_over_a_good_one_leaves_the_good_one_in_service_over_a_restart() {
    let (host, _sink) = host().await;
    drop_in(&host, "webhook-1.0.0.wasm", b"\0asm\x0d\0\x01\0");
    let seen = host.until_channels(|seen| is(seen, "webhook-1.0.0.wasm", "refused")).await;
    assert_eq!(serving(&seen), "1.0.0");
    assert_eq!(deliver(&host, 1).await, "webhook@1.0.0");
    let host = host.restart().await;
    assert_eq!(serving(&host.get("/api/channels").await), "1.0.0");
    assert_eq!(deliver(&host, 2).await, "webhook@1.0.0");

    // But what the operator took away does not come back by a broken file of its name.
    std::fs::remove_file(channels(&host).join("webhook-1.0.0.wasm")).unwrap();
    host.until_channels(|seen| version(seen, "webhook-1.0.0.wasm").is_none()).await;
    drop_in(&host, "webhook-1.0.0.wasm", b"broken");
    let seen = host.until_channels(|seen| is(seen, "webhook-1.0.0.wasm", "refused")).await;
    assert_eq!(serving(&seen), "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_copy_is_taken_up_when_it_is_whole() {
    let (host, _sink) = host().await;
    let (path, bytes) = (channels(&host).join("webhook-1.1.0.wasm"), webhook_version("1.1.0"));
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let seen = host.until_channels(|seen| is(seen, "webhook-1.1.0.wasm", "refused")).await;
    assert_eq!(serving(&seen), "1.0.0");
    std::fs::write(&path, &bytes).unwrap();
    host.until_channels(|seen| serving(seen) == "1.1.0").await;
    assert_eq!(deliver(&host, 1).await, "webhook@1.1.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_serves_at_once_and_running_calls_end_on_the_old_version() {
    let (host, sink) = host().await;
    let gate = Gate::closed();
    sink.script([Answer::ok().held(&gate)]);
    let running = host.send(json!({"name": "Ivan", "phone": "+79160000001"})).await;
    sink.wait_for(1).await;

    let began = Instant::now();
    drop_in(&host, "webhook-1.0.1.wasm", &webhook_version("1.0.1"));
    let seen = host.until_channels(|seen| serving(seen) == "1.0.1").await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(is(&seen, "webhook-1.0.0.wasm", "standby"), "{seen:#}");

    let next = host.send(json!({"name": "Olga", "phone": "+79160000002"})).await;
    sink.wait_for(2).await;
    gate.open();
    host.idle().await;
    assert_eq!(host.first_delivery(&running).await["attempts"][0]["plugin"], "webhook@1.0.0");
    assert_eq!(host.first_delivery(&next).await["attempts"][0]["plugin"], "webhook@1.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_can_be_put_back_into_service_and_stays_so() {
    let (host, _sink) = host().await;
    let install = async |version: &str| {
        let request = host.request("POST", "/api/channels").body(webhook_version(version));
        let response = request.header("content-type", "application/wasm").send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    assert_eq!(install("1.1.0").await.0, 201);
    assert_eq!(install("1.2.0").await.0, 201);
    assert_eq!(deliver(&host, 1).await, "webhook@1.2.0");
    let (status, body) = host.post("/api/channels/webhook/versions/1.1.0/activate", &json!({})).await;
    assert_eq!((status, &body["state"]), (200, &json!("active")), "{body}");
    assert_eq!(deliver(&host, 2).await, "webhook@1.1.0");
    let host = host.restart().await;
    assert_eq!(deliver(&host, 3).await, "webhook@1.1.0");

    // Taken out of service, and the newest of the others serves.
    let removed = host.request("DELETE", "/api/channels/webhook/versions/1.1.0").send().await.unwrap();
    assert_eq!(removed.status(), 204);
    assert_eq!(deliver(&host, 4).await, "webhook@1.2.0");
    let host = host.restart().await;
    assert_eq!(deliver(&host, 5).await, "webhook@1.2.0");
    let unknown = host.post("/api/channels/webhook/versions/9.9.9/activate", &json!({})).await;
    assert_eq!(unknown.0, 404, "{}", unknown.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_cannot_serve_is_refused_in_its_answer() {
    let (host, _sink) = host().await;
    for (bytes, words) in [
        (b"a letter".to_vec(), "not a WebAssembly file"),
        (webhook(|manifest| manifest["title"] = json!({"en": "Another content"})), "another file is installed as webhook@1.0.0"),
    ] {
        let response = host.request("POST", "/api/channels").header("content-type", "application/wasm").body(bytes).send().await.unwrap();
        assert_eq!(response.status(), 422);
        let problem: Value = response.json().await.unwrap();
        assert!(problem.to_string().contains(words), "{problem}");
    }
    assert_eq!(deliver(&host, 1).await, "webhook@1.0.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leads_wait_for_a_plugin_that_was_taken_away_and_go_out_when_it_is_back() {
    let (host, sink) = host().await;
    let path = channels(&host).join("webhook-1.0.0.wasm");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    host.until_channels(|seen| serving(seen) == "none").await;
    let sent = host.send(json!({"name": "Ivan", "phone": "+79160000001"})).await;
    host.advance(Duration::from_secs(3_600)).await;
    let delivery = host.first_delivery(&sent).await;
    assert_eq!(delivery["status"], "queued", "{delivery:#}");
    assert_eq!(delivery["attempt_count"], 0, "{delivery:#}");
    assert!(sink.received().is_empty());

    drop_in(&host, "webhook-1.0.0.wasm", &bytes);
    sink.wait_for(1).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&sent).await["status"], "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_keeps_of_plugins_is_for_its_user_alone() {
    let (host, _sink) = host().await;
    for folder in ["plugins", "compiled"] {
        let mode = std::fs::metadata(host.folder().join(folder)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
}

#[tokio::test]
async fn what_is_called_wasm_and_is_no_file_says_why_it_does_not_serve() {
    use std::os::unix::ffi::OsStrExt;
    let host = TestHost::with(Options { plugins: vec!["webhook"], ..Options::default() }).await;
    let channels = host.folder().join("channels");
    std::fs::create_dir(channels.join("folder.wasm")).unwrap();
    std::os::unix::fs::symlink("/nowhere/x.wasm", channels.join("link.wasm")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(channels.join("pipe.wasm")).status().unwrap();
    assert!(pipe.success());
    std::fs::write(channels.join(std::ffi::OsStr::from_bytes(b"n\xffme.wasm")), b"x").unwrap();
    let refused = |seen: &Value| {
        let versions = seen["data"].as_array().into_iter().flatten().flat_map(|channel| channel["versions"].as_array().cloned());
        let versions = versions.flatten().filter(|version| version["state"] == "refused");
        let mut found: Vec<(String, String)> = versions
            .map(|version| (version["file"].as_str().unwrap().to_owned(), version["reason"].as_str().unwrap().to_owned()))
            .collect();
        found.sort();
        found
    };
    let found = refused(&host.until_channels(|seen| refused(seen).len() == 4).await);
    for ((file, reason), (wanted, part)) in found.iter().zip([
        ("folder.wasm", "a folder"),
        ("link.wasm", "not there"),
        ("n\u{fffd}me.wasm", "not UTF-8"),
        ("pipe.wasm", "a pipe"),
    ]) {
        assert!(file == wanted && reason.contains(part), "{found:?}");
    }
}
