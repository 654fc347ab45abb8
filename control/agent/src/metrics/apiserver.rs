//! `ringway_apiserver_*` and `ringway_watch_*`: how the apiservers are, and how fresh what they said is.

use super::family::Families;
use crate::apiserver::Status;
use crate::apiserver::status::Freshness;

/// Nothing without an apiserver to follow.
pub fn collect(families: &mut Families, status: &Status) {
    let flag = |yes: bool| f64::from(u8::from(yes));
    let candidates = || status.candidates.iter().map(|candidate| (vec![("url", candidate.url.as_str())], candidate));
    let up = candidates().map(|(labels, candidate)| (labels, flag(candidate.health == "up")));
    families.gauge("ringway_apiserver_up", "The apiserver is ready", up);
    let in_force = candidates().map(|(labels, candidate)| (labels, flag(candidate.in_force)));
    families.gauge("ringway_apiserver_in_force", "Requests go to this apiserver", in_force);
    let latency = candidates().filter_map(|(labels, candidate)| Some((labels, candidate.latency_ms? / 1e3)));
    families.gauge("ringway_apiserver_latency_seconds", "Of its last answer about readiness", latency);
    let kinds = || status.kinds.iter().map(|kind| (vec![("kind", kind.kind.as_str())], kind));
    let fresh = kinds().map(|(labels, kind)| (labels, flag(kind.freshness == Freshness::Fresh)));
    families.gauge("ringway_watch_fresh", "Listed by this process and followed since; 0: as an earlier one knew them, or nothing", fresh);
    let age = kinds().filter_map(|(labels, kind)| Some((labels, kind.heard_age_s?)));
    families.gauge("ringway_watch_age_seconds", "Since an event or a bookmark came; an idle watch has one each minute", age);
    families.gauge("ringway_watch_objects", "Objects in force", kinds().map(|(labels, kind)| (labels, kind.objects as f64)));
    let refused = kinds().map(|(labels, kind)| (labels, kind.refused as f64));
    families.gauge("ringway_watch_refused_objects", "Objects that break a rule", refused);
    families.counter("ringway_watch_lists_total", "Complete lists", kinds().map(|(labels, kind)| (labels, kind.lists_total)));
    let changes = kinds().map(|(labels, kind)| (labels, kind.changes_total));
    families.counter("ringway_watch_changes_total", "Versions and deletions that changed something", changes);
    let counts = &status.counts;
    let mut counter = |name: &str, help: &str, value: u64| families.counter(name, help, [(Vec::new(), value)]);
    counter("ringway_apiserver_errors_total", "Lists and watches that failed", counts.errors_total);
    counter("ringway_apiserver_switches_total", "Times that another apiserver came into force", counts.switches_total);
    counter("ringway_events_sent_total", "Events about objects that break a rule or are not programmed", counts.events_sent_total);
    counter("ringway_events_lost_total", "Events that were not sent: refused, or too many at once", counts.events_lost_total);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::status::{CandidateStatus, KindStatus};

    #[test]
    fn one_apiserver_and_one_kind() {
        let status = Status {
            candidates: vec![CandidateStatus { url: "https://a:6443".into(), health: "up".into(), in_force: true, ..Default::default() }],
            kinds: vec![KindStatus { kind: "Service".into(), freshness: Freshness::Fresh, heard_age_s: Some(1.5), ..Default::default() }],
            ..Status::default()
        };
        let mut families = Families::default();
        collect(&mut families, &status);
        let text = prometheus::TextEncoder::new().encode_to_string(&families.into_inner()).unwrap();
        for line in [
            "ringway_apiserver_up{url=\"https://a:6443\"} 1",
            "ringway_watch_fresh{kind=\"Service\"} 1",
            "ringway_watch_age_seconds{kind=\"Service\"} 1.5",
            "ringway_apiserver_switches_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("latency"), "it has not answered yet");
    }
}
