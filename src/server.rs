//! The process: workers, admin listener, signals, drain.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::admin::{self, Admin};
use crate::config::plan::{AccessLogTo, Endpoint, ListenerPlan, Plan, UpstreamPlan};
use crate::limits::DESCRIPTOR_TABLE_MAX;
use crate::net::listener;
use crate::net::resolver::Resolved;
use crate::net::runtime::Driver;
use crate::net::table;
use crate::net::tls::config::{DownstreamTls, Tls, UpstreamTls};
use crate::relay::CoreParts;
use crate::relay::resume::ResumeParts;
use crate::relay::resume::handover::Neighbours;
use crate::relay::routing::RouteParts;
use crate::sse::sequence::Epoch;
use crate::telemetry::log::{self as access, AccessLog};
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::streams::StreamInfo;
use crate::upstream::group::EndpointParts;
use crate::worker::{self, WorkerParts, command};

/// Time a worker has to answer a snapshot.
const SNAPSHOT_WAIT: Duration = Duration::from_millis(500);

/// Time between two looks at the certificates' files.
const CERTIFICATES_WATCHED_EVERY: Duration = Duration::from_secs(1);

/// A running relay.
pub struct Server {
    /// The addresses it listens on, ports resolved.
    pub addresses: Vec<SocketAddr>,
    /// The admin listener's address.
    pub admin: Option<SocketAddr>,
    /// The driver its workers use.
    pub driver: Driver,
    /// Every worker's counters.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    ready: Arc<AtomicBool>,
    controls: Arc<Vec<UnixStream>>,
    workers: Vec<JoinHandle<()>>,
    access: access::Writer,
    shown: Vec<Arc<DownstreamTls>>,
    /// Whether each address speaks TLS.
    secured: Vec<bool>,
    drain_grace: Duration,
}

impl Server {
    /// Binds, starts the workers and the admin listener, and returns when all of them serve.
    ///
    /// # Errors
    /// An address cannot be bound, the access log cannot be opened, or no driver works.
    pub fn start(plan: &Plan) -> io::Result<Self> {
        let tls = load_tls(plan).map_err(io::Error::other)?;
        let (access_log, access) = open_access_log(plan)?;
        let groups = group_parts(plan, &tls);
        let routes = RouteParts::of(plan);
        let (addresses, listeners) = bind_all(&plan.listeners, plan.workers)?;
        let cpus = allowed_cpus();
        let mut controls = Vec::new();
        let mut resume = resume_parts(plan)?;
        let (mut workers, mut metrics, mut snapshots) = (Vec::new(), Vec::new(), Vec::new());
        let mut driver = None;
        for (number, listeners) in listeners.into_iter().enumerate() {
            let (ours, theirs) = UnixStream::pair()?;
            let (snapshot_to, snapshot_from) = sync_channel(1);
            let (started_to, started_from) = sync_channel(1);
            let mut core = core_parts(plan, number, &groups, &routes, &access_log);
            core.resume = resume.pop();
            let cells = Arc::clone(&core.metrics);
            let parts = WorkerParts {
                core,
                listeners: listeners.into_iter().zip(tls.listeners.iter().cloned()).collect(),
                io: plan.io,
                cpu: plan.pin.then(|| cpus.get(number % cpus.len().max(1)).copied()).flatten(),
                control: theirs,
                snapshots: snapshot_to,
                started: started_to,
            };
            let given: Vec<RawFd> = parts.descriptors().collect();
            let name = format!("worker-{number}");
            workers.push(std::thread::Builder::new().name(name).spawn(|| worker::run(parts))?);
            let started = started_from.recv().map_err(|_| io::Error::other("a worker died"))?;
            if started.own_table {
                table::close_given(&given);
            }
            driver = Some(started.driver?);
            controls.push(ours);
            snapshots.push(snapshot_from);
            metrics.push(cells);
        }
        let driver = driver.ok_or_else(|| io::Error::other("no worker"))?;
        let ready = Arc::new(AtomicBool::new(true));
        let controls = Arc::new(controls);
        let admin = match plan.admin {
            Some(addr) => {
                Some(start_admin(addr, &metrics, &ready, Arc::clone(&controls), snapshots)?)
            }
            None => None,
        };
        let shown = shown(&tls);
        shown.iter().try_for_each(watch_certificates)?;
        let drain_grace = plan.exchange.drain_grace;
        Ok(Self {
            addresses,
            admin,
            driver,
            metrics,
            ready,
            controls,
            workers,
            access,
            shown,
            secured: tls.listeners.iter().map(Option::is_some).collect(),
            drain_grace,
        })
    }

