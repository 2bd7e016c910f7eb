//! The pump on monoio alone, as its documentation has one write it: a task a direction, reads and
//! writes on the ring that own their buffers. What the relay's runtime costs without a relay.

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};
use monoio::io::{
    AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable,
};
use monoio::net::TcpStream;
use monoio::{IoUringDriver, RuntimeBuilder};

/// Bytes of a direction's one buffer.
const BUFFER: usize = 32 << 10;

pub(super) fn run(listener: &TcpListener, upstream: SocketAddr) -> Result<()> {
    // As the relay's: completions are handled when the loop asks for them.
    let mut ring = monoio_io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_defer_taskrun();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(4096)
        .uring_builder(ring)
        .build()
        .context("io_uring")?;
    listener.set_nonblocking(true)?;
    runtime.block_on(accept(listener.try_clone()?, upstream))
}

async fn accept(listener: TcpListener, upstream: SocketAddr) -> Result<()> {
    let listener = monoio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let Ok(server) = super::connect(upstream).and_then(TcpStream::from_std) else { continue };
        let _ = client.set_nodelay(true);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        monoio::spawn(relay(from_client, to_server));
        monoio::spawn(relay(from_server, to_client));
    }
}

/// Moves bytes from one side to the other until the end or a failure, and tells the other side of
/// it. What fails in one direction fails in the other as well.
async fn relay(mut from: OwnedReadHalf<TcpStream>, mut to: OwnedWriteHalf<TcpStream>) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (read, filled) = from.read(buffer).await;
        if read.is_err() || filled.is_empty() {
            break;
        }
        let (written, emptied) = to.write_all(filled).await;
        if written.is_err() {
            break;
        }
        buffer = emptied;
        buffer.clear();
    }
    let _ = to.shutdown().await;
}
