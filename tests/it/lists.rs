//! Lists as support people use them: over HTTP, with what a caller says on the telephone.

use leadwire_fakes::HttpSink;
use leadwire_tests::TestHost;
use serde_json::{Value, json};

async fn shop() -> (HttpSink, TestHost, String) {
    let sink = HttpSink::start().await.unwrap();
    let host = TestHost::start().await;
    host.project().await;
    let id = host.enable("webhook", json!({"url": sink.url("/hook")}), json!({})).await;
    (sink, host, id)
}

/// The ids of a page, by field.
fn ids<'a>(page: &'a Value, field: &str) -> Vec<&'a str> {
    page["data"].as_array().unwrap().iter().map(|row| row[field].as_str().unwrap()).collect()
}

fn with(list: &str, query: &[(&str, &str)]) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{list}?{query}")
}

async fn ask(host: &TestHost, list: &str, query: &[(&str, &str)]) -> Value {
    let (status, body) = host.answer(host.request("GET", &with(list, query))).await;
    assert_eq!(status, 200, "{query:?}: {body}");
    body
}

#[tokio::test]
async fn a_person_is_found_by_what_they_say_on_the_telephone() {
    let (_sink, host, credential) = shop().await;
    let ivan = host
        .send(json!({"name": "Пётр Иванов", "phone": "+7 (916) 123-45-67", "email": "Petr@Example.com", "title": "Заявка с сайта",
            "entity": "landing-7", "external_id": "form-1", "fields": {"car": "Lada Vesta"}}))
        .await;
    let ada = host.send(json!({"name": "Ada Lovelace", "phone": "+44 20 7946 0958", "comment": "Перезвоните завтра"})).await;
    host.idle().await;
    host.searchable().await;
    let (ivan_id, ada_id) = (ivan["lead_id"].as_str().unwrap(), ada["lead_id"].as_str().unwrap());
    for (name, value, wanted) in [
        ("phone", "8 916 123 45 67", vec![ivan_id]),
        ("phone", "9161234567", vec![ivan_id]),
        ("phone", "+442079460958", vec![ada_id]),
        ("phone", "+7 916 000-00-00", vec![]),
        ("email", " PETR@example.COM", vec![ivan_id]),
        ("q", "8 (916) 123-45-67", vec![ivan_id]),
        ("q", "petr@example.com", vec![ivan_id]),
        ("q", "петр ЗАЯВКУ", vec![ivan_id]),
        ("q", "lada", vec![ivan_id]),
        ("q", "перезвоните вчера", vec![]),
        ("q", "перезвоните", vec![ada_id]),
        ("q", "\"иванов\" OR lovelace NOT x*", vec![]),
        ("entity", "landing-7", vec![ivan_id]),
        ("external_id", "form-1", vec![ivan_id]),
        ("channel", "webhook", vec![ada_id, ivan_id]),
        ("channel", "email", vec![]),
        ("credential", &credential, vec![ada_id, ivan_id]),
        ("status", "completed", vec![ada_id, ivan_id]),
        ("status", "failed", vec![]),
    ] {
        let query = [("project", "ext:shop"), (name, value)];
        let mut wanted = wanted;
        wanted.sort_unstable();
        let sorted = |page: &Value, field: &str| {
            let mut all: Vec<String> = ids(page, field).into_iter().map(str::to_owned).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(sorted(&ask(&host, "/api/leads", &query).await, "id"), wanted, "{name}={value}");
        if name != "status" {
            assert_eq!(sorted(&ask(&host, "/api/deliveries", &query).await, "lead_id"), wanted, "deliveries of {name}={value}");
            assert_eq!(sorted(&ask(&host, "/api/batches", &query).await, "lead_id"), wanted, "batches of {name}={value}");
        }
    }
    // A platform key need not know the project; all conditions hold together.
    let page = ask(&host, "/api/leads", &[("phone", "8 916 123-45-67"), ("q", "иванов"), ("channel", "webhook")]).await;
    assert_eq!(ids(&page, "id"), [ivan_id]);
    assert!(ids(&ask(&host, "/api/leads", &[("phone", "8 916 123-45-67"), ("q", "lovelace")]).await, "id").is_empty());
    let page = ask(&host, "/api/deliveries", &[("status", "delivered"), ("email", "petr@example.com")]).await;
    assert_eq!(ids(&page, "lead_id"), [ivan_id]);
}

#[tokio::test]
async fn pages_stay_in_place_while_leads_arrive_and_are_sent_again() {
    let (_sink, host, _) = shop().await;
    let mut sent = Vec::new();
    for n in 0..9 {
        let lead = host.send(json!({"name": "Иван", "email": "ivan@example.com", "external_id": format!("l-{n}")})).await;
        sent.push(lead["lead_id"].as_str().unwrap().to_owned());
        host.clock.advance(std::time::Duration::from_millis(1));
    }
    sent.reverse();
    host.searchable().await;
    for (list, field) in [("/api/leads", "id"), ("/api/batches", "lead_id"), ("/api/deliveries", "lead_id")] {
        for condition in [("project", "ext:shop"), ("email", "ivan@example.com"), ("q", "иван"), ("channel", "webhook")] {
            let mut seen: Vec<String> = Vec::new();
            let mut cursor = String::new();
            let mut pages = 0;
            loop {
                let mut query = vec![("limit", "2"), ("project", "ext:shop"), condition];
                query.dedup_by_key(|(name, _)| *name);
                if !cursor.is_empty() {
                    query.push(("cursor", &cursor));
                }
                let page = ask(&host, list, &query).await;
                seen.extend(ids(&page, field).into_iter().map(str::to_owned));
                assert_eq!(page["has_more"], page["next_cursor"].is_string());
                let Some(next) = page["next_cursor"].as_str() else { break };
                cursor = next.to_owned();
                pages += 1;
                // Newer ones arrive at the top: the pages below must not move.
                host.send(json!({"name": "Иван", "email": "ivan@example.com", "external_id": format!("n-{list}-{condition:?}-{pages}")}))
                    .await;
                host.clock.advance(std::time::Duration::from_millis(1));
            }
            let of_the_first: Vec<&String> = seen.iter().filter(|id| sent.contains(id)).collect();
            assert_eq!(of_the_first, sent.iter().collect::<Vec<_>>(), "{list} by {condition:?}");
            let unique: std::collections::BTreeSet<&String> = seen.iter().collect();
            assert_eq!(unique.len(), seen.len(), "{list} by {condition:?}: nothing comes twice");
        }
    }
}

#[tokio::test]
async fn a_key_finds_nothing_of_another_project() {
    let (_sink, mut host, credential) = shop().await;
    host.send(json!({"name": "Иван", "phone": "+7 916 123-45-67", "email": "ivan@example.com", "external_id": "x", "entity": "e"})).await;
    host.idle().await;
    host.searchable().await;
    let (_, other) = host.post("/api/projects", &json!({"external_id": "other", "name": "Other"})).await;
    let body = json!({"name": "other", "scopes": ["leads:read", "leads:write"], "project": other["id"]});
    let (status, key) = host.post("/api/keys", &body).await;
    assert_eq!(status, 201, "{key}");
    host.key(key["key"].as_str().unwrap());
    for list in ["/api/leads", "/api/batches", "/api/deliveries"] {
        for query in [
            ("phone", "+79161234567"),
            ("email", "ivan@example.com"),
            ("q", "иван"),
            ("external_id", "x"),
            ("entity", "e"),
            ("channel", "webhook"),
            ("credential", &credential),
            ("limit", "200"),
        ] {
            let page = ask(&host, list, &[query]).await;
            assert_eq!((ids(&page, "id").len(), &page["has_more"]), (0, &json!(false)), "{list} {query:?}");
        }
        let (status, problem) = host.answer(host.request("GET", &with(list, &[("project", "ext:shop")]))).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (404, &json!("/project")), "{problem}");
    }
}

#[tokio::test]
async fn spellings_that_people_paste_are_found() {
    let (_sink, host, _) = shop().await;
    let work = host.send(json!({"name": "Ann", "phone": "8 (495) 123-45-67 доб. 12", "external_id": "2026-000123"})).await;
    let home = host.send(json!({"name": "Анна Сидорова", "email": "Anna@Пример.рф", "fields": {"order": 55443322}})).await;
    host.idle().await;
    host.searchable().await;
    let (work, home) = (work["lead_id"].as_str().unwrap(), home["lead_id"].as_str().unwrap());
    for (name, value, wanted) in [
        ("phone", "+7 495 123-45-67", work),
        ("q", "8 495 123\u{2013}45\u{2013}67", work),
        ("q", "8(495)1234567 доб 99", work),
        ("q", "2026-000123", work),
        ("q", "55443322", home),
        ("q", "сидоров", home),
        ("email", "anna@xn--e1afmkfd.xn--p1ai", home),
    ] {
        assert_eq!(ids(&ask(&host, "/api/leads", &[(name, value)]).await, "id"), [wanted], "{name}={value}");
    }
}
