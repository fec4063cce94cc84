//! Leads are made: many in one request, and if amoCRM refuses some of them, the others without those.

use std::collections::VecDeque;

use leadwire_sdk::{Stop, Verdict, http::Method};
use serde_json::{Value, json};

use crate::{
    api::{FieldError, Problem, Trouble, Written, embedded, id_of, plain},
    batch::Batch,
    contact::{self, Known},
    fields::Fields,
};

/// Most leads of one request.
const MOST: usize = 50;

impl Batch<'_> {
    /// Leads that an earlier delivery made, which get what is new of this one.
    pub(crate) fn update(&mut self) -> Result<(), Trouble> {
        for at in self.unmade() {
            let Some(lead) = self.drafts[at].item.reference("lead").and_then(|id| id.parse::<u64>().ok()) else { continue };
            if self.api.left() < 3 {
                break;
            }
            self.load_fields_once()?;
            let body = self.drafts[at].update(self.api.ctx, &self.fields);
            let written = match body.as_object().is_some_and(serde_json::Map::is_empty) {
                true => Written::Done(Value::Null),
                false => self.api.write(Method::Patch, &format!("leads/{lead}"), &body)?,
            };
            match written {
                Written::Done(_) => {
                    let draft = &mut self.drafts[at];
                    draft.memo.lead = Some(lead);
                    draft.memo.contact = draft.item.reference("contact").and_then(|id| id.parse().ok());
                    draft.memo.company = draft.item.reference("company").and_then(|id| id.parse().ok());
                    self.note_down(at);
                }
                // The salespeople deleted it: then it is a new one.
                Written::Refused(problem) if problem.status == 404 || problem.errors.iter().any(|error| error.path == "id") => {}
                Written::Refused(problem) => self.settle(at, &refused(&problem, &problem.errors, &body)),
                // Saying the same twice changes nothing.
                Written::Lost(verdict) => self.settle(at, &verdict.maybe_sent(false)),
            }
        }
        Ok(())
    }

    /// Makes these leads, as far as the call has requests.
    pub(crate) fn create(&mut self, taken: Vec<usize>) -> Result<(), Trouble> {
        let mut groups = self.groups(taken);
        while let Some(mut group) = groups.pop_front() {
            if self.api.left() == 0 {
                break;
            }
            for at in &group {
                if self.drafts[*at].known.is_none() {
                    self.drafts[*at].known = self.acquainted(*at);
                }
            }
            let bodies: Vec<Value> = group.iter().map(|at| self.drafts[*at].body(self.api.ctx, &self.fields)).collect();
            match self.api.write(Method::Post, "leads/complex", &json!(bodies))? {
                Written::Done(answer) => self.created(&group, &answer),
                Written::Refused(problem) => self.refuse(&mut group, &bodies, &problem, &mut groups)?,
                Written::Lost(verdict) => {
                    let halve = group.len() > 1 && matches!(&verdict, Verdict::Retry(later) if later.why.code == "amocrm_504");
                    for at in group {
                        if halve {
                            self.drafts[at].memo.alone = true;
                            self.note_down(at);
                        }
                        self.settle(at, &verdict);
                    }
                    // Whatever ails it ails it for the others too; nothing of them was sent.
                    return Err(Trouble::Later(verdict.maybe_sent(false)));
                }
            }
        }
        Ok(())
    }

    /// Leads that go in one request. Two of one new contact do not: amoCRM would make it twice.
    fn groups(&self, taken: Vec<usize>) -> VecDeque<Vec<usize>> {
        let mut groups: VecDeque<Vec<usize>> = VecDeque::new();
        for at in taken {
            let draft = &self.drafts[at];
            let keys = draft.person.keys();
            let shares = |other: &usize| draft.known.is_none() && self.drafts[*other].person.keys().iter().any(|key| keys.contains(key));
            // After the last group that makes its contact.
            let first = groups.iter().rposition(|group| group.iter().any(shares)).map_or(0, |last| last + 1);
            let fits = |group: &Vec<usize>| group.len() < MOST && !group.iter().any(|at| self.drafts[*at].memo.alone);
            let place = (first..groups.len()).find(|number| !draft.memo.alone && groups.get(*number).is_some_and(fits));
            match place.and_then(|number| groups.get_mut(number)) {
                Some(group) => group.push(at),
                None => groups.push_back(vec![at]),
            }
        }
        groups
    }

    /// Reads which leads were made. One that the answer does not name may be there all the same.
    fn created(&mut self, group: &[usize], answer: &Value) {
        let made = answer.as_array().map_or_else(|| embedded(answer, "leads"), Vec::as_slice);
        let unnamed = made.len() == group.len() && made.iter().all(|lead| lead.get("request_id").is_none());
        for (position, at) in group.iter().enumerate() {
            let lead = if unnamed { made.get(position) } else { made.iter().find(|lead| names(lead, self.drafts[*at].key())) };
            let Some((lead, id)) = lead.and_then(|lead| Some((lead, id_of(lead, "id")?))) else {
                let verdict = Verdict::retry("answer_incomplete", "amoCRM's answer does not say what became of this lead");
                self.settle(*at, &verdict.maybe_sent(true));
                continue;
            };
            let contact = id_of(lead, "contact_id");
            let draft = &mut self.drafts[*at];
            draft.memo.lead = Some(id);
            draft.memo.contact = contact.or(draft.known.map(|known| known.id));
            draft.memo.company = id_of(lead, "company_id");
            self.note_down(*at);
            self.meet(*at, contact);
        }
    }

    /// A contact that was just made is not made again, in this call and in those of the next minutes.
    fn meet(&mut self, at: usize, contact: Option<u64>) {
        let draft = &self.drafts[at];
        if let (None, Some(id)) = (draft.known, contact) {
            contact::remember(&self.api, &draft.person, id);
            let known = Known { id, has_company: draft.memo.company.is_some() };
            self.met.extend(draft.person.keys().into_iter().map(|key| (key, known)));
        }
    }

    /// A refused request: those it names fail, the others go again without them. Whether amoCRM saved those of them that
    /// are sound is not documented, so they are looked for first.
    fn refuse(
        &mut self,
        group: &mut Vec<usize>,
        bodies: &[Value],
        problem: &Problem,
        groups: &mut VecDeque<Vec<usize>>,
    ) -> Result<(), Trouble> {
        if problem.status == 404 {
            return Err(Trouble::Stop(Stop::misconfigured(format!("amoCRM does not know this request: {}", problem.text))));
        }
        let alone = group.len() == 1;
        let mine = |position: usize, at: usize, error: &FieldError| {
            alone || error.request == self.drafts[at].key() || error.request == position.to_string()
        };
        let whose: Vec<Vec<FieldError>> = group
            .iter()
            .enumerate()
            .map(|(position, at)| problem.errors.iter().filter(|error| mine(position, *at, error)).cloned().collect())
            .collect();
        let named = whose.iter().any(|errors| !errors.is_empty());
        let mut sound = Vec::new();
        let mut wrong_settings = None;
        for ((at, errors), body) in std::mem::take(group).into_iter().zip(whose).zip(bodies) {
            if errors.is_empty() && !alone {
                sound.push(at);
            } else if let Some(text) = self.settings_at_fault(at, &errors) {
                wrong_settings = Some(text);
            } else {
                self.refuse_one(at, problem, &errors, body);
            }
        }
        if let Some(text) = wrong_settings {
            for at in sound {
                self.drafts[at].memo.doubt = true;
                self.note_down(at);
            }
            return Err(Trouble::Stop(Stop::misconfigured(text)));
        }
        self.again(sound, !named, groups)
    }

    /// Sends those again that the refusal was not about; in halves, when it did not say which it was about.
    fn again(&mut self, sound: Vec<usize>, unnamed: bool, groups: &mut VecDeque<Vec<usize>>) -> Result<(), Trouble> {
        for at in &sound {
            self.drafts[*at].memo.doubt = true;
            self.drafts[*at].memo.alone |= unnamed;
            self.note_down(*at);
        }
        if sound.is_empty() || self.api.left() < 2 {
            return Ok(());
        }
        let mut absent = self.newest(&sound)?;
        for at in &absent {
            self.drafts[*at].memo.doubt = false;
        }
        if unnamed && absent.len() > 1 {
            let second = absent.split_off(absent.len() / 2);
            groups.push_front(second);
        }
        if !absent.is_empty() {
            groups.push_front(absent);
        }
        Ok(())
    }

    /// Why no lead of this credential can be made, if that is what the errors say.
    fn settings_at_fault(&self, at: usize, errors: &[FieldError]) -> Option<String> {
        let config = &self.api.ctx.config;
        let set =
            [("pipeline_id", config.pipeline_id), ("status_id", config.status_id), ("responsible_user_id", config.responsible_user_id)];
        set.into_iter().find_map(|(name, value)| {
            // The mapping's own value is about this lead alone.
            let value = value.filter(|_| self.drafts[at].mapped.id(name).is_none())?;
            let error = errors.iter().find(|error| error.path.rsplit('.').next() == Some(name))?;
            Some(format!("{name}: amoCRM does not take {value}: {} ({})", error.detail, error.code))
        })
    }

    fn refuse_one(&mut self, at: usize, problem: &Problem, errors: &[FieldError], body: &Value) {
        if errors.iter().any(|error| error.path.contains("custom_fields_values")) {
            Fields::forget(&self.api);
        }
        let draft = &self.drafts[at];
        if draft.known.is_some() && errors.iter().any(|error| error.path.starts_with("_embedded.contacts.0.id")) {
            contact::forget(&self.api, &draft.person);
            let verdict = Verdict::retry("contact_gone", "the lead's contact was deleted or merged meanwhile");
            return self.settle(at, &verdict);
        }
        self.settle(at, &refused(problem, errors, body));
    }

    fn load_fields_once(&mut self) -> Result<(), Trouble> {
        if self.fields.leads.is_unread() { self.load_fields() } else { Ok(()) }
    }
}

