//! Whether the webhook works, with reads only: who it is, what it may do, and whether pipeline and stage are there.

use leadwire_sdk::{Context, Stop};
use serde::Deserialize;
use serde_json::Value;

use crate::{Config, command::Command, fault::Fault, place::Place, portal::Portal};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "UPPERCASE")]
struct Profile {
    id: Value,
    admin: bool,
    name: Value,
    last_name: Value,
}

pub(crate) fn check(ctx: &Context<Config>) -> Result<Vec<(String, String)>, Stop> {
    let place = Place::of(&ctx.config)?;
    let portal = Portal::new(ctx);
    let mut commands = vec![
        Command::new("p".into(), "profile"),
        Command::new("s".into(), "scope"),
        Command::new("m".into(), "crm.settings.mode.get"),
        // Proves the rights to what will be created, which the settings above do not.
        Command::new("i".into(), "crm.item.fields").with("entityTypeId", ctx.config.entity.type_id()),
    ];
    commands.extend(place.all_commands());
    let stop = |fault: Fault| fault.into_stop(Some(portal.operating_ms()));
    let replies = portal.look(commands).map_err(stop)?;

    let profile = match replies.get::<Profile>("p") {
        Ok(profile) => profile,
        // PHP writes an empty object as a list: an employee who was dismissed.
        Err(Fault::Trouble { .. }) => Profile::default(),
        Err(fault) => return Err(stop(fault)),
    };
    let id = crate::value::plain(&profile.id);
    if id.is_empty() {
        return Err(Stop::credential_invalid("the employee who made the webhook does not work in the portal any more; make a new one"));
    }
    let scopes: Vec<String> = match replies.get("s") {
        Ok(scopes) => scopes,
        Err(Fault::Refused { .. } | Fault::Missing(_) | Fault::Trouble { .. }) => Vec::new(),
        Err(fault) => return Err(stop(fault)),
    };
    if !scopes.is_empty() && !scopes.iter().any(|scope| scope == "crm") {
        return Err(Stop::credential_invalid(format!("give the webhook the right `crm`; it has {}", scopes.join(", "))));
    }
    replies.get::<Value>("i").map_err(stop)?;
    let (pipeline, stage) = place.verify(ctx, &replies)?;

    let name = [&profile.name, &profile.last_name].map(crate::value::plain).join(" ").trim().to_owned();
    let mut found = vec![
        ("portal".to_owned(), ctx.config.portal.clone()),
        ("user".into(), format!("{id} {name}").trim().to_owned()),
        ("administrator".into(), if profile.admin { "yes" } else { "no" }.into()),
        ("rights".into(), scopes.join(", ")),
    ];
    // Numbers come as texts from some methods.
    match replies.get::<Value>("m").map(|mode| crate::value::plain(&mode)).as_deref() {
        Ok("1") => found.push(("CRM mode".into(), "classic: with leads".into())),
        Ok("2") => found.push(("CRM mode".into(), "simple: the portal turns each lead into a deal at once".into())),
        _ => {}
    }
    found.extend(pipeline.filter(|name| !name.is_empty()).map(|name| ("pipeline".into(), name)));
    found.extend(stage.map(|name| ("stage".into(), name)));
    Ok(found)
}
