//! What is checked of a credential beside its plugin's schema: mapping, filter, retry, and which settings say where secrets go.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::model::RetryOverride;
use crate::plugin::manifest::Manifest;
use crate::policy::retry::{RetryPolicy, parse_pause};
use crate::policy::{FieldError, pointer_step};
use crate::template;

/// Most fields of a mapping.
const MAX_FIELDS: usize = 500;

/// How one field of a mapping is written; [`mapping`] reads it.
pub struct MappingRule;

impl utoipa::PartialSchema for MappingRule {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, SchemaType, Type};
        let any = || ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let object = || ObjectBuilder::new().additional_properties(Some(AdditionalProperties::FreeForm(false)));
        let looked_up = object()
            .property("from", text().min_length(Some(1)).description(Some("A path such as `event.STAGE_ID`")))
            .property("map", ObjectBuilder::new().description(Some("What stands for which value")))
            .property("default", any().description(Some("For a value that `map` does not have")))
            .required("from");
        OneOfBuilder::new()
            .item(text().description(Some("A template such as `{{ lead.title }}`")))
            .item(object().property("const", any()).required("const"))
            .item(looked_up)
            .into()
    }
}

impl utoipa::ToSchema for MappingRule {}

/// Everything wrong with a mapping: remote field → template, `{"const"}` or `{"from", "map", "default"}`.
pub fn mapping(mapping: &Map<String, Value>) -> Vec<FieldError> {
    if mapping.len() > MAX_FIELDS {
        return vec![FieldError::new("/mapping", "too_many", format!("at most {MAX_FIELDS} fields"))];
    }
    let mut errors = Vec::new();
    for (name, value) in mapping {
        let at = format!("/mapping/{}", pointer_step(name));
        match value {
            Value::String(source) => {
                if let Err(problem) = template::check(source) {
                    errors.push(FieldError::new(at, "invalid_template", problem));
                }
            }
            Value::Object(rule) => rule_of(rule, &at, &mut errors),
            _ => errors.push(FieldError::new(
                at,
                "wrong_type",
                "must be a template, {\"const\": …} or {\"from\": …, \"map\": {…}, \"default\": …}",
            )),
        }
    }
    errors
}

fn rule_of(rule: &Map<String, Value>, at: &str, errors: &mut Vec<FieldError>) {
    let known: &[&str] = if rule.contains_key("const") { &["const"] } else { &["from", "map", "default"] };
    for name in rule.keys().filter(|name| !known.contains(&name.as_str())) {
        let detail = format!("must be one of {}", known.join(", "));
        errors.push(FieldError::new(format!("{at}/{}", pointer_step(name)), "unknown_field", detail));
    }
    if rule.contains_key("const") {
        return;
    }
    if rule.get("from").and_then(Value::as_str).is_none_or(str::is_empty) {
        errors.push(FieldError::new(format!("{at}/from"), "required", "must be a path such as `event.STAGE_ID`"));
    }
    if !rule.get("map").is_none_or(Value::is_object) {
        errors.push(FieldError::new(format!("{at}/map"), "wrong_type", "must be an object"));
    }
}

/// What is wrong with a filter.
pub fn filter(filter: Option<&str>) -> Option<FieldError> {
    let problem = template::check_filter(filter?).err()?;
    Some(FieldError::new("/filter", "invalid_filter", problem))
}

/// What is wrong with retry rules.
pub fn retry(retry: Option<&RetryOverride>) -> Option<FieldError> {
    let rules = retry?;
    if let RetryOverride::Schedule { schedule } = rules
        && let Some((wrong, problem)) = schedule.iter().enumerate().find_map(|(at, pause)| Some((at, parse_pause(pause).err()?)))
    {
        return Some(FieldError::new(format!("/retry/schedule/{wrong}"), "invalid_value", problem));
    }
    RetryPolicy::parse(rules).err().map(|problem| FieldError::new("/retry", "invalid_value", problem))
}

/// Names of the settings that say where requests, mail and so secrets go.
pub fn addresses(manifest: &Manifest) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rule in &manifest.egress {
        config_names(&rule.base, &mut names);
    }
    if let Some(mail) = &manifest.mail {
        for template in [&mail.server, &mail.tls, &mail.username, &mail.password] {
            config_names(template, &mut names);
        }
    }
    if let Some(properties) = manifest.config.schema.get("properties").and_then(Value::as_object) {
        let marked = properties.iter().filter(|(_, property)| property.get("x-address") == Some(&Value::Bool(true)));
        names.extend(marked.map(|(name, _)| name.clone()));
    }
    names
}

/// The `NAME`s of every `{config.NAME}`.
fn config_names(template: &str, names: &mut BTreeSet<String>) {
    for part in template.split("{config.").skip(1) {
        if let Some((name, _)) = part.split_once('}') {
            names.insert(name.split(['.', '|', ' ']).next().unwrap_or(name).to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(value: Value) -> Vec<(String, &'static str)> {
        let Value::Object(map) = value else { panic!("an object") };
        mapping(&map).into_iter().map(|error| (error.pointer, error.code)).collect()
    }

    #[test]
    fn mappings_have_three_shapes() {
        assert_eq!(
            errors(json!({
                "TITLE": "{{ lead.title }}", "SOURCE": {"const": 7},
                "STAGE": {"from": "event.STAGE_ID", "map": {"C1:NEW": "NEW"}, "default": null}
            })),
            []
        );
        let wrong = errors(json!({
            "A": 7, "B": "{{ lead.title", "C": {"from": "x", "mapp": {}}, "D": {"map": {}}, "E": {"const": 1, "from": "x"},
            "F/G": {"from": "x", "map": []}
        }));
        let wanted = [
            ("/mapping/A", "wrong_type"),
            ("/mapping/B", "invalid_template"),
            ("/mapping/C/mapp", "unknown_field"),
            ("/mapping/D/from", "required"),
            ("/mapping/E/from", "unknown_field"),
            ("/mapping/F~1G/map", "wrong_type"),
        ];
        assert_eq!(wrong, wanted.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn retry_rules_are_bounded() {
        let schedule = |list: &[&str]| RetryOverride::Schedule { schedule: list.iter().map(|pause| (*pause).to_owned()).collect() };
        assert_eq!(retry(Some(&schedule(&["500ms", "5s", "1m", "2h", "1d"]))), None);
        for bad in ["5", "s", "-1s", "5 s", "31d", "99999999999999999999s", ""] {
            let error = retry(Some(&schedule(&["5s", bad]))).unwrap();
            assert_eq!(error.pointer, "/retry/schedule/1", "{bad}");
        }
        assert_eq!(retry(Some(&schedule(&[]))), None, "one attempt and no other");
        let exponential = |tries, base_ms, max_ms| retry(Some(&RetryOverride::Exponential { tries, base_ms, max_ms }));
        assert_eq!(exponential(5, 1_000, 30_000), None);
        for (tries, base_ms, max_ms) in [(0, 1, 1), (101, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, u64::MAX)] {
            assert!(exponential(tries, base_ms, max_ms).is_some());
        }
    }

    #[test]
    fn filters_compile() {
        assert_eq!(filter(Some("lead.title == 'x'")), None);
        assert_eq!(filter(Some("lead.title ==")).unwrap().code, "invalid_filter");
    }
}
