//! One lead on its way: what is known of it, and how amoCRM gets it. No requests here.

use std::collections::BTreeSet;

use leadwire_sdk::{Context, Item, Lead, Money, Payload, Verdict, template::Escape};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Config,
    contact::{Known, Person},
    fields::{Entity, Fields, MOST, cut, parts, shown},
    mapped::Mapped,
};

/// Longest name of an entity, in characters.
const NAME: usize = 255;
/// Longest note.
const NOTE: usize = 10_000;
/// Most tags of a lead.
const TAGS: usize = 40;
/// Longest list, in a memo, of what fitted no field.
const UNFIT: usize = 2_000;
/// Fields for tracking data that every account has, unless someone deleted them, and where their values are.
const TRACKING: [&str; 7] = ["UTM_SOURCE", "UTM_MEDIUM", "UTM_CAMPAIGN", "UTM_TERM", "UTM_CONTENT", "REFERRER", "UTM_REFERRER"];
const IDS: [&str; 12] = [
    "GCLIENTID",
    "GCLID",
    "YCLID",
    "FBCLID",
    "YM_UID",
    "YM_COUNTER",
    "ROISTAT",
    "FROM",
    "OPENSTAT_SERVICE",
    "OPENSTAT_CAMPAIGN",
    "OPENSTAT_AD",
    "OPENSTAT_SOURCE",
];

const DEFAULT: &str = include_str!("default.txt");

/// What an attempt leaves for the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memo {
    /// The lead that was made, and with it:
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lead: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) contact: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) company: Option<u64>,
    /// Its note is there.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) note: bool,
    /// It may have been made although the answer says no.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) doubt: bool,
    /// Send it in a request of its own.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) alone: bool,
    /// What fitted no field and belongs into the note.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) unfit: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A lead of this call.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) item: &'a Item,
    lead: &'a Lead,
    pub(crate) person: Person,
    pub(crate) mapped: Mapped,
    pub(crate) memo: Memo,
    /// The contact that it belongs to.
    pub(crate) known: Option<Known>,
    pub(crate) task: Option<String>,
    note: String,
    /// It has its verdict.
    pub(crate) settled: bool,
    /// The lead was made before this call.
    pub(crate) older: bool,
}

impl<'a> Draft<'a> {
    /// The verdict is for what can never be sent.
    pub(crate) fn new(ctx: &Context<Config>, item: &'a Item) -> Result<Self, Verdict> {
        let Payload::Lead(lead) = &item.payload else {
            return Err(Verdict::rejected("not_a_lead", "amoCRM takes leads; send messages through another channel"));
        };
        let mapped = Mapped::of(item);
        let memo: Memo = item.memo.as_deref().and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_default();
        let render = |name: &str, source: &str, data| {
            let explain = |error| Verdict::rejected("template", format!("the template `{name}` does not work for this lead: {error}"));
            ctx.render(source, data, Escape::None).map_err(explain)
        };
        let data = ctx.template_data(item).with("words", &words(ctx));
        let note = match mapped.text(Entity::Lead, "note") {
            Some(note) => note,
            None => render("note", ctx.config.note.as_deref().unwrap_or(DEFAULT), &data)?,
        };
        let task = match (mapped.text(Entity::Lead, "task_text"), &ctx.config.task_text) {
            (Some(text), _) => Some(text),
            (None, Some(source)) => Some(render("task_text", source, &data)?),
            (None, None) => None,
        };
        let task = task.map(|text| cut(text.trim(), NOTE)).filter(|text| !text.is_empty());
        let older = memo.lead.is_some();
        Ok(Self { item, lead, person: Person::of(lead), mapped, memo, known: None, task, note, settled: false, older })
    }

    /// Whether it must be looked for before it is made.
    pub(crate) fn in_doubt(&self) -> bool {
        self.memo.lead.is_none() && (self.item.maybe_sent || self.memo.doubt)
    }

    /// Our number: the same in every attempt, of this lead and of no other.
    pub(crate) fn key(&self) -> &str {
        &self.item.idempotency_key
    }

    /// The end of our number, as it stands in the lead's name where it has no field of its own.
    pub(crate) fn mark(&self) -> String {
        let letters: Vec<char> = self.key().chars().filter(char::is_ascii_alphanumeric).collect();
        letters.iter().skip(letters.len().saturating_sub(10)).collect()
    }

    /// Whether this lead of the account is this one.
    pub(crate) fn is(&self, lead: &Value) -> bool {
        let named = lead.get("name").and_then(Value::as_str).is_some_and(|name| name.ends_with(&format!("#{}", self.mark())));
        let fields = lead.get("custom_fields_values").and_then(Value::as_array).into_iter().flatten();
        let mut values = fields.filter_map(|field| field.get("values").and_then(Value::as_array)).flatten();
        named || values.any(|value| value.get("value").and_then(Value::as_str) == Some(self.key()))
    }

