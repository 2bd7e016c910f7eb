//! One core's thread: its runtime, its listeners, its pool, its streams.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::plan::Io;
use crate::net::listener::{self, Accepted};
use crate::net::ready::{self, Watched};
use crate::net::runtime::{Driver, build_runtime};
use crate::net::stream::Transport;
use crate::net::table;
use crate::net::timer;
use crate::net::tls::config::DownstreamTls;
use crate::net::wait::poll_deadline;
use crate::relay::resume::handover::{self, Neighbours};
use crate::relay::task::spawn_caught;
use crate::relay::{Core, CoreParts, Stage, connection};
use crate::telemetry::streams::StreamInfo;

/// Time between two looks at the pool.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Wait after accept ran out of descriptors.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);
/// Time between two log lines about it.
const EXHAUSTED_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Connections accepted before the streams have their turn.
const ACCEPTS_PER_TURN: u32 = 64;

/// What the main thread tells a worker, as one byte on its control socket.
pub mod command {
    /// Stop accepting, let streams finish.
    pub const DRAIN: u8 = b'D';
    /// End what still runs.
    pub const END: u8 = b'E';
    /// Send a snapshot of the live streams.
    pub const SNAPSHOT: u8 = b'S';
}

/// What a worker is made of.
pub struct WorkerParts {
    /// What its core is made of.
    pub core: CoreParts,
    /// Its own listeners, and how their connections are secured.
    pub listeners: Vec<(TcpListener, Option<Arc<DownstreamTls>>)>,
    /// Which driver.
    pub io: Io,
    /// The CPU to stay on.
    pub cpu: Option<usize>,
    /// Its end of the control socket.
    pub control: UnixStream,
    /// Where snapshots go.
    pub snapshots: SyncSender<Vec<StreamInfo>>,
    /// Told once.
    pub started: SyncSender<Started>,
}

/// How a worker started.
pub struct Started {
    /// What it was given is closed here by [`table::close_given`]: it has copies of its own.
    pub own_table: bool,
    /// The driver in use, or why the worker could not start.
    pub driver: io::Result<Driver>,
}

impl WorkerParts {
    /// The descriptors it is given.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let listeners = self.listeners.iter().map(|(listener, _)| listener.as_raw_fd());
        let neighbours = self.core.resume.iter().flat_map(|resume| resume.neighbours.iter());
        let neighbours = neighbours.flat_map(Neighbours::descriptors);
        listeners.chain([self.control.as_raw_fd()]).chain(neighbours)
    }
}

/// Runs a worker on this thread until it is drained.
pub fn run(parts: WorkerParts) {
    let own_table = table::own(&parts.descriptors().collect::<Vec<_>>());
    let WorkerParts { core, listeners, io, cpu, control, snapshots, started } = parts;
    if let Some(cpu) = cpu
        && let Err(error) = monoio::utils::bind_to_cpu_set([cpu])
    {
        log::warn!("worker {}: cannot be pinned to cpu {cpu}: {error:?}", core.worker);
    }
    let (mut runtime, driver) = match build_runtime(io) {
        Ok(built) => built,
        Err(error) => {
            let _ = started.send(Started { own_table, driver: Err(error) });
            return;
        }
    };
    let _ = started.send(Started { own_table, driver: Ok(driver) });
    drop(started);
    let core = Core::new(core);
    runtime.block_on(async move {
        for (listener, tls) in listeners {
            monoio::spawn(accept(Rc::clone(&core), listener, tls));
        }
        monoio::spawn(handover::take_over(Rc::clone(&core)));
        monoio::spawn(keep_time(Rc::clone(&core)));
        monoio::spawn(sweep(Rc::clone(&core)));
        control_loop(&core, control, &snapshots).await;
    });
}

/// Obeys the main thread; returns when the worker has drained.
async fn control_loop(
    core: &Rc<Core>,
    control: UnixStream,
    snapshots: &SyncSender<Vec<StreamInfo>>,
) {
    let _ = control.set_nonblocking(true);
    let Ok(control) = Watched::new(control.into()) else {
        return;
    };
    loop {
        let mut bytes = [0; 16];
        match rustix::io::read(&control, &mut bytes) {
            Ok(0) => core.advance(Stage::Ending),
            Ok(n) => {
                for command in &bytes[..n] {
                    match *command {
                        command::DRAIN => core.advance(Stage::Draining),
                        command::END => core.advance(Stage::Ending),
                        command::SNAPSHOT => {
                            let _ = snapshots.try_send(core.snapshot(clock::now()));
                        }
                        _ => {}
                    }
                }
            }
            Err(_) => control.drained(),
        }
        let over = poll_fn(|cx| {
            core.watch(cx.waker());
            if core.stage() != Stage::Serving && core.connections() == 0 {
                return Poll::Ready(true);
            }
            control.poll_readable(cx).map(|()| false)
        });
        if over.await {
            return;
        }
    }
}

