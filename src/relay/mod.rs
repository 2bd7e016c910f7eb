//! The data path: one downstream connection, its exchanges, and the pump between two sockets.
//!
//! All of it runs on one core, in one task per connection; [`Core`] is what that core's tasks
//! share.

pub mod answer;
pub mod ask;
mod attempt;
mod body;
mod collect;
pub mod connection;
pub mod exchange;
pub mod inbox;
pub mod pump;
pub mod record;
pub mod resume;
pub mod routing;
pub mod task;
mod whole;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use slab::Slab;

use crate::config::plan::{ExchangePlan, UpstreamPlan};
use crate::flow::deadlines::Deadlines;
use crate::flow::replay::Shelf;
use crate::flow::stream::Marks;
use crate::net::tls::turns::Turns;
use crate::relay::record::Live;
use crate::relay::resume::{Resume, ResumeParts};
use crate::relay::routing::{RouteParts, RouteState};
use crate::route::matching::Router;
use crate::telemetry::log::AccessLog;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::streams::StreamInfo;
use crate::upstream::group::{EndpointParts, Group};
use crate::upstream::pool::Dropped;

/// Connections and kept streams that make a rush: of fewer little is left behind.
const RUSH_MIN: usize = 512;
/// Looks, two seconds apart, in which its memory comes back.
const RUSH_LOOKS: u8 = 4;

/// How far the core's shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serving.
    Serving,
    /// No new connections; what runs may finish.
    Draining,
    /// The grace is over: what still runs is ended.
    Ending,
}

/// What the tasks of one core share. Never crosses threads.
pub struct Core {
    /// The worker's number, from 0.
    pub worker: usize,
    /// How connections are served, and exchanges where no route says otherwise.
    pub plan: ExchangePlan,
    /// Which route a request takes.
    pub router: Router,
    /// The routes, by their numbers.
    pub routes: Vec<Rc<RouteState>>,
    /// Where they go.
    pub groups: Vec<Group>,
    /// Streams that are kept for clients that come back, where any route does that.
    pub resume: Option<Resume>,
    /// Handshakes, one after the other.
    pub turns: Turns,
    /// When a client's failed handshake was told last.
    handshake_told: Cell<Option<Instant>>,
    /// This worker's counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Where access lines go.
    pub access: AccessLog,
    /// Streams this core may carry at once.
    pub streams_max: usize,
    streams: Cell<usize>,
    stage: Cell<Stage>,
    connections: RefCell<Slab<Connected>>,
    deadlines: RefCell<Deadlines>,
    /// The task that sleeps until the first deadline, and until when it does.
    keeper: RefCell<Option<Waker>>,
    kept_until: Cell<Option<Instant>>,
    /// The most that went on at a sweep since a rush was over last.
    busiest: Cell<usize>,
    /// Sweeps that still give back all there is.
    collects: Cell<u8>,
    /// The core's own tasks that wait for the shutdown to go on.
    watchers: RefCell<Vec<Waker>>,
}

/// A live connection, so that it can be woken and shown.
struct Connected {
    waker: Option<Waker>,
    /// When it asked to be woken.
    deadline: Option<Instant>,
    live: Option<Rc<Live>>,
}

/// What a core is made of; see the fields of [`Core`].
pub struct CoreParts {
    /// The worker's number.
    pub worker: usize,
    /// How connections are served.
    pub plan: ExchangePlan,
    /// The routes.
    pub routes: Vec<RouteParts>,
    /// Where they go: each group's plan, and its endpoints.
    pub groups: Vec<(UpstreamPlan, Vec<EndpointParts>)>,
    /// What keeping streams takes, where any route does that.
    pub resume: Option<ResumeParts>,
    /// The worker's counters.
    pub metrics: Arc<WorkerMetrics>,
    /// Where access lines go.
    pub access: AccessLog,
    /// Streams this core may carry at once.
    pub streams_max: usize,
}

impl Core {
    /// A core that serves.
    pub fn new(parts: CoreParts) -> Rc<Self> {
        let matchings = parts.routes.iter().map(|parts| parts.route.matching.clone());
        let router = Router::new(matchings);
        let route = |(number, parts)| Rc::new(RouteState::new(number, parts));
        Rc::new(Self {
            worker: parts.worker,
            plan: parts.plan,
            router,
            routes: parts.routes.into_iter().enumerate().map(route).collect(),
            groups: parts.groups.into_iter().map(|(plan, parts)| Group::new(plan, parts)).collect(),
            resume: parts.resume.map(|resume| Resume::new(parts.worker, resume)),
            turns: Turns::default(),
            handshake_told: Cell::new(None),
            metrics: parts.metrics,
            access: parts.access,
            streams_max: parts.streams_max,
            streams: Cell::new(0),
            stage: Cell::new(Stage::Serving),
            connections: RefCell::default(),
            deadlines: RefCell::default(),
            keeper: RefCell::default(),
            kept_until: Cell::new(None),
            busiest: Cell::new(0),
            collects: Cell::new(0),
            watchers: RefCell::default(),
        })
    }

