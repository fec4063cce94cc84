//! Write a Leadwire channel in Rust.
//!
//! A channel is a type that implements [`Channel`]: what to do with one lead, and how to prove that the settings work.
//! The host calls it in a sandbox of its own, lends it HTTP, mail, templates and storage, puts secrets where the
//! manifest says without showing them, and decides what follows from the [`Verdict`]. The tutorial is `docs/plugins.md`.
//!
//! ```
//! use leadwire_sdk::{Channel, Context, Item, Outcome, Stop, http, serde::Deserialize};
//!
//! #[derive(Deserialize)]
//! #[serde(crate = "leadwire_sdk::serde")]
//! struct Settings {
//!     url: String,
//! }
//!
//! struct Hook;
//!
//! impl Channel for Hook {
//!     type Config = Settings;
//!
//!     fn deliver_one(ctx: &Context<Settings>, item: &Item) -> Outcome {
//!         http::outcome(ctx.http().post(&ctx.config.url).json(&item.payload).send())
//!     }
//!
//!     fn check(ctx: &Context<Settings>) -> Result<Vec<(String, String)>, Stop> {
//!         let status = ctx.http().get(&ctx.config.url).send().map_err(Stop::from)?.status;
//!         Ok(vec![("status".into(), status.to_string())])
//!     }
//! }
//!
//! leadwire_sdk::export!(Hook);
//!
//! // Everything the host offers has a double, so a test needs neither a host nor a network.
//! use leadwire_sdk::testing::{Answer, Host, item};
//!
//! let mut host = Host::new().config(serde_json::json!({ "url": "https://example.com/leads" })).answer(Answer::status(503).header("Retry-After", "7"));
//! let run = host.deliver::<Hook>(&[item()]);
//! let Some(leadwire_sdk::Verdict::Retry(later)) = run.verdict() else { panic!() };
//! assert_eq!(later.after_ms, Some(7_000));
//! assert_eq!(host.requests()[0].url, "https://example.com/leads");
//! ```
//!
//! Modules: [`http`], [`secrets`], [`kv`], [`mail`], [`template`], [`log`] are what the host lends; [`testing`] is their doubles.

#[doc(hidden)]
pub mod bindings;
mod channel;
#[doc(hidden)]
pub mod glue;
pub mod http;
pub mod kv;
pub mod log;
pub mod mail;
mod outcome;
mod payload;
pub mod secrets;
mod sys;
pub mod template;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod time;

pub use channel::{Channel, Context};
pub use outcome::Outcome;
pub use time::rfc3339;

pub use bindings::exports::leadwire::channel::outbound::{Item, Payload};
pub use bindings::leadwire::channel::progress::{Postponement, Receipt, Refusal, Verdict};
pub use bindings::leadwire::channel::types::{Attr, Body, Event, Lead, Money, Origin, Phone, Stop};

/// The JSON library of the SDK, so that a plugin needs no dependency of its own.
pub use serde;
/// The JSON library of the SDK, so that a plugin needs no dependency of its own.
pub use serde_json;

/// Makes a type that implements [`Channel`] the plugin that this crate is.
#[macro_export]
macro_rules! export {
    ($channel:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            impl $crate::bindings::exports::leadwire::channel::outbound::Guest for Component {
                fn deliver(
                    ctx: $crate::glue::RawContext,
                    items: ::std::vec::Vec<$crate::Item>,
                ) -> ::core::result::Result<(), $crate::Stop> {
                    $crate::glue::deliver::<$channel>(ctx, &items)
                }
                fn check(ctx: $crate::glue::RawContext) -> ::core::result::Result<::std::vec::Vec<$crate::Attr>, $crate::Stop> {
                    $crate::glue::check::<$channel>(ctx)
                }
            }
    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() = || {
            fn is_a_channel<C: $crate::Channel>() {}
            is_a_channel::<$channel>();
        };
    };
}