    /// Reads the certificates shown to clients again; live connections keep theirs.
    pub fn reload_certificates(&self) {
        self.shown.iter().for_each(|tls| reload(tls));
    }

    fn tell(&self, command: u8) {
        for mut control in self.controls.iter() {
            let _ = control.write_all(&[command]);
        }
    }

    /// Stops accepting; streams may finish. Readiness goes false first.
    pub fn drain(&self) {
        self.ready.store(false, Ordering::Relaxed);
        self.tell(command::DRAIN);
    }

    /// Ends what still runs.
    pub fn end(&self) {
        self.ready.store(false, Ordering::Relaxed);
        self.tell(command::END);
    }

    /// Whether every worker has drained.
    pub fn is_over(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the workers, ending them when the grace is over or `cut` is true; then closes
    /// the access log.
    pub fn wait(self, cut: &dyn Fn() -> bool) {
        let deadline = Instant::now() + self.drain_grace;
        let mut ended = false;
        while !self.is_over() {
            if !ended && (cut() || Instant::now() >= deadline) {
                self.end();
                ended = true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for worker in self.workers {
            let _ = worker.join();
        }
        self.access.close();
    }
}

/// Each group with what all cores share of its endpoints.
type Groups = Vec<(UpstreamPlan, Vec<EndpointParts>)>;

fn group_parts(plan: &Plan, tls: &Tls) -> Groups {
    let group = |(group, secured): (&UpstreamPlan, &Vec<Option<Arc<UpstreamTls>>>)| {
        let parts = group.endpoints.iter().zip(secured).map(|(endpoint, tls)| EndpointParts {
            addresses: Resolved::start(endpoint),
            tls: tls.clone(),
        });
        (group.clone(), parts.collect())
    };
    plan.upstreams.iter().zip(&tls.upstreams).map(group).collect()
}

/// The endpoints whose certificates are not verified.
fn unverified(plan: &Plan) -> impl Iterator<Item = &Endpoint> {
    let endpoints = plan.upstreams.iter().flat_map(|group| &group.endpoints);
    endpoints.filter(|endpoint| endpoint.tls.as_ref().is_some_and(|tls| tls.insecure))
}

/// What keeping streams takes, for each worker, the last first; none where no route does that.
fn resume_parts(plan: &Plan) -> io::Result<Vec<ResumeParts>> {
    if !plan.resumes() {
        return Ok(Vec::new());
    }
    let mut epoch = [0; 6];
    aws_lc_rs::rand::fill(&mut epoch).map_err(|_| io::Error::other("no random bytes"))?;
    let mut neighbours =
        if plan.workers > 1 { Neighbours::connect(plan.workers)? } else { Vec::new() };
    let parts = (0..plan.workers).map(|_| ResumeParts {
        epoch: Epoch::new(epoch),
        bytes_max: plan.resume_memory / plan.workers,
        neighbours: neighbours.pop(),
    });
    Ok(parts.collect())
}

fn core_parts(
    plan: &Plan,
    worker: usize,
    groups: &Groups,
    routes: &[RouteParts],
    access: &AccessLog,
) -> CoreParts {
    let metrics = Arc::new(WorkerMetrics::new());
    metrics.upstream_insecure.set(i64::from(unverified(plan).next().is_some()));
    CoreParts {
        worker,
        plan: plan.exchange.clone(),
        routes: routes.to_vec(),
        groups: groups.clone(),
        resume: None,
        metrics,
        access: access.clone(),
        // Shares are rounded up: a limit of 1 must not be 0 on the second core.
        streams_max: plan.streams_max.div_ceil(plan.workers),
    }
}

/// Reads what TLS needs, for both sides.
///
/// # Errors
/// One line: the flag, or the file's line and key; why; and the mend.
pub fn load_tls(plan: &Plan) -> Result<Tls, String> {
    let mut upstreams = Vec::new();
    for group in &plan.upstreams {
        let secured = group.endpoints.iter().map(|endpoint| match &endpoint.tls {
            None => Ok(None),
            Some(tls) => UpstreamTls::load(tls, &endpoint.host).map(|tls| Some(Arc::new(tls))),
        });
        let secured: Result<Vec<_>, String> = secured.collect();
        upstreams.push(secured.map_err(|error| group.places.relocate(error))?);
    }
    let mut listeners: Vec<Option<Arc<DownstreamTls>>> = Vec::new();
    for listener in &plan.listeners {
        let files = listener.certificates.as_slice();
        // Those that show the same share their tickets, and one watch over the files.
        let same = listeners.iter().flatten().find(|tls| tls.files() == files).cloned();
        listeners.push(match same {
            _ if files.is_empty() => None,
            Some(same) => Some(same),
            None => {
                let loaded = DownstreamTls::load(files);
                Some(Arc::new(loaded.map_err(|error| plan.places.relocate(error))?))
            }
        });
    }
    Ok(Tls { upstreams, listeners })
}

/// What clients are shown, each once.
fn shown(tls: &Tls) -> Vec<Arc<DownstreamTls>> {
    let mut shown: Vec<Arc<DownstreamTls>> = Vec::new();
    for tls in tls.listeners.iter().flatten() {
        if !shown.iter().any(|other| Arc::ptr_eq(other, tls)) {
            shown.push(Arc::clone(tls));
        }
    }
    shown
}

fn open_access_log(plan: &Plan) -> io::Result<(AccessLog, access::Writer)> {
    match &plan.access_log {
        AccessLogTo::Off => Ok(AccessLog::off()),
        AccessLogTo::Stdout => AccessLog::stdout(),
        AccessLogTo::Path(path) => AccessLog::file(path).map_err(|error| {
            io::Error::other(format!("--access-log: {} cannot be opened: {error}", path.display()))
        }),
    }
}

fn reload(tls: &DownstreamTls) {
    match tls.reload() {
        Ok(()) => log::info!("certificates were read again; new connections get them"),
        Err(error) => log::error!("certificates stay as they were: {error}"),
    }
}

/// Watches the certificates' files for as long as the relay lives.
fn watch_certificates(tls: &Arc<DownstreamTls>) -> io::Result<()> {
    let tls = Arc::downgrade(tls);
    std::thread::Builder::new().name("certificates".into()).spawn(move || {
        loop {
            std::thread::sleep(CERTIFICATES_WATCHED_EVERY);
            let Some(tls) = tls.upgrade() else { return };
            if tls.has_changed() {
                reload(&tls);
            }
        }
    })?;
    Ok(())
}

/// Binds every address once per worker. Port 0 is resolved by the first and shared by the rest.
#[allow(clippy::type_complexity)]
fn bind_all(
    listen: &[ListenerPlan],
    workers: usize,
) -> io::Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>)> {
    let mut addresses = Vec::new();
    let mut per_worker: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for wanted in listen {
        let mut address = wanted.address;
        for listeners in &mut per_worker {
            let listener = listener::bind(address).map_err(|error| {
                io::Error::new(error.kind(), format!("--listen {address}: {error}"))
            })?;
            address = listener.local_addr()?;
            // A saving, not a need.
            if let Err(error) = listener::accept_with_bytes(&listener) {
                log::debug!("--listen {address}: connections are accepted without bytes: {error}");
            }
            listeners.push(listener);
        }
        addresses.push(address);
    }
    Ok((addresses, per_worker))
}

/// The CPUs this process may use.
fn allowed_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    set.map(|set| (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
        .unwrap_or_default()
}

fn start_admin(
    addr: SocketAddr,
    metrics: &[Arc<WorkerMetrics>],
    ready: &Arc<AtomicBool>,
    controls: Arc<Vec<UnixStream>>,
    snapshots: Vec<Receiver<Vec<StreamInfo>>>,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(addr)
        .map_err(|error| io::Error::new(error.kind(), format!("--admin {addr}: {error}")))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let snapshots = Mutex::new(snapshots);
    let streams = move || {
        let snapshots = snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for (mut control, from) in controls.iter().zip(snapshots.iter()) {
            // An answer that came too late for an earlier look is not the present.
            while from.try_recv().is_ok() {}
            if control.write_all(&[command::SNAPSHOT]).is_ok()
                && let Ok(streams) = from.recv_timeout(SNAPSHOT_WAIT)
            {
                all.extend(streams);
            }
        }
        all
    };
    let admin =
        Admin { metrics: metrics.to_vec(), ready: Arc::clone(ready), streams: Box::new(streams) };
    let (tell, started) = sync_channel(2);
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        let opened = tell.clone();
        let ended = admin::run(listener, admin, || drop(opened.send(Ok(()))));
        if let Err(error) = ended {
            log::error!("the admin listener ended: {error}");
            let _ = tell.try_send(Err(error));
        }
    })?;
    let died = || io::Error::other("the admin thread died");
    started.recv().map_err(|_| died())?.map_err(|error| {
        io::Error::new(error.kind(), format!("--admin {addr}: {error}; or --admin off"))
    })?;
    Ok(addr)
}

/// The process's soft limit of descriptors, raised to the hard one where that is allowed; to be
/// called before any thread starts.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let limit = limit.unwrap_or(u64::MAX);
    grow_descriptor_table(limit);
    limit
}

