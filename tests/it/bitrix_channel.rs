//! The channel `bitrix24` against a fake portal that refuses what the real one refuses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use leadwire::clock::{Clock as _, ManualClock};
use leadwire_fakes::bitrix::{BitrixPortal, CONTACT, DEAL, LEAD, Limits, Play};
use leadwire_fakes::{Gate, Request};
use leadwire_tests::process::{Place, call};
use leadwire_tests::{Options, TestHost, client, codes, manual_clock, outcomes};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);
const PORTAL: &str = "acme.bitrix24.ru";
const MADE: &str = "crm.item.add?entityTypeId=2";

struct Shop {
    portal: BitrixPortal,
    host: TestHost,
    id: String,
}

async fn portal_by(clock: &ManualClock, limits: Limits) -> BitrixPortal {
    let clock = clock.clone();
    BitrixPortal::start_with(limits, Arc::new(move || u64::try_from(clock.now().as_millis()).unwrap())).await.unwrap()
}

/// A project whose leads become deals, unless `config` says otherwise; `more` is the rest of the credential.
async fn shop_with(limits: Limits, config: Value, more: Value) -> Shop {
    let clock = manual_clock();
    let portal = portal_by(&clock, limits).await;
    let rewrite = vec![(PORTAL.into(), portal.base_url())];
    let host = TestHost::with(Options { plugins: vec!["bitrix24"], rewrite, clock: Some(clock), ..Options::default() }).await;
    let project = json!({"external_id": "shop", "name": "Shop", "default_region": "RU", "locale": "ru"});
    assert_eq!(host.post("/api/projects", &project).await.0, 201);
    let mut whole = json!({"portal": PORTAL, "user_id": 1, "entity": "deal"});
    whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let mut body = json!({"channel": "bitrix24", "name": "CRM", "config": whole, "secrets": {"webhook_code": portal.code()}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let id = host.enable_with(body).await;
    Shop { portal, host, id }
}

async fn shop(config: Value) -> Shop {
    shop_with(Limits::none(), config, json!({})).await
}

impl Shop {
    /// Lets leads collect, so that they go out in one call.
    async fn together(&self, leads: impl IntoIterator<Item = Value>) -> Vec<String> {
        self.host.act(&format!("/api/credentials/{}/pause", self.id)).await;
        let mut ids = Vec::new();
        for lead in leads {
            ids.push(self.host.send(lead).await["deliveries"][0]["id"].as_str().unwrap().to_owned());
        }
        self.host.act(&format!("/api/credentials/{}/resume", self.id)).await;
        self.host.idle().await;
        ids
    }

    async fn one(&self, lead: Value) -> Value {
        let sent = self.host.send(lead).await;
        self.host.idle().await;
        self.host.first_delivery(&sent).await
    }

    /// Commands of each request.
    fn sizes(&self) -> Vec<usize> {
        self.portal.calls().iter().map(|call| call.json()["cmd"].as_object().map_or(0, serde_json::Map::len)).collect()
    }
}

fn person(name: &str, phone: &str) -> Value {
    json!({"name": name, "phone": phone})
}

fn holds(call: &Request, part: &str) -> bool {
    call.text().contains(part)
}

#[tokio::test]
async fn a_lead_becomes_a_deal_with_a_new_contact_and_a_comment() {
    let shop = shop(json!({"category_id": 9, "stage_id": "C9:NEW", "assigned_by_id": 6})).await;
    let delivery = shop
        .one(json!({"title": "Заявка №1 & Co", "name": "Иван Петров", "phone": "8 (916) 123-45-67", "email": "Ivan@Example.com",
            "comment": "Перезвонить", "value": {"amount": "1500.50", "currency": "RUB"}, "fields": {"car": "Lada"},
            "origin": {"page": "https://shop.example/?a=1&b=2", "form": "callback", "utm_source": "yandex", "utm_term": "шины"}}))
        .await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    let (contacts, deals) = (shop.portal.all(CONTACT), shop.portal.all(DEAL));
    assert_eq!((contacts.len(), deals.len(), shop.portal.all(LEAD).len()), (1, 1, 0));
    let (contact, deal) = (&contacts[0], &deals[0]);
    assert_eq!((&contact["name"], &contact["fm"][0]["value"]), (&json!("Иван Петров"), &json!("+79161234567")));
    let wanted = json!({"title": "Заявка №1 & Co", "opportunity": 1500.5, "currencyId": "RUB", "categoryId": 9, "stageId": "C9:NEW",
        "assignedById": 6, "sourceId": "WEB", "sourceDescription": "callback · https://shop.example/?a=1&b=2", "utmSource": "yandex",
        "utmTerm": "шины", "comments": "Перезвонить", "contactIds": [contact["id"]], "originatorId": "leadwire", "originId": delivery["id"]});
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&deal[name], value, "{name}: {deal:#}");
    }
    let note = shop.portal.comments()[0].clone();
    assert_eq!((&note["ENTITY_TYPE"], &note["ENTITY_ID"]), (&json!("deal"), &json!(deal["id"].to_string())));
    for part in ["Имя: Иван Петров", "car: Lada", "Форма: callback"] {
        assert!(note["COMMENT"].as_str().unwrap().contains(part), "{note:#}");
    }
    let (deal, contact) = (deal["id"].to_string(), contact["id"].to_string());
    assert_eq!(delivery["refs"], json!([{"name": "deal", "value": deal}, {"name": "contact", "value": contact}]));
    assert_eq!(delivery["url"], format!("https://{PORTAL}/crm/deal/details/{deal}/"));
    assert_eq!(shop.portal.calls().len(), 3);
}

