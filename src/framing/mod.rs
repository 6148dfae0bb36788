//! Room framing.
