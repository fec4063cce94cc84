//! To which credentials a lead goes.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{FieldError, Warning};
use crate::model::{Credential, CredentialId, EntityCredentials};

/// Channels that come with Leadwire, installed or not; their names are known and never a typing error.
pub const FIRST_PARTY: [&str; 10] =
    ["webhook", "email", "telegram", "amocrm", "bitrix24", "getresponse", "sendpulse", "unisender", "lptracker", "uontravel"];

/// What the client asked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Wanted {
    /// Whatever the entity and the project have enabled.
    #[default]
    Auto,
    /// These, in this order.
    Named(Vec<Named>),
}

/// One entry of a list of integrations.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    #[allow(missing_docs)]
    pub channel: String,
    /// This credential and no other.
    pub credential: Option<CredentialId>,
    /// Settings of this send that stand over the credential's config.
    pub settings: Option<Map<String, Value>>,
}

/// One delivery to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    #[allow(missing_docs)]
    pub credential: Arc<Credential>,
    #[allow(missing_docs)]
    pub settings: Option<Map<String, Value>>,
    /// The entry of the list it comes from.
    pub entry: Option<usize>,
}

/// What becomes of a lead.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    #[allow(missing_docs)]
    pub targets: Vec<Target>,
    #[allow(missing_docs)]
    pub warnings: Vec<Warning>,
}

/// What a lead may go to.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// The lead's entity.
    pub entity: Option<&'a str>,
    /// All of the project.
    pub credentials: &'a [Arc<Credential>],
    /// Given with this send: each stands in for all others of its channel.
    pub inline: &'a [Arc<Credential>],
    /// Channels for which one was given that cannot be used: the lead was not meant for the others of them.
    pub barred: &'a [String],
    /// What becomes of the project's where the entity has one of the same channel.
    pub rule: EntityCredentials,
}

/// Chooses among the project's credentials. `at` is the JSON pointer of the list, for errors.
pub fn fan_out(wanted: &Wanted, from: Candidates<'_>, installed: impl Fn(&str) -> bool, at: &str) -> Result<Plan, Vec<FieldError>> {
    let mut plan = Plan::default();
    match wanted {
        Wanted::Auto => {
            for credential in from.auto(None) {
                // A channel without its plugin is said, and its leads wait for the plugin as for any other reason.
                let warning = Warning::channel("channel_not_installed", &credential.channel);
                if !installed(&credential.channel) && !plan.warnings.contains(&warning) {
                    plan.warnings.push(warning);
                }
                plan.targets.push(target(credential, None, None));
            }
        }
        Wanted::Named(list) => named(list, from, installed, at, &mut plan)?,
    }
    let said = |code| plan.warnings.iter().any(|warning: &Warning| warning.code == code);
    if plan.targets.is_empty() && !said("no_credentials") && !said("channel_not_installed") {
        plan.warnings.push(Warning { code: "no_credentials", channel: None, pointer: None });
    }
    Ok(plan)
}

fn target(credential: &Arc<Credential>, settings: Option<Map<String, Value>>, entry: Option<usize>) -> Target {
    Target { credential: Arc::clone(credential), settings, entry }
}

