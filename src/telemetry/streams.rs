//! What `/streams` shows of a live exchange.

/// One live exchange.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StreamInfo {
    /// The exchange's id.
    pub request_id: String,
    /// The client's address.
    pub client: String,
    /// The request's method.
    pub method: String,
    /// The request's path, without its query.
    pub path: String,
    /// The dialect as known by now.
    pub dialect: String,
    /// `connecting`, `waiting` or `streaming`.
    pub state: String,
    /// The upstream's authority.
    pub upstream: String,
    /// Milliseconds since the request.
    pub started_ms_ago: u64,
    /// Frames so far.
    pub frames: u64,
    /// Payload bytes so far.
    pub bytes: u64,
    /// Milliseconds since the last frame.
    pub idle_ms: u64,
    /// The worker that carries it.
    pub worker: usize,
}

/// The same as a table for people.
pub fn table(streams: &[StreamInfo]) -> String {
    let mut out = format!(
        "{:<32} {:<21} {:<10} {:<16} {:>8} {:>10} {:>12} {:>8} {}\n",
        "REQUEST", "CLIENT", "STATE", "DIALECT", "AGE s", "FRAMES", "BYTES", "IDLE ms", "PATH"
    );
    for s in streams {
        let age = s.started_ms_ago as f64 / 1000.0;
        out.push_str(&format!(
            "{:<32} {:<21} {:<10} {:<16} {age:>8.1} {:>10} {:>12} {:>8} {} {}\n",
            s.request_id,
            s.client,
            s.state,
            s.dialect,
            s.frames,
            s.bytes,
            s.idle_ms,
            s.method,
            s.path
        ));
    }
    out
}
