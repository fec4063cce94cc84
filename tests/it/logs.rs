//! What an operator sees of the process: log lines, health, signals, exit codes, and the small commands.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::process::{Place, Process, call, parsed, run};
use leadwire_tests::{client, plugin_file};
use serde_json::{Value, json};

const REQUEST_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A host with the project `ext:shop` and a webhook credential that sends to `url`.
async fn with_webhook(place: &Place, url: &str) -> Process {
    let host = place.start().await;
    let client = client();
    call(&client, "POST", &host.url("/api/projects"), Some(&json!({"external_id": "shop", "name": "Shop"}))).await;
    let credential = json!({"channel": "webhook", "name": "Sink", "config": {"url": url}, "secrets": {},
        "retry": {"tries": 2, "base_ms": 1, "max_ms": 1}});
    let (status, body) = call(&client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&credential)).await;
    assert_eq!(status, 201, "{body}");
    host
}

/// Sends a lead under [`REQUEST_ID`] and waits for its batch to end.
async fn send(host: &Process) -> Value {
    let lead = json!({"project": "ext:shop", "name": "Иван Петров", "phone": "+79161234567", "email": "ivan@example.com"});
    let request = client().post(host.url("/api/leads")).header("x-api-key", leadwire_tests::ADMIN_KEY).json(&lead);
    let answer = request.header("x-request-id", REQUEST_ID).header("prefer", "wait=30").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-request-id"].to_str().unwrap()), (200, REQUEST_ID));
    answer.json().await.unwrap()
}

#[tokio::test]
async fn the_request_id_leads_from_the_request_to_each_attempt_and_its_log_lines() {
    let sink = HttpSink::start().await.unwrap();
    sink.script([Answer::status(503)]);
    let place = Place::new(&["webhook"]);
    let host = with_webhook(&place, &sink.url("/hook")).await;
    let sent = send(&host).await;
    let delivery = sent["deliveries"][0]["id"].as_str().unwrap();

    let (_, seen) = call(&client(), "GET", &host.url(&format!("/api/deliveries/{delivery}")), None).await;
    let attempts = seen["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt["correlation"] == REQUEST_ID), "{seen}");

    let lines = parsed(&host.stop().await);
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string()));
    let with_id: Vec<_> = lines.iter().filter(|line| line["correlation"] == REQUEST_ID).collect();
    let accepted: Vec<_> = with_id.iter().filter(|line| line["message"].as_str().unwrap().ends_with("accepted")).collect();
    assert_eq!(accepted.len(), 1, "{with_id:#?}");
    assert_eq!((&accepted[0]["lead.id"], &accepted[0]["batch.id"]), (&sent["lead_id"], &sent["batch_id"]));
    let ended: Vec<_> = with_id.iter().filter(|line| line["delivery.id"] == delivery).collect();
    let outcomes: Vec<_> = ended.iter().map(|line| (line["outcome"].as_str().unwrap(), line["status"].as_str().unwrap())).collect();
    assert_eq!(outcomes, [("retry", "queued"), ("delivered", "delivered")]);
    assert!(ended.iter().all(|line| line["lead.id"] == sent["lead_id"] && line["duration_ms"].is_u64()), "{ended:#?}");
}

#[tokio::test]
async fn pretty_lines_are_for_people() {
    let mut place = Place::new(&[]);
    place.set("LOG_FORMAT", "pretty");
    let host = place.start().await;
    let lines = host.stop().await;
    assert!(lines.iter().any(|line| line.contains("INFO") && line.contains("leadwire takes leads")), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.starts_with('{')));
}

