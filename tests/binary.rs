//! The built binary: its start-up line, its flags, its signals, its log, and what it does when
//! descriptors run out or a client leaves.

#[path = "binary/process.rs"]
mod process;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use process::{BEGINNING, BINARY, END, Relay, flag, next, puppet};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use support::{chat, connect, drivers, eventually, mock, read_response};

const CHAT: &str = "/v1/chat/completions";

fn run(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sends a chat request and leaves the answer to be read.
fn send_chat(relay: &Relay, target: &str) -> TcpStream {
    let mut stream = connect(relay.addr);
    stream.write_all(chat(target, "").as_bytes()).expect("sends");
    stream
}

/// A stream whose first frame has come down.
fn streaming(relay: &Relay, asked: &std::sync::mpsc::Receiver<process::Asked>) -> Streaming {
    let mut stream = send_chat(relay, CHAT);
    let asked = next(asked);
    asked.say(BEGINNING);
    let mut taken = Vec::new();
    while !text(&taken).contains("data: 1\n\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a first frame");
        taken.push(byte[0]);
    }
    Streaming { stream, asked }
}

struct Streaming {
    stream: TcpStream,
    asked: process::Asked,
}

impl Streaming {
    /// What else comes down until the relay closes.
    fn rest(mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        text(&rest)
    }
}

#[test]
fn the_start_up_line_tells_what_runs() {
    for io in drivers() {
        let upstream = mock();
        let relay = Relay::start(upstream, io, &["--max-streams", "77", "--pin"]);
        let driver = if flag(io) == "epoll" { " on epoll" } else { " on io_uring" };
        let (addr, admin) = (relay.addr, relay.admin);
        for part in [
            &format!(" serving http://{addr} -> http://{upstream}, 1 worker{driver}"),
            "up to 77 streams",
            &format!("admin http://{admin}"),
        ] {
            assert!(relay.announced.contains(part), "{part:?} is not in {}", relay.announced);
        }
        assert!(addr.port() != 0 && admin.port() != 0);
        assert_eq!(relay.stderr().lines().count(), 1, "one line: {}", relay.stderr());
        let stream = send_chat(&relay, CHAT);
        assert!(read_response(&mut { stream }, "POST").expect("an answer").whole);
    }
}

