//! TLS on both sides of the relay, against Python's ssl and OpenSSL, with certificates made here.

mod support;

#[path = "tls/downstream.rs"]
mod downstream;
#[path = "tls/peers.rs"]
mod peers;
#[path = "tls/pki.rs"]
mod pki;
#[path = "tls/splits.rs"]
mod splits;
#[path = "tls/upstream.rs"]
mod upstream;
