//! What follows a lead that was made: its note and its task. Neither is worth losing the lead over.

use leadwire_sdk::{Verdict, http::Method, log};
use serde_json::{Value, json};

use crate::{
    api::{Trouble, Written, embedded},
    batch::Batch,
};

/// From this attempt on a lead is delivered without its note or task.
const PATIENCE: u32 = 3;

impl Batch<'_> {
    /// Adds notes and tasks to the leads that are there, and settles them.
    pub(crate) fn tail(&mut self) -> Result<(), Trouble> {
        let made: Vec<usize> = self.open().into_iter().filter(|at| self.drafts[*at].memo.lead.is_some()).collect();
        if made.is_empty() {
            return Ok(());
        }
        match self.notes(&made).and_then(|()| self.tasks(&made)) {
            Ok(()) => {
                for at in made {
                    self.deliver(at);
                }
                Ok(())
            }
            Err(Trouble::Stop(stop)) => Err(Trouble::Stop(stop)),
            Err(Trouble::Later(verdict)) => {
                for at in made {
                    if self.drafts[at].item.attempt < PATIENCE {
                        self.settle(at, &verdict);
                    } else {
                        log::warn(&format!("a lead is in amoCRM without its note or task: {verdict:?}"));
                        self.deliver(at);
                    }
                }
                Ok(())
            }
        }
    }

    fn notes(&mut self, made: &[usize]) -> Result<(), Trouble> {
        let mut due: Vec<usize> = made.iter().copied().filter(|at| !self.drafts[*at].memo.note).collect();
        for at in due.clone() {
            if self.may_have_note(at)? {
                due.retain(|other| *other != at);
            }
        }
        let ctx = self.api.ctx;
        let note = |at: &usize| {
            let draft = &self.drafts[*at];
            json!({ "entity_id": draft.memo.lead, "note_type": "common", "request_id": draft.key(), "params": { "text": draft.note(ctx) } })
        };
        let body: Vec<Value> = due.iter().map(note).collect();
        self.append("leads/notes", &body)?;
        for at in due {
            self.drafts[at].memo.note = true;
            if self.drafts[at].task.is_some() {
                self.note_down(at);
            }
        }
        Ok(())
    }

    /// An earlier attempt may have written it: the lead's notes say.
    fn may_have_note(&mut self, at: usize) -> Result<bool, Trouble> {
        let draft = &self.drafts[at];
        let (true, Some(lead)) = (draft.older && draft.item.maybe_sent, draft.memo.lead) else { return Ok(false) };
        let notes = self.api.get(&format!("leads/{lead}/notes"), &[("limit", "50"), ("order[id]", "desc")])?;
        let text = squeezed(&draft.note(self.api.ctx));
        let same = |note: &Value| note.pointer("/params/text").and_then(Value::as_str).map(squeezed) == Some(text.clone());
        let there = notes.is_some_and(|notes| embedded(&notes, "notes").iter().any(same));
        self.drafts[at].memo.note = there;
        Ok(there)
    }

    fn tasks(&mut self, made: &[usize]) -> Result<(), Trouble> {
        let ctx = self.api.ctx;
        let till = ctx.now_ms() / 1_000 + ctx.config.task_due_minutes.saturating_mul(60);
        let mut body = Vec::new();
        for at in made {
            let draft = &self.drafts[*at];
            let (Some(text), Some(lead)) = (&draft.task, draft.memo.lead) else { continue };
            if draft.older && draft.item.maybe_sent && self.has_task(lead, text)? {
                continue;
            }
            let mut task = json!({ "text": text, "entity_type": "leads", "entity_id": lead, "task_type_id": ctx.config.task_type_id,
                "complete_till": till, "request_id": draft.key() });
            if let Some(doer) = draft.doer(ctx) {
                task["responsible_user_id"] = json!(doer);
            }
            body.push(task);
        }
        self.append("tasks", &body)
    }

    fn has_task(&self, lead: u64, text: &str) -> Result<bool, Trouble> {
        let id = lead.to_string();
        let query = [("filter[entity_type]", "leads"), ("filter[entity_id]", id.as_str()), ("limit", "50")];
        let tasks = self.api.get("tasks", &query)?;
        // The filter may not be there: the answer's own words count.
        let same = |task: &Value| {
            task.get("entity_id").and_then(Value::as_u64) == Some(lead)
                && task.get("text").and_then(Value::as_str).map(squeezed) == Some(squeezed(text))
        };
        Ok(tasks.is_some_and(|tasks| embedded(&tasks, "tasks").iter().any(same)))
    }

    fn append(&self, path: &str, body: &[Value]) -> Result<(), Trouble> {
        if body.is_empty() {
            return Ok(());
        }
        match self.api.write(Method::Post, path, &json!(body))? {
            Written::Done(_) => Ok(()),
            Written::Refused(problem) => {
                log::warn(&format!("amoCRM refused {path}, so the leads stay without: {}", problem.text));
                Ok(())
            }
            Written::Lost(verdict) => Err(Trouble::Later(verdict)),
        }
    }

    fn deliver(&mut self, at: usize) {
        let memo = &self.drafts[at].memo;
        let ids = [("lead", memo.lead), ("contact", memo.contact), ("company", memo.company)];
        let config = &self.api.ctx.config;
        let page = memo.lead.map(|lead| format!("https://{}.{}/leads/detail/{lead}", config.subdomain, config.zone));
        let verdict = ids
            .into_iter()
            .filter_map(|(name, id)| Some((name, id?)))
            .fold(Verdict::delivered(), |verdict, (name, id)| verdict.with_ref(name, id));
        let verdict = match page {
            Some(page) => verdict.with_url(page),
            None => verdict,
        };
        self.settle(at, &verdict);
    }
}

/// amoCRM trims texts and may write their lines otherwise.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
