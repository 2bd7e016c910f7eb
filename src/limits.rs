//! Every cap of the relay in one place: its unit, where it comes from, and the relations
//! between caps, asserted at compile time.
//!
//! A limit that a flag sets has its default here; a limit without a flag is final.

use std::time::Duration;

/// Bytes of a request or response head (start line and fields), terminator included.
/// nginx takes 4 × 8 KiB, Node 16 KiB; 32 KiB leaves room for long cookies and bearer tokens.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Fields in one head. hyper and HAProxy use 100 and 101.
pub const HEAD_FIELDS_MAX: usize = 100;
/// Bytes of one chunk-size line with its extensions, CRLF included (RFC 9112, section 7.1.1
/// asks for a limit).
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a whole trailer section, which the relay reads and drops (RFC 9110, section 6.5.1).
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Interim (1xx) responses an upstream may send before its final one.
pub const INTERIM_RESPONSES_MAX: u32 = 16;
/// Bytes of a request body, default of `--max-body-bytes`.
pub const BODY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes of a request body kept for a replay over another connection. A body that outgrows it
/// is passed on all the same, but can no longer be retried.
pub const REPLAY_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a request body read for `model` and `stream`; parsing more would hold up the core.
pub const PEEK_BODY_BYTES_MAX: usize = 64 * 1024;
/// Levels of nesting in a JSON body that a route looks into. serde_json, and so much of what reads
/// the body behind us, stops at 128.
pub const JSON_DEPTH_MAX: usize = 128;
/// Members of a JSON object that a route looks into: each takes about 130 bytes while it does.
pub const JSON_MEMBERS_MAX: usize = 4096;
/// Endpoints of one upstream group.
pub const ENDPOINTS_MAX: usize = 64;
/// Time an endpoint that could not be reached is tried after the others of its group.
pub const ENDPOINT_RESTS: Duration = Duration::from_secs(5);

/// Bytes of an answer that is collected for a client which asked for no stream.
pub const COLLECTED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of an error's body that is told in other words. Providers' are a few hundred; some repeat
/// the request.
pub const ERROR_BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a frame that is held until it is whole, default of `--max-frame-bytes`.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes buffered for a slow downstream at which upstream reads pause, default of
/// `--high-water-mark`.
pub const HIGH_WATER_MARK: usize = 256 * 1024;
/// Bytes at which they resume, default of `--low-water-mark`: half, so that it cannot flap.
pub const LOW_WATER_MARK: usize = HIGH_WATER_MARK / 2;
/// Frames of a stream that are asked for a dialect which the request did not tell: the first with
/// data tells, if any does, and to ask costs as much as all else that is done to a frame.
pub const DIALECT_GUESSES_MAX: u8 = 100;
/// Bytes of one large read buffer. Measured on a byte pump: 2 KiB reads cost 0.77 µs a frame in
/// bursts, 16 KiB 0.21 µs, 64 KiB 0.12 µs, and nothing is gained above.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of one read of a stream that is told in other words. Small frames grow up to thirtyfold when
/// they become chunks of OpenAI's, so a large read would overshoot the high-water mark by megabytes.
pub const SHAPED_READ_BYTES: usize = 16 * 1024;
/// Choices of one stream that is read; OpenAI gives at most as many.
pub const CHOICES_MAX: u32 = 128;
/// Tool calls of one stream that is read; OpenAI takes at most 128 tools.
pub const TOOL_CALLS_MAX: usize = 1024;
/// Bytes of text so far that are kept of a stream that repeats them in every frame.
pub const SO_FAR_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Slices of one vectored write.
pub const WRITE_SLICES_MAX: usize = 64;
/// Reads of one stream before its core looks at the other streams again. A guess, not yet
/// measured here: at the byte pump's 0.12 µs a frame, 4 × 64 KiB of 214-byte frames is about
/// 150 µs, a few steady frames of the neighbours.
pub const READS_PER_TURN_MAX: u32 = 4;

