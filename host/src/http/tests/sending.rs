use super::*;

#[tokio::test]
async fn a_lead_is_stored_and_queued_for_every_enabled_credential() {
    let host = Host::new().await;
    let (webhook, telegram) = host.shop().await;
    let mut body = lead();
    body["value"] = json!({"amount": "1500.00", "currency": "RUB"});
    body["phone"] = json!("no number");
    body["delay_sec"] = json!(60);
    let got = host.post("/api/leads", body).await;
    got.ok(202);
    assert_eq!(got.json["status"], "accepted");
    assert_eq!(got.json["duplicate"], false);
    let seen: Vec<_> = got.json["deliveries"].as_array().unwrap().iter().map(|one| one["credential_id"].as_str().unwrap()).collect();
    assert_eq!(seen, [&webhook, &telegram]);
    assert_eq!(got.json["deliveries"][0]["due_at"], "2026-01-31T12:01:00.001Z");
    assert_eq!(got.json["warnings"], json!([{"code": "phone_not_understood", "pointer": "/phone"}]));
    assert_eq!(host.lanes.hints.lock().unwrap().len(), 2);
    let place = got.headers["location"].to_str().unwrap().to_owned();
    let shown = host.get(&place).await;
    shown.ok(200);
    assert_eq!(shown.json["id"], got.json["lead_id"]);
    assert_eq!(shown.json["phones"][1]["e164"], "+79161234567");
    assert_eq!(shown.json["value"]["amount"], "1500.00");
    assert_eq!(shown.json["batches"][0]["counts"]["pending"], 2);
    assert_eq!(shown.json["batches"][0]["deliveries"].as_array().unwrap().len(), 2);
    assert_eq!(host.get("/api/leads?status=accepted&limit=1").await.json["data"][0]["id"], got.json["lead_id"]);
}

#[tokio::test]
async fn what_bad_requests_get() {
    let host = Host::with(&[("LEADWIRE_BODY_LIMIT", "20000")]).await;
    let (webhook, _) = host.shop().await;
    for (body, status, code, pointer) in [
        (json!({"project": "ext:shop-1", "naem": "Ivan"}), 422, "unknown_field", "/naem"),
        (json!(["ext:shop-1", null, null, null, "Ivan"]), 422, "wrong_type", ""),
        (json!({"project": "ext:shop-1", "name": "x", "value": ["1500.00", "RUB"]}), 422, "wrong_type", "/value"),
        (json!({"project": "ext:shop-1", "name": "x", "origin": ["https://page.example"]}), 422, "wrong_type", "/origin"),
        (json!({"project": "ext:shop-1", "name": "x", "callbacks": [[], [], []]}), 422, "wrong_type", "/callbacks"),
        (json!({"project": "ext:shop-1", "name": "x", "integrations": [["webhook"]]}), 422, "wrong_type", "/integrations/0"),
        (json!({"project": "ext:shop-1", "name": "x", "delay_sec": "soon"}), 422, "wrong_type", "/delay_sec"),
        (json!({"project": "ext:shop-1", "name": "x", "origin": {"page": "x".repeat(2_049)}}), 422, "invalid_length", "/origin/page"),
        (json!({"project": "ext:shop-1", "name": 7}), 422, "wrong_type", "/name"),
        (json!({"project": "ext:shop-1", "name": "x", "phones": ["1", 2]}), 422, "wrong_type", "/phones/1"),
        (json!({"project": "ext:shop-1", "name": "x", "origin": {"utm": "x"}}), 422, "unknown_field", "/origin/utm"),
        (json!({"project": "ext:shop-1", "name": "x", "value": {"amount": "1"}}), 422, "required", "/value/currency"),
        (json!({"project": "ext:shop-1", "title": "x"}), 422, "no_contact", ""),
        (json!({"project": "ext:shop-1", "name": "x".repeat(256)}), 422, "invalid_length", "/name"),
        (json!({"project": "ext:shop-1", "email": "nobody"}), 422, "invalid_email", "/email"),
        (json!({"project": "ext:none", "name": "x"}), 404, "unknown_project", "/project"),
        (json!({"name": "x"}), 422, "project_required", "/project"),
        (json!({"project": "ext:shop-1", "name": "x", "integrations": ["emial"]}), 422, "unknown_integration", "/integrations/0"),
        (json!({"project": "ext:shop-1", "name": "x", "integrations": "all"}), 422, "invalid_value", "/integrations"),
        (
            json!({"project": "ext:shop-1", "name": "x", "integrations": [{"type": "webhook", "x": 1}]}),
            422,
            "unknown_field",
            "/integrations/0/x",
        ),
        (
            json!({"project": "ext:shop-1", "name": "x", "integrations": [{"type": "telegram", "credential_id": webhook}]}),
            422,
            "credential_mismatch",
            "/integrations/0/credential_id",
        ),
        (
            json!({"project": "ext:shop-1", "name": "x", "integrations": [{"type": "webhook", "settings": {"method": "GET"}}]}),
            422,
            "invalid_value",
            "/integrations/0/settings/method",
        ),
        (json!({"project": "ext:shop-1", "name": "x", "callbacks": {"then": ["crd_x"]}}), 422, "invalid_value", "/callbacks/then/0"),
        (json!({"project": "ext:shop-1", "name": "x", "delay_sec": 2_592_001}), 422, "invalid_value", "/delay_sec"),
        (json!({"project": "ext:shop-1", "name": "x", "delay_sec": 1, "due_at": "2026-02-01T00:00:00Z"}), 422, "invalid_value", "/due_at"),
        (json!({"project": "ext:shop-1", "name": "x", "due_at": "2027-01-01T00:00:00Z"}), 422, "invalid_value", "/due_at"),
        (json!({"project": "ext:shop-1", "name": "x", "deadline_sec": 0}), 422, "invalid_value", "/deadline_sec"),
        (json!({"project": "ext:shop-1", "name": "x", "delay_sec": 60, "deadline_sec": 60}), 422, "invalid_value", "/deadline_sec"),
    ] {
        host.post("/api/leads", body).await.problem(status, code).at(pointer);
    }
    let big = host.post("/api/leads", json!({"project": "ext:shop-1", "comment": "x".repeat(20_000)})).await;
    assert!(big.problem(413, "body_too_large").str("detail").contains("20000"));
    let raw = |kind: &str, body: &str| {
        let request = Request::post("/api/leads").header("authorization", format!("bearer {ADMIN}")).header("content-type", kind);
        request.body(Body::from(body.to_owned())).unwrap()
    };
    host.raw(raw("application/json", "{\"name\":")).await.problem(400, "malformed_json");
    host.raw(raw("application/json; charset=utf-8", "")).await.problem(400, "malformed_json");
    host.raw(raw("text/plain", "{}")).await.problem(415, "unsupported_media_type");
    host.raw(raw("application/json", "{\"name\":7,}")).await.problem(400, "malformed_json");
    let fine = json!({"project": "ext:shop-1", "name": "x", "callbacks": {"then": [], "catch": [], "finally": []}, "integrations": []});
    host.post("/api/leads", fine).await.ok(202);
}

