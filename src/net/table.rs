//! A descriptor table of its own for each core.
//!
//! The threads of a process share one table. So every call on a descriptor has to take a reference
//! to its file, in a cache line that is cold by then, and give it back; opening and closing takes
//! the table's lock, for all cores; and when the table grows, who opens waits for a grace period
//! of the kernel (8 to 15 ms were seen). With a table that one thread alone uses none of it
//! happens. Of a relayed frame's CPU it is about 4 % (loadtest/NOTES.md).
//!
//! What it takes: a descriptor is a number in one table, so none may cross from one thread to
//! another after this. What a worker is given at its start is in both tables; it keeps its own and
//! closes all others ([`own`]), the giver closes what it gave away ([`close_given`]).
//!
//! Who looks for a worker's sockets finds them in `/proc/PID/task/TID/fd` (`lsof -K`, `ss -T`).
#![allow(unsafe_code)] // a descriptor's number, and which thread's it is

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The descriptors of the calling thread's table.
const LISTED: &str = "/proc/thread-self/fd";
/// Standard input, output and error stay.
const FIRST: RawFd = 3;

/// Gives the calling thread a table of its own, in which only the standard streams and `kept` are
/// left. False, with nothing changed, where the system does not allow it.
///
/// For a new thread: it must own no descriptor but those of `kept`, and be given none later.
pub fn own(kept: &[RawFd]) -> bool {
    // Without a list nothing could be closed, and listeners would outlive their workers.
    let Some(before) = listed() else { return false };
    // SAFETY: the calling thread uses no descriptor of another thread after this, and no other
    // thread one of its; its callers hand over what is in `kept` and nothing else.
    if unsafe { unshare_unsafe(UnshareFlags::FILES) }.is_err() {
        return false;
    }
    let kept: HashSet<RawFd> = kept.iter().copied().collect();
    // A table that is full by now cannot be listed again.
    for fd in listed().unwrap_or(before) {
        // SAFETY: borrowed for this one call, which says whether it is open: the descriptor by
        // which the list was read is in the list, and is not.
        let open = unsafe { rustix::io::fcntl_getfd(BorrowedFd::borrow_raw(fd)) }.is_ok();
        if open && fd >= FIRST && !kept.contains(&fd) {
            // SAFETY: a copy that the new table came with and that nobody in this thread owns.
            unsafe { rustix::io::close(fd) }
        }
    }
    true
}

fn listed() -> Option<Vec<RawFd>> {
    let names = std::fs::read_dir(LISTED).ok()?;
    Some(names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Closes, in the calling thread's table, descriptors whose owners went to a thread that has a
/// table of its [own].
pub fn close_given(given: &[RawFd]) {
    for &fd in given {
        // SAFETY: the owner of this number lives in a thread where it means another table's entry,
        // so in this table nobody owns it.
        unsafe { rustix::io::close(fd) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_is_kept_works_and_is_closed_with_its_thread_and_nothing_else_is_held() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("bound");
        let other = TcpListener::bind("127.0.0.1:0").expect("binds");
        let elsewhere = other.local_addr().expect("bound");
        let given = listener.as_raw_fd();
        let (tell, told) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let worker = std::thread::spawn(move || {
            if !own(&[listener.as_raw_fd()]) {
                // Not allowed here: the descriptor is in the one table, and closed by its owner.
                tell.send(None).expect("heard");
                return;
            }
            tell.send(Some(listed().expect("listed"))).expect("heard");
            let (mut stream, _) = listener.accept().expect("accepts");
            stream.write_all(b"here").expect("sends");
            may_go_on.recv().expect("told");
        });
        let Some(listed) = told.recv().expect("told") else { return };
        // The list's own descriptor is in the list.
        assert!(listed.iter().filter(|fd| **fd >= FIRST).count() <= 2, "{listed:?}");
        close_given(&[given]);
        let mut text = [0; 4];
        TcpStream::connect(address).expect("accepted").read_exact(&mut text).expect("served");
        assert_eq!(&text, b"here");
        drop(other);
        let refused = TcpStream::connect(elsewhere).expect_err("nobody holds it");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        go_on.send(()).expect("heard");
        worker.join().expect("no panic");
        TcpStream::connect(address).expect_err("closed with its thread");
    }
}
