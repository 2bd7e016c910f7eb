//! The demo: mock upstream, relay and page in one process. The page is served by the mock, so it
//! comes through the relay like everything else; what it asks for goes by the routes of
//! `examples/chat.toml` and `examples/optimize.toml`.

use std::io;
use std::net::SocketAddr;

use clap::Parser;

use crate::config::cli::{Cli, Command, DemoArgs, MockArgs};
use crate::config::plan::Plan;
use crate::mock;
use crate::net::listener;
use crate::server;

/// The configurations whose routes the page uses, by their names.
const EXAMPLES: [(&str, &str); 2] = [
    ("examples/chat.toml", include_str!("../../examples/chat.toml")),
    ("examples/optimize.toml", include_str!("../../examples/optimize.toml")),
];

/// The page's files: path, content type, text.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/demo/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/demo/app.mjs", SCRIPT, include_str!("page/app.mjs")),
    ("/demo/stream.mjs", SCRIPT, include_str!("page/stream.mjs")),
    ("/demo/words.mjs", SCRIPT, include_str!("page/words.mjs")),
];

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Header fields of the page's files: nothing is loaded or asked for but from where they came.
pub const FILE_FIELDS: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; \
    style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
    Cache-Control: no-cache\r\n";

/// The file of the page at `path`: its content type and text.
pub fn file(path: &str) -> Option<(&'static str, &'static str)> {
    FILES.iter().find(|(known, ..)| *known == path).map(|(_, kind, text)| (*kind, *text))
}

/// Runs the demo until a signal ends it.
///
/// # Errors
/// An address cannot be bound or no driver works.
pub fn run(args: &DemoArgs) -> io::Result<()> {
    let descriptors = server::raise_descriptor_limit();
    let listener = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let upstream = format!("http://{}", listener.local_addr()?);
    let plan = plan(args, &upstream, descriptors).map_err(io::Error::other)?;
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

/// The relay's plan: the examples' routes with what they say of their upstream, and all else to
/// the mock as it came. Every stream is kept, so that the page can come back to it.
fn plan(args: &DemoArgs, upstream: &str, descriptors: u64) -> Result<Plan, String> {
    let words =
        ["millstream", "serve", "--admin", "127.0.0.1:0", "--upstream", upstream, "--resume"];
    let listen = args.listen.to_string();
    let cli = Cli::try_parse_from(words.into_iter().chain(["--listen", &listen]));
    let Ok(Cli { command: Command::Serve(mut serve) }) = cli else {
        return Err("the demo's own flags are wrong".to_owned());
    };
    let cores = server::cores();
    serve.io = args.io;
    serve.workers = Some(cores.min(2));
    let environment = |name: &str| (name == "UPSTREAM").then(|| upstream.to_owned());
    let mut plan = Plan::from_args(&serve, descriptors, cores)?;
    plan.file = Some(EXAMPLES.map(|(name, _)| name).join(" and ").into());
    let kept = plan.routes.first().and_then(|all| all.exchange.resume.clone());
    for file in EXAMPLES {
        let example = Plan::from_text(file, &environment, &serve, descriptors, cores)?;
        let first = plan.upstreams.len();
        plan.upstreams.extend(example.upstreams);
        plan.routes.extend(example.routes.into_iter().map(|mut route| {
            route.upstream += first;
            route.exchange.resume = kept.clone();
            route
        }));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::plan::Io;

    #[test]
    fn the_examples_routes_come_with_their_own_settings() {
        let args = DemoArgs { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), io: Io::Auto };
        let plan = plan(&args, "http://127.0.0.1:9000", 4096).expect("the examples are right");
        let names: Vec<_> = plan.routes.iter().map(|route| &*route.name).collect();
        assert_eq!(names, ["", "POST /chat", "any /optimize-stream"]);
        let limits: Vec<_> =
            plan.routes.iter().map(|route| route.exchange.stream_timeout).collect();
        assert_eq!(limits, [None, None, Some(Duration::from_secs(60))]);
        let upstreams: Vec<_> = plan.routes.iter().map(|route| route.upstream).collect();
        assert_eq!(upstreams, [0, 1, 2]);
        let retries: Vec<_> =
            plan.routes.iter().map(|route| route.exchange.retry.retries).collect();
        assert_eq!(retries, [2, 3, 2]);
        assert!(plan.routes.iter().all(|route| route.exchange.resume.is_some()));
    }

    #[test]
    fn the_pages_files_ask_for_nothing_from_elsewhere() {
        assert!(file("/demo/none").is_none());
        let (kind, page) = file("/").expect("the page");
        assert!(kind.starts_with("text/html"));
        for (path, _, text) in FILES {
            assert!(text.lines().count() < 800, "{path} has outgrown its room");
            for word in ["http://", "https://", "src=\"//", "<style", "style=\"", " onclick="] {
                // The icon names the namespace that every SVG has.
                let text = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!text.contains(word), "{path} has {word}");
            }
            for (known, ..) in FILES {
                let name = known.rsplit('/').next().unwrap_or_default();
                assert!(page.contains(known) || FILES.iter().any(|(.., text)| text.contains(name)));
            }
        }
    }
}
