//! The built binary as a child process, and an upstream that does what the test says.
#![allow(unreachable_pub, missing_docs)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::config::plan::Io;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{self, Got, eventually};

pub const BINARY: &str = env!("CARGO_BIN_EXE_millstream");

pub fn flag(io: Io) -> &'static str {
    if io == Io::Epoll { "epoll" } else { "uring" }
}

/// A relay of its own process; killed when it is dropped.
pub struct Relay {
    child: Child,
    stderr: Arc<Mutex<Vec<String>>>,
    pub announced: String,
    pub addr: SocketAddr,
    pub admin: SocketAddr,
}

impl Relay {
    /// Starts `serve` with one worker in front of `upstream`, and reads its start-up line.
    pub fn start(upstream: SocketAddr, io: Io, flags: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--workers", "1", "--upstream", &format!("http://{upstream}")]);
        command.args(["--io", flag(io)]).args(flags);
        if !flags.contains(&"--access-log") {
            command.args(["--access-log", "off"]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (lines, pipe) = (Arc::clone(&stderr), child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.lock().expect("no panic").push(line);
            }
        });
        let announced = || {
            let lines = stderr.lock().expect("no panic");
            lines.iter().find(|line| line.contains(" serving http://")).cloned()
        };
        eventually("the start-up line", || announced().is_some());
        let announced = announced().expect("just seen");
        let address = |before: &str| -> SocketAddr {
            let rest = announced.split_once(before).expect("an address").1;
            rest.split([' ', ',']).next().expect("a word").parse().expect("an address")
        };
        let (addr, admin) = (address("serving http://"), address("admin http://"));
        Self { child, stderr, announced, addr, admin }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signals");
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no panic").join("\n")
    }

    pub fn admin(&self, path: &str) -> Got {
        support::ask(self.admin, &format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n"))
            .expect("an answer")
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let of = |line: &str| line.split(['{', ' ']).next() == Some(name);
        let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
        text.lines().filter(|line| of(line)).filter_map(value).sum()
    }

    /// How it ended, once it does.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().expect("waits");
            status.is_some()
        });
        status.expect("just seen")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the upstream's side of one connection saw and may be told.
pub struct Asked {
    /// What is sent here is written to the connection; dropping it closes.
    pub say: Sender<Vec<u8>>,
    /// Told once, when the relay closed or reset.
    pub left: Receiver<std::time::Instant>,
}

/// An upstream that says only what it is told, each request on a connection of its own.
pub fn puppet() -> (SocketAddr, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let addr = listener.local_addr().expect("bound");
    let (to, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), to) = (stream, to.clone()) else { return };
            std::thread::spawn(move || one(stream, &to));
        }
    });
    (addr, asked)
}

fn one(mut stream: TcpStream, to: &Sender<Asked>) {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return,
            Ok(n) => bytes.extend_from_slice(&part[..n]),
        }
    }
    let (say, said) = channel::<Vec<u8>>();
    let (leave, left) = channel();
    let mut writing = stream.try_clone().expect("cloned");
    if to.send(Asked { say, left }).is_err() {
        return;
    }
    std::thread::spawn(move || {
        for bytes in said {
            if writing.write_all(&bytes).is_err() {
                return;
            }
        }
        let _ = writing.shutdown(std::net::Shutdown::Write);
    });
    while stream.read(&mut part).is_ok_and(|n| n > 0) {}
    let _ = leave.send(std::time::Instant::now());
}

/// The next request that reached a [`puppet`].
pub fn next(asked: &Receiver<Asked>) -> Asked {
    asked.recv_timeout(Duration::from_secs(10)).expect("the request reaches the upstream")
}

impl Asked {
    pub fn say(&self, bytes: &str) {
        self.say.send(bytes.as_bytes().to_vec()).expect("the upstream runs");
    }
}

/// The head of a chunked event stream with its first frame.
pub const BEGINNING: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
/// One more frame, the last event of the dialect, and the end.
pub const END: &str = "9\r\ndata: 2\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
