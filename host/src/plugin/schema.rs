//! A plugin's config schema (JSON Schema 2020-12): checking what an admin enters, and filling in defaults.

use serde_json::{Map, Value};

use super::registry::FieldProblem;

/// A compiled config schema.
pub struct ConfigSchema {
    schema: Value,
    validator: jsonschema::Validator,
}

impl ConfigSchema {
    /// Compiles it. The error says what is wrong, for the plugin's author.
    pub fn new(schema: &Value) -> Result<Self, String> {
        if schema.get("type").and_then(Value::as_str) != Some("object") {
            return Err("the config schema must describe an object (`\"type\": \"object\"`)".into());
        }
        let validator = jsonschema::draft202012::options()
            .should_validate_formats(true)
            // Time in proportion to the text, whatever the pattern: it is the plugin's, and the text is an admin's.
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(schema)
            .map_err(|e| format!("the config schema is not valid JSON Schema 2020-12: {e}"))?;
        Ok(Self { schema: schema.clone(), validator })
    }

    /// The config with defaults filled in, or everything that is wrong with it. Messages never repeat the values.
    pub fn check(&self, config: &Map<String, Value>) -> Result<Map<String, Value>, Vec<FieldProblem>> {
        let value = Value::Object(with_defaults(&self.schema, config));
        let mut problems: Vec<FieldProblem> = self.validator.iter_errors(&value).map(|error| problem(&self.schema, &error)).collect();
        problems.extend(self.bad_templates(&value));
        match value {
            Value::Object(whole) if problems.is_empty() => Ok(whole),
            _ => Err(problems),
        }
    }

    /// Whether the property `name` exists.
    pub fn has(&self, name: &str) -> bool {
        self.property(name).is_some()
    }

    /// Whether the property holds a whole URL that the admin chooses (`"x-address": true`).
    pub fn is_address(&self, name: &str) -> bool {
        self.property(name).and_then(|p| p.get("x-address")).and_then(Value::as_bool) == Some(true)
    }

    /// What is wrong with the settings that are templates (`"x-template": true`).
    fn bad_templates(&self, config: &Value) -> Vec<FieldProblem> {
        let Some(properties) = self.schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
        let marked = properties.iter().filter(|(_, property)| property.get("x-template") == Some(&Value::Bool(true)));
        let problem = |name: &String| {
            let detail = crate::template::check(config.get(name)?.as_str()?).err()?;
            Some(FieldProblem { pointer: format!("/config/{name}"), code: "invalid_template", detail })
        };
        marked.filter_map(|(name, _)| problem(name)).collect()
    }

    fn property(&self, name: &str) -> Option<&Value> {
        self.schema.get("properties")?.get(name)
    }
}

/// The config with the schema's defaults where it says nothing.
pub fn with_defaults(schema: &Value, config: &Map<String, Value>) -> Map<String, Value> {
    let mut whole = config.clone();
    fill_defaults(schema, &mut whole);
    whole
}

fn fill_defaults(schema: &Value, config: &mut Map<String, Value>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        match config.get_mut(name) {
            None => {
                if let Some(default) = property.get("default") {
                    config.insert(name.clone(), default.clone());
                }
            }
            Some(Value::Object(inner)) => fill_defaults(property, inner),
            Some(_) => {}
        }
    }
}

fn problem(schema: &Value, error: &jsonschema::ValidationError<'_>) -> FieldProblem {
    use jsonschema::error::ValidationErrorKind as Kind;
    let mut pointer = format!("/config{}", error.instance_path().as_str());
    let code = match error.kind() {
        Kind::Required { property } => {
            pointer = format!("{pointer}/{}", property.as_str().unwrap_or_default());
            "required"
        }
        Kind::AdditionalProperties { unexpected } => {
            if let Some(first) = unexpected.first() {
                pointer = format!("{pointer}/{first}");
            }
            "unknown_field"
        }
        Kind::PropertyNames { error } => {
            pointer = format!("{pointer}/{}", crate::policy::pointer_step(error.instance().as_str().unwrap_or_default()));
            "invalid"
        }
        Kind::Type { .. } => "wrong_type",
        _ => "invalid",
    };
    let detail = match code {
        "required" => "this setting is required".to_owned(),
        "unknown_field" => "the channel has no such setting".to_owned(),
        // An author's patterns and combinations of schemas say nothing to an admin; the author's words do.
        "invalid" if is_form(error.kind()) => form(schema, error.schema_path().as_str()),
        _ => error.masked_with("the value").to_string(),
    };
    FieldProblem { pointer, code, detail }
}

fn is_form(kind: &jsonschema::error::ValidationErrorKind) -> bool {
    use jsonschema::error::ValidationErrorKind as Kind;
    match kind {
        Kind::PropertyNames { error } => is_form(error.kind()),
        Kind::Pattern { .. } | Kind::Not { .. } | Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } | Kind::OneOfMultipleValid { .. } => true,
        _ => false,
    }
}

