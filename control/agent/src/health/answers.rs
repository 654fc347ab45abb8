//! The bodies of probes, with kube-proxy's fields and formats (`pkg/proxy/healthcheck`). Pure.

use hyper::StatusCode;
use jiff::Timestamp;
use ringway_model::ServiceName;
use serde::Serialize;

use super::board::Health;
use crate::http::Answer;

/// For load balancers that weigh nodes by their endpoints (kube-proxy's `service_health.go`).
const WEIGHT_HEADER: &str = "x-load-balancing-endpoint-weight";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProxyHealth {
    /// RFC 3339 with a fraction.
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceHealth<'a> {
    service: ServiceRef<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceRef<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// `/healthz`: may load balancers send new connections here? Not before the first snapshot is in force, not while programming is stale,
/// not when the node is about to go.
pub fn healthz(health: &Health, now: Timestamp) -> Answer {
    let ok = health.is_serving() && health.node_eligible;
    proxy_health(health, now, ok, health.is_serving(), Some(health.node_eligible))
}

/// `/livez`: would it help to start the process again? A node that is about to go is no reason (KEP-3836), nor is a start that is under
/// way.
pub fn livez(health: &Health, now: Timestamp) -> Answer {
    proxy_health(health, now, health.healthy, health.healthy, None)
}

fn proxy_health(health: &Health, now: Timestamp, ok: bool, healthy: bool, node_eligible: Option<bool>) -> Answer {
    let body = ProxyHealth {
        // As kube-proxy: recent if all is well, else the last change that was programmed.
        last_updated: if ok { now } else { health.last_updated }.to_string(),
        current_time: now.to_string(),
        node_eligible,
        healthy,
    };
    Answer::json(status(ok), json(&body))
}

/// A health check port: is there an endpoint of this service here, and a proxy that leads to it?
pub fn service(name: &ServiceName, local_endpoints: usize, proxy_healthy: bool) -> Answer {
    let body = ServiceHealth {
        service: ServiceRef { namespace: &name.namespace, name: &name.name },
        local_endpoints,
        service_proxy_healthy: proxy_healthy,
    };
    let answer = Answer::json(status(proxy_healthy && local_endpoints > 0), json(&body));
    Answer { header: Some((WEIGHT_HEADER, local_endpoints.to_string())), ..answer }
}

fn status(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Strings, numbers and booleans always serialize.
fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn body(answer: &Answer) -> Value {
        serde_json::from_str(&answer.body).unwrap()
    }

    fn health() -> (Health, Timestamp) {
        let last_updated: Timestamp = "2026-11-22T05:00:00Z".parse().unwrap();
        (Health { healthy: true, programmed: true, node_eligible: true, last_updated }, "2026-11-22T06:00:00.123456789Z".parse().unwrap())
    }

    #[test]
    fn all_is_well() {
        let (health, now) = health();
        let time = "2026-11-22T06:00:00.123456789Z";
        let answer = healthz(&health, now);
        assert_eq!(answer.status, 200);
        assert_eq!(body(&answer), json!({"lastUpdated": time, "currentTime": time, "nodeEligible": true, "healthy": true}));
        assert_eq!(body(&livez(&health, now)), json!({"lastUpdated": time, "currentTime": time, "healthy": true}));
    }

    #[test]
    fn stale_programming_fails_both() {
        let (health, now) = health();
        let stale = Health { healthy: false, ..health };
        for answer in [healthz(&stale, now), livez(&stale, now)] {
            assert_eq!(answer.status, 503);
            assert_eq!((&body(&answer)["lastUpdated"], &body(&answer)["healthy"]), (&json!("2026-11-22T05:00:00Z"), &json!(false)));
        }
    }

    #[test]
    fn a_node_about_to_go_fails_healthz_only() {
        let (health, now) = health();
        let leaving = Health { node_eligible: false, ..health };
        let answer = healthz(&leaving, now);
        assert_eq!(answer.status, 503);
        assert_eq!((&body(&answer)["nodeEligible"], &body(&answer)["healthy"]), (&json!(false), &json!(true)));
        assert_eq!(livez(&leaving, now).status, 200);
    }

    #[test]
    fn a_start_under_way_is_alive_and_not_healthy() {
        let (health, now) = health();
        let starting = Health { programmed: false, ..health };
        assert_eq!((healthz(&starting, now).status, livez(&starting, now).status), (503.try_into().unwrap(), StatusCode::OK));
        assert_eq!((&body(&healthz(&starting, now))["healthy"], &body(&livez(&starting, now))["healthy"]), (&json!(false), &json!(true)));
    }

    #[test]
    fn health_of_a_service() {
        let name = ServiceName { namespace: "default".into(), name: "web".into() };
        let answer = service(&name, 2, true);
        assert_eq!((answer.status, answer.header.clone()), (StatusCode::OK, Some((WEIGHT_HEADER, "2".into()))));
        let expected = json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
        assert_eq!(body(&answer), expected);
        assert_eq!(service(&name, 0, true).status, 503);
        assert_eq!(service(&name, 2, false).status, 503);
        assert_eq!(body(&service(&name, 2, false))["serviceProxyHealthy"], json!(false));
    }
}
