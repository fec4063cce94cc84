//! The page `docs/plugins.md`, followed to the letter: its files are written, tested, built, packed, and dropped into a
//! host that is at work.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use leadwire_fakes::HttpSink;
use leadwire_tests::{Options, TestHost};
use serde_json::json;

/// Leads a second, and for how many seconds.
const RATE: u32 = 200;
const SECONDS: u32 = 5;
/// Longest that a request may take beside the compilation of a plugin, on a machine that runs other tests too.
const PATIENCE: Duration = Duration::from_secs(3);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The files that the page shows, by their title.
fn files_of_the_page() -> Vec<(String, String)> {
    let page = std::fs::read_to_string(repository().join("docs/plugins.md")).unwrap();
    let mut files = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(title) = line.strip_prefix("```").and_then(|line| line.split_once("title=\"")) else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        files.push((title.1.trim_end_matches('"').to_owned(), text.join("\n") + "\n"));
    }
    files
}

/// Follows the page in a folder of its own; the packed plugin.
fn build(folder: &Path) -> PathBuf {
    let repository = repository();
    std::fs::create_dir_all(folder.join("src")).unwrap();
    std::fs::create_dir_all(folder.join("out")).unwrap();
    let mut commands = String::new();
    for (name, text) in files_of_the_page() {
        match name.as_str() {
            "build.sh" => commands = text,
            // The page's folder lies in the repository's; this one does not.
            "Cargo.toml" => std::fs::write(folder.join(name), text.replace("../sdk", &repository.join("sdk").to_string_lossy())).unwrap(),
            _ => std::fs::write(folder.join(name), text).unwrap(),
        }
    }
    // The versions that are on this machine already.
    std::fs::copy(repository.join("plugins/Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let built = repository.join("target/author");
    let programs = ["target/debug", "target/release"].map(|folder| repository.join(folder));
    let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap();
    let commands = commands.replace("../data/channels/", "out/").replace("target/wasm32", &format!("{}/wasm32", built.display()));
    assert!(commands.contains("leadwire channel pack"), "{commands}");
    // As the page says: what `cargo xtask toolchain --exports FILE` writes, where rustup has no such target.
    let exports = std::env::var("LEADWIRE_PLUGIN_EXPORTS").unwrap_or_default();
    let done = Command::new("sh")
        .args(["-e", "-c", &format!("{exports}{commands}")])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", &built)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    folder.join("out/acme_chat-0.1.0.wasm")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_written_by_the_page_is_dropped_in_beside_200_leads_a_second() {
    let author = tempfile::tempdir().unwrap();
    let folder = author.path().to_path_buf();
    let plugin = tokio::task::spawn_blocking(move || build(&folder)).await.unwrap();
    assert!(plugin.is_file(), "the page says how the packed file is called: {}", plugin.display());

    let host = TestHost::with(Options { plugins: vec!["webhook"], ..Options::default() }).await;
    let sink = HttpSink::start().await.unwrap();
    host.project().await;
    host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;

    let mut beat = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut sending = tokio::task::JoinSet::new();
    let began = Instant::now();
    for no in 0..RATE * SECONDS {
        beat.tick().await;
        if no == RATE {
            std::fs::copy(&plugin, host.folder().join("channels/acme_chat-0.1.0.wasm")).unwrap();
        }
        let lead = json!({"project": "ext:shop", "name": "Ivan", "phone": format!("+7916{no:07}"), "integrations": ["webhook"]});
        let request = host.request("POST", "/api/leads").json(&lead);
        sending.spawn(async move {
            let began = Instant::now();
            let status = request.send().await.map(|response| response.status().as_u16());
            (status.unwrap_or(0), began.elapsed())
        });
    }
    let answers = sending.join_all().await;
    let slowest = answers.iter().map(|(_, took)| *took).max().unwrap();
    println!("{} leads in {:?}, the slowest answer after {slowest:?}", answers.len(), began.elapsed());
    assert!(answers.iter().all(|(status, _)| *status == 202), "no request failed");
    assert!(slowest < PATIENCE, "no request was delayed: {slowest:?}");

    // It was taken up while they flowed, and delivers.
    let seen = host.get("/api/channels").await;
    let chat = seen["data"].as_array().unwrap().iter().find(|channel| channel["channel"] == "acme/chat");
    assert_eq!(chat.map(|chat| &chat["active_version"]), Some(&json!("0.1.0")), "{seen:#}");
    host.enable("acme/chat", json!({"url": sink.url("/chat")}), json!({"token": "chat-token-5f3a"})).await;
    let sent = host.send(json!({"name": "Olga", "phone": "+79169999999", "integrations": ["acme/chat"]})).await;
    host.idle().await;
    assert_eq!(host.first_delivery(&sent).await["status"], "delivered");
    let all = sink.received();
    let chat: Vec<_> = all.iter().filter(|request| request.path == "/chat").collect();
    assert_eq!((chat.len(), all.len()), (1, (RATE * SECONDS) as usize + 1));
    assert_eq!(chat[0].header("authorization"), Some("Bearer chat-token-5f3a"));
    assert_eq!(chat[0].json()["text"], "New lead: Olga +79169999999");
}
