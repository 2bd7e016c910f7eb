//! The demo: mock upstream, relay and page in one process.

use std::io;

use crate::config::cli::DemoArgs;

/// Runs the demo until a signal ends it.
///
/// # Errors
/// An address cannot be bound or no driver works.
pub fn run(args: &DemoArgs) -> io::Result<()> {
    let _ = args;
    Err(io::Error::other("not yet"))
}
