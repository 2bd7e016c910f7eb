//! Answers told in other words, end to end: both references, every shaping, what is collected.

use std::io::Write;

use millstream::outcome::Outcome;

use crate::files::Served;
use crate::support::{Got, connect, drivers, ended, eventually, mock, stop};
use crate::upstream::{EVENTS, Upstream, configured_to};
use crate::{field, got, request};
const CHUNK: &str = "{\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":";

/// A chat answer of these tokens, each a JSON string; cut off before its end if `whole` is false.
fn chat_answer(tokens: &[&str], whole: bool) -> &'static str {
    let mut frames: Vec<String> = tokens
        .iter()
        .map(|token| {
            format!("data: {CHUNK}{{\"content\":{token}}},\"finish_reason\":null}}]}}\n\n")
        })
        .collect();
    if whole {
        frames.push(format!("data: {CHUNK}{{}},\"finish_reason\":\"stop\"}}]}}\n\n"));
        frames.push("data: [DONE]\n\n".to_owned());
    }
    let chunk = |frame: &String| format!("{:x}\r\n{frame}\r\n", frame.len());
    let mut answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_owned();
    answer.extend(frames.iter().map(chunk));
    // What is not whole breaks off in a chunk that is none.
    answer.push_str(if whole { "0\r\n\r\n" } else { "nonsense\r\n" });
    answer.leak()
}

#[test]
fn reference_a_the_chat_controller() {
    let up = Upstream::answering(chat_answer(&["\"He said \\\"hi\\\"\"", "\"\\n你好\""], true));
    let served = Served::start("chat", &format!("http://{}", up.addr), &[]);
    let body = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    let answer = got(served.addr, "POST /chat", "Content-Type: application/json\r\n", body);
    assert_eq!(field(&answer, "content-type").as_deref(), Some("text/event-stream; charset=utf-8"));
    let events: Vec<String> = answer.text().split_terminator("\n\n").map(str::to_owned).collect();
    let [start, first, second, done] = events.as_slice() else { panic!("{}", answer.text()) };
    assert!(start.starts_with("event: start\ndata:") && done.starts_with("event: done\ndata:"));
    assert_eq!(first, "data: \"He said \\\"hi\\\"\"");
    let token: String =
        serde_json::from_str(second.strip_prefix("data: ").expect("data")).expect("JSON");
    assert_eq!(token, "\n你好");
    let asked = up.next();
    assert_eq!(asked.line(), "POST /v1/chat");
    assert_eq!(asked.body, body.replace("]}", "],\"stream\":true}"));
    // An error behind the first token is told in its event, which is the stream's end by name.
    let broken = Upstream::answering(chat_answer(&["\"a\""], false));
    let served = Served::start("chat", &format!("http://{}", broken.addr), &[]);
    let answer = got(served.addr, "POST /chat", "", "{}");
    assert!(answer.whole && answer.text().contains("data: \"a\"\n\nevent: error\ndata: "));
    assert!(!answer.text().contains("event: done"));
    assert_eq!(got(served.addr, "GET /chat", "", "").head.status(), 405);
}

