//! Connections to the upstreams: made, leased, kept and noticed dead, per core.

pub mod connect;
pub mod group;
pub mod pool;
