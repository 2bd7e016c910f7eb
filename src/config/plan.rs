//! What will run: every value checked, every default filled in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::cli::ServeArgs;
use crate::limits::{
    DESCRIPTORS_PER_STREAM, DESCRIPTORS_PER_WORKER, DESCRIPTORS_RESERVED, POOL_IDLE_MAX,
    RETRY_BACKOFF_MAX,
};

/// Which event-loop driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Io {
    /// The best that works.
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTo {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// The end of a file.
    Path(PathBuf),
}

/// A certificate's chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the end entity's certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How an upstream is reached over TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamTlsPlan {
    /// The authorities to trust instead of the platform's.
    pub ca: Option<PathBuf>,
    /// What we show where we are asked.
    pub certificate: Option<CertificateFiles>,
    /// The name asked for and verified, where it is not the host.
    pub name: Option<String>,
    /// Its certificate is not verified.
    pub insecure: bool,
}

/// An upstream's address, with everything its connections differ by: two exchanges may share a
/// pooled connection only where all of this is equal. A pool is one endpoint's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or IP literal, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What the Host field says.
    pub authority: String,
    /// Put before each request's path; no slash at its end.
    pub base_path: String,
    /// Where it is, instead of where its name says (`--resolve`).
    pub addresses: Vec<IpAddr>,
    /// Spoken to over TLS.
    pub tls: Option<UpstreamTlsPlan>,
}

impl Endpoint {
    /// Its URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.base_path)
    }
}

/// When attempts are repeated.
#[derive(Clone, Debug)]
pub struct RetryPlan {
    /// Further attempts.
    pub retries: u32,
    /// First wait.
    pub backoff: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
    /// Statuses that are retried.
    pub statuses: Vec<u16>,
    /// Also after a fresh connection failed with the request on it.
    pub posts: bool,
}

/// What the pool keeps.
#[derive(Clone, Copy, Debug)]
pub struct PoolPlan {
    /// Idle connections per worker.
    pub idle_max: usize,
    /// For how long.
    pub idle_timeout: Duration,
}

/// How exchanges are done; the fields are the flags of the same names.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ExchangePlan {
    pub high_water_mark: usize,
    pub low_water_mark: usize,
    pub frame_bytes_max: usize,
    pub body_bytes_max: u64,
    pub connect_timeout: Duration,
    pub first_byte_timeout: Duration,
    pub idle_timeout: Option<Duration>,
    pub stream_timeout: Option<Duration>,
    pub write_timeout: Duration,
    pub head_timeout: Duration,
    pub keep_alive_timeout: Duration,
    pub tls_handshake_timeout: Duration,
    pub heartbeat: Option<Duration>,
    pub half_close: bool,
    pub retry: RetryPlan,
    pub pool: PoolPlan,
    pub drain_grace: Duration,
}

/// What will run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Certificates shown to clients; none for plain HTTP.
    pub certificates: Vec<CertificateFiles>,
    /// Where requests go.
    pub upstream: Endpoint,
    /// Worker threads.
    pub workers: usize,
    /// Pin them.
    pub pin: bool,
    /// Driver.
    pub io: Io,
    /// Admin listener.
    pub admin: Option<SocketAddr>,
    /// Streams at once, per process.
    pub streams_max: usize,
    /// Operational messages.
    pub log_level: log::LevelFilter,
    /// Access log.
    pub access_log: AccessLogTo,
    /// How exchanges are done.
    pub exchange: ExchangePlan,
}

