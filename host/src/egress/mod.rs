//! Outgoing HTTP of plugins: the one function every request passes.