#[tokio::test]
async fn a_lead_stays_a_lead_and_is_tied_to_a_contact_that_is_there() {
    let shop = shop(json!({"entity": "lead", "stage_id": "IN_PROCESS"})).await;
    let first = shop.one(person("Ann", "+79160000001")).await;
    assert_eq!(first["status"], "delivered", "{first:#}");
    assert_eq!((shop.portal.all(CONTACT).len(), shop.portal.all(DEAL).len()), (0, 0));
    let known = shop.portal.put(CONTACT, json!({"name": "Bob", "fm": [{"typeId": "EMAIL", "value": "bob@example.com"}]}));
    shop.one(json!({"name": "Bob", "email": "Bob@Example.com"})).await;
    let leads = shop.portal.all(LEAD);
    assert_eq!(
        (&leads[0]["name"], &leads[0]["stageId"], &leads[0]["fm"][0]["value"]),
        (&json!("Ann"), &json!("IN_PROCESS"), &json!("+79160000001"))
    );
    assert_eq!((&leads[0]["contactIds"], &leads[1]["contactIds"]), (&Value::Null, &json!([known])));
    assert_eq!(shop.portal.comments()[1]["ENTITY_TYPE"], "lead");
}

#[tokio::test]
async fn a_person_is_found_whatever_spelling_the_portal_has() {
    let shop = shop(json!({})).await;
    let spellings =
        ["+79161234567", "89161234568", "8 (916) 123-45-69", "+7 (916) 123-45-70", "8-916-123-45-71", "9161234572", "+7 916 123-45-73"];
    for (at, spelling) in spellings.into_iter().enumerate() {
        let known = shop.portal.put(CONTACT, json!({"name": "Known", "fm": [{"typeId": "PHONE", "value": spelling}]}));
        let delivery = shop.one(person(&format!("No {at}"), &format!("+7 916 12345{}", 67 + at))).await;
        assert_eq!(delivery["status"], "delivered", "{delivery:#}");
        assert_eq!(shop.portal.all(DEAL)[at]["contactIds"], json!([known]), "{spelling}");
    }
    assert_eq!(shop.portal.all(CONTACT).len(), spellings.len(), "none was made");
    // Twenty leads of the same phone hide no contact, and of several the oldest is taken.
    let oldest = shop.portal.put(CONTACT, json!({"name": "A", "fm": [{"typeId": "PHONE", "value": "+79169999999"}]}));
    shop.portal.put(CONTACT, json!({"name": "B", "fm": [{"typeId": "PHONE", "value": "89169999999"}]}));
    for _ in 0..25 {
        shop.portal.put(LEAD, json!({"name": "L", "fm": [{"typeId": "PHONE", "value": "+79169999999"}]}));
    }
    shop.one(person("Again", "8 916 999-99-99")).await;
    assert_eq!(shop.portal.all(DEAL).last().unwrap()["contactIds"], json!([oldest]));
}

#[tokio::test]
async fn of_fifty_leads_exactly_the_three_bad_ones_fail() {
    let shop = shop_with(Limits::none(), json!({}), json!({"mapping": {"UF_CRM_CAR": "{{ lead.fields.car }}"}})).await;
    shop.portal.setup(|setup| setup.field(DEAL, "UF_CRM_CAR", json!({"type": "string", "isRequired": true})));
    let bad = BTreeSet::from([3, 27, 49]);
    let lead = |at: usize| json!({"name": format!("Lead {at}"), "phone": format!("+791600000{at:02}"), "fields": {"car": if bad.contains(&at) { "" } else { "Lada" }}});
    let ids = shop.together((0..50).map(lead)).await;
    for (at, id) in ids.iter().enumerate() {
        let delivery = shop.host.delivery(id).await;
        let (status, outcome) = if bad.contains(&at) { ("failed", "crm_field_error_required") } else { ("delivered", "") };
        assert_eq!((delivery["status"].as_str(), codes(&delivery)), (Some(status), vec![outcome]), "{at}: {delivery:#}");
    }
    assert_eq!((shop.portal.all(DEAL).len(), shop.portal.all(CONTACT).len(), shop.portal.comments().len()), (47, 50, 47));
    assert_eq!(shop.sizes(), [50, 1, 50, 50, 50], "five requests for fifty leads");
    assert_eq!(shop.host.state(&shop.id).await, "active");
}

