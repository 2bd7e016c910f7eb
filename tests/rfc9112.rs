//! One test for each rule of RFC 9110 (semantics) and RFC 9112 (HTTP/1.1) that a relay must keep
//! to; the name of each begins with its section. Syntax is asked of the codec, behaviour of a real
//! relay on both drivers.

mod support;

#[path = "rfc9112/bodies.rs"]
mod bodies;
#[path = "rfc9112/connections.rs"]
mod connections;
#[path = "rfc9112/forwarding.rs"]
mod forwarding;
#[path = "rfc9112/heads.rs"]
mod heads;
#[path = "rfc9112/wire.rs"]
mod wire;
