//! Names to addresses, off the cores: one thread looks names up; workers only read the last good
//! answer.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::plan::Endpoint;
use crate::limits::RESOLVED_KEPT;

/// Time between two look-ups of a name.
const REFRESH: Duration = Duration::from_secs(30);
/// Time between two look-ups while there is no answer.
const RETRY: Duration = Duration::from_secs(1);
/// Time the start-up waits for the first answer.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// The addresses of one name, kept fresh. A failing refresh keeps the last good set for
/// [`RESOLVED_KEPT`].
#[derive(Clone, Debug)]
pub struct Resolved {
    shared: Arc<Mutex<Answers>>,
}

/// What the look-ups of one name have brought.
#[derive(Debug)]
struct Answers {
    addresses: Vec<SocketAddr>,
    /// When they were last confirmed; never for addresses that were given.
    confirmed: Option<Instant>,
    /// Why the last look-up failed, if it did.
    failure: Option<String>,
    /// The failure has lasted for so long that the addresses are no longer used.
    lapsed: bool,
}

/// What a look-up changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Nothing worth a word.
    None,
    /// It fails now, and did not before.
    Fails,
    /// It has failed for so long that the addresses it had are no longer used.
    Lapsed,
    /// It works again.
    Works,
}

impl Answers {
    /// Addresses that need no look-up, or none yet.
    fn of(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses, confirmed: None, failure: None, lapsed: false }
    }

    fn take(&mut self, now: Instant, answer: Result<Vec<SocketAddr>, String>) -> Change {
        let failed = self.failure.is_some();
        match answer {
            Ok(addresses) => {
                (self.addresses, self.confirmed) = (addresses, Some(now));
                (self.failure, self.lapsed) = (None, false);
                if failed { Change::Works } else { Change::None }
            }
            Err(why) => {
                self.failure = Some(why);
                let lapses = !self.lapsed && self.is_old(now);
                self.lapsed |= lapses;
                match (lapses, failed) {
                    (true, _) => Change::Lapsed,
                    (false, true) => Change::None,
                    (false, false) => Change::Fails,
                }
            }
        }
    }

    fn is_old(&self, now: Instant) -> bool {
        self.confirmed.is_some_and(|at| now.duration_since(at) > RESOLVED_KEPT)
    }

    fn current(&self, now: Instant) -> Result<Vec<SocketAddr>, String> {
        match &self.failure {
            Some(why) if self.is_old(now) || self.addresses.is_empty() => Err(why.clone()),
            _ if self.addresses.is_empty() => Err("no answer has come yet".to_owned()),
            _ => Ok(self.addresses.clone()),
        }
    }
}

impl Resolved {
    /// The addresses of an endpoint: those given, or its name's, looked up now (for a bounded
    /// time; before the workers start) and kept fresh by a thread of its own.
    pub fn start(endpoint: &Endpoint) -> Self {
        let (host, port) = (endpoint.host.as_str(), endpoint.port);
        if !endpoint.addresses.is_empty() {
            return Self::fixed(endpoint.addresses.iter().map(|ip| SocketAddr::new(*ip, port)));
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Self::fixed([SocketAddr::new(ip, port)]);
        }
        let name = host.to_owned();
        Self::kept_fresh(host, FIRST_WAIT, move || look_up(&name, port))
    }

    /// The addresses that `look_up` brings, again and again, on a thread of its own; `wait` is how
    /// long its first answer is waited for here.
    fn kept_fresh(
        name: &str,
        wait: Duration,
        mut look_up: impl FnMut() -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Self {
        let resolved = Self { shared: Arc::new(Mutex::new(Answers::of(Vec::new()))) };
        let (weak, name) = (Arc::downgrade(&resolved.shared), name.to_owned());
        let (first, answered) = sync_channel(1);
        let spawned = std::thread::Builder::new().name("resolver".into()).spawn(move || {
            let mut first = Some(first);
            while let Some(wait) = refresh(&weak, &name, &mut look_up) {
                if let Some(first) = first.take() {
                    let _ = first.try_send(());
                }
                std::thread::sleep(wait);
            }
        });
        match spawned {
            Ok(_) => drop(answered.recv_timeout(wait)),
            Err(error) => log::error!("no thread to resolve names on: {error}"),
        }
        resolved
    }

    fn fixed(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { shared: Arc::new(Mutex::new(Answers::of(interleaved(addresses)))) }
    }

    /// The addresses known now, in the order to try them in. Never waits for a look-up.
    ///
    /// # Errors
    /// The name does not resolve: why.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        let answers = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        answers.current(clock::now())
    }
}

