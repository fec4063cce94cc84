use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn call(amo: &AmoCrm, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut socket = TcpStream::connect(amo.addr()).await.unwrap();
    let request = format!(
        "{method} /api/v4/{path} HTTP/1.1\r\nAuthorization: Bearer some-token\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn lead(name: &str) -> Value {
    let phone = json!([{"field_code": "PHONE", "values": [{"value": "+79161234567", "enum_code": "WORK"}]}]);
    json!({"name": name, "request_id": name, "_embedded": {"contacts": [{"name": "Ivan", "custom_fields_values": phone}], "companies": [{"name": "Acme"}]}})
}

#[tokio::test]
async fn a_lead_comes_with_its_contact_and_company_and_is_found() {
    let amo = AmoCrm::start().await.unwrap();
    assert_eq!(call(&amo, "GET", "contacts?query=9161234567", &Value::Null).await, (204, Value::Null));
    let (status, made) = call(&amo, "POST", "leads/complex", &json!([lead("one")])).await;
    assert_eq!((status, &made[0]["request_id"], &made[0]["merged"]), (200, &json!(["one"]), &json!(false)), "{made}");
    let (_, found) = call(&amo, "GET", "contacts?query=9161234567", &Value::Null).await;
    assert_eq!(found["_embedded"]["contacts"][0]["id"], made[0]["contact_id"]);
    assert_eq!(found["_embedded"]["contacts"][0]["_embedded"]["companies"][0]["id"], made[0]["company_id"]);
    amo.indexes(false);
    call(&amo, "POST", "leads/complex", &json!([lead("two")])).await;
    assert_eq!(call(&amo, "GET", "leads?query=two", &Value::Null).await.0, 204);
    let (_, newest) = call(&amo, "GET", "leads?order[id]=desc&limit=1", &Value::Null).await;
    assert_eq!(newest["_embedded"]["leads"][0]["name"], "two");
    assert_eq!(newest["_embedded"]["leads"][0]["request_id"], Value::Null, "it is not stored");
}

#[tokio::test]
async fn one_bad_lead_refuses_the_request_and_is_named() {
    let amo = AmoCrm::start().await.unwrap();
    let field = amo.add_field("leads", "select", None, &["A", "B"]);
    let mut bad = lead("bad");
    bad["custom_fields_values"] = json!([{"field_id": field, "values": [{"value": "C"}]}, {"field_id": 1, "values": [{"value": "C"}]}]);
    let both = json!([lead("good"), bad]);
    let (status, answer) = call(&amo, "POST", "leads/complex", &both).await;
    let errors = &answer["validation-errors"];
    assert_eq!((status, &errors[0]["request_id"], errors[0]["errors"].as_array().unwrap().len()), (400, &json!("bad"), 2), "{answer}");
    assert_eq!(errors[0]["errors"][1]["path"], "custom_fields_values.1.field_id");
    assert!(amo.leads().is_empty());
    amo.saves_the_sound(true);
    assert_eq!(call(&amo, "POST", "leads/complex", &both).await.0, 400);
    assert_eq!(amo.leads().len(), 1);
    let many: Vec<Value> = (0..51).map(|number| lead(&number.to_string())).collect();
    assert_eq!(call(&amo, "POST", "leads/complex", &json!(many)).await.0, 400);
    assert_eq!(call(&amo, "POST", "leads/complex", &json!(many[..50])).await.0, 200);
    amo.merges(true);
    assert_eq!(call(&amo, "POST", "leads/complex", &json!([lead("again")])).await.1[0]["merged"], true);
    assert_eq!(amo.leads().len(), 51);
}

#[tokio::test]
async fn the_eighth_request_of_a_second_is_too_many_and_the_block_comes_later() {
    let clock: ClockFn = Arc::new(|| 5);
    let amo = AmoCrm::start_with(Limits { per_second: 7, block_after: 2 }, clock).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..11 {
        answers.push(call(&amo, "GET", "account", &Value::Null).await.0);
    }
    assert_eq!(answers, [200, 200, 200, 200, 200, 200, 200, 429, 429, 403, 403]);
    amo.block(false);
    assert_eq!((amo.calls().len(), amo.too_many()), (11, 3));
}

#[tokio::test]
async fn an_account_without_filters_answers_with_everyone() {
    let amo = AmoCrm::start().await.unwrap();
    amo.add_contact("Ann", "+79160000001", &[]);
    amo.add_contact("Bob", "+79160000002", &[]);
    let count = async || {
        call(&amo, "GET", "contacts?filter[custom_fields_values][PHONE]=%2B79160000001", &Value::Null).await.1["_embedded"]["contacts"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!(count().await, 1);
    amo.filters(false);
    assert_eq!(count().await, 2);
}
