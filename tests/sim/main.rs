//! A seeded simulation of the flow floor: no sockets, no real clock, thousands of schedules.
//!
//! Each seed makes an upstream (an event stream in some dialect and framing, written in bursts
//! and gaps, perhaps with a fault at some byte), a downstream (quick, slow, stalling or leaving)
//! and limits, and drives `Stream` and `Timers` between them as `src/relay/pump.rs` does. What is
//! checked, after each step and at the end, is computed from the bytes and times alone.
//!
//! A failing seed is printed; `SIM_SEED=n cargo test --test sim` runs it alone, `SIM_SEEDS=n`
//! runs more of them.

mod check;
mod driver;
mod watch;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use millstream::buf::pool_usage;
use millstream::outcome::Outcome;

/// Seeds run by default.
const SEEDS: u64 = 4000;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn run(seed: u64) -> driver::End {
    let plan = world::Plan::new(seed);
    let end = driver::Simulation::new(&plan).run();
    check::end(&plan, &end);
    assert_eq!(pool_usage().blocks, 0, "a finished stream keeps no block");
    end
}

#[test]
fn every_schedule_keeps_the_bytes_the_marks_and_the_deadlines() {
    let seeds = match from_env("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let alone = seeds.end - seeds.start == 1;
    let mut seen = [0_u64; Outcome::COUNT];
    let (mut pauses, mut heartbeats, mut errors, mut overlong) = (0, 0, 0, 0);
    for seed in seeds {
        let Ok(end) = catch_unwind(AssertUnwindSafe(|| run(seed))) else {
            panic!("seed {seed} fails: SIM_SEED={seed} cargo test --test sim");
        };
        seen[end.outcome as usize] += 1;
        pauses += u64::from(end.carried.pauses);
        heartbeats += end.heartbeats;
        errors += u64::from(end.error_frame.is_some());
        overlong += u64::from(end.overlong_seen);
        if alone {
            eprintln!("{:?} after {:?}", end.outcome, end.lasted);
        }
    }
    if alone {
        return;
    }
    // The schedules must reach every end that this floor can have, or they show little.
    for outcome in [
        Outcome::Done,
        Outcome::UpstreamClosed,
        Outcome::UpstreamTruncated,
        Outcome::UpstreamReset,
        Outcome::UpstreamProtocol,
        Outcome::FirstByteTimeout,
        Outcome::IdleTimeout,
        Outcome::StreamTimeout,
        Outcome::ClientGone,
        Outcome::ClientStalled,
        Outcome::Drained,
    ] {
        eprintln!("{:<20} {}", outcome.as_str(), seen[outcome as usize]);
        assert!(seen[outcome as usize] >= 10, "{outcome} hardly happens");
    }
    eprintln!(
        "pauses {pauses}, heartbeats {heartbeats}, error frames {errors}, overlong {overlong}"
    );
    assert!(pauses > 500 && heartbeats > 1000 && errors > 300 && overlong > 100);
}