#[tokio::test]
async fn duplicates_unrouted_leads_and_warnings() {
    let host = Host::new().await;
    host.shop().await;
    let first = host.post("/api/leads", lead()).await;
    let mut again = lead();
    again["phones"] = json!(["+7 (916) 123 45 67"]);
    let second = host.post("/api/leads", again.clone()).await;
    second.ok(200);
    assert_eq!((&second.json["duplicate"], &second.json["duplicate_of"]), (&json!(true), &first.json["lead_id"]));
    host.clock.advance(Duration::from_secs(3_601));
    assert_eq!(host.post("/api/leads", again).await.ok(202).json["duplicate"], false);
    let mut own = lead();
    own["external_id"] = json!("form-991");
    let own_first = host.post("/api/leads", own.clone()).await;
    own_first.ok(202);
    own["name"] = json!("Another");
    assert_eq!(host.post("/api/leads", own).await.ok(200).json["duplicate_of"], own_first.json["lead_id"]);
    let shown = host.get("/api/leads/ext:form-991?project=ext:shop-1").await;
    assert_eq!(shown.ok(200).json["id"], own_first.json["lead_id"]);
    host.get("/api/leads/ext:form-991").await.problem(422, "project_required");
    let mut named = lead();
    named["name"] = json!("Named");
    named["external_id"] = json!("n1");
    named["integrations"] = json!(["getresponse", "webhook", {"type": "email", "settings": {"to": ["a@b.ru"]}}]);
    let got = host.post("/api/leads", named).await;
    assert_eq!(got.ok(202).json["deliveries"].as_array().unwrap().len(), 1);
    let wanted =
        json!([{"code": "channel_not_installed", "channel": "getresponse"}, {"code": "channel_not_installed", "channel": "email"}]);
    assert_eq!(got.json["warnings"], wanted);
    host.post("/api/projects", json!({"external_id": "empty"})).await.ok(201);
    let got = host.call("POST", "/api/leads", ADMIN, &[("prefer", "wait=5")], Some(json!({"project": "ext:empty", "name": "x"}))).await;
    assert_eq!((got.ok(202).str("status").as_str(), &got.json["warnings"]), ("unrouted", &json!([{"code": "no_credentials"}])));
    assert_eq!(host.get(&format!("/api/leads/{}", got.str("lead_id"))).await.json["status"], "unrouted");
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again() {
    let host = Host::new().await;
    host.shop().await;
    let headers = [("idempotency-key", "k-1")];
    let first = host.call("POST", "/api/leads", ADMIN, &headers, Some(lead())).await;
    let again = host.call("POST", "/api/leads", ADMIN, &headers, Some(lead())).await;
    assert_eq!((again.ok(202).text.as_str(), &again.headers["idempotent-replayed"]), (first.text.as_str(), &"true".parse().unwrap()));
    assert_eq!(again.headers["location"], first.headers["location"]);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let other = json!({"project": "ext:shop-1", "name": "Other"});
    host.call("POST", "/api/leads", ADMIN, &headers, Some(other.clone())).await.problem(422, "idempotency_key_reused");
    let key = host.key(json!({"name": "other", "scopes": ["leads:write"]})).await;
    host.call("POST", "/api/leads", &key, &headers, Some(other)).await.ok(202);
    host.call("POST", "/api/leads", ADMIN, &[("idempotency-key", "")], Some(lead())).await.problem(400, "invalid_idempotency_key");
    let new = json!({"external_id": "p2"});
    let made = host.call("POST", "/api/projects", ADMIN, &headers, Some(new.clone())).await;
    let again = host.call("POST", "/api/projects", ADMIN, &headers, Some(new.clone())).await;
    assert_eq!(made.ok(201).text, again.ok(201).text);
    host.call("POST", "/api/projects", ADMIN, &[], Some(new)).await.problem(409, "taken").at("/external_id");
    host.clock.advance(Duration::from_secs(24 * 3_600 + 1));
    assert_ne!(host.call("POST", "/api/leads", ADMIN, &headers, Some(lead())).await.ok(202).text, first.text);
}

#[tokio::test]
async fn the_same_key_while_it_runs_is_409() {
    let host = Host::new().await;
    host.shop().await;
    let call = |name: &'static str| {
        let body = json!({"project": "ext:shop-1", "name": name});
        let headers = [("idempotency-key", "k"), ("prefer", "wait=60")];
        let host = &host;
        async move { host.call("POST", "/api/leads", ADMIN, &headers, Some(body)).await }
    };
    let (one, two) = tokio::join!(call("x"), async {
        let got = call("x").await;
        while host.lanes.hints.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        for _ in 0..61 {
            host.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
        got
    });
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409], "{} {}", one.text, two.text);
}

