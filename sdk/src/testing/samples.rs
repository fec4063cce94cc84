//! A lead and an event to start from.

use crate::{Attr, Event, Item, Lead, Money, Origin, Payload, Phone};

/// A lead with every field filled.
pub fn lead() -> Lead {
    Lead {
        id: "lead_1".into(),
        created_ms: super::NOW_MS,
        title: Some("Заявка с сайта".into()),
        name: Some("Иван Петров".into()),
        company: Some("Рога & Копыта".into()),
        phones: vec![Phone { raw: "8 (916) 123-45-67".into(), e164: Some("+79161234567".into()) }],
        emails: vec!["ivan@example.com".into()],
        comment: Some("Перезвонить".into()),
        value: Some(Money { minor: 150_000, exponent: 2, currency: "RUB".into() }),
        origin: Origin {
            page: Some("https://shop.example/landing".into()),
            referrer: None,
            form: Some("callback".into()),
            ip: Some("203.0.113.7".into()),
            user_agent: None,
            utm_source: Some("yandex".into()),
            utm_medium: Some("cpc".into()),
            utm_campaign: Some("spring".into()),
            utm_term: None,
            utm_content: None,
            ids: vec![Attr { name: "yclid".into(), value: "123".into() }],
        },
        attrs: Vec::new(),
        extra: r#"{"car":"Lada Vesta"}"#.into(),
    }
}

/// An event of a remote system.
pub fn event() -> Event {
    Event {
        kind: "deal.updated".into(),
        external_id: "77".into(),
        dedup_key: "deal.updated:77:1".into(),
        at_ms: Some(super::NOW_MS),
        data: r#"{"STAGE_ID":"C1:NEW"}"#.into(),
    }
}

/// The first attempt of [`lead`], with the id `dlv_1`.
pub fn item() -> Item {
    item_of(lead())
}

/// The first attempt of this lead, with the id `dlv_1`.
pub fn item_of(lead: Lead) -> Item {
    with(Payload::Lead(lead))
}

/// The first attempt of this event, with the id `dlv_1`.
pub fn event_item(event: Event) -> Item {
    with(Payload::Event(event))
}

fn with(payload: Payload) -> Item {
    Item {
        id: "dlv_1".into(),
        idempotency_key: "dlv_1".into(),
        attempt: 1,
        maybe_sent: false,
        memo: None,
        fields: "{}".into(),
        refs: Vec::new(),
        payload,
    }
}
