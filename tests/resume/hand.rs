//! An upstream that says what the test says, and a client that reads as much as the test wants.
#![allow(unreachable_pub, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use millstream::http1::Status;
use millstream::http1::body::{BodyDecoder, Step};
use millstream::http1::head::{ResponseHead, parse_response};
use millstream::sse::{Message, Parser};
use socket2::{Domain, Socket, Type};

use crate::support::connect;

pub const CHAT: &str = "/v1/chat/completions";
const WAIT: Duration = Duration::from_secs(20);

/// An upstream whose connections are the test's to answer.
pub struct Upstream {
    pub addr: SocketAddr,
    asked: Receiver<TcpStream>,
}

impl Upstream {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("bound");
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut bytes = Vec::new();
                let mut part = [0; 4096];
                // A request of these tests ends with its messages.
                while !bytes.ends_with(b"}]}") {
                    match stream.read(&mut part) {
                        Ok(0) | Err(_) => break,
                        Ok(n) => bytes.extend_from_slice(&part[..n]),
                    }
                }
                if tell.send(stream).is_err() {
                    return;
                }
            }
        });
        Self { addr, asked }
    }

    /// The next request's connection, with the head of an event stream sent on it.
    pub fn answer(&self) -> Answer {
        let mut stream = self.asked.recv_timeout(WAIT).expect("the relay asks");
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("sends");
        Answer { stream, said: 0 }
    }

    /// The next request's connection, if there is one, with nothing said on it.
    pub fn answer_unheard(&self) -> Option<TcpStream> {
        self.asked.recv_timeout(WAIT).ok()
    }

    /// A client's chat, with the head of its answer.
    pub fn chat(&self, relay: SocketAddr) -> (Client, Answer) {
        self.begun(relay, &crate::support::chat(CHAT, ""))
    }

    /// The same, with so many frames said and read.
    pub fn under_way(&self, relay: SocketAddr, frames: u64, len: usize) -> (Client, Answer) {
        let (mut client, mut answer) = self.chat(relay);
        answer.say(frames, len);
        client.read(frames as usize);
        (client, answer)
    }

    /// The same for another request.
    pub fn begun(&self, relay: SocketAddr, request: &str) -> (Client, Answer) {
        let mut stream = connect(relay);
        stream.write_all(request.as_bytes()).expect("sends");
        let answer = self.answer();
        (Client::on(stream, request), answer)
    }

    /// Nobody has asked for anything more.
    pub fn assert_idle(&self) {
        let more = self.asked.recv_timeout(Duration::ZERO);
        assert!(matches!(more, Err(RecvTimeoutError::Timeout)), "another generation was begun");
    }
}

/// One answer of an upstream.
pub struct Answer {
    pub stream: TcpStream,
    said: u64,
}

/// The data of a frame that an upstream says.
pub fn data(number: u64, len: usize) -> String {
    format!("{number}:{}", "x".repeat(len))
}

impl Answer {
    /// Says frames of so many bytes more.
    pub fn say(&mut self, frames: u64, len: usize) {
        for _ in 0..frames {
            self.said += 1;
            let frame = format!("data: {}\n\n", data(self.said, len));
            let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
            self.stream.write_all(chunk.as_bytes()).expect("the relay takes it");
        }
    }

    /// Ends in order.
    pub fn finish(mut self) {
        let end = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
        self.stream.write_all(end).expect("the relay takes it");
    }

    /// Waits until the relay closes its connection.
    pub fn closed(mut self) {
        self.stream.set_read_timeout(Some(WAIT)).expect("sets");
        let mut part = [0; 64];
        // An end or a reset.
        while self.stream.read(&mut part).is_ok_and(|n| n > 0) {}
    }
}

/// A client in the middle of an answer.
pub struct Client {
    pub stream: TcpStream,
    pub head: ResponseHead,
    bytes: Vec<u8>,
    decoder: BodyDecoder,
    parser: Parser,
    /// What has been said to it.
    pub messages: Vec<Message>,
    /// The payload.
    pub body: Vec<u8>,
}

/// How a client's answer ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    InOrder,
    Cut,
}

impl Client {
    /// Sends a request and reads the answer's head.
    pub fn ask(relay: SocketAddr, request: &str) -> Self {
        let mut stream = connect(relay);
        stream.write_all(request.as_bytes()).expect("sends");
        Self::on(stream, request)
    }

