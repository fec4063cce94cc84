//! The leads of one call, step by step: look for those in doubt, find contacts, make leads, add notes and tasks.

use std::collections::BTreeSet;

use leadwire_sdk::{Context, Item, Stop, Verdict};

use crate::{
    Config,
    api::{Api, Trouble},
    contact::{self, Known},
    draft::{Dictionary, Draft},
    fields::{Entity, Fields},
};

/// The leads of one call.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) api: Api<'a>,
    pub(crate) drafts: Vec<Draft<'a>>,
    /// Contacts of this call: the search does not know those it made.
    pub(crate) met: Vec<(String, Known)>,
    pub(crate) fields: Dictionary,
}

impl<'a> Batch<'a> {
    /// Reads the items; what can never be sent has its verdict then.
    pub(crate) fn new(ctx: &'a Context<Config>, items: &'a [Item]) -> Self {
        let draft = |item: &'a Item| Draft::new(ctx, item).map_err(|verdict| item.settle(&verdict)).ok();
        let drafts = items.iter().filter_map(draft).collect();
        Self { api: Api::new(ctx), drafts, met: Vec::new(), fields: Dictionary::default() }
    }

    /// Does all of it. What there was no time for goes back to the queue for the next second.
    pub(crate) fn run(mut self) -> Result<(), Stop> {
        let made = self.make();
        // A lead that was made gets its note also when the one after it met with trouble.
        let done = if matches!(made, Err(Trouble::Stop(_))) { made } else { self.tail().and(made) };
        match done {
            Ok(()) if self.drafts.iter().all(|draft| draft.settled) => Ok(()),
            Ok(()) => Err(Stop::rate_limited(Some(1_000))),
            Err(Trouble::Stop(stop)) => Err(stop),
            Err(Trouble::Later(verdict)) => {
                for at in self.open() {
                    self.settle(at, &verdict);
                }
                Ok(())
            }
        }
    }

    fn make(&mut self) -> Result<(), Trouble> {
        self.update()?;
        let open = self.unmade();
        if open.is_empty() {
            return Ok(());
        }
        self.load_fields()?;
        let doubtful: Vec<usize> = open.into_iter().filter(|at| self.drafts[*at].in_doubt()).collect();
        let newest = self.newest(&doubtful)?;
        let taken = self.take(&newest)?;
        self.create(taken)
    }

    /// Takes as many leads as the call has requests for, finds out whether they are there, and whose they are.
    fn take(&mut self, absent: &[usize]) -> Result<Vec<usize>, Trouble> {
        let mut taken = Vec::new();
        for at in self.unmade() {
            let draft = &self.drafts[at];
            let doubtful = absent.contains(&at);
            let need = u32::try_from(draft.person.searches().len()).unwrap_or(u32::MAX).saturating_add(u32::from(doubtful));
            let after = 2 + u32::from(self.drafts.iter().any(|draft| draft.task.is_some()));
            if !taken.is_empty() && self.api.left() < need.saturating_add(after) {
                break;
            }
            if doubtful && self.asked_for(at)? {
                continue;
            }
            let met = self.acquainted(at);
            let known = match met {
                Some(known) => Some(known),
                None => contact::find(&self.api, &self.drafts[at].person)?,
            };
            self.drafts[at].known = known;
            taken.push(at);
        }
        Ok(taken)
    }

    /// The contact of this call that a lead belongs to.
    pub(crate) fn acquainted(&self, at: usize) -> Option<Known> {
        let keys = self.drafts[at].person.keys();
        self.met.iter().find(|(key, _)| keys.contains(key)).map(|(_, known)| *known)
    }

    pub(crate) fn load_fields(&mut self) -> Result<(), Trouble> {
        let wants = |entity| -> BTreeSet<String> { self.drafts.iter().flat_map(|draft| draft.wants(entity)).map(str::to_owned).collect() };
        let mut leads = wants(Entity::Lead);
        leads.extend(Dictionary::usual(self.api.ctx));
        let load = |entity, wanted| Fields::load(&self.api, entity, &wanted);
        let fields = Dictionary {
            leads: load(Entity::Lead, leads)?,
            contacts: load(Entity::Contact, wants(Entity::Contact))?,
            companies: load(Entity::Company, wants(Entity::Company))?,
        };
        if let Some(name) = &self.api.ctx.config.marker_field
            && !fields.leads.field(&name.to_string()).is_some_and(|field| matches!(field.kind.as_str(), "text" | "textarea" | ""))
        {
            let text =
                format!("marker_field: leads have no text field `{name}` in this account; without it a lead could not be found again");
            return Err(Trouble::Stop(Stop::misconfigured(text)));
        }
        self.fields = fields;
        Ok(())
    }

    /// Those without a verdict.
    pub(crate) fn open(&self) -> Vec<usize> {
        (0..self.drafts.len()).filter(|at| !self.drafts[*at].settled).collect()
    }

    /// Those of them that are not in amoCRM yet, as far as we know.
    pub(crate) fn unmade(&self) -> Vec<usize> {
        self.open().into_iter().filter(|at| self.drafts[*at].memo.lead.is_none()).collect()
    }

    pub(crate) fn settle(&mut self, at: usize, verdict: &Verdict) {
        let draft = &mut self.drafts[at];
        draft.item.settle(verdict);
        draft.settled = true;
    }

    /// Keeps for the next attempt what is known now.
    pub(crate) fn note_down(&self, at: usize) {
        let draft = &self.drafts[at];
        draft.item.checkpoint(&serde_json::to_string(&draft.memo).unwrap_or_default());
    }
}
