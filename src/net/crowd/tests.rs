use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::*;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    (ours, listener.accept().expect("accepts").0)
}

/// A look of which nothing is there from the last one.
fn begin(crowd: &mut Crowd) {
    crowd.begin(|_| None);
}

#[test]
fn a_reset_is_told_once_and_is_not_taken_for_an_end() {
    let (ours, theirs) = pair();
    rustix::net::sockopt::set_socket_linger(&theirs, Some(Duration::ZERO)).expect("sets");
    drop(theirs);
    let mut crowd = Crowd::default();
    begin(&mut crowd);
    let mut came = crowd.receive(7, ours.as_raw_fd()).expect("has room");
    assert!(came.piece.is_some() && crowd.received(came.piece).is_none());
    // It is still known after other looks.
    for _ in 0..2 {
        crowd.begin(|key| (key == 7).then(|| came.piece.set_aside()).flatten());
    }
    assert_eq!(crowd.take(7, &mut came.piece, &mut [0; 8]), Err(Errno::CONNRESET));
    assert!(!came.piece.is_some() && crowd.pieces() == 0);
}

#[test]
fn an_end_and_an_empty_socket_take_no_place() {
    let (ours, theirs) = pair();
    let mut crowd = Crowd::default();
    begin(&mut crowd);
    let came = crowd.receive(0, ours.as_raw_fd()).expect("has room");
    assert!(!came.piece.is_some() && came.drained);
    drop(theirs);
    ours.peek(&mut [0]).expect("has ended");
    assert!(crowd.receive(0, ours.as_raw_fd()).is_none());
    assert_eq!(crowd.pieces(), 0);
}

#[test]
fn a_look_receives_as_much_as_it_has_room_for() {
    let mut crowd = Crowd::default();
    begin(&mut crowd);
    let mut pieces = Vec::new();
    let pairs: Vec<_> = (0..2 * ROOM_BYTES / TRICKLE_BYTES_MAX).map(|_| pair()).collect();
    for (ours, theirs) in &pairs {
        (&*theirs).write_all(&[pieces.len() as u8; 3000]).expect("sends");
        ours.peek(&mut [0]).expect("has come");
        let key = pieces.len() as u32;
        let Some(came) = crowd.receive(key, ours.as_raw_fd()) else { break };
        assert!(!came.drained);
        pieces.push(came.piece);
    }
    assert_eq!(pieces.len(), ROOM_BYTES / TRICKLE_BYTES_MAX);
    assert!(!crowd.post(99, &[&[0; 1][..]]), "nor is there room for what lies elsewhere");
    let mut room = [0; 4096];
    for (at, piece) in pieces.iter_mut().enumerate() {
        assert_eq!(crowd.take(at as u32, piece, &mut room), Ok(TRICKLE_BYTES_MAX));
        assert!(room[..TRICKLE_BYTES_MAX].iter().all(|&byte| byte == at as u8));
    }
    begin(&mut crowd);
    let came = crowd.receive(0, pairs[0].0.as_raw_fd()).expect("has room again");
    assert!(came.piece.is_some());
}

#[test]
fn what_nobody_took_outlasts_the_next_looks() {
    let texts = ["one", "two", "three"];
    let mut crowd = Crowd::default();
    let mut pieces: Vec<Piece> = Vec::new();
    for text in texts {
        let (ours, mut theirs) = pair();
        theirs.write_all(text.as_bytes()).expect("sends");
        ours.peek(&mut [0]).expect("has come");
        crowd.begin(|key| pieces.get_mut(key as usize)?.set_aside());
        let key = pieces.len() as u32;
        pieces.push(crowd.receive(key, ours.as_raw_fd()).expect("has room").piece);
    }
    for (key, (text, mut piece)) in texts.into_iter().zip(pieces).enumerate() {
        let mut read = Vec::new();
        let mut room = [0; 2];
        while piece.is_some() {
            let n = crowd.take(key as u32, &mut piece, &mut room).expect("is there");
            read.extend_from_slice(&room[..n]);
        }
        assert_eq!(read, text.as_bytes());
    }
    assert_eq!((crowd.pieces(), crowd.fresh), (0, 0));
}

#[test]
fn posts_go_in_order_from_where_they_lie_and_what_is_left_goes_later() {
    let (ours, mut theirs) = pair();
    theirs.write_all(b"received").expect("sends");
    ours.peek(&mut [0]).expect("has come");
    let mut crowd = Crowd::default();
    begin(&mut crowd);
    assert!(crowd.post(1, &[&b"copied "[..], b"together"]));
    assert!(!crowd.post(1, &[&[0; TRICKLE_BYTES_MAX + 1][..]]), "worth a call of its own");
    assert!(!crowd.post(1, &[&b""[..]]), "nothing is no post");
    let mut piece = crowd.receive(2, ours.as_raw_fd()).expect("has room").piece;
    assert_eq!(crowd.received(piece), Some(&b"received"[..]));
    crowd.post_received(3, &mut piece);
    assert!(!piece.is_some() && crowd.pieces() == 0 && crowd.has_posts());
    let mut sent = Vec::new();
    crowd.send(|key, bytes| {
        sent.push((key, bytes.to_vec()));
        if key == 3 { 5 } else { 0 }
    });
    assert_eq!(sent, [(1, b"copied together".to_vec()), (3, b"received".to_vec())]);
    assert!(!crowd.has_posts());
    begin(&mut crowd);
    assert_eq!((crowd.left(1), crowd.left(3)), (0, 5));
    for left in [2, 0] {
        crowd.send_left(3, |bytes| {
            assert!(b"eived".ends_with(bytes));
            left
        });
        assert_eq!(crowd.left(3), left);
    }
    crowd.send_left(3, |_| unreachable!("nothing is left"));
}

#[test]
fn a_turn_has_room_again_when_the_next_begins() {
    let (mut ours, mut theirs) = pair();
    let mut crowd = Crowd::default();
    let text = [7; 1500];
    for _ in 0..100 {
        begin(&mut crowd);
        let mut posted = 0;
        while crowd.post(0, &[&text[..]]) {
            posted += 1;
        }
        assert_eq!(posted, ROOM_BYTES / text.len().next_multiple_of(LINE_BYTES));
        crowd.send(|_, bytes| {
            theirs.write_all(bytes).expect("sends");
            let mut room = [0; 1500];
            ours.read_exact(&mut room).expect("reads");
            assert_eq!(room, text);
            0
        });
    }
}
