//! One lead on its way: what must be asked about it, what the answers say, and what became of it.

use leadwire_sdk::{Context, Item, Lead, Payload, Verdict, log};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{CONTACT_TYPE, Config, Contacts, ORIGINATOR, command::Command, fault::Fault, person, portal::Replies};

/// One lead on its way.
pub(crate) struct Work<'a> {
    pub(crate) item: &'a Item,
    pub(crate) lead: &'a Lead,
    /// Not settled yet.
    pub(crate) open: bool,
    pub(crate) contact: Option<u64>,
    /// The work whose contact this one shares, because both are of one person.
    pub(crate) leader: Option<usize>,
    pub(crate) state: State,
    /// What the contact could not hold.
    pub(crate) left_out: Vec<String>,
}

/// What is known of the record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// To be made.
    New,
    /// An earlier delivery made it.
    Earlier(u64),
    /// An earlier attempt of this delivery made it; whether its comment is there too.
    Found { id: u64, noted: bool },
}

/// What an earlier attempt of the delivery has done.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memo {
    contact: Option<u64>,
}

impl<'a> Work<'a> {
    /// `None` when there is nothing to bring into the portal.
    pub(crate) fn open(ctx: &Context<Config>, item: &'a Item) -> Option<Self> {
        let Payload::Lead(lead) = &item.payload else {
            item.settle(&Verdict::rejected("not_a_lead", "a Bitrix24 credential takes leads, and no messages about them"));
            return None;
        };
        let number = |text: &str| text.parse::<u64>().ok();
        let memo: Memo = item.memo.as_deref().and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_default();
        let contact = memo.contact.or_else(|| item.reference("contact").and_then(number));
        let earlier = item.reference(ctx.config.entity.word()).and_then(number);
        let state = earlier.map_or(State::New, State::Earlier);
        Some(Self { item, lead, open: true, contact, leader: None, state, left_out: Vec::new() })
    }

    /// What is to be asked before something is written for this lead.
    pub(crate) fn questions(&self, ctx: &Context<Config>, at: usize) -> Vec<Command> {
        let entity = ctx.config.entity;
        let mut all = Vec::new();
        let origin = json!({ "=originatorId": ORIGINATOR, "=originId": self.item.idempotency_key });
        if self.item.maybe_sent && self.state == State::New {
            let list = Command::new(format!("l{at}"), "crm.item.list").with("entityTypeId", entity.type_id());
            all.push(list.with("filter", origin.clone()).with("select", json!(["id", "originatorId", "originId"])).with("start", -1));
            // The newer list does not say that it knows these filters; the older one does.
            let filter = json!({ "ORIGINATOR_ID": ORIGINATOR, "ORIGIN_ID": self.item.idempotency_key });
            let list = Command::new(format!("k{at}"), entity.old_list());
            all.push(list.with("filter", filter).with("select", json!(["ID", "ORIGINATOR_ID", "ORIGIN_ID"])).with("start", -1));
        }
        if !self.asks_for_contact(ctx) {
            return all;
        }
        let find = |name: String, kind: &str, values: Vec<String>| {
            let command = Command::new(name, "crm.duplicate.findbycomm").with("type", kind).with("entity_type", "CONTACT");
            (!values.is_empty()).then(|| command.with("values", json!(values)))
        };
        all.extend(find(format!("p{at}"), "PHONE", person::phones(self.lead)));
        all.extend(find(format!("e{at}"), "EMAIL", person::emails(self.lead)));
        if self.item.maybe_sent && ctx.config.contacts() == Contacts::Create {
            let list = Command::new(format!("o{at}"), "crm.item.list").with("entityTypeId", CONTACT_TYPE);
            all.push(list.with("filter", origin).with("select", json!(["id", "originatorId", "originId"])).with("start", -1));
        }
        all
    }

    fn asks_for_contact(&self, ctx: &Context<Config>) -> bool {
        self.contact.is_none() && self.state == State::New && ctx.config.contacts() != Contacts::None
    }