#[tokio::test]
async fn leads_of_one_person_in_one_call_get_one_contact() {
    let shop = shop(json!({})).await;
    let leads = ["8 916 123-45-67", "+7 (916) 1234567", "79161234567"].into_iter().enumerate();
    let ids =
        shop.together(leads.map(|(at, phone)| json!({"name": format!("Form {at}"), "phone": phone, "external_id": at.to_string()}))).await;
    for id in &ids {
        assert_eq!(shop.host.status(id).await, "delivered");
    }
    assert_eq!((shop.portal.all(CONTACT).len(), shop.portal.all(DEAL).len()), (1, 3));
    assert!(shop.portal.all(DEAL).iter().all(|deal| deal["contactIds"] == shop.portal.all(DEAL)[0]["contactIds"]));
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_and_nothing_is_made_twice() {
    for (play, filter) in [(Play::CloseAfterDoing, true), (Play::CloseAfterDoing, false), (Play::Truncated, true)] {
        let shop = shop(json!({})).await;
        shop.portal.setup(|setup| setup.origin_filter = filter);
        shop.portal.put(DEAL, json!({"title": "Another", "originId": "x", "originatorId": "leadwire"}));
        shop.portal.script(MADE, [play.clone()]);
        let sent = shop.host.send(person("Ann", "+79160000001")).await;
        shop.host.idle().await;
        assert_eq!(outcomes(&shop.host.first_delivery(&sent).await), ["retry"]);
        // Over a restart, too.
        let Shop { portal, host, id } = shop;
        let shop = Shop { host: host.restart().await, portal, id };
        shop.host.advance(SECOND * 6).await;
        let delivery = shop.host.first_delivery(&sent).await;
        assert_eq!((&delivery["status"], outcomes(&delivery)), (&json!("delivered"), vec!["retry", "duplicate"]), "{play:?}: {delivery:#}");
        assert_eq!(delivery["refs"][0]["value"], shop.portal.all(DEAL)[1]["id"].to_string());
        assert_eq!((shop.portal.all(DEAL).len(), shop.portal.all(CONTACT).len(), shop.portal.comments().len()), (2, 1, 1), "{play:?}");
    }
}

#[tokio::test]
async fn a_contact_whose_answer_was_lost_is_not_made_twice() {
    let shop = shop(json!({})).await;
    shop.portal.script("crm.item.add?entityTypeId=3", [Play::CloseAfterDoing, Play::CloseBefore]);
    // Neither phone nor e-mail: only the origin tells.
    let nameless = shop.one(json!({"name": "Only a name"})).await;
    assert_eq!(outcomes(&nameless), ["retry"]);
    shop.host.advance(SECOND * 6).await;
    shop.one(person("Ann", "+79160000001")).await;
    shop.host.advance(SECOND * 6).await;
    assert_eq!((shop.portal.all(CONTACT).len(), shop.portal.all(DEAL).len()), (2, 2));
    assert!(shop.portal.all(DEAL).iter().all(|deal| deal["contactIds"].as_array().is_some_and(|ids| ids.len() == 1)));
}

#[tokio::test]
async fn answers_lost_at_random_leave_each_lead_there_once() {
    let shop = shop_with(Limits::none(), json!({}), json!({"retry": {"tries": 20, "base_ms": 1000, "max_ms": 1000}})).await;
    let plays = [Play::CloseAfterDoing, Play::CloseBefore, Play::Truncated, Play::BadGateway, Play::HtmlForbidden];
    for round in 0..4 {
        for play in &plays {
            let part = ["crm.item.add?entityTypeId=2", "crm.item.add?entityTypeId=3", "findbycomm", ""][round];
            shop.portal.script(part, [play.clone()]);
        }
    }
    let lead = |at: u32| json!({"name": format!("Lead {at}"), "phone": format!("+7916000{:04}", at / 2), "external_id": at.to_string()});
    let ids = shop.together((0..120).map(lead)).await;
    for _ in 0..40 {
        shop.host.advance(SECOND * 30).await;
    }
    for id in &ids {
        let delivery = shop.host.delivery(id).await;
        assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    }
    let origins: BTreeSet<String> = shop.portal.all(DEAL).iter().map(|deal| deal["originId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(origins, ids.into_iter().collect());
    assert_eq!((shop.portal.all(DEAL).len(), shop.portal.all(CONTACT).len(), shop.portal.comments().len()), (120, 60, 120));
}

#[tokio::test]
async fn trouble_in_the_portal_passes_and_what_was_not_sent_is_not_in_doubt() {
    let shop = shop(json!({})).await;
    shop.portal.script("", [Play::BadGateway]);
    let sent = shop.host.send(person("Ann", "+79160000001")).await;
    shop.host.idle().await;
    shop.portal
        .script("", [Play::Refuse { status: 500, code: "INTERNAL_SERVER_ERROR".into(), description: "Internal server error".into() }]);
    shop.host.advance(SECOND * 6).await;
    shop.host.advance(SECOND * 35).await;
    let delivery = shop.host.first_delivery(&sent).await;
    assert_eq!(codes(&delivery), ["http_502", "internal_server_error", ""], "{delivery:#}");
    assert_eq!((delivery["status"].as_str(), shop.portal.all(DEAL).len()), (Some("delivered"), 1));
}

#[tokio::test]
async fn a_portal_that_drips_or_keeps_silent_is_given_up_in_time() {
    let shop = shop(json!({})).await;
    shop.portal.script(MADE, [Play::Drip(Duration::from_millis(1))]);
    let delivery = shop.one(person("Ann", "+79160000001")).await;
    assert_eq!(delivery["status"], "delivered", "slow, and whole: {delivery:#}");
    // What waits holds up nothing else, and a stop of the host in the middle is in doubt.
    let gate = Gate::closed();
    shop.portal.script(MADE, [Play::Held(gate.clone())]);
    let calls = shop.portal.calls().len();
    let sent = shop.host.send(person("Bob", "+79160000002")).await;
    shop.portal.wait_for_calls(calls + 3).await;
    let id = sent["deliveries"][0]["id"].as_str().unwrap();
    assert_eq!((shop.host.status(id).await.as_str(), shop.portal.all(DEAL).len()), ("sending", 2));
    gate.open();
    shop.host.idle().await;
    assert_eq!((shop.host.status(id).await.as_str(), shop.portal.all(DEAL).len()), ("delivered", 2));
}

#[tokio::test]
async fn the_portals_limit_is_kept_and_minded_where_others_use_it_up() {
    let shop = shop_with(Limits::usual(), json!({}), json!({})).await;
    for number in 0..30 {
        shop.host.lead(number).await;
        shop.host.advance(SECOND).await;
    }
    shop.host.advance_by_seconds(10).await;
    assert_eq!(shop.portal.all(DEAL).len(), 30);
    shop.host.advance(SECOND * 60).await;
    // Another program has filled the portal's bucket.
    shop.portal.script("", [Play::Refuse { status: 503, code: "QUERY_LIMIT_EXCEEDED".into(), description: "Too many requests".into() }]);
    let id = shop.host.lead(100).await;
    shop.host.idle().await;
    let delivery = shop.host.delivery(&id).await;
    assert_eq!((delivery["status"].as_str(), shop.host.state(&shop.id).await.as_str()), (Some("queued"), "throttled"));
    // One command of a batch, too: the others of the batch are done.
    shop.host.advance(SECOND * 2).await;
    assert_eq!(shop.host.status(&id).await, "delivered");
    shop.portal.break_commands("\"title\":\"Slow\"", 1, "QUERY_LIMIT_EXCEEDED", "Too many requests");
    let ids = shop.together([json!({"title": "Slow", "name": "S"}), json!({"title": "Quick", "name": "Q"})]).await;
    assert_eq!((shop.host.status(&ids[0]).await.as_str(), shop.host.status(&ids[1]).await.as_str()), ("queued", "delivered"));
    shop.host.advance(SECOND * 5).await;
    let slow = shop.host.delivery(&ids[0]).await;
    assert_eq!((slow["status"].as_str(), slow["attempt_count"].as_u64()), (Some("delivered"), Some(1)), "waiting is no attempt: {slow:#}");
    assert_eq!(shop.portal.all(DEAL).len(), 33);
}

#[tokio::test]
async fn a_backlog_never_fills_the_portals_bucket() {
    let shop = shop_with(Limits::usual(), json!({}), json!({})).await;
    shop.together(
        (0..700)
            .map(|at| json!({"name": format!("Lead {at}"), "phone": format!("+7916000{at:04}"), "email": format!("a{at}@example.com")})),
    )
    .await;
    for _ in 0..60 {
        if shop.portal.all(DEAL).len() == 700 {
            break;
        }
        shop.host.advance(SECOND).await;
    }
    assert_eq!((shop.portal.all(DEAL).len(), shop.portal.all(CONTACT).len()), (700, 700));
    let refused = shop.host.get("/api/deliveries?status=failed").await;
    assert_eq!(refused["data"], json!([]));
    assert_eq!(shop.portal.calls().len(), 70, "five requests for each fifty leads, and none was refused");
}

#[tokio::test]
async fn running_time_that_is_used_up_is_waited_for() {
    let limits = Limits { operating_s: 480.0, command_s: 30.0, ..Limits::none() };
    let shop = shop_with(limits, json!({"contacts": "none"}), json!({})).await;
    // Ten minutes hold sixteen commands of half a minute; we stop at fourteen.
    let ids = shop.together((0..40).map(|at| json!({"name": format!("Lead {at}")}))).await;
    let delivered = async |host: &TestHost| {
        let list = host.get("/api/deliveries?status=delivered&limit=200").await;
        list["data"].as_array().unwrap().len()
    };
    assert_eq!((delivered(&shop.host).await, shop.host.state(&shop.id).await.as_str()), (16, "throttled"));
    shop.host.advance(SECOND * 590).await;
    assert_eq!(delivered(&shop.host).await, 16, "not before the portal counts anew");
    for _ in 0..3 {
        shop.host.advance(SECOND * 610).await;
    }
    assert_eq!((delivered(&shop.host).await, shop.portal.all(DEAL).len()), (40, 40));
    for id in &ids {
        assert_eq!(shop.host.delivery(id).await["attempt_count"], 1);
    }
}

#[tokio::test]
async fn a_webhook_that_was_deleted_parks_the_credential_and_costs_no_lead() {
    let shop = shop(json!({})).await;
    let code = shop.portal.code();
    shop.portal.setup(|setup| setup.code = "an0ther0c0de".into());
    let id = shop.host.lead(1).await;
    shop.host.advance(SECOND * 600).await;
    let shown = shop.host.credential(&shop.id).await;
    assert_eq!((shop.host.status(&id).await.as_str(), shown["state"].as_str(), shop.portal.calls().len()), ("queued", Some("invalid"), 1));
    assert!(shown["state_reason"]["message"].as_str().unwrap().contains("make a new one"), "{shown:#}");
    assert!(!shown.to_string().contains(&code));
    let other = json!({"secrets": {"webhook_code": "an0ther0c0de"}});
    assert_eq!(shop.host.patch(&format!("/api/credentials/{}", shop.id), &other).await.0, 200);
    shop.host.idle().await;
    assert_eq!((shop.host.status(&id).await.as_str(), shop.portal.all(DEAL).len()), ("delivered", 1));
}

#[tokio::test]
async fn what_an_admin_must_mend_is_told_in_the_admins_words() {
    type Change = fn(&mut leadwire_fakes::bitrix::Setup);
    let cases: [(Value, Change, &str); 6] = [
        (json!({}), |setup| setup.scopes = vec!["user".into()], "right `crm`"),
        (json!({}), |setup| setup.denied.extend(["crm.item.add".to_owned()]), "rights in the CRM"),
        (json!({"user_id": 2}), |_| {}, "does not know this webhook"),
        (json!({"category_id": 9, "stage_id": "C9:GONE"}), |_| {}, "stage_id: pipeline 9 has no stage C9:GONE; it has C9:NEW"),
        (json!({"category_id": 5}), |_| {}, "category_id: the portal has no pipeline 5; it has 0 General, 9 Retail"),
        (json!({}), |setup| setup.renamed_to = Some("new-name.bitrix24.ru".into()), "new-name.bitrix24.ru"),
    ];
    for (config, change, words) in cases {
        let shop = shop(config).await;
        shop.portal.setup(change);
        let id = shop.host.lead(1).await;
        shop.host.advance(SECOND * 60).await;
        let shown = shop.host.credential(&shop.id).await;
        assert_eq!((shop.host.status(&id).await.as_str(), shown["state"].as_str()), ("queued", Some("invalid")), "{words}");
        assert!(shown["state_reason"]["message"].as_str().unwrap().contains(words), "{words}: {shown:#}");
        assert_eq!(shop.portal.all(DEAL).len(), 0);
        let (status, check) = shop.host.post(&format!("/api/credentials/{}/check", shop.id), &json!({})).await;
        // A check only reads, so it cannot know of a right to write.
        if !words.contains("rights in") {
            assert_eq!((status, &check["ok"]), (200, &json!(false)), "{check:#}");
            assert!(check["message"].as_str().unwrap().contains(words), "{words}: {check:#}");
        }
    }
    for portal in ["evil.example", "acme.bitrix24.ru.evil.example", "acme.bitrix24.ru:8443", "127.0.0.1"] {
        let shop = shop(json!({})).await;
        let body = json!({"channel": "bitrix24", "name": "x", "config": {"portal": portal, "user_id": 1}, "secrets": {"webhook_code": "abcdefgh1"}});
        let (status, problem) = shop.host.post("/api/projects/ext:shop/credentials", &body).await;
        assert_eq!((status, problem["errors"][0]["pointer"].as_str()), (422, Some("/config/portal")), "{problem}");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("acme.bitrix24.ru"), "{problem}");
    }
}

#[tokio::test]
async fn a_check_tells_who_the_webhook_is_and_changes_nothing() {
    let shop = shop(json!({"category_id": 9, "stage_id": "C9:NEW"})).await;
    let check = shop.host.act(&format!("/api/credentials/{}/check", shop.id)).await;
    assert_eq!(check["ok"], true, "{check:#}");
    let info: Vec<(&str, &str)> =
        check["info"].as_array().unwrap().iter().map(|entry| (entry["name"].as_str().unwrap(), entry["value"].as_str().unwrap())).collect();
    for entry in [("portal", PORTAL), ("user", "1 Ann Lee"), ("rights", "crm"), ("pipeline", "Retail"), ("stage", "new")] {
        assert!(info.contains(&entry), "{entry:?}: {info:?}");
    }
    assert!(shop.portal.all(DEAL).is_empty() && shop.portal.all(CONTACT).is_empty());
    shop.portal.setup(|setup| setup.employed = false);
    let check = shop.host.act(&format!("/api/credentials/{}/check", shop.id)).await;
    assert!(check["message"].as_str().unwrap().contains("does not work in the portal"), "{check:#}");
}

fn typed(setup: &mut leadwire_fakes::bitrix::Setup) {
    let colors = json!([{"ID": "44", "VALUE": "Красный"}, {"ID": "45", "VALUE": "Синий"}]);
    for (name, field) in [
        ("UF_CRM_CAR", json!({"type": "string"})),
        ("UF_CRM_COLOR", json!({"type": "enumeration", "items": colors})),
        ("UF_CRM_COLORS", json!({"type": "enumeration", "isMultiple": true, "items": colors})),
        ("UF_CRM_DAY", json!({"type": "date"})),
        ("UF_CRM_AT", json!({"type": "datetime"})),
        ("UF_CRM_SUM", json!({"type": "money"})),
        ("UF_CRM_YEAR", json!({"type": "integer"})),
        ("UF_CRM_NEW", json!({"type": "boolean"})),
        ("UF_CRM_NAMES", json!({"type": "string", "isMultiple": true})),
    ] {
        setup.field(DEAL, name, field);
    }
    setup.field(CONTACT, "UF_CRM_VIP", json!({"type": "boolean"}));
}

fn mapping() -> Value {
    json!({"mapping": {
        "UF_CRM_CAR": "{{ lead.fields.car }}", "UF_CRM_COLOR": "{{ lead.fields.color }}", "UF_CRM_COLORS": {"from": "lead.fields.colors"},
        "UF_CRM_DAY": "{{ lead.fields.day }}", "UF_CRM_AT": "{{ lead.created_at }}", "UF_CRM_SUM": {"from": "lead.value"},
        "UF_CRM_YEAR": {"from": "lead.fields.year"}, "UF_CRM_NEW": {"const": true}, "UF_CRM_NAMES": "{{ lead.phones|tojson }}",
        "SOURCE_ID": {"from": "lead.origin.utm_source", "map": {"yandex": "ADVERTISING"}, "default": "WEB"}, "contact.UF_CRM_VIP": "да",
        "UF_CRM_TYPO": "x"
    }})
}

#[tokio::test]
async fn mapped_fields_are_written_as_the_portals_types_want_them() {
    let shop = shop_with(Limits::none(), json!({}), mapping()).await;
    shop.portal.setup(typed);
    let fields = json!({"car": "Lada [b]", "color": "синий", "colors": ["Красный", "45"], "day": "22.11.2026", "year": "2 026"});
    let lead = json!({"name": "Ann", "phones": ["+79160000001", "8 916 000 00 02"], "value": {"amount": "1500.50", "currency": "USD"}, "fields": fields,
        "origin": {"utm_source": "yandex"}});
    let delivery = shop.one(lead).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    let wanted = json!({"UF_CRM_CAR": "Lada [b]", "UF_CRM_COLOR": "45", "UF_CRM_COLORS": ["44", "45"], "UF_CRM_DAY": "2026-11-22",
        "UF_CRM_AT": "2026-11-22T10:00:00+00:00", "UF_CRM_SUM": "1500.50|USD", "UF_CRM_YEAR": 2026, "UF_CRM_NEW": "1",
        "UF_CRM_NAMES": ["+79160000001", "+79160000002"], "sourceId": "ADVERTISING"});
    let deal = &shop.portal.all(DEAL)[0];
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&deal[name], value, "{name}: {deal:#}");
    }
    assert_eq!(shop.portal.all(CONTACT)[0]["UF_CRM_VIP"], "1");
    assert!(shop.portal.comments()[0]["COMMENT"].as_str().unwrap().contains("UF_CRM_TYPO: x"), "what no field holds is in the comment");
    // A value that the type cannot hold does not cost the lead, and nobody has to search for it.
    let delivery = shop.one(json!({"name": "Bob", "phone": "+79160000003", "fields": {"color": "Фиолетовый", "day": "tomorrow"}})).await;
    assert_eq!(delivery["status"], "delivered", "{delivery:#}");
    let note = shop.portal.comments()[1]["COMMENT"].as_str().unwrap().to_owned();
    assert!(
        note.contains("UF_CRM_COLOR: Фиолетовый") && note.contains("it has Красный, Синий") && note.contains("UF_CRM_DAY: tomorrow"),
        "{note}"
    );
}