/// Whether an answer is about this item; duplicates that were merged have several numbers.
fn names(lead: &Value, key: &str) -> bool {
    match lead.get("request_id") {
        Some(Value::Array(list)) => list.iter().any(|name| plain(name) == key),
        Some(name) => plain(name) == key,
        None => false,
    }
}

fn refused(problem: &Problem, errors: &[FieldError], body: &Value) -> Verdict {
    if errors.is_empty() {
        return Verdict::rejected(&format!("amocrm_{}", problem.status), problem.text.clone());
    }
    let texts: Vec<String> =
        errors.iter().map(|error| format!("{}: {} ({})", field_of(body, &error.path), error.detail, error.code)).collect();
    Verdict::rejected("field_refused", texts.join("; "))
}

/// The field that a path means: `_embedded.contacts.0.custom_fields_values.1.values.0.value` → `contact field EMAIL`.
pub(crate) fn field_of(body: &Value, path: &str) -> String {
    let steps: Vec<&str> = path.split('.').collect();
    let entity = match steps.get(1) {
        Some(&"contacts") => "contact ",
        Some(&"companies") => "company ",
        _ => "",
    };
    let Some(place) = steps.iter().position(|step| *step == "custom_fields_values") else {
        return format!("{entity}{}", steps.last().copied().filter(|step| !step.is_empty()).unwrap_or("lead"));
    };
    let pointer: String = steps.iter().take(place + 2).map(|step| format!("/{step}")).collect();
    let field = body.pointer(&pointer);
    let name = field.and_then(|field| field.get("field_code").or_else(|| field.get("field_id")));
    name.map_or_else(|| format!("{entity}{path}"), |name| format!("{entity}field {}", plain(name)))
}
