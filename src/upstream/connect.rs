//! Making one upstream connection: to whichever address answers first, then TLS on it.

use std::cell::Cell;
use std::fmt::Write as _;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{Failure, Phase, Retryable};
use crate::limits::{ADDRESS_STAGGER, ADDRESS_TRUSTED};
use crate::net::stream::{self, Transport};
use crate::net::timer::{self, Sleep};
use crate::net::tls::TlsError;
use crate::net::tls::config::UpstreamTls;
use crate::net::tls::turns::Turns;
use crate::outcome::Outcome;

/// What is connected to.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Its name, for messages.
    pub authority: &'a str,
    /// Where it is, in the order to try.
    pub addresses: &'a [SocketAddr],
    /// The address that answered lately.
    pub trusted: &'a Trusted,
    /// How it is spoken to, where that is TLS, and whose turn it is.
    pub tls: Option<(&'a UpstreamTls, &'a Turns)>,
}

/// The address that answered when one before it did not. It goes first for a while, so that not
/// every connection waits for a dead one.
#[derive(Debug, Default)]
pub struct Trusted(Cell<Option<(SocketAddr, Instant)>>);

impl Trusted {
    fn order(&self, addresses: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut ordered = addresses.to_vec();
        if let Some((trusted, until)) = self.0.get()
            && now < until
            && let Some(at) = ordered.iter().position(|address| *address == trusted)
        {
            ordered[..=at].rotate_right(1);
        }
        ordered
    }

    fn note(&self, address: SocketAddr, addresses: &[SocketAddr], now: Instant) {
        let is_first = addresses.first() == Some(&address);
        let known = self.0.get().filter(|(_, until)| now < *until);
        if is_first {
            self.0.set(None);
        } else if known.is_none_or(|(trusted, _)| trusted != address) {
            // Once the time is over the order is tried as it was given again.
            self.0.set(Some((address, now + ADDRESS_TRUSTED)));
        }
    }

    /// The address accepted and then said nothing: the one behind it goes first for a while, so
    /// that the next attempt does not wait for the same silence.
    fn pass_over(&self, silent: SocketAddr, addresses: &[SocketAddr], now: Instant) {
        let at = addresses.iter().position(|address| *address == silent);
        let next = at.and_then(|at| addresses.get((at + 1) % addresses.len()));
        self.0.set(next.map(|next| (*next, now + ADDRESS_TRUSTED)));
    }
}

/// Connects to the target within `timeout`, its TLS handshake included, and before `deadline`.
/// Addresses are tried one after the other, without waiting long for any (RFC 8305).
///
/// # Errors
/// None answered: why. Nothing reached an upstream, so it may be tried again; but not where TLS
/// itself failed, which would only fail again.
pub async fn connect(
    target: Target<'_>,
    timeout: Duration,
    deadline: Instant,
) -> Result<Transport, Failure> {
    let limit = timeout.min(deadline.saturating_duration_since(clock::now()));
    let mut progress = Progress::default();
    match timer::timeout(limit, reach(target, &mut progress)).await {
        Some(Ok(transport)) => Ok(transport),
        Some(Err(Broken::Tls(address, error))) => {
            let message = format!("upstream {} ({address}): {error}", target.authority);
            Err(unreachable(message).retryable(Retryable::Never))
        }
        Some(Err(Broken::Everywhere)) => Err(unreachable(progress.describe(target.authority))),
        None => {
            if let Some(silent) = progress.shaking {
                target.trusted.pass_over(silent, target.addresses, clock::now());
            }
            let message = progress.late(&target, limit);
            Err(Failure::upstream(Phase::Connect, Outcome::ConnectTimeout, message)
                .retryable(Retryable::Always))
        }
    }
}

/// Why there is no connection.
enum Broken {
    /// TLS failed, as it would again.
    Tls(SocketAddr, io::Error),
    /// No address is left; the progress knows more.
    Everywhere,
}

/// How far the connecting has come.
#[derive(Default)]
struct Progress {
    /// What went wrong where.
    errors: Vec<(SocketAddr, io::Error)>,
    /// The address that accepted and makes the TLS handshake.
    shaking: Option<SocketAddr>,
}

impl Progress {
    fn describe(&self, authority: &str) -> String {
        let mut text = format!("upstream {authority}");
        match self.errors.as_slice() {
            [] => text.push_str(" has no address"),
            [(address, error)] => {
                let _ = write!(text, " ({address}): {error}");
            }
            errors => {
                let _ = write!(text, ": none of {} addresses answered: ", errors.len());
                for (n, (address, error)) in errors.iter().take(4).enumerate() {
                    let _ = write!(text, "{}{address}: {error}", if n > 0 { "; " } else { "" });
                }
            }
        }
        text
    }

    fn late(&self, target: &Target<'_>, limit: Duration) -> String {
        let authority = target.authority;
        match (self.shaking, target.addresses) {
            (Some(address), _) => format!(
                "upstream {authority} ({address}) did not finish its TLS handshake within {limit:?}"
            ),
            (None, [address]) => format!(
                "upstream {authority} ({address}) did not accept a connection within {limit:?}"
            ),
            (None, addresses) => format!(
                "upstream {authority}: none of {} addresses accepted a connection within {limit:?}",
                addresses.len()
            ),
        }
    }
}

