//! The text of `/metrics`, in the OpenMetrics format, by `prometheus-client`.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text::encode};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use super::metrics::{BUCKETS_MICROS, Counter, Gauge, Histogram, WorkerMetrics};
use crate::outcome::Outcome;

/// The whole text.
pub fn text(workers: &[Arc<WorkerMetrics>]) -> String {
    let mut registry = Registry::with_prefix("millstream");
    registry.register_collector(Box::new(Workers(workers.to_vec())));
    let mut out = String::new();
    // Writing to a string fails only where a metric is malformed, which the tests would show.
    if encode(&mut out, &registry).is_err() {
        log::error!("the metrics could not be written");
    }
    out
}

#[derive(Debug)]
struct Workers(Vec<Arc<WorkerMetrics>>);

type Pick<T> = fn(&WorkerMetrics) -> &T;

const COUNTERS: [(&str, &str, Pick<Counter>); 31] = [
    ("connections", "Downstream connections accepted", |m| &m.connections_accepted),
    ("accept_errors", "Failed accepts", |m| &m.accept_errors),
    ("requests", "Requests received", |m| &m.requests),
    ("frames", "Event-stream frames relayed", |m| &m.frames),
    ("heartbeats", "Heartbeats sent", |m| &m.heartbeats),
    ("error_frames", "In-band error frames sent", |m| &m.error_frames),
    ("received_bytes", "Payload bytes from upstream", |m| &m.bytes_in),
    ("sent_bytes", "Payload bytes to downstream", |m| &m.bytes_out),
    ("upstream_connects", "Upstream connections begun", |m| &m.upstream_connects),
    ("upstream_connect_errors", "Upstream connections that failed", |m| &m.upstream_connect_errors),
    ("upstream_reuses", "Exchanges on a pooled upstream connection", |m| &m.upstream_reuses),
    ("upstream_tls_resumed", "Upstream TLS sessions resumed", |m| &m.upstream_tls_resumed),
    ("tls_handshake_errors", "Clients' failed TLS handshakes", |m| &m.tls_handshake_errors),
    ("pool_dead", "Pooled connections found dead", |m| &m.pool_dead),
    ("pool_expired", "Pooled connections dropped for age or number", |m| &m.pool_expired),
    ("retries", "Further attempts made", |m| &m.retries),
    ("pauses", "Crossings of the high-water mark", |m| &m.pauses),
    ("resumes", "Crossings of the low-water mark after a pause", |m| &m.resumes),
    ("panics", "Faults of the relay that ended one connection", |m| &m.panics),
    ("log_lines_dropped", "Access-log lines dropped", |m| &m.log_lines_dropped),
    ("kept_evicted", "Finished streams dropped early for want of memory", |m| &m.kept_evicted),
    ("detached", "Streams whose last reader left before their end", |m| &m.detached),
    ("detached_cancelled", "Those nobody came back to in time", |m| &m.detached_cancelled),
    ("resume_readers", "Clients that came back to a stream", |m| &m.readers_back),
    ("resume_over", "Clients told that their stream is over", |m| &m.resume_over),
    ("resume_cancelled", "Streams ended by their clients", |m| &m.resume_cancelled),
    ("resume_unknown", "Clients that named no stream of theirs", |m| &m.resume_unknown),
    ("resume_gaps", "Clients whose next frame was no longer kept", |m| &m.resume_gaps),
    ("resume_handovers", "Clients handed to the worker of their stream", |m| &m.resume_handovers),
    ("readers_lagging", "Readers that fell out of what is kept", |m| &m.readers_lagging),
    ("readers_replaced", "Dead readers closed for a newer one", |m| &m.readers_replaced),
];

const GAUGES: [(&str, &str, Pick<Gauge>); 8] = [
    ("connections_active", "Downstream connections now", |m| &m.connections_active),
    ("streams_active", "Exchanges now", |m| &m.streams_active),
    ("upstream_insecure", "1: the upstream is not verified", |m| &m.upstream_insecure),
    ("pool_idle", "Idle upstream connections now", |m| &m.pool_idle),
    ("buffered_bytes", "Bytes of read buffers in use, as of the last sweep", |m| &m.buffered_bytes),
    ("kept_streams", "Streams kept for clients that come back", |m| &m.kept_streams),
    ("kept_bytes", "Bytes of frames kept", |m| &m.kept_bytes),
    ("buffers_in_use", "Read buffers in use, as of the last sweep", |m| &m.buffers_in_use),
];

