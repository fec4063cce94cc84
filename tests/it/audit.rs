//! The audit log: every administrative act is in it, with who did it and what it changed, and no secret is.

use std::collections::BTreeSet;
use std::time::Duration;

use leadwire_tests::{ADMIN_KEY, TestHost, plugin_file};
use serde_json::{Value, json};

/// What changes something and is no administrative act.
const NOT_AUDITED: [(&str, &str); 5] = [
    ("post /api/leads", "a lead comes in; its batch has its request's id"),
    ("post /api/integrations/send-batch", "the same"),
    ("post /api/leads/{id}/resend", "the same for one lead, by those who send them"),
    ("post /api/credentials/{id}/check", "asks the remote side, changes nothing"),
    ("post /api/credentials/{id}/preview", "sends nothing, changes nothing"),
];

/// A host on which acts are done one after the other.
struct Trail {
    host: TestHost,
    done: BTreeSet<String>,
}

impl Trail {
    /// Does it, and finds it as the newest line: the answer and the line.
    async fn act(&mut self, operation: &str, path: &str, body: Option<Value>, action: &str, object: Option<&str>) -> (Value, Value) {
        let method = operation.split(' ').next().unwrap().to_uppercase();
        let request = self.host.request(&method, path);
        self.send(operation, if let Some(body) = body { request.json(&body) } else { request }, action, object).await
    }

    async fn send(&mut self, operation: &str, request: reqwest::RequestBuilder, action: &str, object: Option<&str>) -> (Value, Value) {
        let before = self.newest().await["id"].clone();
        self.host.clock.advance(Duration::from_millis(1));
        let response = request.send().await.unwrap();
        let (status, id) = (response.status().as_u16(), response.headers()["x-request-id"].to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        assert!((200..300).contains(&status), "{operation}: {status} {text}");
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let line = self.newest().await;
        assert_ne!(line["id"], before, "{operation} is not in the audit log");
        let object = object.or(answer["id"].as_str()).or(answer["task_id"].as_str()).unwrap_or_default();
        assert_eq!((&line["action"], &line["object"]["id"]), (&json!(action), &json!(object)), "{line}");
        assert_eq!((&line["request_id"], &line["node"]), (&json!(id), &json!("test")), "{line}");
        assert_eq!((&line["actor"]["name"], &line["actor"]["address"]), (&json!("first admin key"), &json!("127.0.0.1")), "{line}");
        assert!(line["actor"]["key"].as_str().unwrap().starts_with("key_"));
        self.done.insert(operation.to_owned());
        (answer, line)
    }

    async fn newest(&self) -> Value {
        self.host.get("/api/audit?limit=1").await["data"][0].clone()
    }

    async fn credential(&mut self, path: &str, operation: &str, config: Value) -> String {
        let body = json!({"channel": "webhook", "name": "Hook", "config": config, "secrets": {"authorization": "Bearer hidden-1"}});
        let (answer, _) = self.act(operation, path, Some(body), "credential.create", None).await;
        answer["id"].as_str().unwrap().to_owned()
    }
}

fn change(line: &Value, field: &str) -> Value {
    let all = line["changes"].as_array().unwrap();
    all.iter().find(|change| change["field"] == field).cloned().unwrap_or_else(|| panic!("{field} in {line}"))
}

#[tokio::test]
async fn every_operation_that_changes_something_is_in_it() {
    let mut trail = Trail { host: TestHost::start().await, done: BTreeSet::new() };
    let t = &mut trail;
    projects_and_keys(t).await;
    let hook = credentials(t).await;
    deliveries(t, &hook).await;
    t.act("delete /api/credentials/{id}", &format!("/api/credentials/{hook}"), None, "credential.delete", Some(&hook)).await;
    let lead = json!({"project": "ext:shop", "email": "ann@example.com"});
    let (_, line) = t.act("post /api/erasures", "/api/erasures", Some(lead), "person.erase", None).await;
    assert_eq!(change(&line, "/by")["after"], "email");
    channels(t).await;

    let document = t.host.get("/openapi.json").await;
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let changing = item.as_object().unwrap().keys().filter(|method| *method != "get");
        described.extend(changing.map(|method| format!("{method} {path}")));
    }
    let known: BTreeSet<String> = NOT_AUDITED.iter().map(|(operation, _)| (*operation).to_owned()).chain(t.done.iter().cloned()).collect();
    assert_eq!(described, known, "each operation that changes something is either done above and found, or named with a reason");
    let all = t.host.get("/api/audit?limit=200").await.to_string();
    for secret in ["hidden-1", "hidden-2", ADMIN_KEY, "whsec_", "+7916", "ann@example.com"] {
        assert!(!all.contains(secret), "{secret}");
    }
}

