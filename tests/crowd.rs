//! Many streams whose frames come together: what is received for all and sent for all comes to each
//! client whole and in order, however slowly it reads, and so does the next answer on its connection.

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use support::{chat, connect, drivers, read_response, relay, stop};

const STREAMS: usize = 40;
const TURNS: usize = 500;
const HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

fn frame(stream: usize, turn: usize) -> String {
    format!(
        "data: {{\"stream\":{stream},\"turn\":{turn},\"text\":\"{}\"}}\n\n",
        "x".repeat(turn % 1200)
    )
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// Reads a request to its end.
fn take_request(upstream: &mut TcpStream) {
    let (mut got, mut part) = (Vec::new(), [0; 4096]);
    while !got.ends_with(b"}]}") {
        let n = upstream.read(&mut part).expect("a request");
        assert!(n > 0, "the relay has left");
        got.extend_from_slice(&part[..n]);
    }
}

#[test]
fn frames_that_come_together_reach_every_client_whole_and_in_order() {
    for io in drivers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let server = relay(listener.local_addr().expect("bound"), io, "");
        let request = chat("/v1/chat/completions", "");
        let (mut clients, mut upstreams): (Vec<_>, Vec<_>) = (0..STREAMS)
            .map(|_| {
                let mut client = connect(server.addresses[0]);
                client.write_all(request.as_bytes()).expect("sends");
                let (mut upstream, _) = listener.accept().expect("the relay connects");
                upstream.set_nodelay(true).expect("sets");
                take_request(&mut upstream);
                (client, upstream)
            })
            .unzip();
        let playing = std::thread::spawn(move || {
            for upstream in &mut upstreams {
                upstream.write_all(HEAD).expect("sends");
            }
            for turn in 0..TURNS {
                for (stream, upstream) in upstreams.iter_mut().enumerate() {
                    upstream.write_all(&chunk(&frame(stream, turn))).expect("sends");
                }
            }
            let end = [chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat();
            for upstream in &mut upstreams {
                upstream.write_all(&end).expect("sends");
            }
            upstreams
        });
        // Each is read when those before it have been: the last ones wait full.
        for (stream, client) in clients.iter_mut().enumerate() {
            let got = read_response(client, "POST").expect("an answer");
            let mut expected: String = (0..TURNS).map(|turn| frame(stream, turn)).collect();
            expected += "data: [DONE]\n\n";
            assert!(got.whole && got.text() == expected, "stream {stream} on {io:?}");
        }
        // On the same connections, both ways, short answers that end together.
        let mut upstreams = playing.join().expect("no panic");
        for round in 0..20 {
            for client in &mut clients {
                client.write_all(request.as_bytes()).expect("sends");
            }
            for upstream in &mut upstreams {
                take_request(upstream);
            }
            let text = format!("data: {round}\n\ndata: [DONE]\n\n");
            let answer = [HEAD, &chunk(&text), b"0\r\n\r\n"].concat();
            for upstream in &mut upstreams {
                upstream.write_all(&answer).expect("sends");
            }
            for client in &mut clients {
                let got = read_response(client, "POST").expect("an answer");
                assert!(got.whole && got.text() == text, "{:?} on {io:?}", got.text());
            }
        }
        stop(server);
    }
}
