//! What /proc says about processes and the machine.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Sub;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// In its own code.
    pub user: f64,
    /// In the kernel on its behalf.
    pub system: f64,
}

impl Cpu {
    /// Both.
    pub fn total(self) -> f64 {
        self.user + self.system
    }
}

impl Sub for Cpu {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { user: self.user - other.user, system: self.system - other.system }
    }
}

/// CPU time twice over: as the kernel splits it (in ticks), and exact but not split.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuSample {
    split: Cpu,
    exact: f64,
}

impl CpuSample {
    /// The time between two samples: the exact sum, split as the ticks are.
    pub fn since(self, before: Self) -> Cpu {
        let split = self.split - before.split;
        let exact = self.exact - before.exact;
        // Threads that ended in between are missing from the exact sum.
        let lost = split.total() > exact + 50e6;
        if lost || exact <= 0.0 {
            return split;
        }
        let share = if split.total() > 0.0 { split.user / split.total() } else { 0.0 };
        Cpu { user: exact * share, system: exact * (1.0 - share) }
    }
}

/// A process and all below it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = BTreeSet::from([root]);
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        for task in tasks(pid) {
            let children = read(&format!("/proc/{pid}/task/{task}/children"));
            for child in children.split_whitespace().filter_map(|word| word.parse().ok()) {
                if found.insert(child) {
                    left.push(child);
                }
            }
        }
    }
    found.into_iter().collect()
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let name = |entry: fs::DirEntry| entry.file_name().to_str().and_then(|name| name.parse().ok());
    entries.flatten().filter_map(name).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The CPU time of processes, all their threads included.
pub fn cpu(pids: &[u32]) -> CpuSample {
    let tick = 1e9 / rustix::param::clock_ticks_per_second() as f64;
    let mut sample = CpuSample::default();
    for &pid in pids {
        let stat = read(&format!("/proc/{pid}/stat"));
        // The name, in brackets, may hold anything.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |at: usize| fields.split_whitespace().nth(at).and_then(|f| f.parse().ok());
        sample.split.user += field(11).unwrap_or(0.0) * tick;
        sample.split.system += field(12).unwrap_or(0.0) * tick;
        for task in tasks(pid) {
            sample.exact += run_time(&format!("/proc/{pid}/task/{task}/schedstat"));
        }
    }
    sample
}

/// The CPU time of this process's threads `ids`, in nanoseconds.
pub fn threads(ids: &[i32]) -> f64 {
    ids.iter().map(|id| run_time(&format!("/proc/self/task/{id}/schedstat"))).sum()
}

fn run_time(path: &str) -> f64 {
    read(path).split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
}

/// The processes' share of memory (PSS) in bytes.
pub fn pss(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| kib(&read(&format!("/proc/{pid}/smaps_rollup")), "Pss:")).sum()
}

fn kib(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// Kernel memory of the whole machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// TCP's socket buffers (`/proc/net/sockstat`), in bytes.
    pub tcp: f64,
    /// Sockets and what hangs on them: the objects themselves, their files and epoll entries
    /// (`/proc/slabinfo`, which only root may read), in bytes.
    pub sockets: f64,
}

/// What the kernel keeps for an open socket. Names it merges with others are left out.
const SOCKET_SLABS: [&str; 6] =
    ["TCP", "TCPv6", "sock_inode_cache", "filp", "eventpoll_epi", "io_kiocb"];

/// The bytes of objects in use in the slabs of sockets.
fn socket_slabs(slabinfo: &str) -> f64 {
    let bytes = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().filter(|name| SOCKET_SLABS.contains(name))?;
        let active: f64 = words.next()?.parse().ok()?;
        let size: f64 = words.nth(1)?.parse().ok()?;
        (!name.is_empty()).then_some(active * size)
    };
    slabinfo.lines().filter_map(bytes).sum()
}

/// Open descriptors of processes, in all of their tables: threads may have tables of their own.
pub fn descriptors(pids: &[u32]) -> usize {
    let open = |table: &Path| -> BTreeSet<_> {
        let entries = fs::read_dir(table).into_iter().flatten().flatten();
        entries.map(|entry| (entry.file_name(), fs::read_link(entry.path()).ok())).collect()
    };
    let tables = |pid: &u32| -> BTreeSet<_> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        // Threads that share a table show the same.
        tasks.map(|task| open(&task.path().join("fd"))).collect()
    };
    pids.iter().flat_map(tables).map(|table| table.len()).sum()
}

