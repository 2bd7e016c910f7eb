//! Every scenario, small, through real sockets: with no relay and through the pumps.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use loadtest::suite::Findings;
use loadtest::systems::System;

/// The pumps that can be: containers often forbid io_uring.
fn systems() -> Vec<System> {
    let ring = io_uring::IoUring::<io_uring::squeue::Entry>::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .is_ok();
    let mut all = vec![System::Direct, System::PumpEpoll];
    if ring {
        all.extend([System::PumpUring, System::PumpMonoio]);
    }
    all
}

fn names(systems: &[System]) -> String {
    systems.iter().map(System::to_string).collect::<Vec<_>>().join(",")
}

fn place(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("loadtest-{name}-{}.json", std::process::id()))
}

fn run(name: &str, arguments: &[&str]) -> Findings {
    run_through(&systems(), name, arguments)
}

fn run_through(systems: &[System], name: &str, arguments: &[&str]) -> Findings {
    let json = place(name);
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(arguments)
        .args(["--system", &names(systems), "--json"])
        .arg(&json)
        .stdin(Stdio::null())
        .output()
        .expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let findings = Findings::load(&json).expect("written");
    std::fs::remove_file(json).expect("there");
    assert!(findings.failures.is_empty(), "{:?}", findings.failures);
    assert_eq!(findings.results.len(), systems.len());
    for result in &findings.results {
        assert!(result.faults.is_empty(), "{:?}: {:?}", result.system, result.faults);
    }
    findings
}

#[test]
fn a_burst_comes_through_whole() {
    let findings = run("burst", &["burst", "--streams", "4", "--frames", "3000"]);
    for result in &findings.results {
        assert_eq!((result.frames, result.requests), (12_000, 4), "{:?}", result.system);
        assert!(result.bytes >= 12_000 * 208);
    }
}

#[test]
fn steady_streams_and_short_ones() {
    for result in run("steady", &["steady", "--streams", "10", "--seconds", "0.3"]).results {
        assert!(result.frames > 0 && result.latency.is_some(), "{:?}", result.system);
        assert!(result.ramp_head.is_some_and(|head| head.count == 10));
    }
    for scenario in ["churn", "churn-new"] {
        for result in run(scenario, &[scenario, "--streams", "4", "--seconds", "0.2"]).results {
            assert!(result.requests > 0 && result.refused == 0, "{:?}", result.system);
        }
    }
}

#[test]
fn the_pump_that_keeps_connections_lends_them_to_one_client_after_the_other() {
    for scenario in ["churn", "churn-new"] {
        let arguments = [scenario, "--streams", "4", "--seconds", "0.2"];
        for result in run_through(&[System::PumpKeep], "keep", &arguments).results {
            assert!(result.requests > 0 && result.refused == 0);
        }
    }
}

#[test]
fn several_workers_share_the_streams() {
    for result in run("workers", &["workers", "--streams", "40", "--seconds", "0.3"]).results {
        let one = result.base.expect("measured before");
        assert_eq!((one.workers, result.workers), (1, 2), "{:?}", result.system);
        assert!(one.frames > 0 && result.frames > 0, "{:?}", result.system);
    }
}

#[test]
fn silent_and_slow_streams_have_their_memory_read() {
    for scenario in ["idle", "slow"] {
        for result in run(scenario, &[scenario, "--streams", "8", "--seconds", "0.2"]).results {
            assert_eq!((result.memory.len(), result.connections), (3, 8));
            assert!(result.notes.iter().all(|note| !note.contains("live")), "{:?}", result.notes);
            let reads = result.memory[0].pss > 0.0;
            assert_eq!(reads, result.system != Some(System::Direct));
        }
    }
}

#[test]
fn who_leaves_is_seen_leaving() {
    for scenario in ["disconnect", "disconnect-silent"] {
        for result in run(scenario, &[scenario, "--streams", "10", "--seconds", "1.5"]).results {
            assert!(result.left > 0, "{:?}", result.system);
            assert!(result.left_seen * 10 >= result.left * 9, "{:?}", result.system);
        }
    }
}

#[test]
fn failures_asked_for_are_no_faults() {
    for result in run("retry", &["retry-storm", "--streams", "8", "--seconds", "0.3"]).results {
        assert!(result.requests > 0 && result.refused > 0, "{:?}", result.system);
        assert!(result.statuses.contains_key(&503));
    }
}

#[test]
fn soak_counts_what_it_was_to_do_and_leaves_nothing() {
    for result in run("soak", &["soak", "--streams", "10", "--seconds", "0.1"]).results {
        assert!(result.requests >= 1000 && result.left >= 100, "{:?}", result.system);
        let [before, _, after] = result.memory[..] else { panic!("memory is read thrice") };
        assert_eq!(before.descriptors, after.descriptors, "{:?}", result.system);
    }
}