#[tokio::test]
async fn hostile_texts_arrive_as_they_were_written_and_do_nothing() {
    let shop = shop(json!({})).await;
    let invisible = |text: &str| text.replace('\u{200B}', "");
    let evil = "$result[d1][item][title] & x=y%26[b] <script>alert(1)</script> \u{202E}😀 \"'\\ #$result[c0]";
    let leads = [
        json!({"title": evil, "name": evil, "comment": evil, "phone": "+79160000001", "fields": {evil: evil}}),
        json!({"title": "Secret", "name": "B"}),
    ];
    for id in shop.together(leads).await {
        assert_eq!(shop.host.status(&id).await, "delivered");
    }
    let deals = shop.portal.all(DEAL);
    let (deal, other) = if deals[0]["title"] == "Secret" { (&deals[1], &deals[0]) } else { (&deals[0], &deals[1]) };
    assert_eq!(
        (invisible(deal["title"].as_str().unwrap()), invisible(deal["comments"].as_str().unwrap())),
        (evil.to_owned(), evil.to_owned())
    );
    assert_eq!(other["title"], "Secret");
    let notes: Vec<String> = shop.portal.comments().iter().map(|note| note["COMMENT"].as_str().unwrap().to_owned()).collect();
    assert!(notes.iter().all(|note| !note.contains("y%26[b]")) && notes.iter().any(|note| invisible(note).contains(evil)), "{notes:?}");
    assert_eq!(deal.as_object().unwrap().keys().filter(|name| name.contains('x')).count(), 0, "no stray field: {deal:#}");
}