#[test]
fn sigterm_and_sigint_drain_and_a_running_stream_finishes() {
    for (io, signal) in drivers().into_iter().flat_map(|io| [(io, Signal::TERM), (io, Signal::INT)])
    {
        let (upstream, asked) = puppet();
        let mut relay = Relay::start(upstream, io, &[]);
        assert_eq!(relay.admin("/readyz").head.status(), 200);
        let running = streaming(&relay, &asked);
        let mut idle = connect(relay.addr);
        eventually("both are accepted", || relay.metric("millstream_connections_active") == 2.0);
        relay.signal(signal);
        eventually("new connections are refused", || {
            let refused = TcpStream::connect(relay.addr).is_err();
            if refused {
                // Whoever looks at readiness first never sends a request into the closed door.
                assert_eq!(relay.admin("/readyz").head.status(), 503);
            }
            refused
        });
        assert_eq!(relay.admin("/healthz").head.status(), 200);
        assert_eq!(relay.metric("millstream_streams_active"), 1.0);
        // A connection without a request yet may still send its first.
        idle.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sends");
        let late = next(&asked);
        late.say("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(read_response(&mut idle, "GET").expect("an answer").head.status(), 204);
        running.asked.say(END);
        let rest = running.rest();
        assert!(rest.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{rest:?}");
        assert_eq!(relay.ended().code(), Some(0), "{}", relay.stderr());
        assert!(relay.stderr().contains("draining"), "{}", relay.stderr());
    }
}

#[test]
fn a_second_signal_ends_at_once_and_says_so_in_the_stream() {
    for io in drivers() {
        let (upstream, asked) = puppet();
        let mut relay = Relay::start(upstream, io, &["--drain-grace", "1h"]);
        let running = streaming(&relay, &asked);
        let left = &running.asked.left;
        relay.signal(Signal::TERM);
        eventually("it drains", || relay.admin("/readyz").head.status() == 503);
        assert!(left.try_recv().is_err(), "one signal ends nothing");
        relay.signal(Signal::INT);
        left.recv_timeout(Duration::from_secs(10)).expect("the upstream is cancelled");
        let rest = running.rest();
        assert!(rest.contains("drained") && !rest.ends_with("0\r\n\r\n"), "{rest:?}");
        assert_eq!(relay.ended().code(), Some(0), "{}", relay.stderr());
    }
}

#[test]
fn a_wrong_command_line_is_one_line_with_the_flag_and_the_mend() {
    let up = ["serve", "--upstream", "http://127.0.0.1:9"];
    let cases: &[(&[&str], &str, &str)] = &[
        (&["--bogus"], "--bogus: no such flag", "see --help"),
        (&["--heartbaet", "5s"], "--heartbaet: no such flag", "did you mean --heartbeat?"),
        (&["--heartbeat"], "--heartbeat: \"\": a value is missing", "e.g. 10s"),
        (&["--upstream", "http://a"], "--upstream: given more than once", "give it once"),
        (&["--pin=3"], "--pin: takes no value", "write it alone"),
        (&["extra"], "extra: no such flag", "see --help"),
        (&["--idle-timeout", "30"], "--idle-timeout: \"30\": the unit is missing", "30s, 5m"),
        (&["--idle-timeout", "0s"], "--idle-timeout", "write off"),
        (&["--drain-grace", "99999h"], "--drain-grace", "write off"),
        (&["--head-timeout=-1s"], "--head-timeout: \"-1s\"", "write a number with its unit"),
        (&["--connect-timeout", "0s"], "--connect-timeout: 0 would be due at once", "30s"),
        (&["--high-water-mark", "1t"], "--high-water-mark: \"1t\": unknown unit", "256k"),
        (&["--high-water-mark", "1k"], "--high-water-mark", "write 4k or more"),
        (&["--low-water-mark", "1m"], "--low-water-mark", "lower it"),
        (&["--max-frame-bytes", "1"], "--max-frame-bytes", "write 1k or more"),
        (&["--max-frame-bytes", "9999g"], "--max-frame-bytes", "lower it"),
        (&["--max-body-bytes", "x"], "--max-body-bytes: \"x\": not a size", "write bytes"),
        (&["--heartbeat", "1ms"], "--heartbeat", "write 1s or more"),
        (&["--workers", "0"], "--workers", "leave it out"),
        (&["--workers", "-1"], "--workers: \"-1\"", "write e.g. 4"),
        (&["--workers", "many"], "--workers: \"many\"", "write e.g. 4"),
        (&["--max-streams", "0"], "--max-streams", "write 1 or more"),
        (&["--max-streams", "99999999"], "--max-streams", "write at most"),
        (&["--pool-max-idle", "99999999"], "--pool-max-idle", "lower it"),
        (&["--retries", "-1"], "--retries: \"-1\"", "write e.g. 0"),
        (&["--retry-status", "200"], "--retry-status: 200", "write e.g. 429,503"),
        (&["--retry-status", "x"], "--retry-status: \"x\"", "write e.g. 429,503,529"),
        (&["--listen", "nowhere"], "--listen: \"nowhere\"", "write e.g. 0.0.0.0:8080"),
        (&["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:1"], "--listen", "give it once"),
        (&["--admin", "x"], "--admin: \"x\"", "write e.g. 127.0.0.1:9901 or off"),
        (&["--admin", "127.0.0.1:8080"], "--admin", "choose another"),
        (&["--io", "kqueue"], "--io: \"kqueue\"", "write one of: auto, uring, epoll"),
        (&["--log-level", "loud"], "--log-level: \"loud\"", "write e.g. warn"),
        (&["--access-log", ""], "--access-log: is empty", "write a path, - or off"),
    ];
    for (flags, starts, mend) in cases {
        for command in ["serve", "check"] {
            refused(&[&[command], &up[1..], *flags].concat(), starts, mend);
        }
    }
    for url in [
        "ftp://a",
        "a:1",
        "https://",
        "http://",
        "http://:1",
        "http://a:0",
        "http://a/?q",
        "http://a b",
    ] {
        refused(&["serve", "--upstream", url], "--upstream: ", "write e.g. https://api.openai.com");
    }
    let whole: &[(&[&str], &str, &str)] = &[
        (&[], "no command is given", "write serve, mock, demo or check"),
        (&["serv"], "serv: no such command", "did you mean serve?"),
        (&["serve"], "--upstream: is required", "e.g. --upstream http://"),
        (&["mock", "--rate", "x"], "--rate: \"x\"", "write e.g. 100"),
        (&["mock", "--tokens", "-4"], "--tokens: \"-4\"", "write e.g. 500"),
        (&["demo", "--listen", "x"], "--listen: \"x\"", "write e.g. "),
    ];
    for (args, starts, mend) in whole {
        refused(args, starts, mend);
    }
}

#[test]
fn what_is_wrong_about_tls_or_names_is_one_line_too() {
    let cases: &[(&[&str], &str, &str)] = &[
        (&["--tls-cert", "a.pem"], "--tls-key: 1 certificates and 0 keys", "in the same order"),
        (
            &["--upstream-ca", "a.pem"],
            "--upstream-ca: the upstream is plain http",
            "write https://",
        ),
        (&["--upstream-insecure"], "--upstream-insecure", "write https://"),
        (&["--tls-handshake-timeout", "0s"], "--tls-handshake-timeout", "write e.g. 30s"),
        (&["--resolve", "a"], "--resolve: \"a\"", "write e.g. llm.internal=10.0.0.7"),
    ];
    for (flags, starts, mend) in cases {
        refused(&[&["serve", "--upstream", "http://127.0.0.1:1"], *flags].concat(), starts, mend);
    }
    let files: &[(&[&str], &str, &str)] = &[
        (&["--upstream-ca", "/nowhere.pem"], "--upstream-ca: /nowhere.pem cannot be read", ""),
        (
            &["--upstream-tls-name", "a b"],
            "--upstream-tls-name: \"a b\"",
            "write e.g. llm.internal",
        ),
        (&["--tls-cert", "/no", "--tls-key", "/no"], "--tls-cert: /no cannot be read", ""),
        (&["--tls-cert", "Cargo.toml", "--tls-key", "/no"], "--tls-cert: Cargo.toml holds", "PEM"),
    ];
    for (flags, starts, mend) in files {
        refused(&[&["check", "--upstream", "https://127.0.0.1:1"], *flags].concat(), starts, mend);
    }
}

fn refused(args: &[&str], starts: &str, mend: &str) {
    let output = run(args);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(stdout.is_empty() && stderr.ends_with('\n'), "{args:?}: {stdout}{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert!(stderr.starts_with(&format!("millstream: {starts}")), "{args:?}: {stderr}");
    assert!(stderr.contains(mend), "{args:?}: {stderr}");
}

#[test]
fn what_only_the_system_can_refuse_is_one_line_too() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound").to_string();
    let common = ["serve", "--upstream", "http://127.0.0.1:9"];
    for (flags, starts) in [
        (&["--listen", &address, "--admin", "off"][..], format!("--listen {address}: ")),
        (&["--listen", "127.0.0.1:0", "--admin", &address], format!("--admin {address}: ")),
        (
            &["--listen", "127.0.0.1:0", "--admin", "off", "--access-log", "/nowhere/x"],
            "--access-log: /nowhere/x ".to_owned(),
        ),
    ] {
        let output = run(&[&common[..], flags].concat());
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.starts_with(&format!("millstream: {starts}")), "{stderr}");
    }
    drop(taken);
}

#[test]
fn check_prints_the_plan_and_help_and_version_are_no_errors() {
    let output = run(&[
        "check",
        "--upstream",
        "http://up:1/base/",
        "--listen",
        "127.0.0.1:8081",
        "--listen",
        "[::1]:8082",
        "--workers",
        "3",
        "--high-water-mark",
        "512k",
        "--idle-timeout",
        "off",
        "--retry-status",
        "429,503",
        "--io",
        "epoll",
        "--max-streams",
        "1000",
    ]);
    let plan = text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty());
    let row = |name: &str| {
        let line = plan.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {plan}")).trim().to_owned()
    };
    for (name, value) in [
        ("listen ", "127.0.0.1:8081, [::1]:8082"),
        ("upstream ", "http://up:1/base"),
        ("admin ", "127.0.0.1:9901"),
        ("workers ", "3"),
        ("io ", "epoll"),
        ("streams at once ", "1000"),
        ("marks ", "524288 / 262144 bytes"),
        ("idle timeout ", "off"),
        ("first-byte timeout ", "300s"),
        ("drain grace ", "600s"),
    ] {
        assert_eq!(row(name), value);
    }
    assert!(row("retries ").contains("statuses [429, 503]"));
    let version = run(&["--version"]);
    assert_eq!(text(&version.stdout), format!("millstream {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["serve", "--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("--first-byte-timeout"));
}

/// Sets the child's soft limit of descriptors.
fn limit_descriptors(relay: &Relay, most: u64) {
    let limit = Rlimit { current: Some(most), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(relay.pid()), Resource::Nofile, limit).expect("sets the child's limit");
}

/// The limit at which the worker, whose table is its own, can open `more` descriptors.
fn limit_for(relay: &Relay, more: u64) -> u64 {
    let threads = format!("/proc/{}/task", relay.pid().as_raw_nonzero());
    let mut threads = std::fs::read_dir(threads).expect("the child runs").flatten();
    let named = |thread: &std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "worker-0\n")
    };
    let worker = threads.find(named).expect("a worker").path().join("fd");
    let used = std::fs::read_dir(worker).expect("the worker runs").flatten();
    let used: Vec<u64> =
        used.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // A new descriptor is the lowest number that is free.
    let free = |number: &u64| !used.contains(number);
    (0..).filter(free).nth(more as usize).expect("numbers do not end")
}

