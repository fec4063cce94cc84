//! What can be read: lists with searches and filters, entities, dictionaries.

use serde_json::{Value, json};

use super::state::{PIPELINES, State, USERS};
use super::{hal, list, problem};
use crate::wire::decode_form;
use crate::{Answer, Request};

/// Fewest digits that a search compares without their punctuation.
const DIGITS: usize = 5;

impl State {
    pub(super) fn handle(&mut self, request: &Request, path: &str, now: u64) -> Answer {
        let query = request.query.as_deref().map(decode_form).unwrap_or_default();
        let steps: Vec<&str> = path.split('/').collect();
        match (request.method.as_str(), steps.as_slice()) {
            ("GET", ["account"]) => {
                hal(200, &json!({"id": 29_085_955, "name": "Acme", "subdomain": "acme", "current_user_id": USERS[0].0, "currency": "RUB"}))
            }
            ("GET", ["users", id]) => self.user(id),
            ("GET", ["leads", "pipelines"]) => list("pipelines", &pipelines(), false),
            ("GET", [entity @ ("leads" | "contacts" | "companies"), "custom_fields"]) => self.custom_fields(entity, &query),
            ("GET", ["leads", "unsorted"]) => list("unsorted", &self.unsorted.iter().rev().cloned().collect::<Vec<_>>(), false),
            ("GET", ["leads", id, "notes"]) => self.about(&self.notes, id, "notes"),
            ("GET", ["tasks"]) => list("tasks", &self.tasks, false),
            ("GET", [entity @ ("leads" | "contacts" | "companies")]) => self.list(entity, &query),
            ("POST", ["leads", "complex"]) => self.complex(&request.json(), now),
            ("POST", ["leads", "notes"]) => self.add_notes(&request.json()),
            ("POST", ["tasks"]) => self.add_tasks(&request.json()),
            ("PATCH", ["leads", id]) => self.update_lead(id, &request.json()),
            _ => problem(404, "Not Found", "Cannot find such a method", &[]),
        }
    }

    fn user(&self, id: &str) -> Answer {
        let Some(rights) = &self.rights else { return problem(403, "Forbidden", "Only for administrators", &[]) };
        match USERS.iter().find(|(known, _)| known.to_string() == id) {
            Some((id, name)) => hal(200, &json!({"id": id, "name": name, "rights": rights})),
            None => problem(404, "Not Found", "User not found", &[]),
        }
    }

    fn custom_fields(&self, entity: &str, query: &[(String, String)]) -> Answer {
        let fields = self.fields.get(entity).map_or(&[][..], Vec::as_slice);
        // The vendor's page says 50 at once, whatever is asked for.
        let limit = number(query, "limit").unwrap_or(50).clamp(1, 50);
        let start = (number(query, "page").unwrap_or(1).max(1) - 1) * limit;
        let page: Vec<Value> = fields.iter().skip(start).take(limit).cloned().collect();
        list("custom_fields", &page, start + limit < fields.len())
    }

    fn about(&self, entities: &[Value], id: &str, name: &str) -> Answer {
        let wanted = Some(id.parse::<u64>().unwrap_or_default());
        let found: Vec<Value> = entities.iter().filter(|entity| entity["entity_id"].as_u64() == wanted).cloned().collect();
        list(name, &found, false)
    }

    fn list(&self, entity: &str, query: &[(String, String)]) -> Answer {
        let all = match entity {
            "leads" => &self.leads,
            "contacts" => &self.contacts,
            _ => &self.companies,
        };
        let asked = query.iter().find(|(name, _)| name == "query").map(|(_, value)| value.to_lowercase());
        let filter = query.iter().find(|(name, _)| name.starts_with("filter[custom_fields_values]")).filter(|_| self.filters);
        let waits = |entity: &Value| entity["is_unsorted"] == true;
        let mut found: Vec<Value> = all
            .iter()
            .filter(|(id, entity)| !waits(entity) && asked.as_ref().is_none_or(|asked| self.is_indexed(**id) && matches(entity, asked)))
            .filter(|(_, entity)| filter.is_none_or(|(_, value)| texts(entity).iter().any(|text| text == value)))
            .map(|(_, entity)| entity.clone())
            .collect();
        if query.iter().any(|(name, value)| name.starts_with("order[") && value == "desc") {
            found.reverse();
        }
        let limit = number(query, "limit").unwrap_or(50).clamp(1, 250);
        let more = found.len() > limit;
        found.truncate(limit);
        list(entity, &found, more)
    }
}

fn pipelines() -> Vec<Value> {
    let status = |id: &u64, pipeline: u64| json!({"id": id, "name": format!("Этап {id}"), "pipeline_id": pipeline, "type": 0});
    let pipeline = |(id, name, stages): &(u64, &str, [u64; 4])| {
        let statuses: Vec<Value> = stages.iter().map(|stage| status(stage, *id)).collect();
        json!({"id": id, "name": name, "is_main": *id == PIPELINES[0].0, "_embedded": {"statuses": statuses}})
    };
    PIPELINES.iter().map(pipeline).collect()
}

fn number(query: &[(String, String)], name: &str) -> Option<usize> {
    query.iter().find(|(have, _)| have == name)?.1.parse().ok()
}

/// Every text of an entity that the search looks into.
fn texts(entity: &Value) -> Vec<String> {
    let fields = entity["custom_fields_values"].as_array().into_iter().flatten();
    let values = fields.flat_map(|field| field["values"].as_array().into_iter().flatten());
    let values = values.map(|value| value["value"].as_str().map_or_else(|| value["value"].to_string(), str::to_owned));
    values.chain([entity["name"].as_str().unwrap_or_default().to_owned()]).collect()
}

/// Finds parts of any text, and digits however they are written: `9161234567` in `8 (916) 123-45-67`.
fn matches(entity: &Value, asked: &str) -> bool {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let only_digits = asked.len() >= DIGITS && asked.chars().all(|c| c.is_ascii_digit());
    texts(entity).iter().any(|text| text.to_lowercase().contains(asked) || (only_digits && digits(text).contains(asked)))
}
