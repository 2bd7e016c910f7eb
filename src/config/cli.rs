//! The command line. Doc comments of flags are their help texts, so URLs in them stay bare.
#![allow(rustdoc::bare_urls)]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::layer::Layer;
use super::units::{OrOff, duration, duration_or_off, size};

const EXAMPLES: &str = "\
Examples:
  millstream demo
  millstream serve --listen 0.0.0.0:8080 --upstream https://api.openai.com
  millstream serve --listen 0.0.0.0:8443 --tls-cert fullchain.pem --tls-key key.pem \
    --upstream https://llm.internal --upstream-ca ca.pem
  millstream serve --upstream http://127.0.0.1:9000 --heartbeat 10s --access-log /var/log/millstream.log
  millstream serve --config relay.toml
  millstream check --upstream http://127.0.0.1:9000 --high-water-mark 512k";

/// Relays Server-Sent-Event streams from LLM APIs to browsers and apps.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Relay to an upstream
    #[command(after_help = EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Run the built-in mock upstream alone
    Mock(MockArgs),
    /// Run mock upstream, relay and a page to try them; needs no key and no network
    Demo(DemoArgs),
    /// Validate the flags of serve and print what would run
    Check(Box<ServeArgs>),
}

/// The flags of `serve` and `check`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// File of listeners, upstream groups and routes (TOML); every flag here is a key there, with _
    /// for -, and a flag that is given wins over the file everywhere
    /// [default: none; e.g. relay.toml]
    #[arg(long, value_name = "FILE", help_heading = "Where")]
    pub config: Option<PathBuf>,
    /// Address to listen on; repeatable [default: 127.0.0.1:8080; e.g. 0.0.0.0:8080]
    #[arg(
        long,
        value_name = "ADDR",
        help_heading = "Where",
        default_value = "127.0.0.1:8080",
        hide_default_value = true
    )]
    pub listen: Vec<SocketAddr>,
    /// The upstream's base URL; a path in it is put before the request's path
    /// [no default; e.g. https://api.openai.com]
    #[arg(
        long,
        value_name = "URL",
        help_heading = "Where",
        required_unless_present = "config",
        default_value = "",
        hide_default_value = true
    )]
    pub upstream: String,
    /// Address of the upstream's name, instead of looking it up; repeatable for several
    /// [default: none; e.g. llm.internal=10.0.0.7]
    #[arg(long, value_name = "NAME=ADDR", help_heading = "Where")]
    pub resolve: Vec<String>,
    /// Address of the admin listener (/metrics, /healthz, /readyz, /streams), or off
    /// [default: 127.0.0.1:9901; e.g. off]
    #[arg(
        long,
        value_name = "ADDR|off",
        help_heading = "Where",
        default_value = "127.0.0.1:9901",
        hide_default_value = true
    )]
    pub admin: String,

    /// Certificate chain to show to clients, a PEM file: every --listen address then speaks TLS.
    /// Repeatable; by the name a client asks for, else the first. Read again when it changes or on
    /// SIGHUP [default: none; e.g. fullchain.pem]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub tls_cert: Vec<PathBuf>,
    /// Private key of each --tls-cert, in the same order, a PEM file [default: none; e.g. key.pem]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub tls_key: Vec<PathBuf>,
    /// Time a client may take for its TLS handshake [default: 10s; e.g. 5s]
    #[arg(long, value_name = "DURATION", help_heading = "TLS", value_parser = duration, default_value = "10s", hide_default_value = true)]
    pub tls_handshake_timeout: Duration,
    /// Authorities to verify an https upstream by, a PEM file
    /// [default: the platform's, or SSL_CERT_FILE; e.g. ca.pem]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub upstream_ca: Option<PathBuf>,
    /// Client certificate chain for an upstream that wants one, a PEM file
    /// [default: none; e.g. client.pem]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub upstream_cert: Option<PathBuf>,
    /// Its private key, a PEM file [default: none; e.g. client.key]
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub upstream_key: Option<PathBuf>,
    /// Name the upstream's certificate must have [default: the URL's host; e.g. llm.internal]
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    pub upstream_tls_name: Option<String>,
    /// Do not verify the upstream's certificate: anyone in between can read and change everything
    /// [default: off; e.g. --upstream-insecure]
    #[arg(long, help_heading = "TLS")]
    pub upstream_insecure: bool,

    /// Worker threads, one event loop each [default: the CPUs this process may use; e.g. 4]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Process")]
    pub workers: Option<usize>,
    /// Pin each worker to a CPU [default: off; e.g. --pin]
    #[arg(long, help_heading = "Process")]
    pub pin: bool,
    /// Event-loop driver; auto steps down from io_uring to epoll [default: auto; e.g. epoll]
    #[arg(
        long,
        value_name = "DRIVER",
        help_heading = "Process",
        default_value = "auto",
        hide_default_value = true
    )]
    pub io: super::plan::Io,
    /// Streams carried at once by the whole process; over it 503 with Retry-After
    /// [default: from the descriptor limit; e.g. 9000]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Process")]
    pub max_streams: Option<usize>,
    /// Time streams may take to finish after SIGTERM [default: 600s; e.g. 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Process", value_parser = duration, default_value = "600s", hide_default_value = true)]
    pub drain_grace: Duration,
    /// Access log, one JSON line per exchange: a file, - for standard output, or off
    /// [default: -; e.g. /var/log/millstream.log]
    #[arg(
        long,
        value_name = "PATH|-|off",
        help_heading = "Process",
        default_value = "-",
        hide_default_value = true
    )]
    pub access_log: String,
    /// Operational messages on standard error: error, warn, info or debug
    /// [default: info; e.g. warn]
    #[arg(
        long,
        value_name = "LEVEL",
        help_heading = "Process",
        default_value = "info",
        hide_default_value = true
    )]
    pub log_level: log::LevelFilter,

    /// Bytes queued for a slow client at which reading from upstream pauses
    /// [default: 256k; e.g. 64k]
    #[arg(long, value_name = "SIZE", help_heading = "Memory", value_parser = size, default_value = "256k", hide_default_value = true)]
    pub high_water_mark: u64,
    /// Bytes at which it resumes [default: half of the high-water mark; e.g. 32k]
    #[arg(long, value_name = "SIZE", help_heading = "Memory", value_parser = size)]
    pub low_water_mark: Option<u64>,
    /// Bytes of a frame held until it is whole; a longer one is passed on in pieces
    /// [default: 1m; e.g. 256k]
    #[arg(long, value_name = "SIZE", help_heading = "Memory", value_parser = size, default_value = "1m", hide_default_value = true)]
    pub max_frame_bytes: u64,
    /// Bytes of a request body; over it 413 [default: 32m; e.g. 8m]
    #[arg(long, value_name = "SIZE", help_heading = "Memory", value_parser = size, default_value = "32m", hide_default_value = true)]
    pub max_body_bytes: u64,

    /// Time to make one upstream connection [default: 10s; e.g. 3s]
    #[arg(long, value_name = "DURATION", help_heading = "Time", value_parser = duration, default_value = "10s", hide_default_value = true)]
    pub connect_timeout: Duration,
    /// Time from the request sent to the response head and first frame [default: 300s; e.g. 60s]
    #[arg(long, value_name = "DURATION", help_heading = "Time", value_parser = duration, default_value = "300s", hide_default_value = true)]
    pub first_byte_timeout: Duration,
    /// Time between two reads from upstream, or off [default: 300s; e.g. 60s]
    #[arg(long, value_name = "DURATION|off", help_heading = "Time", value_parser = duration_or_off, default_value = "300s", hide_default_value = true)]
    pub idle_timeout: OrOff,
    /// Time a whole stream may take, or off [default: off; e.g. 15m]
    #[arg(long, value_name = "DURATION|off", help_heading = "Time", value_parser = duration_or_off, default_value = "off", hide_default_value = true)]
    pub stream_timeout: OrOff,
    /// Time a client may take no byte [default: 60s; e.g. 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Time", value_parser = duration, default_value = "60s", hide_default_value = true)]
    pub write_timeout: Duration,
    /// Time to receive a request head [default: 30s; e.g. 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Time", value_parser = duration, default_value = "30s", hide_default_value = true)]
    pub head_timeout: Duration,
    /// Time a kept client connection may wait for its next request [default: 75s; e.g. 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Time", value_parser = duration, default_value = "75s", hide_default_value = true)]
    pub keep_alive_timeout: Duration,
    /// Silence after which a heartbeat is sent, in the stream's dialect, or off
    /// [default: 15s; e.g. 10s]
    #[arg(long, value_name = "DURATION|off", help_heading = "Time", value_parser = duration_or_off, default_value = "15s", hide_default_value = true)]
    pub heartbeat: OrOff,

    /// Further attempts before the first byte [default: 2; e.g. 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Upstream", default_value_t = crate::limits::RETRIES, hide_default_value = true)]
    pub retries: u32,
    /// First wait between attempts; doubles, with full jitter, up to 30s [default: 1s; e.g. 200ms]
    #[arg(long, value_name = "DURATION", help_heading = "Upstream", value_parser = duration, default_value = "1s", hide_default_value = true)]
    pub retry_backoff: Duration,
    /// Statuses of the upstream that are retried, comma-separated [default: none; e.g. 429,503,529]
    #[arg(long, value_name = "STATUSES", help_heading = "Upstream", value_delimiter = ',')]
    pub retry_status: Vec<u16>,
    /// Also retry a request that reached a fresh connection which then failed before its first
    /// byte: the upstream may do the work twice [default: off; e.g. --retry-posts]
    #[arg(long, help_heading = "Upstream")]
    pub retry_posts: bool,
    /// Idle upstream connections kept per worker [default: 64, fewer where all workers' would take
    /// more than a quarter of the descriptors; e.g. 256]
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = "Upstream")]
    pub pool_max_idle: Option<usize>,
    /// Time an idle upstream connection is kept [default: 300s; e.g. 60s]
    #[arg(long, value_name = "DURATION", help_heading = "Upstream", value_parser = duration, default_value = "300s", hide_default_value = true)]
    pub pool_idle_timeout: Duration,
    /// Clients may close their sending side and read on; a closed browser tab is then noticed
    /// only when it is written to [default: off; e.g. --half-close]
    #[arg(long, help_heading = "Upstream")]
    pub half_close: bool,

    /// Number the frames of event streams and keep them for a while, so that a client whose
    /// connection was lost goes on where it was [default: off; e.g. --resume]
    #[arg(long, help_heading = "Resume")]
    pub resume: bool,
    /// Bytes of frames kept of each resumable stream [default: 1m; e.g. 256k]
    #[arg(long, value_name = "SIZE", help_heading = "Resume", value_parser = size, default_value = "1m", hide_default_value = true)]
    pub resume_bytes: u64,
    /// Bytes of frames kept of all of them, by the whole process: over it what is finished goes
    /// first [default: 256m; e.g. 2g]
    #[arg(long, value_name = "SIZE", help_heading = "Resume", value_parser = size, default_value = "256m", hide_default_value = true)]
    pub resume_memory: u64,
    /// Time a finished stream is kept [default: 60s; e.g. 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Resume", value_parser = duration, default_value = "60s", hide_default_value = true)]
    pub resume_keep: Duration,
    /// Time a stream goes on whose client is gone, until it comes back; then it is cancelled
    /// upstream [default: 30s; e.g. 2m]
    #[arg(long, value_name = "DURATION", help_heading = "Resume", value_parser = duration, default_value = "30s", hide_default_value = true)]
    pub detach_grace: Duration,
    /// Time after which an EventSource is told to come back [default: 1s; e.g. 500ms]
    #[arg(long, value_name = "DURATION", help_heading = "Resume", value_parser = duration, default_value = "1s", hide_default_value = true)]
    pub resume_retry: Duration,
    /// Request fields by which a client shows that the stream is its own, comma-separated
    /// [default: authorization,x-api-key,api-key,x-goog-api-key; e.g. authorization,cookie]
    #[arg(
        long,
        value_name = "FIELDS",
        help_heading = "Resume",
        value_delimiter = ',',
        default_value = "authorization,x-api-key,api-key,x-goog-api-key",
        hide_default_value = true
    )]
    pub resume_credentials: Vec<String>,
    /// What becomes of the upstream's own event ids: comment keeps them readable, drop does not
    /// [default: comment; e.g. drop]
    #[arg(
        long,
        value_name = "HOW",
        help_heading = "Resume",
        default_value = "comment",
        hide_default_value = true
    )]
    pub resume_upstream_id: super::plan::UpstreamId,

    /// The flags that were given, for a file to stand behind them.
    #[arg(skip)]
    pub(super) given: Layer,
}

