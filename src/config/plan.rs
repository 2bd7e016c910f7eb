//! What will run: every value checked, every default filled in.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::cli::ServeArgs;
use super::layer::Places;
use crate::dialect::Dialect;
use crate::flow::replay::{Limits, Terms, UpstreamIds};
use crate::http1::edits::Secret;
use crate::limits::{
    DESCRIPTORS_PER_STREAM, DESCRIPTORS_PER_WORKER, DESCRIPTORS_RESERVED, POOL_IDLE_MAX,
    RESUME_BYTES_MIN, RETRY_BACKOFF_MAX,
};
use crate::route::Route;

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

/// Where clients come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerPlan {
    /// The address.
    pub address: SocketAddr,
    /// Certificates shown to clients; none for plain HTTP.
    pub certificates: Vec<CertificateFiles>,
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
    pub resume: Option<ResumePlan>,
}

/// What becomes of an upstream's own event ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UpstreamId {
    /// They are kept as comments.
    Comment,
    /// They are left out.
    Drop,
}

/// How streams are kept for clients that come back.
#[derive(Clone, Debug)]
pub struct ResumePlan {
    /// The terms of each stream's log.
    pub terms: Terms,
    /// When an `EventSource` comes back.
    pub retry: Duration,
    /// Request fields that must be the same again, in lower case.
    pub credentials: Box<[Box<str>]>,
}

/// A provider's key, as its requests carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    header: Option<Box<str>>,
    plain: Secret,
    bearer: Secret,
}

impl Key {
    /// A key, in the field that the dialect has for it or in `header`. One with a space in it says
    /// its own scheme (`Basic …`).
    pub fn new(key: &str, header: Option<&str>) -> Self {
        let schemed = key.contains(' ');
        let bearer = if schemed { key.to_owned() } else { format!("Bearer {key}") };
        let header = header.map(Into::into);
        Self { header, plain: Secret::hidden(key), bearer: Secret::hidden(bearer) }
    }

    /// The field of a request in `dialect` that shows the key.
    pub fn field(&self, dialect: Dialect) -> (&str, &Secret) {
        let usual = match dialect {
            Dialect::Anthropic => "x-api-key",
            Dialect::Gemini => "x-goog-api-key",
            _ => "Authorization",
        };
        let name = self.header.as_deref().unwrap_or(usual);
        let bearer = name.eq_ignore_ascii_case("authorization");
        (name, if bearer { &self.bearer } else { &self.plain })
    }

    /// The field's name, where it does not follow the dialect.
    pub fn header(&self) -> Option<&str> {
        self.header.as_deref()
    }
}

/// An upstream group: endpoints that serve the same.
#[derive(Clone, Debug)]
pub struct UpstreamPlan {
    /// What routes call it.
    pub name: Box<str>,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// The provider's key.
    pub key: Option<Key>,
    /// Time to make one connection.
    pub connect_timeout: Duration,
    /// What each endpoint's pool keeps.
    pub pool: PoolPlan,
    /// Where the file says so.
    pub places: Places,
}

/// What will run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file it comes from.
    pub file: Option<PathBuf>,
    /// Where clients come; at least one listener.
    pub listeners: Vec<ListenerPlan>,
    /// Where requests go; at least one group.
    pub upstreams: Vec<UpstreamPlan>,
    /// Which requests go where; at least one route.
    pub routes: Vec<Route>,
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
    /// Bytes of frames kept for clients that come back, per process.
    pub resume_memory: usize,
    /// How exchanges are done where no route says otherwise.
    pub exchange: ExchangePlan,
    /// Where the file says so.
    pub places: Places,
}

impl Plan {
    /// Checks `args`, and the file they name, for a process that may open `descriptors` and use
    /// `cores`.
    ///
    /// # Errors
    /// One line a fault: the flag, or the file's line and key; why; and the mend.
    pub fn from_args(args: &ServeArgs, descriptors: u64, cores: usize) -> Result<Self, String> {
        let room = Room { descriptors, cores };
        match &args.config {
            Some(path) => super::file::load(path, args, room),
            None => {
                let mut plan = Self::without_routes(args, room, &listeners_of(args)?, 1)?;
                plan.add_group("", vec![endpoint_of(args)?], None, &plan.exchange.clone());
                plan.routes.push(Route::everything(plan.exchange.clone()));
                Ok(plan)
            }
        }
    }

    /// The plan of a configuration file's name and `text` with the flags of `args` above it;
    /// `environment` knows what its `${NAME}` stand for.
    ///
    /// # Errors
    /// As for [`from_args`](Self::from_args).
    pub fn from_text(
        (name, text): (&str, &str),
        environment: &dyn Fn(&str) -> Option<String>,
        args: &ServeArgs,
        descriptors: u64,
        cores: usize,
    ) -> Result<Self, String> {
        super::file::read(name, text, environment, &args.given, Room { descriptors, cores })
    }

    /// All but groups and routes, for as many endpoints as the groups have together.
    pub(super) fn without_routes(
        args: &ServeArgs,
        room: Room,
        listeners: &[ListenerPlan],
        endpoints: usize,
    ) -> Result<Self, String> {
        let Room { descriptors, cores } = room;
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
        check_addresses(listeners, admin)?;
        let pool_idle_max = pool_idle_max(args, descriptors, workers, endpoints);
        let exchange = exchange_plan(args, pool_idle_max)?;
        let streams_max =
            streams_max(args, descriptors, workers, (pool_idle_max * endpoints, listeners.len()))?;
        Ok(Self {
            file: None,
            listeners: listeners.to_vec(),
            upstreams: Vec::new(),
            routes: Vec::new(),
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
            resume_memory: usize_of("--resume-memory", args.resume_memory)?,
            exchange,
            places: Places::default(),
        })
    }