impl Plan {
    /// Checks `args` for a process that may open `descriptors` and use `cores`.
    ///
    /// # Errors
    /// One line: the flag, why, and the mend.
    pub fn from_args(args: &ServeArgs, descriptors: u64, cores: usize) -> Result<Self, String> {
        let workers = args.workers.unwrap_or(cores);
        if workers == 0 || workers > 1024 {
            return Err(format!("--workers: {workers} is not between 1 and 1024; leave it out"));
        }
        let admin = match args.admin.as_str() {
            "off" => None,
            text => Some(text.parse().map_err(|_| {
                format!("--admin: {text:?} is not an address; write e.g. 127.0.0.1:9901 or off")
            })?),
        };
        check_addresses(&args.listen, admin)?;
        let pool_idle_max = pool_idle_max(args, descriptors, workers);
        let exchange = exchange_plan(args, pool_idle_max)?;
        let streams_max = streams_max(args, descriptors, workers, pool_idle_max)?;
        Ok(Self {
            listen: args.listen.clone(),
            certificates: certificates(args)?,
            upstream: upstream(args)?,
            workers,
            pin: args.pin,
            io: args.io,
            admin,
            streams_max,
            log_level: args.log_level,
            access_log: match args.access_log.as_str() {
                "-" => AccessLogTo::Stdout,
                "off" => AccessLogTo::Off,
                "" => return Err("--access-log: is empty; write a path, - or off".into()),
                path => AccessLogTo::Path(path.into()),
            },
            exchange,
        })
    }

    /// What `check` prints.
    pub fn describe(&self) -> String {
        let x = &self.exchange;
        let listen: Vec<String> = self.listen.iter().map(ToString::to_string).collect();
        let off = |duration: Option<Duration>| {
            duration.map_or_else(|| "off".to_owned(), |duration| format!("{duration:?}"))
        };
        let rows = [
            ("listen", listen.join(", ")),
            ("tls certificates", self.certificates.len().to_string()),
            ("upstream", self.upstream.url()),
            ("upstream tls", describe_tls(self.upstream.tls.as_ref())),
            (
                "upstream is at",
                match self.upstream.addresses.as_slice() {
                    [] => "where its name says".to_owned(),
                    given => format!("{given:?}"),
                },
            ),
            ("admin", self.admin.map_or_else(|| "off".to_owned(), |admin| admin.to_string())),
            ("workers", format!("{}{}", self.workers, if self.pin { ", pinned" } else { "" })),
            ("io", format!("{:?}", self.io).to_lowercase()),
            ("streams at once", self.streams_max.to_string()),
            ("marks", format!("{} / {} bytes", x.high_water_mark, x.low_water_mark)),
            ("frame held up to", format!("{} bytes", x.frame_bytes_max)),
            ("request body up to", format!("{} bytes", x.body_bytes_max)),
            ("connect timeout", format!("{:?}", x.connect_timeout)),
            ("first-byte timeout", format!("{:?}", x.first_byte_timeout)),
            ("idle timeout", off(x.idle_timeout)),
            ("stream timeout", off(x.stream_timeout)),
            ("write timeout", format!("{:?}", x.write_timeout)),
            ("head / keep-alive", format!("{:?} / {:?}", x.head_timeout, x.keep_alive_timeout)),
            ("tls handshake", format!("{:?}", x.tls_handshake_timeout)),
            ("heartbeat", off(x.heartbeat)),
            ("half-close", if x.half_close { "allowed" } else { "means leaving" }.to_owned()),
            (
                "retries",
                format!(
                    "{}, backoff {:?}, statuses {:?}, posts {}",
                    x.retry.retries, x.retry.backoff, x.retry.statuses, x.retry.posts
                ),
            ),
            ("pool", format!("{} idle per worker for {:?}", x.pool.idle_max, x.pool.idle_timeout)),
            ("drain grace", format!("{:?}", x.drain_grace)),
            ("access log", format!("{:?}", self.access_log)),
        ];
        rows.iter().map(|(name, value)| format!("{name:<20} {value}\n")).collect()
    }
}

fn check_addresses(listen: &[SocketAddr], admin: Option<SocketAddr>) -> Result<(), String> {
    for (index, address) in listen.iter().enumerate() {
        if address.port() == 0 {
            continue;
        }
        if listen[..index].contains(address) {
            return Err(format!("--listen: {address} is given twice; give it once"));
        }
        if admin == Some(*address) {
            return Err(format!("--admin: {address} is also a --listen address; choose another"));
        }
    }
    Ok(())
}

