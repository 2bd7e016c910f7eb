use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use super::*;
use crate::net::runtime::tests::on_both;
use crate::net::tls::session::Wire;

fn pair() -> (Watched, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_nonblocking(true).expect("sets");
    theirs.set_nonblocking(true).expect("sets");
    (Watched::new(ours.into()).expect("watched"), theirs)
}

async fn readable(socket: &Watched) {
    poll_fn(|cx| socket.poll_readable(cx)).await;
}

/// Whether it is readable as far as the kernel has told by now.
async fn is_readable(socket: &Watched) -> bool {
    give_way().await;
    poll_fn(|cx| Poll::Ready(socket.poll_readable(cx).is_ready())).await
}

#[test]
fn bytes_make_it_readable_until_it_is_drained_and_a_close_for_ever() {
    on_both(2, async || {
        let (ours, mut theirs) = pair();
        assert!(!is_readable(&ours).await);
        let writing = std::thread::spawn(move || {
            theirs.write_all(b"one").expect("sends");
            theirs
        });
        readable(&ours).await;
        let mut theirs = writing.join().expect("no panic");
        assert!(is_readable(&ours).await, "nobody has read yet");
        let mut room = [0; 8];
        assert_eq!(rustix::io::read(&ours, &mut room).expect("reads"), 3);
        ours.drained();
        assert!(!is_readable(&ours).await);
        theirs.write_all(b"two").expect("sends");
        assert!(is_readable(&ours).await, "more has come");
        drop(theirs);
        give_way().await;
        assert_eq!(rustix::io::read(&ours, &mut room).expect("reads"), 3);
        ours.drained();
        assert!(is_readable(&ours).await, "the close came with the last bytes");
        assert_eq!(rustix::io::read(&ours, &mut room).expect("reads"), 0);
        ours.drained();
        assert!(is_readable(&ours).await);
    });
}

#[test]
fn a_full_socket_can_be_written_when_its_peer_has_read() {
    on_both(2, async || {
        let (ours, mut theirs) = pair();
        let block = [7; 4096];
        while rustix::io::write(&ours, &block).is_ok() {}
        ours.filled();
        let reading = std::thread::spawn(move || {
            let mut room = [0; 4096];
            while theirs.read(&mut room).is_ok() {}
            theirs
        });
        poll_fn(|cx| ours.poll_writable(cx)).await;
        let _theirs = reading.join().expect("no panic");
        assert!(rustix::io::write(&ours, &block).is_ok());
    });
}

#[test]
fn who_gives_way_comes_behind_everyone_whose_socket_is_ready() {
    on_both(2, async || {
        let (ours, mut theirs) = pair();
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        let reading = monoio::spawn(async move {
            readable(&ours).await;
            seen.borrow_mut().push("ready");
        });
        let seen = Rc::clone(&order);
        let yielding = monoio::spawn(async move {
            theirs.write_all(b"now").expect("sends");
            give_way().await;
            seen.borrow_mut().push("gave way");
        });
        reading.await;
        yielding.await;
        assert_eq!(*order.borrow(), ["ready", "gave way"]);
    });
}

#[test]
fn what_is_dropped_leaves_no_entry_and_no_task_behind() {
    on_both(2, async || {
        let before = SET.with(|set| set.entries.borrow().len());
        let held = Rc::new(());
        let (ours, theirs) = pair();
        let kept = Rc::clone(&held);
        let waiting = monoio::spawn(async move {
            let _kept = kept;
            readable(&ours).await;
            ours.forget_task();
            ours
        });
        drop(theirs);
        let ours = waiting.await;
        assert_eq!(Rc::strong_count(&held), 1, "the task is gone, its socket is here");
        drop(ours);
        assert_eq!(SET.with(|set| set.entries.borrow().len()), before);
    });
}

/// Reads `socket` to its end, `room` bytes at a time; says how often bytes had come ahead.
async fn read_all(socket: Watched, room: usize) -> (Vec<u8>, u32) {
    let (mut all, mut ahead) = (Vec::new(), 0);
    let mut room = vec![0; room];
    loop {
        poll_fn(|cx| socket.poll_arrived(cx)).await;
        ahead += u32::from(socket.has_ahead());
        match socket.recv(&mut room).expect("reads") {
            Some(0) => return (all, ahead),
            Some(n) => all.extend_from_slice(&room[..n]),
            None => {}
        }
    }
}

