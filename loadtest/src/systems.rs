//! The systems under test: started, pinned, found ready, stopped.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::frame::Form;
use crate::tls::{NAME, Pki, Tls};
use crate::{cores, sample};

/// How long the relay may take to end when it is asked to.
const END_WAIT: Duration = Duration::from_secs(2);

/// What a load can be put through.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// Nothing: the client speaks to the origin.
    Direct,
    /// This crate's pump over epoll.
    PumpEpoll,
    /// This crate's pump over io_uring.
    PumpUring,
    /// The pump over epoll that keeps upstream connections.
    PumpKeep,
    /// This crate's pump on monoio, the relay's runtime.
    PumpMonoio,
    /// Millstream on io_uring.
    Millstream,
    /// Millstream on epoll.
    MillstreamEpoll,
    /// Millstream as `loadtest/pgo` builds it, on io_uring.
    MillstreamPgo,
    /// Millstream by a route that tells streams as a page's tokens.
    MillstreamTokens,
    /// Millstream by a route that tells them in OpenAI's words.
    MillstreamOpenai,
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Envoy.
    Envoy,
    /// Caddy.
    Caddy,
    /// LiteLLM's proxy.
    Litellm,
}

impl fmt::Display for System {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Direct => "direct",
            Self::PumpEpoll => "pump-epoll",
            Self::PumpUring => "pump-uring",
            Self::PumpKeep => "pump-keep",
            Self::PumpMonoio => "pump-monoio",
            Self::Millstream => "millstream",
            Self::MillstreamEpoll => "millstream-epoll",
            Self::MillstreamPgo => "millstream-pgo",
            Self::MillstreamTokens => "millstream-tokens",
            Self::MillstreamOpenai => "millstream-openai",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
            Self::Litellm => "litellm",
        })
    }
}

/// Where programs are found and how they are run.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The relay's release binary.
    pub millstream: PathBuf,
    /// The one that `loadtest/pgo` builds.
    pub millstream_pgo: PathBuf,
    /// More flags for the relay.
    pub millstream_flags: Vec<String>,
    /// Looked into before PATH.
    pub tools: Vec<PathBuf>,
    /// How many cores there are.
    pub cores: usize,
    /// The cores of the system under test, where they were chosen.
    pub sut_cores: Option<Vec<usize>>,
    /// The cores of origin and generator, where they were chosen.
    pub load_cores: Option<Vec<usize>>,
}

/// Which cores are whose in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The system's workers or threads.
    pub workers: usize,
    /// The system's cores; none to leave it to the kernel.
    pub sut: Vec<usize>,
    /// Those of origin and generator; none to leave it to the kernel.
    pub load: Vec<usize>,
}

impl Place {
    /// On a machine of `count` cores: the last `workers` (the cores chosen, else one) for the
    /// system, the others, four at most, for the load. Where none is left, they share all.
    fn new(
        count: usize,
        workers: Option<usize>,
        sut: Option<&Vec<usize>>,
        load: Option<&Vec<usize>>,
    ) -> Self {
        let workers = workers.or_else(|| sut.map(Vec::len)).unwrap_or(1).max(1);
        let last = if count > 1 { count - workers.min(count)..count } else { 0..0 };
        let sut = sut.cloned().unwrap_or_else(|| last.collect());
        let mut others: Vec<usize> =
            (0..count).filter(|core| !sut.is_empty() && !sut.contains(core)).take(4).collect();
        if others.is_empty() {
            others.clone_from(&sut);
        }
        Self { workers, load: load.cloned().unwrap_or(others), sut }
    }

    /// Whether the load runs on cores of the system's.
    pub fn is_shared(&self) -> bool {
        self.load.iter().any(|core| self.sut.contains(core))
    }

    /// The same load, the system with one worker on the last of its cores.
    #[must_use]
    pub fn with_one(&self) -> Self {
        let sut = self.sut.last().copied().into_iter().collect();
        Self { workers: 1, sut, load: self.load.clone() }
    }
}

