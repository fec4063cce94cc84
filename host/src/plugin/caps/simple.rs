//! `clock` and `random`: all that a guest learns of the machine.

use crate::plugin::bindings::wit;
use crate::plugin::call::CallState;

/// Most bytes of one `random.bytes`.
const MAX_RANDOM_BYTES: u32 = 4_096;

impl wit::clock::Host for CallState {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(u64::try_from(self.env.clock.now().as_millis()).unwrap_or(0))
    }
}

impl wit::random::Host for CallState {
    fn bytes(&mut self, len: u32) -> wasmtime::Result<Vec<u8>> {
        let mut bytes = vec![0; len.min(MAX_RANDOM_BYTES) as usize];
        getrandom::fill(&mut bytes).map_err(|e| wasmtime::Error::msg(e.to_string()))?;
        Ok(bytes)
    }
}
