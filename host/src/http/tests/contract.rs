use super::*;

#[tokio::test]
async fn errors_of_the_router_itself_are_problems() {
    let host = Host::new().await;
    host.get("/api/nothing").await.problem(404, "not_found");
    let got = host.call("DELETE", "/api/leads", ADMIN, &[], None).await;
    assert!(got.problem(405, "method_not_allowed").headers["allow"].to_str().unwrap().contains("POST"));
    host.get("/api/leads?limit=201").await.problem(422, "invalid_query");
    host.get("/api/leads?limits=1").await.problem(422, "invalid_query");
    host.get("/api/leads?status=done").await.problem(422, "invalid_query");
    host.get("/api/leads?status=done").await.problem(422, "invalid_query").at("/status");
    host.get("/api/deliveries?credential=crd_1").await.problem(422, "invalid_query").at("/credential");
    host.get("/api/batches?q=%21").await.problem(422, "invalid_query").at("/q");
    host.get("/api/leads?external_id=1").await.problem(422, "project_required").at("/external_id");
    host.get("/api/leads?project=ext:nowhere").await.problem(404, "not_found").at("/project");
    host.get("/api/leads/bat_x").await.problem(404, "not_found");
}

#[tokio::test]
async fn a_uuid_v7_of_the_caller_is_kept() {
    let host = Host::new().await;
    let own = "01890a5d-ac96-774b-bcce-b302099a8057";
    assert_eq!(host.call("GET", "/healthz", "", &[("x-request-id", own)], None).await.headers["x-request-id"], own);
    let v4 = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
    let got = host.call("GET", "/healthz", "", &[("x-request-id", v4)], None).await;
    assert_ne!(got.headers["x-request-id"], v4);
}

async fn boom() -> StatusCode {
    panic!("secret words")
}

#[tokio::test]
async fn a_panic_is_a_500_without_its_words() {
    let host = Host::new().await;
    let router: Router = Router::new()
        .route("/boom", axum::routing::get(boom))
        .layer(axum::middleware::from_fn_with_state(host.app.clone(), super::super::frame::frame));
    let broken = Host { router, ..host };
    let got = broken.get("/boom").await;
    assert!(!got.problem(500, "internal").text.contains("secret"));
}

#[tokio::test]
async fn the_document_describes_every_route_and_every_problem() {
    let host = Host::new().await;
    let document = host.get("/openapi.json").await;
    document.ok(200);
    assert!(document.json["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document.json["paths"].as_object().unwrap();
    assert!(paths.len() >= 24, "{}", paths.len());
    for (path, item) in paths {
        let concrete = path.replace("{id}", "x").replace("{external_id}", "x").replace("{channel}", "x").replace("{version}", "x");
        for (method, operation) in item.as_object().unwrap() {
            let request = Request::builder().method(method.to_uppercase().as_str()).uri(&concrete).body(Body::empty()).unwrap();
            let got = host.raw(request).await;
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.contains_key(&got.status.as_u16().to_string()), "{method} {path} gave {}", got.status);
            assert_eq!(got.status.as_u16() == 401, path.starts_with("/api/"), "{method} {path}");
            if path.starts_with("/api/") {
                for status in ["401", "403", "422", "500"] {
                    let kinds = answers[status]["content"].as_object().unwrap();
                    assert!(kinds.contains_key("application/problem+json"), "{method} {path} {status}");
                }
            }
        }
    }
    let mut names = Vec::new();
    references(&document.json, &mut names);
    for name in names {
        let pointer = name.strip_prefix('#').unwrap();
        assert!(document.json.pointer(pointer).is_some(), "{name} leads nowhere");
    }
    assert_eq!(host.get("/docs/").await.ok(200).headers["content-type"], "text/html");
}

#[tokio::test]
async fn every_link_leads_to_an_operation_that_takes_the_id() {
    let host = Host::new().await;
    let document = host.get("/openapi.json").await.json;
    let operations: Vec<_> = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values()).collect();
    let mut targets = std::collections::BTreeSet::new();
    for source in &operations {
        for answer in source["responses"].as_object().unwrap().values() {
            for link in answer["links"].as_object().into_iter().flat_map(|links| links.values()) {
                let target = operations.iter().find(|target| target["operationId"] == link["operationId"]).unwrap();
                let takes = |parameter: &Value| parameter["name"] == "id" && parameter["in"] == "path";
                assert!(target["parameters"].as_array().unwrap().iter().any(takes), "{link}");
                assert!(link["parameters"]["id"].as_str().unwrap().starts_with("$response.body#/"), "{link}");
                targets.insert(link["operationId"].as_str().unwrap());
            }
        }
    }
    // Whatever has an id of the host's own can be come to.
    for (path, item) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.contains("/{id}")) {
        for operation in item.as_object().unwrap().values() {
            assert!(targets.contains(operation["operationId"].as_str().unwrap()), "no link leads to {path}");
        }
    }
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point() {
    let host = Host::new().await;
    host.shop().await;
    let body = |delay| json!({"project": "ext:shop-1", "name": "Ann", "delay_sec": delay});
    host.post("/api/leads", body(json!(60.0))).await.ok(202);
    for wrong in [json!(60.5), json!(-1.0), json!(1e300), json!("60")] {
        host.post("/api/leads", body(wrong)).await.at("/delay_sec");
    }
}

fn references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(name)) = map.get("$ref") {
                names.push(name.clone());
            }
            map.values().for_each(|value| references(value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, names)),
        _ => {}
    }
}