/// A running system.
#[derive(Debug)]
pub struct Running {
    /// Which.
    pub system: System,
    /// Where clients go.
    pub address: SocketAddr,
    /// The relay's admin listener, where it was asked for.
    admin: Option<SocketAddr>,
    child: Option<Child>,
    dir: Option<PathBuf>,
}

impl System {
    /// Whether it can take part where https is spoken as in `tls`. What passes TCP on as it comes
    /// passes TLS on too, but only from end to end; LiteLLM is left to plain loads.
    pub fn speaks(self, tls: Tls) -> bool {
        match self {
            // A kept connection could not be lent to another's session.
            Self::Litellm | Self::PumpKeep => tls == Tls::Off,
            _ if self.is_bare() => matches!(tls, Tls::Off | Tls::Both),
            _ => true,
        }
    }

    /// How frames come out of it. Those of the load are in OpenAI's words already, so telling them
    /// in these changes no byte.
    pub fn form(self) -> Form {
        match self {
            Self::Litellm | Self::MillstreamTokens => Form::Rewritten,
            _ => Form::AsSent,
        }
    }

    /// Whether it reads the frames and tells them.
    pub fn is_shaped(self) -> bool {
        matches!(self, Self::MillstreamTokens | Self::MillstreamOpenai)
    }

    /// Whether it is the relay.
    pub fn is_millstream(self) -> bool {
        matches!(self, Self::Millstream | Self::MillstreamEpoll | Self::MillstreamPgo)
            || self.is_shaped()
    }

    /// Whether it passes TCP on as it comes, or is not there at all.
    pub fn is_bare(self) -> bool {
        self == Self::Direct || self.pump().is_some()
    }

    /// The kind of this crate's pump it is, where it is one.
    fn pump(self) -> Option<&'static str> {
        match self {
            Self::PumpEpoll => Some("epoll"),
            Self::PumpUring => Some("uring"),
            Self::PumpKeep => Some("keep"),
            Self::PumpMonoio => Some("monoio"),
            _ => None,
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Caddy => "caddy",
            Self::Litellm => "litellm",
            _ => "",
        }
    }

    fn config(self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Nginx => ("nginx.conf", include_str!("../peers/nginx.conf")),
            Self::Haproxy => ("haproxy.cfg", include_str!("../peers/haproxy.cfg")),
            Self::Envoy => ("envoy.yaml", include_str!("../peers/envoy.yaml")),
            Self::Caddy => ("Caddyfile", include_str!("../peers/Caddyfile")),
            Self::Litellm => ("litellm.yaml", include_str!("../peers/litellm.yaml")),
            Self::MillstreamTokens => ("relay.toml", include_str!("../peers/tokens.toml")),
            Self::MillstreamOpenai => ("relay.toml", include_str!("../peers/openai.toml")),
            _ => return None,
        })
    }
}

