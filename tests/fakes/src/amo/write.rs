//! What can be written, and what is refused of it.

use serde_json::{Map, Value, json};

use super::state::{PIPELINES, State, USERS};
use super::{Refusal, hal, page, problem};
use crate::Answer;

/// Most leads of one request, and most values of one entity.
const MOST_LEADS: usize = 50;
const MOST_VALUES: usize = 40;
/// What a lead of a request may hold.
const LEAD: [&str; 10] = [
    "name",
    "price",
    "pipeline_id",
    "status_id",
    "responsible_user_id",
    "request_id",
    "custom_fields_values",
    "_embedded",
    "created_at",
    "tags_to_add",
];

type Found = Vec<(&'static str, String, &'static str)>;

impl State {
    /// `POST /leads/complex`: checks all, then makes all; a refusal of one refuses the request.
    pub(super) fn complex(&mut self, body: &Value, now: u64) -> Answer {
        let Some(items) = body.as_array().filter(|items| !items.is_empty()) else {
            return problem(400, "Bad Request", "Request body must be an array", &[]);
        };
        if items.len() > MOST_LEADS {
            return problem(400, "Bad Request", "Too many entities in the request", &[]);
        }
        if self.chokes_on.is_some_and(|most| items.len() > most) {
            return page(504, "504 Gateway Time-out");
        }
        let name = |at: usize, item: &Value| item["request_id"].as_str().map_or_else(|| at.to_string(), str::to_owned);
        let mut refused: Vec<Refusal> = Vec::new();
        let mut sound = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let found = self.check_lead(item);
            if found.is_empty() {
                sound.push((name(at, item), item));
            }
            refused.extend(found.into_iter().map(|(code, path, words)| (name(at, item), code, path, words.to_owned())));
        }
        if !refused.is_empty() && !self.saves_the_sound {
            return problem(400, "Bad Request", "Request validation failed", &refused);
        }
        let made: Vec<Value> = sound.into_iter().map(|(request, item)| self.make(&request, item, now)).collect();
        if refused.is_empty() { hal(200, &json!(made)) } else { problem(400, "Bad Request", "Request validation failed", &refused) }
    }

    fn check_lead(&self, item: &Value) -> Found {
        let mut found = Found::new();
        let Some(lead) = item.as_object() else { return vec![("InvalidType", String::new(), "This value should be an object.")] };
        for name in lead.keys().filter(|name| !LEAD.contains(&name.as_str())) {
            found.push(("FieldNotExpected", name.clone(), "This field was not expected."));
        }
        let choice = "The value you selected is not a valid choice.";
        let pipeline = PIPELINES.iter().find(|(id, ..)| item["pipeline_id"].as_u64().is_none_or(|asked| asked == *id));
        match pipeline {
            None => found.push(("NotSupportedChoice", "pipeline_id".into(), choice)),
            Some((_, _, stages)) if item["status_id"].as_u64().is_some_and(|stage| !stages.contains(&stage)) => {
                found.push(("NotSupportedChoice", "status_id".into(), choice));
            }
            Some(_) => {}
        }
        if item["responsible_user_id"].as_u64().is_some_and(|user| !USERS.iter().any(|(id, _)| *id == user)) {
            found.push(("NotSupportedChoice", "responsible_user_id".into(), choice));
        }
        if item["name"].as_str().is_some_and(|name| name.chars().count() > 255) {
            found.push(("TooLong", "name".into(), "This value is too long."));
        }
        if !item["price"].is_null() && !item["price"].is_i64() && !item["price"].is_u64() {
            found.push(("InvalidType", "price".into(), "This value should be of type int."));
        }
        self.check_fields("leads", item, "", &mut found);
        for (name, entity) in [("contacts", "contacts"), ("companies", "companies")] {
            let list = item["_embedded"][name].as_array().map_or(&[][..], Vec::as_slice);
            if list.len() > 1 {
                found.push(("TooMany", format!("_embedded.{name}"), "Too many entities."));
            }
            if let Some(one) = list.first() {
                let unknown = one["id"].as_u64().is_some_and(|id| !self.contacts.contains_key(&id));
                if entity == "contacts" && unknown {
                    found.push(("NotSupportedChoice", "_embedded.contacts.0.id".into(), choice));
                }
                self.check_fields(entity, one, &format!("_embedded.{name}.0."), &mut found);
            }
        }
        found
    }

    fn check_fields(&self, entity: &str, item: &Value, before: &str, found: &mut Found) {
        let written = item["custom_fields_values"].as_array().map_or(&[][..], Vec::as_slice);
        if written.len() > MOST_VALUES {
            found.push(("TooMany", format!("{before}custom_fields_values"), "Too many values."));
        }
        for (at, value) in written.iter().enumerate() {
            let path = format!("{before}custom_fields_values.{at}");
            let Some(field) = self.field_of(entity, value) else {
                found.push(("NotSupportedChoice", format!("{path}.field_id"), "The value you selected is not a valid choice."));
                continue;
            };
            for (number, one) in value["values"].as_array().into_iter().flatten().enumerate() {
                if let Some((code, name, words)) = wrong(field, one) {
                    found.push((code, format!("{path}.values.{number}.{name}"), words));
                }
            }
        }
    }

    fn make(&mut self, request: &str, item: &Value, now: u64) -> Value {
        let contact = item["_embedded"]["contacts"][0].as_object().cloned();
        if let Some(lead) = self.merges.then(|| self.mergeable(contact.as_ref())).flatten() {
            return json!({"id": lead["id"], "contact_id": lead["_embedded"]["contacts"][0]["id"], "company_id": null, "request_id": [request], "merged": true});
        }
        let company = item["_embedded"]["companies"][0].as_object().cloned().map(|company| self.store("companies", company));
        let contact = contact.map(|contact| match contact.get("id").and_then(Value::as_u64) {
            Some(id) => id,
            None => {
                let id = self.store("contacts", contact);
                if let (Some(company), Some(contact)) = (company, self.contacts.get_mut(&id)) {
                    contact["_embedded"] = json!({"companies": [{"id": company}]});
                }
                id
            }
        });
        let id = self.next_id();
        let mut lead = item.clone();
        lead["id"] = json!(id);
        lead["created_at"] = json!(now / 1_000);
        // What came with the request is not stored.
        let metadata = lead["_embedded"].as_object_mut().and_then(|embedded| embedded.remove("metadata"));
        if let Some(lead) = lead.as_object_mut() {
            lead.remove("request_id");
            lead.entry("pipeline_id").or_insert(json!(PIPELINES[0].0));
            lead.entry("status_id").or_insert(json!(PIPELINES[0].2[0]));
            lead.entry("name").or_insert(json!(format!("Сделка #{id}")));
        }
        let link = |id: Option<u64>| id.map_or_else(|| json!([]), |id| json!([{"id": id}]));
        lead["_embedded"]["contacts"] = link(contact);
        lead["_embedded"]["companies"] = link(company);
        if let Some(metadata) = metadata {
            lead["is_unsorted"] = json!(true);
            self.unsorted
                .push(json!({"uid": format!("u{id}"), "category": "forms", "metadata": metadata, "_embedded": {"leads": [{"id": id}]}}));
        }
        self.leads.insert(id, lead);
        json!({"id": id, "contact_id": contact, "company_id": company, "request_id": [request], "merged": false})
    }

    /// Keeps a contact or a company with its fields named as the API shows them.
    fn store(&mut self, entity: &str, mut made: Map<String, Value>) -> u64 {
        let id = self.next_id();
        if made.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            let parts = ["first_name", "last_name"].map(|part| made.get(part).and_then(Value::as_str).unwrap_or_default().to_owned());
            made.insert("name".into(), json!(parts.join(" ").trim()));
        }
        let codes: Vec<Value> = made
            .get("custom_fields_values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|written| self.field_of(entity, written).map_or(Value::Null, |field| field["code"].clone()))
            .collect();
        for (written, code) in made.get_mut("custom_fields_values").and_then(Value::as_array_mut).into_iter().flatten().zip(codes) {
            written["field_code"] = code;
        }
        made.insert("id".into(), json!(id));
        let place = if entity == "contacts" { &mut self.contacts } else { &mut self.companies };
        place.insert(id, Value::Object(made));
        id
    }

    /// A lead whose contact has the same telephone number.
    fn mergeable(&self, contact: Option<&Map<String, Value>>) -> Option<Value> {
        let phone = |contact: &Value| {
            let fields = contact["custom_fields_values"].as_array()?;
            fields.iter().find(|field| field["field_code"] == "PHONE").map(|field| field["values"][0]["value"].clone())
        };
        let contact = contact?;
        let id = contact.get("id").and_then(Value::as_u64);
        let wanted = phone(&json!(contact));
        let same = |(known, held): &(&u64, &Value)| Some(**known) == id || (wanted.is_some() && phone(held) == wanted);
        let (contact, _) = self.contacts.iter().find(same)?;
        self.leads.values().find(|lead| lead["_embedded"]["contacts"][0]["id"] == *contact).cloned()
    }

    pub(super) fn add_notes(&mut self, body: &Value) -> Answer {
        let items = body.as_array().cloned().unwrap_or_default();
        let sound = |note: &Value| note["note_type"] == "common" && note["params"]["text"].as_str().is_some_and(|text| !text.is_empty());
        if items.is_empty() || !items.iter().all(sound) {
            return problem(400, "Bad Request", "Request validation failed", &[]);
        }
        if items.iter().any(|note| note["entity_id"].as_u64().is_none_or(|id| !self.leads.contains_key(&id))) {
            return problem(404, "Not Found", "Entity not found", &[]);
        }
        let made: Vec<Value> = items.into_iter().map(|note| self.keep(note, true)).collect();
        hal(200, &json!({"_embedded": {"notes": made}}))
    }

    pub(super) fn add_tasks(&mut self, body: &Value) -> Answer {
        let items = body.as_array().cloned().unwrap_or_default();
        let sound = |task: &Value| task["text"].is_string() && task["complete_till"].is_u64() && task["entity_type"] == "leads";
        if items.is_empty() || !items.iter().all(sound) {
            return problem(400, "Bad Request", "Request validation failed", &[]);
        }
        let made: Vec<Value> = items.into_iter().map(|task| self.keep(task, false)).collect();
        hal(200, &json!({"_embedded": {"tasks": made}}))
    }

    fn keep(&mut self, mut item: Value, is_note: bool) -> Value {
        let id = self.next_id();
        item["id"] = json!(id);
        let made = json!({"id": id, "request_id": item["request_id"], "entity_id": item["entity_id"]});
        if is_note { &mut self.notes } else { &mut self.tasks }.push(item);
        made
    }

    pub(super) fn update_lead(&mut self, id: &str, body: &Value) -> Answer {
        let known = id.parse::<u64>().ok().filter(|id| self.leads.contains_key(id));
        let Some(id) = known else { return problem(404, "Not Found", "Entity not found", &[]) };
        let found = self.check_lead(body);
        if !found.is_empty() {
            let refused: Vec<Refusal> =
                found.into_iter().map(|(code, path, words)| ("0".to_owned(), code, path, words.to_owned())).collect();
            return problem(400, "Bad Request", "Request validation failed", &refused);
        }
        if let (Some(lead), Some(changes)) = (self.leads.get_mut(&id), body.as_object()) {
            for (name, value) in changes {
                lead[name.as_str()] = value.clone();
            }
        }
        hal(200, &json!({"id": id, "updated_at": 1}))
    }
}

