//! Streams that survive their connection, on both drivers.

#[path = "resume/hand.rs"]
mod hand;
mod support;

use std::io::Write;
use std::net::SocketAddr;

use hand::{CHAT, Client, Ended, Upstream, coming_back};
use millstream::outcome::Outcome;
use millstream::server::Server;
use millstream::sse::{Message, Parser};
use millstream::telemetry::metrics::{Counter, WorkerMetrics};
use support::{DIALECT_PATHS, ask, chat, connect, drivers, ended, eventually, mock, relay, stop};

/// Runs `test` with a relay that keeps streams, on each driver.
fn with(flags: &str, test: impl Fn(&Upstream, SocketAddr, &Server)) {
    for io in drivers() {
        let upstream = Upstream::new();
        let server = relay(upstream.addr, io, &format!("--resume {flags}"));
        test(&upstream, server.addresses[0], &server);
        stop(server);
    }
}

fn count(server: &Server, pick: impl Fn(&WorkerMetrics) -> &Counter) -> u64 {
    server.metrics.iter().map(|metrics| pick(metrics).get()).sum()
}

fn status(relay: SocketAddr, request: &str) -> (u16, String) {
    let got = ask(relay, request).expect("an answer");
    let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap_or_default();
    let code = body["error"]["code"].as_str().unwrap_or_default().to_owned();
    (got.head.status(), code)
}

#[test]
fn frames_are_numbered_and_otherwise_what_they_were_in_every_dialect_and_framing() {
    let read = |body: &[u8]| {
        let (mut parser, mut messages) = (Parser::new(1 << 24), Vec::<Message>::new());
        parser.feed(body, &mut messages).expect("short");
        messages
    };
    for io in drivers() {
        let upstream = mock();
        let server = relay(upstream, io, "--resume --resume-bytes 8m --max-frame-bytes 4m");
        let relay = server.addresses[0];
        for path in DIALECT_PATHS {
            for mock in [
                "framing=chunked",
                "framing=length",
                "framing=close",
                "split=1",
                "split=3",
                "eol=crlf",
                "eol=cr",
                "huge=300000",
                "huge=3000000",
                "odd=chunk_ext",
                "tokens=0",
                "tokens=3000",
            ] {
                let target = format!("{path}?mock_{mock}");
                let fields = "Accept: text/event-stream\r\nX-DashScope-SSE: enable\r\n";
                let request = chat(&target, fields);
                let direct = ask(upstream, &request).expect("an answer");
                let through = ask(relay, &request).expect("an answer");
                assert!(direct.whole && through.whole, "{target}");
                let (direct, numbered) = (read(&direct.body), read(&through.body));
                let said = |messages: &[Message]| -> Vec<_> {
                    messages.iter().map(|m| (m.event.clone(), m.data.clone())).collect()
                };
                assert_eq!(said(&direct), said(&numbered), "{target}");
                let id = through.head.field("x-stream-id").expect("a name");
                let id = String::from_utf8_lossy(id).into_owned();
                for (number, message) in (1..).zip(&numbered) {
                    let expected = format!("{id}.{number}");
                    assert_eq!(String::from_utf8_lossy(&message.last_event_id), expected);
                    assert!(expected.len() <= 64);
                }
                assert!(through.body.starts_with(b"retry: 1000\n"), "{target}");
            }
        }
        // What is no event stream, or cannot be told apart, is as it was.
        for mock in ["gzip=1", "status=429"] {
            let request = chat(&format!("{CHAT}?mock_{mock}"), "");
            let got = ask(relay, &request).expect("an answer");
            assert_eq!(got.head.field("x-stream-id"), None, "{mock}");
            assert_eq!(got.body, ask(upstream, &request).expect("an answer").body);
        }
        stop(server);
    }
}