impl Bench {
    /// The program of `system`, or nothing where it is not installed.
    pub fn find(&self, system: System) -> Option<PathBuf> {
        match system {
            System::Direct => Some(PathBuf::new()),
            _ if system.pump().is_some() => std::env::current_exe().ok(),
            system if system.is_millstream() => {
                let pgo = system == System::MillstreamPgo;
                let program = if pgo { &self.millstream_pgo } else { &self.millstream };
                program.is_file().then(|| program.clone())
            }
            _ => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let places = self.tools.iter().cloned().chain(std::env::split_paths(&path));
                let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
                let mut named = places.chain(more).map(|dir| dir.join(system.program()));
                named.find(|file| file.is_file())
            }
        }
    }

    /// The version that `system` says it has.
    pub fn version(&self, system: System) -> Option<String> {
        let program = self.find(system)?;
        let flag = match system {
            System::Direct => return None,
            _ if system.pump().is_some() => return None,
            System::Nginx | System::Haproxy => "-v",
            System::Caddy => "version",
            _ => "--version",
        };
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        // Without its place on this machine.
        Some(line.split_once("version: ").map_or(line, |(_, version)| version).to_owned())
    }

    /// Where a run with `workers` (or as many as there are cores chosen, or one) takes place.
    pub fn place(&self, workers: Option<usize>) -> Place {
        Place::new(self.cores, workers, self.sut_cores.as_ref(), self.load_cores.as_ref())
    }

    /// Starts `system` and waits until it accepts.
    pub fn start(&self, system: System, start: &Start<'_>) -> Result<Running> {
        if system == System::Direct {
            let address = start.upstream;
            return Ok(Running { system, address, admin: None, child: None, dir: None });
        }
        let program = self.find(system).with_context(|| format!("{system} is not installed"))?;
        let address = free_port()?;
        let dir = std::env::temp_dir().join(format!(
            "loadtest-{}-{}",
            std::process::id(),
            address.port()
        ));
        fs::create_dir_all(&dir).context("a directory for the run")?;
        let mut command = Command::new(program);
        arguments(system, &mut command, address, start, &dir)?;
        let relay = system.is_millstream();
        let admin = (start.admin && relay).then(free_port).transpose()?;
        if relay {
            let at = admin.map_or_else(|| "off".into(), |admin| admin.to_string());
            command.args(["--admin", &at]).args(start.relay_flags).args(&self.millstream_flags);
        }
        let log = File::create(dir.join("output.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = cores::on(&start.place.sut, || command.spawn());
        let child = child.with_context(|| format!("cannot start {system}"))?;
        let mut running = Running { system, address, admin, child: Some(child), dir: Some(dir) };
        running.await_ready()?;
        Ok(running)
    }
}

/// What a system is started with.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// Where it relays to.
    pub upstream: SocketAddr,
    /// Its workers and cores.
    pub place: &'a Place,
    /// Where https is spoken.
    pub tls: Tls,
    /// Certificates for that.
    pub pki: Option<&'a Pki>,
    /// With the relay's admin listener.
    pub admin: bool,
    /// The relay's flags beside the usual ones.
    pub relay_flags: &'a [String],
}

/// Lines that hold in some cases only begin with one of these words.
const CASES: [&str; 4] =
    ["@http-upstream ", "@https-upstream ", "@http-clients ", "@https-clients "];