fn exchange_plan(args: &ServeArgs, pool_idle_max: usize) -> Result<ExchangePlan, String> {
    let high = usize_of("--high-water-mark", args.high_water_mark)?;
    let low = match args.low_water_mark {
        Some(low) => usize_of("--low-water-mark", low)?,
        None => high / 2,
    };
    check_exchange(args, high, low)?;
    Ok(ExchangePlan {
        high_water_mark: high,
        low_water_mark: low,
        frame_bytes_max: usize_of("--max-frame-bytes", args.max_frame_bytes)?,
        body_bytes_max: args.max_body_bytes,
        connect_timeout: args.connect_timeout,
        first_byte_timeout: args.first_byte_timeout,
        idle_timeout: args.idle_timeout.0,
        stream_timeout: args.stream_timeout.0,
        write_timeout: args.write_timeout,
        head_timeout: args.head_timeout,
        keep_alive_timeout: args.keep_alive_timeout,
        tls_handshake_timeout: args.tls_handshake_timeout,
        heartbeat: args.heartbeat.0,
        half_close: args.half_close,
        retry: RetryPlan {
            retries: args.retries,
            backoff: args.retry_backoff,
            backoff_max: RETRY_BACKOFF_MAX,
            statuses: args.retry_status.clone(),
            posts: args.retry_posts,
        },
        pool: PoolPlan { idle_max: pool_idle_max, idle_timeout: args.pool_idle_timeout },
        drain_grace: args.drain_grace,
    })
}

fn check_exchange(args: &ServeArgs, high: usize, low: usize) -> Result<(), String> {
    if high < 4096 {
        return Err(format!("--high-water-mark: {high} bytes is too small; write 4k or more"));
    }
    if low >= high {
        return Err(format!(
            "--low-water-mark: {low} is not below the high-water mark of {high}; lower it"
        ));
    }
    if args.max_frame_bytes < 1024 {
        return Err("--max-frame-bytes: too small; write 1k or more".into());
    }
    if args.heartbeat.0.is_some_and(|every| every < Duration::from_secs(1)) {
        return Err("--heartbeat: shorter than a second; write 1s or more, or off".into());
    }
    for (flag, value) in [
        ("--connect-timeout", args.connect_timeout),
        ("--first-byte-timeout", args.first_byte_timeout),
        ("--write-timeout", args.write_timeout),
        ("--head-timeout", args.head_timeout),
        ("--keep-alive-timeout", args.keep_alive_timeout),
        ("--tls-handshake-timeout", args.tls_handshake_timeout),
    ] {
        if value.is_zero() {
            return Err(format!("{flag}: 0 would be due at once; write e.g. 30s"));
        }
    }
    if let Some(status) = args.retry_status.iter().find(|status| !(400..=599).contains(*status)) {
        return Err(format!("--retry-status: {status} is no error status; write e.g. 429,503"));
    }
    Ok(())
}

fn usize_of(flag: &str, value: u64) -> Result<usize, String> {
    match usize::try_from(value) {
        Ok(value) if value <= 1 << 40 => Ok(value),
        _ => Err(format!("{flag}: {value} bytes is beyond any memory; lower it")),
    }
}

/// Idle connections a worker may keep: what was asked, else the default as far as the workers'
/// together stay within a quarter of the descriptors.
fn pool_idle_max(args: &ServeArgs, descriptors: u64, workers: usize) -> usize {
    let share = usize::try_from(descriptors / 4).unwrap_or(usize::MAX) / workers;
    args.pool_max_idle.unwrap_or_else(|| POOL_IDLE_MAX.min(share))
}

