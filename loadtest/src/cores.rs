//! Which thread runs where.

use std::num::NonZeroU64;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity, set_current_timer_slack};

/// Pins the calling thread, and asks for timers without the usual 50 µs of slack.
pub fn pin_thread(core: Option<usize>) {
    let _ = set_current_timer_slack(NonZeroU64::new(1));
    if let Some(core) = core {
        let mut set = CpuSet::new();
        set.set(core);
        let _ = sched_setaffinity(None, &set);
    }
}

/// Keeps the calling thread, and those it starts from now on, on `cores`; an empty list changes
/// nothing.
pub fn pin_all(cores: &[usize]) {
    if !cores.is_empty() {
        let mut set = CpuSet::new();
        cores.iter().for_each(|core| set.set(*core));
        let _ = sched_setaffinity(None, &set);
    }
}

/// Runs `work` with this thread on `cores`; processes started in it inherit that.
pub fn on<T>(cores: &[usize], work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None);
    pin_all(cores);
    let done = work();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    done
}

/// Reads `0`, `0,2` or `1-3`.
pub fn parse(text: &str) -> Result<Vec<usize>, String> {
    let mut cores = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().map_err(|_| format!("not a core: {text}"));
        cores.extend(number(from)?..=number(to)?);
    }
    if cores.iter().any(|core| *core >= CpuSet::MAX_CPU) {
        return Err("no such core".into());
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(parse("0,2-4"), Ok(vec![0, 2, 3, 4]));
        assert_eq!(parse(""), Ok(vec![]));
        assert!(parse("a").is_err() && parse("99999").is_err());
    }
}
