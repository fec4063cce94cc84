//! The guides of `docs/`: their examples do what the page says, run as they stand there.

use std::path::Path;
use std::process::Stdio;

use leadwire::clock::{Clock, SystemClock};
use leadwire_fakes::HttpSink;
use leadwire_tests::client;
use leadwire_tests::process::{Place, Process, call};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, Command};

const CALLBACK_SECRET: &str = "whsec_Y2FsbGJhY2tzLW9mLXRoZS1ndWlkZS1zZWNyZXQ=";

/// The blocks of a page in this language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(file).unwrap();
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(&format!("\n```{language}\n")) {
        let from = &rest[start + language.len() + 5..];
        let end = from.find("\n```").expect("a block ends");
        found.push(from[..end].to_owned());
        rest = &from[end..];
    }
    found
}

/// The block that begins with this file's name.
fn file(page: &str, language: &str, name: &str) -> String {
    let named = |block: &String| block.lines().next().is_some_and(|line| line.ends_with(name));
    blocks(page, language).into_iter().find(named).unwrap_or_else(|| panic!("{page} has no {name}"))
}

/// The shell blocks as one script, with the reader's own address and key in place of the page's.
fn script(page: &str) -> String {
    let own = |line: &&str| !line.starts_with("export LEADWIRE_URL=");
    let script: Vec<String> = blocks(page, "sh").iter().map(|block| block.lines().filter(own).collect::<Vec<_>>().join("\n")).collect();
    format!("set -euo pipefail\n{}\n", script.join("\necho\n"))
}

struct Guide {
    host: Process,
    client: reqwest::Client,
    sink: HttpSink,
    key: String,
    folder: tempfile::TempDir,
    _place: Place,
}

impl Guide {
    /// A host with a project, a credential where its leads go, and a client's key for it.
    async fn start() -> Self {
        let sink = HttpSink::start().await.unwrap();
        let place = Place::new(&["webhook", "telegram", "email"]);
        let host = place.start().await;
        let client = client();
        let make = async |path: &str, body: Value| {
            let (status, made) = call(&client, "POST", &host.url(path), Some(&body)).await;
            assert!(matches!(status, 200 | 201), "{made:#}");
            made
        };
        make("/api/projects", json!({"external_id": "site", "name": "Site"})).await;
        make("/api/projects/ext:site/credentials", json!({"channel": "webhook", "name": "CRM", "config": {"url": sink.url("/crm")}})).await;
        make("/api/projects/ext:site/callback-secret", json!({"secret": CALLBACK_SECRET})).await;
        let key = make("/api/keys", json!({"name": "client", "scopes": ["leads:write", "leads:read"], "project": "ext:site"})).await;
        let key = key["key"].as_str().unwrap().to_owned();
        Self { host, client, sink, key, folder: tempfile::tempdir().unwrap(), _place: place }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path()).env("LEADWIRE_URL", self.host.url("")).env("LEADWIRE_KEY", &self.key);
        command.env("CALLBACK_SECRET", CALLBACK_SECRET).env("RECEIVER", self.sink.url("/admin")).env("PORT", "0");
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it to its end; what it printed.
    async fn run(&self, program: &str, args: &[&str]) -> String {
        let output =
            self.command(program, args).output().await.unwrap_or_else(|error| panic!("{program}: {error}; run `cargo xtask setup`"));
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program}: {}\n{printed}\n{said}", output.status);
        printed.into_owned()
    }

    /// Writes an example of the page into the folder, as its reader would.
    fn save(&self, language: &str, name: &str) -> String {
        std::fs::write(self.folder.path().join(name), file("clients.md", language, name)).unwrap();
        name.to_owned()
    }

    async fn lead(&self, external_id: &str) -> Value {
        let (status, lead) =
            call(&self.client, "GET", &self.host.url(&format!("/api/leads/ext:{external_id}?project=ext:site")), None).await;
        assert_eq!(status, 200, "{lead}");
        lead
    }
}

#[tokio::test]
async fn the_clients_page_sends_leads_by_curl_python_and_php() {
    let guide = Guide::start().await;
    let printed = guide.run("bash", &["-c", &script("clients.md")]).await;
    let answers: Vec<Value> = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said = |at: usize, field: &str| answers[at][field].as_str().unwrap_or_default().to_owned();
    assert_eq!((said(0, "status"), said(1, "external_id"), said(2, "status")), ("accepted".into(), "form-991".into(), "completed".into()));
    for (program, language, name, id) in [("python3", "python", "send_lead.py", "form-992"), ("php", "php", "send_lead.php", "form-993")] {
        let file = guide.save(language, name);
        let first = guide.run(program, &[&file]).await;
        let lead = guide.lead(id).await;
        assert!(first.starts_with(&format!("{} accepted ", lead["id"].as_str().unwrap())) && first.contains("webhook"), "{first}");
        assert_eq!(guide.run(program, &[&file]).await, first, "sent again: the same answer, and no second lead");
    }
    // Four leads, each once, though two were sent twice.
    let requests = guide.sink.wait_for(4).await;
    assert_eq!(requests.len(), 4);
    let ivan = requests.iter().find(|request| String::from_utf8_lossy(&request.body).contains("form-993")).unwrap();
    assert!(String::from_utf8_lossy(&ivan.body).contains("+79161234567"), "the phone is normalised");
    guide.host.stop().await;
}

