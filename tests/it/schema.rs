//! schemathesis judges the running host by its own OpenAPI document: with every check, with requests that the document
//! allows and such that it forbids, and along its links from what was made to what can be done with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use leadwire_tests::process::{Place, Process, call};
use leadwire_tests::{ADMIN_KEY, client};
use serde_json::json;
use tokio::process::Command;

/// The same requests each time.
const SEED: &str = "20261122";
/// Seconds for each key.
const TIME: &str = "60";
/// Longest time for one, with what it takes to end.
const PATIENCE: Duration = Duration::from_secs(240);

/// Operations whose answer has no end, by the word in their address, and why they are left out.
const ENDLESS: [(&str, &str); 1] = [("/events", "live streams: the judge reads an answer to its end")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What it prints; fails the test unless it found nothing.
async fn judge(host: &Process, key: &str) {
    let (root, folder) = (root(), tempfile::tempdir().unwrap());
    let mut command = Command::new(root.join(".venv/bin/python"));
    command.args(["-m", "schemathesis.cli", "--config-file"]).arg(root.join("tests/schemathesis/schemathesis.toml"));
    command.arg("run").arg(host.url("/openapi.json")).arg("--header").arg(format!("X-API-Key: {key}"));
    // Without `--checks` all are on, but for what the file says; with it, the file would not count.
    command.args(["--seed", SEED, "--max-time", TIME, "--continue-on-failure"]);
    command.args(["--request-timeout", "60", "--output-truncate", "false"]);
    // More than one worker breaks on a defect of Python 3.11 (its parser is not safe between threads).
    command.args(["--workers", "1"]);
    for (word, _) in ENDLESS {
        command.arg("--exclude-path-regex").arg(word);
    }
    // Its scratch files go where nobody looks for them.
    command.current_dir(folder.path()).env("SCHEMATHESIS_HOOKS", root.join("tests/schemathesis/hooks.py"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let advice = "run tests/setup/venv.sh first (cargo xtask test does)";
    let child = command.spawn().unwrap_or_else(|error| panic!("{error}; {advice}"));
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("schemathesis ends").unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}\n{advice}", String::from_utf8_lossy(&output.stderr));
    // Nothing found because nothing was asked would be no verdict.
    let passed = text.lines().find(|line| line.contains(" generated, ") && line.contains(" passed"));
    let count = passed.and_then(|line| line.trim().split(' ').next()?.parse::<u32>().ok()).unwrap_or(0);
    assert!(count > 200, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_answers_as_its_document_says() {
    let mut place = Place::new(&["webhook", "telegram", "email"]);
    place.set("LOG", "warn,leadwire::serve=info");
    let host = place.start().await;
    let client = client();
    call(&client, "POST", &host.url("/api/projects"), Some(&json!({"external_id": "shop", "name": "Shop"}))).await;
    // Paused: its deliveries can be looked at, cancelled and tried again, and nothing leaves the machine.
    let body = json!({"channel": "webhook", "config": {"url": "https://crm.example/leads"}});
    let (status, hook) = call(&client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&body)).await;
    assert_eq!(status, 201, "{hook}");
    call(&client, "POST", &host.url(&format!("/api/credentials/{}/pause", hook["id"].as_str().unwrap())), None).await;
    let body = json!({"name": "shop", "scopes": ["project:admin"], "project": "ext:shop"});
    let (status, made) = call(&client, "POST", &host.url("/api/keys"), Some(&body)).await;
    assert_eq!(status, 201, "{made}");
    // A key of a project first: the platform's also removes plugins.
    for key in [made["key"].as_str().unwrap(), ADMIN_KEY] {
        judge(&host, key).await;
    }
    let log = host.stop().await;
    let defects: Vec<_> = log.iter().filter(|line| line.contains("\"ERROR\"") || line.contains("panicked")).collect();
    assert!(defects.is_empty(), "{defects:#?}");
}
