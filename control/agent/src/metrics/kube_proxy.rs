//! Metrics with kube-proxy's names, types and buckets (kubernetes 1.36 `pkg/proxy/metrics`), so that dashboards and alerts go on.

use anyhow::Context;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use prometheus::{exponential_buckets, linear_buckets};
use ringway_model::{IpFamily, PerFamily};

/// What kube-proxy's proxier of each family counts, told apart by the label `ip_family`.
#[derive(Debug)]
pub struct FamilyMetrics {
    /// From the moment that the control loop turned to a change to the last worker acting on it.
    pub sync_duration_seconds: Histogram,
    /// From what led to a new version of an EndpointSlice, as its controller noted it, to the last worker acting on it.
    pub programming_duration_seconds: Histogram,
    pub last_queued_timestamp_seconds: Gauge,
    pub last_timestamp_seconds: Gauge,
    /// By traffic policy: `internal`, `external`.
    pub no_local_endpoints: IntGaugeVec,
}

/// What the control loop and the servers count as they go.
#[derive(Debug)]
pub struct KubeProxyMetrics {
    pub registry: Registry,
    pub of: PerFamily<FamilyMetrics>,
    pub endpoint_changes_pending: IntGauge,
    pub endpoint_changes_total: IntCounter,
    pub service_changes_pending: IntGauge,
    pub service_changes_total: IntCounter,
    /// By code.
    pub healthz_total: IntCounterVec,
    pub livez_total: IntCounterVec,
}

impl KubeProxyMetrics {
    /// # Errors
    /// None that could depend on anything outside: names and buckets are constants.
    pub fn new() -> anyhow::Result<KubeProxyMetrics> {
        KubeProxyMetrics::registered().context("cannot register the metrics")
    }

    fn registered() -> prometheus::Result<KubeProxyMetrics> {
        let opts = |name: &str, help: &str| Opts::new(format!("kubeproxy_{name}"), help);
        let metrics = KubeProxyMetrics {
            registry: Registry::new(),
            of: PerFamily { v4: FamilyMetrics::new(IpFamily::V4)?, v6: FamilyMetrics::new(IpFamily::V6)? },
            endpoint_changes_pending: IntGauge::with_opts(opts(
                "sync_proxy_rules_endpoint_changes_pending",
                "Pending proxy rules Endpoint changes",
            ))?,
            endpoint_changes_total: IntCounter::with_opts(opts(
                "sync_proxy_rules_endpoint_changes_total",
                "Cumulative proxy rules Endpoint changes",
            ))?,
            service_changes_pending: IntGauge::with_opts(opts(
                "sync_proxy_rules_service_changes_pending",
                "Pending proxy rules Service changes",
            ))?,
            service_changes_total: IntCounter::with_opts(opts(
                "sync_proxy_rules_service_changes_total",
                "Cumulative proxy rules Service changes",
            ))?,
            healthz_total: IntCounterVec::new(opts("proxy_healthz_total", "Cumulative proxy healthz HTTP status"), &["code"])?,
            livez_total: IntCounterVec::new(opts("proxy_livez_total", "Cumulative proxy livez HTTP status"), &["code"])?,
        };
        // Every series is there from the first scrape on, or rates miss the first event.
        for code in ["200", "503"] {
            metrics.healthz_total.with_label_values(&[code]);
            metrics.livez_total.with_label_values(&[code]);
        }
        let registry = &metrics.registry;
        // `process_*`, as every Go program has them.
        registry.register(Box::new(ProcessCollector::for_self()))?;
        for family in IpFamily::BOTH {
            metrics.of[family].register(registry)?;
        }
        registry.register(Box::new(metrics.endpoint_changes_pending.clone()))?;
        registry.register(Box::new(metrics.endpoint_changes_total.clone()))?;
        registry.register(Box::new(metrics.service_changes_pending.clone()))?;
        registry.register(Box::new(metrics.service_changes_total.clone()))?;
        registry.register(Box::new(metrics.healthz_total.clone()))?;
        registry.register(Box::new(metrics.livez_total.clone()))?;
        Ok(metrics)
    }
}

impl FamilyMetrics {
    fn new(family: IpFamily) -> prometheus::Result<FamilyMetrics> {
        let opts = |name: &str, help: &str| Opts::new(format!("kubeproxy_{name}"), help).const_label("ip_family", family.label());
        let histogram =
            |name: &str, help: &str, buckets: Vec<f64>| Histogram::with_opts(HistogramOpts { common_opts: opts(name, help), buckets });
        let metrics = FamilyMetrics {
            sync_duration_seconds: histogram(
                "sync_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds: from taking a change to the last worker acting on it",
                exponential_buckets(0.001, 2.0, 15)?,
            )?,
            programming_duration_seconds: histogram(
                "network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                programming_buckets()?,
            )?,
            last_queued_timestamp_seconds: Gauge::with_opts(opts(
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
            ))?,
            last_timestamp_seconds: Gauge::with_opts(opts(
                "sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
            ))?,
            no_local_endpoints: IntGaugeVec::new(
                opts("sync_proxy_rules_no_local_endpoints_total", "Number of services with a Local traffic policy and no endpoints"),
                &["traffic_policy"],
            )?,
        };
        for policy in ["internal", "external"] {
            metrics.no_local_endpoints.with_label_values(&[policy]);
        }
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.sync_duration_seconds.clone()))?;
        registry.register(Box::new(self.programming_duration_seconds.clone()))?;
        registry.register(Box::new(self.last_queued_timestamp_seconds.clone()))?;
        registry.register(Box::new(self.last_timestamp_seconds.clone()))?;
        registry.register(Box::new(self.no_local_endpoints.clone()))
    }
}

/// 0 (an accident of kube-proxy's that dashboards know), 0.25 s, 0.5 s, each second to a minute, then wider to five minutes.
fn programming_buckets() -> prometheus::Result<Vec<f64>> {
    let parts =
        [linear_buckets(0.25, 0.25, 2)?, linear_buckets(1.0, 1.0, 59)?, linear_buckets(60.0, 5.0, 12)?, linear_buckets(120.0, 30.0, 7)?];
    Ok([0.0].into_iter().chain(parts.into_iter().flatten()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_proxys_buckets() {
        let buckets = programming_buckets().unwrap();
        assert_eq!(buckets.len(), 81);
        assert_eq!((&buckets[..5], &buckets[79..]), (&[0.0, 0.25, 0.5, 1.0, 2.0][..], &[270.0, 300.0][..]));
    }
}