#[tokio::test]
async fn the_code_stands_in_no_attempt_and_no_answer_even_if_the_portal_repeats_it() {
    let shop = shop(json!({})).await;
    let code = shop.portal.code();
    let repeated = format!("Bad request to /rest/1/{code}/batch");
    shop.portal.script(MADE, [Play::Refuse { status: 500, code: "INTERNAL_SERVER_ERROR".into(), description: repeated }]);
    let sent = shop.host.send(person("Ann", "+79160000001")).await;
    shop.host.advance(SECOND * 6).await;
    let delivery = shop.host.first_delivery(&sent).await;
    assert_eq!(outcomes(&delivery), ["retry", "delivered"]);
    let preview = shop.host.post(&format!("/api/credentials/{}/preview", shop.id), &json!({"lead": {"name": "x"}})).await.1;
    let check = shop.host.act(&format!("/api/credentials/{}/check", shop.id)).await;
    for shown in [delivery, preview, check, shop.host.credential(&shop.id).await, shop.host.get("/api/deliveries").await] {
        assert!(!shown.to_string().contains(&code), "{shown:#}");
    }
    assert!(shop.portal.calls().iter().all(|call| call.path.starts_with(&format!("/rest/1/{code}/")) && !holds(call, &code)));
}

#[tokio::test]
async fn a_preview_shows_the_found_contact_and_the_typed_fields_and_makes_nothing() {
    let shop = shop_with(Limits::none(), json!({"category_id": 9}), mapping()).await;
    shop.portal.setup(typed);
    let known = shop.portal.put(CONTACT, json!({"name": "Ann", "fm": [{"typeId": "PHONE", "value": "89160000001"}]}));
    let lead = json!({"lead": {"name": "Ann", "phone": "+79160000001", "fields": {"color": "Красный"}}});
    let (status, found) = shop.host.post(&format!("/api/credentials/{}/preview", shop.id), &lead).await;
    assert_eq!((status, found["outcome"]["status"].as_str()), (200, Some("delivered")), "{found:#}");
    let requests = found["requests"].as_array().unwrap();
    assert_eq!((requests[0]["method"].as_str(), requests.last().unwrap()["method"].as_str()), (Some("GET"), Some("POST")), "{found:#}");
    let body: Value = serde_json::from_str(requests.last().unwrap()["body"].as_str().unwrap()).unwrap();
    let line = body["cmd"]["d0"].as_str().unwrap();
    for part in [format!("fields%5BcontactIds%5D%5B0%5D={known}"), "fields%5BUF_CRM_COLOR%5D=44".into(), "fields%5BcategoryId%5D=9".into()]
    {
        assert!(line.contains(&part), "{part}: {line}");
    }
    assert!(shop.portal.all(DEAL).is_empty() && shop.portal.comments().is_empty() && shop.portal.all(CONTACT).len() == 1);
    assert!(shop.portal.calls().iter().all(|call| call.method == "GET"));
}

