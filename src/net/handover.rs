//! Sockets on their way from one core to another, each of which has a descriptor table of its own:
//! as rights in a message between two ends that both were given at the start (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Two ends: what is sent into the first comes out of the second.
///
/// # Errors
/// No descriptor or memory is left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends a socket, under a number. It stays open here as well, until its owner closes it. False
/// where too many are on their way.
///
/// # Errors
/// The other end is closed, or no memory is left.
pub fn send(way: &OwnedFd, socket: BorrowedFd<'_>, number: u64) -> io::Result<bool> {
    let bytes = number.to_ne_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let sockets = [socket];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&sockets));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match sendmsg(way, &[IoSlice::new(&bytes)], &mut control, flags) {
            Ok(_) => return Ok(true),
            Err(Errno::AGAIN | Errno::TOOMANYREFS) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What came out of an end.
#[derive(Debug)]
pub enum Received {
    /// A socket and its number.
    Socket(u64, OwnedFd),
    /// The number of a socket for which no descriptor was left.
    Lost(u64),
    /// Nothing yet.
    Nothing,
    /// The other ends are closed.
    Closed,
}

/// Takes what has been sent, never waiting.
///
/// # Errors
/// As `recvmsg(2)`.
pub fn receive(end: &impl AsFd) -> io::Result<Received> {
    let mut bytes = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(end, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
    let n = match received {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
        Err(error) => return Err(error.into()),
    };
    if n == 0 {
        return Ok(Received::Closed);
    }
    let number = u64::from_ne_bytes(bytes);
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok(socket.map_or(Received::Lost(number), |socket| Received::Socket(number, socket)))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_comes_out_with_its_number_and_works() {
        let (way, end) = pair().expect("a pair");
        assert!(matches!(receive(&end).expect("works"), Received::Nothing));
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        assert!(send(&way, ours.as_fd(), 7).expect("sends"));
        drop(ours);
        let Received::Socket(7, socket) = receive(&end).expect("works") else { panic!("none") };
        theirs.write_all(b"here").expect("sends");
        let mut text = [0; 4];
        UnixStream::from(socket).read_exact(&mut text).expect("the same socket");
        assert_eq!(&text, b"here");
        drop(way);
        assert!(matches!(receive(&end).expect("works"), Received::Closed));
    }

    #[test]
    fn an_end_that_nobody_empties_takes_no_more_at_last() {
        let (way, _end) = pair().expect("a pair");
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let sent =
            (0..100_000).take_while(|number| send(&way, ours.as_fd(), *number).expect("sends"));
        let sent = sent.count();
        assert!((1..100_000).contains(&sent), "{sent}");
    }
}
