//! The access log, one JSON line per exchange, and the operational log on standard error.
//!
//! Workers put finished lines into a queue bounded in lines and in bytes; one thread writes them.
//! A full queue drops the line and says so to the worker, which counts it: a slow disk must not
//! slow a stream.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use crate::limits::ACCESS_LOG_QUEUE_BYTES_MAX;

/// Lines that may wait for the writer.
const QUEUE_LINES_MAX: usize = 16 * 1024;

/// One exchange. No field can hold a header or a query: credentials never get here.
#[derive(Debug, Serialize)]
#[allow(missing_docs)] // the names are the keys of the log; README tells them
pub struct AccessLine<'a> {
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    pub request_id: &'a str,
    pub client: SocketAddr,
    pub method: &'a str,
    pub path: &'a str,
    /// What the file calls the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    pub status: u16,
    pub dialect: &'a str,
    pub model: Option<&'a str>,
    pub outcome: &'a str,
    pub attempts: u32,
    pub reused: bool,
    pub stream: bool,
    pub frames: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub first_byte_ms: Option<f64>,
    pub first_frame_ms: Option<f64>,
    pub duration_ms: f64,
    pub longest_gap_ms: Option<f64>,
    pub pauses: u32,
    pub heartbeats: u32,
    pub worker: usize,
    pub error: Option<&'a str>,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*time))
}

/// `time` as RFC 3339 in UTC with milliseconds.
pub fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days to a civil date, by eras of 400 years beginning on 1 March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (second, millis) = (second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

enum Message {
    Line(Vec<u8>),
    Reopen,
    Close,
}

/// A worker's end of the access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    /// Bytes that wait for the writer, of all workers.
    waiting: Arc<AtomicUsize>,
}

/// The writer's end: reopens and closes it.
#[derive(Debug)]
pub struct Writer {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// No access log.
    pub fn off() -> (Self, Writer) {
        (Self { queue: None, waiting: Arc::default() }, Writer { queue: None, thread: None })
    }

    /// To standard output.
    ///
    /// # Errors
    /// The writer's thread cannot be started.
    pub fn stdout() -> io::Result<(Self, Writer)> {
        Self::start(|| Ok(Box::new(io::stdout())))
    }

    /// To the end of a file.
    ///
    /// # Errors
    /// The file cannot be opened, or the writer's thread cannot be started.
    pub fn file(path: &Path) -> io::Result<(Self, Writer)> {
        let path = path.to_owned();
        Self::start(move || Ok(Box::new(File::options().append(true).create(true).open(&path)?)))
    }

    fn start(
        open: impl Fn() -> io::Result<Box<dyn Write + Send>> + Send + 'static,
    ) -> io::Result<(Self, Writer)> {
        let (to, from) = sync_channel(QUEUE_LINES_MAX);
        let first = open()?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&waiting);
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&from, BufWriter::new(first), &open, &written))?;
        let writer = Writer { queue: Some(to.clone()), thread: Some(thread) };
        Ok((Self { queue: Some(to), waiting }, writer))
    }

    /// Whether lines are wanted.
    pub fn enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues a line; false where it had to be dropped.
    pub fn write(&self, line: &AccessLine<'_>) -> bool {
        let Some(queue) = &self.queue else {
            return true;
        };
        let mut bytes = Vec::with_capacity(512);
        if serde_json::to_writer(&mut bytes, line).is_err() {
            return false;
        }
        bytes.push(b'\n');
        let len = bytes.len();
        let queued = self.waiting.fetch_add(len, Ordering::Relaxed) + len
            <= ACCESS_LOG_QUEUE_BYTES_MAX
            && queue.try_send(Message::Line(bytes)).is_ok();
        if !queued {
            self.waiting.fetch_sub(len, Ordering::Relaxed);
        }
        queued
    }
}

impl Writer {
    /// Opens the file again (it was moved away).
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(Message::Reopen);
        }
    }

    /// Writes what is queued and ends the thread.
    pub fn close(mut self) {
        if let Some(queue) = self.queue.take() {
            let _ = queue.send(Message::Close);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_lines(
    from: &Receiver<Message>,
    mut out: BufWriter<Box<dyn Write + Send>>,
    open: &dyn Fn() -> io::Result<Box<dyn Write + Send>>,
    waiting: &AtomicUsize,
) {
    loop {
        let message = match from.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Empty) => {
                let _ = out.flush();
                match from.recv() {
                    Ok(message) => message,
                    Err(_) => return,
                }
            }
            Err(TryRecvError::Disconnected) => break,
        };
        match message {
            Message::Line(line) => {
                let _ = out.write_all(&line);
                waiting.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Reopen => {
                let _ = out.flush();
                match open() {
                    Ok(opened) => out = BufWriter::new(opened),
                    Err(error) => log::error!("the access log cannot be reopened: {error}"),
                }
            }
            Message::Close => break,
        }
    }
    let _ = out.flush();
}

struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // Libraries speak up only when something is wrong.
        metadata.target().starts_with("millstream") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record
                .args()
                .to_string()
                .escape_debug()
                .to_string()
                .replace("\\\"", "\"")
                .replace("\\'", "'");
            let time = timestamp(SystemTime::now());
            let _ = writeln!(io::stderr(), "{time} {:<5} millstream: {text}", record.level());
        }
    }

    fn flush(&self) {}
}

/// Sends operational messages to standard error, one line each.
pub fn init(level: log::LevelFilter) {
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A disk that is stuck until it is told to go on.
    struct Stuck(Receiver<()>, Arc<AtomicUsize>);

    impl Write for Stuck {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.fetch_add(buf.len(), Ordering::Relaxed);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(path: &str) -> AccessLine<'_> {
        AccessLine {
            time: UNIX_EPOCH,
            request_id: "r",
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
            method: "POST",
            path,
            route: None,
            status: 200,
            dialect: "generic",
            model: None,
            outcome: "done",
            attempts: 1,
            reused: false,
            stream: true,
            frames: 0,
            bytes_in: 0,
            bytes_out: 0,
            first_byte_ms: None,
            first_frame_ms: None,
            duration_ms: 0.0,
            longest_gap_ms: None,
            pauses: 0,
            heartbeats: 0,
            worker: 0,
            error: None,
        }
    }

    #[test]
    fn a_stuck_disk_costs_bounded_memory_and_no_line_is_half_written() {
        let (go, stuck) = sync_channel(0);
        let written = Arc::new(AtomicUsize::new(0));
        let disk = std::cell::Cell::new(Some(Stuck(stuck, Arc::clone(&written))));
        let disk = std::sync::Mutex::new(disk);
        let (log, writer) = AccessLog::start(move || {
            let disk = disk.lock().map(|disk| disk.take()).ok().flatten();
            disk.map(|disk| Box::new(disk) as Box<dyn Write + Send>)
                .ok_or_else(|| io::Error::other("opened twice"))
        })
        .expect("starts");
        let path = "x".repeat(30_000);
        let one = serde_json::to_vec(&line(&path)).expect("JSON").len() + 1;
        let kept = (0..1000).filter(|_| log.write(&line(&path))).count();
        assert!(kept >= 1 && kept * one <= ACCESS_LOG_QUEUE_BYTES_MAX + 2 * one);
        drop(go);
        writer.close();
        assert_eq!(written.load(Ordering::Relaxed), kept * one);
        assert_eq!(log.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn timestamps_are_civil_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (4_102_444_800, "2100-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
