//! The apiserver's part of `ringway status`, for people.

use super::table::Table;
use crate::apiserver::Status;
use crate::apiserver::status::Freshness;

/// Tables of candidates and kinds.
pub fn render(status: &Status) -> String {
    let mut candidates = Table::new(["APISERVER", "FROM", "STATE", "LATENCY", "LAST FAILURE"]);
    for candidate in &status.candidates {
        let mut from = candidate.origin.clone();
        if candidate.local {
            from += ", this node";
        }
        if let Some(name) = &candidate.server_name {
            from += &format!(", as {name}");
        }
        let failure = match (&candidate.last_failure, candidate.last_failure_age_s) {
            (Some(why), Some(age)) => format!("{} ago: {why}", super::render::duration(age)),
            _ => "-".into(),
        };
        candidates.row([
            candidate.url.clone(),
            from,
            if candidate.in_force { format!("{}, in force", candidate.health) } else { candidate.health.clone() },
            candidate.latency_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms")),
            failure,
        ]);
    }
    let mut kinds = Table::new(["KIND", "OBJECTS", "REFUSED", "STATE", "HEARD"]);
    for kind in &status.kinds {
        let state = match (&kind.error, kind.freshness) {
            (Some(_), Freshness::Waiting) => "not known (see problems)",
            (Some(_), _) => "as known last (see problems)",
            (None, Freshness::Waiting) => "not known yet",
            (None, Freshness::Stale) => "stale: as an earlier process knew them",
            (None, Freshness::Fresh) => "fresh",
        };
        let heard = kind.heard_age_s.map_or_else(|| "-".into(), |age| format!("{} ago", super::render::duration(age)));
        kinds.row([kind.kind.clone(), kind.objects.to_string(), kind.refused.to_string(), state.into(), heard]);
    }
    format!("{}\n{}", candidates.render(), kinds.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::status::{CandidateStatus, KindStatus};

    #[test]
    fn candidates_and_kinds() {
        let candidate = CandidateStatus {
            url: "https://192.0.2.1:6443".into(),
            server_name: Some("kubernetes".into()),
            origin: "given".into(),
            local: true,
            in_force: true,
            health: "up".into(),
            latency_ms: Some(1.25),
            last_failure: Some("refused".into()),
            last_failure_age_s: Some(61.0),
        };
        let kind = KindStatus { kind: "Service".into(), freshness: Freshness::Stale, objects: 7, ..KindStatus::default() };
        let text = render(&Status { candidates: vec![candidate], kinds: vec![kind], ..Status::default() });
        for part in ["given, this node, as kubernetes", "up, in force", "1.2 ms", "1m01s ago: refused", "stale"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