async fn reach(target: Target<'_>, progress: &mut Progress) -> Result<Transport, Broken> {
    let mut addresses = target.trusted.order(target.addresses, clock::now());
    loop {
        let raced = Race::run(&addresses).await;
        progress.errors.extend(raced.errors);
        let Some((address, transport)) = raced.winner else { return Err(Broken::Everywhere) };
        progress.shaking = target.tls.map(|_| address);
        match secure(transport, target.tls).await {
            Ok(transport) => {
                target.trusted.note(address, target.addresses, clock::now());
                return Ok(transport);
            }
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<TlsError>()) => {
                return Err(Broken::Tls(address, error));
            }
            // It accepted and then broke off: the others may be better.
            Err(error) => {
                progress.errors.push((address, error));
                progress.shaking = None;
                addresses.retain(|other| progress.errors.iter().all(|(tried, _)| tried != other));
            }
        }
    }
}

async fn secure(
    transport: Transport,
    tls: Option<(&UpstreamTls, &Turns)>,
) -> io::Result<Transport> {
    let Some((tls, turns)) = tls else { return Ok(transport) };
    let session = tls.session().map_err(io::Error::other)?;
    let transport = transport.secure(session);
    transport.shake_hands(turns).await?;
    Ok(transport)
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Transport>>>>;

/// Connection attempts that run beside each other, each begun a little after the one before, or at
/// once when that one failed.
struct Race<'a> {
    addresses: &'a [SocketAddr],
    begun: usize,
    running: Vec<(SocketAddr, Connecting)>,
    stagger: Option<Pin<Box<Sleep>>>,
    errors: Vec<(SocketAddr, io::Error)>,
}

/// How a race ended.
struct Raced {
    winner: Option<(SocketAddr, Transport)>,
    errors: Vec<(SocketAddr, io::Error)>,
}

impl<'a> Race<'a> {
    async fn run(addresses: &'a [SocketAddr]) -> Raced {
        let (running, errors) = (Vec::new(), Vec::new());
        let mut race = Self { addresses, begun: 0, running, stagger: None, errors };
        let winner = poll_fn(|cx| race.poll(cx)).await;
        Raced { winner, errors: race.errors }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(SocketAddr, Transport)>> {
        loop {
            let mut next = self.running.is_empty();
            let mut at = 0;
            while let Some((address, connecting)) = self.running.get_mut(at) {
                match connecting.as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Ok(transport)) => {
                        return Poll::Ready(Some((*address, transport)));
                    }
                    Poll::Ready(Err(error)) => {
                        self.errors.push((*address, error));
                        drop(self.running.swap_remove(at));
                        next = true;
                    }
                }
            }
            if let Some(stagger) = &mut self.stagger
                && stagger.as_mut().poll(cx).is_ready()
            {
                self.stagger = None;
                next = true;
            }
            let Some(&address) = self.addresses.get(self.begun) else {
                return if self.running.is_empty() { Poll::Ready(None) } else { Poll::Pending };
            };
            if !next {
                return Poll::Pending;
            }
            self.begun += 1;
            self.running.push((address, Box::pin(stream::connect(address))));
            let more = self.begun < self.addresses.len();
            self.stagger = more.then(|| Box::pin(timer::sleep(ADDRESS_STAGGER)));
        }
    }
}

/// No connection can be made at all.
pub fn unreachable(message: String) -> Failure {
    Failure::upstream(Phase::Connect, Outcome::UpstreamUnreachable, message)
        .retryable(Retryable::Always)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_answered_goes_first_for_a_while() {
        let addresses: Vec<SocketAddr> =
            (1..4).map(|n| SocketAddr::from(([192, 0, 2, n], 1))).collect();
        let (trusted, now) = (Trusted::default(), clock::now());
        trusted.note(addresses[2], &addresses, now);
        let ordered = vec![addresses[2], addresses[0], addresses[1]];
        assert_eq!(trusted.order(&addresses, now), ordered);
        assert_eq!(trusted.order(&addresses[..2], now), addresses[..2], "it is no more");
        // Answering again does not make the time longer.
        trusted.note(addresses[2], &addresses, now + ADDRESS_TRUSTED / 2);
        assert_eq!(trusted.order(&addresses, now + ADDRESS_TRUSTED), addresses);
        trusted.note(addresses[0], &addresses, now);
        assert_eq!(trusted.order(&addresses, now), addresses);
    }

    #[test]
    fn an_address_that_fell_silent_is_passed_over() {
        let addresses: Vec<SocketAddr> =
            (1..4).map(|n| SocketAddr::from(([192, 0, 2, n], 1))).collect();
        let (trusted, now) = (Trusted::default(), clock::now());
        for silent in [0, 1, 2, 0] {
            trusted.pass_over(addresses[silent], &addresses, now);
            assert_eq!(trusted.order(&addresses, now)[0], addresses[(silent + 1) % 3]);
        }
        trusted.pass_over(addresses[0], &addresses[..1], now);
        assert_eq!(trusted.order(&addresses[..1], now), addresses[..1], "there is no other");
        trusted.pass_over(addresses[2], &addresses[..1], now);
        assert_eq!(trusted.order(&addresses, now), addresses, "it is no more");
    }
}