fn streams_max(
    args: &ServeArgs,
    descriptors: u64,
    workers: usize,
    pool_idle_max: usize,
) -> Result<usize, String> {
    let worker = DESCRIPTORS_PER_WORKER + 2 * args.listen.len() as u64;
    let own = DESCRIPTORS_RESERVED.saturating_add(worker * workers as u64);
    let pooled = (pool_idle_max as u64).saturating_mul(workers as u64);
    let streams = |kept: u64| {
        let free = descriptors.saturating_sub(own).saturating_sub(kept);
        usize::try_from(free / DESCRIPTORS_PER_STREAM).unwrap_or(usize::MAX).min(10_000_000)
    };
    let fits = streams(pooled);
    match args.max_streams {
        _ if streams(0) == 0 => Err(format!(
            "--workers: {workers} workers leave no descriptors for streams out of {descriptors}; \
             lower it or raise the limit (ulimit -n)"
        )),
        _ if fits == 0 => Err(format!(
            "--pool-max-idle: {pool_idle_max} per worker leaves no room for streams within \
             {descriptors} descriptors; lower it or raise the limit (ulimit -n)"
        )),
        Some(0) => Err("--max-streams: 0 would refuse everything; write 1 or more".into()),
        Some(wanted) if wanted > fits => Err(format!(
            "--max-streams: {wanted} streams need more than the {descriptors} descriptors allowed; \
             write at most {fits}, or raise the limit (ulimit -n)"
        )),
        Some(wanted) => Ok(wanted),
        None => Ok(fits),
    }
}

/// What `check` prints about the upstream's TLS.
fn describe_tls(tls: Option<&UpstreamTlsPlan>) -> String {
    let Some(tls) = tls else { return "none".to_owned() };
    let trust = match &tls.ca {
        _ if tls.insecure => "NOT VERIFIED (--upstream-insecure)".to_owned(),
        Some(ca) => format!("verified by {}", ca.display()),
        None => "verified by the platform's authorities".to_owned(),
    };
    let name = tls.name.as_ref().map_or_else(String::new, |name| format!(", as {name}"));
    let shown = if tls.certificate.is_some() { ", with a client certificate" } else { "" };
    format!("{trust}{name}{shown}")
}