/// Grows the kernel's table of this process's descriptors, by using a high one once. Otherwise it
/// doubles as streams come, and each time a process with threads waits for a grace period of the
/// kernel: 8 to 15 ms for every stream of that core were seen.
fn grow_descriptor_table(limit: u64) {
    if let Some(highest) = limit.min(DESCRIPTOR_TABLE_MAX).checked_sub(1) {
        // Where it fails the table grows by itself.
        let _ = rustix::io::fcntl_dupfd_cloexec(io::stderr(), highest as i32);
    }
}

/// The CPUs this process may use, counted.
pub fn cores() -> usize {
    allowed_cpus().len().max(1)
}

/// Runs the relay until a signal ends it: the first drains, the second ends at once.
///
/// # Errors
/// It could not start.
pub fn run(plan: &Plan) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let server = Server::start(plan)?;
    // Whoever reads the line below may send a signal at once.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    announce(&server, plan);
    for signal in signals.forever() {
        if signal == SIGHUP {
            server.access.reopen();
            server.reload_certificates();
            continue;
        }
        break;
    }
    log::info!("draining: no new connections, up to {:?} for streams", server.drain_grace);
    server.drain();
    let cut = std::cell::RefCell::new(signals);
    server.wait(&|| cut.borrow_mut().pending().any(|signal| signal != SIGHUP));
    Ok(())
}

