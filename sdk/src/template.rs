//! Texts from templates. One language for every channel (minijinja, which reads like Jinja); the host renders.

use serde::{Serialize, ser::SerializeMap};
use serde_json::value::{RawValue, to_raw_value};

use crate::{Context, Item, Payload, rfc3339, sys};

pub use crate::bindings::leadwire::channel::template::Escape;

impl<C> Context<C> {
    /// Renders `source` with `data`; every value is escaped as said. The error is for the admin who wrote the template.
    pub fn render(&self, source: &str, data: &Data, escape: Escape) -> Result<String, String> {
        let data = serde_json::to_string(data).map_err(|error| format!("the data cannot be written as JSON: {error}"))?;
        sys::template::render(source, &data, escape)
    }

    /// What templates of this item see: `lead` or `event`, `config`, `project`, `entity`, `now`.
    pub fn template_data(&self, item: &Item) -> Data {
        let (lead, event) = match &item.payload {
            Payload::Lead(lead) => (Some(lead), None),
            Payload::Event(event) => (None, Some(event)),
        };
        let config = RawValue::from_string(self.config_json.clone()).ok();
        Data(Vec::new())
            .with("lead", &lead)
            .with("event", &event)
            .with("config", &config)
            .with("project", &self.project)
            .with("entity", &self.entity)
            .with("now", &rfc3339(self.now_ms()))
    }
}

/// The values that a template sees, in the order they were put in.
#[derive(Debug, Clone)]
pub struct Data(Vec<(String, Box<RawValue>)>);

impl Data {
    /// Adds a value; what cannot be written as JSON is left out.
    #[must_use]
    pub fn with<T: Serialize + ?Sized>(mut self, name: &str, value: &T) -> Self {
        if let Ok(value) = to_raw_value(value) {
            self.0.push((name.into(), value));
        }
        self
    }
}

impl Serialize for Data {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
