//! The demo: mock upstream, relay and page in one process. The page is served by the mock, so it
//! comes through the relay like everything else.

use std::io;
use std::net::SocketAddr;

use clap::Parser;

use crate::config::cli::{Cli, Command, DemoArgs, MockArgs};
use crate::config::plan::Plan;
use crate::mock;
use crate::net::listener;
use crate::server;

/// Runs the demo until a signal ends it.
///
/// # Errors
/// An address cannot be bound or no driver works.
pub fn run(args: &DemoArgs) -> io::Result<()> {
    let descriptors = server::raise_descriptor_limit();
    let listener = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let upstream = format!("http://{}", listener.local_addr()?);
    let words = ["millstream", "serve", "--admin", "127.0.0.1:0", "--upstream", &upstream];
    let listen = args.listen.to_string();
    let cli = Cli::try_parse_from(words.into_iter().chain(["--listen", &listen]));
    let Ok(Cli { command: Command::Serve(mut serve) }) = cli else {
        return Err(io::Error::other("the demo's own flags are wrong"));
    };
    serve.io = args.io;
    serve.workers = Some(server::cores().min(2));
    let plan = Plan::from_args(&serve, descriptors, server::cores()).map_err(io::Error::other)?;
    let mock_args = MockArgs {
        listen: listener.local_addr()?,
        seed: 1,
        rate: 20.0,
        first_delay: std::time::Duration::from_millis(400),
        tokens: 80,
        io: args.io,
    };
    std::thread::Builder::new().name("mock".into()).spawn(move || {
        if let Err(error) = mock::serve_on(listener, &mock_args) {
            log::error!("the mock upstream ended: {error}");
        }
    })?;
    log::info!("open http://{} in a browser; Ctrl-C ends the demo", args.listen);
    server::run(&plan)
}
