//! What a portal holds: leads, deals and contacts with their fields, pipelines, stages and comments.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Refusal;
use super::php::{list, number, text};

/// Kinds of objects in `crm.item.*`.
pub const LEAD: u64 = 1;
/// Deals.
pub const DEAL: u64 = 2;
/// Contacts.
pub const CONTACT: u64 = 3;

/// How the portal is set up; tests change it as they go.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The employee whose webhook it is.
    pub user_id: u64,
    /// The webhook's code; an empty one was deleted.
    pub code: String,
    /// Rights of the webhook.
    pub scopes: Vec<String>,
    /// Whether the employee still works there.
    pub employed: bool,
    /// 1 with leads, 2 without: each lead becomes a deal at once.
    pub mode: u8,
    /// Whether `crm.item.list` filters by origin; otherwise it passes over such a filter.
    pub origin_filter: bool,
    /// Methods that the employee may not call.
    pub denied: BTreeSet<String>,
    /// Every request is answered with a redirect there.
    pub renamed_to: Option<String>,
    /// Fields by kind and name, as `crm.item.fields` shows them.
    pub fields: BTreeMap<u64, Map<String, Value>>,
    /// Pipelines of deals.
    pub categories: BTreeMap<u64, String>,
    /// Stages by `ENTITY_ID`, such as `DEAL_STAGE_9`.
    pub stages: BTreeMap<String, Vec<(String, String)>>,
}

impl Default for Setup {
    fn default() -> Self {
        let kinds = [LEAD, DEAL, CONTACT].map(|kind| (kind, standard_fields(kind)));
        let stages = |prefix: &str, ids: &[&str]| ids.iter().map(|id| (format!("{prefix}{id}"), (*id).to_lowercase())).collect::<Vec<_>>();
        Self {
            user_id: 1,
            code: "wh00k0c0de0f0this0portal".into(),
            scopes: vec!["crm".into()],
            employed: true,
            mode: 1,
            origin_filter: true,
            denied: BTreeSet::new(),
            renamed_to: None,
            fields: kinds.into(),
            categories: [(0, "General".into()), (9, "Retail".into())].into(),
            stages: [
                ("STATUS".into(), stages("", &["NEW", "IN_PROCESS", "CONVERTED", "JUNK"])),
                ("DEAL_STAGE".into(), stages("", &["NEW", "PREPARATION", "WON", "LOSE"])),
                ("DEAL_STAGE_9".into(), stages("C9:", &["NEW", "WON", "LOSE"])),
            ]
            .into(),
        }
    }
}

impl Setup {
    /// Adds or replaces a field: `{"type": "enumeration", "isMultiple": true, "items": [{"ID": "44", "VALUE": "Red"}]}`.
    pub fn field(&mut self, kind: u64, name: &str, field: Value) {
        let mut whole = json!({"isRequired": false, "isReadOnly": false, "isMultiple": false, "title": name, "upperName": name});
        if let (Some(whole), Value::Object(field)) = (whole.as_object_mut(), field) {
            whole.extend(field);
        }
        self.fields.entry(kind).or_default().insert(name.into(), whole);
    }
}

fn standard_fields(kind: u64) -> Map<String, Value> {
    let texts = [
        "title",
        "name",
        "lastName",
        "companyTitle",
        "comments",
        "sourceDescription",
        "originatorId",
        "originId",
        "utmSource",
        "utmMedium",
        "utmCampaign",
        "utmContent",
        "utmTerm",
    ];
    let others = [
        ("sourceId", "crm_status"),
        ("stageId", "crm_status"),
        ("categoryId", "crm_category"),
        ("assignedById", "user"),
        ("opportunity", "double"),
        ("currencyId", "crm_currency"),
        ("isManualOpportunity", "boolean"),
        ("opened", "boolean"),
        ("birthdate", "date"),
        ("fm", "crm_multifield"),
    ];
    let field = |name: &str, kind: &str, multiple: bool| {
        let upper: String =
            name.chars().flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain([c.to_ascii_uppercase()])).collect();
        (
            name.to_owned(),
            json!({"type": kind, "isRequired": false, "isReadOnly": name == "id", "isMultiple": multiple, "title": name, "upperName": upper}),
        )
    };
    let mut all: Map<String, Value> = texts.into_iter().map(|name| field(name, "string", false)).collect();
    all.extend(others.into_iter().map(|(name, kind)| field(name, kind, name == "fm")));
    all.extend([field("id", "integer", false), field("contactIds", "crm_contact", true)]);
    if kind == LEAD {
        all.remove("categoryId");
    }
    all
}

/// Everything that was made.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<u64, BTreeMap<u64, Map<String, Value>>>,
    pub(super) comments: Vec<Value>,
    last_id: u64,
}

