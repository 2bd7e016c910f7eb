//! The machine and the programs, described.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::systems::{Bench, System};
use crate::tls::SPOKEN;

/// What a reader needs to judge figures by.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many the system has.
    pub cores: usize,
    /// The kernel.
    pub kernel: String,
    /// The distribution.
    pub os: String,
    /// Bytes of memory.
    pub memory: u64,
    /// A hypervisor's flag is set.
    pub virtual_machine: bool,
    /// Where the systems under test ran.
    pub sut_cores: Vec<usize>,
    /// Where origin and generator ran.
    pub load_cores: Vec<usize>,
    /// Systems and their versions.
    pub versions: Vec<(System, String)>,
    /// Systems asked for and not there.
    pub missing: Vec<System>,
    /// When, in seconds since 1970.
    pub time: u64,
    /// Https was spoken in some scenarios.
    #[serde(default)]
    pub https: bool,
    /// More flags the relay was given.
    pub millstream_flags: Vec<String>,
}

fn after<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line.split_once([':', '=']).map_or("", |(_, value)| value.trim().trim_matches('"'))
}

impl Machine {
    /// Describes this machine and `systems`.
    pub fn describe(bench: &Bench, systems: &[System]) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let memory = read("/proc/meminfo");
        let memory = after(&memory, "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok());
        let found = |system: &System| bench.find(*system).is_some();
        let version = |system: &System| Some((*system, bench.version(*system)?));
        let place = bench.place(None);
        let epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            cpu: after(&cpuinfo, "model name").to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            os: after(&read("/etc/os-release"), "PRETTY_NAME").to_owned(),
            memory: memory.unwrap_or(0u64) * 1024,
            virtual_machine: after(&cpuinfo, "flags").split(' ').any(|flag| flag == "hypervisor"),
            sut_cores: place.sut,
            load_cores: place.load,
            versions: systems.iter().filter_map(version).collect(),
            missing: systems.iter().filter(|system| !found(system)).copied().collect(),
            time: epoch.map_or(0, |time| time.as_secs()),
            https: false,
            millstream_flags: bench.millstream_flags.clone(),
        }
    }

    /// The description as lines.
    pub fn lines(&self) -> Vec<String> {
        let kind = if self.virtual_machine { "virtual" } else { "hardware" };
        let mut lines = vec![
            format!(
                "{} {kind} cores of {}, {:.1} GiB, {}, Linux {}",
                self.cores,
                self.cpu,
                self.memory as f64 / f64::from(1 << 30),
                self.os,
                self.kernel
            ),
            format!(
                "system under test on core {:?}, origin and generator on {:?}; loopback, HTTP/1.1",
                self.sut_cores, self.load_cores
            ),
        ];
        if self.https {
            lines.push(format!("https: {SPOKEN}"));
        }
        if !self.millstream_flags.is_empty() {
            lines.push(format!("millstream: {}", self.millstream_flags.join(" ")));
        }
        lines.extend(self.versions.iter().map(|(system, version)| format!("{system}: {version}")));
        if !self.missing.is_empty() {
            let names: Vec<String> = self.missing.iter().map(System::to_string).collect();
            lines.push(format!("not installed, left out: {}", names.join(", ")));
        }
        lines
    }
}
