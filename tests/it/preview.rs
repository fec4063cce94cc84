//! `POST /api/credentials/{id}/preview`: what would be sent for a lead, and nothing is.

use leadwire_fakes::{BotApi, HttpSink, SmtpReceiver};
use leadwire_tests::{Options, TestHost};
use serde_json::{Value, json};

const TOKEN: &str = "123456789:AAEabcdefghijklmnopqrstuvwxyzABCDEF";
const AUTHORIZATION: &str = "Bearer secret-of-the-preview-01";

struct Peers {
    host: TestHost,
    sink: HttpSink,
    bot: BotApi,
    smtp: SmtpReceiver,
}

async fn peers() -> Peers {
    let (sink, bot, smtp) = (HttpSink::start().await.unwrap(), BotApi::start().await.unwrap(), SmtpReceiver::start().await.unwrap());
    let rewrite = vec![("api.telegram.org".into(), bot.base_url())];
    let host = TestHost::with(Options { plugins: vec!["webhook", "telegram", "email"], rewrite, ..Options::default() }).await;
    host.project().await;
    Peers { host, sink, bot, smtp }
}

impl Peers {
    async fn webhook(&self, more: Value) -> String {
        let mut body = json!({"channel": "webhook", "name": "CRM", "config": {"url": self.sink.url("/leads?a=1")},
            "secrets": {"authorization": AUTHORIZATION, "signing_secret": "whsec_bGVhZHdpcmUtcmVhZG1lLXNpZ25pbmctc2VjcmV0"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.host.enable_with(body).await
    }

    async fn preview(&self, id: &str, body: Value) -> Value {
        let (status, found) = self.host.post(&format!("/api/credentials/{id}/preview"), &body).await;
        assert_eq!(status, 200, "{found}");
        for secret in [TOKEN, AUTHORIZATION, "secret-of-the-preview"] {
            assert!(!found.to_string().contains(secret), "{found:#}");
        }
        found
    }

    /// Nothing was sent and nothing was stored.
    async fn untouched(&self) {
        self.host.idle().await;
        assert!(self.sink.received().is_empty() && self.bot.received().is_empty() && self.smtp.received().is_empty());
        assert_eq!(self.host.get("/api/deliveries").await["data"], json!([]));
    }
}

fn header<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    let headers = request["headers"].as_array()?;
    headers.iter().find(|header| header["name"] == name)?["value"].as_str()
}

#[tokio::test]
async fn each_channel_shows_what_it_would_send_and_sends_nothing() {
    let peers = peers().await;
    let lead = json!({"lead": {"title": "Call back", "name": "Ivan", "phone": "8 916 123-45-67", "comment": "in the morning"}});

    let hook = peers.webhook(json!({})).await;
    let found = peers.preview(&hook, lead.clone()).await;
    assert_eq!(found["outcome"], json!({"status": "delivered", "code": null, "message": null}), "{found:#}");
    let request = &found["requests"][0];
    assert_eq!((request["method"].as_str(), request["url"].as_str()), (Some("POST"), Some(peers.sink.url("/leads?a=1").as_str())));
    assert_eq!(header(request, "authorization"), Some("***"), "{request:#}");
    assert!(header(request, "webhook-signature").is_some_and(|signature| signature.starts_with("v1,")), "{request:#}");
    let body: Value = serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
    assert!(body.to_string().contains("+79161234567"), "as normalised at intake: {body:#}");

    let chat = peers.host.enable("telegram", json!({"chat_id": 42, "text": "<b>{{ lead.name }}</b>"}), json!({"bot_token": TOKEN})).await;
    let found = peers.preview(&chat, lead.clone()).await;
    assert_eq!(found["requests"][0]["url"], "https://api.telegram.org/sendMessage");
    assert!(found["requests"][0]["body"].as_str().unwrap().contains("<b>Ivan</b>"), "{found:#}");
    assert_eq!(found["outcome"]["status"], "delivered");

    let config = json!({"host": "127.0.0.1", "port": peers.smtp.addr().port(), "tls": "none", "from": "leads@shop.example", "to": ["a@shop.example"], "cc": ["b@shop.example"]});
    let mail = peers.host.enable("email", config, json!({})).await;
    let found = peers.preview(&mail, lead).await;
    let request = &found["requests"][0];
    assert_eq!(
        (request["method"].as_str(), header(request, "To"), header(request, "Cc")),
        (Some("MAIL"), Some("a@shop.example"), Some("b@shop.example"))
    );
    assert!(header(request, "Subject").unwrap().contains("Call back"), "{found:#}");
    assert!(request["body"].as_str().unwrap().contains("in the morning"), "{found:#}");
    assert_eq!(found["outcome"]["status"], "delivered", "{found:#}");

    peers.untouched().await;
}

#[tokio::test]
async fn every_field_that_cannot_be_rendered_is_named_with_its_line() {
    let peers = peers().await;
    let mapping = json!({"TITLE": "{{ lead.title }}", "SOURCE": {"const": 7}, "SHARE": "one\n{{ 1 // (lead.phones|length) }}",
        "RATE": "{{ 2 // (lead.phones|length) }}"});
    let hook = peers.webhook(json!({"mapping": mapping})).await;
    let found = peers.preview(&hook, json!({"lead": {"title": "T", "email": "a@b.example"}})).await;
    assert_eq!(found["fields"], json!({"TITLE": "T", "SOURCE": 7}));
    let pointers: Vec<_> = found["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/mapping/SHARE", "/mapping/RATE"], "{found:#}");
    assert!(found["errors"][0]["detail"].as_str().unwrap().contains("line 2"), "{found:#}");
    assert_eq!((found["requests"].clone(), found["outcome"].clone()), (json!([]), Value::Null));

    // With another mapping, tried before it is saved.
    let found =
        peers.preview(&hook, json!({"lead": {"title": "T", "email": "a@b.example"}, "mapping": {"NAME": "{{ lead.email }}"}})).await;
    assert_eq!((found["fields"].clone(), found["errors"].clone()), (json!({"NAME": "a@b.example"}), json!([])));
    assert!(found["requests"][0]["body"].as_str().unwrap().contains("NAME"), "{found:#}");
    peers.untouched().await;
}

#[tokio::test]
async fn a_filter_is_shown_at_work() {
    let peers = peers().await;
    let hook = peers.webhook(json!({"filter": "lead.value.number > 10000.0 && lead.origin.utm_source == 'yandex'"})).await;
    let lead = |amount: &str, source: &str| json!({"lead": {"name": "A", "value": {"amount": amount, "currency": "RUB"}, "origin": {"utm_source": source}}});
    let found = peers.preview(&hook, lead("10000.01", "yandex")).await;
    assert_eq!((found["outcome"]["status"].as_str(), found["requests"].as_array().unwrap().len()), (Some("delivered"), 1), "{found:#}");
    for other in [lead("10000.00", "yandex"), lead("20000", "bing")] {
        let found = peers.preview(&hook, other.clone()).await;
        assert_eq!(
            (found["outcome"]["status"].as_str(), found["outcome"]["code"].as_str()),
            (Some("skipped"), Some("filtered")),
            "{found:#}"
        );
        let mut without = other;
        without["filter"] = Value::Null;
        assert_eq!(peers.preview(&hook, without).await["outcome"]["status"], "delivered");
    }
    peers.untouched().await;
}

#[tokio::test]
async fn a_stored_lead_of_the_credentials_own_project_can_be_previewed_and_no_other() {
    let peers = peers().await;
    let hook = peers.webhook(json!({"enabled": false})).await;
    let sent = peers.host.send(json!({"name": "Stored", "external_id": "form-1", "integrations": []})).await;
    let id = sent["lead_id"].as_str().unwrap();
    for lead in [id, "ext:form-1"] {
        let found = peers.preview(&hook, json!({"lead_id": lead})).await;
        assert!(found["requests"][0]["body"].as_str().unwrap().contains("Stored"), "{found:#}");
    }
    let path = format!("/api/credentials/{hook}/preview");
    assert_eq!(peers.host.post("/api/projects", &json!({"external_id": "other", "name": "Other"})).await.0, 201);
    let other = json!({"project": "ext:other", "name": "Foreign", "integrations": []});
    let (_, foreign) = peers.host.post("/api/leads", &other).await;
    for (body, status, pointer) in [
        (json!({"lead_id": foreign["lead_id"]}), 422, "/lead_id"),
        (json!({"lead_id": "lead_x"}), 422, "/lead_id"),
        (json!({}), 422, ""),
        (json!({"lead": {}}), 422, "/lead"),
        (json!({"lead": {"name": "x"}, "mapping": {"A": "{{ x"}}), 422, "/mapping/A"),
        (json!({"lead": {"name": "x"}, "filter": "lead ="}), 422, "/filter"),
    ] {
        let (answered, problem) = peers.host.post(&path, &body).await;
        assert_eq!((answered, problem["errors"][0]["pointer"].as_str()), (status, Some(pointer)), "{body}: {problem}");
    }
}
