//! The OpenAPI document and its page.

use std::collections::BTreeSet;

use leadwire_tests::process::judge;
use leadwire_tests::{Options, TestHost};

async fn text(host: &TestHost, path: &str) -> (String, String) {
    let response = host.request("GET", path).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, response.text().await.unwrap())
}

#[tokio::test]
async fn the_document_is_valid_openapi_3_1_and_names_every_route() {
    let host = TestHost::with(Options::default()).await;
    let (kind, document) = text(&host, "/openapi.json").await;
    assert!(kind.starts_with("application/json"), "{kind}");
    assert_eq!(judge("python", "python/openapi.py", &document).await, "valid");
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    for path in ["/api/leads", "/api/leads/{id}", "/api/integrations/send-batch", "/api/batches/{id}", "/api/deliveries/{id}/retry"] {
        assert!(document["paths"][path].is_object(), "{path} is not described");
    }
}

/// Values of `src` and `href`.
fn references(html: &str) -> BTreeSet<&str> {
    let attributes = ["src=\"", "href=\"", "src='", "href='"];
    let values = attributes.iter().flat_map(|start| html.split(start).skip(1).filter_map(|rest| rest.split(['"', '\'']).next()));
    values.filter(|value| !value.starts_with("data:")).collect()
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let host = TestHost::with(Options::default()).await;
    let response = host.request("GET", "/docs").send().await.unwrap();
    if response.status().is_redirection() {
        assert_eq!(response.headers()["location"], "/docs/");
    }
    let (kind, page) = text(&host, "/docs/").await;
    assert!(kind.starts_with("text/html"), "{kind}");
    let found = references(&page);
    assert!(found.len() >= 3, "{found:?}\n{page}");
    for reference in found {
        assert!(!reference.contains("//"), "{reference} is on another server");
        let path = reference.trim_start_matches("./");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/docs/{path}") };
        text(&host, &path).await;
    }
    let (_, start) = text(&host, "/docs/swagger-initializer.js").await;
    assert!(start.contains("\"/openapi.json\""), "{start}");
    // Swagger UI by itself asks a server on the internet to judge the document.
    assert!(start.contains("\"validatorUrl\": \"none\"") && !start.contains("http"), "{start}");
}