impl Cli {
    /// Reads a command line, the program's name first, and notes which flags were given.
    ///
    /// # Errors
    /// What clap finds wrong; [`one_line`] tells it.
    pub fn read<T: Into<OsString> + Clone>(
        words: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(words)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if let (Command::Serve(args) | Command::Check(args), Some((_, given))) =
            (&mut cli.command, matches.subcommand())
        {
            args.given = Layer::given(given);
        }
        Ok(cli)
    }
}

/// The flags of `mock`.
#[derive(Clone, Debug, Args)]
pub struct MockArgs {
    /// Address to listen on [default: 127.0.0.1:9000; e.g. 127.0.0.1:9100]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9000", hide_default_value = true)]
    pub listen: SocketAddr,
    /// Seed of everything it says [default: 1; e.g. 7]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 1,
        hide_default_value = true
    )]
    pub seed: u64,
    /// Tokens per second of a stream, 0 for as fast as it goes [default: 20; e.g. 100]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 20.0,
        hide_default_value = true
    )]
    pub rate: f64,
    /// Time to the first token [default: 300ms; e.g. 0ms]
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "300ms", hide_default_value = true)]
    pub first_delay: Duration,
    /// Tokens of a stream [default: 60; e.g. 500]
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 60,
        hide_default_value = true
    )]
    pub tokens: u32,
    /// Event-loop driver [default: auto; e.g. epoll]
    #[arg(long, value_name = "DRIVER", default_value = "auto", hide_default_value = true)]
    pub io: super::plan::Io,
}

