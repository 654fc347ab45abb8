//! `/metrics`: [`kube_proxy`]'s names, counted as things happen, and our own `ringway_*`, collected when somebody asks.

pub mod kube_proxy;

pub use kube_proxy::KubeProxyMetrics;
