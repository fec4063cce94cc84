//! Who is told when a batch ends, and in what words.

use serde_json::{Value, json};

use super::batch_status::{batch_status, lead_status};
use crate::model::{BatchCounts, BatchStatus, Callback, Callbacks, DeliveryStatus, Event, LeadStatus, NoticeKind};

/// Which of a batch's callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// All deliveries have ended, whatever the result.
    Then,
    /// The batch could not run, or failed as a whole.
    Catch,
    /// Always.
    Finally,
}

impl Moment {
    /// As the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Then => "then",
            Self::Catch => "catch",
            Self::Finally => "finally",
        }
    }
}

/// Who is told, in order, that a batch with these counts has ended. A batch without deliveries could not run: nothing of
/// it has ended. One that was cancelled has ended, and failed nowhere.
pub fn due<'a>(callbacks: &'a Callbacks, counts: &BatchCounts) -> impl Iterator<Item = (Moment, &'a Callback)> + use<'a> {
    let status = batch_status(counts);
    let ran = counts.total > 0;
    let ended = status != BatchStatus::Pending;
    let lists = [
        (Moment::Then, &callbacks.then, ended && ran),
        (Moment::Catch, &callbacks.catch, ended && (!ran || status == BatchStatus::Failed)),
        (Moment::Finally, &callbacks.finally, ended),
    ];
    lists.into_iter().filter(|(.., applies)| *applies).flat_map(|(moment, list, _)| list.iter().map(move |callback| (moment, callback)))
}

/// What a batch with these counts has become; `None`: it has not ended. Its name is the last part of an event's name.
pub fn ending(counts: &BatchCounts) -> Option<NoticeKind> {
    match (lead_status(counts), batch_status(counts)) {
        (LeadStatus::Unrouted, _) => Some(NoticeKind::Unrouted),
        (_, BatchStatus::Pending) => None,
        (_, BatchStatus::Completed) => Some(NoticeKind::Completed),
        (_, BatchStatus::Partial) => Some(NoticeKind::Partial),
        (_, BatchStatus::Failed) => Some(NoticeKind::Failed),
        (_, BatchStatus::Cancelled) => Some(NoticeKind::Cancelled),
    }
}

/// The counts as the API shows them.
pub fn counts_json(counts: &BatchCounts) -> Value {
    let BatchCounts { pending, delivered, skipped, failed, in_doubt, cancelled, .. } = counts;
    json!({"pending": pending, "delivered": delivered, "skipped": skipped, "failed": failed, "in_doubt": in_doubt, "cancelled": cancelled})
}

/// One delivery as an event tells of it.
pub fn delivery_json(id: &str, channel: &str, credential: &str, status: DeliveryStatus, code: Option<&str>) -> Value {
    let code = code.filter(|_| !matches!(status, DeliveryStatus::Delivered));
    json!({"id": id, "channel": channel, "credential_id": credential, "status": status.name(), "code": code})
}

/// The usual text of an event, for channels that send text.
pub fn text(event: &Event, locale: &str) -> String {
    let russian = locale.split(['-', '_']).next() == Some("ru");
    let data = &event.data;
    let word = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    if let Some(text) = data.get("text").and_then(Value::as_str) {
        return text.to_owned();
    }
    let of = |state: &str| data.pointer(&format!("/counts/{state}")).and_then(Value::as_u64).unwrap_or(0);
    let total = data.get("total").and_then(Value::as_u64).unwrap_or(0);
    let mut lines = vec![if russian {
        format!("Отправка {}: доставлено {} из {total}", ending_in(event, true), of("delivered") + of("skipped"))
    } else {
        format!("The batch {}: {} of {total} delivered", ending_in(event, false), of("delivered") + of("skipped"))
    }];
    for delivery in data.get("deliveries").and_then(Value::as_array).into_iter().flatten() {
        let field = |name: &str| delivery.get(name).and_then(Value::as_str).unwrap_or_default();
        let code = if field("code").is_empty() { String::new() } else { format!(" ({})", field("code")) };
        lines.push(format!("{}: {}{code}", field("channel"), field("status")));
    }
    let label = if russian { "Лид" } else { "Lead" };
    let own = if word("external_id").is_empty() { String::new() } else { format!(" ({})", word("external_id")) };
    lines.push(format!("{label}: {}{own}", word("lead_id")));
    lines.join("\n")
}

fn ending_in(event: &Event, russian: bool) -> &str {
    let ending = event.kind.rsplit('.').next().unwrap_or_default();
    match (ending, russian) {
        ("completed", true) => "завершена",
        ("partial", true) => "завершена частично",
        ("failed", true) => "не удалась",
        ("cancelled", true) => "отменена",
        ("unrouted", true) => "не состоялась: нет подходящих каналов",
        ("completed", false) => "is completed",
        ("partial", false) => "is completed in part",
        ("failed", false) => "has failed",
        ("cancelled", false) => "was cancelled",
        ("unrouted", false) => "could not run: no credential wanted it",
        (other, _) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CredentialId, Timestamp};

    fn callbacks() -> Callbacks {
        let one = || {
            vec![Callback {
                credential: CredentialId::from_uuid(uuid::Uuid::nil()),
                channel: "webhook".into(),
                settings: None,
                template: None,
            }]
        };
        Callbacks { then: one(), catch: one(), finally: one() }
    }

    fn counts(pending: u32, delivered: u32, failed: u32, cancelled: u32) -> BatchCounts {
        BatchCounts { total: pending + delivered + failed + cancelled, pending, delivered, failed, cancelled, ..BatchCounts::default() }
    }

    #[test]
    fn each_ending_tells_its_own() {
        for (counts, told, ending) in [
            (counts(1, 0, 1, 0), vec![], "pending"),
            (counts(0, 2, 0, 0), vec!["then", "finally"], "completed"),
            (counts(0, 1, 1, 0), vec!["then", "finally"], "partial"),
            (counts(0, 0, 1, 1), vec!["then", "catch", "finally"], "failed"),
            (counts(0, 0, 0, 2), vec!["then", "finally"], "cancelled"),
            (counts(0, 0, 0, 0), vec!["catch", "finally"], "unrouted"),
        ] {
            let callbacks = callbacks();
            assert_eq!(due(&callbacks, &counts).map(|(moment, _)| moment.name()).collect::<Vec<_>>(), told, "{counts:?}");
            assert_eq!(super::ending(&counts).map_or("pending", NoticeKind::name), ending);
        }
    }

    #[test]
    fn the_usual_text_says_what_became_of_each_delivery() {
        let event = Event {
            kind: "batch.partial".into(),
            external_id: "bat_1".into(),
            at: Timestamp::from_millis(0),
            data: json!({"lead_id": "lead_1", "external_id": "form-7", "total": 2, "counts": counts_json(&counts(0, 1, 1, 0)), "deliveries": [
                delivery_json("dlv_1", "webhook", "crd_1", DeliveryStatus::Delivered, Some("http_500")),
                delivery_json("dlv_2", "telegram", "crd_2", DeliveryStatus::Failed, Some("telegram_400")),
            ]}),
            template: None,
        };
        assert_eq!(
            text(&event, "en-GB"),
            "The batch is completed in part: 1 of 2 delivered\nwebhook: delivered\ntelegram: failed (telegram_400)\nLead: lead_1 (form-7)"
        );
        assert!(text(&event, "ru").starts_with("Отправка завершена частично: доставлено 1 из 2\n"));
    }
}
