//! Auth rules: where secrets go, and what becomes of what the guest put there.

use serde_json::json;

use super::super::*;
use super::support::*;

async fn wire(auth: serde_json::Value, base: &str, request: Request) -> String {
    let server = Server::start(|_| text("200 OK", "")).await;
    let sent = send(&egress("127.0.0.0/8"), &grant(&server.url(base), auth), request).await;
    assert!(sent.result.is_ok(), "{sent:?}");
    server.only_request()
}

#[tokio::test]
async fn a_header_replaces_what_the_guest_set() {
    let request = get("x").with("Authorization", "Bearer mine").with("authorization", "Basic mine").with("x-other", "stays");
    let wire = wire(bearer(), "/", request).await;
    assert!(wire.contains(&format!("authorization: Bearer {TOKEN}\r\n")), "{wire}");
    assert!(!wire.contains("mine") && wire.contains("x-other: stays"), "{wire}");
    assert!(wire.contains("user-agent: Leadwire/") && wire.contains("accept-encoding: identity"), "{wire}");
}

#[tokio::test]
async fn a_header_is_taken_in_every_spelling_a_server_could_read() {
    let auth = json!([{ "name": "a", "default": true, "header": { "x-auth-token": "api-key {secret.token}" } }]);
    let wire = wire(auth, "/", get("x").with("X_Auth_Token", "mine").with("x-auth_token", "mine").with("Authorization", "mine")).await;
    assert!(wire.contains(&format!("x-auth-token: api-key {TOKEN}\r\n")) && !wire.contains("mine"), "{wire}");
}

#[tokio::test]
async fn basic() {
    let auth = json!([{ "name": "a", "default": true, "basic": { "username": "{config.user}", "password": "{secret.token}" } }]);
    let wire = wire(auth, "/", get("x")).await;
    assert!(wire.contains("authorization: Basic Ym9iOjEyMzQ1NjpBQUUtczNjcmV0L3Qwa2Vu\r\n"), "{wire}");
}

#[tokio::test]
async fn query() {
    let auth = json!([{ "name": "a", "default": true, "query": { "api_key": "{secret.token}" } }]);
    for (url, expected) in [
        ("x", "GET /b/x?api_key=123456%3AAAE-s3cret%2Ft0ken "),
        ("x?a=1&api_key=mine&b=%20", "GET /b/x?a=1&b=%20&api_key=123456"),
        ("x?API%5FKEY=mine&api_key[]=mine&%20api.key=mine&api%20key=mine&c=3", "GET /b/x?c=3&api_key=123456"),
        ("x?a=1;api_key=mine", "GET /b/x?api_key=123456"),
        ("x?api_key", "GET /b/x?api_key=123456"),
        ("x?my_api_key=1", "GET /b/x?my_api_key=1&api_key=123456"),
    ] {
        let wire = wire(auth.clone(), "/b/", get(url)).await;
        assert!(wire.starts_with(expected) && !wire.contains("mine"), "{url}: {wire}");
    }
}

#[tokio::test]
async fn a_path_prefix_stands_between_base_and_rest() {
    let auth = json!([{ "name": "a", "default": true, "path_prefix": "bot{secret.token}/" }]);
    for (url, base, expected) in [
        ("/sendMessage?x=1", "/", "GET /bot123456:AAE-s3cret%2Ft0ken/sendMessage?x=1 "),
        ("sendMessage", "/base", "GET /base/bot123456:AAE-s3cret%2Ft0ken/sendMessage "),
        ("", "/base", "GET /base/bot123456:AAE-s3cret%2Ft0ken/ "),
    ] {
        let wire = wire(auth.clone(), base, get(url)).await;
        assert!(wire.starts_with(expected), "{wire}");
    }
}

#[tokio::test]
async fn a_form_field() {
    let auth = json!([{ "name": "a", "default": true, "form": { "api_key": "{secret.token}" } }]);
    let form = |body: &str| post("x", body).with("content-type", "application/x-www-form-urlencoded; charset=UTF-8");
    let sent = wire(auth.clone(), "/", form("a=%D0%B8+%2B&api_key=mine&api%5Fkey%5B%5D=mine")).await;
    assert!(sent.ends_with("\r\n\r\na=%D0%B8+%2B&api_key=123456%3AAAE-s3cret%2Ft0ken"), "{sent}");
    let sent = wire(auth, "/", post("x", "")).await;
    assert!(
        sent.contains("content-type: application/x-www-form-urlencoded\r\n")
            && sent.ends_with("\r\n\r\napi_key=123456%3AAAE-s3cret%2Ft0ken"),
        "{sent}"
    );
}