#[test]
fn streams_that_are_cut_are_whole_in_the_end() {
    // The origin resumes; what is between passes TCP on.
    let numbers = ["resume", "--streams", "20", "--rate", "100", "--seconds", "3", "--seed", "5"];
    for result in run("resume", &numbers).results {
        let seen = result.resumption.as_ref().expect("cut");
        assert_eq!((result.requests, result.connections), (20, 20), "{:?}", result.system);
        assert_eq!((seen.unasked, seen.over), (0, 20), "{:?}", result.system);
        assert!(seen.cuts > 0 && seen.within_frame > 0, "{seen:?}");
        assert!(seen.resumed + seen.over > seen.cuts / 2, "{seen:?}");
    }
}

#[test]
fn mixtures_and_overload_run() {
    for result in run("mixed", &["mixed", "--streams", "10", "--seconds", "0.2"]).results {
        assert!(result.by_group.values().filter(|frames| **frames > 0).count() >= 3);
    }
    for result in run("overload", &["overload", "--streams", "4", "--seconds", "0.2"]).results {
        assert!(result.capacity.is_some_and(|frames| frames > 0.0) && result.frames > 0);
    }
}

#[test]
fn an_interrupt_ends_it_with_what_there_is() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["steady", "--streams", "5", "--seconds", "600", "--system", "direct"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let status = format!("/proc/{}/status", child.id());
    let catches = || {
        let text = std::fs::read_to_string(&status).expect("running");
        let line = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line");
        // SIGINT is the second, SIGTERM the fifteenth.
        u64::from_str_radix(line.trim(), 16).expect("hex") & 0x4002 == 0x4002
    };
    while !catches() {
        assert!(child.try_wait().expect("a child").is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::INT).expect("sent");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success(), "{:?}", output.status);
    assert!(String::from_utf8_lossy(&output.stdout).contains("cores of"));
}

#[test]
fn saturated_streams_have_one_frame_on_its_way() {
    let arguments = ["saturation", "--streams", "20", "--rate", "20", "--seconds", "0.3"];
    for result in run("saturation", &arguments).results {
        let most = result.base.expect("measured before");
        assert!(most.frames > result.frames && result.frames > 0, "{:?}", result.system);
    }
}

#[test]
fn https_from_end_to_end_passes_the_pumps() {
    let arguments = ["--tls", "both", "--streams", "6"];
    let with = |more: &[&'static str]| [more, &arguments].concat();
    for result in run("tls-burst", &with(&["burst", "--frames", "2000"])).results {
        assert_eq!((result.frames, result.requests), (12_000, 6), "{:?}", result.system);
        let shaken = result.full_handshakes + result.resumed_handshakes;
        assert!(shaken >= 6, "{:?}", result.system);
    }
    for result in run("tls-new", &with(&["churn-new", "--seconds", "0.3"])).results {
        assert!(result.requests > 0 && result.resumed_handshakes > 0, "{:?}", result.system);
    }
    for result in run("tls-handshake", &with(&["handshake", "--seconds", "0.3"])).results {
        assert!(result.handshake.is_some_and(|latency| latency.count > 0));
        assert_eq!(result.resumed_handshakes, 0, "{:?}", result.system);
    }
    let pump = [System::PumpEpoll];
    let slow = with(&["slow", "--seconds", "0.2"]);
    for result in run_through(&pump, "tls-slow", &slow).results {
        assert!(result.notes.iter().all(|note| !note.contains("live")), "{:?}", result.notes);
    }
    let leave = with(&["disconnect-silent", "--seconds", "1.5"]);
    for result in run_through(&pump, "tls-leave", &leave).results {
        assert!(result.left > 0 && result.left_seen * 10 >= result.left * 9);
    }
    let most = with(&["saturation", "--seconds", "0.2"]);
    for result in run_through(&pump, "tls-most", &most).results {
        assert!(result.base.is_some_and(|most| most.frames > 0) && result.frames > 0);
    }
}

/// Through the relay, where it has been built beside this crate's program: a test of one package
/// alone does not build it.
#[test]
fn https_on_each_side_of_the_relay() {
    let relay = PathBuf::from(env!("CARGO_BIN_EXE_loadtest")).with_file_name("millstream");
    if !relay.is_file() {
        eprintln!("no {}: left out", relay.display());
        return;
    }
    for tls in ["upstream", "clients", "both"] {
        let more = if tls == "both" { Some(("idle", "8")) } else { None };
        for (scenario, streams) in [("steady", "8"), ("churn-new", "3")].into_iter().chain(more) {
            let name = format!("relay-{tls}-{scenario}");
            let more = ["--tls", tls, "--streams", streams, "--seconds", "0.3"];
            let arguments = [&[scenario], &more[..]].concat();
            let findings = run_through(&[System::MillstreamEpoll], &name, &arguments);
            assert!(findings.machine.https);
            let result = &findings.results[0];
            assert!(result.frames > 0 || scenario == "idle", "{name}");
            assert_eq!(result.full_handshakes + result.resumed_handshakes > 0, tls != "upstream");
        }
    }
}