    /// How far the shutdown has come.
    pub fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Goes on to `stage`, and wakes every connection so that it sees it.
    pub fn advance(&self, stage: Stage) {
        if stage <= self.stage.get() {
            return;
        }
        self.stage.set(stage);
        self.groups.iter().for_each(Group::clear);
        self.note_pool(Dropped::default());
        for (_, connected) in self.connections.borrow().iter() {
            if let Some(waker) = &connected.waker {
                waker.wake_by_ref();
            }
        }
        self.wake_watchers();
    }

    /// Wakes the task of `waker` at each further stage, and when a shutdown has seen the last
    /// connection go.
    pub fn watch(&self, waker: &Waker) {
        let mut watchers = self.watchers.borrow_mut();
        if !watchers.iter().any(|known| known.will_wake(waker)) {
            watchers.push(waker.clone());
        }
    }

    fn wake_watchers(&self) {
        self.watchers.borrow().iter().for_each(Waker::wake_by_ref);
    }

    /// When the next connection is to be woken. The task of `waker` is woken when that becomes
    /// earlier.
    pub fn keep_time(&self, waker: &Waker) -> Option<Instant> {
        self.keeper.borrow_mut().get_or_insert_with(|| waker.clone()).clone_from(waker);
        let first = self.deadlines.borrow().first();
        self.kept_until.set(first);
        first
    }

    /// Wakes the connections whose deadline is over.
    pub fn wake_due(&self, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        while let Some(key) = self.deadlines.borrow_mut().take_due(now) {
            if let Some(connected) = connections.get_mut(key) {
                connected.deadline = None;
                connected.waker.as_ref().inspect(|waker| waker.wake_by_ref());
            }
        }
    }

    fn note_deadline(&self, key: usize, before: Option<Instant>, at: Instant) {
        let first = self.deadlines.borrow_mut().set(key, before, at);
        if first && self.kept_until.get().is_none_or(|until| at < until) {
            self.kept_until.set(Some(at));
            self.keeper.borrow().as_ref().inspect(|keeper| keeper.wake_by_ref());
        }
    }

    /// Live connections.
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Looks after the pools of connections and of blocks; to be called now and then.
    pub fn sweep(&self, now: Instant) {
        for group in &self.groups {
            self.note_pool(group.sweep(now));
        }
        if let Some(resume) = &self.resume {
            resume.sweep(now, &self.metrics);
        }
        let over = self.rush_is_over();
        if over {
            self.connections.borrow_mut().shrink_to_fit();
            crate::net::ready::trim();
        }
        crate::buf::trim(over);
        let usage = crate::buf::pool_usage();
        self.metrics.buffers_in_use.set(usage.blocks as i64);
        self.metrics.buffered_bytes.set(usage.bytes as i64);
    }

    /// Whether much less goes on than did a while ago; for a few looks, since memory comes back in
    /// steps.
    fn rush_is_over(&self) -> bool {
        let kept = self.resume.as_ref().map_or(0, Resume::streams);
        let now = self.connections() + kept;
        let busiest = self.busiest.get().max(now);
        self.busiest.set(busiest);
        if busiest >= RUSH_MIN && now <= busiest / 8 {
            self.busiest.set(now);
            self.collects.set(RUSH_LOOKS);
        }
        let left = self.collects.get();
        self.collects.set(left.saturating_sub(1));
        left > 0
    }

    fn note_pool(&self, dropped: Dropped) {
        self.metrics.pool_dead.add(dropped.dead);
        self.metrics.pool_expired.add(dropped.expired);
        let idle: usize = self.groups.iter().map(Group::idle).sum();
        self.metrics.pool_idle.set(idle as i64);
    }

    /// What is live now.
    pub fn snapshot(&self, now: Instant) -> Vec<StreamInfo> {
        let connections = self.connections.borrow();
        let live = connections.iter().filter_map(|(_, connected)| connected.live.as_ref());
        live.map(|live| live.info(now)).collect()
    }

    /// Registers a connection for as long as the guard lives.
    fn register(self: &Rc<Self>) -> Registration {
        self.metrics.connections_active.add(1);
        self.register_as(true)
    }