/// Wakes connections at their deadlines: one timer for all of them.
async fn keep_time(core: Rc<Core>) {
    let mut timer = pin!(None);
    loop {
        poll_fn(|cx| poll_deadline(timer.as_mut(), core.keep_time(cx.waker()), cx)).await;
        core.wake_due(clock::now());
    }
}

async fn sweep(core: Rc<Core>) {
    while core.stage() == Stage::Serving {
        timer::sleep(SWEEP_EVERY).await;
        core.sweep(clock::now());
    }
}

/// Accepts until the drain begins.
async fn accept(core: Rc<Core>, listener: TcpListener, tls: Option<Arc<DownstreamTls>>) {
    let listener = match Watched::new(listener.into()) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("worker {}: the listener cannot be watched: {error}", core.worker);
            return;
        }
    };
    let mut told = None;
    loop {
        // What is in the backlog when the drain begins is still accepted and answered.
        poll_fn(|cx| {
            core.watch(cx.waker());
            let stirred = listener.poll_readable(cx).is_ready();
            if stirred || core.stage() != Stage::Serving {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        let mut accepted = 0;
        while accepted < ACCEPTS_PER_TURN {
            accepted += 1;
            match listener::accept(&listener) {
                Accepted::Connection(stream, peer) => {
                    core.metrics.connections_accepted.inc();
                    spawn_connection(&core, stream, peer, tls.as_deref());
                }
                Accepted::Nothing => {
                    listener.drained();
                    break;
                }
                Accepted::Aborted => core.metrics.accept_errors.inc(),
                Accepted::Exhausted(error) => {
                    core.metrics.accept_errors.inc();
                    if told.is_none_or(|told: Instant| told.elapsed() >= EXHAUSTED_TOLD_EVERY) {
                        told = Some(clock::now());
                        log::warn!(
                            "accept: {error}; raise the descriptor limit or lower --max-streams"
                        );
                    }
                    timer::sleep(EXHAUSTED_WAIT).await;
                    break;
                }
                Accepted::Failed(error) => {
                    core.metrics.accept_errors.inc();
                    log::error!("accept: {error}");
                    timer::sleep(EXHAUSTED_WAIT).await;
                    break;
                }
            }
        }
        if core.stage() != Stage::Serving {
            return;
        }
        if accepted == ACCEPTS_PER_TURN {
            ready::give_way().await;
        }
    }
}

fn spawn_connection(
    core: &Rc<Core>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: Option<&DownstreamTls>,
) {
    let transport = match Transport::from_std(stream) {
        Ok(transport) => transport,
        Err(error) => {
            core.metrics.accept_errors.inc();
            log::warn!("a connection could not be registered: {error}");
            return;
        }
    };
    let transport = match tls.map(DownstreamTls::session) {
        None => transport,
        Some(Ok(session)) => transport.secure(session),
        Some(Err(error)) => {
            core.metrics.accept_errors.inc();
            log::error!("a TLS connection cannot be begun: {error}");
            return;
        }
    };
    spawn_caught(core, connection::serve(Rc::clone(core), transport, peer));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::net::runtime::tests::on_both;
    use crate::relay::tests::unattached;

    /// Notes that it was dropped.
    struct Held(Rc<Cell<bool>>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    async fn panic_ends_one_task_alone() {
        let core = unattached(10);
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (stream, peer) = listener.accept().expect("accepts");
        stream.set_nonblocking(true).expect("sets");
        spawn_connection(&core, stream, peer, None);
        let released = Rc::new(Cell::new(false));
        let held = Held(Rc::clone(&released));
        spawn_caught(&core, async move {
            timer::sleep(Duration::from_millis(1)).await;
            let _held = held;
            panic!("a fault, as this test wants it");
        });
        while core.metrics.panics.get() == 0 {
            timer::sleep(Duration::from_millis(1)).await;
        }
        assert!(released.get(), "what the task held is released");
        assert_eq!((core.metrics.panics.get(), core.connections()), (1, 1));
        let asking = std::thread::spawn(move || {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            client.read_to_string(&mut answer).map(|_| answer)
        });
        while core.connections() > 0 {
            timer::sleep(Duration::from_millis(1)).await;
        }
        let answer = asking.join().expect("no panic").expect("the neighbour is served");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }

    #[test]
    fn a_panic_ends_its_own_connection_and_no_other() {
        on_both(1, async || {
            let test = panic_ends_one_task_alone();
            timer::timeout(Duration::from_secs(10), test).await.expect("ends");
        });
    }
}
