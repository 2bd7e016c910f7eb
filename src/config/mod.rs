//! Flags: what was typed, and the validated plan made of it.

pub mod cli;
pub mod plan;
pub mod units;