async fn projects_and_keys(t: &mut Trail) {
    let body = json!({"external_id": "shop", "name": "Shop"});
    let (shop, line) = t.act("post /api/projects", "/api/projects", Some(body), "project.create", None).await;
    assert_eq!((&line["project"], &change(&line, "/name")["after"]), (&shop["id"], &json!("Shop")));
    let id = shop["id"].as_str();
    let body = json!({"name": "New", "default_region": "KZ"});
    let (_, line) = t.act("patch /api/projects/{id}", "/api/projects/ext:shop", Some(body), "project.update", id).await;
    let expected = json!([
        {"field": "/name", "before": "Shop", "after": "New"}, {"field": "/default_region", "before": "RU", "after": "KZ"}
    ]);
    assert_eq!(line["changes"], expected);
    let path = "/api/projects/ext:shop/callback-secret";
    let operation = "post /api/projects/{id}/callback-secret";
    let (_, line) = t.act(operation, path, Some(json!({})), "project.callback_secret", id).await;
    assert_eq!(change(&line, "/callback_secret/set"), json!({"field": "/callback_secret/set", "before": false, "after": true}));

    let body = json!({"name": "site", "scopes": ["leads:write"], "project": "ext:shop"});
    let (key, _) = t.act("post /api/keys", "/api/keys", Some(body), "key.create", None).await;
    let path = format!("/api/keys/{}", key["id"].as_str().unwrap());
    let rotate = format!("{path}/rotate");
    let (new, line) = t.act("post /api/keys/{id}/rotate", &rotate, None, "key.rotate", key["id"].as_str()).await;
    assert_eq!((&change(&line, "/replaced_by")["after"], &line["project"]), (&new["id"], &shop["id"]));
    let (_, line) = t.act("delete /api/keys/{id}", &path, None, "key.revoke", key["id"].as_str()).await;
    assert!(change(&line, "/revoked_at")["after"].is_string());
    for text in [&key["key"], &new["key"]] {
        assert!(!t.host.get("/api/audit").await.to_string().contains(text.as_str().unwrap()));
    }
}

/// A paused credential of the shop, and a line for each way to write one.
async fn credentials(t: &mut Trail) -> String {
    let operation = "post /api/entities/{external_id}/credentials";
    let config = json!({"url": "https://hook.example/"});
    t.credential("/api/entities/landing/credentials?project=ext:shop", operation, config.clone()).await;
    let hook = t.credential("/api/projects/ext:shop/credentials", "post /api/projects/{id}/credentials", config).await;
    let path = format!("/api/credentials/{hook}");
    let id = Some(hook.as_str());
    let body = json!({"config": {"url": "https://new.example/"}, "secrets": {"authorization": "Bearer hidden-2"}});
    let (_, line) = t.act("patch /api/credentials/{id}", &path, Some(body), "credential.update", id).await;
    let expected = json!([
        {"field": "/config/url", "before": "https://hook.example/", "after": "https://new.example/"},
        {"field": "/secrets/authorization", "before": "set", "after": "set anew"},
    ]);
    assert_eq!(line["changes"], expected);
    let body = json!({"channel": "webhook", "name": "Hook", "config": {"url": "https://hook.example/"}, "filter": "lead.name != ''"});
    let (_, line) = t.act("put /api/credentials/{id}", &path, Some(body), "credential.update", id).await;
    assert_eq!(line["changes"].as_array().unwrap().len(), 2, "{line}");
    let operation = "post /api/credentials/{id}/resume";
    t.act("post /api/credentials/{id}/pause", &format!("{path}/pause"), None, "credential.pause", id).await;
    let (_, line) = t.act(operation, &format!("{path}/resume"), None, "credential.resume", id).await;
    assert_eq!(change(&line, "/state"), json!({"field": "/state", "before": "paused", "after": "active"}));
    t.act("post /api/credentials/{id}/pause", &format!("{path}/pause"), None, "credential.pause", id).await;
    hook
}

