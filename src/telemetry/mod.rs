//! What the relay says about itself: counters, the access log, operational messages.

pub mod expose;
pub mod log;
pub mod metrics;
pub mod streams;
