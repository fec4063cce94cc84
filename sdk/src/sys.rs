//! The host's functions: the real ones in a component, the test doubles anywhere else. Both have the same signatures.

#[cfg(target_arch = "wasm32")]
pub(crate) use crate::bindings::leadwire::channel::{clock, http, kv, log, mail, progress, random, secrets, secrets_reveal, template};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use crate::testing::imports::{clock, http, kv, log, mail, progress, random, secrets, secrets_reveal, template};
