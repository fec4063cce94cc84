//! A person is erased: a search of the store finds nothing after, and the receipt says where else the data had gone.

use std::path::Path;
use std::time::Duration;

use leadwire_fakes::{Answer, Gate, HttpSink};
use leadwire_tests::{Options, TestHost};
use serde_json::{Value, json};

async fn shop() -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::with(Options { plugins: vec!["webhook"], ..Options::default() }).await;
    host.project().await;
    let id = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (sink, host, id)
}

/// Files of the data folder in which one of these texts stands.
fn standing(folder: &Path, texts: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() || !path.is_file() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let here = texts.iter().filter(|text| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
        found.extend(here.map(|text| format!("{text} in {}", path.display())));
    }
    found
}

/// The receipt once the erasure is completed.
async fn completed(host: &TestHost, receipt: &Value) -> Value {
    let path = format!("/api/erasures/{}", receipt["id"].as_str().unwrap());
    let look = async {
        loop {
            let seen = host.get(&path).await;
            if seen["status"] == "completed" {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.expect("the erasure ends")
}

fn lead(number: u32) -> Value {
    json!({"name": "Пётр Изотермический", "phone": "8 (916) 123-45-67", "email": "petr.izo@example.com", "external_id": format!("form-{number}"),
        "comment": "перезвоните после полуночи", "fields": {"passport": "4509 777666"}})
}

const TEXTS: [&str; 7] = ["9161234567", "123-45-67", "petr.izo", "Изотермический", "полуночи", "777666", "изотермическ"];

#[tokio::test]
async fn a_person_is_erased_by_phone_and_no_byte_is_left() {
    let (sink, host, credential) = shop().await;
    sink.always(Answer::status(500).body("cannot store Пётр Изотермический 9161234567"));
    let first = host.send(lead(1)).await;
    host.idle().await;
    sink.always(Answer::ok());
    host.advance(Duration::from_secs(60)).await;
    assert_eq!(host.first_delivery(&first).await["status"], "delivered");
    let gate = Gate::closed();
    sink.always(Answer::ok().held(&gate));
    host.send(lead(2)).await;
    let other = host.send(json!({"name": "Somebody", "phone": "+7 903 000-00-00"})).await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    host.send(lead(3)).await;
    assert!(!standing(host.folder(), &TEXTS).is_empty());
    let (status, task) = host.post("/api/leads/resend", &json!({"filter": {"phone": "+79161234567"}, "rate_per_sec": 1})).await;
    assert_eq!(status, 202, "{task}");

    let asked = json!({"project": "ext:shop", "phone": "+7 916 1234567"});
    let (status, counted) = host.post("/api/erasures", &json!({"project": "ext:shop", "phone": "89161234567", "dry_run": true})).await;
    assert_eq!(
        (status, &counted["status"], &counted["counts"]["leads"], &counted["id"]),
        (200, &json!("dry_run"), &json!(3), &Value::Null)
    );
    assert_eq!(host.get("/api/leads?phone=89161234567").await["data"].as_array().unwrap().len(), 3, "a dry run does nothing");

    let (status, receipt) = host.post("/api/erasures", &asked).await;
    assert!(status == 200 || status == 202, "{status} {receipt}");
    let receipt = completed(&host, &receipt).await;
    assert_eq!((&receipt["counts"]["leads"], &receipt["by"]), (&json!(3), &json!("phone")), "{receipt}");
    assert_eq!(receipt["counts"]["redacted"], 1, "the task: {receipt}");
    assert_eq!(receipt["received"][0]["credential_id"], json!(credential));
    assert_eq!(receipt["fingerprint"], counted["fingerprint"]);
    assert!(!receipt.to_string().contains("916123"), "{receipt}");
    assert_eq!(standing(host.folder(), &TEXTS), Vec::<String>::new());

    for path in ["/api/leads?phone=89161234567", "/api/leads?email=petr.izo@example.com", "/api/leads?q=Изотермический"] {
        assert_eq!(host.get(path).await["data"], json!([]), "{path}");
    }
    let (status, _) = host.answer(host.request("GET", "/api/leads/ext:form-1?project=ext:shop")).await;
    assert_eq!(status, 404);
    let task = host.get(&format!("/api/tasks/{}", task["task_id"].as_str().unwrap())).await;
    assert_eq!((&task["status"], &task["filter"]), (&json!("cancelled"), &json!({"erased": true})));

    // The calls that ran meanwhile end, and nothing of the person comes back with their answers.
    gate.open();
    host.act(&format!("/api/credentials/{credential}/resume")).await;
    host.advance(Duration::from_secs(600)).await;
    assert_eq!(host.first_delivery(&other).await["status"], "delivered", "everybody else goes on");
    assert_eq!(standing(host.folder(), &TEXTS), Vec::<String>::new());
    let (status, again) = host.post("/api/erasures", &asked).await;
    assert_eq!(status, 200, "{again}");
    assert_eq!((&again["counts"]["leads"], &again["fingerprint"]), (&json!(0), &receipt["fingerprint"]), "safe to ask twice");
    assert_eq!(host.get("/api/erasures").await["data"].as_array().unwrap().len(), 2);
    assert_eq!(host.send(lead(1)).await["duplicate"], false, "who comes again is new");
    let host = host.restart().await;
    assert_eq!(host.get(&format!("/api/erasures/{}", receipt["id"].as_str().unwrap())).await, receipt);
}

#[tokio::test]
async fn many_leads_of_one_person_go_on_after_the_request_and_over_a_restart() {
    let (_sink, host, credential) = shop().await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    for number in 0..1_100 {
        host.send(lead(number)).await;
    }
    let (status, receipt) = host.post("/api/erasures", &json!({"project": "ext:shop", "email": "Petr.Izo@Example.com"})).await;
    assert_eq!((status, &receipt["status"]), (202, &json!("running")), "{receipt}");
    let host = host.restart().await;
    let receipt = completed(&host, &receipt).await;
    assert_eq!((&receipt["counts"]["leads"], &receipt["counts"]["queued"]), (&json!(1_100), &json!(1_100)), "{receipt}");
    assert_eq!(receipt["received"], json!([]), "nothing had been sent");
    assert_eq!(host.get("/api/leads?email=petr.izo@example.com").await["data"], json!([]));
    assert_eq!(standing(host.folder(), &TEXTS), Vec::<String>::new());
}

#[tokio::test]
async fn whoever_waits_for_a_lead_that_is_erased_hears_of_it() {
    let (_sink, host, credential) = shop().await;
    host.act(&format!("/api/credentials/{credential}/pause")).await;
    let waiting =
        host.request("POST", "/api/leads").header("prefer", "wait=60").json(&json!({"project": "ext:shop", "phone": "+79161234567"}));
    let erase = async {
        while host.get("/api/leads?phone=%2B79161234567").await["data"].as_array().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        host.post("/api/erasures", &json!({"project": "ext:shop", "phone": "+79161234567"})).await
    };
    let ((status, answer), (erased, receipt)) = tokio::join!(host.answer(waiting), erase);
    assert_eq!((status, &answer["code"]), (404, &json!("not_found")), "{answer}");
    assert_eq!((erased, &receipt["counts"]["queued"]), (200, &json!(1)), "{receipt}");
}

#[tokio::test]
async fn only_an_admin_of_the_project_erases_and_only_there() {
    let (_sink, mut host, _) = shop().await;
    let sent = host.send(lead(1)).await;
    let id = sent["lead_id"].as_str().unwrap().to_owned();
    host.post("/api/projects", &json!({"external_id": "other", "name": "Other"})).await;
    let key = async |host: &TestHost, project: &str, scopes: &[&str]| {
        let (status, key) = host.post("/api/keys", &json!({"name": "k", "scopes": scopes, "project": project})).await;
        assert_eq!(status, 201, "{key}");
        key["key"].as_str().unwrap().to_owned()
    };
    let theirs = key(&host, "ext:other", &["project:admin"]).await;
    let writer = key(&host, "ext:shop", &["leads:write", "leads:read"]).await;
    for (body, pointer) in [
        (json!({"project": "ext:shop"}), ""),
        (json!({"project": "ext:shop", "phone": "+79161234567", "email": "a@b.example"}), ""),
        (json!({"project": "ext:shop", "phone": "no digits"}), "/phone"),
        (json!({"project": "ext:shop", "email": "nobody"}), "/email"),
    ] {
        let (status, problem) = host.post("/api/erasures", &body).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{problem}");
    }
    let (_, receipt) = host.post("/api/erasures", &json!({"project": "ext:shop", "phone": "+79990001122"})).await;
    let receipt = format!("/api/erasures/{}", receipt["id"].as_str().unwrap());
    host.key(&theirs);
    let (status, _) = host.post("/api/erasures", &json!({"lead_id": id})).await;
    assert_eq!(status, 404, "another project's lead");
    let (status, _) = host.post("/api/erasures", &json!({"project": "ext:shop", "phone": "+79161234567"})).await;
    assert_eq!(status, 404);
    let (status, own) = host.post("/api/erasures", &json!({"phone": "+79161234567"})).await;
    assert_eq!((status, &own["counts"]["leads"]), (200, &json!(0)), "{own}");
    let (status, _) = host.answer(host.request("GET", &receipt)).await;
    assert_eq!(status, 404);
    host.key(&writer);
    let (status, _) = host.post("/api/erasures", &json!({"lead_id": id})).await;
    assert_eq!(status, 403);
    host.key(leadwire_tests::ADMIN_KEY);
    let (status, done) = host.post("/api/erasures", &json!({"project": "ext:shop", "lead_id": "ext:form-1"})).await;
    assert_eq!((status, &done["counts"]["leads"], &done["by"]), (200, &json!(1), &json!("lead_id")), "{done}");
}
