//! Where a record goes: pipeline and stage, checked against the portal once an hour, so that a setting that cannot work is told
//! in the admin's words and costs no lead.

use leadwire_sdk::{Context, Stop, log};
use serde::Deserialize;
use serde_json::json;

use crate::{Config, Entity, command::Command, dictionary::setting, fault::Fault, portal::Replies};

const KEY: &str = "place";
/// How long a pipeline and a stage that were found hold.
const TTL_S: u32 = 3600;

/// Pipeline and stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    portal: String,
    entity: Entity,
    /// The configured pipeline, or the one that the stage's name tells.
    pub(crate) category: Option<u64>,
    pub(crate) stage: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Categories {
    categories: Vec<Category>,
}

/// A pipeline of the portal.
#[derive(Debug, Deserialize)]
struct Category {
    id: u64,
    #[serde(default)]
    name: String,
}

/// A stage of the portal.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Stage {
    status_id: String,
    #[serde(default)]
    name: String,
}

impl Place {
    /// From the settings alone.
    pub(crate) fn of(config: &Config) -> Result<Self, Stop> {
        let told = config.stage_id.as_deref().and_then(category_of);
        let category = config.category_id.or(told);
        if config.entity == Entity::Lead && category.is_some() {
            return Err(setting("category_id", "leads have no pipelines; take it away, or set `entity` to `deal`"));
        }
        if let (Some(category), Some(stage)) = (config.category_id, &config.stage_id)
            && told.unwrap_or(0) != category
        {
            return Err(setting("stage_id", format!("the stage {stage} does not belong to pipeline {category}")));
        }
        Ok(Self { portal: config.portal.clone(), entity: config.entity, category, stage: config.stage_id.clone() })
    }

    /// What is to be asked, when it was not found lately.
    pub(crate) fn commands(&self, ctx: &Context<Config>) -> Vec<Command> {
        if self.is_default() || ctx.kv().get_text(KEY).ok().flatten().as_deref() == Some(&self.mark()) {
            Vec::new()
        } else {
            self.all_commands()
        }
    }

    /// What is to be asked, for a check.
    pub(crate) fn all_commands(&self) -> Vec<Command> {
        let stages = Command::new("gs".into(), "crm.status.list").with("filter", json!({ "ENTITY_ID": self.stages_of() }));
        let stages = stages.with("order", json!({ "SORT": "ASC" }));
        match self.entity {
            Entity::Deal => vec![Command::new("gc".into(), "crm.category.list").with("entityTypeId", self.entity.type_id()), stages],
            Entity::Lead => vec![stages],
        }
    }

    /// Names of the pipeline and the stage, or which setting is wrong. What the portal does not tell cannot be checked.
    pub(crate) fn verify(&self, ctx: &Context<Config>, replies: &Replies) -> Result<(Option<String>, Option<String>), Stop> {
        let pipeline = match (self.entity, told::<Categories>(replies, "gc")?) {
            (Entity::Deal, Some(known)) => Some(self.pipeline(&known.categories)?),
            _ => None,
        };
        let stage = match told::<Vec<Stage>>(replies, "gs")? {
            Some(known) => self.stage_name(&known)?,
            None => None,
        };
        if ctx.kv().set(KEY, self.mark().as_bytes(), Some(TTL_S)).is_err() {
            log::debug("the checked pipeline and stage could not be stored");
        }
        Ok((pipeline, stage))
    }

    /// The portal refused a record and speaks of a setting: asked again next time, and told by the setting's name.
    pub(crate) fn blame(&self, ctx: &Context<Config>, text: &str) -> Option<Stop> {
        let words: String = text.to_lowercase().chars().filter(|c| *c != '_').collect();
        let says = |names: &[&str]| names.iter().any(|name| words.contains(name));
        let named = [
            (self.stage.is_some(), "stage_id", &["stageid", "statusid"][..]),
            (self.category.is_some(), "category_id", &["categoryid"][..]),
            (ctx.config.assigned_by_id.is_some(), "assigned_by_id", &["assignedbyid"][..]),
            (true, "source_id", &["sourceid"][..]),
        ];
        let (_, name, _) = named.into_iter().find(|(set, _, words)| *set && says(words))?;
        if ctx.kv().delete(KEY).is_err() {
            log::debug("the checked pipeline and stage could not be forgotten");
        }
        Some(setting(name, format!("the portal refuses it: {text}")))
    }

    fn is_default(&self) -> bool {
        self.category.is_none() && self.stage.is_none()
    }

    fn mark(&self) -> String {
        format!("{} {:?} {:?} {:?}", self.portal, self.entity, self.category, self.stage)
    }

    fn stages_of(&self) -> String {
        match (self.entity, self.category) {
            (Entity::Lead, _) => "STATUS".into(),
            (Entity::Deal, None | Some(0)) => "DEAL_STAGE".into(),
            (Entity::Deal, Some(category)) => format!("DEAL_STAGE_{category}"),
        }
    }

