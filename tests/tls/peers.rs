//! Programs that speak TLS, started for one test and ended with it.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::pki::Issued;
use crate::support::eventually;

/// A program with its standard streams.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Program {
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let mut child = Command::new(name)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} is needed (tests/run installs it): {error}"));
        let said = Arc::new(Mutex::new(Vec::new()));
        listen(child.stdout.take().expect("piped"), Arc::clone(&said));
        listen(child.stderr.take().expect("piped"), Arc::clone(&said));
        let stdin = child.stdin.take();
        Self { child, stdin, said }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// What it has said, on either stream.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().expect("no panic")).into_owned()
    }

    /// Waits until it says `text`.
    pub(crate) fn says(&self, text: &str) {
        eventually(text, || self.said().contains(text));
    }

    /// Tells it something, and waits until it has read it: what is told next is read by itself.
    pub(crate) fn tell(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).expect("takes it");
        let left = || rustix::io::ioctl_fionread(&*stdin).expect("a pipe");
        eventually("it reads", || left() == 0);
    }

    /// The port it says it listens on, behind `before`.
    pub(crate) fn port(&self, before: &str) -> SocketAddr {
        let found = || {
            let said = self.said();
            let rest = &said[said.find(before)? + before.len()..];
            let line = rest.lines().next().filter(|_| rest.contains('\n'))?;
            line.rsplit(':').next()?.trim().parse::<u16>().ok()
        };
        eventually("it listens", || found().is_some());
        SocketAddr::from(([127, 0, 0, 1], found().expect("a port")))
    }
}

fn listen(stream: impl Read + Send + 'static, heard: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut stream = stream;
        let mut part = [0; 65_536];
        while let Ok(n @ 1..) = stream.read(&mut part) {
            heard.lock().expect("no panic").extend_from_slice(&part[..n]);
        }
    });
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An https upstream on Python's ssl; see `peer.py`.
pub(crate) fn python(
    shown: &Issued,
    version: &str,
    client_ca: Option<&str>,
) -> (Program, SocketAddr) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/peer.py");
    let (certificate, key) = (shown.certificate.display(), shown.key.display());
    let (certificate, key) = (certificate.to_string(), key.to_string());
    let args = [script, &certificate, &key, version, client_ca.unwrap_or("-")];
    let program = Program::start("python3", &args);
    let port = program.port("");
    (program, port)
}