/// The flags of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Address of the page [default: 127.0.0.1:8080; e.g. 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", hide_default_value = true)]
    pub listen: SocketAddr,
    /// Event-loop driver [default: auto; e.g. epoll]
    #[arg(long, value_name = "DRIVER", default_value = "auto", hide_default_value = true)]
    pub io: super::plan::Io,
}

/// A clap error in one line: which flag, why, the mend.
pub fn one_line(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = flag.split_whitespace().next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let hint = text(ContextKind::SuggestedArg).or_else(|| text(ContextKind::SuggestedSubcommand));
    let hint = hint.map_or_else(|| "see --help".to_owned(), |hint| format!("did you mean {hint}?"));
    match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            let valid = text(ContextKind::ValidValue).filter(|valid| !valid.is_empty());
            let valid = valid.map(|valid| format!("write one of: {valid}"));
            let why = why.or(valid).unwrap_or_else(|| "a value is missing".to_owned());
            let mend = if why.contains("write") { String::new() } else { mend(flag) };
            format!("{flag}: {value:?}: {why}{mend}")
        }
        ErrorKind::UnknownArgument => format!("{flag}: no such flag; {hint}"),
        ErrorKind::TooManyValues => format!("{flag}: takes no value; write it alone"),
        ErrorKind::MissingRequiredArgument => {
            format!("{flag}: is required; e.g. --upstream http://127.0.0.1:9000")
        }
        ErrorKind::InvalidSubcommand => {
            let named = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("{named}: no such command; {hint}")
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "no command is given; write serve, mock, demo or check, or see --help".to_owned()
        }
        ErrorKind::ArgumentConflict => format!("{flag}: given more than once; give it once"),
        _ => {
            let line = error.to_string();
            let line = line.lines().next().unwrap_or_default();
            format!("{}; see --help", line.trim_start_matches("error: "))
        }
    }
}