#[tokio::test]
async fn prefer_wait_answers_when_the_batch_ends_or_the_time_is_over() {
    let host = Host::new().await;
    host.shop().await;
    *host.lanes.ends_at_once.lock().unwrap() = true;
    let got = host.call("POST", "/api/leads", ADMIN, &[("prefer", "wait=5")], Some(lead())).await;
    assert_eq!(got.ok(200).headers["preference-applied"], "wait=5");
    *host.lanes.ends_at_once.lock().unwrap() = false;
    let body = json!({"project": "ext:shop-1", "name": "second"});
    let waiting = host.call("POST", "/api/leads", ADMIN, &[("prefer", "wait=300")], Some(body));
    let (got, ()) = tokio::join!(waiting, async {
        while host.lanes.hints.lock().unwrap().len() < 4 {
            tokio::task::yield_now().await;
        }
        for _ in 0..61 {
            host.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(got.ok(202).headers["preference-applied"], "wait=60");
}

#[tokio::test]
async fn batches_and_deliveries_are_cancelled_and_retried() {
    let host = Host::new().await;
    host.shop().await;
    let sent =
        host.post("/api/integrations/send-batch", json!({"project": "ext:shop-1", "lead": {"name": "x"}, "allow_failures": false})).await;
    let batch = format!("/api/batches/{}", sent.ok(202).str("batch_id"));
    assert_eq!(host.get(&batch).await.ok(200).json["allow_failures"], false);
    let delivery = format!("/api/deliveries/{}", sent.json["deliveries"][0]["id"].as_str().unwrap());
    assert_eq!(host.get(&delivery).await.ok(200).json["attempts"], json!([]));
    host.call("POST", &format!("{delivery}/retry"), ADMIN, &[], None).await.problem(409, "not_retryable");
    let headers = [("idempotency-key", "c")];
    let cancelled = host.call("POST", &format!("{delivery}/cancel"), ADMIN, &headers, None).await;
    assert_eq!(cancelled.ok(200).json["status"], "cancelled");
    let again = host.call("POST", &format!("{delivery}/cancel"), ADMIN, &headers, None).await;
    assert_eq!((again.ok(200).text.as_str(), again.headers.contains_key("idempotent-replayed")), (cancelled.text.as_str(), true));
    host.call("POST", &format!("{delivery}/cancel"), ADMIN, &[], None).await.problem(409, "not_cancellable");
    let got = host.call("POST", &format!("{batch}/cancel"), ADMIN, &[], None).await;
    assert_eq!((&got.ok(200).json["cancelled_count"], got.str("status").as_str()), (&json!(1), "cancelled"));
    let retried = host.call("POST", &format!("{delivery}/retry"), ADMIN, &[], None).await;
    assert_eq!(retried.ok(202).json["status"], "queued");
    assert_eq!(host.get("/api/deliveries?status=queued&channel=webhook").await.json["data"].as_array().unwrap().len(), 1);
    host.post("/api/integrations/send-batch", json!({"project": "ext:shop-1"})).await.problem(422, "one_of");
    host.post("/api/integrations/send-batch", json!({"project": "ext:shop-1", "lead": {"email": "x"}}))
        .await
        .problem(422, "invalid_email")
        .at("/lead/email");
    let inline = json!({"project": "ext:shop-1", "lead": {"name": "x"}, "credentials": {"telegram": {}}});
    host.post("/api/integrations/send-batch", inline).await.problem(422, "validation_failed");
}

fn to_callbacks(callbacks: Value) -> Value {
    json!({"project": "ext:shop-1", "name": "x", "callbacks": callbacks})
}

#[tokio::test]
async fn a_callback_that_cannot_work_is_named() {
    let host = Host::new().await;
    let (webhook, telegram) = host.shop().await;
    host.post("/api/projects", json!({"external_id": "other"})).await.ok(201);
    let foreign = json!({"channel": "webhook", "project": "ext:other", "config": {"url": "https://other.example/"}});
    let foreign = host.post("/api/projects/ext:other/credentials", foreign).await.ok(201).str("id");
    for (callbacks, code, pointer) in [
        (json!({"then": [webhook, foreign]}), "unknown_credential", "/callbacks/then/1"),
        (json!({"catch": [{"credential_id": foreign}]}), "unknown_credential", "/callbacks/catch/0"),
        (json!({"finally": [{"url": "https://a.example/", "credential_id": webhook}]}), "one_of", "/callbacks/finally/0"),
        (json!({"finally": [{}]}), "one_of", "/callbacks/finally/0"),
        (json!({"finally": [{"url": "ftp://a.example/"}]}), "invalid_url", "/callbacks/finally/0/url"),
        (json!({"finally": [{"url": "https://me:pass@a.example/"}]}), "invalid_url", "/callbacks/finally/0/url"),
        (json!({"finally": [{"url": "/hooks"}]}), "invalid_url", "/callbacks/finally/0/url"),
        (
            json!({"finally": [{"url": "https://a.example/", "settings": {"method": "PUT"}}]}),
            "invalid_value",
            "/callbacks/finally/0/settings",
        ),
        (json!({"then": [{"credential_id": telegram, "settings": {"chat": 7}}]}), "invalid_value", "/callbacks/then/0/settings"),
        (json!({"then": [{"credential_id": telegram, "template": "{{ event"}]}), "invalid_template", "/callbacks/then/0/template"),
        (json!({"then": vec![&webhook; 11]}), "too_many", "/callbacks/then"),
        (json!({"thn": []}), "unknown_field", "/callbacks/thn"),
        (json!({"then": [{"uri": "https://a.example/"}]}), "unknown_field", "/callbacks/then/0/uri"),
    ] {
        host.post("/api/leads", to_callbacks(callbacks)).await.problem(422, code).at(pointer);
    }
    host.post("/api/leads", to_callbacks(json!({"then": [webhook], "finally": [{"url": "https://a.example/x?y=1"}]}))).await.ok(202);
}

#[tokio::test]
async fn inline_credentials_that_cannot_work_are_named() {
    let host = Host::new().await;
    host.shop().await;
    let body = |credentials: Value| json!({"lead": {"project": "ext:shop-1", "name": "x"}, "integrations": ["telegram"], "credentials": credentials});
    let secrets = json!({"bot_token": "12345678:secret"});
    for (credentials, code, pointer) in [
        (json!({"telegram": {"config": {"chat_id": 7}}}), "required", "/credentials/telegram/secrets/bot_token"),
        (json!({"telegram": {"config": {"chat_id": []}, "secrets": secrets}}), "invalid_value", "/credentials/telegram/config/chat_id"),
        (
            json!({"telegram": {"config": {"chat_id": 7}, "secrets": {"bot_token": "12345678:x", "pin": "1"}}}),
            "unknown_secret",
            "/credentials/telegram/secrets/pin",
        ),
        (
            json!({"telegram": {"config": {"chat_id": 7}, "secrets": secrets}, "webhook": {"config": {"url": "https://x.example"}}}),
            "unused",
            "/credentials/webhook",
        ),
        (json!({"telegram": {"confg": {}}}), "unknown_field", "/credentials/telegram/confg"),
    ] {
        let got = host.post("/api/integrations/send-batch", body(credentials)).await;
        got.problem(422, code).at(pointer);
        assert!(!got.text.contains("12345678"), "{}", got.text);
    }
    host.post("/api/integrations/send-batch", body(json!({"telegram": {"config": {"chat_id": 7}, "secrets": secrets}}))).await.ok(202);
}

#[tokio::test]
async fn the_callback_secret_is_shown_once_and_never_again() {
    let host = Host::new().await;
    host.shop().await;
    let project = "/api/projects/ext:shop-1";
    assert_eq!(host.get(project).await.json["callback_secret"], json!({"set": false, "updated_at": null, "previous_until": null}));
    let made = host.post(&format!("{project}/callback-secret"), json!({})).await;
    let secret = made.ok(200).str("secret");
    assert!(secret.starts_with("whsec_") && made.json["previous_until"].is_null());
    let own = json!({"secret": "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=", "overlap_sec": 60});
    let rotated = host.post(&format!("{project}/callback-secret"), own).await;
    assert_eq!((rotated.ok(200).json.get("secret"), rotated.json["previous_until"].is_string()), (None, true));
    let shown = host.get(project).await;
    assert!(shown.json["callback_secret"]["set"] == true && !shown.text.contains("whsec_"), "{}", shown.text);
    for (body, pointer) in [(json!({"secret": "whsec_short"}), "/secret"), (json!({"overlap_sec": 2_592_001}), "/overlap_sec")] {
        let got = host.post(&format!("{project}/callback-secret"), body).await;
        assert_eq!(got.ok(422).json["errors"][0]["pointer"], pointer);
    }
    let lead = to_callbacks(json!({"then": [{"url": "https://client.example/hooks"}]}));
    host.post("/api/leads", lead).await.ok(202);
    let listed = host.get(&format!("{project}/credentials")).await;
    assert_eq!(listed.json["data"].as_array().unwrap().len(), 2, "the host's own credentials are in no list");
}

#[tokio::test]
async fn a_stored_lead_is_sent_again() {
    let host = Host::new().await;
    host.shop().await;
    let first = host.post("/api/leads", lead()).await;
    let path = format!("/api/leads/{}", first.str("lead_id"));
    host.clock.advance(Duration::from_secs(5));
    let again = host.post(&format!("{path}/resend"), json!({"integration_types": ["webhook"]})).await;
    assert_eq!(again.ok(202).json["lead_id"], first.json["lead_id"]);
    assert_ne!(again.json["batch_id"], first.json["batch_id"]);
    host.post("/api/integrations/send-batch", json!({"lead_id": first.json["lead_id"]})).await.ok(202);
    let shown = host.get(&path).await;
    assert_eq!(shown.json["batches"].as_array().unwrap().len(), 3);
    host.post(&format!("{path}/resend"), json!({"integration_types": ["nope"]}))
        .await
        .problem(422, "unknown_integration")
        .at("/integration_types/0");
}

#[tokio::test]
async fn past_the_backlog_limit_leads_are_429() {
    let host = Host::with(&[("LEADWIRE_MAX_BACKLOG", "1")]).await;
    host.shop().await;
    let got = host.post("/api/leads", lead()).await;
    assert!(got.problem(429, "overloaded").headers.contains_key("retry-after"));
    host.store.close().await;
    let got = host.get("/api/deliveries").await;
    assert!(got.problem(503, "unavailable").headers.contains_key("retry-after"));
    assert_eq!(host.get("/readyz").await.ok(503).json["database"], "unavailable");
}
