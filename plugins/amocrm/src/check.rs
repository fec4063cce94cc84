//! Whether the token works, what its owner may do, and whether the settings fit the account. Reads only.

use leadwire_sdk::{Context, Stop};
use serde_json::Value;

use crate::{
    Config,
    api::{Api, Trouble, embedded, id_of, plain},
    draft::Dictionary,
    fields::{Entity, Fields},
};

type Shown = Vec<(String, String)>;

pub(crate) fn check(ctx: &Context<Config>) -> Result<Shown, Stop> {
    read(&Api::new(ctx)).map_err(|trouble| match trouble {
        Trouble::Stop(stop) => stop,
        Trouble::Later(_) => Stop::unavailable(None),
    })
}

fn read(api: &Api<'_>) -> Result<Shown, Trouble> {
    let config = &api.ctx.config;
    let nothing = || misconfigured(format!("there is no amoCRM account at {}.{}", config.subdomain, config.zone));
    let account = api.get("account", &[])?.ok_or_else(nothing)?;
    let id = id_of(&account, "id").ok_or_else(nothing)?;
    let mut shown = vec![("account".to_owned(), text(&account, "name")), ("account id".to_owned(), id.to_string())];
    let subdomain = text(&account, "subdomain");
    if !subdomain.is_empty() && subdomain != config.subdomain {
        shown.push(("subdomain".into(), format!("{subdomain} now: enter it in place of {}", config.subdomain)));
    }
    if let Some(user) = id_of(&account, "current_user_id") {
        rights(api, user, &mut shown)?;
    }
    pipeline(api, &mut shown)?;
    responsible(api, &mut shown)?;
    fields(api, &mut shown)?;
    Ok(shown)
}

/// Who the token belongs to, and whether that user may add what we add.
fn rights(api: &Api<'_>, user: u64, shown: &mut Shown) -> Result<(), Trouble> {
    let Some(user) = for_administrators(api.get(&format!("users/{user}"), &[]))? else {
        shown.push(("rights".into(), "unknown: the token's owner is no administrator, who alone may read them".into()));
        return Ok(());
    };
    shown.push(("user".into(), text(&user, "name")));
    let rights = user.get("rights").unwrap_or(&Value::Null);
    if rights.get("is_admin").and_then(Value::as_bool) == Some(true) {
        shown.push(("rights".into(), "administrator".into()));
        return Ok(());
    }
    let denied = |entity: &&str| rights.pointer(&format!("/{entity}/add")).and_then(Value::as_str) == Some("D");
    let missing: Vec<&str> = ["leads", "contacts", "companies"].into_iter().filter(denied).collect();
    if !missing.is_empty() {
        let text = format!("the token's owner may not add {}; an administrator of the account can allow it", missing.join(", "));
        return Err(Trouble::Stop(Stop::credential_invalid(text)));
    }
    shown.push(("rights".into(), "may add leads, contacts and companies".into()));
    Ok(())
}

fn pipeline(api: &Api<'_>, shown: &mut Shown) -> Result<(), Trouble> {
    let config = &api.ctx.config;
    let Some(wanted) = config.pipeline_id else { return Ok(()) };
    let list = api.get("leads/pipelines", &[])?.unwrap_or_default();
    let found = embedded(&list, "pipelines").iter().find(|pipeline| id_of(pipeline, "id") == Some(wanted));
    let pipeline = found.ok_or_else(|| misconfigured(format!("pipeline_id: the account has no pipeline {wanted}")))?;
    shown.push(("pipeline".into(), text(pipeline, "name")));
    let Some(stage) = config.status_id else { return Ok(()) };
    let found = embedded(pipeline, "statuses").iter().find(|status| id_of(status, "id") == Some(stage));
    let status = found.ok_or_else(|| misconfigured(format!("status_id: stage {stage} does not belong to pipeline {wanted}")))?;
    shown.push(("stage".into(), text(status, "name")));
    Ok(())
}

fn responsible(api: &Api<'_>, shown: &mut Shown) -> Result<(), Trouble> {
    let Some(user) = api.ctx.config.responsible_user_id else { return Ok(()) };
    // A read that only administrators may make says nothing about the user.
    let Some(found) = for_administrators(api.get(&format!("users/{user}"), &[]))? else { return Ok(()) };
    if found.pointer("/rights/is_active").and_then(Value::as_bool) == Some(false) {
        return Err(misconfigured(format!("responsible_user_id: user {user} is switched off")));
    }
    shown.push(("responsible".into(), text(&found, "name")));
    Ok(())
}

fn fields(api: &Api<'_>, shown: &mut Shown) -> Result<(), Trouble> {
    let Some(name) = &api.ctx.config.marker_field else { return Ok(()) };
    let fields = Fields::load(api, Entity::Lead, &Dictionary::usual(api.ctx))?;
    let found = fields.field(&name.to_string()).filter(|field| matches!(field.kind.as_str(), "text" | "textarea"));
    let field = found.ok_or_else(|| misconfigured(format!("marker_field: leads have no text field `{name}`")))?;
    shown.push(("marker field".into(), field.id.to_string()));
    Ok(())
}

/// A list that only administrators may read: for others it is as if it were empty.
fn for_administrators(read: Result<Option<Value>, Trouble>) -> Result<Option<Value>, Trouble> {
    match read {
        Err(Trouble::Stop(Stop::CredentialInvalid(_))) => Ok(None),
        other => other,
    }
}

fn misconfigured(text: String) -> Trouble {
    Trouble::Stop(Stop::misconfigured(text))
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).map(plain).unwrap_or_default()
}
