//! Room buffer.