#[test]
fn a_client_comes_back_to_where_it_was_by_any_method() {
    with("", |upstream, relay, server| {
        let (client, mut answer) = upstream.under_way(relay, 3, 10);
        client.assert_numbered_from(1, 10);
        let (name, id) = (client.field("x-stream-id"), client.last_id());
        drop(client);
        answer.say(2, 10);
        let mut again = Client::back(relay, &id);
        assert_eq!((again.head.status(), again.field("x-stream-id")), (200, name.clone()));
        assert_eq!(again.field("content-type"), "text/event-stream; charset=utf-8");
        assert_eq!(again.field("cache-control"), "no-cache, no-transform");
        again.read(2);
        again.assert_numbered_from(4, 10);
        let id = again.last_id();
        drop(again);
        // An EventSource, told where it stands before anything else comes.
        let mut source = Client::ask(relay, &coming_back("GET", &id, ""));
        let hint = format!("id: {id}\nretry: 1000\n\n");
        answer.say(1, 10);
        source.read(1);
        assert!(source.body.starts_with(hint.as_bytes()));
        source.assert_numbered_from(6, 10);
        drop(source);
        // By query, from the middle, and a body that says again what was asked.
        for parameter in ["last_event_id", "lastEventId"] {
            let target = format!("{CHAT}?{parameter}={name}.2");
            let mut queried = Client::ask(relay, &chat(&target, ""));
            queried.read(4);
            queried.assert_numbered_from(3, 10);
        }
        let mut whole = Client::back(relay, &name);
        answer.finish();
        assert_eq!(whole.read_all(), Ended::InOrder);
        assert_eq!(whole.messages.len(), 7);
        let end = whole.last_id();
        upstream.assert_idle();
        eventually("done", || ended(server, Outcome::Done) > 0);
        assert_eq!(status(relay, &coming_back("GET", &end, "")), (204, String::new()));
        assert_eq!(count(server, |m| &m.resume_over), 1);
    });
}

#[test]
fn whatever_worker_it_lands_on_its_stream_is_there_and_its_connection_stays_usable() {
    with("--workers 2", |upstream, relay, server| {
        let (client, mut answer) = upstream.under_way(relay, 1, 10);
        let mut id = client.last_id();
        drop(client);
        let mut last = 1;
        // Each connection lands on either worker; none of 60 on the other is one in 2^60.
        for _ in 0..60 {
            let mut again = Client::back(relay, &id);
            answer.say(1, 10);
            again.read(1);
            again.assert_numbered_from(last + 1, 10);
            (id, last) = (again.last_id(), last + 1);
        }
        let handed = count(server, |m| &m.resume_handovers);
        assert!((1..60).contains(&handed), "{handed} of 60");
        let request = coming_back("POST", &id, "");
        let mut kept = Client::ask(relay, &request);
        answer.finish();
        assert_eq!(kept.read_all(), Ended::InOrder);
        // The same connection goes on, with what was pipelined behind it too.
        let end = kept.last_id();
        let mut stream = kept.stream;
        let twice = coming_back("GET", &end, "").repeat(2);
        stream.write_all(twice.as_bytes()).expect("sends");
        let mut answers = String::new();
        while answers.matches("HTTP/1.1 204 No Content\r\n").count() < 2 {
            let mut part = [0; 4096];
            let n = std::io::Read::read(&mut stream, &mut part).expect("an answer");
            assert!(n > 0, "closed");
            answers.push_str(&String::from_utf8_lossy(&part[..n]));
        }
        upstream.assert_idle();
    });
}

