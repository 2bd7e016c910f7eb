//! A core's runtime: monoio on the best driver the system allows.

use std::io;

use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::{ready, timer};
use crate::config::plan::Io;

/// Entries of the submission ring; completions have twice as many. Beyond it monoio submits
/// early, so it bounds a batch and not the streams.
const RING_ENTRIES: u32 = 4096;

/// A runtime on either driver, without timers: [`timer`] has them.
pub type WorkerRuntime = FusionRuntime<IoUringDriver, LegacyDriver>;

/// The driver in use and, where it is not the best, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// `io_uring (single issuer, deferred)`, `io_uring` or `epoll`.
    pub name: &'static str,
    /// Why it stepped down.
    pub fell_back: Option<String>,
}

/// Builds a runtime on this thread, stepping down from the best ring to plain io_uring to epoll.
///
/// # Errors
/// `io_uring` was asked for and the kernel or its policy refuses, or epoll failed.
pub fn build_runtime(choice: Io) -> io::Result<(WorkerRuntime, Driver)> {
    ready::forget();
    timer::forget();
    let mut fell_back = None;
    if choice != Io::Epoll {
        match build_uring() {
            Ok(built) => return Ok(built),
            Err(error) if choice == Io::Uring => {
                let mend = "use --io auto or --io epoll, or allow io_uring in this container";
                return Err(io::Error::other(format!(
                    "io_uring is not available ({error}); {mend}"
                )));
            }
            Err(error) => fell_back = Some(format!("io_uring: {error}")),
        }
    }
    let runtime = RuntimeBuilder::<LegacyDriver>::new().build()?;
    Ok((runtime.into(), Driver { name: "epoll", fell_back }))
}

fn build_uring() -> io::Result<(WorkerRuntime, Driver)> {
    let with = |builder: io_uring::Builder| {
        RuntimeBuilder::<IoUringDriver>::new()
            .with_entries(RING_ENTRIES)
            .uring_builder(builder)
            .build()
    };
    let mut best = io_uring::IoUring::builder();
    // Completions are handled when the loop asks for them, not by interrupting it.
    best.setup_single_issuer().setup_defer_taskrun();
    match with(best) {
        Ok(runtime) => {
            let name = "io_uring (single issuer, deferred)";
            Ok((runtime.into(), Driver { name, fell_back: None }))
        }
        Err(refused) => {
            let runtime = with(io_uring::IoUring::builder())?;
            let fell_back = Some(format!("single issuer, deferred: {refused}"));
            Ok((runtime.into(), Driver { name: "io_uring", fell_back }))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a test on both drivers, as often on the same thread: what is the thread's must not take
    /// one runtime for another.
    pub(crate) fn on_both<F: Future>(times: usize, test: impl Fn() -> F + Copy + Send + 'static) {
        for io in [Io::Uring, Io::Epoll] {
            let thread = std::thread::spawn(move || {
                for _ in 0..times {
                    match build_runtime(io) {
                        Ok((mut runtime, _)) => drop(runtime.block_on(test())),
                        Err(error) => {
                            assert_eq!(io, Io::Uring, "{error}");
                            eprintln!("io_uring is not available here: {error}");
                        }
                    }
                }
            });
            thread.join().expect("no panic but a wanted one");
        }
    }
}
