//! Millstream relays Server-Sent-Event streams from LLM APIs to browsers and apps.
//!
//! The crate is laid out in floors; a module uses only floors below its own
//! (`tests/layers.rs` holds it to that). See `ARCHITECTURE.md` for the walk.

// Floor 0: ground.
pub mod buf;
pub mod clock;
pub mod error;
pub mod limits;
pub mod outcome;

// Floor 1: codecs. Bytes only.
pub mod dialect;
pub mod http1;
pub mod json;
pub mod sse;

// Floor 2: policy. No sockets, no clock.
pub mod balance;
pub mod config;
pub mod flow;
pub mod route;
pub mod shape;
pub mod telemetry;

// Floor 3: I/O.
pub mod net;
pub mod upstream;

// Floor 4: the data path.
pub mod admin;
pub mod relay;

// Floor 5: the process.
pub mod demo;
pub mod mock;
pub mod server;
pub mod worker;
