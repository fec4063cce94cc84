use super::*;

#[tokio::test]
async fn secrets_go_in_and_never_come_out() {
    let host = Host::new().await;
    let (_, telegram) = host.shop().await;
    let path = format!("/api/credentials/{telegram}");
    let shown = host.get(&path).await;
    assert_eq!(shown.ok(200).json["secrets"]["bot_token"]["set"], true);
    assert!(!shown.text.contains("hidden"));
    let stored = host.app.store.credential(telegram.parse().unwrap()).await.unwrap().unwrap();
    let sealed = &stored.secrets["bot_token"];
    let place = format!("{telegram}/bot_token");
    assert_eq!(&host.app.vault.open(&sealed.key_id, place.as_bytes(), &sealed.sealed).unwrap()[..], b"123456:hidden-2");
    let patched = host.call("PATCH", &path, ADMIN, &[], Some(json!({"config": {"text": "Hi"}, "enabled": false}))).await;
    assert_eq!(patched.ok(200).json["config"], json!({"chat_id": 42, "text": "Hi"}));
    assert_eq!((&patched.json["secrets"]["bot_token"]["set"], &patched.json["version"]), (&json!(true), &json!(2)));
    let put = host.call("PUT", &path, ADMIN, &[], Some(json!({"channel": "telegram", "config": {"chat_id": "-100"}}))).await;
    assert_eq!((&put.ok(200).json["enabled"], &put.json["config"]["text"]), (&json!(true), &Value::Null));
    host.call("PATCH", &path, ADMIN, &[], Some(json!({"secrets": {"bot_token": null}})))
        .await
        .problem(422, "required")
        .at("/secrets/bot_token");
    host.call("PUT", &path, ADMIN, &[], Some(json!({"channel": "webhook"}))).await.problem(422, "immutable").at("/channel");
    host.call("DELETE", &path, ADMIN, &[], None).await.ok(204);
    host.get(&path).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_credential_that_cannot_work_is_refused_with_the_place() {
    let host = Host::new().await;
    host.shop().await;
    let secrets = json!({"bot_token": "123456:hidden"});
    for (body, code, pointer) in [
        (json!({"channel": "nope"}), "unknown_integration", "/channel"),
        (json!({"channel": "amocrm"}), "channel_not_installed", "/channel"),
        (json!({"channel": "telegram", "config": {"chat_id": 1}}), "required", "/secrets/bot_token"),
        (json!({"channel": "telegram", "config": {"chat_id": []}, "secrets": secrets}), "invalid_value", "/config/chat_id"),
        (
            json!({"channel": "telegram", "config": {"chat_id": 1}, "secrets": {"bot_token": "short"}}),
            "invalid_secret",
            "/secrets/bot_token",
        ),
        (
            json!({"channel": "telegram", "config": {"chat_id": 1}, "secrets": {"bot_token": "long enough", "x": "y"}}),
            "unknown_secret",
            "/secrets/x",
        ),
        (json!({"channel": "telegram", "config": {"chat_id": 1}, "secrets": secrets, "filter": "lead."}), "invalid_filter", "/filter"),
        (
            json!({"channel": "telegram", "config": {"chat_id": 1}, "secrets": secrets, "mapping": {"A": "{{"}}),
            "invalid_template",
            "/mapping/A",
        ),
        (
            json!({"channel": "telegram", "config": {"chat_id": 1}, "secrets": secrets, "retry": {"schedule": ["x"]}}),
            "invalid_value",
            "/retry/schedule/0",
        ),
        (json!({"channel": "telegram", "secrets": secrets, "retry": {"tries": 3}}), "invalid_value", "/retry"),
        (json!({"channel": "telegram", "secrets": secrets, "retry": ["5s"]}), "wrong_type", "/retry"),
        (json!({"channel": "telegram", "secrets": secrets, "retry": {"tries": "hidden"}}), "wrong_type", "/retry/tries"),
        (json!({"channel": "telegram", "config": {"chat_id": 1}, "secrets": secrets, "chanel": 1}), "unknown_field", "/chanel"),
    ] {
        let got = host.post("/api/projects/ext:shop-1/credentials", body).await;
        got.problem(422, code).at(pointer);
        assert!(!got.text.contains("hidden"));
        for word in ["struct ", "untagged", "u32", "sequence"] {
            assert!(!got.text.contains(word), "{}", got.text);
        }
    }
}

#[tokio::test]
async fn entities_pauses_and_checks() {
    let host = Host::new().await;
    host.shop().await;
    let body = json!({"channel": "webhook", "config": {"url": "https://own.example/"}});
    let own = host.post("/api/entities/landing-7/credentials?project=ext:shop-1", body).await;
    assert_eq!(own.ok(201).json["entity"], "landing-7");
    assert_eq!(host.get("/api/entities/landing-7/credentials?project=ext:shop-1").await.json["data"].as_array().unwrap().len(), 1);
    assert_eq!(host.get("/api/projects/ext:shop-1/credentials").await.json["data"].as_array().unwrap().len(), 3);
    let mut lead = lead();
    lead["entity"] = json!("ext:landing-7");
    let sent = host.post("/api/leads", lead).await;
    let seen: Vec<_> = sent.json["deliveries"].as_array().unwrap().iter().map(|one| one["credential_id"].clone()).collect();
    assert!(seen.len() == 2 && seen.contains(&own.json["id"]), "{}", sent.text);
    let path = format!("/api/credentials/{}", own.str("id"));
    let paused = host.call("POST", &format!("{path}/pause"), ADMIN, &[], None).await;
    assert_eq!((paused.ok(200).str("state").as_str(), &paused.json["state_reason"]["code"]), ("paused", &json!("paused_by_admin")));
    assert_eq!(host.call("POST", &format!("{path}/resume"), ADMIN, &[], None).await.json["state"], "active");
    let checked = host.call("POST", &format!("{path}/check"), ADMIN, &[], None).await;
    assert_eq!(checked.ok(200).json, json!({"ok": false, "code": "credential_invalid", "message": "Unauthorized"}));
}

#[tokio::test]
async fn a_key_sees_nothing_of_another_project() {
    let host = Host::new().await;
    let (webhook, _) = host.shop().await;
    let sent = host.post("/api/leads", lead()).await;
    host.post("/api/projects", json!({"external_id": "other"})).await.ok(201);
    let foreign = host.key(json!({"name": "f", "scopes": ["project:admin"], "project": "ext:other"})).await;
    for path in [
        format!("/api/leads/{}", sent.str("lead_id")),
        format!("/api/batches/{}", sent.str("batch_id")),
        format!("/api/deliveries/{}", sent.json["deliveries"][0]["id"].as_str().unwrap()),
        format!("/api/credentials/{webhook}"),
        "/api/projects/ext:shop-1".into(),
        "/api/projects/ext:shop-1/credentials".into(),
        "/api/leads?project=ext:shop-1".into(),
    ] {
        host.call("GET", &path, &foreign, &[], None).await.problem(404, "not_found");
        host.get(&path).await.ok(200);
    }
    host.call("POST", "/api/leads", &foreign, &[], Some(lead())).await.problem(404, "unknown_project").at("/project");
    let own = host.call("POST", "/api/leads", &foreign, &[], Some(json!({"name": "x"}))).await;
    assert_eq!(own.ok(202).json["status"], "unrouted");
    assert_eq!(host.call("GET", "/api/leads", &foreign, &[], None).await.json["data"].as_array().unwrap().len(), 1);
    assert_eq!(host.call("GET", "/api/projects", &foreign, &[], None).await.json["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn keys_have_scopes_ends_and_are_revoked() {
    let host = Host::new().await;
    host.shop().await;
    host.raw(Request::get("/api/leads").body(Body::empty()).unwrap()).await.problem(401, "key_missing");
    host.call("GET", "/api/leads", "lw_wrong", &[], None).await.problem(401, "key_invalid");
    let made = host
        .post("/api/keys", json!({"name": "w", "scopes": ["leads:write"], "project": "ext:shop-1", "expires_at": "2026-02-01T00:00:00Z"}))
        .await;
    let key = made.ok(201).str("key");
    assert!(key.starts_with("lw_") && key.len() >= 35);
    host.call("GET", "/api/leads", &key, &[], None).await.problem(403, "insufficient_scope");
    let moved = json!({"name": "x", "integrations": [{"type": "webhook", "settings": {"url": "https://elsewhere.example/"}}]});
    host.call("POST", "/api/leads", &key, &[], Some(moved)).await.problem(422, "setting_fixed").at("/integrations/0/settings/url");
    host.call("POST", "/api/leads", &key, &[], Some(json!({"name": "x"}))).await.ok(202);
    host.clock.advance(Duration::from_secs(24 * 3_600));
    host.call("POST", "/api/leads", &key, &[], Some(json!({"name": "y"}))).await.problem(401, "key_expired");
    let key = host.post("/api/keys", json!({"name": "w", "scopes": ["leads:read"]})).await;
    assert!(!host.get("/api/keys").await.ok(200).text.contains(&key.str("key")));
    host.call("GET", "/api/leads", &key.str("key"), &[], None).await.ok(200);
    host.call("DELETE", &format!("/api/keys/{}", key.str("id")), ADMIN, &[], None).await.ok(204);
    host.call("GET", "/api/leads", &key.str("key"), &[], None).await.problem(401, "key_invalid");
    let admin = host.key(json!({"name": "a", "scopes": ["project:admin"], "project": "ext:shop-1"})).await;
    host.call("POST", "/api/keys", &admin, &[], Some(json!({"name": "x", "scopes": ["leads:read"]}))).await.ok(201);
    host.call("POST", "/api/projects", &admin, &[], Some(json!({"external_id": "x"}))).await.problem(403, "insufficient_scope");
    host.app.flush_key_use().await.unwrap();
}

#[tokio::test]
async fn projects_and_channels() {
    let host = Host::new().await;
    host.shop().await;
    let changed = host
        .call("PATCH", "/api/projects/ext:shop-1", ADMIN, &[], Some(json!({"default_region": "KZ", "dedup": {"enabled": false}})))
        .await;
    assert_eq!((changed.ok(200).str("default_region").as_str(), &changed.json["dedup"]["enabled"]), ("KZ", &json!(false)));
    host.post("/api/leads", lead()).await.ok(202);
    host.post("/api/leads", lead()).await.ok(202);
    host.call("PATCH", "/api/projects/ext:shop-1", ADMIN, &[], Some(json!({"default_region": "XX"})))
        .await
        .problem(422, "invalid_region")
        .at("/default_region");
    let list = host.get("/api/channels").await;
    assert_eq!(list.ok(200).json["data"][0]["active_version"], "1.0.0");
    let upload = Request::post("/api/channels").header("x-api-key", ADMIN).body(Body::from("no plugin")).unwrap();
    host.raw(upload).await.problem(422, "plugin_refused");
    host.call("POST", "/api/channels/webhook/versions/1.0.0/activate", ADMIN, &[], None).await.ok(200);
    host.call("DELETE", "/api/channels/webhook/versions/9.0.0", ADMIN, &[], None).await.problem(404, "not_found");
    for n in 0..3 {
        host.post("/api/projects", json!({"external_id": format!("p{n}")})).await.ok(201);
    }
    let page = host.get("/api/projects?limit=3").await;
    assert_eq!(page.ok(200).json["has_more"], true);
    let rest = host.get(&format!("/api/projects?limit=3&cursor={}", page.str("next_cursor"))).await;
    assert_eq!((rest.json["data"].as_array().unwrap().len(), &rest.json["has_more"]), (1, &json!(false)));
}
