//! Lines in the host's log, with the attempt's ids. The host masks phones, e-mail addresses and secrets.

use crate::{Attr, sys};

pub use crate::bindings::leadwire::channel::log::Level;

/// For the plugin's author.
pub fn debug(message: &str) {
    write(Level::Debug, message, &[]);
}

/// Worth knowing.
pub fn info(message: &str) {
    write(Level::Info, message, &[]);
}

/// Done, but not as it should be.
pub fn warn(message: &str) {
    write(Level::Warn, message, &[]);
}

/// Someone must act.
pub fn error(message: &str) {
    write(Level::Error, message, &[]);
}

/// A line with fields.
pub fn write(level: Level, message: &str, fields: &[(&str, &str)]) {
    let attrs: Vec<Attr> = fields.iter().map(|(name, value)| Attr { name: (*name).into(), value: (*value).into() }).collect();
    sys::log::write(level, message, &attrs);
}