/// Looks `name` up once; says when to do it again, or that nobody wants it any more.
fn refresh(
    shared: &Weak<Mutex<Answers>>,
    name: &str,
    look_up: &mut impl FnMut() -> io::Result<Vec<SocketAddr>>,
) -> Option<Duration> {
    shared.upgrade()?;
    // Nobody holds the lock for as long as this takes.
    let answer = look_up().map_err(|error| error.to_string());
    let (shared, now) = (shared.upgrade()?, clock::now());
    let mut answers = shared.lock().unwrap_or_else(PoisonError::into_inner);
    let change = answers.take(now, answer);
    let failure = answers.failure.clone().unwrap_or_default();
    let known = answers.current(now).is_ok();
    drop(answers);
    match change {
        Change::Fails if known => {
            log::warn!(
                "name {name:?} does not resolve any more, its addresses are kept: {failure}"
            );
        }
        Change::Fails => log::warn!("name {name:?} does not resolve: {failure}"),
        Change::Lapsed => log::error!(
            "name {name:?} has not resolved for {RESOLVED_KEPT:?}, its addresses are not used any \
             more: {failure}"
        ),
        Change::Works => log::info!("name {name:?} resolves again"),
        Change::None => {}
    }
    Some(if known { REFRESH } else { RETRY })
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses = interleaved((host, port).to_socket_addrs()?);
    if addresses.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    Ok(addresses)
}

/// The addresses, each once, with the families taking turns, so that a broken family costs one
/// attempt (RFC 8305, section 4). The system has sorted them already (RFC 6724).
fn interleaved(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let Some(first) = unique.first().map(SocketAddr::is_ipv6) else { return unique };
    let (same, other): (Vec<_>, Vec<_>) = unique.into_iter().partition(|a| a.is_ipv6() == first);
    let longest = same.len().max(other.len());
    (0..longest).flat_map(|n| [same.get(n), other.get(n)]).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn families_take_turns_and_doubles_go() {
        let sorted = addresses(&[
            "[2001:db8::1]:1",
            "[2001:db8::2]:1",
            "[2001:db8::1]:1",
            "[2001:db8::3]:1",
            "192.0.2.1:1",
            "192.0.2.2:1",
        ]);
        let wanted = addresses(&[
            "[2001:db8::1]:1",
            "192.0.2.1:1",
            "[2001:db8::2]:1",
            "192.0.2.2:1",
            "[2001:db8::3]:1",
        ]);
        assert_eq!(interleaved(sorted), wanted);
        assert_eq!(interleaved(addresses(&["192.0.2.1:1"])), addresses(&["192.0.2.1:1"]));
        assert!(interleaved([]).is_empty());
    }

    #[test]
    fn a_failing_refresh_keeps_the_last_good_set_for_a_while() {
        let start = clock::now();
        let mut answers = Answers::of(Vec::new());
        assert!(answers.current(start).is_err());
        let (one, two) = (addresses(&["192.0.2.1:1"]), addresses(&["192.0.2.2:1"]));
        assert_eq!(answers.take(start, Ok(one.clone())), Change::None);
        assert_eq!(answers.take(start, Err("no server".into())), Change::Fails);
        assert_eq!(answers.take(start, Err("still none".into())), Change::None, "told once");
        assert_eq!(answers.current(start + RESOLVED_KEPT), Ok(one));
        let later = start + RESOLVED_KEPT + Duration::from_secs(1);
        assert_eq!(answers.current(later), Err("still none".into()));
        assert_eq!(answers.take(later, Err("never again".into())), Change::Lapsed);
        assert_eq!(answers.take(later, Err("never again".into())), Change::None, "told once");
        assert_eq!(answers.take(later, Ok(two.clone())), Change::Works);
        assert_eq!(answers.current(later), Ok(two));
    }
    #[test]
    fn a_look_up_that_hangs_holds_nobody_up() {
        let (answer, answers) = sync_channel::<io::Result<Vec<SocketAddr>>>(0);
        let hangs = move || answers.recv().unwrap_or_else(|_| Err(io::Error::other("over")));
        let resolved = Resolved::kept_fresh("llm.test", Duration::ZERO, hangs);
        // The thread is in its first look-up, or will be; none of these waits for it.
        for _ in 0..1000 {
            assert_eq!(resolved.addresses(), Err("no answer has come yet".into()));
        }
        let one = addresses(&["192.0.2.1:1"]);
        answer.send(Ok(one.clone())).expect("it asks");
        let deadline = clock::now() + Duration::from_secs(10);
        while resolved.addresses().is_err() {
            assert!(clock::now() < deadline, "the answer never shows");
            std::thread::yield_now();
        }
        assert_eq!(resolved.addresses(), Ok(one));
    }

    #[test]
    fn a_name_that_nobody_wants_is_not_looked_up_again() {
        let mut looks = 0;
        let mut look = || {
            looks += 1;
            Ok(addresses(&["192.0.2.1:1"]))
        };
        let shared = Arc::new(Mutex::new(Answers::of(Vec::new())));
        let weak = Arc::downgrade(&shared);
        assert_eq!(refresh(&weak, "llm.test", &mut look), Some(REFRESH));
        drop(shared);
        assert_eq!(refresh(&weak, "llm.test", &mut look), None);
        assert_eq!(looks, 1);
        let shared = Arc::new(Mutex::new(Answers::of(Vec::new())));
        let mut fails = || Err(io::Error::other("no server"));
        assert_eq!(refresh(&Arc::downgrade(&shared), "llm.test", &mut fails), Some(RETRY));
    }
}
