//! Room batcher.
