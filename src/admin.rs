//! The admin listener: `/metrics`, `/healthz`, `/readyz`, `/streams`. On a thread and a runtime
//! of its own, so that a scrape takes nothing from a core; spoken by monoio-http.
//!
//! One request a connection: scrapers come seldom, and a connection that says nothing holds
//! nothing for longer than ten seconds.

use std::cell::Cell;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use monoio::io::Splitable;
use monoio::io::sink::SinkExt;
use monoio::io::stream::Stream as _;
use monoio_http::common::{request::Request, response::Response};
use monoio_http::h1::codec::{decoder::RequestDecoder, encoder::GenericEncoder};
use monoio_http::h1::payload::{FixedPayload, Payload};

use crate::limits::ADMIN_CONNECTIONS_MAX;
use crate::net::listener::{self, Accepted};
use crate::telemetry::expose;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::streams::{StreamInfo, table};

/// Time a connection has for its request and the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin listener shows.
pub struct Admin {
    /// Every worker's counters.
    pub metrics: Vec<Arc<WorkerMetrics>>,
    /// Whether new streams are welcome.
    pub ready: Arc<AtomicBool>,
    /// Asks every worker what is live.
    pub streams: Box<dyn Fn() -> Vec<StreamInfo> + Send>,
}

/// Serves on this thread, for as long as the process lives; calls `opened` once it has all the
/// descriptors it needs.
///
/// # Errors
/// The runtime cannot be built or the listener is broken.
pub fn run(listener: TcpListener, admin: Admin, opened: impl FnOnce()) -> io::Result<()> {
    let builder = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer();
    builder.build()?.block_on(serve(listener, Rc::new(admin), opened))
}

async fn serve(listener: TcpListener, admin: Rc<Admin>, opened: impl FnOnce()) -> io::Result<()> {
    let watched = monoio::net::TcpListener::from_std(listener.try_clone()?)?;
    opened();
    let open = Rc::new(Cell::new(0_usize));
    loop {
        watched.readable(false).await?;
        match listener::accept(&listener) {
            Accepted::Connection(stream, _) if open.get() < ADMIN_CONNECTIONS_MAX => {
                let Ok(stream) = monoio::net::TcpStream::from_std(stream) else { continue };
                let (admin, slot) = (Rc::clone(&admin), Slot::new(&open));
                monoio::spawn(async move {
                    // Dropping a read here loses nothing: the connection ends with it.
                    let _ =
                        monoio::time::timeout(REQUEST_TIMEOUT, answer_one(stream, &admin)).await;
                    drop(slot);
                });
            }
            Accepted::Connection(..) | Accepted::Nothing | Accepted::Aborted => {}
            Accepted::Exhausted(_) => monoio::time::sleep(Duration::from_millis(100)).await,
            Accepted::Failed(error) => return Err(error),
        }
    }
}

/// A place among [`ADMIN_CONNECTIONS_MAX`].
struct Slot(Rc<Cell<usize>>);

impl Slot {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn answer_one(stream: monoio::net::TcpStream, admin: &Admin) {
    let (reading, writing) = stream.into_split();
    let mut requests = RequestDecoder::new(reading);
    let mut responses = GenericEncoder::new(writing);
    if let Some(Ok(request)) = requests.next().await {
        let response = answer(&request, admin);
        let _ = responses.send_and_flush(response).await;
    }
}

fn answer(request: &Request, admin: &Admin) -> Response {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into());
    }
    let query = request.uri().query().unwrap_or_default();
    match request.uri().path() {
        "/metrics" => {
            const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            respond(StatusCode::OK, OPEN_METRICS, expose::text(&admin.metrics))
        }
        "/healthz" => respond(StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" if admin.ready.load(Ordering::Relaxed) => {
            respond(StatusCode::OK, TEXT, "ready\n".into())
        }
        "/readyz" => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".into()),
        "/streams" => {
            let streams = (admin.streams)();
            let accept = request.headers().get(header::ACCEPT);
            let wants_text = accept.is_some_and(|accept| accept.as_bytes().starts_with(b"text/"));
            if wants_text || query.split('&').any(|pair| pair == "format=text") {
                return respond(StatusCode::OK, TEXT, table(&streams));
            }
            let json = serde_json::to_string(&streams).unwrap_or_default();
            respond(StatusCode::OK, JSON, json + "\n")
        }
        "/" => {
            let index = "/metrics\n/healthz\n/readyz\n/streams (JSON; ?format=text for a table)\n";
            respond(StatusCode::OK, TEXT, index.into())
        }
        _ => respond(StatusCode::NOT_FOUND, TEXT, "not found; see /\n".into()),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let length = body.len();
    let mut response = Response::new(Payload::Fixed(FixedPayload::new(Bytes::from(body))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
