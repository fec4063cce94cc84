//! Which version of a channel's plugin serves.

use super::Timestamp;

/// Whether an admin chose a version or the host took the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinState {
    /// The version that serves.
    Active,
    /// Removed by an admin: its file is not loaded again until it is activated.
    Removed,
}

/// An admin's decision about one plugin file, kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    #[allow(missing_docs)]
    pub channel: String,
    /// The plugin's own version.
    pub version: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    #[allow(missing_docs)]
    pub state: PinState,
    #[allow(missing_docs)]
    pub updated_at: Timestamp,
}