    /// The names of the account's fields that it writes.
    pub(crate) fn wants(&self, entity: Entity) -> impl Iterator<Item = &str> {
        self.mapped.own.iter().filter(move |(of, ..)| *of == entity).map(|(_, name, _)| name.as_str())
    }

    /// The text of its note.
    pub(crate) fn note(&self, ctx: &Context<Config>) -> String {
        let note = self.note.trim();
        if self.memo.unfit.is_empty() {
            return cut(note, NOTE);
        }
        let head = if ctx.speaks("ru") { "Не подошло к полям" } else { "Did not fit its field" };
        format!("{}\n\n{head}:\n{}", cut(note, NOTE - UNFIT), self.memo.unfit)
    }

    /// The lead with its contact and company, as `leads/complex` takes it.
    pub(crate) fn body(&mut self, ctx: &Context<Config>, fields: &Dictionary) -> Value {
        let mut body = Map::new();
        body.insert("request_id".into(), json!(self.key()));
        body.insert("name".into(), json!(self.name(ctx)));
        body.extend(self.price().map(|price| ("price".to_owned(), json!(price))));
        let config = &ctx.config;
        // A stage belongs to a pipeline: that of the settings does not go with another pipeline.
        let pipeline = self.mapped.id("pipeline_id");
        let stage = self.mapped.id("status_id").or(config.status_id.filter(|_| pipeline.is_none()));
        let ids = [("pipeline_id", pipeline.or(config.pipeline_id)), ("status_id", stage), ("responsible_user_id", self.responsible(ctx))];
        body.extend(ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), json!(id?)))));
        let mut unfit = Vec::new();
        self.put_fields(&mut body, Entity::Lead, self.lead_fields(ctx), fields, &mut unfit);
        let mut embedded = Map::new();
        let tags = self.tags(ctx);
        if !tags.is_empty() {
            embedded.insert("tags".into(), json!(tags));
        }
        embedded.extend(self.contact(ctx, fields, &mut unfit).map(|contact| ("contacts".to_owned(), json!([contact]))));
        embedded.extend(self.company(ctx, fields, &mut unfit).map(|company| ("companies".to_owned(), json!([company]))));
        if config.unsorted {
            embedded.insert("metadata".into(), self.form());
        }
        body.insert("_embedded".into(), Value::Object(embedded));
        self.memo.unfit = cut(&unfit.join("\n"), UNFIT);
        Value::Object(body)
    }

    /// What of it is new for a lead that is there already. Its name, stage and owner are the salespeople's by now.
    pub(crate) fn update(&mut self, ctx: &Context<Config>, fields: &Dictionary) -> Value {
        let (mut body, mut unfit) = (Map::new(), Vec::new());
        body.extend(self.price().map(|price| ("price".to_owned(), json!(price))));
        self.put_fields(&mut body, Entity::Lead, self.lead_fields(ctx), fields, &mut unfit);
        let tags = self.tags(ctx);
        if !tags.is_empty() {
            body.insert("tags_to_add".into(), json!(tags));
        }
        self.memo.unfit = cut(&unfit.join("\n"), UNFIT);
        Value::Object(body)
    }

    fn name(&self, ctx: &Context<Config>) -> String {
        let own = self.mapped.text(Entity::Lead, "name").or_else(|| self.lead.title.clone());
        let own = own.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let name = own.unwrap_or_else(|| {
            let word = if ctx.speaks("ru") { "Заявка" } else { "Lead" };
            self.sender().map_or_else(|| word.to_owned(), |who| format!("{word}: {who}"))
        });
        if ctx.config.marker_field.is_some() {
            return cut(&name, NAME);
        }
        format!("{} #{}", cut(&name, NAME - 12), self.mark())
    }

    fn sender(&self) -> Option<&str> {
        let lead = self.lead;
        [lead.name.as_deref(), lead.phone(), lead.email(), lead.company.as_deref()]
            .into_iter()
            .flatten()
            .find(|text| !text.trim().is_empty())
    }

    /// In whole units of the account's currency: amoCRM has no smaller ones.
    fn price(&self) -> Option<i64> {
        let whole = |money: &Money| {
            let unit = 10_i128.checked_pow(money.exponent.into())?;
            i64::try_from((i128::from(money.minor) + unit / 2) / unit).ok()
        };
        let price = match self.mapped.text(Entity::Lead, "price") {
            Some(text) => text.replace([' ', '\u{a0}'], "").replace(',', ".").parse::<f64>().ok().map(|price| price.round() as i64),
            None => self.lead.value.as_ref().and_then(whole),
        };
        price.filter(|price| (0..=1_000_000_000_000_000).contains(price))
    }

    fn responsible(&self, ctx: &Context<Config>) -> Option<u64> {
        self.mapped.id("responsible_user_id").or(ctx.config.responsible_user_id)
    }

    /// The user who is to do its task.
    pub(crate) fn doer(&self, ctx: &Context<Config>) -> Option<u64> {
        self.responsible(ctx)
    }

    fn tags(&self, ctx: &Context<Config>) -> Vec<Value> {
        let own = self.mapped.value(Entity::Lead, "tags").map(parts).unwrap_or_default();
        let mut seen = BTreeSet::new();
        let tags = ctx.config.tags.iter().cloned().chain(own).map(|tag| cut(tag.trim(), NAME));
        tags.filter(|tag| !tag.is_empty() && seen.insert(tag.to_lowercase())).take(TAGS).map(|tag| json!({ "name": tag })).collect()
    }

    /// Tracking data, our number, and what the admin mapped, which comes first where amoCRM takes no more.
    fn lead_fields(&self, ctx: &Context<Config>) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        if let Some(name) = &ctx.config.marker_field {
            wanted.push(Wanted { name: name.to_string(), value: json!(self.key()), asked: true });
        }
        wanted.extend(self.mapped_fields(Entity::Lead));
        let origin = &self.lead.origin;
        let referrer = origin.referrer.as_ref();
        let values =
            [&origin.utm_source, &origin.utm_medium, &origin.utm_campaign, &origin.utm_term, &origin.utm_content, &origin.referrer, &None];
        let tracked = TRACKING
            .iter()
            .zip(values.map(Option::as_ref))
            .map(|(name, value)| (*name, if *name == "UTM_REFERRER" { referrer } else { value }));
        let ids = origin.ids.iter().filter_map(|id| {
            let name = id.name.trim_start_matches('_').to_uppercase();
            IDS.iter().find(|known| **known == name).map(|known| (*known, Some(&id.value)))
        });
        let tracked = tracked.chain(ids).filter_map(|(name, value)| Some((name, value?)));
        wanted.extend(tracked.map(|(name, value)| Wanted { name: name.into(), value: json!(value), asked: false }));
        wanted
    }

    fn mapped_fields(&self, entity: Entity) -> impl Iterator<Item = Wanted> {
        let own = self.mapped.own.iter().filter(move |(of, ..)| *of == entity);
        own.map(|(_, name, value)| Wanted { name: name.clone(), value: value.clone(), asked: true })
    }

    fn put_fields(&self, body: &mut Map<String, Value>, entity: Entity, wanted: Vec<Wanted>, fields: &Dictionary, unfit: &mut Vec<String>) {
        let known = fields.of(entity);
        let (mut written, mut ids): (Vec<Value>, BTreeSet<u64>) = (Vec::new(), BTreeSet::new());
        for Wanted { name, value, asked } in wanted {
            let why = match known.field(&name).map(|field| (field.id, field.with(&value))) {
                Some((id, _)) if ids.contains(&id) => continue,
                Some((_, Ok(None))) => continue,
                Some((_, Ok(Some(_)))) if written.len() >= MOST => format!("amoCRM takes {MOST} fields"),
                Some((id, Ok(Some(value)))) => {
                    ids.insert(id);
                    written.push(value);
                    continue;
                }
                Some((_, Err(why))) => why,
                None => format!("there is no such field of a {}", entity.name()),
            };
            // A tracking field that someone deleted is nobody's concern.
            if asked && !shown(&value).is_empty() {
                unfit.push(format!("{name}: {} ({why})", cut(&shown(&value), 500)));
            }
        }
        if !written.is_empty() {
            body.insert("custom_fields_values".into(), Value::Array(written));
        }
    }

    /// The contact: the one that is known, or a new one. `None`: the lead is from nobody.
    fn contact(&self, ctx: &Context<Config>, fields: &Dictionary, unfit: &mut Vec<String>) -> Option<Value> {
        if let Some(known) = self.known {
            return Some(json!({ "id": known.id }));
        }
        let lead = self.lead;
        let has = |name| self.mapped.text(Entity::Contact, name).map(|name| cut(&name, NAME));
        let nameless = lead.name.is_none() && lead.phones.is_empty() && lead.emails.is_empty();
        if nameless && has("name").is_none() && has("first_name").is_none() && self.wants(Entity::Contact).next().is_none() {
            return None;
        }
        let mut contact = Map::new();
        match (has("first_name"), has("last_name")) {
            (None, None) => {
                let name = has("name").or_else(|| Some(cut(self.sender()?.trim(), NAME)));
                contact.extend(name.map(|name| ("name".to_owned(), json!(name))));
            }
            (first, last) => {
                contact.extend(first.map(|name| ("first_name".to_owned(), json!(name))));
                contact.extend(last.map(|name| ("last_name".to_owned(), json!(name))));
            }
        }
        contact.extend(self.responsible(ctx).map(|id| ("responsible_user_id".to_owned(), json!(id))));
        self.put_fields(&mut contact, Entity::Contact, self.mapped_fields(Entity::Contact).collect(), fields, unfit);
        let phones = lead.phones.iter().map(leadwire_sdk::Phone::best);
        let emails = lead.emails.iter().map(String::as_str);
        let ways = [many("PHONE", phones), many("EMAIL", emails)].into_iter().flatten();
        match contact.get_mut("custom_fields_values") {
            Some(Value::Array(fields)) => drop(fields.splice(0..0, ways)),
            _ => {
                let ways: Vec<Value> = ways.collect();
                if !ways.is_empty() {
                    contact.insert("custom_fields_values".into(), Value::Array(ways));
                }
            }
        }
        Some(Value::Object(contact))
    }

    fn company(&self, ctx: &Context<Config>, fields: &Dictionary, unfit: &mut Vec<String>) -> Option<Value> {
        if self.known.is_some_and(|known| known.has_company) {
            return None;
        }
        let name = self.mapped.text(Entity::Company, "name").or_else(|| self.lead.company.clone());
        let name = cut(name?.trim(), NAME);
        if name.is_empty() {
            return None;
        }
        let mut company = Map::from_iter([("name".to_owned(), json!(name))]);
        company.extend(self.responsible(ctx).map(|id| ("responsible_user_id".to_owned(), json!(id))));
        self.put_fields(&mut company, Entity::Company, self.mapped_fields(Entity::Company).collect(), fields, unfit);
        Some(Value::Object(company))
    }

    /// What makes it an incoming lead. The form's id is our number, by which it is found again among those.
    fn form(&self) -> Value {
        let origin = &self.lead.origin;
        let text = |text: &Option<String>, or: &str| cut(text.as_deref().unwrap_or(or), NAME);
        json!({
            "category": "forms", "form_id": self.key(), "form_name": text(&origin.form, "Leadwire"),
            "form_page": text(&origin.page, "Leadwire"), "form_sent_at": self.lead.created_ms / 1_000,
            "ip": text(&origin.ip, "127.0.0.1"), "referer": text(&origin.referrer, ""),
        })
    }
}