#[test]
fn what_trickles_to_several_comes_ahead_and_in_order() {
    on_both(2, async || {
        for room in [3, 64, 65_536] {
            let (ours, mut theirs): (Vec<_>, Vec<_>) = (0..40).map(|_| pair()).unzip();
            let readers: Vec<_> =
                ours.into_iter().map(|socket| monoio::spawn(read_all(socket, room))).collect();
            let mut said = vec![Vec::new(); theirs.len()];
            for turn in 0..30_usize {
                // Sometimes one alone, sometimes more than has room ahead.
                let of = if turn % 7 == 3 { 1 } else { theirs.len() };
                for (at, socket) in theirs[..of].iter_mut().enumerate() {
                    let len = if turn % 5 == 4 { 5000 } else { 1 + (turn * 131 + at) % 2100 };
                    let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + turn + at) as u8).collect();
                    socket.write_all(&bytes).expect("sends");
                    said[at].extend(bytes);
                }
                give_way().await;
            }
            drop(theirs);
            let mut ahead = 0;
            for (reader, said) in readers.into_iter().zip(said) {
                let (read, times) = reader.await;
                assert!(read == said, "{} of {} bytes", read.len(), said.len());
                ahead += times;
            }
            assert!(ahead > 100, "bytes came ahead {ahead} times");
            SET.with(|set| assert_eq!(set.crowd.borrow().pieces(), 0));
        }
    });
}

/// Two sockets that have something ahead, and their peers.
async fn two_with_bytes_ahead() -> [(Watched, UnixStream); 2] {
    let mut pairs = [pair(), pair()];
    for text in [b"one", b"two"] {
        for (ours, theirs) in &mut pairs {
            assert!(poll_fn(|cx| Poll::Ready(ours.poll_arrived(cx))).await.is_pending());
            theirs.write_all(text).expect("sends");
        }
        give_way().await;
        if text == b"one" {
            // Before the first short read they are not taken to trickle.
            for (ours, _) in &pairs {
                assert!(!ours.has_ahead());
                assert_eq!(ours.recv(&mut [0; 8]).expect("reads"), Some(3));
            }
        }
    }
    assert!(pairs.iter().all(|(ours, _)| ours.has_ahead() && ours.has_stirred()));
    pairs
}

#[test]
fn what_nobody_comes_for_is_there_later_and_goes_with_its_socket() {
    on_both(2, async || {
        let [(ours, mut theirs), (others, _theirs)] = two_with_bytes_ahead().await;
        theirs.write_all(b"three").expect("sends");
        for _ in 0..3 {
            give_way().await;
        }
        drop(others);
        assert!(is_readable(&ours).await);
        let mut room = [0; 2];
        let mut read = Vec::new();
        while let Some(n) = ours.recv(&mut room).expect("reads") {
            read.extend_from_slice(&room[..n]);
        }
        assert_eq!(read, b"twothree");
        assert!(!is_readable(&ours).await);
        SET.with(|set| assert_eq!(set.crowd.borrow().pieces(), 0));
    });
}

#[test]
fn who_only_looks_has_nothing_received_ahead() {
    on_both(2, async || {
        let mut pairs = two_with_bytes_ahead().await;
        for (ours, theirs) in &mut pairs {
            assert_eq!(ours.recv(&mut [0; 8]).expect("reads"), Some(3));
            assert!(poll_fn(|cx| Poll::Ready(ours.poll_arrived(cx))).await.is_pending());
            assert!(poll_fn(|cx| Poll::Ready(ours.poll_readable(cx))).await.is_pending());
            theirs.write_all(b"more").expect("sends");
        }
        give_way().await;
        assert!(pairs.iter().all(|(ours, _)| !ours.has_ahead() && ours.has_stirred()));
    });
}

#[test]
fn the_memory_of_many_goes_with_them_and_who_stays_is_served() {
    on_both(2, async || {
        let mut many: Vec<_> = (0..300).map(|_| pair()).collect();
        let (ours, mut theirs) = many.swap_remove(200);
        drop(many);
        let places = || SET.with(|set| set.entries.borrow().all.len());
        let before = places();
        trim();
        assert!(places() < before && places() > 200, "{before} places, {} left", places());
        // New ones take the first places, and their end leaves the last one last.
        let (new, _theirs) = pair();
        theirs.write_all(b"here").expect("sends");
        readable(&ours).await;
        assert_eq!(ours.recv(&mut [0; 8]).expect("reads"), Some(4));
        drop(ours);
        trim();
        assert!(places() <= 100, "{} places", places());
        assert!(!is_readable(&new).await);
    });
}

/// How often a relay's bytes went the ways they can go.
#[derive(Default)]
struct Ways {
    passed: Cell<u32>,
    posted: Cell<u32>,
    waited: Cell<u32>,
}