/// How a value of `flag` is written, from the example in its help.
fn mend(flag: &str) -> String {
    let command = Cli::command();
    let mut args = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let named = args.find(|arg| arg.get_long().is_some_and(|long| flag == format!("--{long}")));
    let help = named.and_then(clap::Arg::get_help).map(ToString::to_string).unwrap_or_default();
    match help.split_once("e.g. ").and_then(|(_, rest)| rest.split_once(']')) {
        Some((example, _)) => format!("; write e.g. {example}"),
        None => "; see --help".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_teaches_its_default_and_an_example() {
        Cli::command().debug_assert();
        for sub in Cli::command().get_subcommands() {
            for arg in sub.get_arguments().filter(|arg| arg.get_long() != Some("help")) {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("default"), "{arg}: {help}");
                assert!(help.contains("e.g. "), "{arg}: {help}");
            }
        }
    }

    #[test]
    fn errors_are_one_line_with_flag_and_mend() {
        for (args, starts, has) in [
            (
                &["serve", "--upstream", "http://a", "--idle-timeout", "30x"][..],
                "--idle-timeout: \"30x\"",
                "or off",
            ),
            (
                &["serve", "--upstream", "http://a", "--high-water-mark", "1q"],
                "--high-water-mark",
                "256k",
            ),
            (&["serve", "--upstream", "http://a", "--io", "kqueue"], "--io", "epoll"),
            (&["serve"], "--upstream", "http://"),
            (&["serve", "--upsteam", "http://a"], "--upsteam", "--upstream"),
            (&["serv"], "serv", "serve"),
            (
                &["serve", "--upstream", "http://a", "--workers", "-1"],
                "--workers: \"-1\"",
                "e.g. 4",
            ),
            (&["serve", "--upstream"], "--upstream", "e.g. https://api.openai.com"),
            (&["serve", "--upstream", "http://a", "--pin=3"], "--pin", "alone"),
            (&["serve", "--upstream", "http://a", "--listen", "x"], "--listen", "0.0.0.0:8080"),
            (&[], "no command", "serve"),
        ] {
            let error = Cli::try_parse_from([&["millstream"], args].concat()).expect_err("refused");
            let line = one_line(&error);
            assert!(line.starts_with(starts) && line.contains(has), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }
}