/// What is wrong with one value of a field: code, the property's name, words.
fn wrong(field: &Value, value: &Value) -> Option<(&'static str, &'static str, &'static str)> {
    let choice = ("NotSupportedChoice", "enum_id", "The value you selected is not a valid choice.");
    let written = &value["value"];
    let of_type = |words: &'static str| Some(("InvalidType", "value", words));
    match field["type"].as_str().unwrap_or_default() {
        "select" | "radiobutton" | "multiselect" => {
            let options = field["enums"].as_array().map_or(&[][..], Vec::as_slice);
            let known = options
                .iter()
                .any(|option| option["id"] == value["enum_id"] || (value["enum_id"].is_null() && option["value"] == *written));
            (!known).then_some(choice)
        }
        "checkbox" if !written.is_boolean() => of_type("This value should be of type bool."),
        "date" | "date_time" | "birthday" if !written.is_i64() => of_type("This value should be of type int."),
        "numeric" | "monetary" if !written.is_number() => of_type("This value should be of type numeric."),
        "text" | "textarea" | "url" | "tracking_data" | "multitext" if !written.is_string() => {
            of_type("This value should be of type string.")
        }
        "text" | "textarea" if written.as_str().is_some_and(|text| text.contains('\0')) => of_type("This value holds a control character."),
        _ => None,
    }
}
