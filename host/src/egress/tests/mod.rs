//! Whole sends against real servers on loopback, which the operator's allow list opens for these tests.

mod attacks;
mod places;
mod support;
mod transport;
