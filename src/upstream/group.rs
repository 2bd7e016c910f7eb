//! Upstream groups of one core: endpoints that serve the same, each with its own pool.
//!
//! What two connections differ by (address, TLS, name) makes two endpoints, so a pool never mixes
//! them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::connect::Trusted;
use super::pool::{Dropped, Pool};
use crate::balance::select::{Load, select};
use crate::config::plan::{Endpoint, UpstreamPlan};
use crate::limits::ENDPOINT_RESTS;
use crate::net::resolver::Resolved;
use crate::net::tls::config::UpstreamTls;

/// What is shared by all cores of one endpoint.
#[derive(Clone, Debug)]
pub struct EndpointParts {
    /// Its addresses.
    pub addresses: Resolved,
    /// How it is secured.
    pub tls: Option<Arc<UpstreamTls>>,
}

/// One endpoint, as one core uses it.
#[derive(Debug)]
pub struct Upstream {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its addresses.
    pub addresses: Resolved,
    /// The one of them that answered lately.
    pub trusted: Trusted,
    /// How it is secured.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Its idle connections.
    pub pool: Pool,
    in_flight: Cell<u32>,
    rests_until: Cell<Option<Instant>>,
}

impl Upstream {
    /// It could not be reached: others go first for a while.
    pub fn rest(&self, now: Instant) {
        self.rests_until.set(Some(now + ENDPOINT_RESTS));
    }

    /// It was reached.
    pub fn works(&self) {
        self.rests_until.set(None);
    }

    fn load(&self, now: Instant) -> Load {
        let rests = self.rests_until.get().is_some_and(|until| now < until);
        Load { in_flight: self.in_flight.get(), rests }
    }
}

/// An endpoint while an exchange uses it.
#[derive(Debug)]
pub struct InUse(Rc<Upstream>);

impl InUse {
    fn new(upstream: &Rc<Upstream>) -> Self {
        upstream.in_flight.set(upstream.in_flight.get() + 1);
        Self(Rc::clone(upstream))
    }

    /// The endpoint.
    pub fn upstream(&self) -> &Rc<Upstream> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Group {
    /// Its plan.
    pub plan: UpstreamPlan,
    upstreams: Vec<Rc<Upstream>>,
    turn: Cell<usize>,
}

impl Group {
    /// A group of what its plan names.
    pub fn new(plan: UpstreamPlan, parts: Vec<EndpointParts>) -> Self {
        let upstream = |(endpoint, parts): (&Endpoint, EndpointParts)| {
            Rc::new(Upstream {
                endpoint: endpoint.clone(),
                addresses: parts.addresses,
                trusted: Trusted::default(),
                tls: parts.tls,
                pool: Pool::new(plan.pool.idle_max, plan.pool.idle_timeout),
                in_flight: Cell::new(0),
                rests_until: Cell::new(None),
            })
        };
        let upstreams = plan.endpoints.iter().zip(parts).map(upstream).collect();
        Self { plan, upstreams, turn: Cell::new(0) }
    }

    /// The endpoint for an exchange that has tried those of `tried` (bit n), with its number.
    /// `None` for a group without any.
    pub fn choose(&self, tried: u64, now: Instant) -> Option<(usize, InUse)> {
        let n = match self.upstreams.as_slice() {
            [_] => 0,
            upstreams => {
                let turn = self.turn.replace(self.turn.get().wrapping_add(1));
                select(upstreams.iter().map(|upstream| upstream.load(now)), tried, turn)
            }
        };
        Some((n, InUse::new(self.upstreams.get(n)?)))
    }

    /// Whether there are endpoints that are not among `tried`.
    pub fn has_others(&self, tried: u64) -> bool {
        (tried.count_ones() as usize) < self.upstreams.len()
    }

    /// Idle connections of all endpoints.
    pub fn idle(&self) -> usize {
        self.upstreams.iter().map(|upstream| upstream.pool.len()).sum()
    }

    /// Drops what has died or expired.
    pub fn sweep(&self, now: Instant) -> Dropped {
        let mut all = Dropped::default();
        for upstream in &self.upstreams {
            let dropped = upstream.pool.sweep(now);
            all.dead += dropped.dead;
            all.expired += dropped.expired;
        }
        all
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        self.upstreams.iter().for_each(|upstream| upstream.pool.clear());
    }
}