#[test]
fn a_lack_of_descriptors_pauses_accepting_and_nothing_else() {
    for io in drivers() {
        let (upstream, asked) = puppet();
        let mut relay = Relay::start(upstream, io, &["--pool-max-idle", "0", "--retries", "0"]);
        let mut running = streaming(&relay, &asked);
        // The admin listener opens its own beside the start-up line; its answer ends with a close.
        let mut admin = connect(relay.admin);
        admin.write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n").expect("sends");
        admin.read_to_end(&mut Vec::new()).expect("an answer and the close");
        let before = Instant::now();
        limit_descriptors(&relay, limit_for(&relay, 2));
        // Two of these are accepted; the rest wait in the backlog, where a connection comes with its
        // first byte.
        let request = chat(CHAT, "");
        let (begun, rest) = request.as_bytes().split_at(1);
        let begin = |_| {
            let mut stream = connect(relay.addr);
            stream.write_all(begun).expect("sends");
            stream
        };
        let mut waiting: Vec<_> = (0..8).map(begin).collect();
        eventually("it runs out and says so", || {
            relay.stderr().contains("accept: Too many open files")
        });
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        std::thread::spawn(move || {
            for asked in asked {
                asked.say(BEGINNING);
                asked.say(END);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        // An accepted connection that cannot have an upstream one is told so; a descriptor of the
        // admin listener may have come free for it.
        waiting[0].write_all(rest).expect("sends");
        let first = read_response(&mut waiting[0], "POST").expect("an answer");
        assert!(first.whole && matches!(first.head.status(), 200 | 502), "{}", first.text());
        let served_first = usize::from(first.head.status() == 200);
        // The worker lives: the running stream finishes while nothing can be accepted.
        running.asked.say(END);
        let mut end = [0; END.len()];
        running.stream.read_exact(&mut end).expect("the rest");
        assert_eq!(text(&end), END);
        limit_descriptors(&relay, 1000);
        for stream in &mut waiting[1..] {
            stream.write_all(rest).expect("sends");
            let answer = read_response(stream, "POST").expect("all in the backlog are answered");
            assert!(answer.head.status() == 200 && answer.whole, "{}", answer.text());
        }
        let all = 7 + served_first;
        eventually("all are served", || served.load(Ordering::Relaxed) == all);
        // Each failing accept is followed by a wait of 100 ms, so it cannot have been more.
        let errors = relay.metric("millstream_accept_errors_total");
        let most = before.elapsed().as_millis() as f64 / 100.0 + 1.0;
        assert!(errors >= 1.0 && errors <= most, "{errors} failing accepts, {most} at most");
        assert_eq!(relay.stderr().matches("accept: ").count(), 1, "{}", relay.stderr());
        drop(waiting);
        relay.signal(Signal::TERM);
        assert_eq!(relay.ended().code(), Some(0));
    }
}

#[test]
fn a_limit_too_low_from_the_start_is_told_with_the_mend() {
    let check = |limit: &str| {
        let script =
            format!("ulimit -n {limit} && exec \"$0\" check --upstream http://a --workers 1");
        Command::new("sh").args(["-c", &script, BINARY]).output().expect("runs")
    };
    let low = check("40");
    let line = text(&low.stderr);
    assert_eq!((low.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    assert!(line.starts_with("millstream: --workers: ") && line.contains("ulimit -n"), "{line}");
    let enough = text(&check("300").stdout);
    assert!(enough.contains("streams at once      "), "{enough}");
}

/// A file of this test's own that does not exist yet.
fn fresh_file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn the_access_log_has_one_line_an_exchange_and_never_a_credential() {
    const FIELDS: &str = "Authorization: Bearer sk-SECRET1\r\nx-api-key: sk-SECRET2\r\n\
        api-key: sk-SECRET3\r\nCookie: session=SECRET4\r\nX-Goog-Api-Key: SECRET5\r\n\
        Proxy-Authorization: Basic SECRET6\r\n";
    for io in drivers() {
        let path = fresh_file(&format!("access-{}.log", flag(io)));
        let name = path.to_str().expect("UTF-8").to_owned();
        let flags =
            ["--access-log", &name, "--log-level", "debug", "--max-body-bytes", "1k", "--retries"];
        let mut relay = Relay::start(mock(), io, &[&flags[..], &["0"]].concat());
        let query = "key=SECRET7&api-key=SECRET8&api_key=SECRET9";
        let ask = |target: &str, more: &str| {
            let joined = if target.contains('?') { '&' } else { '?' };
            let request = chat(&format!("{target}{joined}{query}"), &format!("{FIELDS}{more}"));
            support::ask(relay.addr, &request).expect("an answer").head.status()
        };
        assert_eq!(ask(CHAT, ""), 200);
        assert_eq!(ask("/v1/messages", "X-Request-Id: mine\r\n"), 200);
        assert_eq!(ask(&format!("{CHAT}?mock_truncate=700"), ""), 200);
        assert_eq!(ask(&format!("{CHAT}?mock_status=429"), ""), 429);
        assert_eq!(ask(&format!("{CHAT}?mock_fail_first=9:close&mock_key={}", flag(io)), ""), 502);
        assert_eq!(ask(CHAT, "Upgrade: websocket\r\nConnection: upgrade\r\n"), 501);
        assert_eq!(ask("http://user-SECRET10.example/v1/messages", ""), 200);
        let unfit = format!("POST / HTTP/1.1\r\n{FIELDS}\r\n");
        assert_eq!(support::ask(relay.addr, &unfit).expect("an answer").head.status(), 400);
        let lines = || std::fs::read_to_string(&path).expect("readable").lines().count();
        eventually("all eight are accounted for", || lines() == 8);
        let moved = path.with_extension("old");
        std::fs::rename(&path, &moved).expect("moves");
        relay.signal(Signal::HUP);
        eventually("the log is opened again", || path.exists());
        let mut leaving = send_chat(&relay, &format!("{CHAT}?mock_stall=2:60000&{query}"));
        let _ = leaving.read(&mut [0; 50]).expect("a first byte");
        drop(leaving);
        eventually("it is accounted for", || lines() == 1);
        relay.signal(Signal::TERM);
        assert_eq!(relay.ended().code(), Some(0));
        let [old, new] = [&moved, &path].map(|path| std::fs::read_to_string(path).expect("there"));
        assert_lines(&old, &new);
        for said in [&old, &new, &relay.stderr()] {
            assert!(!said.contains("SECRET"), "{said}");
        }
    }
}

fn assert_lines(old: &str, new: &str) {
    let lines: Vec<serde_json::Value> = old
        .lines()
        .chain(new.lines())
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let outcomes: Vec<_> =
        lines.iter().map(|line| line["outcome"].as_str().expect("text")).collect();
    assert_eq!(
        outcomes,
        [
            "done",
            "done",
            "upstream_truncated",
            "done",
            "upstream_no_answer",
            "request_refused",
            "done",
            "request_refused",
            "client_gone"
        ]
    );
    assert_eq!(new.lines().count(), 1, "what came after the reopening: {new}");
    assert_eq!(lines[1]["request_id"], "mine");
    assert_eq!((&lines[0]["path"], &lines[0]["model"]), (&CHAT.into(), &"m-1".into()));
    assert_eq!((&lines[3]["status"], &lines[7]["status"]), (&429.into(), &400.into()));
    let keys = |line: &serde_json::Value| line.as_object().expect("an object").len();
    assert!(lines.iter().all(|line| keys(line) == 23), "every line has every key");
}

#[test]
fn a_client_that_leaves_is_a_cancel_upstream_whatever_the_stream_is_doing() {
    for io in drivers() {
        let (upstream, asked) = puppet();
        // Nothing but the client's leaving can end these streams within the test.
        let relay = Relay::start(upstream, io, &["--heartbeat", "off"]);
        for phase in ["before the first byte", "silent", "streaming"] {
            let (mut client, asked) = if phase == "before the first byte" {
                let client = send_chat(&relay, CHAT);
                (client, next(&asked))
            } else {
                let streaming = streaming(&relay, &asked);
                (streaming.stream, streaming.asked)
            };
            let busy = (phase == "streaming").then(|| {
                let say = asked.say.clone();
                std::thread::spawn(move || {
                    let frame = || b"9\r\ndata: 3\n\n\r\n".to_vec();
                    (0..10_000).take_while(|_| say.send(frame()).is_ok()).count()
                })
            });
            if busy.is_some() {
                client.read_exact(&mut [0; 9000]).expect("frames flow");
            }
            assert!(asked.left.try_recv().is_err(), "{phase}: still wanted");
            let leaving = Instant::now();
            drop(client);
            let left = asked.left.recv_timeout(Duration::from_secs(20));
            let left = left.unwrap_or_else(|_| panic!("{phase}: upstream never saw the cancel"));
            let took = left.duration_since(leaving).as_secs_f64() * 1e3;
            println!("{}: {phase}: upstream saw the cancel after {took:.2} ms", flag(io));
            if let Some(busy) = busy {
                busy.join().expect("no panic");
            }
        }
        eventually("all is released", || relay.metric("millstream_streams_active") == 0.0);
        assert_eq!(relay.metric("millstream_error_frames_total"), 0.0);
    }
}