impl<'a> Candidates<'a> {
    /// The enabled credentials of the entity and of the project, and those given with the send. The entity's stand in for the
    /// project's of the same channel, where the project does not want both.
    fn auto(self, channel: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Credential>> {
        let Self { entity, credentials, inline, barred, rule } = self;
        let of_channel = move |credential: &Credential| channel.is_none_or(|channel| credential.channel == channel);
        let wanted = move |credential: &Credential| credential.enabled && of_channel(credential) && !barred.contains(&credential.channel);
        let of_entity = move |credential: &Credential| entity.is_some() && credential.entity.as_deref() == entity;
        let replaced = move |credential: &Credential| {
            rule == EntityCredentials::Instead
                && credentials.iter().any(|other| wanted(other) && of_entity(other) && other.channel == credential.channel)
        };
        let stored = credentials.iter().filter(move |credential| {
            wanted(credential)
                && !inline.iter().any(|given| given.channel == credential.channel)
                && (of_entity(credential) || (credential.entity.is_none() && !replaced(credential)))
        });
        stored.chain(inline.iter().filter(move |credential| of_channel(credential)))
    }
}

fn named(list: &[Named], from: Candidates<'_>, installed: impl Fn(&str) -> bool, at: &str, plan: &mut Plan) -> Result<(), Vec<FieldError>> {
    let credentials = from.credentials;
    let mut errors = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        let known = installed(&entry.channel) || FIRST_PARTY.contains(&entry.channel.as_str());
        let of_channel = credentials.iter().any(|credential| credential.channel == entry.channel);
        if !known && !of_channel {
            let detail = format!("there is no integration `{}`", entry.channel);
            errors.push(FieldError::new(format!("{at}/{index}"), "unknown_integration", detail));
            continue;
        }
        let before = plan.targets.len();
        match entry.credential {
            Some(id) => match credentials.iter().find(|credential| credential.id == id) {
                Some(credential) if credential.channel == entry.channel => {
                    if !credential.enabled {
                        plan.warnings.push(Warning::channel("credential_disabled", &entry.channel));
                    }
                    add(plan, target(credential, entry.settings.clone(), Some(index)));
                    continue;
                }
                Some(credential) => {
                    let detail = format!("{id} is a credential of `{}`, not of `{}`", credential.channel, entry.channel);
                    errors.push(FieldError::new(format!("{at}/{index}/credential_id"), "credential_mismatch", detail));
                    continue;
                }
                None => {
                    let detail = format!("the project has no credential {id}");
                    errors.push(FieldError::new(format!("{at}/{index}/credential_id"), "unknown_credential", detail));
                    continue;
                }
            },
            None => {
                let mut found = false;
                for credential in from.auto(Some(&entry.channel)) {
                    add(plan, target(credential, entry.settings.clone(), Some(index)));
                    found = true;
                }
                if found {
                    continue;
                }
            }
        }
        if plan.targets.len() == before {
            let code = if installed(&entry.channel) { "no_credentials" } else { "channel_not_installed" };
            plan.warnings.push(Warning::channel(code, &entry.channel));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The same credential with the same settings twice is one delivery.
fn add(plan: &mut Plan, target: Target) {
    let twice = |other: &Target| other.credential.id == target.credential.id && other.settings == target.settings;
    if !plan.targets.iter().any(twice) {
        plan.targets.push(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CredentialState, ProjectId, Purpose, Timestamp};

    fn credential(n: u128, channel: &str, entity: Option<&str>, enabled: bool) -> Arc<Credential> {
        let now = Timestamp::from_millis(0);
        Arc::new(Credential {
            id: CredentialId::from_uuid(uuid::Uuid::from_u128(n)),
            project: ProjectId::from_uuid(uuid::Uuid::nil()),
            purpose: Purpose::Standing,
            entity: entity.map(str::to_owned),
            channel: channel.into(),
            name: channel.into(),
            enabled,
            config: Map::new(),
            secrets: Default::default(),
            mapping: Map::new(),
            filter: None,
            retry: None,
            state: CredentialState::Active,
            state_reason: None,
            state_since: now,
            version: 1,
            created_at: now,
            updated_at: now,
        })
    }

    fn project() -> Vec<Arc<Credential>> {
        vec![
            credential(1, "webhook", None, true),
            credential(2, "webhook", None, true),
            credential(3, "email", None, true),
            credential(4, "email", Some("shop"), true),
            credential(5, "telegram", None, true),
            credential(6, "telegram", Some("shop"), false),
            credential(7, "telegram", Some("other"), true),
            credential(8, "amocrm", None, false),
        ]
    }

    fn installed(channel: &str) -> bool {
        ["webhook", "email", "telegram", "amocrm"].contains(&channel)
    }

    fn ids(plan: &Plan) -> Vec<u128> {
        plan.targets.iter().map(|target| target.credential.id.uuid().as_u128()).collect()
    }

    fn entry(channel: &str, credential: Option<u128>) -> Named {
        Named { channel: channel.into(), credential: credential.map(|n| CredentialId::from_uuid(uuid::Uuid::from_u128(n))), settings: None }
    }

    fn plan(wanted: Wanted, entity: Option<&str>) -> Result<Plan, Vec<FieldError>> {
        fan_out(&wanted, among(entity, &project()), installed, "/integrations")
    }

    fn among<'a>(entity: Option<&'a str>, credentials: &'a [Arc<Credential>]) -> Candidates<'a> {
        Candidates { entity, credentials, inline: &[], barred: &[], rule: EntityCredentials::Instead }
    }

    #[test]
    fn a_project_may_want_both_its_own_and_the_entitys() {
        let all = project();
        let both = Candidates { rule: EntityCredentials::Both, ..among(Some("shop"), &all) };
        assert_eq!(ids(&fan_out(&Wanted::Auto, both, installed, "").unwrap()), [1, 2, 3, 4, 5]);
        assert_eq!(ids(&fan_out(&Wanted::Named(vec![entry("email", None)]), both, installed, "").unwrap()), [3, 4]);
    }

    #[test]
    fn what_is_given_with_the_send_stands_in_for_all_of_its_channel() {
        let (all, given) = (project(), [credential(9, "webhook", None, true)]);
        let from = Candidates { inline: &given, ..among(Some("shop"), &all) };
        assert_eq!(ids(&fan_out(&Wanted::Auto, from, installed, "").unwrap()), [4, 5, 9]);
        let named = Wanted::Named(vec![entry("webhook", Some(1)), entry("webhook", None)]);
        assert_eq!(ids(&fan_out(&named, from, installed, "").unwrap()), [1, 9], "one that is named by its id is that one");
    }

    #[test]
    fn a_channel_without_a_plugin_is_said_once() {
        let all = [credential(1, "lptracker", None, true), credential(2, "lptracker", None, true)];
        let plan = fan_out(&Wanted::Auto, among(None, &all), installed, "").unwrap();
        assert_eq!((ids(&plan), plan.warnings), (vec![1, 2], vec![Warning::channel("channel_not_installed", "lptracker")]));
    }

    #[test]
    fn auto_takes_what_is_enabled_and_prefers_the_entitys() {
        for (entity, wanted) in [
            (None, vec![1, 2, 3, 5]),
            (Some("shop"), vec![1, 2, 4, 5]),
            (Some("other"), vec![1, 2, 3, 7]),
            (Some("unknown"), vec![1, 2, 3, 5]),
        ] {
            let plan = plan(Wanted::Auto, entity).unwrap();
            assert_eq!(ids(&plan), wanted, "{entity:?}");
            assert!(plan.warnings.is_empty());
        }
    }

    #[test]
    fn named_ones_in_their_order() {
        let list = vec![entry("telegram", None), entry("email", Some(3)), entry("email", Some(3)), entry("amocrm", Some(8))];
        let plan = plan(Wanted::Named(list), Some("shop")).unwrap();
        assert_eq!(ids(&plan), [5, 3, 8]);
        assert_eq!(plan.warnings, [Warning::channel("credential_disabled", "amocrm")]);
    }

    #[test]
    fn what_cannot_be_sent_is_said() {
        let list = vec![entry("getresponse", None), entry("amocrm", None)];
        let plan = plan(Wanted::Named(list), None).unwrap();
        assert!(plan.targets.is_empty());
        assert_eq!(plan.warnings, [Warning::channel("channel_not_installed", "getresponse"), Warning::channel("no_credentials", "amocrm")]);
        let none = fan_out(&Wanted::Auto, among(None, &[]), installed, "").unwrap();
        assert_eq!(none.warnings, [Warning { code: "no_credentials", channel: None, pointer: None }]);
    }

    #[test]
    fn unknown_names_are_errors_with_their_place() {
        let list = vec![entry("email", None), entry("emial", None), entry("email", Some(99)), entry("email", Some(1))];
        let errors = plan(Wanted::Named(list), None).unwrap_err();
        let seen: Vec<_> = errors.iter().map(|error| (error.pointer.as_str(), error.code)).collect();
        assert_eq!(
            seen,
            [
                ("/integrations/1", "unknown_integration"),
                ("/integrations/2/credential_id", "unknown_credential"),
                ("/integrations/3/credential_id", "credential_mismatch"),
            ]
        );
    }
}
