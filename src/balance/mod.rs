//! Which upstream is tried, how often, and when again.

pub mod retry;
pub mod select;
