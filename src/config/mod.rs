//! Flags and the configuration file: what was written, and the validated plan made of it.

pub mod cli;
mod describe;
mod file;
pub mod layer;
pub mod plan;
pub mod units;
