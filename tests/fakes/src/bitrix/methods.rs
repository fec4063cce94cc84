//! The methods of the portal's REST interface.

use serde_json::{Map, Value, json};

use super::Refusal;
use super::php::{list, number, text};
use super::state::{CONTACT, DEAL, LEAD, Setup, State};

/// Objects of one page.
const PAGE: usize = 50;

/// What a method answers: the result, and for lists where the next page starts and how many there are.
pub(super) struct Answered {
    pub(super) result: Value,
    pub(super) next: Option<usize>,
    pub(super) total: Option<usize>,
}

impl From<Value> for Answered {
    fn from(result: Value) -> Self {
        Self { result, next: None, total: None }
    }
}

/// Runs one method.
pub(super) fn run(setup: &Setup, state: &mut State, method: &str, params: &Value) -> Result<Answered, Refusal> {
    let method = method.to_ascii_lowercase();
    if setup.denied.contains(&method) {
        return Err(Refusal::new("ACCESS_DENIED", "Access denied."));
    }
    if method.starts_with("crm.") && !setup.scopes.iter().any(|scope| scope == "crm") {
        return Err(
            Refusal::new("insufficient_scope", "The request requires higher privileges than provided by the webhook token").status(403)
        );
    }
    let kind = number(&params["entityTypeId"]).unwrap_or(0);
    let id = number(&params["id"]).unwrap_or(0);
    let own_names = text(&params["useOriginalUfNames"]) == "Y";
    let not_found = || Refusal::new("NOT_FOUND", "Not found");
    match method.as_str() {
        "profile" if !setup.employed => Ok(json!([]).into()),
        "profile" => {
            Ok(json!({"ID": setup.user_id.to_string(), "ADMIN": false, "NAME": "Ann", "LAST_NAME": "Lee", "TIME_ZONE": ""}).into())
        }
        "scope" => Ok(json!(setup.scopes).into()),
        "app.info" => Err(Refusal::new("ACCESS_DENIED", "Application context required").status(403)),
        "crm.settings.mode.get" => Ok(json!(setup.mode).into()),
        "crm.category.list" => {
            let all = setup
                .categories
                .iter()
                .map(|(id, name)| json!({"id": id, "name": name, "sort": 100, "isDefault": if *id == 0 { "Y" } else { "N" }}));
            Ok(json!({"categories": all.collect::<Vec<_>>()}).into())
        }
        "crm.status.list" => {
            let entity = text(&params["filter"]["ENTITY_ID"]);
            let stages = setup.stages.get(&entity).into_iter().flatten();
            let all = stages
                .map(|(id, name)| json!({"ID": "1", "ENTITY_ID": entity, "STATUS_ID": id, "NAME": name, "SORT": "10", "SEMANTICS": null}));
            Ok(Value::Array(all.collect()).into())
        }
        "crm.item.fields" => {
            let fields = setup.fields.get(&kind).ok_or_else(not_found)?;
            Ok(json!({"fields": fields}).into())
        }
        "crm.item.add" => state.add(setup, kind, &params["fields"], own_names).map(Answered::from),
        "crm.item.update" => state.update(setup, kind, id, &params["fields"], own_names).map(Answered::from),
        "crm.item.get" => {
            let object = state.objects.get(&kind).and_then(|objects| objects.get(&id)).ok_or_else(not_found)?;
            Ok(json!({"item": object}).into())
        }
        "crm.item.list" => {
            let page = page(setup, state, kind, params, false);
            Ok(Answered { result: json!({"items": page.result}), ..page })
        }
        "crm.lead.list" => Ok(page(setup, state, LEAD, params, true)),
        "crm.deal.list" => Ok(page(setup, state, DEAL, params, true)),
        "crm.contact.list" => Ok(page(setup, state, CONTACT, params, true)),
        "crm.duplicate.findbycomm" => state.find_by_comm(params).map(Answered::from),
        "crm.timeline.comment.add" => comment(state, params).map(Answered::from),
        "crm.timeline.comment.list" => {
            let filter = &params["filter"];
            let same = |comment: &&Value| ["ENTITY_ID", "ENTITY_TYPE"].iter().all(|name| text(&comment[*name]) == text(&filter[*name]));
            Ok(Value::Array(state.comments.iter().filter(same).cloned().collect()).into())
        }
        _ => Err(Refusal::new("ERROR_METHOD_NOT_FOUND", "Method not found!").status(404)),
    }
}