#[test]
fn what_is_no_stream_of_the_clients_is_unknown_and_costs_no_generation() {
    with("--workers 2", |upstream, relay, server| {
        let request = chat(CHAT, "Authorization: Bearer mine\r\n");
        let (mut client, mut answer) = upstream.begun(relay, &request);
        answer.say(1, 10);
        client.read(1);
        let id = client.last_id();
        let mine = "Authorization: Bearer mine\r\n";
        let unknown = (404, "stream_unknown".to_owned());
        let turned = |at: usize| {
            let mut id = id.clone().into_bytes();
            id[at] = if id[at] == b'A' { b'B' } else { b'A' };
            String::from_utf8(id).expect("ASCII")
        };
        for (id, fields) in [
            (id.clone(), ""),
            (id.clone(), "Authorization: Bearer other\r\n"),
            (id.clone(), "Authorization: Bearer mine\r\nX-Api-Key: more\r\n"),
            (turned(0), mine),
            (turned(8), mine),
            (turned(id.len() - 4), mine),
            (format!("{id}9"), mine),
            ("42".to_owned(), mine),
            ("x".repeat(3000), mine),
        ] {
            for method in ["GET", "POST", "DELETE"] {
                if method == "DELETE" && id.ends_with("19") {
                    // Which frame it names makes no difference to its end.
                    continue;
                }
                let request = coming_back(method, &id, fields);
                assert_eq!(status(relay, &request), unknown, "{method} {id} {fields}");
            }
        }
        assert_eq!(count(server, |m| &m.resume_unknown), 26);
        upstream.assert_idle();
        let mut again = Client::ask(relay, &coming_back("POST", &id, mine));
        answer.finish();
        assert_eq!(again.read_all(), Ended::InOrder);
    });
}

#[test]
fn a_gap_is_told_and_what_has_expired_is_unknown() {
    with("--resume-bytes 64k --resume-keep 1ms", |upstream, relay, server| {
        let (mut client, mut answer) = upstream.chat(relay);
        for round in 1..=20 {
            answer.say(10, 1000);
            client.read(10 * round);
        }
        client.assert_numbered_from(1, 1000);
        let name = client.field("x-stream-id");
        let gap = (410, "stream_gap".to_owned());
        assert_eq!(status(relay, &coming_back("POST", &format!("{name}.3"), "")), gap);
        assert_eq!(count(server, |m| &m.resume_gaps), 1);
        let mut near = Client::back(relay, &format!("{name}.180"));
        answer.finish();
        near.read_all();
        near.messages.pop();
        near.assert_numbered_from(181, 1000);
        client.read_all();
        let end = coming_back("GET", &client.last_id(), "");
        drop((client, near));
        eventually("it expires", || status(relay, &end).0 == 404);
        eventually("and is dropped", || server.metrics[0].kept_streams.get() == 0);
        upstream.assert_idle();
    });
}

#[test]
fn a_stream_goes_on_without_its_client_for_a_while_and_then_is_cancelled() {
    with("--detach-grace 1s", |upstream, relay, server| {
        let (client, mut answer) = upstream.under_way(relay, 2, 10);
        let id = client.last_id();
        drop(client);
        eventually("it is noticed", || count(server, |m| &m.detached) == 1);
        answer.say(3, 10);
        let mut again = Client::back(relay, &id);
        again.read(3);
        again.assert_numbered_from(3, 10);
        let id = again.last_id();
        drop(again);
        answer.closed();
        eventually("it is accounted for", || ended(server, Outcome::ClientGone) == 2);
        assert_eq!(count(server, |m| &m.detached_cancelled), 1);
        // Who comes too late is told what became of it, and then that it is over.
        let mut late = Client::back(relay, &id);
        assert_eq!(late.read_all(), Ended::Cut);
        let told = String::from_utf8_lossy(&late.messages[0].data).into_owned();
        assert!(told.contains("client_gone") && told.contains("detach-grace"), "{told}");
        let end = coming_back("GET", &late.last_id(), "");
        assert_eq!(status(relay, &end).0, 204);
        upstream.assert_idle();
    });
}

#[test]
fn a_stream_that_finished_without_its_client_waits_for_it() {
    with("", |upstream, relay, server| {
        let (client, mut answer) = upstream.under_way(relay, 1, 10);
        let id = client.last_id();
        drop(client);
        answer.say(50, 10);
        answer.finish();
        eventually("done", || ended(server, Outcome::Done) == 1);
        let mut again = Client::back(relay, &id);
        assert_eq!(again.read_all(), Ended::InOrder);
        assert_eq!(again.messages.len(), 51);
        again.messages.pop();
        again.assert_numbered_from(2, 10);
    });
}