async fn deliveries(t: &mut Trail, hook: &str) {
    let mut sent = Vec::new();
    for number in 0..4 {
        let deadline = json!({"project": "ext:shop", "deadline_sec": 1, "integrations": "auto",
            "lead": {"external_id": format!("l{number}"), "name": "Ann", "phone": "+79161234567", "email": "ann@example.com"}});
        let (status, body) = t.host.post("/api/integrations/send-batch", &deadline).await;
        assert_eq!(status, 202, "{body}");
        sent.push(body);
    }
    t.host.advance(Duration::from_secs(2)).await;
    let delivery = sent[0]["deliveries"][0]["id"].as_str().unwrap();
    assert_eq!(t.host.status(delivery).await, "failed");
    let path = format!("/api/deliveries/{delivery}");
    let operation = "post /api/deliveries/{id}/retry";
    let (_, line) = t.act(operation, &format!("{path}/retry"), None, "delivery.retry", Some(delivery)).await;
    assert_eq!(change(&line, "/status"), json!({"field": "/status", "before": "failed", "after": "queued"}));
    t.act("post /api/deliveries/{id}/cancel", &format!("{path}/cancel"), None, "delivery.cancel", Some(delivery)).await;
    let batch = sent[1]["batch_id"].as_str().unwrap();
    t.act("post /api/batches/{id}/cancel", &format!("/api/batches/{batch}/cancel"), None, "batch.cancel", Some(batch)).await;

    let body = json!({"lead_ids": [sent[0]["lead_id"]], "rate_per_sec": 1});
    t.act("post /api/leads/resend", "/api/leads/resend", Some(body), "leads.resend", None).await;
    let filter = json!({"project": "ext:shop", "phone": "+7 916 123-45-67"});
    let body = json!({"filter": filter, "rate_per_sec": 1});
    let (made, line) = t.act("post /api/deliveries/retry", "/api/deliveries/retry", Some(body), "deliveries.retry", None).await;
    assert_eq!(change(&line, "/filter/phone")["after"], "***");
    let task = made["task_id"].as_str().unwrap();
    t.act("post /api/tasks/{id}/cancel", &format!("/api/tasks/{task}/cancel"), None, "task.cancel", Some(task)).await;

    let path = format!("/api/credentials/{hook}");
    let since = json!({"since": "2026-11-22T00:00:00Z"});
    t.act("post /api/credentials/{id}/recover", &format!("{path}/recover"), Some(since), "credential.recover", Some(hook)).await;
    t.host.lead(77).await;
    t.act("post /api/credentials/{id}/cancel", &format!("{path}/cancel"), None, "credential.cancel", Some(hook)).await;
}

