//! Behaviour tests: one binary, one file a behaviour. Set up by `cargo xtask test`.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by failing")]

mod batching;
mod callback_crash;
mod callbacks;
mod crash;
mod doubt;
mod drop_in;
mod email_channel;
mod fallbacks;
mod first_lead;
mod hostile;
mod logs;
mod mail_servers;
mod notifications;
mod openapi;
mod parking;
mod registry;
mod retries;
mod secrets_search;
mod send_batch;
mod sending_api;
mod store_contract;
mod telegram_channel;
mod verifiers;
mod wasi;
mod webhook_channel;