    fn pipeline(&self, known: &[Category]) -> Result<String, Stop> {
        let wanted = self.category.unwrap_or(0);
        let found = known.iter().find(|category| category.id == wanted);
        // The general one may be missing from the list, and is there all the same.
        if wanted == 0 {
            return Ok(found.map(|category| category.name.clone()).unwrap_or_default());
        }
        found.map(|category| category.name.clone()).ok_or_else(|| {
            let list = listed(known.iter().map(|category| format!("{} {}", category.id, category.name)));
            setting("category_id", format!("the portal has no pipeline {wanted}; it has {list}"))
        })
    }

    fn stage_name(&self, known: &[Stage]) -> Result<Option<String>, Stop> {
        let Some(wanted) = &self.stage else { return Ok(None) };
        match known.iter().find(|stage| stage.status_id == *wanted) {
            Some(stage) => Ok(Some(stage.name.clone())),
            None => {
                let list = listed(known.iter().map(|stage| format!("{} {}", stage.status_id, stage.name)));
                let place = match self.category {
                    Some(category) => format!("pipeline {category}"),
                    None => "the portal".into(),
                };
                Err(setting("stage_id", format!("{place} has no stage {wanted}; it has {list}")))
            }
        }
    }
}

/// The answer, when there was one; an error that is about more than this question stops the call.
fn told<T: serde::de::DeserializeOwned>(replies: &Replies, name: &str) -> Result<Option<T>, Stop> {
    match replies.get(name) {
        Ok(found) => Ok(Some(found)),
        Err(Fault::Refused { .. } | Fault::Missing(_) | Fault::Trouble { .. }) => Ok(None),
        Err(other) => Err(other.into_stop(None)),
    }
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(20).map(|name| name.trim().to_owned()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The pipeline that a stage's name tells: `C9:NEW` is in 9.
fn category_of(stage: &str) -> Option<u64> {
    stage.strip_prefix('C')?.split_once(':')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(entity: Entity, category: Option<u64>, stage: Option<&str>) -> Result<Place, Stop> {
        let config = json!({ "portal": "acme.bitrix24.ru", "entity": entity, "category_id": category, "stage_id": stage });
        Place::of(&serde_json::from_value(config).unwrap())
    }

    #[test]
    fn stage_and_pipeline_must_agree() {
        assert_eq!(place(Entity::Deal, None, Some("C9:NEW")).unwrap().category, Some(9));
        assert_eq!(place(Entity::Deal, Some(9), Some("C9:NEW")).unwrap().category, Some(9));
        assert_eq!(place(Entity::Deal, Some(0), Some("NEW")).unwrap().category, Some(0));
        assert_eq!(place(Entity::Lead, None, Some("IN_PROCESS")).unwrap().stages_of(), "STATUS");
        assert_eq!(place(Entity::Deal, Some(9), None).unwrap().stages_of(), "DEAL_STAGE_9");
        for (entity, category, stage, words) in [
            (Entity::Deal, Some(7), Some("C9:NEW"), "stage_id: the stage C9:NEW does not belong to pipeline 7"),
            (Entity::Deal, Some(7), Some("NEW"), "stage_id: the stage NEW does not belong to pipeline 7"),
            (Entity::Deal, Some(0), Some("C9:NEW"), "stage_id: the stage C9:NEW does not belong to pipeline 0"),
            (Entity::Lead, Some(1), None, "category_id: leads have no pipelines"),
            (Entity::Lead, None, Some("C9:NEW"), "category_id: leads have no pipelines"),
        ] {
            let Err(Stop::Misconfigured(text)) = place(entity, category, stage) else { panic!("{words}") };
            assert!(text.starts_with(words), "{text}");
        }
    }

    #[test]
    fn what_the_portal_has_not_is_named_with_what_it_has() {
        let stages = [("C9:NEW", "New"), ("C9:WON", "Won")].map(|(id, name)| Stage { status_id: id.into(), name: name.into() });
        let found = place(Entity::Deal, Some(9), Some("C9:NEW")).unwrap().stage_name(&stages).unwrap();
        assert_eq!(found.as_deref(), Some("New"));
        let Err(Stop::Misconfigured(text)) = place(Entity::Deal, Some(9), Some("C9:GONE")).unwrap().stage_name(&stages) else { panic!() };
        assert_eq!(text, "stage_id: pipeline 9 has no stage C9:GONE; it has C9:NEW New, C9:WON Won");
        let known = [Category { id: 9, name: "Retail".into() }];
        let Err(Stop::Misconfigured(text)) = place(Entity::Deal, Some(7), None).unwrap().pipeline(&known) else { panic!() };
        assert_eq!(text, "category_id: the portal has no pipeline 7; it has 9 Retail");
        let Err(Stop::Misconfigured(text)) = place(Entity::Deal, None, Some("C7:NEW")).unwrap().pipeline(&known) else { panic!() };
        assert!(text.contains("no pipeline 7"), "{text}");
    }
}
