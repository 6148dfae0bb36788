//! Drain.