async fn channels(t: &mut Trail) {
    let file = plugin_file("telegram");
    let bytes = std::fs::read(&file).unwrap();
    let name = file.file_stem().unwrap().to_string_lossy().replacen('-', "@", 1);
    let request = t.host.request("POST", "/api/channels").header("content-type", "application/wasm").body(bytes);
    let (_, line) = t.send("post /api/channels", request, "channel.upload", Some(&name)).await;
    assert_eq!(line["project"], Value::Null);
    let path = format!("/api/channels/{}", name.replacen('@', "/versions/", 1));
    let operation = "post /api/channels/{channel}/versions/{version}/activate";
    t.act(operation, &format!("{path}/activate"), None, "channel.activate", Some(&name)).await;
    t.act("delete /api/channels/{channel}/versions/{version}", &path, None, "channel.remove", Some(&name)).await;
    t.host.clock.advance(Duration::from_millis(1));
    let (status, refused) = t.host.answer(t.host.request("POST", "/api/channels").body("no plugin")).await;
    assert_eq!(status, 422, "{refused}");
    let line = t.newest().await;
    assert_eq!((&line["action"], &line["object"]["kind"]), (&json!("channel.refuse"), &json!("channel")));
    assert!(change(&line, "/reason")["after"].is_string());
}

#[tokio::test]
async fn it_is_read_by_project_key_act_object_and_time_and_only_by_those_who_may() {
    let mut host = TestHost::start().await;
    // What is done in one millisecond has no order.
    host.clock.advance(Duration::from_millis(1));
    host.project().await;
    host.post("/api/projects", &json!({"external_id": "other"})).await;
    let hook = host.enable("webhook", json!({"url": "https://hook.example/"}), json!({})).await;
    let (_, made) = host.post("/api/keys", &json!({"name": "admin", "scopes": ["project:admin"], "project": "ext:shop"})).await;
    let (_, reader) = host.post("/api/keys", &json!({"name": "r", "scopes": ["leads:read"], "project": "ext:shop"})).await;
    host.key(made["key"].as_str().unwrap());
    host.clock.advance(Duration::from_secs(60));
    host.act(&format!("/api/credentials/{hook}/pause")).await;
    host.patch(&format!("/api/credentials/{hook}"), &json!({"name": "Renamed"})).await;

    let count = async |query: &str| host.get(&format!("/api/audit?{query}")).await["data"].as_array().unwrap().len();
    // The project, its credential, two keys, and the two acts of its own admin; nothing of the other project or the platform.
    assert_eq!(count("").await, 6);
    assert_eq!(count(&format!("key={}", made["id"].as_str().unwrap())).await, 2);
    assert_eq!(count("action=key.create").await, 2);
    assert_eq!(count(&format!("object={hook}")).await, 3);
    assert_eq!(count(&format!("object={hook}&action=credential.pause&project=ext:shop")).await, 1);
    assert_eq!(count("created_after=2026-11-22T10:00:30Z").await, 2);
    assert_eq!(count("created_before=2026-11-22T10:00:30Z").await, 4);
    let page = host.get("/api/audit?limit=4").await;
    let rest = host.get(&format!("/api/audit?limit=4&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((&page["has_more"], rest["data"].as_array().unwrap().len(), &rest["has_more"]), (&json!(true), 2, &json!(false)));
    for (query, status) in
        [("project=ext:other", 404), ("key=key_1", 422), ("action=nothing", 422), ("object=", 422), ("limit=0", 422), ("cursor=x", 422)]
    {
        let (got, body) = host.answer(host.request("GET", &format!("/api/audit?{query}"))).await;
        assert_eq!(got, status, "{query}: {body}");
    }
    host.key(reader["key"].as_str().unwrap());
    assert_eq!(host.answer(host.request("GET", "/api/audit")).await.0, 403);
    host.key(ADMIN_KEY);
    let all = host.get("/api/audit").await;
    let first = all["data"].as_array().unwrap().last().unwrap();
    assert_eq!((&first["action"], &first["actor"]), (&json!("key.create"), &json!({"key": null, "name": "host", "address": null})));
    assert_eq!(all["data"].as_array().unwrap().len(), 8);
}