#[tokio::test]
async fn health_is_for_anybody_and_readiness_says_what_is_there() {
    let place = Place::new(&["webhook"]);
    let host = place.start().await;
    let client = client();
    for (path, expected) in [("/healthz", json!({"status": "ok"})), ("/readyz", json!(null))] {
        let answer = client.get(host.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let body: Value = answer.json().await.unwrap();
        assert!(expected.is_null() || body == expected, "{body}");
        assert_eq!(body["status"], "ok");
        if path == "/readyz" {
            assert_eq!((&body["database"], &body["plugins"]), (&json!("ok"), &json!({"active": 1, "refused": 0})));
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn a_stop_lets_the_call_in_flight_end_and_exits_with_0() {
    let (sink, gate) = (HttpSink::start().await.unwrap(), Gate::closed());
    sink.script([Answer::ok().held(&gate)]);
    let place = Place::new(&["webhook"]);
    let mut host = with_webhook(&place, &sink.url("/hook")).await;
    let lead = json!({"project": "ext:shop", "name": "Иван"});
    let (status, sent) = call(&client(), "POST", &host.url("/api/leads"), Some(&lead)).await;
    assert_eq!(status, 202, "{sent}");
    sink.wait_for(1).await;
    host.terminate().await;
    assert!(host.line_with("stopping").await.is_some());
    gate.open();
    assert_eq!(host.wait().await.code(), Some(0), "{:#?}", host.log());

    let host = place.start().await;
    let delivery = sent["deliveries"][0]["id"].as_str().unwrap();
    let (_, seen) = call(&client(), "GET", &host.url(&format!("/api/deliveries/{delivery}")), None).await;
    assert_eq!((&seen["status"], seen["attempts"].as_array().unwrap().len()), (&json!("delivered"), 1), "{seen}");
    host.stop().await;
    assert_eq!(sink.received().len(), 1);
}

/// Starts a host that cannot start; exit code and all it said.
async fn fails(place: &Place) -> String {
    let (code, out, said) = run(&["serve"], &place.env()).await;
    assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
    said
}

#[tokio::test]
async fn a_stop_right_after_or_during_the_start_exits_with_0_too() {
    let place = Place::new(&["webhook"]);
    let mut host = place.spawn();
    assert!(host.line_with("{").await.is_some());
    host.terminate().await;
    assert_eq!(host.wait().await.code(), Some(0), "{:#?}", host.log());
    place.start().await.stop().await;
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_start_is_said_in_words() {
    let place = Place::new(&[]);
    let host = place.start().await;
    let taken = host.url("").trim_start_matches("http://").to_owned();

    let said = fails(&place).await;
    assert!(said.contains("is in use by another leadwire process") && said.contains("stop that one first"), "{said}");

    let mut other = Place::new(&[]);
    other.set("LISTEN", &taken);
    let said = fails(&other).await;
    assert!(said.contains(&format!("cannot listen on {taken}")) && said.contains("LEADWIRE_LISTEN"), "{said}");

    let mut other = Place::new(&[]);
    other.set("LISTEN", "8080");
    let said = fails(&other).await;
    assert!(said.contains("environment LEADWIRE_LISTEN: listen: `8080` does not fit") && said.contains("127.0.0.1:8080"), "{said}");

    let mut other = Place::new(&[]);
    let file = other.data().join("settings.toml");
    std::fs::write(&file, "lissten = \"127.0.0.1:1\"\n").unwrap();
    other.set("CONFIG", file.to_str().unwrap());
    let said = fails(&other).await;
    assert!(said.contains("settings.toml") && said.contains("lissten") && said.contains("there is no such setting"), "{said}");

    let mut other = Place::new(&[]);
    other.set("MASTER_KEY", "c2hvcnQ=");
    let said = fails(&other).await;
    assert!(said.contains("LEADWIRE_MASTER_KEY") && !said.contains("c2hvcnQ"), "{said}");
    host.stop().await;
}

#[tokio::test]
async fn a_slip_in_a_variables_name_is_not_ignored() {
    let mut place = Place::new(&[]);
    place.set("LISTENN", "127.0.0.1:1");
    let said = fails(&place).await;
    assert!(said.contains("LEADWIRE_LISTENN: there is no such setting; did you mean LEADWIRE_LISTEN?"), "{said}");
}

#[tokio::test]
async fn names_and_phones_are_not_readable_by_other_users() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(&[]);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = ["leadwire.db", "leadwire.db-wal", "leadwire.db-shm", "leadwire.db.lock"].map(|name| place.data().join(name));
    // The folder was made with wider rights; later, so were its files.
    std::fs::set_permissions(place.data(), PermissionsExt::from_mode(0o755)).unwrap();
    for start in ["the first start", "a later start"] {
        let host = place.start().await;
        assert_eq!(mode(&place.data()), 0o700, "{start}");
        for file in &files {
            assert_eq!(mode(file), 0o600, "{start}: {}", file.display());
        }
        let said = host.log().join("\n");
        assert!(said.contains("other users could reach") && said.contains("mode 755"), "{said}");
        host.kill().await;
        std::fs::set_permissions(place.data(), PermissionsExt::from_mode(0o755)).unwrap();
        for file in &files {
            std::fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_used_is_named() {
    let mut place = Place::new(&[]);
    let file = place.data().join("file");
    std::fs::write(&file, "").unwrap();
    let folder = file.join("data");
    place.set("DATA_DIR", folder.to_str().unwrap());
    let said = fails(&place).await;
    assert!(said.contains("cannot make the data folder") && said.contains(folder.to_str().unwrap()), "{said}");

    // For root no folder is closed, so this one is where even root may not write.
    place.set("DATA_DIR", "/proc/leadwire");
    let said = fails(&place).await;
    assert!(said.contains("cannot make the data folder /proc/leadwire"), "{said}");
    place.set("DATA_DIR", "/proc");
    let said = fails(&place).await;
    assert!(said.contains("/proc/leadwire.db.lock cannot be opened for writing"), "{said}");
}

#[tokio::test]
async fn the_settings_command_prints_what_the_host_takes() {
    let (code, out, said) = run(&["config"], &[]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(out.contains("listen = \"127.0.0.1:8080\"") && out.contains("# "), "{out}");
    // What was printed is a settings file.
    let mut place = Place::new(&[]);
    let file = place.data().join("settings.toml");
    std::fs::write(&file, out).unwrap();
    place.set("CONFIG", file.to_str().unwrap());
    place.start().await.stop().await;
}

#[tokio::test]
async fn a_key_made_on_the_command_line_opens_the_api() {
    let place = Place::new(&[]);
    let create = ["key", "create", "--name", "intake", "--scope", "leads:write", "--scope", "leads:read"];
    let (code, out, said) = run(&create, &place.env()).await;
    assert_eq!(code, Some(0), "{said}");
    let key = out.trim();
    assert!(key.starts_with("lw_") && key.len() >= 35 && !key.contains(char::is_whitespace), "{out}");
    let host = place.start().await;
    let ask = async |path: &str| client().get(host.url(path)).bearer_auth(key).send().await.unwrap().status().as_u16();
    assert_eq!((ask("/api/leads").await, ask("/api/keys").await), (200, 403));

    let (code, _, said) = run(&create, &place.env()).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("POST /api/keys") && said.contains("in use by another"), "{said}");
    let (code, _, said) = run(&["key", "create", "--name", "x", "--scope", "everything"], &place.env()).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("leads:write"), "{said}");
    host.stop().await;
}

#[tokio::test]
async fn plugin_files_are_listed_looked_into_and_packed() {
    let place = Place::new(&["webhook", "telegram"]);
    let channels = place.data().join("channels");
    std::fs::write(channels.join("broken.wasm"), "not wasm").unwrap();
    let (code, out, said) = run(&["channel", "list"], &place.env()).await;
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("broken.wasm: refused: "), "{out}");
    assert_eq!(lines[1..], ["telegram-1.0.0.wasm: telegram 1.0.0", "webhook-1.0.0.wasm: webhook 1.0.0"]);

    let file = plugin_file("webhook");
    let (code, out, said) = run(&["channel", "inspect", file.to_str().unwrap()], &[]).await;
    assert_eq!(code, Some(0), "{said}");
    for part in ["webhook", "1.0.0", "signing_secret", "http"] {
        assert!(out.contains(part), "{part} in {out}");
    }
    let (code, out, _) = run(&["channel", "inspect", "--json", file.to_str().unwrap()], &[]).await;
    let manifest: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &manifest["channel"]), (Some(0), &json!("webhook")));
    let (code, _, said) = run(&["channel", "inspect", channels.join("broken.wasm").to_str().unwrap()], &[]).await;
    assert_eq!(code, Some(1));
    assert!(said.starts_with("leadwire: ") && said.contains("broken.wasm"), "{said}");
    pack(&place).await;
}

/// Packing what is no plugin says so, and leaves nothing.
async fn pack(place: &Place) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/webhook/plugin.toml");
    let out = place.data().join("packed");
    let args = |module: &str| {
        ["channel", "pack", "--manifest", manifest.to_str().unwrap(), "--out", out.to_str().unwrap(), module].map(str::to_owned)
    };
    let missing = args("/nowhere/webhook.wasm");
    let (code, _, said) = run(&missing.each_ref().map(String::as_str), &[]).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("/nowhere/webhook.wasm: build the plugin first"), "{said}");
    let core = place.data().join("core.wasm");
    std::fs::write(&core, "not wasm").unwrap();
    let empty = args(core.to_str().unwrap());
    let (code, _, said) = run(&empty.each_ref().map(String::as_str), &[]).await;
    assert_eq!(code, Some(1), "text was packed");
    assert!(said.starts_with("leadwire: "), "{said}");
    assert!(!out.exists() || std::fs::read_dir(&out).unwrap().count() == 0);
}

#[tokio::test]
async fn a_master_key_that_opens_none_of_the_secrets_stops_the_start() {
    let place = Place::bare(&["webhook"]);
    let host = place.start().await;
    let admin = std::fs::read_to_string(place.data().join("admin.key")).unwrap();
    let ask = async |path: &str, body: serde_json::Value| {
        let request = leadwire_tests::client().post(host.url(path)).header("x-api-key", admin.trim()).json(&body);
        assert_eq!(request.send().await.unwrap().status(), 201, "{path}");
    };
    ask("/api/projects", serde_json::json!({"external_id": "shop", "name": "Shop"})).await;
    let credential = serde_json::json!({"channel": "webhook", "name": "CRM", "config": {"url": "https://crm.example/"}, "secrets": {"authorization": "Bearer 0123456789"}});
    ask("/api/projects/ext:shop/credentials", credential).await;
    host.stop().await;

    let file = place.data().join("master.key");
    let right = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    for _ in 0..2 {
        let mut refused = place.spawn();
        assert!(!refused.wait().await.success());
        let said = refused.log().join("\n");
        assert!(said.contains("master.key is missing") && said.contains("your copy"), "{said}");
        assert!(!file.exists(), "no other key stands in its place");
    }
    std::fs::write(&file, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
    let mut refused = place.spawn();
    assert!(!refused.wait().await.success());
    let said = refused.log().join("\n");
    assert!(said.contains("sealed with master key") && said.contains("start with the master key"), "{said}");

    std::fs::write(&file, right).unwrap();
    place.start().await.stop().await;
}

#[tokio::test]
async fn the_first_start_makes_two_keys_that_only_the_owner_can_read() {
    let place = Place::bare(&[]);
    let lines = place.start().await.stop().await;
    for name in ["admin.key", "master.key"] {
        let file = place.data().join(name);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        assert!(lines.iter().any(|line| line.contains(name)), "nothing says where {name} is");
        let text = std::fs::read_to_string(file).unwrap();
        assert!(!lines.iter().any(|line| line.contains(text.trim())), "{name} is in the log");
    }
    // The next start takes them.
    place.start().await.stop().await;
}
