//! Leads that may be there although nobody said so: looked for by our number before they are made.

use serde_json::Value;

use crate::{
    api::{Trouble, embedded, id_of},
    batch::Batch,
    draft::Draft,
};

/// The newest leads that are looked through.
const NEWEST: &str = "100";

impl Batch<'_> {
    /// Looks through the newest leads, which need no index, and answers with those that are not among them.
    pub(crate) fn newest(&mut self, doubtful: &[usize]) -> Result<Vec<usize>, Trouble> {
        if doubtful.is_empty() {
            return Ok(Vec::new());
        }
        let found = if self.api.ctx.config.unsorted {
            let list = self.api.get("leads/unsorted", &[("order[created_at]", "desc"), ("limit", NEWEST)])?;
            list.map(|list| embedded(&list, "unsorted").to_vec())
        } else {
            let list = self.api.get("leads", &[("order[id]", "desc"), ("limit", NEWEST)])?;
            list.map(|list| embedded(&list, "leads").to_vec())
        };
        let found = found.unwrap_or_default();
        let mut absent = Vec::new();
        for at in doubtful {
            let draft = &self.drafts[*at];
            match found.iter().find_map(|seen| identify(draft, seen)) {
                Some(lead) => self.found(*at, lead, &Value::Null),
                None => absent.push(*at),
            }
        }
        Ok(absent)
    }

    /// Asks for one lead by its number. True: it is there.
    pub(crate) fn asked_for(&mut self, at: usize) -> Result<bool, Trouble> {
        let draft = &self.drafts[at];
        let number = if self.api.ctx.config.marker_field.is_some() { draft.key().to_owned() } else { draft.mark() };
        let list = self.api.get("leads", &[("query", &number), ("limit", "50"), ("with", "contacts")])?;
        let found = list.as_ref().map_or(&[][..], |list| embedded(list, "leads"));
        let found = found.iter().find(|lead| draft.is(lead)).and_then(|lead| Some((id_of(lead, "id")?, lead.clone())));
        match found {
            Some((id, lead)) => {
                self.found(at, id, &lead);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn found(&mut self, at: usize, lead: u64, seen: &Value) {
        let first = |name: &str| embedded(seen, name).first().and_then(|entity| id_of(entity, "id"));
        let draft = &mut self.drafts[at];
        draft.memo.lead = Some(lead);
        draft.memo.contact = draft.memo.contact.or_else(|| first("contacts"));
        draft.memo.company = draft.memo.company.or_else(|| first("companies"));
        draft.older = true;
        self.note_down(at);
    }
}

/// The id of the lead that this is, if it is this draft's: a lead, or an incoming one.
fn identify(draft: &Draft<'_>, seen: &Value) -> Option<u64> {
    let form = seen.pointer("/metadata/form_id").and_then(Value::as_str);
    if form == Some(draft.key()) {
        return embedded(seen, "leads").first().and_then(|lead| id_of(lead, "id"));
    }
    if draft.is(seen) { id_of(seen, "id") } else { None }
}