#[test]
fn without_a_client_the_upstream_is_read_as_far_as_the_log_goes_and_no_frame_is_lost() {
    with("--resume-bytes 64k", |upstream, relay, server| {
        let (client, mut answer) = upstream.under_way(relay, 1, 1000);
        let id = client.last_id();
        drop(client);
        // More than the log and the sockets between take.
        let frames = 12_000;
        let saying = std::thread::spawn(move || {
            answer.say(frames, 1000);
            answer.finish();
        });
        let kept = |server: &Server| server.metrics[0].kept_bytes.get();
        eventually("it is kept", || kept(server) > 32 * 1024);
        let mut again = Client::back(relay, &id);
        assert_eq!(again.read_all(), Ended::InOrder);
        assert!(kept(server) <= 128 * 1024, "{}", kept(server));
        saying.join().expect("said");
        assert_eq!(again.messages.len() as u64, frames + 1);
        again.messages.pop();
        again.assert_numbered_from(2, 1000);
    });
}

#[test]
fn a_slow_reader_stalls_no_other_and_learns_that_it_fell_behind() {
    with("--resume-bytes 64k", |upstream, relay, server| {
        let (mut quick, mut answer) = upstream.under_way(relay, 1, 1000);
        let mut slow = Client::back(relay, &quick.field("x-stream-id"));
        slow.read(1);
        let frames = 12_000;
        let saying = std::thread::spawn(move || {
            answer.say(frames, 1000);
            answer.finish();
        });
        assert_eq!(quick.read_all(), Ended::InOrder);
        saying.join().expect("said");
        quick.messages.pop();
        assert_eq!(quick.messages.len() as u64, frames + 1);
        quick.assert_numbered_from(1, 1000);
        // What it was sent before is in order; then it is cut, and nothing looks whole.
        assert_eq!(slow.read_all(), Ended::Cut);
        slow.assert_numbered_from(1, 1000);
        assert!((slow.messages.len() as u64) < frames);
        eventually("it is counted", || ended(server, Outcome::ClientLagging) == 1);
        let behind = coming_back("POST", &slow.last_id(), "");
        assert_eq!(status(relay, &behind), (410, "stream_gap".to_owned()));
    });
}

#[test]
fn two_readers_that_keep_up_both_get_everything() {
    with("--workers 2", |upstream, relay, _| {
        let (mut one, mut answer) = upstream.under_way(relay, 1, 200);
        let mut two = Client::back(relay, &one.field("x-stream-id"));
        for round in 1..=100 {
            answer.say(3, 200);
            one.read(1 + 3 * round);
            two.read(1 + 3 * round);
        }
        answer.finish();
        for mut client in [one, two] {
            assert_eq!(client.read_all(), Ended::InOrder);
            client.messages.pop();
            assert_eq!(client.messages.len(), 301);
            client.assert_numbered_from(1, 200);
        }
    });
}

#[test]
fn a_dead_connection_is_closed_for_the_one_that_takes_its_place_and_a_live_one_stays() {
    with("--resume-bytes 32m", |upstream, relay, server| {
        let (mut live, mut answer) = upstream.under_way(relay, 1, 1000);
        let name = live.field("x-stream-id");
        // It stops reading: its window closes, and it acknowledges nothing more.
        let dead = Client::back_narrowly(relay, &name);
        let mut read = 1;
        while server.metrics[0].bytes_in.get() < 6_000_000 {
            answer.say(100, 1000);
            read += 100;
            live.read(read);
        }
        let again = Client::back(relay, &live.last_id());
        eventually("the dead one is closed", || count(server, |m| &m.readers_replaced) == 1);
        answer.say(1, 1000);
        live.read(read + 1);
        live.assert_numbered_from(1, 1000);
        drop((dead, again));
    });
}

