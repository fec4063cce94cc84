//! The admin's mapping: `price`, `tags`, `contact.name`, `company.1234`, `UTM_SOURCE`.

use leadwire_sdk::Item;
use serde_json::Value;

use crate::fields::{Entity, shown};

/// What the three entities have beside fields of their own.
const LEAD: [&str; 8] = ["name", "price", "pipeline_id", "status_id", "responsible_user_id", "tags", "note", "task_text"];
const CONTACT: [&str; 3] = ["name", "first_name", "last_name"];
const COMPANY: [&str; 1] = ["name"];

/// A lead's mapped values.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// Of the names that every account has.
    common: Vec<(Entity, String, Value)>,
    /// Of the account's own fields, by id or code.
    pub(crate) own: Vec<(Entity, String, Value)>,
}

impl Mapped {
    pub(crate) fn of(item: &Item) -> Self {
        let mut mapped = Self::default();
        for (name, value) in item.mapped() {
            let (entity, field) = place(&name);
            let common: &[&str] = match entity {
                Entity::Lead => &LEAD,
                Entity::Contact => &CONTACT,
                Entity::Company => &COMPANY,
            };
            let list = if common.contains(&field) { &mut mapped.common } else { &mut mapped.own };
            list.push((entity, field.to_owned(), value));
        }
        mapped
    }

    /// The value of a name that every account has; `None` also when it is null or empty.
    pub(crate) fn value(&self, entity: Entity, name: &str) -> Option<&Value> {
        let found = self.common.iter().find(|(of, field, _)| *of == entity && field == name);
        found.map(|(_, _, value)| value).filter(|value| !shown(value).is_empty())
    }

    pub(crate) fn text(&self, entity: Entity, name: &str) -> Option<String> {
        self.value(entity, name).map(shown)
    }

    pub(crate) fn id(&self, name: &str) -> Option<u64> {
        self.text(Entity::Lead, name)?.parse().ok()
    }
}

fn place(name: &str) -> (Entity, &str) {
    match name.split_once('.') {
        Some(("contact", field)) => (Entity::Contact, field),
        Some(("company", field)) => (Entity::Company, field),
        Some(("lead", field)) => (Entity::Lead, field),
        _ => (Entity::Lead, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_field_it_is() {
        for (name, entity, field) in [
            ("price", Entity::Lead, "price"),
            ("lead.1234", Entity::Lead, "1234"),
            ("contact.POSITION", Entity::Contact, "POSITION"),
            ("company.name", Entity::Company, "name"),
            ("UTM_SOURCE", Entity::Lead, "UTM_SOURCE"),
        ] {
            assert_eq!(place(name), (entity, field), "{name}");
        }
    }
}
