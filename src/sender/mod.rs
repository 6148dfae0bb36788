//! Room sender.