const HISTOGRAMS: [(&str, &str, Pick<Histogram>); 4] = [
    ("first_byte", "Time from the request to the response head", |m| &m.first_byte),
    ("first_frame", "Time from the request to the first frame", |m| &m.first_frame),
    ("frame_gap", "Time between arrivals of frames in a stream", |m| &m.frame_gap),
    ("stream_duration", "Time from the request to the end of a stream", |m| &m.stream_duration),
];

/// A histogram as it stands.
struct Snapshot<'a>(&'a Histogram);

impl EncodeMetric for Snapshot<'_> {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::MetricEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let counts = self.0.counts();
        let bounds = BUCKETS_MICROS.iter().map(|micros| *micros as f64 / 1e6);
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let total = counts.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum_seconds(), total, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Snapshot<'_> {
    const TYPE: MetricType = MetricType::Histogram;
}

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let workers: Vec<(String, &WorkerMetrics)> =
            self.0.iter().enumerate().map(|(n, m)| (n.to_string(), m.as_ref())).collect();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut family = encoder.encode_descriptor("build", "The build", None, MetricType::Info)?;
        family.encode_info(&version)?;
        for (name, help, pick) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (worker, metrics) in &workers {
                let labels = [("worker", worker.as_str())];
                let cell = ConstCounter::new(pick(metrics).get());
                cell.encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, pick) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (worker, metrics) in &workers {
                let labels = [("worker", worker.as_str())];
                let cell = ConstGauge::new(pick(metrics).get());
                cell.encode(family.encode_family(&labels)?)?;
            }
        }
        for (name, help, pick) in HISTOGRAMS {
            let unit = Some(&Unit::Seconds);
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
            for (worker, metrics) in &workers {
                let labels = [("worker", worker.as_str())];
                Snapshot(pick(metrics)).encode(family.encode_family(&labels)?)?;
            }
        }
        by_outcome(&mut encoder, &workers, "exchanges", "Exchanges by outcome", |m| &m.exchanges)?;
        by_outcome(&mut encoder, &workers, "streams", "Event streams by outcome", |m| &m.streams)?;
        let help = "Responses by class of status";
        let mut family = encoder.encode_descriptor("responses", help, None, MetricType::Counter)?;
        for (worker, metrics) in &workers {
            for (cell, class) in metrics.responses.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
                let labels = [("worker", worker.as_str()), ("class", class)];
                ConstCounter::new(cell.get()).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn by_outcome(
    encoder: &mut DescriptorEncoder<'_>,
    workers: &[(String, &WorkerMetrics)],
    name: &str,
    help: &str,
    pick: Pick<[Counter; Outcome::COUNT]>,
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (worker, metrics) in workers {
        for (outcome, cell) in Outcome::ALL.iter().zip(pick(metrics)) {
            let labels = [("worker", worker.as_str()), ("outcome", outcome.as_str())];
            ConstCounter::new(cell.get()).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_cell_comes_out_under_its_name() {
        let (one, two) = (WorkerMetrics::new(), WorkerMetrics::new());
        two.frames.add(7);
        two.exchanges[Outcome::Done as usize].add(3);
        two.responses[1].inc();
        one.streams_active.add(5);
        one.frame_gap.record(Duration::from_millis(3));
        one.frame_gap.record(Duration::from_secs(1000));
        let text = text(&[Arc::new(one), Arc::new(two)]);
        for line in [
            "millstream_frames_total{worker=\"1\"} 7",
            "millstream_exchanges_total{worker=\"1\",outcome=\"done\"} 3",
            "millstream_responses_total{worker=\"1\",class=\"2xx\"} 1",
            "millstream_streams_active{worker=\"0\"} 5",
            "millstream_frame_gap_seconds_bucket{le=\"0.0025\",worker=\"0\"} 0",
            "millstream_frame_gap_seconds_bucket{le=\"0.005\",worker=\"0\"} 1",
            "millstream_frame_gap_seconds_bucket{le=\"+Inf\",worker=\"0\"} 2",
            "millstream_frame_gap_seconds_count{worker=\"0\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
