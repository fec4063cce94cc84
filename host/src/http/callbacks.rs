//! Callbacks of a send call: who is told when its batch ends. A URL gets a signed request through a credential of the
//! host's own, one for each project and origin, so that a slow receiver is a lane of its own; else a credential of the
//! project says it through its channel.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::auth::Caller;
use super::callback_secret;
use super::error::ApiError;
use super::send::check_settings;
use crate::app::App;
use crate::model::{self, Callback, Credential, CredentialId, CredentialState, Project, ProjectId, Purpose, RetryOverride};
use crate::policy::{FieldError, Warning};
use crate::template;

/// The channel that callbacks to URLs go through.
const URL_CHANNEL: &str = "webhook";
/// Most receivers of one list.
const MAX_RECEIVERS: usize = 10;
/// Most origins of a project's callback URLs.
const MAX_ORIGINS: u32 = 1_000;
const MAX_URL: usize = 2_048;
/// A receiver that is down is asked again for some two days.
const RETRY: [&str; 9] = ["5s", "5m", "30m", "2h", "5h", "10h", "10h", "10h", "10h"];

/// Who is told when the batch ends. Each is told once for a batch, also when a retry by hand lets it end again.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Callbacks {
    /// When all deliveries have ended, whatever the result. At most 10.
    #[serde(default)]
    #[schema(max_items = 10)]
    pub then: Vec<Receiver>,
    /// When the batch could not run (nothing to send to) or failed as a whole. At most 10.
    #[serde(default)]
    #[schema(max_items = 10)]
    pub catch: Vec<Receiver>,
    /// In any case. At most 10.
    #[serde(default)]
    #[schema(max_items = 10)]
    pub finally: Vec<Receiver>,
}

impl Callbacks {
    /// Whether a receiver is told in words or at a place that this very call gives.
    pub fn show_the_lead(&self) -> bool {
        let own = |Receiver(entry): &Receiver| entry.settings.is_some() || entry.template.is_some();
        self.then.iter().chain(&self.catch).chain(&self.finally).any(own)
    }
}

/// One receiver: a URL or a credential.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    /// Gets a POST by Standard Webhooks, signed with the project's callback secret.
    #[schema(max_length = 2_048, pattern = "^https?://")]
    url: Option<String>,
    /// A credential of the project, of any channel.
    #[schema(value_type = Option<String>, pattern = "^crd_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    credential_id: Option<CredentialId>,
    /// Over the credential's config.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
    /// The text to say, over `event`, `lead`, `project`, `config`, `entity`, `now`; the usual words without one.
    template: Option<String>,
}

/// `"crd_…"`, or an object with `credential_id` or `url`.
#[derive(Debug)]
pub struct Receiver(Entry);