#[test]
fn reference_b_the_prompt_optimiser() {
    let upstream = mock();
    let base = format!("http://{upstream}");
    let served = Served::start("optimize", &base, &[]);
    let form = "{\"prompt\":\"写诗\",\"opening\":\"x\"}";
    let through = got(served.addr, "POST /optimize-stream?mock_rate=0", "", form);
    let direct = got(upstream, "POST /prompt/optimize-prompt?mock_rate=0", "", form);
    assert!(through.whole && through.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(through.text(), direct.text(), "line by line, as it came");
    let refused = got(served.addr, "POST /optimize-stream", "", "{}");
    assert_eq!(refused.head.status(), 400);
    drop(served);
    // Shorter by a flag, which wins over the file.
    let served = Served::start("optimize", &base, &["--stream-timeout", "300ms"]);
    let late = got(served.addr, "GET /optimize-stream?prompt=a&mock_stall=2:60000", "", "");
    let end = "event: timeout\ndata: 请求超时\n\n";
    assert!(late.whole && late.text().ends_with(end), "{}", late.text());
    // The limit is the same before the service has answered, and so is what the page is told.
    let late = got(served.addr, "GET /optimize-stream?prompt=a&mock_head_delay=60000", "", "");
    assert_eq!((late.head.status(), late.text().as_str()), (200, end));
    let kind = field(&late, "content-type");
    assert_eq!(kind.as_deref(), Some("text/event-stream; charset=utf-8"));
    let line = "POST /optimize-stream?mock_truncate=100";
    let broken = got(served.addr, line, "", form);
    assert!(broken.whole && broken.text().contains("event: error\ndata: "), "{}", broken.text());
    let busy = got(served.addr, "POST /optimize-stream?mock_status=429", "", form);
    assert_eq!(busy.head.status(), 200);
    assert_eq!(busy.text(), "event: error\ndata: the mock was told to fail\n\n");
    assert_eq!(got(served.addr, "POST /optimize-stream", "", "{}").head.status(), 400);
    drop(served);
    let up = Upstream::answering(EVENTS);
    let served = Served::start("optimize", &format!("http://{}", up.addr), &[]);
    assert!(got(served.addr, "POST /optimize-stream", "", form).whole);
    let asked = up.next();
    assert_eq!(
        asked.body,
        "{\"prompt\":\"写诗\",\"type\":\"优化\",\"model\":\"qwen-max\",\"stream\":true}"
    );
    assert_eq!(asked.field("accept").as_deref(), Some("text/event-stream"));
    assert_eq!(asked.field("content-type").as_deref(), Some("application/json"));
}

#[test]
fn streams_are_told_in_other_words() {
    let config = r#"
        upstream = "UP"
        [[route]]
        prefix = "/openai"
        to = "/"
        response = "openai"
        include_usage = true
        [[route]]
        prefix = "/tokens"
        to = "/"
        response = "tokens"
        [route.events]
        start = false
        token = { name = "t", data = "{{json}}" }
        done = { data = "[END]" }
        error = "{{code}}"
    "#;
    for io in drivers() {
        let upstream = mock();
        let server = configured_to(upstream, io, config, "");
        let relay = server.addresses[0];
        let text = |got: &Got| -> String {
            let deltas = got.text();
            let chunks = deltas.lines().filter_map(|line| line.strip_prefix("data: "));
            let content = chunks.filter_map(|chunk| {
                let chunk: serde_json::Value = serde_json::from_str(chunk).ok()?;
                Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())
            });
            content.collect()
        };
        let mut texts = Vec::new();
        for path in [
            "/v1/chat/completions",
            "/v1/messages",
            "/v1/responses",
            "/api/v1/services/aigc/text-generation/generation",
            "/v1beta/models/g:streamGenerateContent",
        ] {
            let fields = "X-DashScope-SSE: enable\r\n";
            let line = format!("POST /openai{path}?mock_rate=0");
            let told = got(relay, &line, fields, "{\"model\":\"m\",\"stream\":true}");
            assert!(
                told.whole && told.text().ends_with("data: [DONE]\n\n"),
                "{path}: {}",
                told.text()
            );
            assert!(told.text().contains("\"usage\":{"), "{path}: {}", told.text());
            texts.push(text(&told));
            let tokens =
                got(relay, &format!("POST /tokens{path}?mock_rate=0"), fields, "{\"stream\":true}");
            let tokens = tokens.text();
            assert!(tokens.starts_with("event: t\ndata: \""), "{path}: {tokens}");
            assert!(tokens.ends_with("event: done\ndata: [END]\n\n"), "{path}: {tokens}");
        }
        assert!(!texts[0].is_empty() && texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        let line = "POST /tokens/v1/messages?mock_truncate=900";
        let broken = got(relay, line, "", "{\"stream\":true}");
        assert!(
            broken.whole && broken.text().ends_with("event: error\ndata: upstream_truncated\n\n")
        );
        let line = "POST /openai/v1/messages?mock_truncate=900";
        let broken = got(relay, line, "", "{\"stream\":true}");
        assert!(!broken.whole && broken.text().contains("\"code\":\"upstream_truncated\""));
        // Before the head, in the words the client reads.
        let line = "POST /openai/v1/messages?mock_gzip=1";
        let packed = got(relay, line, "", "{\"stream\":true}");
        assert_eq!(packed.head.status(), 502, "{}", packed.text());
        assert!(packed.text().contains("\"type\":\"server_error\""), "{}", packed.text());
        stop(server);
    }
}

#[test]
fn a_client_that_wants_no_stream_gets_the_whole_of_one() {
    let config = r#"
        upstream = "UP"
        [[route]]
        prefix = "/v1"
        collect = true
        idle_timeout = "300ms"
        cors = { origins = "*" }
        [[route]]
        prefix = "/told"
        to = "/"
        response = "openai"
        collect = true
    "#;
    for io in drivers() {
        let upstream = mock();
        let server = configured_to(upstream, io, config, "");
        let relay = server.addresses[0];
        let json = |got: &Got| -> serde_json::Value {
            serde_json::from_slice(&got.body).unwrap_or_else(|_| panic!("{}", got.text()))
        };
        let content = |value: &serde_json::Value| {
            value["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
        };
        let body = "{\"model\":\"m\",\"messages\":[]}";
        let origin = "Origin: https://a.example\r\n";
        let chat = got(relay, "POST /v1/chat/completions?mock_rate=0", origin, body);
        assert_eq!(field(&chat, "content-type").as_deref(), Some("application/json"));
        assert_eq!(field(&chat, "access-control-allow-origin").as_deref(), Some("*"));
        assert_eq!(field(&chat, "content-length"), Some(chat.body.len().to_string()));
        let answer = json(&chat);
        assert_eq!(answer["object"], "chat.completion");
        assert!(answer["usage"]["completion_tokens"].is_number(), "{answer}");
        let direct = json(&got(upstream, "POST /v1/chat/completions", "", body));
        assert_eq!(content(&answer), content(&direct));
        let folded = json(&got(relay, "POST /told/v1/messages?mock_rate=0", "", body));
        assert_eq!(content(&folded), content(&direct));
        // Those that want a stream, and what no chat asks for, are as before.
        let stream = got(relay, "POST /v1/chat/completions", "", "{\"stream\":true}");
        assert!(stream.text().ends_with("data: [DONE]\n\n"));
        let models = got(relay, "GET /v1/models", "", "");
        assert_eq!(json(&models)["object"], "list");
        for (fault, status, code) in [
            ("truncate=700", 502, Outcome::UpstreamTruncated),
            ("stall=2:60000", 504, Outcome::IdleTimeout),
            ("no_terminal=1&mock_truncate=300&mock_framing=close", 502, Outcome::UpstreamClosed),
        ] {
            let line = format!("POST /v1/chat/completions?mock_{fault}");
            let failed = got(relay, &line, origin, body);
            assert_eq!(failed.head.status(), status, "{fault}: {}", failed.text());
            assert_eq!(json(&failed)["error"]["code"], code.as_str(), "{fault}");
            assert!(field(&failed, "access-control-allow-origin").is_some());
        }
        let busy = got(relay, "POST /v1/chat/completions?mock_status=429", "", body);
        assert_eq!(busy.head.status(), 429);
        // Leaving is noticed while there is nothing to send.
        let before = ended(&server, Outcome::ClientGone);
        let line = "POST /told/v1/messages?mock_stall=2:60000";
        let mut client = connect(relay);
        client.write_all(request(line, "", body).as_bytes()).expect("sends");
        eventually("it is under way", || {
            got(upstream, "GET /stats", "", "").text().contains("\"active\":1")
        });
        drop(client);
        eventually("it is noticed", || ended(&server, Outcome::ClientGone) == before + 1);
        eventually("the upstream too", || {
            got(upstream, "GET /stats", "", "").text().contains("\"active\":0")
        });
        stop(server);
    }
}

/// The files for OpenAI's SDKs, at a mock that refuses what the providers would.
#[test]
fn openais_clients_at_other_providers() {
    let upstream = format!("http://{}", mock());
    for name in ["openai-at-anthropic", "openai-at-dashscope"] {
        let served = Served::start(name, "", &["--upstream", &upstream]);
        let line = "POST /v1/chat/completions?mock_strict=1&mock_rate=0";
        let messages = "\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]";
        let usage = "\"stream\":true,\"stream_options\":{\"include_usage\":true}";
        let told = got(served.addr, line, "", &format!("{{{messages},{usage}}}"));
        let text = told.text();
        assert!(told.whole && text.ends_with("data: [DONE]\n\n"), "{name}: {text}");
        assert!(text.contains("\"usage\":{\"prompt_tokens\":7"), "{name}: {text}");
        let whole = got(served.addr, line, "", &format!("{{{messages},\"stream\":false}}"));
        assert!(whole.text().contains("\"object\":\"chat.completion\""), "{}", whole.text());
        let line = format!("{line}&mock_tools=1");
        let called = got(served.addr, &line, "", &format!("{{{messages},\"stream\":true}}"));
        assert!(called.text().contains("\"finish_reason\":\"tool_calls\""), "{}", called.text());
    }
}
