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
mod guides;
mod hostile;
mod large_leads;
mod lists;
mod logs;
mod mail_servers;
mod notifications;
mod openapi;
mod parking;
mod preview;
mod registry;
mod retries;
mod secrets_search;
mod send_batch;
mod sending_api;
mod slow_clients;
mod stopping;
mod store_contract;
mod store_contract_lists;
mod store_contract_tasks;
mod tasks;
mod telegram_channel;
mod timeline;
mod verifiers;
mod wasi;
mod webhook_channel;
