use super::super::cli::{Cli, Command};
use super::*;
use clap::Parser;

fn plan(flags: &str) -> Result<Plan, String> {
    let words = ["millstream", "serve", "--upstream", "http://up:1/base/"];
    let cli = Cli::try_parse_from(words.into_iter().chain(flags.split_whitespace()));
    match cli.expect("parses").command {
        Command::Serve(args) => Plan::from_args(&args, 20_000, 2),
        _ => panic!("not serve"),
    }
}

#[test]
fn defaults_are_those_of_the_limits() {
    use crate::limits as l;
    let plan = plan("").expect("valid");
    let x = &plan.exchange;
    assert_eq!((x.high_water_mark, x.low_water_mark), (l::HIGH_WATER_MARK, l::LOW_WATER_MARK));
    assert_eq!((x.frame_bytes_max, x.body_bytes_max), (l::FRAME_BYTES_MAX, l::BODY_BYTES_MAX));
    assert_eq!(
        (x.connect_timeout, x.first_byte_timeout),
        (l::CONNECT_TIMEOUT, l::FIRST_BYTE_TIMEOUT)
    );
    assert_eq!((x.idle_timeout, x.stream_timeout), (Some(l::IDLE_TIMEOUT), None));
    assert_eq!((x.write_timeout, x.heartbeat), (l::WRITE_TIMEOUT, Some(l::HEARTBEAT)));
    assert_eq!((x.head_timeout, x.keep_alive_timeout), (l::HEAD_TIMEOUT, l::KEEP_ALIVE_TIMEOUT));
    assert_eq!((x.retry.retries, x.retry.backoff), (l::RETRIES, l::RETRY_BACKOFF));
    assert_eq!((x.pool.idle_max, x.pool.idle_timeout), (POOL_IDLE_MAX, l::POOL_IDLE_TIMEOUT));
    assert_eq!(x.drain_grace, l::DRAIN_GRACE);
    assert_eq!(x.tls_handshake_timeout, l::TLS_HANDSHAKE_TIMEOUT);
    let own = DESCRIPTORS_RESERVED + 2 * (DESCRIPTORS_PER_WORKER + 2);
    assert_eq!((plan.workers, plan.streams_max as u64), (2, (20_000 - own - 128) / 2));
    assert_eq!((plan.upstreams[0].endpoints[0].authority.as_str(), "/base"), ("up:1", "/base"));
}

#[test]
fn defaults_start_on_many_cores_with_few_descriptors() {
    for (descriptors, workers) in [(1024, 16), (1024, 32), (256, 2), (1 << 30, 1)] {
        let cli = Cli::try_parse_from(["millstream", "serve", "--upstream", "http://up:1"]);
        let Ok(Cli { command: Command::Serve(args) }) = cli else { panic!("parses") };
        let plan = Plan::from_args(&args, descriptors, workers).expect("starts");
        let pooled = (plan.exchange.pool.idle_max * workers) as u64;
        assert!(plan.streams_max > 0 && pooled <= descriptors / 4);
    }
}

/// A pool is one endpoint's: whatever its connections differ by makes it another.
#[test]
fn whoever_is_spoken_to_otherwise_is_another_endpoint() {
    let endpoint = |words: &[&str]| {
        let cli = Cli::try_parse_from([&["millstream", "serve"], words].concat());
        let Ok(Cli { command: Command::Serve(args) }) = cli else { panic!("{words:?}") };
        endpoint_of(&args).expect("valid")
    };
    let url = ["--upstream", "https://up"];
    let pair = ["--upstream-cert", "c.pem", "--upstream-key", "c.key"];
    let mut seen = Vec::new();
    for (url, flags) in [
        (url, &[][..]),
        (["--upstream", "http://up"], &[]),
        (["--upstream", "https://up:444"], &[]),
        (["--upstream", "https://other"], &[]),
        (["--upstream", "https://up/base"], &[]),
        (url, &["--resolve", "up=10.0.0.1"]),
        (url, &["--upstream-ca", "ca.pem"]),
        (url, &pair),
        (url, &["--upstream-cert", "c.pem", "--upstream-key", "d.key"]),
        (url, &["--upstream-tls-name", "up.internal"]),
        (url, &["--upstream-insecure"]),
    ] {
        let words = [&url[..], flags].concat();
        let made = endpoint(&words);
        assert_eq!(made, endpoint(&words));
        assert!(!seen.contains(&made), "{words:?}");
        seen.push(made);
    }
}

#[test]
fn contradictions_are_refused_by_name() {
    for (flags, starts) in [
        ("--low-water-mark 256k", "--low-water-mark"),
        ("--high-water-mark 1k", "--high-water-mark"),
        ("--max-frame-bytes 10", "--max-frame-bytes"),
        ("--heartbeat 10ms", "--heartbeat"),
        ("--workers 0", "--workers"),
        ("--max-streams 100000", "--max-streams"),
        ("--max-streams 0", "--max-streams"),
        ("--pool-max-idle 20000", "--pool-max-idle"),
        ("--retry-status 200", "--retry-status"),
        ("--admin nowhere", "--admin"),
        ("--admin 127.0.0.1:8080", "--admin"),
        ("--listen 127.0.0.1:1 --listen 127.0.0.1:1", "--listen"),
        ("--write-timeout 0s", "--write-timeout"),
        ("--upstream-ca a.pem", "--upstream-ca"),
        ("--upstream-insecure", "--upstream-insecure"),
        ("--upstream-tls-name a", "--upstream-tls-name"),
        ("--upstream-cert a.pem", "--upstream-key"),
        ("--upstream-key a.pem", "--upstream-cert"),
        ("--upstream-insecure --upstream-ca a.pem", "--upstream-insecure"),
        ("--resolve up", "--resolve"),
        ("--resolve up=down", "--resolve"),
        ("--resolve down=10.0.0.1", "--resolve"),
        ("--tls-cert a.pem", "--tls-key"),
        ("--tls-key a.pem", "--tls-cert"),
    ] {
        let error = plan(flags).expect_err(flags);
        assert!(error.starts_with(starts), "{flags}: {error}");
    }
    for url in [
        "ftp://a",
        "https://",
        "a:1",
        "http://",
        "http://a:x",
        "http://u@a",
        "http://a/?q",
        "http://a\nb",
    ] {
        assert!(endpoint(url).expect_err(url).starts_with("--upstream"), "{url}");
    }
    assert_eq!(endpoint("http://[::1]:9").map(|e| (e.host, e.port)), Ok(("::1".into(), 9)));
    assert_eq!(endpoint("http://[::1]").map(|e| (e.host, e.port)), Ok(("::1".into(), 80)));
    assert_eq!(
        endpoint("https://a/v1").map(|e| (e.url(), e.port)),
        Ok(("https://a/v1".into(), 443))
    );
}
