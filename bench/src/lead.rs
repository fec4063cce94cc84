//! The leads that are sent: about 600 bytes, each with a number and the time at which it was due.

use bytes::Bytes;

const NUMBER: &str = "bench_lead";
const DUE: &str = "bench_due_us";

/// Lead `number` as a request body. It arrives with both figures in its own fields, whatever a channel makes of the rest.
pub fn body(number: u64, due_us: u64) -> Bytes {
    let phone = number % 10_000_000;
    Bytes::from(format!(
        r#"{{"project":"ext:bench","external_id":"bench-{number}","title":"Заявка с сайта","name":"Иван Петров {number}","phones":["+7 916 {phone:07}"],"emails":["ivan.{number}@example.com"],"comment":"Перезвонить после обеда","value":{{"amount":"1500.00","currency":"RUB"}},"origin":{{"page":"https://shop.example/landing","form":"callback","ip":"203.0.113.7","utm_source":"yandex","utm_medium":"cpc","utm_campaign":"spring","ids":{{"yclid":"{number}"}}}},"fields":{{"car":"Lada Vesta","{NUMBER}":{number},"{DUE}":{due_us}}}}}"#
    ))
}

/// Number and due time of the lead in what a channel sent.
pub fn read(body: &[u8]) -> Option<(u64, u64)> {
    Some((figure(body, NUMBER)?, figure(body, DUE)?))
}

/// The number after a name in raw JSON, without parsing all of it.
fn figure(body: &[u8], name: &str) -> Option<u64> {
    let at = body.windows(name.len()).position(|window| window == name.as_bytes())? + name.len();
    let rest = body.get(at..)?.strip_prefix(b"\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_again() {
        let body = body(12_345_678, 42);
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["phones"][0], "+7 916 2345678");
        assert_eq!(read(&body), Some((12_345_678, 42)));
        assert_eq!(read(b"{}"), None);
    }
}