/// Carries what `from` brings to `to`, as whole pieces where `judge` says so, to its end.
async fn relay(from: Watched, to: Watched, ways: Rc<Ways>) {
    let mut room = [0; 700];
    let mut turn = 0;
    loop {
        poll_fn(|cx| from.poll_arrived(cx)).await;
        turn += 1;
        let judge = |bytes: &[u8]| if turn % 4 == 0 { bytes.len() / 2 } else { bytes.len() };
        if from.pass_ahead(&to, judge).is_some_and(|(n, may_go)| n == may_go) {
            ways.passed.set(ways.passed.get() + 1);
            continue;
        }
        let Some(n) = from.recv(&mut room).expect("reads") else { continue };
        if n == 0 {
            while !to.flush() {
                poll_fn(|cx| to.poll_writable(cx)).await;
            }
            return;
        }
        let mut rest = &room[..n];
        if turn % 3 == 0 && to.post(&[rest]) {
            ways.posted.set(ways.posted.get() + 1);
            continue;
        }
        while !rest.is_empty() {
            match to.send(rest).expect("sends") {
                Some(n) => rest = &rest[n..],
                None => {
                    ways.waited.set(ways.waited.get() + 1);
                    poll_fn(|cx| to.poll_writable(cx)).await;
                }
            }
        }
    }
}

fn read_some(socket: &mut UnixStream, room: &mut [u8], read: &mut Vec<u8>) -> usize {
    let n = socket.read(room).unwrap_or_default();
    read.extend_from_slice(&room[..n]);
    n
}

#[test]
fn what_is_passed_and_posted_arrives_in_order_and_whole_however_slowly_it_is_read() {
    on_both(2, async || {
        let ways = Rc::<Ways>::default();
        let mut ends = Vec::new();
        let mut relays = Vec::new();
        for _ in 0..24 {
            let ((from, source), (to, sink)) = (pair(), pair());
            rustix::net::sockopt::set_socket_send_buffer_size(&to, 1).expect("sets");
            relays.push(monoio::spawn(relay(from, to, Rc::clone(&ways))));
            ends.push((source, sink, Vec::new(), Vec::new()));
        }
        let mut room = vec![0; 4096];
        for turn in 0..400_usize {
            for (at, (source, sink, said, read)) in ends.iter_mut().enumerate() {
                let len = 1 + (turn * 131 + at * 17) % 600;
                let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + turn + at) as u8).collect();
                // What has no room is not said.
                said.extend_from_slice(&bytes[..source.write(&bytes).unwrap_or_default()]);
                // Some readers are slow, and catch up at times.
                if at % 3 == 0 || turn % 50 == at {
                    read_some(sink, &mut room[..1 + turn * 37 % 4000], read);
                }
            }
            give_way().await;
        }
        for (source, ..) in &ends {
            source.shutdown(std::net::Shutdown::Write).expect("shuts");
        }
        for (_, sink, said, read) in &mut ends {
            while read.len() < said.len() {
                read_some(sink, &mut room, read);
                give_way().await;
            }
        }
        for relay in relays {
            relay.await;
        }
        for (_, sink, said, read) in &mut ends {
            assert!(read == said, "{} of {} bytes", read.len(), said.len());
            assert_eq!(sink.read(&mut room).expect("the end"), 0);
        }
        let counts = [&ways.passed, &ways.posted, &ways.waited].map(Cell::get);
        assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
        SET.with(|set| assert_eq!(set.crowd.borrow().pieces(), 0));
    });
}

#[test]
fn a_post_goes_before_what_is_sent_next_before_a_close_and_by_itself() {
    on_both(2, async || {
        for how in 0..4 {
            let [(ours, mut theirs), (other, _theirs)] = two_with_bytes_ahead().await;
            assert!(ours.post(&[&b"first "[..], b"post, "]), "several were woken");
            assert!(!ours.post(&[&b"another"[..]]), "one at a time");
            let expected: &[u8] = match how {
                0 => {
                    assert_eq!(ours.send(b"then sent").expect("sends"), Some(9));
                    b"first post, then sent"
                }
                1 => {
                    drop(ours);
                    b"first post, "
                }
                2 => {
                    assert!(ours.flush() && ours.owed() == 0);
                    b"first post, "
                }
                _ => {
                    let mut room = [0; 64];
                    let early =
                        theirs.read(&mut room).expect_err("not before others had their turn");
                    assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
                    give_way().await;
                    b"first post, "
                }
            };
            let mut room = [0; 64];
            let n = theirs.read(&mut room).expect("has come");
            assert_eq!(&room[..n], expected);
            drop(other);
        }
    });
}

#[test]
fn who_posts_to_a_peer_that_has_gone_is_woken_and_told() {
    on_both(2, async || {
        let [(ours, theirs), (_other, _theirs)] = two_with_bytes_ahead().await;
        assert_eq!(ours.recv(&mut [0; 64]).expect("reads"), Some(3));
        assert!(ours.post(&[&b"to nobody"[..]]));
        drop(theirs);
        assert!(ours.flush(), "nothing is kept for who has gone");
        assert!(is_readable(&ours).await);
        ours.send(b"more").expect_err("nobody takes it");
    });
}