impl<'de> Deserialize<'de> for Receiver {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Receiver;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a credential, or an object with `credential_id` or `url`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Receiver, E> {
                let id = text.parse().map_err(E::custom)?;
                Ok(Receiver(Entry { credential_id: Some(id), ..Entry::default() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Receiver, A::Error> {
                Entry::deserialize(MapAccessDeserializer::new(map)).map(Receiver)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl utoipa::PartialSchema for Receiver {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
        let id = ObjectBuilder::new().schema_type(Type::String).description(Some("The id of a credential"));
        OneOfBuilder::new().item(id).item(Entry::schema()).into()
    }
}

impl utoipa::ToSchema for Receiver {}

/// Callbacks that were checked; their origins may still be without a credential.
#[derive(Debug, Default)]
pub struct Checked {
    callbacks: model::Callbacks,
    /// Which lists' entries go to which origin, by their place among all of a list.
    origins: BTreeMap<String, Vec<(usize, usize)>>,
    #[allow(missing_docs)]
    pub warnings: Vec<Warning>,
}

/// Checks everything that can be checked without writing.
pub fn check(
    app: &App,
    caller: &Caller,
    project: &Project,
    stored: &[std::sync::Arc<Credential>],
    asked: Callbacks,
) -> Result<Checked, ApiError> {
    let mut checking = Checking { app, caller, project, stored, errors: Vec::new(), checked: Checked::default() };
    let Callbacks { then, catch, finally } = asked;
    let lists = [("then", then), ("catch", catch), ("finally", finally)];
    let [then, catch, finally] = lists.map(|(name, list)| (name, list));
    checking.checked.callbacks =
        model::Callbacks { then: checking.list(0, then), catch: checking.list(1, catch), finally: checking.list(2, finally) };
    if checking.errors.is_empty() { Ok(checking.checked) } else { Err(checking.errors.into()) }
}

struct Checking<'a> {
    app: &'a App,
    caller: &'a Caller,
    project: &'a Project,
    stored: &'a [std::sync::Arc<Credential>],
    errors: Vec<FieldError>,
    checked: Checked,
}

impl Checking<'_> {
    fn list(&mut self, list: usize, (name, receivers): (&str, Vec<Receiver>)) -> Vec<Callback> {
        if receivers.len() > MAX_RECEIVERS {
            self.errors.push(FieldError::new(format!("/callbacks/{name}"), "too_many", format!("at most {MAX_RECEIVERS} receivers")));
            return Vec::new();
        }
        let mut callbacks = Vec::new();
        for (index, Receiver(entry)) in receivers.into_iter().enumerate() {
            let at = format!("/callbacks/{name}/{index}");
            match self.one(entry, &at) {
                Ok((callback, origin)) => {
                    if let Some(origin) = origin {
                        self.checked.origins.entry(origin).or_default().push((list, callbacks.len()));
                    }
                    callbacks.push(callback);
                }
                Err(error) => self.errors.extend(error.errors),
            }
        }
        callbacks
    }

    /// A callback, and the origin whose credential it still needs.
    fn one(&mut self, entry: Entry, at: &str) -> Result<(Callback, Option<String>), ApiError> {
        if let Some(template) = &entry.template
            && let Err(problem) = template::check(template)
        {
            return Err(ApiError::field(format!("{at}/template"), "invalid_template", problem));
        }
        match (entry.url, entry.credential_id) {
            (Some(url), None) => {
                if entry.settings.is_some() {
                    return Err(ApiError::field(format!("{at}/settings"), "invalid_value", "a URL takes no settings"));
                }
                self.url(url, entry.template, at)
            }
            (None, Some(id)) => Ok((self.credential(id, entry.settings, entry.template, at)?, None)),
            _ => Err(ApiError::field(at, "one_of", "exactly one of `url` and `credential_id` must be there")),
        }
    }

    fn url(&mut self, text: String, template: Option<String>, at: &str) -> Result<(Callback, Option<String>), ApiError> {
        let at = format!("{at}/url");
        let wrong = |detail: &str| ApiError::field(at.clone(), "invalid_url", detail);
        let url = url::Url::parse(&text).map_err(|error| wrong(&format!("is no URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("must begin with https:// or http:// and name a host"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() || text.len() > MAX_URL {
            return Err(wrong("must have no user, password or fragment, and at most 2048 characters"));
        }
        let Value::Object(settings) = json!({ "url": url.as_str() }) else { return Err(wrong("cannot be used")) };
        match self.app.registry.check_config(URL_CHANNEL, &settings) {
            Some(problems) => {
                if let Some(problem) = problems.first() {
                    return Err(wrong(&problem.detail));
                }
            }
            None => self.warn(Warning { code: "channel_not_installed", channel: Some(URL_CHANNEL.into()), pointer: Some(at.clone()) }),
        }
        let origin = url.origin().ascii_serialization();
        let callback = Callback {
            // Put in when everything else is right: see `Checked::complete`.
            credential: CredentialId::from_uuid(uuid::Uuid::nil()),
            channel: URL_CHANNEL.into(),
            settings: Some(Value::Object(settings)),
            template,
        };
        Ok((callback, Some(origin)))
    }

    fn credential(
        &mut self,
        id: CredentialId,
        settings: Option<Map<String, Value>>,
        template: Option<String>,
        at: &str,
    ) -> Result<Callback, ApiError> {
        let Some(credential) = self.stored.iter().find(|credential| credential.id == id) else {
            let detail = format!("the project {} has no credential {id}", self.project.external_id);
            return Err(ApiError::field(at, "unknown_credential", detail));
        };
        let settings = settings.filter(|settings| !settings.is_empty());
        if let Some(settings) = &settings {
            check_settings(self.app, self.caller, credential, settings, &format!("{at}/settings"))?;
        }
        if !credential.enabled {
            let channel = Some(credential.channel.clone());
            self.warn(Warning { code: "credential_disabled", channel, pointer: Some(at.to_owned()) });
        }
        Ok(Callback { credential: id, channel: credential.channel.clone(), settings: settings.map(Value::Object), template })
    }

    fn warn(&mut self, warning: Warning) {
        self.checked.warnings.push(warning);
    }
}

impl Checked {
    /// Makes the credentials that are missing, and gives each callback its own.
    pub async fn complete(mut self, app: &App, project: &Project) -> Result<model::Callbacks, ApiError> {
        if self.origins.is_empty() {
            return Ok(self.callbacks);
        }
        callback_secret::ensure(app, project.id).await?;
        for (origin, places) in self.origins {
            let Some(id) = credential_for(app, project.id, &origin).await? else {
                let detail = format!("the project's callbacks go to {MAX_ORIGINS} hosts already");
                return Err(ApiError::field("/callbacks", "too_many", detail));
            };
            for (list, index) in places {
                let lists = [&mut self.callbacks.then, &mut self.callbacks.catch, &mut self.callbacks.finally];
                if let Some(callback) = lists.into_iter().nth(list).and_then(|list| list.get_mut(index)) {
                    callback.credential = id;
                }
            }
        }
        Ok(self.callbacks)
    }
}

async fn credential_for(app: &App, project: ProjectId, origin: &str) -> Result<Option<CredentialId>, ApiError> {
    if let Some(id) = app.store.callback_credential(project, origin).await? {
        return Ok(Some(id));
    }
    let now = app.now();
    let config = Map::from_iter([("url".to_owned(), Value::String(format!("{origin}/")))]);
    let credential = Credential {
        id: CredentialId::new(now),
        project,
        purpose: Purpose::Callback { origin: origin.to_owned() },
        entity: None,
        channel: URL_CHANNEL.into(),
        name: format!("Callbacks to {origin}"),
        enabled: true,
        config,
        secrets: BTreeMap::new(),
        mapping: Map::new(),
        filter: None,
        retry: Some(RetryOverride::Schedule { schedule: RETRY.map(str::to_owned).to_vec() }),
        state: CredentialState::Active,
        state_reason: None,
        state_since: now,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    Ok(app.store.ensure_callback_credential(&credential, MAX_ORIGINS).await?)
}