#[tokio::test]
async fn a_json_pointer() {
    let auth = json!([{ "name": "a", "default": true, "json": { "/auth/to~1ken": "{secret.token}" } }]);
    let body = r#"{"z":1,"auth":{"To/Ken":"mine","to/ken":"mine","x":2},"AUTH":{"to/ken":"mine"},"n":18446744073709551615,"f":0.1}"#;
    let sent = wire(auth.clone(), "/", post("x", body)).await;
    let expected = format!(r#"{{"z":1,"auth":{{"x":2,"to/ken":"{TOKEN}"}},"n":18446744073709551615,"f":0.1}}"#);
    assert!(sent.ends_with(&format!("\r\n\r\n{expected}")), "{sent}");
    let sent = wire(auth, "/", post("x", "")).await;
    assert!(
        sent.contains("content-type: application/json\r\n") && sent.ends_with(&format!(r#"{{"auth":{{"to/ken":"{TOKEN}"}}}}"#)),
        "{sent}"
    );
}

#[tokio::test]
async fn a_body_that_hides_its_fields_is_refused() {
    let server = Server::echo().await;
    let egress = egress("127.0.0.0/8");
    let form = json!([{ "name": "a", "default": true, "form": { "api_key": "{secret.token}" } }]);
    let json = json!([{ "name": "a", "default": true, "json": { "/token": "{secret.token}" } }]);
    for (auth, request) in [
        (&form, post("x", "{}").with("content-type", "application/json")),
        (&form, post("x", "--b").with("content-type", "multipart/form-data; boundary=b")),
        (&json, post("x", "{\"token\":").with("content-type", "application/json")),
        (&json, post("x", "\u{feff}{}")),
        (&json, post("x", "[]")),
        (&json, post("x", "{}").with("content-type", "text/plain")),
    ] {
        // Whether the secret is filled makes no difference.
        for secrets in [&[("token", TOKEN)][..], &[]] {
            let sent = send(&egress, &grant_with(&server.url("/"), auth.clone(), secrets), request.clone()).await;
            assert_eq!(failure(&sent), (FailureKind::Invalid, false), "{request:?}");
        }
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_missing_secret_stops_the_request_when_it_is_required() {
    let server = Server::echo().await;
    let sent =
        send(&egress("127.0.0.0/8"), &grant_with(&server.url("/"), bearer(), &[]), get("x").with("authorization", "Bearer mine")).await;
    assert_eq!(failure(&sent), (FailureKind::NoCredential, false));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_missing_secret_that_is_not_required_leaves_its_place_empty() {
    let server = Server::echo().await;
    let auth = json!([
        { "name": "a", "default": true, "header": { "x-key": "{secret.token}" }, "query": { "k": "{config.user}" } },
        { "name": "b", "json": { "/t": "{secret.token}" } },
        { "name": "c", "form": { "f": "{secret.token}" } },
    ]);
    let grant = grant_with(&server.url("/"), auth, &[("token", "")]);
    let guest = || post("x?k=mine&a=1", r#"{"t":"mine","u":1}"#).with("x-key", "mine").with("authorization", "mine");
    for auth in [None, Some("a"), Some("b")] {
        let sent = send(&egress("127.0.0.0/8"), &grant, Request { auth: auth.map(str::to_owned), ..guest() }).await;
        assert!(sent.result.is_ok(), "{sent:?}");
    }
    for wire in server.requests() {
        assert!(wire.starts_with("POST /x?a=1 ") && wire.ends_with(r#"{"u":1}"#) && !wire.contains("mine"), "{wire}");
    }
}

#[tokio::test]
async fn without_an_auth_rule_the_guests_own_header_stays() {
    let sent = wire(json!([]), "/", get("x").with("authorization", "Bearer revealed")).await;
    assert!(sent.contains("authorization: Bearer revealed"), "{sent}");
}

#[tokio::test]
async fn a_named_rule_must_exist() {
    let sent = send(&egress(""), &grant("http://127.0.0.1/", bearer()), Request { auth: Some("other".into()), ..get("x") }).await;
    assert_eq!(failure(&sent).0, FailureKind::Denied, "the address comes first");
    let sent = send(&egress("127.0.0.1"), &grant("http://127.0.0.1/", bearer()), Request { auth: Some("other".into()), ..get("x") }).await;
    assert_eq!(failure(&sent), (FailureKind::Invalid, false));
}

#[test]
fn rules_that_cannot_work_are_refused_when_the_plugin_is_installed() {
    for (auth, word) in [
        (json!([{ "name": "a", "header": { "x": "{secret.key}" } }]), "inject"),
        (json!([{ "name": "a", "header": { "x": "{secret.other}" } }]), "no secret `other`"),
        (json!([{ "name": "a", "header": { "x": "{config.other}" } }]), "no property `other`"),
        (json!([{ "name": "a", "header": { "x": "{oauth.access_token}" } }]), "OAuth2"),
        (json!([{ "name": "a", "header": { "x": "{fingerprint.token}" } }]), "no meaning"),
        (json!([{ "name": "a", "header": { "Host": "x" } }]), "cannot be set"),
        (json!([{ "name": "a", "header": { "x y": "x" } }]), "no header name"),
        (json!([{ "name": "a" }]), "no place"),
        (json!([{ "name": "a", "json": { "token": "x" } }]), "pointer"),
        (json!([{ "name": "a", "json": { "/a": "x" }, "form": { "a": "x" } }]), "both"),
        (json!([{ "name": "a", "egress": ["other"], "query": { "a": "x" } }]), "no egress rule `other`"),
        (json!([{ "name": "a", "query": { "a": "x" } }, { "name": "a", "query": { "a": "x" } }]), "twice"),
        (
            json!([{ "name": "a", "default": true, "query": { "a": "x" } }, { "name": "b", "default": true, "egress": ["api"], "query": { "a": "x" } }]),
            "default",
        ),
    ] {
        let error = check_rules(&manifest(auth.clone())).unwrap_err().to_string();
        assert!(error.contains(word), "{auth}: {error}");
    }
    assert_eq!(check_rules(&manifest(bearer())), Ok(()));
    let mut secret_in_base = manifest(bearer());
    secret_in_base.egress[0].base = "https://a.test/{secret.token}/".into();
    assert!(check_rules(&secret_in_base).is_err());
}