    /// Takes the answers in.
    pub(crate) fn learn(&mut self, ctx: &Context<Config>, at: usize, replies: &Replies) -> Result<(), Fault> {
        let asked_for_contact = self.asks_for_contact(ctx);
        if self.item.maybe_sent && self.state == State::New {
            let newer = self.own(replies.get::<Items>(&format!("l{at}")).map(|found| found.items));
            let older = self.own(replies.get::<Vec<Value>>(&format!("k{at}")));
            match (newer, older) {
                (Ok(Some(id)), _) | (_, Ok(Some(id))) => self.state = State::Found { id, noted: !ctx.config.note },
                // One list that can be asked and has nothing is enough.
                (Ok(None), _) | (_, Ok(None)) => {}
                (Err(fault), Err(_)) => return Err(fault.undecided()),
            }
        }
        if asked_for_contact {
            let by_phone = found(replies, &format!("p{at}"), !person::phones(self.lead).is_empty())?;
            let by_email = found(replies, &format!("e{at}"), !person::emails(self.lead).is_empty())?;
            self.contact = person::choose(&by_phone, &by_email);
            if self.contact.is_none() && self.item.maybe_sent && ctx.config.contacts() == Contacts::Create {
                self.contact = self.own(replies.get::<Items>(&format!("o{at}")).map(|found| found.items)).ok().flatten();
            }
        }
        Ok(())
    }

    /// The first record of these that carries this delivery's origin. A portal that does not know the filter answers with
    /// others, which says nothing.
    fn own(&self, found: Result<Vec<Value>, Fault>) -> Result<Option<u64>, Fault> {
        let records = found?;
        let text = |record: &Value, names: [&str; 2]| names.iter().find_map(|name| record.get(*name)).map(crate::value::plain);
        let is_own = |record: &&Value| {
            text(record, ["originId", "ORIGIN_ID"]).is_some_and(|origin| origin == self.item.idempotency_key)
                && text(record, ["originatorId", "ORIGINATOR_ID"]).is_some_and(|originator| originator == ORIGINATOR)
        };
        let own = records.iter().filter(is_own).filter_map(|record| text(record, ["id", "ID"])?.parse::<u64>().ok()).min();
        if own.is_none() && !records.is_empty() {
            return Err(Fault::Refused { code: "origin_filter".into(), text: "the portal does not filter by origin".into() });
        }
        Ok(own)
    }

    pub(crate) fn wants_contact(&self) -> bool {
        let somebody = self.lead.name.is_some() || !self.lead.phones.is_empty() || !self.lead.emails.is_empty();
        self.open && somebody && self.contact.is_none() && self.state == State::New
    }

    pub(crate) fn has_contact(&mut self, contact: u64) {
        self.contact = Some(contact);
        if let Ok(memo) = serde_json::to_string(&Memo { contact: Some(contact) }) {
            self.item.checkpoint(&memo);
        }
    }

    pub(crate) fn receipt(&self, ctx: &Context<Config>, verdict: Verdict, id: u64) -> Verdict {
        let verdict = verdict.with_ref(ctx.config.entity.word(), id).with_url(ctx.config.url(id));
        match self.contact {
            Some(contact) => verdict.with_ref("contact", contact),
            None => verdict,
        }
    }

    pub(crate) fn settle(&mut self, verdict: &Verdict) {
        if self.open {
            self.open = false;
            self.item.settle(verdict);
        }
    }
}

#[derive(Debug, Deserialize)]
struct Items {
    items: Vec<Value>,
}

/// Ids of the contacts found; none where nothing was asked.
fn found(replies: &Replies, name: &str, asked: bool) -> Result<Vec<u64>, Fault> {
    if !asked {
        return Ok(Vec::new());
    }
    match replies.get::<Value>(name) {
        // Without hits it is an empty list.
        Ok(hits) => {
            let ids = hits.get("CONTACT").and_then(Value::as_array).into_iter().flatten();
            Ok(ids.filter_map(|id| crate::value::plain(id).parse().ok()).collect())
        }
        Err(Fault::Refused { code, text }) => {
            log::warn(&format!("the portal does not look for a contact ({code}): {text}"));
            Ok(Vec::new())
        }
        Err(other) => Err(other),
    }
}