#[tokio::test]
async fn the_clients_page_tells_a_refused_lead_in_python_and_php() {
    let guide = Guide::start().await;
    for (program, language, name) in [("python3", "python", "send_lead.py"), ("php", "php", "send_lead.php")] {
        let text = file("clients.md", language, name);
        let wrong = text.replace("Grace Hopper", &"x".repeat(300)).replace("Иван Петров", &"x".repeat(300));
        assert_ne!(text, wrong);
        std::fs::write(guide.folder.path().join(name), wrong).unwrap();
        let output = guide.command(program, &[name]).output().await.unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains("refused") && said.contains("/name"), "{said}");
    }
    guide.host.stop().await;
}

/// A receiver of the page in a process of its own, and its address.
async fn receiver(guide: &Guide, program: &str, args: &[&str]) -> (Child, Lines<BufReader<tokio::process::ChildStderr>>, String) {
    // Both write to one stream: the first line with a port, then a line for each callback.
    let script = format!("exec {program} {} 1>&2", args.join(" "));
    let mut child = guide.command("bash", &["-c", &script]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the receiver listens");
        // `listening on 40123`, or `… Development Server (http://127.0.0.1:40123) started`.
        let Some((_, after)) = line.split_once("listening on ").or_else(|| line.split_once("(http://127.0.0.1:")) else { continue };
        let port: String = after.chars().take_while(char::is_ascii_digit).collect();
        return (child, lines, format!("http://127.0.0.1:{port}/"));
    }
}

#[tokio::test]
async fn the_clients_page_verifies_callbacks_in_python_and_php() {
    let guide = Guide::start().await;
    for (program, language, name, args) in [
        ("python3", "python", "callback.py", vec!["callback.py"]),
        ("php", "php", "callback.php", vec!["-S", "127.0.0.1:0", "callback.php"]),
    ] {
        guide.save(language, name);
        let (mut child, mut lines, address) = receiver(&guide, program, &args).await;
        let lead = json!({"project": "ext:site", "external_id": name, "name": "Ada", "callbacks": {"then": [{"url": address}]}});
        let (status, sent) = call(&guide.client, "POST", &guide.host.url("/api/leads"), Some(&lead)).await;
        assert_eq!(status, 202, "{sent:#}");
        loop {
            let line = lines.next_line().await.unwrap().expect("the receiver goes on");
            if line.contains(&format!("batch.completed {name}")) {
                break;
            }
        }
        // Someone else's call, and one with a signature of another key.
        for signature in ["v1,AAAA", "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            let now = SystemClock.now().as_millis() / 1_000;
            let forged = guide.client.post(&address).header("webhook-id", "dlv_1").header("webhook-timestamp", now.to_string());
            let answer = forged.header("webhook-signature", signature).body("{}").send().await.unwrap();
            assert_eq!(answer.status(), 401, "{name}");
        }
        child.kill().await.unwrap();
    }
    guide.host.stop().await;
}

#[tokio::test]
async fn the_admins_page_works_from_top_to_bottom() {
    let mut guide = Guide::start().await;
    guide.key = leadwire_tests::ADMIN_KEY.to_owned();
    let printed = guide.run("bash", &["-c", &script("admins.md")]).await;
    assert!(printed.contains(r#""ok":true"#), "the check: {printed}");
    let (_, credentials) = call(&guide.client, "GET", &guide.host.url("/api/projects/ext:shop-1/credentials"), None).await;
    let credential = &credentials["data"][0];
    assert_eq!((&credential["name"], &credential["state"]), (&json!("Our CRM"), &json!("active")), "{credentials:#}");
    assert_eq!(credential["mapping"]["source"], json!({"const": "site"}));
    let (_, project) = call(&guide.client, "GET", &guide.host.url("/api/projects/ext:shop-1"), None).await;
    assert_eq!((&project["fallbacks"][0]["name"], &project["notifications"][0]["name"]), (&json!("In time"), &json!("Failures")));
    guide.host.stop().await;
}

/// The anchor that a heading gets: lower case, without marks, dashes for spaces.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn every_link_between_the_pages_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md"), root.join("CHANGELOG.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(kind) if kind == "md" => pages.push(path),
                _ => {}
            }
        }
    }
    let (mut seen, mut broken) = (0, Vec::new());
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        for part in text.split("](").skip(1) {
            let link = part.split(')').next().unwrap_or_default();
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            seen += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let found = std::fs::read_to_string(&target).ok();
            let headed = |text: &String| {
                heading.is_empty() || text.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == heading)
            };
            let there = found.as_ref().is_some_and(headed) || (heading.is_empty() && target.exists());
            if !there {
                broken.push(format!("{}: {link}", page.strip_prefix(&root).unwrap_or(page).display()));
            }
        }
    }
    assert!(broken.is_empty() && seen > 10, "{seen} links, broken: {broken:#?}");
}