    /// Registers what is no connection, but is woken and waited for like one.
    fn register_silently(self: &Rc<Self>) -> Registration {
        self.register_as(false)
    }

    fn register_as(self: &Rc<Self>, counted: bool) -> Registration {
        let key = self.connections.borrow_mut().insert(Connected {
            waker: None,
            deadline: None,
            live: None,
        });
        // A core has far fewer than 2^32 connections.
        let key = key as u32;
        Registration { core: Rc::clone(self), key, noted: Cell::new(None), counted }
    }

    /// Lends the shelf of kept streams, where any route keeps some.
    fn with_shelf<R>(&self, act: impl FnOnce(&mut Shelf) -> R) -> Option<R> {
        self.resume.as_ref().map(|resume| act(&mut resume.shelf.borrow_mut()))
    }

    /// The marks of every stream.
    fn marks(&self) -> Marks {
        let plan = &self.plan;
        Marks {
            high: plan.high_water_mark,
            low: plan.low_water_mark,
            frame_max: plan.frame_bytes_max,
        }
    }

    /// Takes a place for one exchange; false if the core is full.
    fn admit(&self) -> bool {
        let room = self.streams.get() < self.streams_max;
        if room {
            self.streams.set(self.streams.get() + 1);
            self.metrics.streams_active.add(1);
        }
        room
    }

    fn dismiss(&self) {
        self.streams.set(self.streams.get() - 1);
        self.metrics.streams_active.sub(1);
    }
}

/// A connection's entry in its core.
pub struct Registration {
    core: Rc<Core>,
    key: u32,
    /// Its deadline as the core knows it, or as it knew it until it was over.
    noted: Cell<Option<Instant>>,
    /// It is a connection.
    counted: bool,
}

impl Registration {
    fn key(&self) -> usize {
        self.key as usize
    }

    /// Says which task to wake.
    pub fn set_waker(&self, waker: &Waker) {
        if let Some(connected) = self.core.connections.borrow_mut().get_mut(self.key()) {
            connected.waker = Some(waker.clone());
        }
    }

    /// Ready once `deadline` is over at `now`; until then the connection's task is woken for it. A
    /// deadline that moves on costs nothing until the old one comes, one that moves back is noted
    /// anew.
    pub fn poll_deadline(&self, deadline: Option<Instant>, now: Instant) -> Poll<()> {
        let Some(at) = deadline else { return Poll::Pending };
        if at <= now {
            return Poll::Ready(());
        }
        if !self.noted.get().is_some_and(|noted| now < noted && noted <= at) {
            let mut connections = self.core.connections.borrow_mut();
            if let Some(connected) = connections.get_mut(self.key()) {
                let before = connected.deadline.replace(at);
                self.core.note_deadline(self.key(), before, at);
                self.noted.set(Some(at));
            }
        }
        Poll::Pending
    }

    /// Whether the deadline noted last is still to come.
    #[inline]
    pub fn is_early(&self, now: Instant) -> bool {
        self.noted.get().is_none_or(|noted| now < noted)
    }

    fn set_live(&self, live: Option<Rc<Live>>) {
        if let Some(connected) = self.core.connections.borrow_mut().get_mut(self.key()) {
            connected.live = live;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let connected = self.core.connections.borrow_mut().try_remove(self.key());
        if let Some(at) = connected.and_then(|connected| connected.deadline) {
            self.core.deadlines.borrow_mut().clear(self.key(), at);
        }
        if self.counted {
            self.core.metrics.connections_active.sub(1);
        }
        if self.core.stage() != Stage::Serving && self.core.connections() == 0 {
            self.core.wake_watchers();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::cli::{Cli, Command};
    use crate::config::plan::Plan;
    use crate::net::resolver::Resolved;

    /// A core whose upstream nobody listens on, for `streams_max` streams.
    pub(crate) fn unattached(streams_max: usize) -> Rc<Core> {
        let words = ["millstream", "serve", "--upstream", "http://127.0.0.1:1", "--retries", "0"];
        let cli = Cli::try_parse_from(words).expect("parses");
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        let plan = Plan::from_args(&args, 20_000, 1).expect("valid");
        Core::new(CoreParts {
            worker: 0,
            routes: RouteParts::of(&plan),
            groups: plan
                .upstreams
                .iter()
                .map(|group| {
                    let resolved = |endpoint| EndpointParts {
                        addresses: Resolved::start(endpoint),
                        tls: None,
                    };
                    (group.clone(), group.endpoints.iter().map(resolved).collect())
                })
                .collect(),
            plan: plan.exchange,
            resume: None,
            metrics: Arc::new(WorkerMetrics::new()),
            access: AccessLog::off().0,
            streams_max,
        })
    }
}