/// Gives back the free objects of sockets' slabs, which would be counted as in use. Only root
/// may; without it the figure is rougher.
pub fn shrink_slabs() {
    for name in SOCKET_SLABS {
        let _ = fs::write(format!("/sys/kernel/slab/{name}/shrink"), "1");
    }
}

/// Reads both.
pub fn kernel() -> Kernel {
    let sockstat = read("/proc/net/sockstat");
    let line = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_whitespace().skip_while(|word| *word != "mem").nth(1);
    let pages: f64 = pages.and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let tcp = pages * rustix::param::page_size() as f64;
    Kernel { tcp, sockets: socket_slabs(&read("/proc/slabinfo")) }
}

/// What the cores did, in ticks.
#[derive(Clone, Debug, Default)]
pub struct Cores(Vec<[f64; 3]>);

/// Shares of a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoreShare {
    /// Neither idle nor stolen.
    pub busy: f64,
    /// Taken by the hypervisor.
    pub steal: f64,
}

impl Cores {
    /// Reads `/proc/stat`.
    pub fn read() -> Self {
        let cores = read("/proc/stat");
        let lines = cores.lines().filter(|line| {
            line.starts_with("cpu") && line.as_bytes().get(3).is_some_and(u8::is_ascii_digit)
        });
        let ticks = |line: &str| {
            let mut values =
                line.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0.0));
            let values: [f64; 8] = std::array::from_fn(|_| values.next().unwrap_or(0.0));
            [values.iter().sum(), values[3] + values[4], values[7]]
        };
        Self(lines.map(ticks).collect())
    }

    /// The busiest of `cores` (an empty list: of all) since `before`, and the mean stolen share.
    pub fn since(&self, before: &Self, cores: &[usize]) -> CoreShare {
        let mut share = CoreShare::default();
        let mut counted = 0.0;
        for (core, (now, then)) in self.0.iter().zip(&before.0).enumerate() {
            let total = now[0] - then[0];
            if total <= 0.0 || !(cores.is_empty() || cores.contains(&core)) {
                continue;
            }
            let (idle, steal) = ((now[1] - then[1]) / total, (now[2] - then[2]) / total);
            share.busy = share.busy.max(1.0 - idle - steal);
            share.steal += steal;
            counted += 1.0;
        }
        share.steal /= f64::max(counted, 1.0);
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_see_this_process() {
        let own = std::process::id();
        assert!(tree(own).contains(&own));
        assert!(pss(&[own]) > 100_000.0);
        let before = cpu(&[own]);
        let mut sum = 0u64;
        while cpu(&[own]).since(before).total() < 30e6 {
            sum = (0..100_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(threads(&[thread]) > 0.0);
        assert!(descriptors(&[own]) > 2);
        let cores = Cores::read();
        assert!(!cores.0.is_empty());
        assert_eq!(cores.since(&cores, &[]), CoreShare::default());
    }

    #[test]
    fn sockets_are_summed_from_slabinfo() {
        let text = "slabinfo - version: 2.1\n\
            # name            <active_objs> <num_objs> <objsize> <objperslab>\n\
            TCPv6  26 26 2496 13 8 : tunables 0 0 0\n\
            dentry 1000 1000 192 21 1 : tunables\n\
            filp  10 714 192 21 1 : tunables\n";
        assert!((socket_slabs(text) - (26.0 * 2496.0 + 10.0 * 192.0)).abs() < 0.5);
        assert!(socket_slabs("") < 0.5);
    }

    #[test]
    fn an_exact_sum_is_split_by_ticks() {
        let before = CpuSample::default();
        let split = Cpu { user: 10e6, system: 30e6 };
        let after = CpuSample { split, exact: 44e6 };
        assert_eq!(after.since(before), Cpu { user: 11e6, system: 33e6 });
        let ended = CpuSample { split: Cpu { user: 0.0, system: 100e6 }, exact: 10e6 };
        assert!((ended.since(before).total() - 100e6).abs() < 1.0);
    }
}
