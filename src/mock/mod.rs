//! The built-in mock upstream: speaks the dialects' streams, deterministic by seed, with pacing
//! and faults chosen per request.

pub mod script;
pub mod serve;
pub mod text;
mod tools;

use std::io;

use crate::config::cli::MockArgs;
use crate::net::listener;
use crate::net::runtime::build_runtime;
use serve::{Defaults, Mock};

/// Runs the mock until it is killed.
///
/// # Errors
/// The address cannot be bound or no driver works.
pub fn run(args: &MockArgs) -> io::Result<()> {
    crate::server::raise_descriptor_limit();
    let listener = listener::bind(args.listen).map_err(|error| {
        io::Error::new(error.kind(), format!("--listen {}: {error}", args.listen))
    })?;
    serve_on(listener, args)
}

/// Runs the mock on a listener that is bound already (`args.listen` is not used).
///
/// # Errors
/// No driver works or the listener breaks.
pub fn serve_on(listener: std::net::TcpListener, args: &MockArgs) -> io::Result<()> {
    let (mut runtime, driver) = build_runtime(args.io)?;
    log::info!("mock upstream on http://{}, driver {}", listener.local_addr()?, driver.name);
    let defaults = Defaults {
        seed: args.seed,
        rate: args.rate,
        first_delay: args.first_delay,
        tokens: args.tokens,
    };
    runtime.block_on(serve::accept(listener, Mock::new(defaults)))
}
