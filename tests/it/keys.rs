//! Keys as their holders meet them: rotation with an overlap, rates, ends, the last use.

use std::time::Duration;

use leadwire_tests::{ADMIN_KEY, Options, TestHost};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

async fn shop() -> TestHost {
    let host = TestHost::with(Options::default()).await;
    host.project().await;
    host
}

async fn make(host: &TestHost, body: Value) -> (String, String) {
    let (status, made) = host.post("/api/keys", &body).await;
    assert_eq!(status, 201, "{made}");
    (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
}

/// A request with this key: status and code.
async fn with(host: &TestHost, key: &str, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let request = leadwire_tests::client().request(request, host.url(path)).header("authorization", format!("Bearer {key}"));
    host.answer(match body {
        Some(body) => request.json(&body),
        None => request,
    })
    .await
}

async fn works(host: &TestHost, key: &str) -> Value {
    let (status, body) = with(host, key, "GET", "/api/leads", None).await;
    if status == 200 { json!(true) } else { body["code"].clone() }
}

/// What is answered to the header of a request whose body never comes.
async fn header_only(host: &TestHost, key: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(host.host().address).await.unwrap();
    let header = format!("POST /api/leads HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn both_keys_work_until_the_overlap_ends() {
    let host = shop().await;
    let rate = json!({"per_sec": 1000, "burst": 2000});
    let body = json!({"name": "site", "scopes": ["leads:read", "leads:write"], "project": "ext:shop", "rate": rate});
    let (id, old) = make(&host, body).await;
    let path = format!("/api/keys/{id}/rotate");
    let request = || host.request("POST", &path).header("idempotency-key", "once").json(&json!({"overlap_sec": 3600}));
    let (status, made) = host.answer(request()).await;
    assert_eq!(status, 201, "{made}");
    let new = made["key"].as_str().unwrap().to_owned();
    assert_eq!((&made["rotated_from"], &made["rate"], &made["name"]), (&json!(id), &rate, &json!("site")));
    assert_eq!(made["scopes"], json!(["leads:write", "leads:read"]));
    assert_ne!(new, old);
    assert_eq!(host.answer(request()).await, (201, made.clone()), "the same request makes no second key");
    let shown = host.get(&format!("/api/keys/{id}")).await;
    assert_eq!((&shown["replaced_by"], &shown["expires_at"]), (&made["id"], &json!("2026-11-22T11:00:00Z")));
    assert!(!host.get("/api/keys").await.to_string().contains(&new), "a key's text is shown once");

    assert_eq!((works(&host, &old).await, works(&host, &new).await), (json!(true), json!(true)));
    host.clock.advance(3_599 * SECOND);
    assert_eq!(works(&host, &old).await, json!(true));
    // Read a moment ago, and all the same not believed past its end.
    host.clock.advance(SECOND);
    assert_eq!((works(&host, &old).await, works(&host, &new).await), (json!("key_expired"), json!(true)));
}

#[tokio::test]
async fn what_cannot_be_rotated_says_why() {
    let host = shop().await;
    let rotate = async |id: &str, body: Value| {
        let (status, body) = host.post(&format!("/api/keys/{id}/rotate"), &body).await;
        (status, body["code"].clone(), body["id"].as_str().unwrap_or_default().to_owned(), body["key"].clone())
    };
    let (id, old) = make(&host, json!({"name": "a", "scopes": ["leads:read"]})).await;
    assert_eq!(rotate(&id, json!({"overlap_sec": 2_592_001})).await.0, 422);
    assert_eq!(rotate(&id, json!({"expires_at": "2020-01-01T00:00:00Z"})).await.0, 422);
    let (status, _, second, _) = rotate(&id, json!({"overlap_sec": 0})).await;
    assert_eq!((status, works(&host, &old).await), (201, json!("key_expired")), "no overlap: at once");
    assert_eq!(rotate(&id, json!({})).await.1, "key_replaced");
    let (status, _, third, text) = rotate(&second, json!({})).await;
    assert_eq!(status, 201);
    let (status, _) = host.answer(host.request("DELETE", &format!("/api/keys/{third}"))).await;
    assert_eq!((status, works(&host, text.as_str().unwrap()).await), (204, json!("key_invalid")), "revoked: at once");
    assert_eq!(rotate(&third, json!({})).await.1, "key_revoked");

    // One with an end gets an heir that lives as long.
    let (id, _) = make(&host, json!({"name": "b", "scopes": ["leads:read"], "expires_at": "2026-11-24T10:00:00Z"})).await;
    host.clock.advance(DAY);
    let (_, heir) = host.post(&format!("/api/keys/{id}/rotate"), &json!({})).await;
    assert_eq!(heir["expires_at"], "2026-11-25T10:00:00Z");
    assert_eq!(host.get(&format!("/api/keys/{id}")).await["expires_at"], "2026-11-24T10:00:00Z");
    let (id, _) = make(&host, json!({"name": "c", "scopes": ["leads:read"], "expires_at": "2026-11-24T10:00:00Z"})).await;
    host.clock.advance(DAY);
    assert_eq!(rotate(&id, json!({})).await.1, "key_expired");
}

#[tokio::test]
async fn an_admin_of_a_project_makes_and_changes_only_keys_of_it_and_no_mightier_ones() {
    let host = shop().await;
    let (status, _) = host.post("/api/projects", &json!({"external_id": "other"})).await;
    assert_eq!(status, 201);
    let (_, admin) = make(&host, json!({"name": "admin", "scopes": ["project:admin"], "project": "ext:shop"})).await;
    let (foreign, _) = make(&host, json!({"name": "f", "scopes": ["leads:read"], "project": "ext:other"})).await;
    let (platform, _) = make(&host, json!({"name": "p", "scopes": ["platform:admin"]})).await;
    let (status, own) = with(&host, &admin, "POST", "/api/keys", Some(json!({"name": "x", "scopes": ["leads:read"]}))).await;
    assert_eq!((status, own["project"].as_str()), (201, host.get("/api/projects/ext:shop").await["id"].as_str()));
    for (body, expected) in [
        (json!({"name": "x", "scopes": ["leads:read"], "project": "ext:other"}), 404),
        (json!({"name": "x", "scopes": ["platform:admin"]}), 422),
    ] {
        assert_eq!(with(&host, &admin, "POST", "/api/keys", Some(body)).await.0, expected);
    }
    for id in [&foreign, &platform] {
        assert_eq!(with(&host, &admin, "POST", &format!("/api/keys/{id}/rotate"), None).await.0, 404);
        assert_eq!(with(&host, &admin, "DELETE", &format!("/api/keys/{id}"), None).await.0, 404);
    }
    let (_, free) = make(&host, json!({"name": "free", "scopes": ["project:admin"]})).await;
    assert_eq!(with(&host, &free, "POST", &format!("/api/keys/{platform}/rotate"), None).await.0, 403);
    assert_eq!(with(&host, &free, "POST", "/api/keys", Some(json!({"name": "x", "scopes": ["platform:admin"]}))).await.0, 403);
}

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_ask_again() {
    let host = shop().await;
    let body = json!({"name": "a", "scopes": ["leads:write"], "project": "ext:shop", "rate": {"per_sec": 1, "burst": 2}});
    let (_, key) = make(&host, body).await;
    let lead = Some(json!({"name": "Ann"}));
    for expected in [202, 200] {
        assert_eq!(with(&host, &key, "POST", "/api/leads", lead.clone()).await.0, expected);
    }
    // Told from the header: the body, which never comes, is not waited for.
    let refused = header_only(&host, &key).await;
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    for part in ["retry-after: 1\r\n", "content-type: application/problem+json\r\n", "\"code\":\"rate_limited\""] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    host.clock.advance(SECOND);
    assert_eq!(with(&host, &key, "POST", "/api/leads", lead.clone()).await.0, 200);
    assert_eq!(with(&host, &key, "POST", "/api/leads", lead).await.0, 429);
    host.get("/api/leads").await;
}

#[tokio::test]
async fn the_hosts_rate_is_for_keys_without_one_and_the_most_that_a_projects_admin_gives() {
    let settings = vec![("key_rate", "3".to_owned()), ("key_burst", "100".to_owned())];
    let host = TestHost::with(Options { settings, ..Options::default() }).await;
    host.project().await;
    let (_, admin) = make(&host, json!({"name": "admin", "scopes": ["project:admin"], "project": "ext:shop"})).await;
    let asked = |rate: Value| Some(json!({"name": "x", "scopes": ["leads:read"], "rate": rate}));
    let (status, refused) = with(&host, &admin, "POST", "/api/keys", asked(json!({"per_sec": 4, "burst": 9}))).await;
    assert_eq!((status, &refused["errors"][0]["pointer"]), (422, &json!("/rate/per_sec")));
    assert_eq!(with(&host, &admin, "POST", "/api/keys", asked(json!({"per_sec": 3, "burst": 9}))).await.0, 201);
    assert_eq!(with(&host, &admin, "POST", "/api/keys", asked(json!({"per_sec": 0, "burst": 9}))).await.0, 422);
    make(&host, json!({"name": "x", "scopes": ["leads:read"], "rate": {"per_sec": 100_000, "burst": 100_000}})).await;
    for _ in 0..97 {
        assert_eq!(works(&host, &admin).await, json!(true));
    }
    assert_eq!(works(&host, &admin).await, json!("rate_limited"));
}

#[tokio::test]
async fn the_last_use_is_shown_at_once_and_survives_the_host() {
    let host = shop().await;
    let (id, key) = make(&host, json!({"name": "a", "scopes": ["leads:read"]})).await;
    let path = format!("/api/keys/{id}");
    assert_eq!(host.get(&path).await["last_used_at"], Value::Null);
    works(&host, &key).await;
    host.clock.advance(5 * SECOND);
    works(&host, &key).await;
    assert_eq!(host.get(&path).await["last_used_at"], "2026-11-22T10:00:05Z");
    let host = host.restart().await;
    assert_eq!(host.get(&path).await["last_used_at"], "2026-11-22T10:00:05Z");
    assert_eq!(works(&host, "lw_short").await, json!("key_invalid"));
    assert_eq!(works(&host, &ADMIN_KEY.replace("test0", "tests")).await, json!("key_invalid"));
}