impl State {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn of(&self, kind: u64) -> Vec<Value> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values).map(|object| Value::Object(object.clone())).collect()
    }

    /// `crm.item.add`.
    pub(super) fn add(&mut self, setup: &Setup, kind: u64, fields: &Value, own_names: bool) -> Result<Value, Refusal> {
        let mut object = checked(setup, kind, fields, own_names)?;
        let known = setup.fields.get(&kind).into_iter().flatten();
        for (name, field) in known.filter(|(_, field)| field["isRequired"] == true) {
            if object.get(name).is_none_or(|value| text(value).is_empty()) {
                return Err(Refusal::new(
                    "CRM_FIELD_ERROR_REQUIRED",
                    format!("Required field \"{}\" is not filled", text(&field["title"])),
                ));
            }
        }
        self.place(setup, kind, &mut object)?;
        let contacts = list(object.get("contactIds").unwrap_or(&Value::Null));
        if let Some(gone) = contacts.iter().find(|id| number(id).is_none_or(|id| !self.has(CONTACT, id))) {
            return Err(Refusal::new("CRM_FIELD_ERROR_VALUE_NOT_VALID", format!("Contact {gone} is not there")));
        }
        let id = self.next_id();
        object.insert("id".into(), id.into());
        self.objects.entry(kind).or_default().insert(id, object.clone());
        if kind == LEAD && setup.mode == 2 {
            self.convert(id, &object);
        }
        Ok(json!({"item": object}))
    }

    /// `crm.item.update`. A phone that is sent again is there twice.
    pub(super) fn update(&mut self, setup: &Setup, kind: u64, id: u64, fields: &Value, own_names: bool) -> Result<Value, Refusal> {
        let changes = checked(setup, kind, fields, own_names)?;
        let object =
            self.objects.get_mut(&kind).and_then(|objects| objects.get_mut(&id)).ok_or_else(|| Refusal::new("NOT_FOUND", "Not found"))?;
        for (name, value) in changes {
            match (name.as_str(), object.get_mut("fm"), &value) {
                ("fm", Some(Value::Array(have)), Value::Array(more)) => have.extend(more.iter().cloned()),
                _ => drop(object.insert(name, value)),
            }
        }
        Ok(json!({"item": object}))
    }

    pub(super) fn has(&self, kind: u64, id: u64) -> bool {
        self.objects.get(&kind).is_some_and(|objects| objects.contains_key(&id))
    }

    /// Stage and pipeline must agree.
    fn place(&self, setup: &Setup, kind: u64, object: &mut Map<String, Value>) -> Result<(), Refusal> {
        if kind == CONTACT {
            return Ok(());
        }
        let category = object.get("categoryId").and_then(number).unwrap_or(0);
        if kind == DEAL && !setup.categories.contains_key(&category) {
            return Err(Refusal::new("CRM_FIELD_ERROR_VALUE_NOT_VALID", "Invalid value of the field \"categoryId\""));
        }
        let list = match (kind, category) {
            (LEAD, _) => "STATUS".to_owned(),
            (_, 0) => "DEAL_STAGE".into(),
            (_, category) => format!("DEAL_STAGE_{category}"),
        };
        let known = setup.stages.get(&list).into_iter().flatten();
        let stage = object.get("stageId").map(text).unwrap_or_default();
        if stage.is_empty() {
            object.insert("stageId".into(), known.clone().next().map(|(id, _)| id.clone()).into());
        } else if !known.clone().any(|(id, _)| *id == stage) {
            return Err(Refusal::new("CRM_FIELD_ERROR_VALUE_NOT_VALID", "Invalid value of the field \"stageId\""));
        }
        if kind == DEAL {
            object.insert("categoryId".into(), category.into());
        }
        Ok(())
    }

    /// A portal without leads makes a contact and a deal of each.
    fn convert(&mut self, lead: u64, object: &Map<String, Value>) {
        let contact = self.next_id();
        let person = json!({"id": contact, "name": object.get("name"), "fm": object.get("fm")});
        let deal = self.next_id();
        let made =
            json!({"id": deal, "title": object.get("title"), "leadId": lead, "contactIds": [contact], "categoryId": 0, "stageId": "NEW"});
        for (kind, id, value) in [(CONTACT, contact, person), (DEAL, deal, made)] {
            if let Value::Object(value) = value {
                self.objects.entry(kind).or_default().insert(id, value);
            }
        }
        if let Some(lead) = self.objects.get_mut(&LEAD).and_then(|leads| leads.get_mut(&lead)) {
            lead.insert("stageId".into(), "CONVERTED".into());
        }
    }

    /// `crm.duplicate.findbycomm`: whole texts are compared, without an extension. Twenty hits of one kind hide the other kinds.
    pub(super) fn find_by_comm(&self, params: &Value) -> Result<Value, Refusal> {
        let (kind, values) = (text(&params["type"]), list(&params["values"]));
        if !["PHONE", "EMAIL"].contains(&kind.as_str()) {
            return Err(Refusal::new("", "Communication type is not defined"));
        }
        if values.is_empty() || values.len() > 20 {
            return Err(Refusal::new("", "Communication values is not defined"));
        }
        let plain = |value: &Value| match kind.as_str() {
            "PHONE" => text(value).split(['#', 'x', ';']).next().unwrap_or_default().trim().to_owned(),
            _ => text(value).to_lowercase(),
        };
        let wanted: BTreeSet<String> = values.iter().map(plain).collect();
        let hit = |object: &Map<String, Value>| {
            let fm = object.get("fm").map(list).unwrap_or_default();
            fm.iter().any(|entry| text(&entry["typeId"]) == kind && wanted.contains(&plain(&entry["value"])))
        };
        let mut found = Map::new();
        for (name, of) in [("LEAD", LEAD), ("CONTACT", CONTACT)] {
            let asked = text(&params["entity_type"]);
            if !asked.is_empty() && asked != name {
                continue;
            }
            let ids: Vec<u64> =
                self.objects.get(&of).into_iter().flatten().filter(|(_, object)| hit(object)).map(|(id, _)| *id).take(20).collect();
            let full = ids.len() == 20;
            if !ids.is_empty() {
                found.insert(name.into(), json!(ids));
            }
            if full {
                break;
            }
        }
        Ok(if found.is_empty() { json!([]) } else { Value::Object(found) })
    }
}

