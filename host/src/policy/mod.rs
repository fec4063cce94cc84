//! Pure decisions. No I/O, no clock, no randomness: all of that comes in as a parameter.