fn comment(state: &mut State, params: &Value) -> Result<Value, Refusal> {
    let fields = &params["fields"];
    let kind = match text(&fields["ENTITY_TYPE"]).as_str() {
        "lead" => LEAD,
        "deal" => DEAL,
        "contact" => CONTACT,
        _ => return Err(Refusal::new("", "Entity type is not defined")),
    };
    let id = number(&fields["ENTITY_ID"]).filter(|id| state.has(kind, *id));
    let id = id.ok_or_else(|| Refusal::new("", "Element not found"))?;
    if text(&fields["COMMENT"]).trim().is_empty() {
        return Err(Refusal::new("", "Empty comment message"));
    }
    let number = state.next_id();
    state.comments.push(
        json!({"ID": number.to_string(), "ENTITY_ID": id.to_string(), "ENTITY_TYPE": fields["ENTITY_TYPE"], "COMMENT": fields["COMMENT"]}),
    );
    Ok(json!(number))
}

/// A page of a list. The older methods show text in upper case, the newer ones numbers in camel case.
fn page(setup: &Setup, state: &State, kind: u64, params: &Value, old: bool) -> Answered {
    let matching = |object: &Map<String, Value>| {
        let filter = params["filter"].as_object().cloned().unwrap_or_default();
        filter.iter().all(|(key, wanted)| {
            let (sign, name) = key.split_at(key.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or(0));
            let name = if old { camel(name) } else { name.to_owned() };
            let unknown = !setup.fields.get(&kind).is_some_and(|fields| fields.contains_key(&name));
            let passed_over = !old && !setup.origin_filter && name.starts_with("orig");
            let have = object.get(&name).cloned().unwrap_or_default();
            unknown
                || passed_over
                || match sign {
                    ">" => number(&have) > number(wanted),
                    "@" => list(wanted).iter().any(|one| text(one) == text(&have)),
                    _ => text(&have) == text(wanted),
                }
        })
    };
    let all: Vec<&Map<String, Value>> =
        state.objects.get(&kind).into_iter().flat_map(std::collections::BTreeMap::values).filter(|object| matching(object)).collect();
    let uncounted = text(&params["start"]) == "-1";
    let start = if uncounted { 0 } else { number(&params["start"]).and_then(|start| usize::try_from(start).ok()).unwrap_or(0) };
    let shown: Vec<Value> =
        all.iter().skip(start).take(PAGE).map(|object| if old { classic(object) } else { Value::Object((*object).clone()) }).collect();
    let next = Some(start + PAGE).filter(|next| !uncounted && *next < all.len());
    Answered { result: Value::Array(shown), next, total: (!uncounted).then_some(all.len()) }
}

fn classic(object: &Map<String, Value>) -> Value {
    let plain = object.iter().filter(|(_, value)| !value.is_array() && !value.is_object());
    Value::Object(plain.map(|(name, value)| (upper(name), Value::String(text(value)))).collect())
}

fn upper(name: &str) -> String {
    if name.starts_with("UF_") {
        return name.to_owned();
    }
    name.chars().flat_map(|c| c.is_uppercase().then_some('_').into_iter().chain([c.to_ascii_uppercase()])).collect()
}

fn camel(name: &str) -> String {
    if name.starts_with("UF_") {
        return name.to_owned();
    }
    let mut out = String::new();
    for (at, part) in name.to_lowercase().split('_').enumerate() {
        let (first, rest) = part.split_at(part.len().min(1));
        out.push_str(&if at == 0 { first.to_owned() } else { first.to_uppercase() });
        out.push_str(rest);
    }
    out
}