/// Pairs `--tls-cert` with `--tls-key`, in order.
fn certificates(args: &ServeArgs) -> Result<Vec<CertificateFiles>, String> {
    let (given, keys) = (args.tls_cert.len(), args.tls_key.len());
    if given != keys {
        let flag = if given < keys { "--tls-cert" } else { "--tls-key" };
        return Err(format!(
            "{flag}: {given} certificates and {keys} keys were given; give one --tls-key for each \
             --tls-cert, in the same order"
        ));
    }
    let pairs = args.tls_cert.iter().zip(&args.tls_key);
    let files = |(certificate, key): (&PathBuf, &PathBuf)| CertificateFiles {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    Ok(pairs.map(files).collect())
}

/// The addresses that `--resolve` gives for `host`.
fn overrides(args: &ServeArgs, host: &str) -> Result<Vec<IpAddr>, String> {
    let address = |given: &String| {
        let refuse =
            |why: &str| format!("--resolve: {given:?}: {why}; write e.g. llm.internal=10.0.0.7");
        let (name, address) = given.split_once('=').ok_or_else(|| refuse("it has no ="))?;
        if !name.eq_ignore_ascii_case(host) {
            return Err(refuse("this is not the upstream's name"));
        }
        let address = address.trim_start_matches('[').trim_end_matches(']');
        address.parse().map_err(|_| refuse("what stands behind = is no IP address"))
    };
    args.resolve.iter().map(address).collect()
}

/// The upstream with its TLS.
fn upstream(args: &ServeArgs) -> Result<Endpoint, String> {
    let mut endpoint = endpoint(&args.upstream)?;
    endpoint.addresses = overrides(args, &endpoint.host)?;
    let certificate = match (&args.upstream_cert, &args.upstream_key) {
        (Some(certificate), Some(key)) => {
            Some(CertificateFiles { certificate: certificate.clone(), key: key.clone() })
        }
        (None, None) => None,
        (Some(_), None) => return Err("--upstream-key: is missing beside --upstream-cert".into()),
        (None, Some(_)) => return Err("--upstream-cert: is missing beside --upstream-key".into()),
    };
    let plan = UpstreamTlsPlan {
        ca: args.upstream_ca.clone(),
        certificate,
        name: args.upstream_tls_name.clone(),
        insecure: args.upstream_insecure,
    };
    if plan.insecure && plan.ca.is_some() {
        return Err("--upstream-insecure: verifies nothing, so --upstream-ca has no effect; \
                    leave one of them out"
            .into());
    }
    if endpoint.tls.is_some() {
        endpoint.tls = Some(plan);
        return Ok(endpoint);
    }
    let flag = match &plan {
        UpstreamTlsPlan { ca: Some(_), .. } => "--upstream-ca",
        UpstreamTlsPlan { certificate: Some(_), .. } => "--upstream-cert",
        UpstreamTlsPlan { name: Some(_), .. } => "--upstream-tls-name",
        UpstreamTlsPlan { insecure: true, .. } => "--upstream-insecure",
        _ => return Ok(endpoint),
    };
    Err(format!("{flag}: the upstream is plain http; write https:// for it, or leave this out"))
}

/// Reads the upstream's URL.
fn endpoint(url: &str) -> Result<Endpoint, String> {
    let mend = "write e.g. https://api.openai.com or http://127.0.0.1:9000";
    let refuse = |why: &str| format!("--upstream: {url:?}: {why}; {mend}");
    let (rest, tls) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, Some(UpstreamTlsPlan::default())),
        (_, Some(rest)) => (rest, None),
        _ => return Err(refuse("it begins neither with https:// nor with http://")),
    };
    if rest.contains(['?', '#', '@', ' ']) {
        return Err(refuse("query, fragment and user have no meaning here"));
    }
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refuse("it has bytes that no URL has"));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            let port = port.parse().map_err(|_| refuse("the port is not a number"))?;
            (host, port)
        }
        _ => (authority, if tls.is_some() { 443 } else { 80 }),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port == 0 {
        return Err(refuse("host or port is missing"));
    }
    Ok(Endpoint {
        host: host.to_owned(),
        port,
        authority: authority.to_owned(),
        base_path: path.trim_end_matches('/').to_owned(),
        addresses: Vec::new(),
        tls,
    })
}

#[cfg(test)]
mod tests {
    use super::super::cli::{Cli, Command};
    use super::*;
    use clap::Parser;

