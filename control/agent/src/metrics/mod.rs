//! `/metrics`: [`kube_proxy`]'s names, counted as things happen, and our own `ringway_*`, collected when somebody asks.

mod apiserver;
mod collect;
mod family;
pub mod kube_proxy;

use hyper::StatusCode;
use prometheus::{TEXT_FORMAT, TextEncoder};

pub use self::kube_proxy::KubeProxyMetrics;
use crate::health::Board;
use crate::http::Answer;

/// The answer to a scrape, in Prometheus' text format. It reads the flow table, so call it where waiting is allowed.
pub fn scrape(board: &Board) -> Answer {
    // What was acted on meanwhile is observed now.
    board.settle();
    let mut families = board.metrics.registry.gather();
    families.extend(collect::collect(&board.observed()).into_inner());
    match TextEncoder::new().encode_to_string(&families) {
        Ok(body) => Answer { status: StatusCode::OK, content_type: TEXT_FORMAT, header: None, body },
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_before_the_workers_run() {
        let board = Board::new(KubeProxyMetrics::new().unwrap());
        board.set_problem_counts([(("error", "service".to_owned()), 2)].into());
        let answer = scrape(&board);
        assert_eq!((answer.status, answer.content_type), (StatusCode::OK, "text/plain; version=0.0.4"));
        for line in [
            "# TYPE kubeproxy_network_programming_duration_seconds histogram",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.25\"} 0",
            "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 0",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 0",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 0",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 0",
            "# TYPE kubeproxy_sync_proxy_rules_endpoint_changes_total counter",
            "# TYPE process_resident_memory_bytes gauge",
            "ringway_problems{severity=\"error\",kind=\"service\"} 2",
        ] {
            assert!(answer.body.lines().any(|found| found == line), "{line} in\n{}", answer.body);
        }
    }
}