#[tokio::test]
async fn a_host_that_is_killed_between_the_deal_and_its_answer_makes_no_second_one() {
    let portal = BitrixPortal::start().await.unwrap();
    let mut place = Place::new(&["bitrix24"]);
    place.set("EGRESS_REWRITE", &format!("{PORTAL}={}", portal.base_url()));
    let host = place.start().await;
    let client = client();
    call(&client, "POST", &host.url("/api/projects"), Some(&json!({"external_id": "shop", "name": "Shop"}))).await;
    let credential = json!({"channel": "bitrix24", "name": "CRM", "config": {"portal": PORTAL, "user_id": 1, "entity": "deal"},
        "secrets": {"webhook_code": portal.code()}});
    assert_eq!(call(&client, "POST", &host.url("/api/projects/ext:shop/credentials"), Some(&credential)).await.0, 201);
    portal.script(MADE, [Play::Held(Gate::closed())]);
    let lead = json!({"project": "ext:shop", "name": "Ann", "phone": "+79160000001"});
    let (_, sent) = call(&client, "POST", &host.url("/api/leads"), Some(&lead)).await;
    portal.wait_for_calls(3).await;
    let mut lines = host.kill().await;
    assert_eq!(portal.all(DEAL).len(), 1);

    let host = place.start().await;
    let id = sent["deliveries"][0]["id"].as_str().unwrap();
    assert!(host.line_with(&format!("attempt of {id} ended as duplicate")).await.is_some());
    lines.extend(host.stop().await);
    let host = place.start().await;
    let (_, delivery) = call(&client, "GET", &host.url(&format!("/api/deliveries/{id}")), None).await;
    assert_eq!((delivery["status"].as_str(), outcomes(&delivery)), (Some("delivered"), vec!["lost", "duplicate"]), "{delivery:#}");
    assert_eq!((portal.all(DEAL).len(), portal.all(CONTACT).len(), portal.comments().len()), (1, 1, 1));
    // Neither the code nor the person stands in the log.
    lines.extend(host.stop().await);
    for secret in [portal.code().as_str(), "79160000001"] {
        assert!(lines.iter().all(|line| !line.contains(secret)), "{secret}");
    }
}

