//! What a project's notification rules tell: one message at once, and what follows within the quiet period as one more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::{Notice, NoticeKind, Timestamp};

/// What is kept of single events for a message; all are counted.
const KEPT: usize = 5;
/// Longest reason that is kept.
const MAX_WHY: usize = 300;

/// What a rule has not told yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// How many of each kind.
    pub counts: BTreeMap<NoticeKind, u64>,
    /// The first ones.
    pub events: Vec<Value>,
}

impl Digest {
    /// Adds one.
    pub fn add(&mut self, notice: &Notice) {
        *self.counts.entry(notice.kind).or_default() += 1;
        if self.events.len() < KEPT {
            let why = notice.why.as_ref().map(|why| why.chars().take(MAX_WHY).collect::<String>());
            let (credential, channel) = notice.credential.clone().unzip();
            self.events.push(json!({
                "kind": notice.kind, "at": notice.at, "batch_id": notice.batch, "lead_id": notice.lead, "credential_id": credential,
                "channel": channel, "why": why,
            }));
        }
    }

    /// Forgets the single events about these leads; they stay counted. Whether there were any.
    pub fn forget(&mut self, leads: &std::collections::HashSet<String>) -> bool {
        let before = self.events.len();
        self.events.retain(|event| !event.get("lead_id").and_then(Value::as_str).is_some_and(|id| leads.contains(id)));
        self.events.len() < before
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// As the message's data, with the usual words in it.
    pub fn message(&self, rule: &str, locale: &str) -> Value {
        json!({"rule": rule, "total": self.total(), "counts": self.counts, "events": self.events, "text": self.text(locale)})
    }

    fn text(&self, locale: &str) -> String {
        let russian = locale.split(['-', '_']).next() == Some("ru");
        let mut lines = Vec::new();
        for (kind, count) in &self.counts {
            let times = if *count > 1 { format!(" × {count}") } else { String::new() };
            lines.push(format!("{}{times}", words(*kind, russian)));
        }
        for event in &self.events {
            let field = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
            let parts = [field("channel"), field("why"), field("lead_id")];
            lines.push(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "));
        }
        let more = self.total().saturating_sub(self.events.len() as u64);
        if more > 0 {
            lines.push(if russian { format!("… и ещё {more}") } else { format!("… and {more} more") });
        }
        lines.join("\n")
    }
}

/// When a rule may speak again.
pub fn due(quiet_until: Option<Timestamp>, now: Timestamp) -> Timestamp {
    quiet_until.map_or(now, |until| until.max(now))
}

fn words(kind: NoticeKind, russian: bool) -> &'static str {
    match (kind, russian) {
        (NoticeKind::Completed, true) => "Лид доставлен",
        (NoticeKind::Partial, true) => "Лид доставлен не везде",
        (NoticeKind::Failed, true) => "Лид не доставлен",
        (NoticeKind::Cancelled, true) => "Отправка лида отменена",
        (NoticeKind::Unrouted, true) => "Лид некуда отправить",
        (NoticeKind::CredentialInvalid, true) => "Канал отклонил доступ: доставки ждут исправления настроек",
        (NoticeKind::BreakerOpen, true) => "Канал не отвечает: доставки ждут",
        (NoticeKind::PluginFault, true) => "Сбой плагина",
        (NoticeKind::Completed, false) => "Lead delivered",
        (NoticeKind::Partial, false) => "Lead not delivered everywhere",
        (NoticeKind::Failed, false) => "Lead not delivered",
        (NoticeKind::Cancelled, false) => "Lead withdrawn",
        (NoticeKind::Unrouted, false) => "Nowhere to send the lead",
        (NoticeKind::CredentialInvalid, false) => "A channel refused the credential: its deliveries wait for an admin",
        (NoticeKind::BreakerOpen, false) => "A channel does not work: its deliveries wait",
        (NoticeKind::PluginFault, false) => "A plugin failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BatchId, LeadId, ProjectId};

    #[test]
    fn an_outage_is_one_message() {
        let nil = uuid::Uuid::nil();
        let notice = Notice {
            kind: NoticeKind::Failed,
            project: ProjectId::from_uuid(nil),
            batch: BatchId::from_uuid(nil),
            lead: LeadId::from_uuid(nil),
            credential: None,
            why: Some("telegram: http_500".into()),
            at: Timestamp::from_millis(0),
        };
        let mut digest = Digest::default();
        (0..1_000).for_each(|_| digest.add(&notice));
        digest.add(&Notice { kind: NoticeKind::Partial, ..notice });
        let message = digest.message("night", "en");
        assert_eq!((&message["total"], &message["counts"]["failed"]), (&json!(1_001), &json!(1_000)));
        let text = message["text"].as_str().unwrap();
        assert!(
            text.starts_with("Lead not delivered everywhere\nLead not delivered × 1000\n") && text.ends_with("\n… and 996 more"),
            "{text}"
        );
        assert!(serde_json::to_string(&digest).unwrap().len() < 4_096);
    }

    #[test]
    fn a_rule_that_spoke_keeps_quiet_for_a_while() {
        let at = Timestamp::from_millis;
        assert_eq!((due(None, at(5)), due(Some(at(3)), at(5)), due(Some(at(9)), at(5))), (at(5), at(5), at(9)));
    }
}
