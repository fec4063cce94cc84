//! Between the component's exports and the trait: what [`crate::export!`] calls.

use std::sync::Once;

use crate::{Attr, Channel, Context, Item, Stop, log};

#[doc(hidden)]
pub use crate::bindings::leadwire::channel::types::Context as RawContext;

/// The export `deliver`.
pub fn deliver<C: Channel>(raw: RawContext, items: &[Item]) -> Result<(), Stop> {
    let ctx = enter::<C>(raw)?;
    C::deliver(&ctx, items)
}

/// The export `check`.
pub fn check<C: Channel>(raw: RawContext) -> Result<Vec<Attr>, Stop> {
    let ctx = enter::<C>(raw)?;
    Ok(C::check(&ctx)?.into_iter().map(|(name, value)| Attr { name, value }).collect())
}

fn enter<C: Channel>(raw: RawContext) -> Result<Context<C::Config>, Stop> {
    // In tests a panic belongs to the test runner.
    static HOOK: Once = Once::new();
    if cfg!(target_arch = "wasm32") {
        HOOK.call_once(|| std::panic::set_hook(Box::new(|panic| log::error(&panic.to_string()))));
    }
    let config = serde_json::from_str(&raw.config)
        .map_err(|error| Stop::misconfigured(format!("the settings do not fit what this plugin expects: {error}")))?;
    Ok(Context {
        config,
        config_json: raw.config,
        project: raw.project,
        entity: raw.entity,
        credential: raw.credential,
        correlation: raw.correlation,
        locale: raw.locale,
        time_zone: raw.time_zone,
        budget_ms: raw.budget_ms,
        dry_run: raw.dry_run,
    })
}