/// Bytes of a text the client chose (path, method, model) that the access log and `/streams` keep.
pub const SHOWN_TEXT_BYTES_MAX: usize = 1024;
/// Bytes of access-log lines that may wait for the writer; what comes while it is full is dropped
/// and counted.
pub const ACCESS_LOG_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Time to receive a whole request head, from its first byte. nginx and HAProxy advise 10 to 60 s.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Time a kept downstream connection may wait for its next request.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time a downstream may take for its TLS handshake, default of `--tls-handshake-timeout`. HAProxy
/// and Envoy advise 5 to 15 s.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to establish one upstream connection, its TLS handshake included, default of `--connect-timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time before the next address is tried beside the last (RFC 8305, section 5, "Connection Attempt
/// Delay").
pub const ADDRESS_STAGGER: Duration = Duration::from_millis(250);
/// Time an address that answered goes before those that did not.
pub const ADDRESS_TRUSTED: Duration = Duration::from_secs(60);
/// Time the addresses of a name are used that does not resolve any more.
pub const RESOLVED_KEPT: Duration = Duration::from_secs(3600);
/// Time all connection attempts of one exchange may take together.
pub const CONNECT_CHAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time from the request sent to the response head and first frame, default of
/// `--first-byte-timeout`. Reasoning models think for minutes.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(300);
/// Time between two reads of a response, default of `--idle-timeout`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Time a downstream may take no byte at all, default of `--write-timeout`.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence after which a heartbeat is sent, default of `--heartbeat`: middleboxes cut at 30 to
/// 60 s.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Time streams may take to finish after SIGTERM, default of `--drain-grace`.
pub const DRAIN_GRACE: Duration = Duration::from_secs(600);
/// Time a closing connection waits for its peer's last bytes, so that the kernel's reset does not
/// overtake our answer (RFC 9112, section 9.6).
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between an in-band error and the abort behind it. A browser drops what it has not yet
/// handed to its page when the connection breaks: without a pause Chromium lost 5 to 80 of 100
/// errors, with 5 ms none of 320; a busy page takes longer.
pub const ABORT_DELAY: Duration = Duration::from_millis(250);
/// Bytes read and dropped while lingering.
pub const LINGER_BYTES_MAX: usize = 512 * 1024;

/// Retries before the first byte, default of `--retries`.
pub const RETRIES: u32 = 2;
/// First step of the backoff, default of `--retry-backoff`: 1 s · 2ⁿ with full jitter.
pub const RETRY_BACKOFF: Duration = Duration::from_secs(1);
/// Longest step of the backoff, Retry-After included.
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Idle upstream connections kept per endpoint and core, default of `--pool-max-idle`.
pub const POOL_IDLE_MAX: usize = 64;
/// Time an idle upstream connection is kept, default of `--pool-idle-timeout`.
pub const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes that a client's socket takes ahead of what the network can carry (tcp(7),
/// TCP_NOTSENT_LOWAT): the kernel would take megabytes. A slow reader's kernel memory was 7.6 MB
/// with both of its peers', and is 4.5.
pub const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Bytes of frames kept of a resumable stream, least value of `--resume-bytes`: half of it is the
/// longest frame.
pub const RESUME_BYTES_MIN: usize = 16 * 1024;
/// Time in which an older connection of a stream must acknowledge something once a newer one has
/// come: a live client does so within one round trip and TCP's first retransmissions.
pub const SUSPECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Readers of one stream at once: a few tabs, and connections that are dead and not known to be
/// (a proxy between may keep its own when it has lost the client's). The oldest makes way.
pub const READERS_MAX: usize = 16;
/// Connections that may wait for the worker that owns their stream to take them over.
pub const HANDED_OVER_MAX: usize = 1024;

/// Connections the admin listener answers at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;
/// Descriptors the process keeps for itself beside workers and streams: standard streams, logs,
/// signals, the resolver, the admin listener and its connections; 22 were counted at rest.
pub const DESCRIPTORS_RESERVED: u64 = 32 + ADMIN_CONNECTIONS_MAX as u64;
/// Descriptors of one worker beside two for each listener, rounded up: the ring or epoll, the set
/// of what is watched and its twin, the timer, and both ends of the control socket.
pub const DESCRIPTORS_PER_WORKER: u64 = 11;
/// Descriptors one stream needs: its downstream and its upstream socket.
pub const DESCRIPTORS_PER_STREAM: u64 = 2;

const _: () = assert!(LOW_WATER_MARK < HIGH_WATER_MARK, "marks would flap");
const _: () = assert!(SHAPED_READ_BYTES <= READ_BUFFER_BYTES, "no block is larger");
const _: () = assert!(HEAD_BYTES_MAX <= READ_BUFFER_BYTES, "a head must fit one read buffer");
const _: () = assert!(CHUNK_LINE_BYTES_MAX < READ_BUFFER_BYTES, "a chunk line must fit a read");
const _: () = assert!(PEEK_BODY_BYTES_MAX <= REPLAY_BODY_BYTES_MAX, "what is read must be kept");
const _: () =
    assert!(CONNECT_TIMEOUT.as_millis() <= CONNECT_CHAIN_TIMEOUT.as_millis(), "one try must fit");

/// Descriptors the kernel's table is made for at the start; 8 bytes each.
pub const DESCRIPTOR_TABLE_MAX: u64 = 65_536;