    /// Whether any stream is kept.
    pub fn resumes(&self) -> bool {
        self.routes.iter().any(|route| route.exchange.resume.is_some())
    }

    /// Adds an upstream group.
    pub(super) fn add_group(
        &mut self,
        name: &str,
        endpoints: Vec<Endpoint>,
        key: Option<Key>,
        exchange: &ExchangePlan,
    ) {
        self.upstreams.push(UpstreamPlan {
            name: name.into(),
            endpoints,
            key,
            connect_timeout: exchange.connect_timeout,
            pool: exchange.pool,
            places: Places::default(),
        });
    }
}

/// What the process has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Descriptors it may open.
    pub descriptors: u64,
    /// Cores it may use.
    pub cores: usize,
}

/// The addresses of `--listen`, with the certificates of them all.
pub(super) fn listeners_of(args: &ServeArgs) -> Result<Vec<ListenerPlan>, String> {
    let certificates = certificates(args)?;
    let listener = |address: &SocketAddr| ListenerPlan {
        address: *address,
        certificates: certificates.clone(),
    };
    Ok(args.listen.iter().map(listener).collect())
}

fn check_addresses(listeners: &[ListenerPlan], admin: Option<SocketAddr>) -> Result<(), String> {
    for (index, ListenerPlan { address, .. }) in listeners.iter().enumerate() {
        if address.port() == 0 {
            continue;
        }
        if listeners[..index].iter().any(|other| other.address == *address) {
            return Err(format!("--listen: {address} is given twice; give it once"));
        }
        if admin == Some(*address) {
            return Err(format!("--admin: {address} is also a --listen address; choose another"));
        }
    }
    Ok(())
}

/// How exchanges are done, by these arguments.
pub(super) fn exchange_plan(
    args: &ServeArgs,
    pool_idle_max: usize,
) -> Result<ExchangePlan, String> {
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
        resume: if args.resume { Some(resume_plan(args, high, low)?) } else { None },
    })
}

/// How streams are kept, by these arguments.
fn resume_plan(args: &ServeArgs, high: usize, low: usize) -> Result<ResumePlan, String> {
    let bytes_max = usize_of("--resume-bytes", args.resume_bytes)?;
    if bytes_max < RESUME_BYTES_MIN {
        return Err(format!("--resume-bytes: {bytes_max} bytes is too small; write 16k or more"));
    }
    if args.resume_memory < args.resume_bytes {
        return Err(format!(
            "--resume-memory: {} bytes is less than --resume-bytes keeps of one stream; raise it",
            args.resume_memory
        ));
    }
    for (flag, value) in
        [("--resume-retry", args.resume_retry), ("--resume-keep", args.resume_keep)]
    {
        if value.is_zero() {
            return Err(format!("{flag}: 0 leaves no time to come back; write e.g. 1s"));
        }
    }
    let is_name = |name: &&String| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if let Some(name) = args.resume_credentials.iter().find(|name| !is_name(name)) {
        return Err(format!(
            "--resume-credentials: {name:?} is no field's name; write e.g. authorization,cookie"
        ));
    }
    let frame_max = usize_of("--max-frame-bytes", args.max_frame_bytes)?;
    // What is behind and what came before have half of the log each, whatever the marks.
    let (high, low) = (high.min(bytes_max / 2), low.min(bytes_max / 4));
    let limits = Limits { bytes_max, high, low, frame_max: frame_max.min(bytes_max / 2) };
    let upstream_ids = match args.resume_upstream_id {
        UpstreamId::Comment => UpstreamIds::Comment,
        UpstreamId::Drop => UpstreamIds::Drop,
    };
    let (keep, grace) = (args.resume_keep, args.detach_grace);
    Ok(ResumePlan {
        terms: Terms { limits, upstream_ids, keep, grace },
        retry: args.resume_retry,
        credentials: args
            .resume_credentials
            .iter()
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
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
pub(super) fn pool_idle_max(
    args: &ServeArgs,
    descriptors: u64,
    workers: usize,
    endpoints: usize,
) -> usize {
    let share = usize::try_from(descriptors / 4).unwrap_or(usize::MAX) / workers / endpoints.max(1);
    args.pool_max_idle.unwrap_or_else(|| POOL_IDLE_MAX.min(share))
}

/// Streams at once: what is asked, else what the descriptors allow beside the idle connections
/// that each worker's pools keep.
pub(super) fn streams_max(
    args: &ServeArgs,
    descriptors: u64,
    workers: usize,
    (pool_idle_max, listeners): (usize, usize),
) -> Result<usize, String> {
    // The ways from each worker to the others, for clients that come back to a stream.
    let ways = if workers > 1 && args.resume { workers as u64 + 2 } else { 0 };
    let worker = DESCRIPTORS_PER_WORKER + 2 * listeners as u64 + ways;
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
pub(super) fn endpoint_of(args: &ServeArgs) -> Result<Endpoint, String> {
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
mod tests;
