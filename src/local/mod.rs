//! Room local.
