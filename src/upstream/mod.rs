//! Connections to the upstream: made, leased, kept and noticed dead, per core.

pub mod connect;
pub mod pool;