#[test]
fn a_failure_is_told_with_its_number_to_everyone_who_comes_and_never_ends_in_order() {
    with("", |upstream, relay, server| {
        let (mut client, mut answer) = upstream.chat(relay);
        answer.say(2, 10);
        // In the middle of a frame.
        answer.stream.write_all(b"9\r\ndata: hal\r\n").expect("sends");
        drop(answer);
        assert_eq!(client.read_all(), Ended::Cut);
        eventually("truncated", || ended(server, Outcome::UpstreamTruncated) == 1);
        let name = client.field("x-stream-id");
        let told = |client: &Client| {
            let last = client.messages.last().expect("an error");
            let error: serde_json::Value = serde_json::from_slice(&last.data).expect("JSON");
            assert_eq!(error["error"]["code"], "upstream_truncated");
            assert_eq!(last.last_event_id, format!("{name}.3").as_bytes());
        };
        told(&client);
        let mut again = Client::back(relay, &format!("{name}.1"));
        assert_eq!((again.read_all(), again.messages.len()), (Ended::Cut, 2));
        told(&again);
        assert_eq!(status(relay, &coming_back("GET", &client.last_id(), "")).0, 204);
    });
}

#[test]
fn a_cancelled_stream_is_ended_upstream_and_forgotten() {
    with("--workers 2", |upstream, relay, server| {
        for by in ["Last-Event-ID", "X-Stream-Id"] {
            let (mut client, answer) = upstream.under_way(relay, 1, 10);
            let (name, id) = (client.field("x-stream-id"), client.last_id());
            let delete = format!("DELETE {CHAT} HTTP/1.1\r\nHost: t\r\n{by}: {name}\r\n\r\n");
            assert_eq!(status(relay, &delete).0, 204);
            answer.closed();
            assert_eq!(client.read_all(), Ended::Cut);
            let told = String::from_utf8_lossy(&client.messages[1].data).into_owned();
            assert!(told.contains("cancelled"), "{told}");
            drop(client);
            for method in ["DELETE", "POST"] {
                assert_eq!(status(relay, &coming_back(method, &id, "")).0, 404);
            }
        }
        eventually("it is accounted for", || ended(server, Outcome::Cancelled) == 2);
        assert_eq!(count(server, |m| &m.resume_cancelled), 2);
        // Also one that is over already.
        let (mut client, answer) = upstream.chat(relay);
        answer.finish();
        assert_eq!(client.read_all(), Ended::InOrder);
        let id = client.last_id();
        assert_eq!(status(relay, &coming_back("DELETE", &id, "")).0, 204);
        assert_eq!(status(relay, &coming_back("DELETE", &id, "")).0, 404);
        eventually("nothing is kept", || {
            server.metrics.iter().all(|metrics| metrics.kept_streams.get() == 0)
        });
    });
}

#[test]
fn comments_pass_as_lines_and_heartbeats_carry_no_id() {
    with("--heartbeat 1s", |upstream, relay, _| {
        let (mut client, mut answer) = upstream.chat(relay);
        answer.say(1, 10);
        answer.stream.write_all(b"b\r\n: waiting\n\n\r\n").expect("sends");
        client.read(1);
        let heartbeat = b": waiting\n: keepalive\n";
        while !client.body.ends_with(heartbeat) {
            // A second of silence.
            let before = client.body.len();
            let mut part = [0; 4096];
            let n = std::io::Read::read(&mut client.stream, &mut part).expect("a heartbeat");
            client.body.extend_from_slice(&part[..n]);
            assert!(client.body.len() > before);
            let text = String::from_utf8_lossy(&client.body).replace("\r\n", "");
            if text.contains(": keepalive\n") {
                assert!(text.contains(": waiting\n") && !text.contains("waiting\n\n"));
                assert!(!text.contains("keepalive\n\n"));
                return;
            }
        }
    });
}

#[test]
fn an_http_1_0_client_comes_back_too_and_sees_a_cut_as_a_reset() {
    with("", |upstream, relay, _| {
        let old = |request: String| request.replace("HTTP/1.1", "HTTP/1.0");
        let request = old(chat(CHAT, ""));
        let (mut client, mut answer) = upstream.begun(relay, &request);
        answer.say(2, 10);
        client.read(2);
        client.assert_numbered_from(1, 10);
        let id = client.last_id();
        drop(client);
        let again = old(coming_back("POST", &id, ""));
        let mut client = Client::ask(relay, &again);
        answer.say(1, 10);
        client.read(1);
        client.assert_numbered_from(3, 10);
        drop(answer);
        let mut rest = Vec::new();
        let cut = std::io::Read::read_to_end(&mut client.stream, &mut rest);
        assert!(cut.is_err(), "a cut body must end in a reset");
    });
}