/// What the schema nearest around the keyword says in words: `x-hint`, else the setting's title.
fn form(schema: &Value, keyword: &str) -> String {
    let parents = std::iter::successors(Some(keyword), |path| path.rsplit_once('/').map(|(parent, _)| parent));
    let parents: Vec<&Value> = parents.filter_map(|path| schema.pointer(path)).collect();
    let words = |name: &str| {
        let text = |parent: &&Value| parent.get(name)?.get("en")?.as_str().map(str::to_owned);
        parents.iter().find_map(text)
    };
    match (words("x-hint"), words("x-title")) {
        (Some(hint), _) => format!("must be {hint}"),
        (None, Some(title)) => format!("does not have the form of this setting ({title})"),
        (None, None) => "does not have the form that this setting needs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> ConfigSchema {
        ConfigSchema::new(&json!({
            "type": "object", "additionalProperties": false, "required": ["chat_id"],
            "properties": {
                "chat_id": {"type": ["string", "integer"]},
                "silent": {"type": "boolean", "default": false},
                "url": {"type": "string", "format": "uri", "x-address": true}
            }
        }))
        .unwrap()
    }

    fn problems(config: Value) -> Vec<(String, &'static str)> {
        let Value::Object(config) = config else { panic!() };
        schema().check(&config).unwrap_err().into_iter().map(|p| (p.pointer, p.code)).collect()
    }

    #[test]
    fn templates_are_checked_when_they_are_entered() {
        let schema = json!({"type": "object", "properties": {"text": {"type": "string", "x-template": true}, "note": {"type": "string"}}});
        let schema = ConfigSchema::new(&schema).unwrap();
        let check = |config: Value| schema.check(config.as_object().unwrap());
        assert!(check(json!({"text": "{{ lead.name }}", "note": "{{ no template"})).is_ok());
        let problems = check(json!({"text": "Hello\n{{ lead.name"})).unwrap_err();
        assert_eq!((problems[0].pointer.as_str(), problems[0].code), ("/config/text", "invalid_template"));
        assert!(problems[0].detail.contains("line 2"), "{}", problems[0].detail);
    }

    #[test]
    fn a_forbidden_name_is_refused_in_words_and_not_with_a_pattern() {
        let names = json!({"not": {"pattern": "^([Hh][Oo][Ss][Tt])$"}});
        let mut schema = json!({"type": "object", "properties": {
            "url": {"type": "string", "pattern": "^https?://", "x-title": {"en": "Address"}},
            "headers": {"type": "object", "propertyNames": names, "x-title": {"en": "Headers"}}
        }});
        let config = json!({"url": "ftp://secret", "headers": {"Host": "x"}});
        let problems = |schema: &Value| {
            let problems = ConfigSchema::new(schema).unwrap().check(config.as_object().unwrap()).unwrap_err();
            problems.into_iter().map(|problem| (problem.pointer, problem.detail)).collect::<Vec<_>>()
        };
        let found = problems(&schema);
        assert!(found.contains(&("/config/url".into(), "does not have the form of this setting (Address)".into())), "{found:?}");
        assert!(found.contains(&("/config/headers/Host".into(), "does not have the form of this setting (Headers)".into())), "{found:?}");
        schema["properties"]["headers"]["propertyNames"]["x-hint"] = json!({"en": "no header that the host sets"});
        let found = problems(&schema);
        assert!(found.contains(&("/config/headers/Host".into(), "must be no header that the host sets".into())), "{found:?}");
    }

    #[test]
    fn fills_in_defaults() {
        let Value::Object(config) = json!({"chat_id": 5}) else { panic!() };
        assert_eq!(Value::Object(schema().check(&config).unwrap()), json!({"chat_id": 5, "silent": false}));
    }

    #[test]
    fn names_each_field_that_is_wrong() {
        assert_eq!(problems(json!({})), [("/config/chat_id".into(), "required")]);
        assert_eq!(problems(json!({"chat_id": 1, "chatid": 2})), [("/config/chatid".into(), "unknown_field")]);
        assert_eq!(problems(json!({"chat_id": true})), [("/config/chat_id".into(), "wrong_type")]);
        assert_eq!(problems(json!({"chat_id": 1, "url": "not a url"})), [("/config/url".into(), "invalid")]);
    }

    #[test]
    fn does_not_repeat_what_was_entered() {
        let Value::Object(config) = json!({"chat_id": 1, "url": "hunter2 hunter2"}) else { panic!() };
        let problems = schema().check(&config).unwrap_err();
        assert!(!problems[0].detail.contains("hunter2"), "{}", problems[0].detail);
    }
}