    fn plan(flags: &str) -> Result<Plan, String> {
        let words = ["millstream", "serve", "--upstream", "http://up:1/base/"];
        let cli = Cli::try_parse_from(words.into_iter().chain(flags.split_whitespace()));
        match cli.expect("parses").command {
            Command::Serve(args) => Plan::from_args(&args, 20_000, 2),
            _ => panic!("not serve"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_limits() {
        use crate::limits as l;
        let plan = plan("").expect("valid");
        let x = &plan.exchange;
        assert_eq!((x.high_water_mark, x.low_water_mark), (l::HIGH_WATER_MARK, l::LOW_WATER_MARK));
        assert_eq!((x.frame_bytes_max, x.body_bytes_max), (l::FRAME_BYTES_MAX, l::BODY_BYTES_MAX));
        assert_eq!(
            (x.connect_timeout, x.first_byte_timeout),
            (l::CONNECT_TIMEOUT, l::FIRST_BYTE_TIMEOUT)
        );
        assert_eq!((x.idle_timeout, x.stream_timeout), (Some(l::IDLE_TIMEOUT), None));
        assert_eq!((x.write_timeout, x.heartbeat), (l::WRITE_TIMEOUT, Some(l::HEARTBEAT)));
        assert_eq!(
            (x.head_timeout, x.keep_alive_timeout),
            (l::HEAD_TIMEOUT, l::KEEP_ALIVE_TIMEOUT)
        );
        assert_eq!((x.retry.retries, x.retry.backoff), (l::RETRIES, l::RETRY_BACKOFF));
        assert_eq!((x.pool.idle_max, x.pool.idle_timeout), (POOL_IDLE_MAX, l::POOL_IDLE_TIMEOUT));
        assert_eq!(x.drain_grace, l::DRAIN_GRACE);
        assert_eq!(x.tls_handshake_timeout, l::TLS_HANDSHAKE_TIMEOUT);
        let own = DESCRIPTORS_RESERVED + 2 * (DESCRIPTORS_PER_WORKER + 2);
        assert_eq!((plan.workers, plan.streams_max as u64), (2, (20_000 - own - 128) / 2));
        assert_eq!(
            (plan.upstream.authority.as_str(), plan.upstream.base_path.as_str()),
            ("up:1", "/base")
        );
    }

    #[test]
    fn defaults_start_on_many_cores_with_few_descriptors() {
        for (descriptors, workers) in [(1024, 16), (1024, 32), (256, 2), (1 << 30, 1)] {
            let cli = Cli::try_parse_from(["millstream", "serve", "--upstream", "http://up:1"]);
            let Ok(Cli { command: Command::Serve(args) }) = cli else { panic!("parses") };
            let plan = Plan::from_args(&args, descriptors, workers).expect("starts");
            let pooled = (plan.exchange.pool.idle_max * workers) as u64;
            assert!(plan.streams_max > 0 && pooled <= descriptors / 4);
        }
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        for (flags, starts) in [
            ("--low-water-mark 256k", "--low-water-mark"),
            ("--high-water-mark 1k", "--high-water-mark"),
            ("--max-frame-bytes 10", "--max-frame-bytes"),
            ("--heartbeat 10ms", "--heartbeat"),
            ("--workers 0", "--workers"),
            ("--max-streams 100000", "--max-streams"),
            ("--max-streams 0", "--max-streams"),
            ("--pool-max-idle 20000", "--pool-max-idle"),
            ("--retry-status 200", "--retry-status"),
            ("--admin nowhere", "--admin"),
            ("--admin 127.0.0.1:8080", "--admin"),
            ("--listen 127.0.0.1:1 --listen 127.0.0.1:1", "--listen"),
            ("--write-timeout 0s", "--write-timeout"),
            ("--upstream-ca a.pem", "--upstream-ca"),
            ("--upstream-insecure", "--upstream-insecure"),
            ("--upstream-tls-name a", "--upstream-tls-name"),
            ("--upstream-cert a.pem", "--upstream-key"),
            ("--upstream-key a.pem", "--upstream-cert"),
            ("--upstream-insecure --upstream-ca a.pem", "--upstream-insecure"),
            ("--resolve up", "--resolve"),
            ("--resolve up=down", "--resolve"),
            ("--resolve down=10.0.0.1", "--resolve"),
            ("--tls-cert a.pem", "--tls-key"),
            ("--tls-key a.pem", "--tls-cert"),
        ] {
            let error = plan(flags).expect_err(flags);
            assert!(error.starts_with(starts), "{flags}: {error}");
        }
        for url in [
            "ftp://a",
            "https://",
            "a:1",
            "http://",
            "http://a:x",
            "http://u@a",
            "http://a/?q",
            "http://a\nb",
        ] {
            assert!(endpoint(url).expect_err(url).starts_with("--upstream"), "{url}");
        }
        assert_eq!(endpoint("http://[::1]:9").map(|e| (e.host, e.port)), Ok(("::1".into(), 9)));
        assert_eq!(endpoint("http://[::1]").map(|e| (e.host, e.port)), Ok(("::1".into(), 80)));
        assert_eq!(
            endpoint("https://a/v1").map(|e| (e.url(), e.port)),
            Ok(("https://a/v1".into(), 443))
        );
    }
}