/// The fields that the portal knows, in its own types; unknown ones are passed over without a word, as the real one does.
fn checked(setup: &Setup, kind: u64, fields: &Value, own_names: bool) -> Result<Map<String, Value>, Refusal> {
    let Some(known) = setup.fields.get(&kind) else { return Err(Refusal::new("NOT_FOUND", "Smart process not found")) };
    let Value::Object(fields) = fields else { return Err(Refusal::new("", "Parameter 'fields' must be array.")) };
    let mut object = Map::new();
    for (name, value) in fields {
        let is_own = name.starts_with("UF_");
        let Some(field) = known.get(name).filter(|field| field["isReadOnly"] != true && (own_names || !is_own)) else { continue };
        let multiple = field["isMultiple"] == true;
        if multiple && !value.is_object() && !value.is_array() {
            return Err(Refusal::new("100", format!("Invalid value {{{name}}} to match with parameter. Should be array.")));
        }
        let value = if multiple {
            Value::Array(list(value).iter().map(|value| typed(name, field, value)).collect::<Result<_, _>>()?)
        } else {
            typed(name, field, value)?
        };
        object.insert(name.clone(), value);
    }
    Ok(object)
}

fn typed(name: &str, field: &Value, value: &Value) -> Result<Value, Refusal> {
    let given = text(value);
    let wrong = || Refusal::new("CRM_FIELD_ERROR_VALUE_NOT_VALID", format!("Invalid value of the field \"{name}\""));
    let is_number = |text: &str| text.parse::<f64>().is_ok_and(f64::is_finite);
    match text(&field["type"]).as_str() {
        "integer" | "user" | "employee" | "crm_contact" | "crm_category" => number(value).map(Value::from).ok_or_else(wrong),
        "double" => given.parse::<f64>().map(Value::from).map_err(|_| wrong()),
        "boolean" => ["Y", "N", "1", "0"].contains(&given.as_str()).then_some(Value::String(given)).ok_or_else(wrong),
        "date" => (given.len() == 10 && given.split('-').count() == 3).then_some(Value::String(given)).ok_or_else(wrong),
        "datetime" => (given.len() >= 19 && given.as_bytes()[10] == b'T').then_some(Value::String(given)).ok_or_else(wrong),
        "money" => {
            let (amount, currency) = given.split_once('|').unwrap_or((&given, "RUB"));
            (is_number(amount) && currency.len() == 3).then_some(Value::String(given.clone())).ok_or_else(wrong)
        }
        "enumeration" => {
            list(&field["items"]).iter().any(|item| text(&item["ID"]) == given).then_some(Value::String(given)).ok_or_else(wrong)
        }
        "crm_multifield" => {
            let address = text(&value["value"]);
            let bad = text(&value["typeId"]) == "EMAIL" && (!address.contains('@') || address.contains(' '));
            if bad { Err(Refusal::new("ERROR_CORE", format!("Wrong e-mail {address}"))) } else { Ok(value.clone()) }
        }
        _ => Ok(Value::String(given)),
    }
}