/// A peer's configuration: the lines of the case at hand, `{{names}}` filled in.
fn configuration(text: &str, tls: Tls, values: &[(&str, String)]) -> String {
    let holds = [!tls.has_upstream(), tls.has_upstream(), !tls.has_clients(), tls.has_clients()];
    let mut out = String::new();
    for line in text.lines() {
        let case = CASES.iter().position(|case| line.starts_with(case));
        let line = match case {
            Some(case) if !holds[case] => continue,
            Some(case) => &line[CASES[case].len()..],
            None => line,
        };
        out += line;
        out.push('\n');
    }
    values.iter().fold(out, |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

/// Writes the configuration of `system`, and says how it is called.
fn arguments(
    system: System,
    command: &mut Command,
    address: SocketAddr,
    start: &Start<'_>,
    dir: &Path,
) -> Result<()> {
    let (listen, up) = (address.to_string(), start.upstream.to_string());
    let workers = start.place.workers.to_string();
    let pki = start.pki.map_or_else(String::new, |pki| pki.dir().to_string_lossy().into_owned());
    let mut config = PathBuf::new();
    if let Some((name, text)) = system.config() {
        config = dir.join(name);
        let values = [
            ("dir", dir.to_string_lossy().into_owned()),
            ("listen", listen.clone()),
            ("listen_host", address.ip().to_string()),
            ("listen_port", address.port().to_string()),
            ("upstream", up.clone()),
            ("upstream_host", start.upstream.ip().to_string()),
            ("upstream_port", start.upstream.port().to_string()),
            ("workers", workers.clone()),
            ("pki", pki.clone()),
            ("name", NAME.to_owned()),
        ];
        fs::write(&config, configuration(text, start.tls, &values))?;
    }
    match system {
        System::Direct => {}
        System::PumpEpoll | System::PumpUring | System::PumpKeep | System::PumpMonoio => {
            let kind = system.pump().unwrap_or_default();
            command.args(["pump", "--kind", kind, "--listen", &listen, "--upstream", &up]);
            command.args(["--threads", &workers]);
        }
        System::Millstream
        | System::MillstreamEpoll
        | System::MillstreamPgo
        | System::MillstreamTokens
        | System::MillstreamOpenai => {
            let io = if system == System::MillstreamEpoll { "epoll" } else { "uring" };
            let scheme = if start.tls.has_upstream() { "https" } else { "http" };
            let upstream = format!("{scheme}://{up}");
            command.args(["serve", "--listen", &listen, "--upstream", &upstream, "--io", io]);
            command.args(["--workers", &workers, "--access-log", "off"]);
            command.args(["--max-streams", "9000"]);
            if system.is_shaped() {
                command.arg("--config").arg(config);
            }
            if start.tls.has_upstream() {
                command.args(["--upstream-tls-name", NAME, "--upstream-ca"]);
                command.arg(format!("{pki}/ca.pem"));
            }
            if start.tls.has_clients() {
                command.arg("--tls-cert").arg(format!("{pki}/cert.pem"));
                command.arg("--tls-key").arg(format!("{pki}/key.pem"));
            }
        }
        System::Nginx => drop(command.arg("-p").arg(dir).arg("-c").arg(config)),
        System::Haproxy => drop(command.args(["-db", "-f"]).arg(config)),
        System::Envoy => {
            command.arg("-c").arg(config).args(["--concurrency", &workers]);
            command.args(["-l", "error", "--use-dynamic-base-id"]);
        }
        System::Caddy => {
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
            command.env("GOMAXPROCS", &workers);
            command.env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
        }
        System::Litellm => {
            command.arg("--config").arg(config).args(["--host", "127.0.0.1", "--port"]);
            command.arg(address.port().to_string()).args(["--num_workers", &workers]);
            // It does not start without a key; the clients send it.
            command.env("LITELLM_LOG", "ERROR").env("LITELLM_MASTER_KEY", "sk-loadtest");
            command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("NO_DOCS", "True");
        }
    }
    Ok(())
}

/// Sums of the metrics about resuming, by name, without the relay's prefix.
fn resume_metrics(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or_default();
        let Some(name) = name.strip_prefix("millstream_") else { continue };
        let name = name.strip_suffix("_total").unwrap_or(name);
        let of_it = ["resume_", "kept_", "detached", "readers_"];
        if let (true, Ok(value)) =
            (of_it.iter().any(|start| name.starts_with(start)), value.parse::<f64>())
        {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

/// A port of 127.0.0.1 that nobody has just now.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("a free port")?;
    Ok(listener.local_addr()?)
}

impl Running {
    fn await_ready(&mut self) -> Result<()> {
        let limit = if self.system == System::Litellm { 90 } else { 20 };
        let deadline = Instant::now() + Duration::from_secs(limit);
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > deadline {
                bail!("{} does not start: {}", self.system, self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The last of what it printed.
    pub fn log(&self) -> String {
        let file = self.dir.as_ref().map(|dir| dir.join("output.log"));
        let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// The body of what the relay's admin listener answers.
    fn admin(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(self.admin?).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // A read that fails for a connection kept open still leaves what came.
        let _ = socket.read_to_end(&mut answer);
        let text = String::from_utf8(answer).ok()?;
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    /// What the relay's `/metrics` say of streams that can be resumed, summed over its workers;
    /// nothing where it says nothing.
    pub fn resume_metrics(&self) -> BTreeMap<String, f64> {
        resume_metrics(&self.admin("/metrics").unwrap_or_default())
    }

    /// How many streams the relay's `/streams` lists.
    pub fn listed_streams(&self) -> Option<usize> {
        let list: Vec<serde_json::Value> = serde_json::from_str(&self.admin("/streams")?).ok()?;
        Some(list.len())
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        self.child.as_ref().map_or_else(Vec::new, |child| sample::tree(child.id()))
    }

    /// Whether it has ended by itself.
    pub fn has_died(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pids = self.pids();
        if let Some(mut child) = self.child.take() {
            let ended = self.system.is_millstream() && ends(&mut child);
            // Below first: a master would start its worker anew or leave it behind.
            for pid in pids.iter().filter(|_| !ended) {
                signal(*pid, Signal::KILL);
            }
            let _ = child.wait();
        }
        if let Some(dir) = self.dir.take() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Asks a process to end, and waits a little; whether it has. What it writes at its end (a profile
/// of what it did) is written then.
fn ends(child: &mut Child) -> bool {
    signal(child.id(), Signal::TERM);
    let begun = Instant::now();
    while begun.elapsed() < END_WAIT {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_the_lines_of_its_case() {
        let text = "a {{x}}\n@http-upstream   b\n@https-upstream   c\n@https-clients d\ne";
        let of = |tls| configuration(text, tls, &[("x", "1".into())]);
        assert_eq!(of(Tls::Off), "a 1\n  b\ne\n");
        assert_eq!(of(Tls::Upstream), "a 1\n  c\ne\n");
        assert_eq!(of(Tls::Clients), "a 1\n  b\nd\ne\n");
        let values: Vec<(&str, String)> =
            ["dir", "listen", "listen_host", "listen_port", "upstream", "upstream_host"]
                .into_iter()
                .chain(["upstream_port", "workers", "pki", "name"])
                .map(|name| (name, "1".to_owned()))
                .collect();
        for system in System::value_variants() {
            let Some((name, text)) = system.config() else { continue };
            for tls in [Tls::Off, Tls::Upstream, Tls::Clients, Tls::Both] {
                let filled = configuration(text, tls, &values);
                let unread = filled.lines().any(|line| line.starts_with('@'));
                assert!(!filled.contains("{{") && !unread, "{name}: {filled}");
                // The relay's flags say it.
                let https = system.speaks(tls) && tls != Tls::Off && !system.is_shaped();
                assert_eq!(filled.contains(".pem"), https, "{name} {tls:?}");
            }
        }
    }

    #[test]
    fn metrics_are_summed_over_workers() {
        let text = "# HELP millstream_kept_streams Streams kept\n\
            millstream_kept_streams{worker=\"0\"} 2\n\
            millstream_kept_streams{worker=\"1\"} 3\n\
            millstream_resume_handovers_total{worker=\"0\"} 7\n\
            millstream_resumes_total{worker=\"0\"} 9\n\
            # EOF\n";
        let sums: Vec<(String, f64)> = resume_metrics(text).into_iter().collect();
        let wanted = [("kept_streams", 5.0), ("resume_handovers", 7.0)];
        assert_eq!(sums, wanted.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn the_system_has_the_last_cores_and_the_load_the_others() {
        let place = |count, workers, sut: Option<&Vec<usize>>| {
            let place = Place::new(count, workers, sut, None);
            (place.workers, place.sut.clone(), place.load.clone(), place.is_shared())
        };
        assert_eq!(place(1, None, None), (1, vec![], vec![], false));
        assert_eq!(place(2, None, None), (1, vec![1], vec![0], false));
        assert_eq!(place(2, Some(2), None), (2, vec![0, 1], vec![0, 1], true));
        assert_eq!(place(4, Some(2), None), (2, vec![2, 3], vec![0, 1], false));
        assert_eq!(place(8, None, None), (1, vec![7], vec![0, 1, 2, 3], false));
        assert_eq!(place(4, None, Some(&vec![0, 1])), (2, vec![0, 1], vec![2, 3], false));
        let one = Place::new(2, Some(2), None, None).with_one();
        assert_eq!((one.workers, one.sut, one.load), (1, vec![1], vec![0, 1]));
    }
}
