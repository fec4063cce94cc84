//! The `leadwire` command.

fn main() {}
