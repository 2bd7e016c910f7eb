//! Names to addresses, off the cores: one thread looks names up; workers only read the last good
//! answer.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Time between two look-ups of a name.
const REFRESH: Duration = Duration::from_secs(30);
/// Time between two look-ups while there is no answer yet.
const RETRY: Duration = Duration::from_secs(1);

/// The addresses of one name, kept fresh. A failing refresh keeps the last good set.
#[derive(Clone, Debug)]
pub struct Resolved {
    shared: Arc<Mutex<Result<Vec<SocketAddr>, String>>>,
}

impl Resolved {
    /// Resolves `host` once, waiting for it (before the workers start), and keeps it fresh on a
    /// thread of its own. An IP literal needs neither.
    pub fn start(host: &str, port: u16) -> Self {
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(ip) = literal {
            return Self { shared: Arc::new(Mutex::new(Ok(vec![SocketAddr::new(ip, port)]))) };
        }
        let first = look_up(host, port).map_err(|error| error.to_string());
        if let Err(error) = &first {
            log::warn!("upstream name {host:?} does not resolve yet: {error}");
        }
        let resolved = Self { shared: Arc::new(Mutex::new(first)) };
        let weak = Arc::downgrade(&resolved.shared);
        let host = host.to_owned();
        let spawned = std::thread::Builder::new().name("resolver".into()).spawn(move || {
            loop {
                let Some(shared) = weak.upgrade() else { return };
                let known = shared.lock().unwrap_or_else(PoisonError::into_inner).is_ok();
                drop(shared);
                std::thread::sleep(if known { REFRESH } else { RETRY });
                let answer = look_up(&host, port);
                let Some(shared) = weak.upgrade() else { return };
                let mut held = shared.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(addrs) => *held = Ok(addrs),
                    Err(error) if held.is_err() => *held = Err(error.to_string()),
                    Err(error) => log::warn!("refreshing {host:?} failed, kept: {error}"),
                }
            }
        });
        if let Err(error) = spawned {
            log::error!("no resolver thread, names stay as they are: {error}");
        }
        resolved
    }

    /// The addresses known now.
    ///
    /// # Errors
    /// The name has never resolved: why.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addrs: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    if addrs.is_empty() {
        return Err(io::Error::other("the name has no address"));
    }
    Ok(addrs)
}
