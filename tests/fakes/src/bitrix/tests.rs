use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn raw(portal: &BitrixPortal, head: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(portal.addr()).await.unwrap();
    let kind = if body.starts_with('{') { "application/json" } else { "application/x-www-form-urlencoded" };
    let request = format!("{head} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn call(portal: &BitrixPortal, method: &str, body: Value) -> (u16, Value) {
    let answer = raw(portal, &format!("POST /rest/1/{}/{method}", portal.code()), &body.to_string()).await;
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, serde_json::from_str(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)).unwrap_or(Value::Null))
}

async fn batch(portal: &BitrixPortal, commands: Value) -> Value {
    call(portal, "batch", json!({"halt": 0, "cmd": commands})).await.1["result"].take()
}

#[tokio::test]
async fn a_batch_runs_each_command_and_resolves_references() {
    let portal = BitrixPortal::start().await.unwrap();
    let result = batch(
        &portal,
        json!({"c": "crm.item.add?entityTypeId=3&fields[name]=Ivan&fields[fm][0][typeId]=PHONE&fields[fm][0][value]=%2B79161234567",
            "d": "crm.item.add?entityTypeId=2&fields[title]=John%26Co&fields[contactIds][0]=$result[c][item][id]&fields[nonsense]=1",
            "n": "crm.timeline.comment.add?fields[ENTITY_ID]=$result[d][item][id]&fields[ENTITY_TYPE]=deal&fields[COMMENT]=Hello",
            "x": "crm.item.add?entityTypeId=2&fields[stageId]=C9:NEW", "y": "nonsense", "z": "batch?cmd[a]=profile"}),
    )
    .await;
    let deal = &portal.all(DEAL)[0];
    assert_eq!((&deal["title"], &deal["contactIds"], &deal["nonsense"]), (&json!("John&Co"), &json!([1]), &Value::Null));
    assert_eq!((&deal["stageId"], &deal["categoryId"]), (&json!("NEW"), &json!(0)));
    assert_eq!(portal.comments()[0]["ENTITY_ID"], "2");
    assert_eq!(result["result_error"]["x"]["error"], "CRM_FIELD_ERROR_VALUE_NOT_VALID", "a stage of another pipeline");
    assert_eq!(result["result_error"]["y"]["error"], "ERROR_METHOD_NOT_FOUND");
    assert_eq!(result["result_error"]["z"]["error"], "ERROR_BATCH_METHOD_NOT_ALLOWED");
    assert!(result["result_time"]["d"]["operating"].is_number());
    let empty = batch(&portal, json!({"a": "nonsense"})).await;
    assert_eq!((&empty["result"], &empty["result_time"]), (&json!([]), &json!([])), "PHP's empty maps");
    let (_, halted) = call(&portal, "batch", json!({"halt": 1, "cmd": {"a": "nonsense", "b": "profile"}})).await;
    assert_eq!(halted["result"]["result"], json!([]), "nothing after the first error");
    let (status, _) =
        call(&portal, "batch", json!({"cmd": (0..51).map(|no| (no.to_string(), json!("profile"))).collect::<Map<_, _>>()})).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn the_webhook_is_its_whole_path() {
    let portal = BitrixPortal::start().await.unwrap();
    for (path, status, code) in [
        ("/rest/1/wrong/profile".to_owned(), "401", "INVALID_CREDENTIALS"),
        (format!("/rest/2/{}/profile", portal.code()), "401", "INVALID_CREDENTIALS"),
        (format!("/rest/{}/profile", portal.code()), "404", "ERROR_METHOD_NOT_FOUND"),
    ] {
        let answer = raw(&portal, &format!("GET {path}"), "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(code), "{path}: {answer}");
    }
    assert!(raw(&portal, &format!("GET /rest/1/{}/profile.json", portal.code()), "").await.contains("\"ID\":\"1\""));
    let query = "halt=0&cmd%5Ba%5D=crm.item.add%3FentityTypeId%3D3%26fields%255Bname%255D%3DA%2526B";
    assert!(raw(&portal, &format!("GET /rest/1/{}/batch?{query}", portal.code()), "").await.contains("\"name\":\"A&B\""));
    portal.setup(|setup| setup.employed = false);
    assert_eq!(call(&portal, "profile", json!({})).await.1["result"], json!([]), "an employee who was dismissed");
    portal.setup(|setup| setup.renamed_to = Some("new.bitrix24.ru".into()));
    let moved = raw(&portal, &format!("POST /rest/1/{}/profile", portal.code()), "{}").await;
    assert!(moved.starts_with("HTTP/1.1 302") && moved.contains("https://new.bitrix24.ru/rest/1/"), "{moved}");
}

#[tokio::test]
async fn people_are_found_by_whole_texts_and_twenty_hide_the_others() {
    let portal = BitrixPortal::start().await.unwrap();
    let person = |phone: &str| json!({"name": "x", "fm": [{"typeId": "PHONE", "value": phone}]});
    let contact = portal.put(CONTACT, person("8 (916) 123-45-67"));
    let find = |values: Value, entity: &str| json!({"type": "PHONE", "values": values, "entity_type": entity});
    let (_, none) = call(&portal, "crm.duplicate.findbycomm", find(json!(["+79161234567"]), "")).await;
    assert_eq!(none["result"], json!([]));
    let (_, found) = call(&portal, "crm.duplicate.findbycomm", find(json!(["x", "8 (916) 123-45-67"]), "")).await;
    assert_eq!(found["result"], json!({"CONTACT": [contact]}));
    for _ in 0..20 {
        portal.put(LEAD, person("8 (916) 123-45-67"));
    }
    let (_, hidden) = call(&portal, "crm.duplicate.findbycomm", find(json!(["8 (916) 123-45-67"]), "")).await;
    assert!(hidden["result"]["CONTACT"].is_null() && hidden["result"]["LEAD"].as_array().unwrap().len() == 20);
    let (_, asked) = call(&portal, "crm.duplicate.findbycomm", find(json!(["8 (916) 123-45-67"]), "CONTACT")).await;
    assert_eq!(asked["result"], json!({"CONTACT": [contact]}));
    let (status, wrong) = call(&portal, "crm.duplicate.findbycomm", json!({"values": ["1"]})).await;
    assert_eq!((status, &wrong["error"]), (400, &json!("")), "an empty code");
}

#[tokio::test]
async fn fields_are_typed_and_lists_have_pages() {
    let portal = BitrixPortal::start().await.unwrap();
    portal.setup(|setup| {
        setup.field(DEAL, "UF_CRM_TAGS", json!({"type": "enumeration", "isMultiple": true, "items": [{"ID": "44", "VALUE": "Red"}]}));
        setup.field(DEAL, "UF_CRM_MUST", json!({"type": "string", "isRequired": true}));
    });
    let add = |fields: Value| json!({"entityTypeId": 2, "useOriginalUfNames": "Y", "fields": fields});
    for (fields, code) in [
        (json!({"title": "x"}), "CRM_FIELD_ERROR_REQUIRED"),
        (json!({"UF_CRM_MUST": "x", "UF_CRM_TAGS": "44"}), "100"),
        (json!({"UF_CRM_MUST": "x", "UF_CRM_TAGS": ["45"]}), "CRM_FIELD_ERROR_VALUE_NOT_VALID"),
        (json!({"UF_CRM_MUST": "x", "contactIds": [99]}), "CRM_FIELD_ERROR_VALUE_NOT_VALID"),
    ] {
        let (status, refused) = call(&portal, "crm.item.add", add(fields)).await;
        assert_eq!((status, refused["error"].as_str()), (400, Some(code)));
    }
    for number in 0..120 {
        let fields =
            json!({"UF_CRM_MUST": number.to_string(), "UF_CRM_TAGS": ["44"], "opportunity": "5.50", "originId": number.to_string()});
        assert_eq!(call(&portal, "crm.item.add", add(fields)).await.0, 200);
    }
    let (_, first) = call(&portal, "crm.item.list", json!({"entityTypeId": 2})).await;
    assert_eq!((first["result"]["items"].as_array().unwrap().len(), &first["next"], &first["total"]), (50, &json!(50), &json!(120)));
    let (_, last) = call(&portal, "crm.item.list", json!({"entityTypeId": 2, "start": 100})).await;
    assert!(last["result"]["items"].as_array().unwrap().len() == 20 && last["next"].is_null());
    let (_, one) = call(&portal, "crm.item.list", json!({"entityTypeId": 2, "filter": {"=originId": "7"}, "start": -1})).await;
    assert!(one["result"]["items"][0]["opportunity"] == json!(5.5) && one["total"].is_null(), "numbers are numbers");
    let (_, old) = call(&portal, "crm.deal.list", json!({"filter": {"ORIGIN_ID": "7"}})).await;
    assert_eq!((&old["result"][0]["OPPORTUNITY"], old["result"].as_array().unwrap().len()), (&json!("5.5"), 1), "numbers are texts");
    portal.setup(|setup| setup.origin_filter = false);
    let (_, all) = call(&portal, "crm.item.list", json!({"entityTypeId": 2, "filter": {"=originId": "7"}, "start": -1})).await;
    assert_eq!(all["result"]["items"].as_array().unwrap().len(), 50, "a filter that is passed over");
}

#[tokio::test]
async fn limits_go_by_the_clock_of_the_test() {
    let now = Arc::new(AtomicU64::new(1_000_000));
    let seen = now.clone();
    let limits = Limits { operating_s: 1.0, command_s: 0.5, ..Limits::usual() };
    let portal = BitrixPortal::start_with(limits, Arc::new(move || seen.load(Ordering::Relaxed))).await.unwrap();
    for _ in 0..2 {
        assert_eq!(call(&portal, "profile", json!({})).await.0, 200);
    }
    let (status, blocked) = call(&portal, "profile", json!({})).await;
    assert_eq!((status, &blocked["error"]), (429, &json!("OPERATION_TIME_LIMIT")));
    let (_, scope) = call(&portal, "scope", json!({})).await;
    assert_eq!(scope["time"]["operating_reset_at"], 1_600, "the other methods work");
    for _ in 4..50 {
        call(&portal, "scope", json!({})).await;
    }
    let (status, busy) = call(&portal, "scope", json!({})).await;
    assert_eq!((status, &busy["error"]), (503, &json!("QUERY_LIMIT_EXCEEDED")));
    now.fetch_add(600_000, Ordering::Relaxed);
    assert_eq!(call(&portal, "profile", json!({})).await.0, 200);
}

#[tokio::test]
async fn what_is_scripted_happens_once_to_the_request_it_is_for() {
    let portal = BitrixPortal::start().await.unwrap();
    portal.script("crm.item.add", [Play::CloseAfterDoing]);
    portal.script("", [Play::BadGateway]);
    portal.break_commands("\"title\":\"bad\"", 1, "QUERY_LIMIT_EXCEEDED", "");
    let add = json!({"cmd": {"a": "crm.item.add?entityTypeId=2&fields[title]=good", "b": "crm.item.add?entityTypeId=2&fields[title]=bad"}});
    assert_eq!(call(&portal, "profile", json!({})).await.0, 502);
    assert_eq!(call(&portal, "batch", add.clone()).await.0, 0, "no answer");
    assert_eq!(portal.all(DEAL).len(), 1, "it was done all the same, but for the broken command");
    assert_eq!(call(&portal, "batch", add).await.0, 200);
    assert_eq!(portal.all(DEAL).len(), 3, "a blind repeat is a visible duplicate");
}

#[tokio::test]
async fn without_leads_each_becomes_a_deal() {
    let portal = BitrixPortal::start().await.unwrap();
    portal.setup(|setup| setup.mode = 2);
    let (_, made) = call(&portal, "crm.item.add", json!({"entityTypeId": 1, "fields": {"title": "x", "name": "Ivan"}})).await;
    let (lead, deal) = (&portal.all(LEAD)[0], &portal.all(DEAL)[0]);
    assert_eq!((&lead["stageId"], &deal["leadId"], &deal["title"]), (&json!("CONVERTED"), &made["result"]["item"]["id"], &json!("x")));
    assert_eq!(portal.all(CONTACT).len(), 1);
}
