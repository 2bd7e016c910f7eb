//! Configuration files as the binary takes them: the examples, the README's, and wrong ones.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use crate::got;
use crate::support::mock;
use crate::upstream::file;

const BINARY: &str = env!("CARGO_BIN_EXE_millstream");

fn run(args: &[&str]) -> Output {
    Command::new(BINARY)
        .args(args)
        .env("OPENAI_API_KEY", "sk-a-secret")
        .env("ANTHROPIC_API_KEY", "sk-a-secret")
        .env("DASHSCOPE_API_KEY", "sk-a-secret")
        .env("UPSTREAM", "http://127.0.0.1:9000")
        .output()
        .expect("runs")
}

fn examples() -> Vec<std::path::PathBuf> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = std::fs::read_dir(dir).expect("readable");
    // Beside them stand clients.
    let files = entries.map(|entry| entry.expect("readable").path());
    files.filter(|path| path.extension().is_some_and(|ext| ext == "toml")).collect()
}

#[test]
fn every_example_is_right_and_tells_no_secret() {
    assert!(examples().len() >= 4);
    for path in examples() {
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.lines().count() <= 15, "{}", path.display());
        let shown = path.to_str().expect("UTF-8");
        let checked = run(&["check", "--config", shown]);
        let out = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        assert!(out.contains(shown) && out.contains("route ") && !out.contains("secret"), "{out}");
    }
}

#[test]
fn the_readmes_file_is_right() {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).expect("readable");
    let (_, rest) = text.split_once("```toml\n").expect("a file");
    let path = file(rest.split_once("```").expect("its end").0);
    let checked = run(&["check", "--config", path.to_str().expect("UTF-8")]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn a_wrong_file_is_told_by_line() {
    let path = file("upstream = \"http://a\"\nworker = 1\n[[route]]\npath = \"x\"\n");
    let path = path.to_str().expect("UTF-8");
    for command in ["check", "serve"] {
        let checked = run(&[command, "--config", path]);
        assert_eq!(checked.status.code(), Some(2));
        let told = String::from_utf8_lossy(&checked.stderr);
        assert!(told.contains(&format!("{path}:2: \"worker\" is no key")), "{told}");
        assert!(told.contains("did you mean \"workers\"?"), "{told}");
        assert!(told.contains(&format!("{path}:4: path: \"x\" does not begin with a /")), "{told}");
    }
    let missing = run(&["check", "--config", "/none.toml"]);
    let told = String::from_utf8_lossy(&missing.stderr);
    assert!(told.contains("--config: /none.toml cannot be read"), "{told}");
    let ca =
        file("upstream = \"https://a\"\nresolve = \"a=127.0.0.1\"\nupstream_ca = \"/none.pem\"\n");
    let ca = ca.to_str().expect("UTF-8");
    let told = run(&["check", "--config", ca]);
    let told = String::from_utf8_lossy(&told.stderr);
    assert!(told.contains(&format!("{ca}:3: upstream_ca: /none.pem cannot be read")), "{told}");
}

/// An example, served by the binary; ended when it is dropped.
pub(crate) struct Served {
    child: std::process::Child,
    pub(crate) addr: SocketAddr,
}

impl Served {
    /// With more flags, which win over the file; `UPSTREAM` is the base of the two that use it.
    pub(crate) fn start(name: &str, upstream: &str, flags: &[&str]) -> Self {
        let config = format!("examples/{name}.toml");
        let mut child = Command::new(BINARY)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["serve", "--config", &config, "--admin", "off", "--listen", "127.0.0.1:0"])
            .args(["--workers", "1", "--access-log", "off"])
            .args(flags)
            .env("UPSTREAM", upstream)
            .env("OPENAI_API_KEY", "k")
            .env("ANTHROPIC_API_KEY", "k")
            .env("DASHSCOPE_API_KEY", "k")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut told = String::new();
        let mut stderr = child.stderr.take().expect("piped");
        while !told.contains(" -> ") || !told.ends_with('\n') {
            let mut byte = [0];
            stderr.read_exact(&mut byte).expect("a start-up line");
            told.push(char::from(byte[0]));
        }
        assert!(told.contains(&config), "{told}");
        let addr = told.split("http://").nth(1).and_then(|rest| rest.split([' ', ',']).next());
        let addr = addr.expect("an address").parse().expect("an address");
        Self { child, addr }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn examples_serve() {
    for (name, path, body, has) in [
        ("openai", "/v1/chat/completions", "{\"stream\":true}", "[DONE]"),
        ("anthropic", "/v1/messages", "{\"stream\":true,\"max_tokens\":9}", "message_stop"),
        (
            "dashscope",
            "/api/v1/services/aigc/text-generation/generation",
            "{\"model\":\"qwen\"}",
            "event:result",
        ),
        ("vllm-pair", "/v1/chat/completions", "{\"stream\":true}", "[DONE]"),
        ("resume", "/chat", "{\"messages\":[]}", "\nevent: done\n"),
    ] {
        let upstream = format!("http://{}", mock());
        let served = Served::start(name, &upstream, &["--upstream", &upstream]);
        let fields = "Content-Type: application/json\r\n";
        let got = got(served.addr, &format!("POST {path}"), fields, body);
        assert!(got.whole && got.text().contains(has), "{name}: {}", got.text());
        let named = got.head.field("x-stream-id").is_some();
        assert_eq!(named, name == "resume", "{name}");
    }
}
