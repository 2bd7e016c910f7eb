//! An upstream that tells what it was asked, and relays made of a file.
#![allow(unreachable_pub, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use millstream::config::plan::Io;
use millstream::http1::Status;
use millstream::http1::body::{BodyDecoder, Step};
use millstream::http1::head::{RequestHead, parse_request};
use millstream::server::Server;

pub const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nServer: up\r\n\
    Access-Control-Allow-Origin: https://up.example\r\nTransfer-Encoding: chunked\r\n\r\n\
    9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n";

/// One request as the upstream got it.
#[derive(Debug)]
pub struct Asked {
    pub head: RequestHead,
    pub body: String,
}

impl Asked {
    pub fn line(&self) -> String {
        format!("{} {}", self.head.method(), self.head.target())
    }

    pub fn field(&self, name: &str) -> Option<String> {
        self.head.field(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

pub struct Upstream {
    pub addr: SocketAddr,
    pub asked: Receiver<Asked>,
}

impl Upstream {
    /// An upstream that answers every request with `answer`, on connections that are kept.
    pub fn answering(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("bound");
        let (to, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let to = to.clone();
                std::thread::spawn(move || serve(stream, answer, &to));
            }
        });
        Self { addr, asked }
    }

    pub fn next(&self) -> Asked {
        self.asked.recv_timeout(Duration::from_secs(20)).expect("it is asked")
    }

    pub fn was_not_asked(&self) {
        assert!(self.asked.try_recv().is_err(), "it was asked");
    }
}

fn serve(mut stream: TcpStream, answer: &str, to: &Sender<Asked>) {
    let (mut bytes, mut part) = (Vec::new(), [0; 65_536]);
    let mut more = |bytes: &mut Vec<u8>, stream: &mut TcpStream| match stream.read(&mut part) {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            bytes.extend_from_slice(&part[..n]);
            true
        }
    };
    loop {
        let head = loop {
            match parse_request(&bytes, &mut 0).expect("the relay's head is right") {
                Status::Complete((head, consumed)) => {
                    bytes.drain(..consumed);
                    break head;
                }
                Status::Partial if more(&mut bytes, &mut stream) => {}
                Status::Partial => return,
            }
        };
        let mut decoder = BodyDecoder::new(head.framing());
        let mut body = Vec::new();
        loop {
            match decoder.step(&bytes).expect("the relay's framing is right") {
                Step::Framing(n) => drop(bytes.drain(..n)),
                Step::Data(n) => body.extend(bytes.drain(..n)),
                Step::End(n) => {
                    bytes.drain(..n);
                    break;
                }
                Step::NeedMore if more(&mut bytes, &mut stream) => {}
                Step::NeedMore => return,
            }
        }
        let body = String::from_utf8(body).expect("UTF-8");
        let _ = to.send(Asked { head, body });
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Writes a file for this test.
pub fn file(text: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("relay-{}-{number}.toml", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("writes");
    path
}

/// A relay of a file in which `UP` is this upstream, with more flags.
pub fn configured_to(upstream: SocketAddr, io: Io, text: &str, flags: &str) -> Server {
    configured(io, &text.replace("UP", &format!("http://{upstream}")), flags)
}

/// A relay of a file, with more flags.
pub fn configured(io: Io, text: &str, flags: &str) -> Server {
    crate::support::configured(io, &file(text), flags)
}
