//! The parts of the benchmark: a load driver, a sink, a process meter, and the measures made of them. No part of the
//! product. `README.md` beside this crate says what each figure means. Start at [`measures`].

pub mod driver;
pub mod epoch;
pub mod hardware;
pub mod host;
pub mod lead;
pub mod measures;
pub mod meter;
pub mod percentile;
pub mod report;
pub mod sink;
pub mod wire;
