//! Both ends of a relay, spoken by hand: an upstream with a script and a client that reads one
//! answer after the other, by no code of the relay.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use millstream::outcome::Outcome;
use millstream::server::Server;

use crate::support::{connect, drivers, ended, eventually, relay, stop};

/// A message as it came: its head with the empty line, its payload, and whether that is whole.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) whole: bool,
    /// Which connection it came over, and how many came over it before.
    pub(crate) connection: usize,
    pub(crate) nth: usize,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status line")
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
}

/// Reads one message, byte by byte, so that nothing of the next is taken. `has_body` is false for
/// answers to HEAD. Without framing a response runs to the close, a request has no body.
pub(crate) fn message(from: &mut impl Read, has_body: bool) -> io::Result<Message> {
    let mut byte = [0];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut message = Message { head, body: String::new(), whole: true, connection: 0, nth: 0 };
    let mut body = Vec::new();
    let response = message.head.starts_with("HTTP/");
    let bodiless = response && (message.status() < 200 || matches!(message.status(), 204 | 304));
    if bodiless || !has_body {
        return Ok(message);
    }
    let read = if let Some(length) = message.field("content-length") {
        body.resize(length.parse().expect("a length"), 0);
        from.read_exact(&mut body)
    } else if message.field("transfer-encoding").is_some() {
        chunks(from, &mut body)
    } else if response {
        from.read_to_end(&mut body).map(|_| ())
    } else {
        Ok(())
    };
    message.whole = read.is_ok();
    message.body = String::from_utf8_lossy(&body).into_owned();
    Ok(message)
}

fn chunks(from: &mut impl Read, body: &mut Vec<u8>) -> io::Result<()> {
    let mut byte = [0];
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            from.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        let digits = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
        let size = usize::from_str_radix(&digits, 16).expect("a size without extension");
        let at = body.len();
        body.resize(at + size + 2, 0);
        from.read_exact(&mut body[at..])?;
        assert_eq!(body.split_off(at + size), b"\r\n", "no trailers come through");
        if size == 0 {
            return Ok(());
        }
    }
}

/// What an upstream does with a request.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// Answers, and takes another request.
    Keep(&'static str),
    /// Answers and closes.
    Close(&'static str),
}

pub(crate) use Answer::{Close, Keep};

/// A plain answer.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An upstream that gives one answer after the other, the last one again and again, and tells the
/// requests that came.
pub(crate) fn upstream(answers: &'static [Answer]) -> (SocketAddr, Receiver<Message>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    let (to, asked) = channel();
    let given = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for (connection, stream) in listener.incoming().enumerate() {
            let (Ok(stream), given, to) = (stream, Arc::clone(&given), to.clone()) else { return };
            std::thread::spawn(move || serve(stream, connection, answers, &given, &to));
        }
    });
    (addr, asked)
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    answers: &[Answer],
    given: &AtomicUsize,
    to: &Sender<Message>,
) {
    for nth in 0.. {
        let Ok(mut request) = message(&mut stream, true) else { return };
        (request.connection, request.nth) = (connection, nth);
        let whole = request.whole;
        if to.send(request).is_err() || !whole {
            return;
        }
        let answer = answers[given.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1)];
        let (Keep(bytes) | Close(bytes)) = answer;
        if stream.write_all(bytes.as_bytes()).is_err() || matches!(answer, Close(_)) {
            return;
        }
    }
}

/// A relay on either driver in front of an upstream with these answers.
pub(crate) struct Between {
    pub(crate) server: Server,
    pub(crate) addr: SocketAddr,
    asked: Receiver<Message>,
}

impl Between {
    /// The next request that reached the upstream.
    pub(crate) fn asked(&self) -> Message {
        self.asked.recv_timeout(Duration::from_secs(10)).expect("a request reaches the upstream")
    }

    /// The next request that has reached the upstream by now.
    pub(crate) fn asked_already(&self) -> Option<Message> {
        self.asked.try_recv().ok()
    }

    /// Asserts that nothing more has reached the upstream.
    pub(crate) fn assert_unasked(&self) {
        let more = self.asked.try_recv();
        assert!(more.is_err(), "{more:?}");
    }

    /// Sends `request` over a connection of its own and reads one answer.
    pub(crate) fn ask(&self, request: &str) -> Message {
        let mut stream = self.send(request);
        message(&mut stream, !request.starts_with("HEAD ")).expect("an answer")
    }

    pub(crate) fn send(&self, request: &str) -> TcpStream {
        let mut stream = connect(self.addr);
        stream.write_all(request.as_bytes()).expect("sends");
        stream
    }

    pub(crate) fn assert_ended(&self, outcome: Outcome, n: u64) {
        eventually(outcome.as_str(), || ended(&self.server, outcome) == n);
    }
}

pub(crate) fn through(flags: &str, answers: &'static [Answer], test: impl Fn(&Between)) {
    for io in drivers() {
        let (upstream, asked) = upstream(answers);
        let server = relay(upstream, io, flags);
        let between = Between { addr: server.addresses[0], server, asked };
        test(&between);
        stop(between.server);
    }
}

/// A request with these fields and this body as they stand.
pub(crate) fn get(fields: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: front\r\n{fields}\r\n")
}