/// The JSON blocks of the channel's page.
fn examples() -> Vec<Value> {
    let page = include_str!("../../docs/channels/bitrix24.md");
    let blocks = page.split("\n```json\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.map(|block| serde_json::from_str(block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
}

#[tokio::test]
async fn the_guides_examples_work_as_they_stand_there() {
    let shop = shop(json!({})).await;
    shop.portal.setup(|setup| {
        typed(setup);
        setup.code = "k3ys0f0p0rtal1234".into();
    });
    let [credential, mapping] = <[Value; 2]>::try_from(examples()).unwrap();
    assert_eq!(shop.host.act(&format!("/api/credentials/{}/pause", shop.id)).await["state"], "paused");
    let id = shop.host.enable_with(credential).await;
    let (status, body) = shop.host.patch(&format!("/api/credentials/{id}"), &mapping).await;
    assert_eq!(status, 200, "{body}");
    let sent = shop.host.send(json!({"name": "Ann", "fields": {"color": "синий", "car": "Lada"}, "integrations": [{"type": "bitrix24", "credential_id": id}]})).await;
    shop.host.idle().await;
    assert_eq!(shop.host.first_delivery(&sent).await["status"], "delivered", "{:#}", shop.host.first_delivery(&sent).await);
    let deal = &shop.portal.all(DEAL)[0];
    assert_eq!((&deal["stageId"], &deal["UF_CRM_COLOR"], &deal["UF_CRM_CAR"]), (&json!("C9:NEW"), &json!("45"), &json!("Lada")));
}