/// A field to be written. `asked`: by the admin, who must hear when it cannot be.
struct Wanted {
    name: String,
    value: Value,
    asked: bool,
}

fn many<'t>(code: &str, values: impl Iterator<Item = &'t str>) -> Option<Value> {
    let values: Vec<Value> = values.map(|value| json!({ "value": cut(value.trim(), NAME), "enum_code": "WORK" })).take(20).collect();
    (!values.is_empty()).then(|| json!({ "field_code": code, "values": values }))
}

/// The fields of the three entities.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    pub(crate) leads: Fields,
    pub(crate) contacts: Fields,
    pub(crate) companies: Fields,
}

impl Dictionary {
    fn of(&self, entity: Entity) -> &Fields {
        match entity {
            Entity::Lead => &self.leads,
            Entity::Contact => &self.contacts,
            Entity::Company => &self.companies,
        }
    }

    /// The fields of leads that any lead may write.
    pub(crate) fn usual(ctx: &Context<Config>) -> BTreeSet<String> {
        let marker = ctx.config.marker_field.as_ref().map(ToString::to_string);
        TRACKING.iter().chain(&IDS).map(|name| (*name).to_owned()).chain(marker).collect()
    }
}

fn words(ctx: &Context<Config>) -> Value {
    if ctx.speaks("ru") {
        json!({ "lead": "Заявка", "name": "Имя", "company": "Компания", "phone": "Телефон", "email": "Почта", "value": "Сумма",
                "comment": "Комментарий", "page": "Страница", "referrer": "Откуда", "utm": "Реклама", "id": "Номер" })
    } else {
        json!({ "lead": "Lead", "name": "Name", "company": "Company", "phone": "Phone", "email": "E-mail", "value": "Amount",
                "comment": "Comment", "page": "Page", "referrer": "Came from", "utm": "Campaign", "id": "Number" })
    }
}
