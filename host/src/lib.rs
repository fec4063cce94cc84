//! Leadwire takes a sales lead over HTTP and brings it to every CRM, inbox, chat and webhook its project has enabled.
//!
//! Calls go down only: `http`, `lane`, `chore` → `plugin`, `store` → `policy` → `model`. `http` never calls a plugin's
//! code by itself, `plugin` never sees `store`, nothing outside `store` knows SQL. See `docs/ARCHITECTURE.md`.

pub mod app;
pub mod chore;
pub mod clock;
pub mod config;
pub mod egress;
pub mod fault;
pub mod http;
pub mod keys;
pub mod lane;
pub mod live;
pub mod mail;
pub mod metrics;
pub mod model;
pub mod plugin;
pub mod policy;
pub mod private;
pub mod secrets;
pub mod serve;
pub mod store;
pub mod telemetry;
pub mod template;
