//! What the webhook channel sends is accepted by Standard Webhooks' own libraries for Python and Node.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use leadwire_fakes::{HttpSink, Request};
use leadwire_tests::client;
use leadwire_tests::process::{Place, call, judge};
use serde_json::{Value, json};

const SECRET: &str = "whsec_W2T7URdALJ/km5Hf5Kyvk2o/MqygU4SyZBpCXT+mAGc=";
const OLD: &str = "whsec_b2xkIHNlY3JldCBvZiB0aGUgcmVjZWl2ZXIgMDAwMDE=";
const STRANGE: &str = "whsec_bm90IGEgc2VjcmV0IG9mIHRoaXMgcmVjZWl2ZXIgMDE=";

/// What a verifier gets to see of a request.
fn message(request: &Request, secret: &str) -> Value {
    let headers: BTreeMap<_, _> = request.headers.iter().filter(|(name, _)| name.starts_with("webhook-")).cloned().collect();
    json!({"secret": secret, "headers": headers, "body": STANDARD.encode(&request.body)})
}

/// The same request with another body.
fn tampered(request: &Request, secret: &str) -> Value {
    let mut message = message(request, secret);
    let mut body = request.body.to_vec();
    let middle = body.len() / 2;
    body[middle] = if body[middle] == b'a' { b'b' } else { b'a' };
    message["body"] = json!(STANDARD.encode(body));
    message
}

/// The same request under another delivery's id.
fn readdressed(request: &Request, secret: &str) -> Value {
    let mut message = message(request, secret);
    message["headers"]["webhook-id"] = json!("dlv_00000000000000000000000000");
    message
}

#[tokio::test]
async fn the_standard_webhooks_libraries_accept_what_is_sent_and_nothing_else() {
    let sink = HttpSink::start().await.unwrap();
    // The libraries look at the clock, so the host must have the real one.
    let place = Place::new(&["webhook"]);
    let host = place.start().await;
    let client = client();
    call(&client, "POST", &host.url("/api/projects"), Some(&json!({"external_id": "shop", "name": "Shop"}))).await;
    for (path, format, secrets) in [
        ("/json", "json", json!({"signing_secret": SECRET})),
        ("/form", "form", json!({"signing_secret": SECRET})),
        ("/json-two", "json", json!({"signing_secret": SECRET, "signing_secret_previous": OLD})),
        ("/form-two", "form", json!({"signing_secret": SECRET, "signing_secret_previous": OLD})),
    ] {
        let body = json!({"channel": "webhook", "name": path, "config": {"url": sink.url(path), "format": format}, "secrets": secrets});
        let (status, body) = call(&client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&body)).await;
        assert_eq!(status, 201, "{body}");
    }
    for lead in [
        json!({"project": "ext:shop", "name": "Иван Петров", "phone": "8 (916) 123-45-67", "comment": "Перезвонить & \"срочно\" 🙂\n+=%"}),
        json!({"project": "ext:shop", "name": "x"}),
    ] {
        let (status, body) = call(&client, "POST", &host.url("/api/leads"), Some(&lead)).await;
        assert_eq!(status, 202, "{body}");
    }

    let requests = sink.wait_for(8).await;
    let (mut messages, mut expected) = (Vec::new(), Vec::new());
    let mut ask = |message: Value, accepted: bool| {
        messages.push(message);
        expected.push(accepted);
    };
    for request in &requests {
        ask(message(request, SECRET), true);
        ask(message(request, OLD), request.path.ends_with("-two"));
        ask(message(request, STRANGE), false);
        ask(tampered(request, SECRET), false);
        ask(readdressed(request, SECRET), false);
    }
    let messages = Value::Array(messages).to_string();
    for (program, script) in [("python", "python/verify.py"), ("node", "npm/verify.mjs")] {
        let verdicts: Vec<String> = serde_json::from_str(&judge(program, script, &messages).await).unwrap();
        let accepted: Vec<bool> = verdicts.iter().map(|verdict| verdict == "accepted").collect();
        assert_eq!(accepted, expected, "{script}: {verdicts:#?}");
    }
    host.stop().await;
}
