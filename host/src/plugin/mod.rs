//! Plugins: the manifest, the package file, the engine that runs components, and the registry of what is installed.
//! Never sees the store: what a call needs is handed in.

pub mod manifest;
pub mod registry;