/// The one line of start-up, and a warning where there is cause.
fn announce(server: &Server, plan: &Plan) {
    for endpoint in unverified(plan) {
        log::warn!(
            "--upstream-insecure: the certificate of {} is not verified, so anyone in between can \
             read and change everything",
            endpoint.authority
        );
    }
    let listen: Vec<String> = server
        .addresses
        .iter()
        .zip(&server.secured)
        .map(|(address, secured)| {
            format!("{}://{address}", if *secured { "https" } else { "http" })
        })
        .collect();
    let why = server.driver.fell_back.as_deref();
    let why = why.map_or_else(String::new, |why| format!(" (fell back: {why})"));
    let admin = server.admin.map_or_else(|| "off".to_owned(), |admin| format!("http://{admin}"));
    log::info!(
        "serving {} -> {}, {} worker{} on {}{why}, up to {} streams, admin {admin}",
        listen.join(", "),
        destination(plan),
        plan.workers,
        if plan.workers == 1 { "" } else { "s" },
        server.driver.name,
        plan.streams_max,
    );
}

/// Where requests go, in few words.
fn destination(plan: &Plan) -> String {
    let endpoints = || plan.upstreams.iter().flat_map(|group| &group.endpoints);
    let file = plan.file.as_ref().map(|file| file.display());
    match (endpoints().count(), file) {
        (1, None) => endpoints().map(Endpoint::url).collect(),
        (_, file) => {
            let file = file.map_or_else(String::new, |file| file.to_string());
            format!("{} of {file}", counted(plan.routes.len(), "route"))
        }
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
