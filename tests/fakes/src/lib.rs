//! Fake remote services that misbehave on demand.