#[test]
fn at_the_end_of_a_drain_its_readers_are_told() {
    for io in drivers() {
        let upstream = Upstream::new();
        let server = relay(upstream.addr, io, "--resume");
        let (mut client, mut answer) = upstream.under_way(server.addresses[0], 1, 10);
        server.drain();
        answer.say(1, 10);
        client.read(2);
        server.end();
        assert_eq!(client.read_all(), Ended::Cut);
        let told = String::from_utf8_lossy(&client.messages[2].data).into_owned();
        assert!(told.contains("drained"), "{told}");
        server.wait(&|| true);
    }
}

#[test]
fn a_client_that_left_before_the_head_has_no_stream_to_come_back_to() {
    with("", |upstream, relay, server| {
        let mut client = connect(relay);
        client.write_all(chat(CHAT, "").as_bytes()).expect("sends");
        eventually("it is under way", || server.metrics[0].upstream_connects.get() == 1);
        drop(client);
        eventually("it is cancelled", || ended(server, Outcome::ClientGone) == 1);
        drop(upstream.answer_unheard());
        assert_eq!(server.metrics[0].streams_active.get(), 0);
        assert_eq!(count(server, |m| &m.detached), 0);
    });
}

#[test]
fn a_thousand_cuts_at_random_lose_and_double_nothing() {
    with("--workers 2 --resume-bytes 2m", |upstream, relay, server| {
        let (mut client, mut answer) = upstream.chat(relay);
        let frames = 4000;
        let saying = std::thread::spawn(move || {
            for _ in 0..frames / 20 {
                answer.say(20, 100);
                std::thread::yield_now();
            }
            answer.finish();
        });
        let mut rng = fastrand::Rng::with_seed(11);
        let (mut next, mut cuts) = (1, 0);
        loop {
            client.read(rng.usize(1..8));
            let mut messages = std::mem::take(&mut client.messages);
            let done = messages.pop_if(|last| last.data == b"[DONE]").is_some();
            for message in &messages {
                assert_eq!(String::from_utf8_lossy(&message.data), hand::data(next, 100));
                next += 1;
            }
            if done {
                break;
            }
            let id = format!("{}.{}", client.field("x-stream-id"), next - 1);
            drop(client);
            client = Client::back(relay, &id);
            cuts += 1;
        }
        saying.join().expect("said");
        assert_eq!(next, frames + 1);
        assert!(cuts > 100, "{cuts}");
        upstream.assert_idle();
        assert_eq!(server.metrics.iter().map(|m| m.upstream_connects.get()).sum::<u64>(), 1);
    });
}

#[test]
fn a_client_that_lost_more_connections_than_a_stream_may_have_takes_the_oldest_place() {
    with("", |upstream, relay, server| {
        let (mut first, answer) = upstream.under_way(relay, 1, 10);
        let name = first.field("x-stream-id");
        // What stands between keeps its connections, and acknowledges.
        let mut later: Vec<Client> = (0..40).map(|_| Client::back(relay, &name)).collect();
        assert_eq!(first.read_all(), Ended::Cut);
        eventually("the oldest have gone", || count(server, |m| &m.readers_replaced) == 25);
        answer.finish();
        let last = later.last_mut().expect("forty");
        assert_eq!((last.read_all(), last.messages.len()), (Ended::InOrder, 2));
    });
}

#[test]
fn a_detached_stream_holds_up_no_drain() {
    for io in drivers() {
        let upstream = Upstream::new();
        let server = relay(upstream.addr, io, "--resume");
        let (mut client, mut answer) = upstream.under_way(server.addresses[0], 1, 10);
        server.drain();
        answer.say(1, 10);
        client.read(2);
        drop(client);
        answer.closed();
        eventually("it drains", || server.is_over());
        assert_eq!(ended(&server, Outcome::Drained), 1);
        server.wait(&|| true);
    }
}