    pub fn on(mut stream: TcpStream, request: &str) -> Self {
        let (mut bytes, mut part) = (Vec::new(), [0; 512]);
        let head = loop {
            match parse_response(&bytes, &mut 0).expect("a head") {
                Status::Complete((head, consumed)) => {
                    bytes.drain(..consumed);
                    break head;
                }
                Status::Partial => {
                    let n = stream.read(&mut part).expect("an answer");
                    assert!(n > 0, "closed without an answer");
                    bytes.extend_from_slice(&part[..n]);
                }
            }
        };
        let method = request.split(' ').next().unwrap_or_default();
        let decoder = BodyDecoder::new(head.framing(method));
        let (parser, messages, body) = (Parser::new(1 << 24), Vec::new(), Vec::new());
        Self { stream, head, bytes, decoder, parser, messages, body }
    }

    /// Comes back behind the frame of this id.
    pub fn back(relay: SocketAddr, id: &str) -> Self {
        Self::ask(relay, &coming_back("POST", id, ""))
    }

    /// The same on a connection that takes next to nothing unless it is read.
    pub fn back_narrowly(relay: SocketAddr, id: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(4096).expect("sets");
        socket.connect(&relay.into()).expect("connects");
        let mut stream = TcpStream::from(socket);
        let request = coming_back("POST", id, "");
        stream.write_all(request.as_bytes()).expect("sends");
        Self::on(stream, &request)
    }

    pub fn field(&self, name: &str) -> String {
        String::from_utf8_lossy(self.head.field(name).unwrap_or_default()).into_owned()
    }

    /// Takes what has been received; the end, if it is in it.
    fn take(&mut self) -> Option<Ended> {
        loop {
            let at = std::mem::take(&mut self.bytes);
            match self.decoder.step(&at).expect("the relay's framing is right") {
                Step::Framing(n) => self.bytes = at[n..].to_vec(),
                Step::Data(n) => {
                    self.parser.feed(&at[..n], &mut self.messages).expect("short");
                    self.body.extend_from_slice(&at[..n]);
                    self.bytes = at[n..].to_vec();
                }
                Step::End(n) => {
                    self.bytes = at[n..].to_vec();
                    return Some(Ended::InOrder);
                }
                Step::NeedMore => {
                    self.bytes = at;
                    return None;
                }
            }
        }
    }

    /// Reads until so many messages have come, or the end.
    pub fn read(&mut self, messages: usize) -> Option<Ended> {
        let deadline = Instant::now() + WAIT;
        // Who wants few messages gets few.
        let mut part = vec![0; messages.saturating_mul(128).min(65_536)];
        loop {
            if let Some(ended) = self.take() {
                return Some(ended);
            }
            if self.messages.len() >= messages {
                return None;
            }
            assert!(Instant::now() < deadline, "only {} messages", self.messages.len());
            match self.stream.read(&mut part) {
                Ok(n) if n > 0 => self.bytes.extend_from_slice(&part[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing comes: {} messages", self.messages.len());
                }
                _ => return Some(Ended::Cut),
            }
        }
    }

    /// Reads to the end.
    pub fn read_all(&mut self) -> Ended {
        self.read(usize::MAX).expect("to its end")
    }

    /// The id of the last message.
    pub fn last_id(&self) -> String {
        let last = self.messages.last().expect("a message");
        String::from_utf8_lossy(&last.last_event_id).into_owned()
    }

    /// What it got are frames of an [`Answer`] from this number on, with their ids.
    pub fn assert_numbered_from(&self, first: u64, len: usize) {
        let stream = self.field("x-stream-id");
        for (number, message) in (first..).zip(&self.messages) {
            assert_eq!(String::from_utf8_lossy(&message.data), data(number, len));
            assert_eq!(message.last_event_id, format!("{stream}.{number}").as_bytes());
        }
    }
}

/// A request that comes back behind the frame of this id.
pub fn coming_back(method: &str, id: &str, fields: &str) -> String {
    format!("{method} {CHAT} HTTP/1.1\r\nHost: t\r\nLast-Event-ID: {id}\r\n{fields}\r\n")
}
